//! The work of a forward pass of an adaLN-modulated transformer, from its shapes.

use super::buffers::Sizes;
use crate::cache::{Anatomy, Module, Span};

/// FLOPs of the modules for which `runs` is true, and of both ends (matrix products and attention; 2 per multiply-add), for a `batch` with
/// captions of `caption_tokens`.
pub(in crate::model) fn flops(
    anatomy: &Anatomy,
    sizes: &Sizes,
    batch: usize,
    caption_tokens: usize,
    runs: &dyn Fn(usize) -> bool,
) -> u64 {
    let [t, h, w] = sizes.tokens.map(|n| n as u64);
    let (c, hidden, rows) = (sizes.width as u64, sizes.hidden as u64, batch as u64 * t * h * w);
    let patch = (sizes.patch * (sizes.channels[0] + sizes.channels[1])) as u64;
    let keys = |block: usize| match anatomy.span(block) {
        Span::Frame => h * w,
        Span::Time => t,
        _ => t * h * w,
    };
    let module = |index: usize| match anatomy.at(index) {
        // qkv and proj; q·k and p·v.
        (block, Module::Attention) => 2 * rows * c * 4 * c + 4 * rows * keys(block) * c,
        // q and proj; q·k and p·v.
        (_, Module::Cross) => 2 * rows * c * 2 * c + 4 * rows * caption_tokens as u64 * c,
        // fc1 and fc2.
        (_, Module::Mlp) => 2 * rows * c * 2 * hidden,
    };
    2 * rows * c * patch + (0..anatomy.modules()).filter(|index| runs(*index)).map(module).sum::<u64>()
}
