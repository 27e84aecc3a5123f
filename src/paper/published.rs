//! The paper's first table, and the run of its title: one A100 80 GB, VBench's prompts.

use serde::Serialize;

use crate::pipeline::OpenOptions;

/// Published figures; `None`: not published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// VBench's total score in percent.
    pub vbench: Option<f64>,
    /// PSNR in dB against every step computed.
    pub psnr: Option<f64>,
    /// LPIPS against it.
    pub lpips: Option<f64>,
    /// SSIM against it.
    pub ssim: Option<f64>,
    /// Tera-operations of the whole generation.
    pub tflop: Option<f64>,
    /// Seconds of it.
    pub seconds: Option<f64>,
}

/// A line of a table: a method and the preset that is it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// The method, as the paper calls it.
    pub method: &'static str,
    /// The preset.
    pub cache: &'static str,
    /// The paper's figures.
    pub published: Figures,
}

/// A system of the paper: a model and a run of it.
#[derive(Debug)]
pub struct System {
    /// Its name in options.
    pub name: &'static str,
    /// The name of the model.
    pub model: &'static str,
    /// What is generated.
    pub about: &'static str,
    /// The resolution's name; `None`: the model's own.
    pub resolution: Option<&'static str>,
    /// Frames; `None`: the model's own.
    pub frames: Option<usize>,
    /// Denoising steps.
    pub steps: usize,
    /// Whether the published operations include the products of attention. Where attention ran in kernels of its own (xFormers,
    /// FlashAttention), the counter did not see them.
    pub sees_attention: bool,
    /// The lines, every step computed first.
    pub lines: &'static [Line],
}

impl System {
    /// The options to open its model with.
    pub fn options(&self) -> OpenOptions {
        OpenOptions { resolution: self.resolution.map(str::to_owned), frames: self.frames, ..OpenOptions::default() }
    }

    /// The system of this name.
    pub fn named(name: &str) -> Option<&'static System> {
        SYSTEMS.iter().find(|system| system.name == name)
    }
}

/// The methods of the first table and their presets.
const METHODS: [(&str, &str); 8] = [
    ("every step", "none"),
    ("Δ-DiT", "delta-dit"),
    ("T-GATE", "t-gate"),
    ("PAB fast", "pab-fast"),
    ("PAB slow", "pab"),
    ("AdaCache fast", "adacache-fast"),
    ("AdaCache fast + MoReg", "adacache-fast+moreg"),
    ("AdaCache slow", "adacache-slow"),
];

/// The lines of a model that is not in the paper: the same methods, without figures.
pub fn lines() -> [Line; 8] {
    METHODS.map(|(method, cache)| Line { method, cache, published: NONE })
}

const NONE: Figures = Figures { vbench: None, psnr: None, lpips: None, ssim: None, tflop: None, seconds: None };

/// Figures of the first table, each 0 where it has none: VBench, PSNR, LPIPS, SSIM, tera-operations, seconds.
const fn table([vbench, psnr, lpips, ssim, tflop, seconds]: [f64; 6]) -> Figures {
    const fn some(value: f64) -> Option<f64> {
        if value > 0.0 { Some(value) } else { None }
    }
    Figures {
        vbench: some(vbench),
        psnr: some(psnr),
        lpips: some(lpips),
        ssim: some(ssim),
        tflop: some(tflop),
        seconds: some(seconds),
    }
}

const fn first_table(figures: [[f64; 6]; 8]) -> [Line; 8] {
    let mut lines = [Line { method: "", cache: "", published: NONE }; 8];
    let mut i = 0;
    while i < 8 {
        let (method, cache) = METHODS[i];
        lines[i] = Line { method, cache, published: table(figures[i]) };
        i += 1;
    }
    lines
}

static OPENSORA_480P: [Line; 8] = first_table([
    [79.22, 0.0, 0.0, 0.0, 3230.0, 54.02],
    [78.21, 11.91, 0.569, 0.481, 3166.0, 0.0],
    [77.61, 15.50, 0.350, 0.676, 2818.0, 49.11],
    [76.95, 23.58, 0.174, 0.822, 2558.0, 40.23],
    [78.51, 27.04, 0.093, 0.885, 2658.0, 44.93],
    [79.39, 24.92, 0.098, 0.838, 1332.0, 24.16],
    [79.48, 25.78, 0.087, 0.853, 1384.0, 25.71],
    [79.66, 29.97, 0.046, 0.909, 2196.0, 37.01],
]);

static OPEN_SORA_PLAN: [Line; 8] = first_table([
    [80.39, 0.0, 0.0, 0.0, 12032.0, 129.67],
    [77.55, 13.85, 0.539, 0.374, 12028.0, 0.0],
    [80.15, 18.32, 0.307, 0.622, 10663.0, 113.75],
    [71.81, 15.47, 0.550, 0.472, 8551.0, 89.56],
    [80.30, 18.80, 0.306, 0.655, 9277.0, 98.50],
    [75.83, 13.53, 0.547, 0.431, 3284.0, 35.04],
    [79.30, 17.69, 0.375, 0.615, 3474.0, 36.77],
    [80.50, 22.98, 0.174, 0.791, 4983.0, 58.88],
]);

static LATTE: [Line; 8] = first_table([
    [77.40, 0.0, 0.0, 0.0, 3439.0, 32.45],
    [52.00, 8.65, 0.851, 0.108, 3437.0, 0.0],
    [75.42, 19.55, 0.261, 0.693, 3059.0, 29.23],
    [73.13, 17.16, 0.390, 0.642, 2577.0, 24.33],
    [76.32, 19.71, 0.270, 0.701, 2767.0, 26.20],
    [76.26, 17.70, 0.352, 0.666, 1010.0, 11.85],
    [76.47, 18.16, 0.322, 0.683, 1187.0, 13.20],
    [77.07, 22.78, 0.174, 0.803, 2024.0, 20.35],
]);

static OPENSORA_720P: [Line; 3] = [
    Line { method: "every step", cache: "none", published: Figures { seconds: Some(419.60), ..NONE } },
    Line { method: "AdaCache", cache: "adacache-fast", published: Figures { seconds: Some(89.53), ..NONE } },
    Line {
        method: "AdaCache + MoReg",
        cache: "adacache-fast+moreg",
        published: Figures { seconds: Some(93.50), ..NONE },
    },
];

/// The systems of the paper.
pub static SYSTEMS: [System; 4] = [
    System {
        name: "opensora-480p",
        model: "opensora-v1.2",
        about: "Open-Sora 1.2, 51 frames of 480p (2 s), 30 steps",
        resolution: Some("480p"),
        frames: Some(51),
        steps: 30,
        sees_attention: false,
        lines: &OPENSORA_480P,
    },
    System {
        name: "open-sora-plan",
        model: "open-sora-plan-v1.1",
        about: "Open-Sora-Plan 1.1, 65 frames of 512×512, 150 steps",
        resolution: None,
        frames: None,
        steps: 150,
        sees_attention: true,
        lines: &OPEN_SORA_PLAN,
    },
    System {
        name: "latte",
        model: "latte-1",
        about: "Latte-1, 16 frames of 512×512, 50 steps",
        resolution: None,
        frames: None,
        steps: 50,
        sees_attention: true,
        lines: &LATTE,
    },
    System {
        name: "opensora-720p",
        model: "opensora-v1.2",
        about: "Open-Sora 1.2, 51 frames of 720p (2 s), 100 steps",
        resolution: Some("720p"),
        frames: Some(51),
        steps: 100,
        sees_attention: false,
        lines: &OPENSORA_720P,
    },
];
