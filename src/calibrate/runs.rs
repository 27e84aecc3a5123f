//! Real runs, kept in a folder: existing ones are not repeated.
//!
//! Each prompt has a folder named after it and a hash of everything that its video depends on: `trace.jsonl`, `frames/`, `settings.json` and
//! `flops.json` of the run with every step computed, and `<hash of the settings>.json` for each codebook it was generated with. Files are written
//! atomically, `flops.json` last.

use std::fs::{self, File};
use std::io::BufReader;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use super::error::CalibrateError;
use super::target::{Bench, Run, Tried};
use crate::cache::trace::Trace;
use crate::cache::{CacheConfig, ComputeAll, Decision, Policy};
use crate::media::{Frames, Media, Output, write_file};
use crate::pipeline::{FlopCount, Pipeline, PipelineError, Request, Settings};
use crate::quality;
use crate::sampler::StepEvent;

/// Hexadecimal digits of the hashes in names.
const DIGITS: usize = 12;
/// The file that says what a run depends on.
const SETTINGS: &str = "settings.json";
/// Settings that change without anybody asking for other videos.
const BEHIND: [&str; 6] = ["weights", "model", "kernels", "results", "embedding", "device"];

/// A prompt with every step computed.
struct Original {
    request: Request,
    folder: PathBuf,
    frames: Frames,
}

/// Prompts and the folder of their runs.
pub struct Studio<'a> {
    pipeline: &'a Pipeline,
    originals: Vec<Original>,
    watch: &'a mut dyn Watch,
}

/// Receives progress.
pub trait Watch {
    /// Another video of `what` is finished, or already existed.
    fn finished(&mut self, what: &str, done: usize, all: usize);
    /// A codebook was tried with all prompts.
    fn tried(&mut self, tried: &Tried);
    /// Whether the user wants to stop.
    fn stop(&mut self) -> bool;
}

/// A run in its stored form.
#[derive(Serialize, Deserialize)]
struct Kept {
    computed: Vec<usize>,
    decisions: Vec<Decision>,
    /// PSNR in dB; `None` if the videos are equal.
    psnr: Option<f64>,
}

/// A short hash of `text`.
pub fn hash(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    let mut hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    hex.truncate(DIGITS);
    hex
}

impl<'a> Studio<'a> {
    /// Generates each of `requests` with every step computed, measuring the probes of `recorder`, unless it is in `folder` already; returns
    /// the studio, the traces and the work of a run. `weights`: [`weights_hash`](crate::pipeline::weights_hash) of the model.
    ///
    /// # Errors
    /// A run failed or was stopped; a file cannot be written or read.
    pub fn open(
        pipeline: &'a Pipeline,
        requests: Vec<Request>,
        recorder: &ComputeAll,
        folder: &Path,
        weights: &str,
        watch: &'a mut dyn Watch,
    ) -> Result<(Studio<'a>, Vec<Trace>, FlopCount), CalibrateError> {
        let all = requests.len();
        let mut studio = Studio { pipeline, originals: vec![], watch };
        let (mut traces, mut flops) = (vec![], None);
        for request in requests {
            let settings = pipeline.settings(weights, "none", &request);
            let depends = format!("{}\n{:?}\nall folds", settings.key(), recorder.probes());
            let slug = request.prompt.slug();
            let kept = folder.join(format!("{slug}-{}", hash(&depends)));
            if !kept.is_dir() {
                tell_unused(folder, slug, &settings);
            }
            let (trace, frames, count) = studio.original(&request, recorder, &settings, &kept)?;
            traces.push(trace);
            flops = Some(count);
            studio.originals.push(Original { request, folder: kept, frames });
            studio.watch.finished("every step computed", traces.len(), all);
        }
        let flops = flops.ok_or_else(|| CalibrateError::Target("there are no prompts".into()))?;
        Ok((studio, traces, flops))
    }

    fn original(
        &mut self,
        request: &Request,
        recorder: &ComputeAll,
        settings: &Settings,
        folder: &Path,
    ) -> Result<(Trace, Frames, FlopCount), CalibrateError> {
        let (trace, frames, flops) = (folder.join("trace.jsonl"), folder.join("frames"), folder.join("flops.json"));
        if !flops.is_file() {
            fs::create_dir_all(folder).map_err(|source| CalibrateError::io(folder, source))?;
            let watch = &mut *self.watch;
            let generation = self.pipeline.record(request, recorder, &mut stopping(watch))?;
            let mut text = vec![];
            generation.trace.write(&mut text)?;
            generation.write(&Output::new(format!("{}/", frames.display())).map_err(PipelineError::from)?)?;
            write(&trace, &text)?;
            write(&folder.join(SETTINGS), settings.to_json().as_bytes())?;
            write(&flops, &json(&generation.report.flops))?;
        }
        let file = File::open(&trace).map_err(|source| CalibrateError::io(&trace, source))?;
        let read = Trace::read(BufReader::new(file))?;
        let Media::Frames(frames) = Media::read(&frames)? else {
            return Err(CalibrateError::Target(format!("{} holds no frames: remove its folder", frames.display())));
        };
        Ok((read, frames, read_json(&flops)?))
    }

    /// Generates prompt `i` with `cache`, or reads the stored run.
    fn one(&mut self, i: usize, cache: &CacheConfig) -> Result<Run, CalibrateError> {
        let Original { request, folder, frames } = &self.originals[i];
        let path = folder.join(format!("{}.json", hash(&String::from_utf8_lossy(&json(cache)))));
        if !path.is_file() {
            let request = Request { cache: cache.clone(), ..request.clone() };
            let watch = &mut *self.watch;
            let generation = self.pipeline.generate(&request, &mut stopping(watch))?;
            let made = generation.frames.as_ref().unwrap_or(frames);
            let psnr = quality::compare(frames, made)?.psnr;
            let kept = Kept {
                computed: generation.report.computed_steps,
                decisions: generation.report.decisions,
                psnr: psnr.is_finite().then_some(psnr),
            };
            write(&path, &json(&kept))?;
        }
        let Kept { computed, decisions, psnr } = read_json(&path)?;
        Ok(Run { computed, decisions, psnr: psnr.unwrap_or(f64::INFINITY) })
    }
}

impl Bench for Studio<'_> {
    fn run(&mut self, cache: &CacheConfig) -> Result<Vec<Run>, CalibrateError> {
        let all = self.originals.len();
        let one = |i| -> Result<Run, CalibrateError> {
            let run = self.one(i, cache)?;
            self.watch.finished("a codebook", i + 1, all);
            Ok(run)
        };
        (0..all).map(one).collect()
    }

    fn tried(&mut self, tried: &Tried) {
        self.watch.tried(tried);
    }
}

/// Says which kept runs of a prompt are not used although nothing else was asked for: those of other weights or of an older version.
fn tell_unused(folder: &Path, slug: &str, asked: &Settings) {
    for kept in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let name = kept.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let is_its = name.strip_prefix(slug).and_then(|rest| rest.strip_prefix('-')).is_some_and(|h| h.len() == DIGITS);
        if !is_its || !kept.join("flops.json").is_file() {
            continue;
        }
        match fs::read_to_string(kept.join(SETTINGS)).ok().as_deref().and_then(Settings::read) {
            None => tracing::warn!(
                "{} is not used: it is of an older version, which does not say what it depends on",
                kept.display()
            ),
            Some(made) => {
                let differences = made.differences(asked);
                let words: Vec<&str> = differences.iter().map(|(_, words)| &words[..]).collect();
                if differences.iter().all(|(field, _)| BEHIND.contains(&&field[..])) && !words.is_empty() {
                    tracing::warn!(
                        "{} is not used: it was made with other settings ({})",
                        kept.display(),
                        words.join("; ")
                    );
                }
            }
        }
    }
}

fn stopping(watch: &mut dyn Watch) -> impl FnMut(&StepEvent) -> ControlFlow<()> {
    move |_| if watch.stop() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// JSON of types that always have a JSON form.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), CalibrateError> {
    Ok(write_file(path, bytes).map_err(PipelineError::from)?)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, CalibrateError> {
    let bytes = fs::read(path).map_err(|source| CalibrateError::io(path, source))?;
    serde_json::from_slice(&bytes).map_err(|source| CalibrateError::io(path, source.into()))
}
