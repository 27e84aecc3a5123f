//! What caches did to videos: measures and the page of `adacache compare`, and the search of `adacache calibrate`, over runs that Python makes.

use base::cache::trace::Trace;
use base::cache::{CacheConfig, Decision};
use base::calibrate::{Bench, CalibrateError, Effort, Run, Tape, Target};
use base::compare::{Row, csv, page, summarize};
use base::media::{Frames, Latents};
use base::pipeline::FlopCount;
use base::quality;
use base64::prelude::{BASE64_STANDARD, Engine};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use serde_json::{Value, json};

use crate::{Config, Decided, value_error};

/// A video and its latents.
#[pyclass(frozen)]
pub(crate) struct Video {
    frames: Frames,
    latents: Latents,
}

#[pymethods]
impl Video {
    /// `rgb`: frames of `[height, width, 3]` bytes; `latents`: native-endian f32 of `shape` (channels, frames, height, width).
    #[new]
    fn new(
        rgb: Vec<u8>,
        height: usize,
        width: usize,
        fps: f64,
        latents: &[u8],
        shape: (usize, usize, usize, usize),
    ) -> PyResult<Video> {
        let frames = Frames { width, height, fps, rgb };
        let whole = height * width * 3;
        if whole == 0 || frames.rgb.is_empty() || !frames.rgb.len().is_multiple_of(whole) {
            return Err(value_error(format!("{} bytes are no frames of {height}×{width} pixels", frames.rgb.len())));
        }
        let values: Vec<f32> = latents.as_chunks::<4>().0.iter().map(|bytes| f32::from_ne_bytes(*bytes)).collect();
        let shape = [shape.0, shape.1, shape.2, shape.3];
        if values.len() != shape.iter().product::<usize>() {
            return Err(value_error(format!("{} latents for the shape {shape:?}", values.len())));
        }
        Ok(Video { frames, latents: Latents { shape, values } })
    }

    /// PSNR in dB over all pixels against `original`, at most that of equal videos.
    fn psnr(&self, original: &Video) -> PyResult<f64> {
        Ok(quality::compare(&original.frames, &self.frames).map_err(value_error)?.psnr)
    }
}

/// Runs beside those that computed every step.
#[pyclass]
pub(crate) struct Comparison {
    rows: Vec<Row>,
    strips: Vec<String>,
}

#[pymethods]
impl Comparison {
    #[new]
    fn new() -> Comparison {
        Comparison { rows: vec![], strips: vec![] }
    }

    /// Adds a run. `work`: that of each step relative to a computed one.
    #[allow(clippy::too_many_arguments)] // A row of a table.
    fn add(
        &mut self,
        prompt: String,
        seed: u64,
        cache: String,
        computed_steps: Vec<usize>,
        partial_steps: Vec<usize>,
        work: Vec<f64>,
        decisions: Vec<Decided>,
        seconds: f64,
        device: String,
        cache_bytes: usize,
        run: &Video,
        original: &Video,
    ) -> PyResult<f64> {
        let compared = quality::compare(&original.frames, &run.frames).map_err(value_error)?;
        let calm = quality::calm(&run.frames);
        let latents = quality::compare_latents(&original.latents, &run.latents).map_err(value_error)?;
        self.strips.push(BASE64_STANDARD.encode(run.frames.strip_png().map_err(value_error)?));
        let steps = work.len();
        self.rows.push(Row {
            prompt,
            seed,
            cache,
            steps,
            computed_steps,
            partial_steps,
            compute: work.iter().sum::<f64>() / steps.max(1) as f64,
            step_shares: work,
            decisions: decisions.into_iter().map(decision).collect(),
            seconds,
            device,
            cache_bytes,
            psnr: compared.psnr,
            ssim: compared.ssim,
            temporal_flickering: calm.temporal_flickering,
            motion_smoothness_pixels: calm.motion_smoothness_pixels,
            latents_relative_l2: latents.relative_l2,
            lpips: None,
            stlpips: None,
            equal_frames: compared.equal_frames,
            frames: compared.frames,
        });
        Ok(compared.psnr)
    }

    /// (`results.json`, `results.csv`, `index.html`); `about`: an object with what the runs have in common.
    fn finish(&self, about: &str) -> PyResult<(String, String, String)> {
        let mut results: Value = serde_json::from_str(about).map_err(value_error)?;
        results["summaries"] = json!(summarize(&self.rows));
        results["runs"] = json!(self.rows);
        let text = serde_json::to_string_pretty(&results).map_err(value_error)? + "\n";
        for (run, strip) in results["runs"].as_array_mut().into_iter().flatten().zip(&self.strips) {
            run["strip"] = Value::String(strip.clone());
        }
        Ok((text, csv(&self.rows), page(&results)))
    }
}

fn decision((step, distance, motion, motion_gradient, rate): Decided) -> Decision {
    Decision { step, distance, motion, motion_gradient, rate }
}

/// Real runs, made by a function of Python.
struct Runs<'py> {
    /// Takes a TOML text; gives of each prompt the computed steps, the decisions and the PSNR.
    generate: Bound<'py, PyAny>,
    /// What the function raised.
    raised: Option<PyErr>,
}

impl Bench for Runs<'_> {
    fn run(&mut self, cache: &CacheConfig) -> Result<Vec<Run>, CalibrateError> {
        let runs = cache
            .to_toml()
            .map_err(value_error)
            .and_then(|text| self.generate.call1((text,))?.extract::<Vec<(Vec<usize>, Vec<Decided>, f64)>>());
        let run = |(computed, decisions, psnr): (Vec<usize>, Vec<Decided>, f64)| Run {
            computed,
            decisions: decisions.into_iter().map(decision).collect(),
            psnr,
        };
        match runs {
            Ok(runs) => Ok(runs.into_iter().map(run).collect()),
            Err(error) => {
                self.raised = Some(error);
                Err(CalibrateError::Target("a run failed".into()))
            }
        }
    }
}

/// Finds a codebook for a speed-up. `traces`: of each prompt a recorded run; `deltas`: how far each step moves the latents; `presets`: the settings to
/// begin with; `reused`: the work of a reused step relative to a computed one. `generate` makes real runs. Returns the TOML text, the speed-up, the PSNR,
/// whether they meet the target, and the number of codebooks that were tried.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // As the package has them.
pub(crate) fn calibrate(
    traces: Vec<String>,
    deltas: Vec<f64>,
    presets: Vec<PyRef<'_, Config>>,
    target_speedup: f64,
    reused: f64,
    verify: usize,
    rounds: usize,
    generate: Bound<'_, PyAny>,
) -> PyResult<(String, f64, Option<f64>, bool, usize)> {
    let presets: Option<Vec<_>> = presets.iter().map(|preset| preset.0.adacache().cloned()).collect();
    let presets = presets.filter(|presets| !presets.is_empty());
    let presets = presets.ok_or_else(|| value_error("calibration begins with settings of AdaCache"))?;
    let (steps, target) = (deltas.len(), Target::SpeedUp(target_speedup));
    target.check(steps).map_err(value_error)?;
    let mut points = vec![];
    for point in presets.iter().flat_map(|preset| preset.points()) {
        if !points.contains(&point) {
            points.push(point);
        }
    }
    let tape = |text: &String| {
        Tape::new(&Trace::read(text.as_bytes()).map_err(value_error)?, &points, &deltas).map_err(value_error)
    };
    let tapes = traces.iter().map(tape).collect::<PyResult<Vec<Tape>>>()?;
    if tapes.is_empty() {
        return Err(value_error("no recorded run: give at least one prompt"));
    }
    const UNIT: f64 = 1e6;
    let flops = FlopCount {
        computed_step: UNIT as u64,
        reused_step: (reused * UNIT) as u64,
        total: 0,
        all_computed: UNIT as u64 * steps as u64,
    };
    let effort = Effort { orders: vec![], verify, rounds };
    let mut bench = Runs { generate, raised: None };
    match base::calibrate::calibrate(tapes, flops, &presets, target, &effort, &mut bench) {
        Ok(found) => {
            let best = &found.best;
            let text = best.cache().to_toml().map_err(value_error)?;
            Ok((text, best.achieved.speed_up(), best.achieved.psnr, found.met, found.tried.len()))
        }
        Err(error) => Err(bench.raised.unwrap_or_else(|| PyRuntimeError::new_err(error.to_string()))),
    }
}
