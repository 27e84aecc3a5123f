//! Runs forward passes, and is the only module that does: module by module, with the residual store's reuse, storage and measurements in
//! between, and with the weights of each block on the device when it runs. A model defines how one module runs and knows nothing of this.

use std::ops::Range;

use super::error::ModelError;
use super::sizes::Flops;
use super::transformer::{Added, Caption, Trace, Transformer};
use super::workspace::Workspace;
use crate::cache::{ProbePoint, ResidualStore, Site};
use crate::tensor::Tensor;

/// A model with the memory and the captions of one generation.
#[derive(Clone, Copy)]
pub struct Walk<'a> {
    /// The model.
    pub model: &'a dyn Transformer,
    /// The memory of its forwards.
    pub ws: &'a Workspace,
    /// The captions of the videos it generates.
    pub caption: &'a Caption,
}

impl Walk<'_> {
    /// Sets this step's time: `timesteps` (`[batch]`, 0 to 1000), and with a frame-masked geometry `frame_mask` (`[batch, frames]`): frames
    /// that are false use the modulation of time 0.
    pub fn set_time(&self, timesteps: &[f32], frame_mask: Option<&[bool]>) -> Result<(), ModelError> {
        let (batch, variants) = (self.ws.geometry().batch(), self.ws.variants());
        if timesteps.len() != batch || timesteps.iter().any(|t| !t.is_finite()) {
            return Err(ModelError::Input(format!("timesteps {timesteps:?}: expected {batch} finite numbers")));
        }
        self.ws.set_frame_mask(frame_mask)?;
        // Variant 0 is the step's time, variant 1 (frames held at their clean value) time 0.
        let times: Vec<f32> = timesteps.iter().flat_map(|t| [*t, 0.0].into_iter().take(variants)).collect();
        self.ws.time().write_slice(&times)?;
        self.model.embed_time(self.ws)
    }

    /// Embeds the latents `z` as the hidden state.
    pub fn embed(&self, z: &Tensor) -> Result<(), ModelError> {
        self.model.embed(self.ws, z, self.ws.x(), None)
    }

    /// Measures the first block's normed and modulated input, as it is and filtered, and the time, if `residuals` has probes there. The blocks' modulation must be
    /// computed.
    pub fn probe_input(&self, residuals: &mut ResidualStore) -> Result<(), ModelError> {
        for point in [ProbePoint::Time, ProbePoint::TimeProjection] {
            if let (Some(probe), Some(signal)) = (residuals.probe_at(point), self.ws.time_signal(point)) {
                residuals.probe(probe, signal, None)?;
            }
        }
        let [modulated, filtered] =
            [ProbePoint::Modulated, ProbePoint::Filtered].map(|point| residuals.probe_at(point));
        let (true, Some(fresh)) = (modulated.or(filtered).is_some(), self.ws.fresh()) else { return Ok(()) };
        self.model.modulated_input(self.ws, fresh)?;
        if let Some(probe) = modulated {
            residuals.probe(probe, fresh, self.ws.unpacked())?;
        }
        if let Some(probe) = filtered {
            residuals.filter(fresh)?;
            residuals.probe(probe, fresh, self.ws.unpacked())?;
        }
        Ok(())
    }

    /// Before the blocks after the head: `residuals` saves their input.
    pub fn enter(&self, residuals: &mut ResidualStore) -> Result<(), ModelError> {
        Ok(residuals.enter(self.ws.x(), self.ws.entered().filter(|_| residuals.head() > 0))?)
    }

    /// After the last block, while `z` still holds the embedded latents: folds the blocks' residuals into `residuals`.
    pub fn leave(&self, z: &Tensor, residuals: &mut ResidualStore) -> Result<(), ModelError> {
        let entered = self.ws.entered().filter(|_| residuals.needs_entered());
        if let (Some(entered), 0) = (entered, residuals.head()) {
            // Without a copy the embedding is made once more.
            self.model.embed(self.ws, z, entered, None)?;
        }
        residuals.leave(self.ws.x(), entered)?;
        Ok(residuals.probe_fold()?)
    }

    /// Runs the blocks `range`, in execution order, on the hidden state, in place; their modulation must be computed. `residuals` measures
    /// and keeps what its probes and groups require, and reuses the groups of its step.
    pub fn blocks(&self, range: Range<usize>, residuals: Option<&mut ResidualStore>) -> Result<(), ModelError> {
        self.blocks_traced(range, residuals, None)
    }

    /// A whole forward pass: latents `z` to the prediction. `trace`, if given, receives the hidden state after every stage.
    pub fn forward(&self, z: &Tensor, mut trace: Option<&mut Trace>) -> Result<(), ModelError> {
        self.model.embed(self.ws, z, self.ws.x(), trace.as_deref_mut())?;
        self.model.modulate(self.ws, trace.as_deref_mut())?;
        self.blocks_traced(0..self.model.anatomy().blocks(), None, trace)?;
        self.model.finish(self.ws)
    }

    fn blocks_traced(
        &self,
        range: Range<usize>,
        mut residuals: Option<&mut ResidualStore>,
        mut trace: Option<&mut Trace>,
    ) -> Result<(), ModelError> {
        let Walk { model, ws, caption } = *self;
        let anatomy = model.anatomy();
        let modules = anatomy.run(range);
        let mut weights = model.weights().stream(self.running(&modules, residuals.as_deref()))?;
        let mut module = modules.start;
        while module < modules.end {
            // In front of a run that begins here: what is kept of the run does not hold it.
            model.before(ws, module)?;
            if let Some(store) = residuals.as_deref_mut() {
                if let Some(behind) = store.reuse_run(module, ws.x())? {
                    module = behind;
                    continue;
                }
                store.enter_run(module, ws.x(), ws.entered())?;
            }
            let (block, _) = anatomy.at(module);
            weights.take(block)?;
            match residuals.as_deref_mut() {
                Some(store) => self.module(module, store)?,
                None => model.module(ws, caption, module, None)?,
            }
            module += 1;
            if let (Some(trace), true) = (trace.as_deref_mut(), anatomy.run(block..block + 1).end == module) {
                let name = format!("{}.{}", anatomy.span(block).name(), anatomy.layer(block));
                trace.push((name, ws.x().to_f32()?));
            }
        }
        Ok(())
    }

    /// Runs module `module`; its residual goes to the probe of its block, or to its place in the store.
    fn module(&self, module: usize, store: &mut ResidualStore) -> Result<(), ModelError> {
        let Walk { model, ws, caption } = *self;
        let anatomy = model.anatomy();
        let (block, kind) = anatomy.at(module);
        let probe_at = |store: &ResidualStore, site| store.probe_at(anatomy.probe(block, site));
        let of = |site: Site| anatomy.modules_of(block).iter().filter(move |module| site.contains(**module));
        let probed = |site: &Site| site.contains(kind) && probe_at(store, *site).is_some();
        // The whole residual goes on where the attention's ended, which may be measured too.
        match (Site::ALL.into_iter().find(probed), ws.fresh()) {
            (Some(site), Some(fresh)) => {
                let accumulate = of(site).next() != Some(&kind);
                model.module(ws, caption, module, Some(Added { to: fresh, accumulate }))?;
                let mut ended = [site, Site::Attention].into_iter().filter(|site| of(*site).next_back() == Some(&kind));
                if let Some(probe) = ended.find_map(|site| probe_at(store, site)) {
                    store.probe(probe, fresh, ws.unpacked())?;
                }
            }
            _ => match store.module_residual(module, ws.module_residual())? {
                Some(kept) => {
                    model.module(ws, caption, module, Some(Added { to: &kept, accumulate: false }))?;
                    store.keep_module(module, &kept)?;
                }
                None => model.module(ws, caption, module, None)?,
            },
        }
        Ok(store.leave_run(module, ws.x(), ws.entered())?)
    }

    /// The blocks of which any of `modules` runs; the others are reused entirely, and their weights are not needed.
    fn running(&self, modules: &Range<usize>, residuals: Option<&ResidualStore>) -> Vec<usize> {
        let mut blocks = vec![];
        let mut module = modules.start;
        while module < modules.end {
            module = residuals.and_then(|store| store.reused_until(module)).unwrap_or_else(|| {
                let (block, _) = self.model.anatomy().at(module);
                if blocks.last() != Some(&block) {
                    blocks.push(block);
                }
                module + 1
            });
        }
        blocks
    }

    /// FLOPs of a computed and of a reused step; the latter also runs the first `head` blocks.
    pub fn flops(&self, head: usize) -> Flops {
        let anatomy = self.model.anatomy();
        let (head, geometry) = (anatomy.run(0..head).end, self.ws.geometry());
        let of = |modules: usize| self.model.flops(geometry, self.caption.length(), &|module| module < modules);
        Flops { computed: of(anatomy.modules()), reused: of(head) }
    }
}
