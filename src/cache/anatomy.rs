//! The structure of a model's transformer blocks, as data: policies, probes, plans and traces query it and need no knowledge of the model.

use std::ops::Range;

use super::block::{Module, Span};
use super::groups::ModuleGroup;
use super::point::{ProbePoint, Site};

#[derive(Clone, Debug, PartialEq, Eq)]
struct Block {
    span: Span,
    /// The number of blocks of its span before it.
    layer: usize,
    modules: Vec<Module>,
    /// The index of its first module among all modules of the model.
    first: usize,
}

/// The blocks of a model in execution order, and the modules of each.
///
/// A block has two numbers: its *index* among all blocks, in execution order, and its *layer*, which counts only the blocks of its own
/// span. Settings and probe names use the layer, as published code does: `temporal.13` is the 14th temporal block. Modules are indexed
/// across the whole model.
///
/// ```
/// use adacache::cache::{Anatomy, Module, Site, Span};
///
/// // Spatial and temporal blocks in turn; temporal ones have no cross-attention.
/// let layer = [(Span::Frame, &Module::ALL[..]), (Span::Time, &[Module::Attention, Module::Mlp])];
/// let latte = Anatomy::new(std::iter::repeat_n(layer, 28).flatten());
/// assert_eq!((latte.blocks(), latte.layers(), latte.modules()), (56, 28, 140));
/// assert_eq!(latte.probe(27, Site::Attention).to_string(), "temporal.13.attention");
/// assert_eq!(latte.module(1, Module::Cross), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anatomy {
    blocks: Vec<Block>,
}

impl Anatomy {
    /// Builds an anatomy from blocks in execution order: the span of each, and its modules in execution order, at least one.
    pub fn new<'a>(blocks: impl IntoIterator<Item = (Span, &'a [Module])>) -> Anatomy {
        let mut anatomy = Anatomy { blocks: vec![] };
        for (span, modules) in blocks {
            let layer = anatomy.blocks.iter().filter(|block| block.span == span).count();
            let first = anatomy.modules();
            anatomy.blocks.push(Block { span, layer, modules: modules.to_vec(), first });
        }
        anatomy
    }

    /// An anatomy of `layers` layers, each a spatial block followed by a temporal one, all with all modules: Open-Sora 1.2 and sprites.
    pub fn spatial_temporal(layers: usize) -> Anatomy {
        let layer = [(Span::Frame, &Module::ALL[..]), (Span::Time, &Module::ALL[..])];
        Anatomy::new(std::iter::repeat_n(layer, layers).flatten())
    }

    /// The number of blocks.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// The number of layers: the number of blocks of the most frequent span.
    pub fn layers(&self) -> usize {
        self.blocks.iter().map(|block| block.layer + 1).max().unwrap_or(0)
    }

    /// The number of modules in all blocks.
    pub fn modules(&self) -> usize {
        self.blocks.last().map_or(0, |block| block.first + block.modules.len())
    }

    /// The span of block `block`.
    pub fn span(&self, block: usize) -> Span {
        self.blocks[block].span
    }

    /// The layer of block `block`.
    pub fn layer(&self, block: usize) -> usize {
        self.blocks[block].layer
    }

    /// Whether any block has this span.
    pub fn has(&self, span: Span) -> bool {
        self.blocks.iter().any(|block| block.span == span)
    }

    /// The modules of block `block`, in execution order.
    pub fn modules_of(&self, block: usize) -> &[Module] {
        &self.blocks[block].modules
    }

    /// The indices of all modules of `blocks`.
    pub fn run(&self, blocks: Range<usize>) -> Range<usize> {
        let first = |block: usize| self.blocks.get(block).map_or(self.modules(), |block| block.first);
        first(blocks.start)..first(blocks.end)
    }

    /// The block and kind of the module with index `module`.
    ///
    /// # Panics
    /// If there is no such module.
    pub fn at(&self, module: usize) -> (usize, Module) {
        let block = self.blocks.partition_point(|block| block.first <= module) - 1;
        (block, self.blocks[block].modules[module - self.blocks[block].first])
    }

    /// The index of module `module` of block `block`, if the block has it.
    pub fn module(&self, block: usize, module: Module) -> Option<usize> {
        let block = &self.blocks[block];
        Some(block.first + block.modules.iter().position(|known| *known == module)?)
    }

    /// The indices of the blocks of `layers`.
    pub fn layer_blocks(&self, layers: Range<usize>) -> impl Iterator<Item = usize> {
        (0..self.blocks.len()).filter(move |&block| layers.contains(&self.blocks[block].layer))
    }

    /// `module` of each block in `blocks` (ascending) that has it, as runs of one module.
    pub fn each(&self, module: Module, blocks: impl IntoIterator<Item = usize>) -> ModuleGroup {
        let runs = blocks.into_iter().filter_map(|block| self.module(block, module));
        ModuleGroup { runs: runs.map(|module| module..module + 1).collect() }
    }

    /// All modules of `layers`, each contiguous stretch as one run.
    pub fn all(&self, layers: Range<usize>) -> ModuleGroup {
        let mut runs: Vec<Range<usize>> = vec![];
        for block in self.layer_blocks(layers) {
            let run = self.run(block..block + 1);
            match runs.last_mut() {
                Some(last) if last.end == run.start => last.end = run.end,
                _ => runs.push(run),
            }
        }
        ModuleGroup { runs }
    }

    /// The residual at `site` of block `block`.
    pub fn probe(&self, block: usize, site: Site) -> ProbePoint {
        let Block { span, layer, .. } = self.blocks[block];
        ProbePoint::Residual { block: layer, span, site }
    }

    /// The block that has the residual `point`; `None` if `point` is not a block residual or the model has no such block.
    pub fn block_of(&self, point: ProbePoint) -> Option<usize> {
        let ProbePoint::Residual { block: layer, span, .. } = point else { return None };
        self.blocks.iter().position(|block| block.span == span && block.layer == layer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two layers; the temporal blocks have no cross-attention.
    fn uneven() -> Anatomy {
        let layer = [(Span::Frame, &Module::ALL[..]), (Span::Time, &[Module::Attention, Module::Mlp][..])];
        Anatomy::new([layer, layer].into_iter().flatten())
    }

    #[test]
    fn every_module_has_one_index() {
        for anatomy in [uneven(), Anatomy::spatial_temporal(3), Anatomy::new([(Span::Everything, &Module::ALL[..])])] {
            let all = (0..anatomy.blocks())
                .flat_map(|block| anatomy.modules_of(block).iter().map(|&module| (block, module)).collect::<Vec<_>>());
            let all: Vec<(usize, Module)> = all.collect();
            assert_eq!(all.len(), anatomy.modules());
            for (index, (block, module)) in all.into_iter().enumerate() {
                assert_eq!((anatomy.at(index), anatomy.module(block, module)), ((block, module), Some(index)));
            }
            assert_eq!(anatomy.run(0..anatomy.blocks()), 0..anatomy.modules());
        }
        assert_eq!(uneven().module(3, Module::Cross), None);
        assert_eq!(uneven().run(1..3), 3..8);
        assert!(uneven().run(4..4).is_empty());
    }

    #[test]
    fn groups_of_modules() {
        let even = Anatomy::spatial_temporal(3);
        assert_eq!(even.each(Module::Cross, [0, 3]).runs, [1..2, 10..11]);
        assert_eq!((even.all(1..3).runs.len(), &even.all(1..3).runs[0]), (1, &(6..18)));
        assert!(even.all(2..2).runs.is_empty());
        // A module that only some blocks have, and layers that are not side by side.
        assert_eq!(uneven().each(Module::Cross, 0..4).runs, [1..2, 6..7]);
        let twice =
            Anatomy::new([(Span::Frame, &Module::ALL[..]), (Span::Frame, &Module::ALL), (Span::Time, &Module::ALL)]);
        assert_eq!(twice.all(0..1).runs, [0..3, 6..9]);
        assert_eq!((twice.layers(), twice.blocks()), (2, 3));
    }

    #[test]
    fn probes_name_blocks_by_span_and_layer() {
        let anatomy = uneven();
        for block in 0..anatomy.blocks() {
            assert_eq!(anatomy.block_of(anatomy.probe(block, Site::Whole)), Some(block));
        }
        assert_eq!(anatomy.probe(3, Site::Attention).to_string(), "temporal.1.attention");
        assert_eq!(anatomy.block_of("block.0.whole".parse().unwrap()), None);
        assert_eq!(anatomy.block_of("spatial.2.whole".parse().unwrap()), None);
        assert_eq!(anatomy.block_of(ProbePoint::Fold), None);
    }
}
