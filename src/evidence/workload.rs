//! Open-Sora's workload: every tensor-core operation of a pair of blocks, with the kernel chosen for it.

use crate::chips::Chip;
use crate::ops::{Choice, Target, attention, linear};
use crate::tensor::DType;
use serde::Serialize;

/// The shape of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum WorkKind {
    /// `[m, k] · [n, k]ᵀ` in tiles.
    Linear {
        /// Rows, columns, inner.
        shape: [usize; 3],
        /// Rows and columns of a tile.
        tile: (usize, usize),
    },
    /// Queries × keys for every sequence and head.
    Attention {
        /// Sequences.
        sequences: usize,
        /// Heads.
        heads: usize,
        /// Queries per sequence.
        q_len: usize,
        /// Keys per sequence.
        kv_len: usize,
    },
}

/// One operation with its kernel.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Work {
    /// Model, size, operation.
    pub name: String,
    /// Shape.
    pub kind: WorkKind,
    /// The kernel.
    #[serde(skip)]
    pub choice: Choice,
    /// FLOP that the result needs.
    pub flop: f64,
    /// Bytes of memory that must be moved once: inputs read, outputs written.
    pub bytes: f64,
    /// The fraction of the tiles' area that belongs to the result.
    pub useful: f64,
    /// A block's passes through its main loop.
    pub passes: f64,
    /// Bytes of the epilogue per output element.
    pub out_bytes: f64,
}

/// Channels of a head.
pub(super) const HEAD_DIM: usize = 72;
/// Caption tokens.
pub(super) const TEXT: usize = 300;
/// Latent frames of a video of 51 frames.
pub(super) const FRAMES: usize = 15;
/// With guidance.
const BATCH: usize = 2;

/// The target for choosing kernels on this chip.
pub(super) fn target(chip: &Chip) -> Target {
    Target::new(chip.units, chip.sm.compute_capability)
}

fn matrix(chip: &Chip, name: String, kind: &str, shape: [usize; 3]) -> Work {
    product(name, kind, shape, linear::choose(target(chip), kind, DType::Bf16, shape))
}

/// A product by a given kernel.
pub(super) fn product(name: String, kind: &str, shape: [usize; 3], choice: Choice) -> Work {
    let tile = linear::tile_of(&choice.entry).expect("a tile of the table");
    let [m, n, k] = shape.map(|x| x as f64);
    let [tiles, parts] = choice.grid.map(|x| x as f64);
    let residual = if kind == "residual" { 2.0 } else { 1.0 };
    Work {
        name,
        kind: WorkKind::Linear { shape, tile },
        flop: 2.0 * m * n * k,
        bytes: 2.0 * (m * k + n * k + residual * m * n),
        useful: m * n / (tiles * (tile.0 * tile.1) as f64),
        passes: ((k / 32.0).ceil() / parts).ceil(),
        out_bytes: 2.0 * residual,
        choice,
    }
}

fn attend(chip: &Chip, name: String, shape: attention::Shape) -> Work {
    let choice = attention::choose(target(chip), DType::Bf16, shape).expect("head_dim 72");
    let attention::Shape { head_dim, heads, sequences, q_len, kv_len, .. } = shape;
    let all = (sequences * heads * q_len) as f64;
    let flop = 4.0 * all * kv_len as f64 * head_dim as f64;
    let kv =
        if shape.plain { 2 * sequences * heads * kv_len * head_dim } else { 2 * sequences * heads * q_len * head_dim };
    // Queries and keys of a pass of a block, and blocks for each sequence and head.
    let (queries, keys) = match choice.entry.rsplit('_').next() {
        Some("cross") => (256.0, 32.0),
        Some("large") => (128.0, 64.0),
        _ => (16.0 * 4.0, 16.0),
    };
    let tiles = (q_len as f64 / queries).ceil();
    let blocks = choice.grid.iter().product::<usize>() as f64;
    // A block's tiles of queries: one, or its share where blocks walk over them.
    let share = ((sequences * heads) as f64 * tiles / blocks).ceil().max(1.0);
    Work {
        name,
        kind: WorkKind::Attention { sequences, heads, q_len, kv_len },
        flop,
        bytes: 2.0 * (2.0 * all * head_dim as f64 + kv as f64),
        useful: all / (blocks * share * queries),
        passes: share * (kv_len as f64 / keys).ceil(),
        out_bytes: 0.0,
        choice,
    }
}

/// A spatial and a temporal block of Open-Sora 1.2 (1152 channels, 16 heads; 1872, 26) in bf16, 51 frames, guidance batch 2, 300 caption
/// tokens, at 240p, 480p and 720p; and the products of a single image of 240p.
pub fn open_sora(chip: &Chip) -> Vec<Work> {
    let mut all = Vec::new();
    for (channels, heads) in [(1152, 16), (1872, 26)] {
        for (size, tokens, frames) in
            [("image", 405, 1), ("240p", 405, FRAMES), ("480p", 1590, FRAMES), ("720p", 3600, FRAMES)]
        {
            let m = BATCH * frames * tokens;
            let name = |operation: &str| format!("{channels} {size} {operation}");
            for (operation, kind, shape) in [
                ("qkv", "ln_bias", [m, 3 * channels, channels]),
                ("proj", "residual", [m, channels, channels]),
                ("cross q", "bias", [m, channels, channels]),
                ("cross kv", "bias", [BATCH * TEXT, 2 * channels, channels]),
                ("fc1", "ln_gelu", [m, 4 * channels, channels]),
                ("fc2", "residual", [m, channels, 4 * channels]),
            ] {
                all.push(matrix(chip, name(operation), kind, shape));
            }
            if frames == 1 {
                continue; // its attention is that of 240p, for fewer sequences
            }
            let shape = |sequences, q_len, kv_len, plain| attention::Shape {
                head_dim: HEAD_DIM,
                heads,
                sequences,
                q_len,
                kv_len,
                plain,
            };
            all.push(attend(chip, name("spatial"), shape(BATCH * FRAMES, tokens, tokens, false)));
            all.push(attend(chip, name("temporal"), shape(BATCH * tokens, FRAMES, FRAMES, false)));
            all.push(attend(chip, name("cross"), shape(BATCH, FRAMES * tokens, TEXT, true)));
        }
    }
    all
}
