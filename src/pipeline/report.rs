//! The report of a run, as JSON for programs and as a few lines for people.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::guidance::Guidance;
use super::settings::Settings;
use crate::cache::Decision;
use crate::cache::trace::Stage;
use crate::model::Flops;

/// The report of one generated video.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The model's name.
    pub model: String,
    /// The device's id and name: all times below are measured on it.
    pub device: String,
    /// Element type of weights and activations.
    pub dtype: String,
    /// Denoising steps.
    pub steps: usize,
    /// The experts that took turns, with their steps, if the model has several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Stage>,
    /// The steps, from 1, that ran the whole transformer.
    pub computed_steps: Vec<usize>,
    /// The steps that ran some modules and reused others; steps in neither list reused the residuals of a whole forward pass.
    #[serde(default)]
    pub partial_steps: Vec<usize>,
    /// Work of every step relative to a computed one.
    #[serde(default)]
    pub step_shares: Vec<f64>,
    /// The measurements and choices of the cache policy after each computed step but the first.
    pub decisions: Vec<Decision>,
    /// Wall-clock times, for all videos of the run together.
    pub seconds: Seconds,
    /// The number of videos in the run.
    #[serde(default = "one")]
    pub videos: usize,
    /// The number of videos that shared this one's decisions, itself included.
    #[serde(default = "one")]
    pub decided_together: usize,
    /// Bytes of residuals kept on the device, for all videos.
    pub cache_bytes: usize,
    /// The bytes that one kept tensor per residual would have taken.
    pub cache_bytes_unfolded: usize,
    /// The error of keeping them in 8 bits, Σ|x − kept x| / Σ|x|; `null` if they are not packed.
    #[serde(default)]
    pub cache_error: Option<f64>,
    /// What was multiplied in e4m3, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fp8_weights: Option<Fp8Report>,
    /// Bytes of a forward pass's activations, which share one allocation.
    #[serde(default)]
    pub activation_bytes: usize,
    /// Peak device memory allocated at once.
    pub peak_device_bytes: usize,
    /// Bytes of the transformer's weights that stay on the device, room for streamed blocks included.
    #[serde(default)]
    pub resident_weight_bytes: usize,
    /// Bytes of its weights in host memory, which every computed step copies to the device; 0 if all are resident.
    #[serde(default)]
    pub streamed_weight_bytes: usize,
    /// Bytes that this device gave to the other that ran half of guidance, if there was one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub exchanged_bytes: u64,
    /// The device memory budget, if one was set.
    #[serde(default)]
    pub memory_budget: Option<usize>,
    /// Seed of the initial noise; in JSON text above 2^53.
    #[serde(with = "super::seed")]
    pub seed: u64,
    /// The prompt as passed to the model.
    pub prompt: String,
    /// The cache policy's name.
    pub cache: String,
    /// Guidance scales.
    pub cfg_scale: Guidance,
    /// Version of the program.
    #[serde(default)]
    pub program: String,
    /// Width of the video in pixels.
    #[serde(default)]
    pub width: usize,
    /// Height of the video in pixels.
    #[serde(default)]
    pub height: usize,
    /// Frames of the video; of a long one of each part.
    #[serde(default)]
    pub frames: usize,
    /// Frames per second.
    #[serde(default)]
    pub fps: f64,
    /// The cache policy with all its settings.
    #[serde(default)]
    pub codebook: Value,
    /// The name by which the policy was chosen: a preset or a file.
    #[serde(default)]
    pub preset: Option<String>,
    /// SHA-256 of the model's files ([`weights_hash`](super::weights_hash)).
    #[serde(default)]
    pub weights: Option<String>,
    /// Everything that the video depends on.
    #[serde(default)]
    pub settings: Option<Settings>,
    /// The options of `adacache generate` that make the video again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub arguments: BTreeMap<String, Vec<String>>,
    /// Where the video was written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Floating-point operations of the videos that share decisions, counted from the shapes (a multiply-add is two).
    pub flops: FlopCount,
}

/// The products of e4m3 of a run, and what they lost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fp8Report {
    /// The blocks' products that are of e4m3; of several experts, of those on the device.
    pub products: usize,
    /// The blocks' other products, which are of 16 bits: keys and values of the caption, and shapes that the kernel does not serve.
    pub other_products: usize,
    /// The error of the weights in e4m3, Σ|w − kept w| / Σ|w|.
    pub weight_error: f64,
    /// The error of the activations in e4m3, Σ|x − kept x| / Σ|x|, over all steps.
    pub activation_error: f64,
}

fn one() -> usize {
    1
}

fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

/// Wall-clock seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    /// From the request to the written video (weights already loaded); to decoded frames, if it was not written yet.
    pub total: f64,
    /// The denoising loop.
    pub denoise: f64,
    /// Encoding and writing this video, as far as it was not done while frames were decoded.
    #[serde(default)]
    pub encode: f64,
    /// The time of every step by the device's clock.
    pub per_step: Vec<f64>,
}

/// Work of the denoising loop in FLOPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlopCount {
    /// A computed step.
    pub computed_step: u64,
    /// A reused step.
    pub reused_step: u64,
    /// All steps as they ran.
    pub total: u64,
    /// All steps, if each had been computed.
    pub all_computed: u64,
}

impl FlopCount {
    /// Adds up the work of each step as it ran.
    pub fn new(flops: Flops, steps: &[u64]) -> FlopCount {
        FlopCount {
            computed_step: flops.computed,
            reused_step: flops.reused,
            total: steps.iter().sum(),
            all_computed: flops.computed * steps.len() as u64,
        }
    }
}

/// The schedule as one character per step: `█` computed, `▒` partly computed, `·` reused.
///
/// ```
/// # use adacache::pipeline::schedule_strip;
/// assert_eq!(schedule_strip(6, &[1, 2, 5, 6], &[3]), "██▒·██");
/// ```
pub fn schedule_strip(steps: usize, computed: &[usize], partial: &[usize]) -> String {
    let character = |step| match step {
        step if computed.contains(&step) => '█',
        step if partial.contains(&step) => '▒',
        _ => '·',
    };
    (1..=steps).map(character).collect()
}

impl Report {
    /// Mean seconds of a computed step and of any other step, if there were any.
    ///
    /// The first step is left out if there are others, since it includes the loading of kernels.
    pub fn step_seconds(&self) -> (Option<f64>, Option<f64>) {
        let mean = |computed: bool| {
            let times: Vec<f64> = (1..)
                .zip(&self.seconds.per_step)
                .filter(|(step, _)| self.computed_steps.contains(step) == computed)
                .map(|(_, seconds)| *seconds)
                .collect();
            let times = if computed && times.len() > 1 { &times[1..] } else { &times[..] };
            (!times.is_empty()).then(|| times.iter().sum::<f64>() / times.len() as f64)
        };
        (mean(true), mean(false))
    }

    /// The name of the expert that ran `step` (from 1), if the model has several.
    pub fn expert(&self, step: usize) -> Option<&str> {
        let mut end = 0;
        let stage = self.stages.iter().find(|stage| {
            end += stage.steps;
            step <= end
        });
        stage.map(|stage| stage.expert.as_str())
    }

    /// Says what the video depends on. The video's metadata hold it too.
    pub fn identify(&mut self, settings: &Settings) {
        self.preset = Some(settings.preset.clone());
        self.weights = Some(settings.weights.clone());
        self.settings = Some(settings.clone());
    }

    /// The report as a few lines for people.
    pub fn summary(&self) -> Summary<'_> {
        Summary(self)
    }
}

/// Displays a [`Report`] for people.
pub struct Summary<'a>(&'a Report);

impl Summary<'_> {
    /// What the steps did.
    fn schedule(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = self.0;
        let (computed, partial) = (r.computed_steps.len(), r.partial_steps.len());
        writeln!(f, "schedule  {}", schedule_strip(r.steps, &r.computed_steps, &r.partial_steps))?;
        write!(f, "          {computed} steps computed")?;
        if partial > 0 {
            let work: f64 = r.partial_steps.iter().filter_map(|step| r.step_shares.get(step - 1)).sum();
            write!(f, ", {partial} in part ({:.0} % of the work)", 100.0 * work / partial as f64)?;
        }
        writeln!(f, ", {} reused of {} ({})", r.steps - computed - partial, r.steps, r.cache)?;
        if r.stages.is_empty() {
            return Ok(());
        }
        let mut first = 1;
        let stages = r.stages.iter().map(|Stage { expert, steps }| {
            first += steps;
            format!("{expert} steps {}-{}", first - steps, first - 1)
        });
        writeln!(f, "experts   {}", stages.collect::<Vec<_>>().join(", "))
    }

    /// What that saved: counted, and measured.
    fn speed(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = self.0;
        let computed = r.computed_steps.len();
        let others = r.steps - computed;
        write!(f, "speed-up  ")?;
        if others == 0 {
            write!(f, "none: every step was computed ({})", count(r.flops.total as f64, "FLOP"))?;
        } else {
            write!(
                f,
                "{:.2}x counted ({} of {})",
                r.flops.all_computed as f64 / (r.flops.total as f64).max(1.0),
                count(r.flops.total as f64, "FLOP"),
                count(r.flops.all_computed as f64, "FLOP")
            )?;
        }
        match r.step_seconds() {
            (Some(c), Some(u)) => {
                let measured = r.steps as f64 * c / (computed as f64 * c + others as f64 * u);
                let share = u / c * 100.0;
                let other = if r.partial_steps.is_empty() { "a reused one" } else { "another" };
                writeln!(
                    f,
                    ", {measured:.2}x measured\n          {} a computed step, {} {other} ({share:.1} %)",
                    duration(c),
                    duration(u)
                )?;
            }
            (Some(c), None) => writeln!(f, "\n          {} a computed step", duration(c))?,
            _ => writeln!(f)?,
        }
        Ok(())
    }

    /// What it cost.
    fn cache(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = self.0;
        if r.cache_bytes == 0 {
            return writeln!(f, "cache     nothing kept");
        }
        let packed = r.cache_error.map_or_else(String::new, |e| format!(" in 8 bits (relative error {e:.2e})"));
        write!(f, "cache     {} held{packed}", bytes(r.cache_bytes))?;
        // Single modules are kept one by one: there is no fold to compare with them.
        if r.partial_steps.is_empty() {
            write!(f, "; one tensor per residual would hold {}", bytes(r.cache_bytes_unfolded))?;
        }
        writeln!(f)
    }

    /// What was multiplied in 8 bits.
    fn products(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Fp8Report { products, other_products, weight_error, activation_error }) = self.0.fp8_weights else {
            return Ok(());
        };
        writeln!(
            f,
            "products  {products} of {} in blocks of 8 bits (relative error {weight_error:.2e} of weights, {activation_error:.2e} of activations)",
            products + other_products
        )
    }
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = self.0;
        self.schedule(f)?;
        self.speed(f)?;
        self.cache(f)?;
        self.products(f)?;
        let Seconds { total, denoise, encode, .. } = r.seconds;
        write!(f, "time      {} in all, {} of it denoising", duration(total), duration(denoise))?;
        if encode > 0.0 {
            write!(f, ", {} encoding and writing", duration(encode))?;
        }
        writeln!(f)?;
        if r.videos > 1 {
            let how = if r.decided_together > 1 { "decided about together" } else { "decided about one by one" };
            writeln!(f, "batch     {} videos in this run, {how}; times and memory are the run's", r.videos)?;
        }
        if r.streamed_weight_bytes > 0 {
            let (resident, streamed) = (bytes(r.resident_weight_bytes), bytes(r.streamed_weight_bytes));
            writeln!(
                f,
                "weights   {resident} on the device, {streamed} streamed from the host in every computed step"
            )?;
        }
        let (activations, peak) = (bytes(r.activation_bytes), bytes(r.peak_device_bytes));
        write!(f, "device    {}, {}, peak memory {peak}, {activations} of it activations", r.device, r.dtype)
    }
}

fn scaled(value: f64, step: f64, units: &[&str]) -> (f64, usize) {
    let mut value = value;
    let mut unit = 0;
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    (value, unit)
}

pub(super) fn bytes(n: usize) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (value, unit) = scaled(n as f64, 1024.0, &UNITS);
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `n` with a decimal prefix, such as `3.1 GFLOP`.
pub fn count(n: f64, what: &str) -> String {
    const UNITS: [&str; 6] = ["", "k", "M", "G", "T", "P"];
    let (value, unit) = scaled(n, 1000.0, &UNITS);
    format!("{value:.1} {}{what}", UNITS[unit])
}

/// Seconds in a suitable unit, such as `3.1 ms`.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.1} ms", s * 1e3),
        s => format!("{:.0} µs", s * 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            model: "sprites".into(),
            device: "vm (test CPU)".into(),
            dtype: "bf16".into(),
            steps: 4,
            stages: vec![],
            computed_steps: vec![1, 3, 4],
            partial_steps: vec![],
            step_shares: vec![1.0, 0.001, 1.0, 1.0],
            decisions: vec![Decision { step: 3, distance: 0.1, motion: 1.0, motion_gradient: 0.0, rate: Some(2) }],
            seconds: Seconds { total: 3.5, denoise: 3.2, encode: 0.25, per_step: vec![2.0, 0.01, 0.5, 0.5] },
            videos: 1,
            decided_together: 1,
            cache_bytes: 2 << 20,
            cache_bytes_unfolded: 20 << 20,
            cache_error: None,
            fp8_weights: None,
            activation_bytes: 77,
            exchanged_bytes: 0,
            resident_weight_bytes: 0,
            streamed_weight_bytes: 0,
            memory_budget: None,
            peak_device_bytes: 123,
            seed: 7,
            prompt: "p".into(),
            cache: "adacache".into(),
            cfg_scale: 3.0.into(),
            program: "0.2.0".into(),
            width: 64,
            height: 48,
            frames: 16,
            fps: 8.0,
            codebook: Value::Null,
            preset: None,
            weights: None,
            settings: None,
            arguments: BTreeMap::new(),
            output: None,
            flops: FlopCount::new(
                Flops { computed: 1_000_000_000, reused: 1_000_000 },
                &[1_000_000_000, 1_000_000, 1_000_000_000, 1_000_000_000],
            ),
        }
    }

    #[test]
    fn json_has_the_documented_fields() {
        let json = serde_json::to_value(report()).unwrap();
        for field in [
            "model",
            "device",
            "dtype",
            "steps",
            "computed_steps",
            "decisions",
            "seconds",
            "cache_bytes",
            "cache_bytes_unfolded",
            "peak_device_bytes",
            "seed",
            "prompt",
            "program",
            "width",
            "height",
            "frames",
            "fps",
            "codebook",
            "preset",
            "weights",
            "settings",
        ] {
            assert!(json.get(field).is_some(), "{field}");
        }
        for field in ["step", "distance", "motion", "motion_gradient", "rate"] {
            assert!(json["decisions"][0].get(field).is_some(), "{field}");
        }
        for field in ["total", "denoise", "encode", "per_step"] {
            assert!(json["seconds"].get(field).is_some(), "{field}");
        }
        assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report());
    }

    #[test]
    fn the_summary_says_it_all() {
        let text = report().summary().to_string();
        for part in [
            "█·██",
            "3 steps computed, 1 reused of 4",
            "1.33x counted (3.0 GFLOP of 4.0 GFLOP)",
            "1.32x measured",
            "500.0 ms a computed step, 10.0 ms a reused one (2.0 %)",
            "2.0 MiB held; one tensor per residual would hold 20.0 MiB",
            "vm (test CPU), bf16, peak memory 123 B, 77 B of it activations",
            "3.50 s in all, 3.20 s of it denoising, 250.0 ms encoding and writing",
        ] {
            assert!(text.contains(part), "`{part}` is missing in:\n{text}");
        }
        let fp8 = Fp8Report { products: 6, other_products: 1, weight_error: 0.02, activation_error: 0.025 };
        let fp8 = Report { fp8_weights: Some(fp8), ..report() };
        let line = "products  6 of 7 in blocks of 8 bits (relative error 2.00e-2 of weights, 2.50e-2 of activations)\n";
        assert!(fp8.summary().to_string().contains(line) && !text.contains("products"));
        assert_eq!(serde_json::to_value(&fp8).unwrap()["fp8_weights"]["weight_error"], 0.02);
        let stage = |expert: &str, steps| Stage { expert: expert.into(), steps };
        let two = Report { stages: vec![stage("high-noise", 3), stage("low-noise", 1)], ..report() };
        assert!(two.summary().to_string().contains("experts   high-noise steps 1-3, low-noise steps 4-4\n"));
        assert_eq!([1, 3, 4].map(|step| two.expert(step).unwrap()), ["high-noise", "high-noise", "low-noise"]);
        assert!(report().expert(1).is_none() && !text.contains("experts"));
        let all = Report { steps: 3, computed_steps: vec![1, 2, 3], cache_bytes: 0, ..report() };
        assert!(all.summary().to_string().contains("none: every step was computed"));
    }
}
