//! Workloads: every tensor-core operation of a pair of Open-Sora's blocks, of a block of Wan and of its decoder, with the kernel chosen for it.

use crate::chips::{Chip, FP8_RATE};
use crate::device::Module;
use crate::ops::{Choice, Target, attention, conv, fp8, linear, params};
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
        /// Channels of a head.
        head_dim: usize,
    },
    /// A convolution as a product of positions and channels, in tiles.
    Conv {
        /// Positions of the output, its channels, taps · channels of the input.
        shape: [usize; 3],
        /// Taps in time, rows and columns.
        taps: [usize; 3],
        /// Rows and columns of a tile.
        tile: (usize, usize),
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
    /// A block's passes through its main loop, in all of its tiles.
    pub passes: f64,
    /// The tiles that a block makes one after the other.
    pub tiles: f64,
    /// Special functions of the epilogue per output element.
    pub specials: f64,
    /// Bytes of the epilogue per output element.
    pub out_bytes: f64,
}

/// Channels of a head.
const HEAD_DIM: usize = 72;
/// Caption tokens.
const TEXT: usize = 300;
/// Latent frames of a video of 51 frames.
pub(super) const FRAMES: usize = 15;
/// With guidance.
const BATCH: usize = 2;

/// The target for choosing kernels on this chip.
pub(super) fn target(chip: &Chip) -> Target {
    Target::new(chip.units, chip.sm.compute_capability)
}

/// Where rows are normed apart, the product alone.
fn matrix(chip: &Chip, name: String, kind: &str, shape: [usize; 3]) -> Work {
    let apart = linear::target_norms_apart(target(chip), DType::Bf16, shape);
    let kind = if apart { kind.trim_start_matches("ln_") } else { kind };
    product(name, kind, shape, linear::choose(target(chip), kind, DType::Bf16, shape))
}

/// A product by a given kernel.
pub(super) fn product(name: String, kind: &str, shape: [usize; 3], choice: Choice) -> Work {
    let tile = linear::tile_of(&choice.entry).expect("a tile of the table");
    let [m, n, k] = shape.map(|x| x as f64);
    let [blocks, parts] = choice.grid.map(|x| x as f64);
    let all = (shape[0].div_ceil(tile.0) * shape[1].div_ceil(tile.1)) as f64;
    let tiles = (all / blocks).ceil();
    let (stage, element) = match choice.module {
        Module::LinearFp8 => (params::LINEAR_WGMMA_K_BYTES, 1),
        Module::LinearWgmma => (params::LINEAR_WGMMA_K_BYTES, 2),
        _ => (params::LINEAR_K_BYTES, 2),
    };
    let residual = if kind == "residual" { 2.0 } else { 1.0 };
    Work {
        name,
        kind: WorkKind::Linear { shape, tile },
        flop: 2.0 * m * n * k,
        bytes: element as f64 * (m * k + n * k) + 2.0 * residual * m * n,
        useful: m * n / (blocks * tiles * (tile.0 * tile.1) as f64),
        passes: tiles * ((k / (stage / element) as f64).ceil() / parts).ceil(),
        tiles,
        specials: if kind.ends_with("gelu") { 2.0 } else { 0.0 },
        out_bytes: 2.0 * residual,
        choice,
    }
}

/// Attention over the frames of each token of Open-Sora, with norms and RoPE.
pub(super) fn temporal(chip: &Chip, name: String, heads: usize, tokens: usize, frames: usize) -> Work {
    let shape = attention::Shape {
        head_dim: HEAD_DIM,
        heads,
        sequences: BATCH * tokens,
        q_len: frames,
        kv_len: frames,
        plain: false,
        aligned: true,
        whole: false,
    };
    attend(chip, name, shape)
}

impl Work {
    /// How much faster than 16-bit types the tensor cores multiply its operands.
    pub(super) fn rate(&self) -> f64 {
        if self.choice.module == Module::LinearFp8 { FP8_RATE } else { 1.0 }
    }
}

/// The products of `works` that the kernel for Hopper makes, with operands in e4m3 (`--fp8-weights`) but for the few rows of the caption; none on
/// other chips.
pub fn in_fp8(chip: &Chip, works: &[Work]) -> Vec<Work> {
    let large = works.iter().filter(|work| !work.name.ends_with("cross kv"));
    let in_fp8 = |work: &Work| {
        let WorkKind::Linear { shape, .. } = work.kind else { return None };
        let kind = work.choice.entry.strip_prefix("linear_")?.strip_suffix("_bf16_wgmma")?;
        let choice = fp8::choose(target(chip), kind, DType::Bf16, shape);
        Some(product(format!("{} e4m3", work.name), kind, shape, choice))
    };
    large.filter_map(in_fp8).collect()
}

fn attend(chip: &Chip, name: String, shape: attention::Shape) -> Work {
    let choice = attention::choose(target(chip), DType::Bf16, shape).expect("a head dimension of the models");
    let attention::Shape { head_dim, heads, sequences, q_len, kv_len, .. } = shape;
    let all = (sequences * heads * q_len) as f64;
    let flop = 4.0 * all * kv_len as f64 * head_dim as f64;
    let kv =
        if shape.plain { 2 * sequences * heads * kv_len * head_dim } else { 2 * sequences * heads * q_len * head_dim };
    // Queries and keys of a pass of a block, and blocks for each sequence and head.
    let wide = if head_dim <= 72 { 2.0 } else { 1.0 };
    let whole = |queries: f64| (q_len as f64 / queries).ceil();
    let (team, teams) = attention::short_teams(q_len.max(kv_len));
    let (queries, keys, tiles) = match choice.entry.rsplit('_').next() {
        Some("cross") => (128.0 * wide, 32.0, whole(128.0 * wide)),
        Some("large") => (64.0 * wide, 64.0, whole(64.0 * wide)),
        Some("plain") => (128.0, 32.0, whole(128.0)),
        Some("wgmma") => {
            let queries = params::ATTENTION_WGMMA_QUERIES as f64;
            (queries, params::ATTENTION_WGMMA_KEYS as f64, whole(queries))
        }
        _ => ((params::ATTENTION_SHORT_ROWS * team * teams) as f64, 16.0, 1.0 / teams as f64),
    };
    let blocks = choice.grid.iter().product::<usize>() as f64;
    // A block's tiles of queries: one, or its share where blocks walk over them.
    let share = ((sequences * heads) as f64 * tiles / blocks).ceil().max(1.0);
    Work {
        name,
        kind: WorkKind::Attention { sequences, heads, q_len, kv_len, head_dim },
        flop,
        bytes: 2.0 * (2.0 * all * head_dim as f64 + kv as f64),
        useful: all / (blocks * share * queries),
        passes: share * (kv_len as f64 / keys).ceil(),
        tiles: 1.0,
        specials: 0.0,
        out_bytes: 0.0,
        choice,
    }
}

/// A spatial and a temporal block of Open-Sora 1.2 (1152 channels, 16 heads; 1872, 26) in bf16, 51 frames, guidance batch 2, 300 caption
/// tokens, at 240p, 480p and 720p; the temporal attention of longer videos at 480p; and the products of a single image of 240p.
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
                aligned: true,
                whole: !plain,
            };
            all.push(attend(chip, name("spatial"), shape(BATCH * FRAMES, tokens, tokens, false)));
            all.push(temporal(chip, name("temporal"), heads, tokens, FRAMES));
            all.push(attend(chip, name("cross"), shape(BATCH, FRAMES * tokens, TEXT, true)));
            if size == "480p" {
                // Latent frames of videos of 102 and 204.
                for frames in [2 * FRAMES, 4 * FRAMES] {
                    all.push(temporal(chip, name(&format!("temporal {frames}")), heads, tokens, frames));
                }
            }
        }
    }
    all
}

/// Text rows: as many as there can be, and those of a prompt of usual length with one for the padding.
const WAN_TEXT: [usize; 2] = [512, 200];

/// A block of Wan 2.1 (1.3B: 1536 channels, 12 heads; 14B: 5120, 40) in bf16, 81 frames, guidance batch 2, at 480p and, 14B, at 720p; and the
/// decoder behind it, for the four frames of a latent frame at 480p.
pub fn wan(chip: &Chip) -> Vec<Work> {
    let mut all = Vec::new();
    for (model, channels, inner, size, tokens) in [
        ("1.3B", 1536, 8960, "480p", 21 * 30 * 52),
        ("14B", 5120, 13824, "480p", 21 * 30 * 52),
        ("14B", 5120, 13824, "720p", 21 * 45 * 80),
    ] {
        let m = BATCH * tokens;
        let name = |operation: &str| format!("{model} {size} {operation}");
        for (operation, kind, shape) in [
            ("qkv", "ln_bias", [m, 3 * channels, channels]),
            ("proj", "residual", [m, channels, channels]),
            ("cross q", "ln_bias", [m, channels, channels]),
            ("fc1", "ln_gelu", [m, inner, channels]),
            ("fc2", "residual", [m, channels, inner]),
        ] {
            all.push(matrix(chip, name(operation), kind, shape));
        }
        let shape = attention::Shape {
            head_dim: 128,
            heads: channels / 128,
            sequences: BATCH,
            q_len: tokens,
            kv_len: tokens,
            plain: true,
            aligned: true,
            whole: true,
        };
        all.push(attend(chip, name("self"), shape));
        for text in WAN_TEXT {
            all.push(attend(
                chip,
                name(&format!("cross {text}")),
                attention::Shape { kv_len: text, whole: false, ..shape },
            ));
        }
    }
    let [frames, height, width] = [4, 480, 832];
    // Scale: frames, a fraction of the sides, channels in and out, taps.
    for (scale, share, from, to, taps) in [
        (frames / 4, 8, 384, 384, [3, 3, 3]),
        (frames / 4, 8, 384, 1152, [1, 1, 1]), // q, k, v of the attention in the middle
        (frames / 4, 8, 384, 768, [3, 1, 1]),
        (frames / 2, 4, 384, 192, [1, 3, 3]),
        (frames / 2, 4, 192, 384, [3, 3, 3]),
        (frames / 2, 4, 384, 384, [3, 3, 3]),
        (frames, 2, 384, 192, [1, 3, 3]),
        (frames, 2, 192, 192, [3, 3, 3]),
        (frames, 1, 192, 96, [1, 3, 3]),
        (frames, 1, 96, 96, [3, 3, 3]),
        (frames, 1, 96, 8, [3, 3, 3]), // 3 channels of pixels
    ] {
        // Taps side by side keep the size of a frame.
        let row = taps[2] == 3;
        all.push(convolve(chip, [scale, height / share, width / share], [from, to], taps, row));
    }
    all
}

/// A convolution that keeps the size of frames; `row`: its taps may share rows.
pub(super) fn convolve(chip: &Chip, out: [usize; 3], [from, n]: [usize; 2], taps: [usize; 3], row: bool) -> Work {
    let (m, k) = (out.iter().product::<usize>(), from * taps.iter().product::<usize>());
    let choice = conv::choose(target(chip), DType::Bf16, [m, n, k], row.then_some(from));
    let tile = conv::tile_of(&choice.entry).expect("a tile of the table");
    let [frames, height, _] = out;
    let [kt, kh, kw] = taps;
    let (positions, channels, inner) = (m as f64, n as f64, k as f64);
    // Of the input every position once; a kernel over rows and columns alone follows an upsampling.
    let read = if kt == 1 && kh > 1 { positions / 4.0 } else { positions } * from as f64;
    Work {
        name: format!("decode {frames}x{height} {kt}x{kh}x{kw} {from}-{n}"),
        kind: WorkKind::Conv { shape: [m, n, k], taps, tile },
        flop: 2.0 * positions * channels * inner,
        bytes: 2.0 * (read + channels * inner + positions * channels),
        useful: positions * channels / (choice.grid[0] * tile.0 * tile.1) as f64,
        passes: (inner / 32.0).ceil(),
        tiles: 1.0,
        specials: 0.0,
        out_bytes: 2.0,
        choice,
    }
}
