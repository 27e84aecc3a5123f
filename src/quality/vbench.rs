//! Prepares files for the custom-input mode of the package `vbench` (0.1), runs its command, and reads its results.
//!
//! The custom-input mode takes a folder of mp4 files and a JSON object of their prompts. The command exits with status 0 even if it failed,
//! so success is judged by whether it wrote results.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;
use serde_json::Value;

use crate::media::{self, Media, Metadata, Output, OutputError, ReadError, write_file};
use crate::pipeline::Report;

/// The default dimensions for custom input: those that depend on the video alone.
pub const DIMENSIONS: [&str; 6] = [
    "subject_consistency",
    "background_consistency",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
];

/// Names inside the folder. They are relative and contain no spaces: the command joins its arguments for a shell.
const VIDEOS: &str = "videos";
const PROMPTS: &str = "prompts.json";
const RESULTS: &str = "results";

/// Why there are no scores.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VBenchError {
    /// An argument contains no video.
    #[error("{} is neither a video, a folder of .mp4 files or of pictures, nor the folder of a comparison", .0.display())]
    NoVideo(PathBuf),
    /// The folder is in use.
    #[error("the folder {} is not empty: name another, or remove it", .0.display())]
    Occupied(PathBuf),
    /// A name that the command's shell would split or interpret.
    #[error("`{0}` is not a VBench dimension: names have letters and underscores")]
    Dimension(String),
    /// A video cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A video cannot be written.
    #[error(transparent)]
    Write(#[from] OutputError),
    /// A file or folder cannot be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The command is not installed.
    #[error(
        "the command `vbench` is not installed: pip install vbench (it needs PyTorch and an NVIDIA GPU). The videos are laid out in {}", .0.display()
    )]
    NotInstalled(PathBuf),
    /// The command ran and left no results.
    #[error("`vbench` left no results in {} (it ended with {status}); its messages are above", folder.display())]
    Failed {
        /// The folder where they should be.
        folder: PathBuf,
        /// Its exit status.
        status: String,
    },
    /// Its results do not have the expected form.
    #[error("the results of `vbench` in {} cannot be read: {problem}", file.display())]
    Results {
        /// The file.
        file: PathBuf,
        /// The problem.
        problem: String,
    },
}

/// A video to score.
struct Video {
    /// Its group: the policy in a comparison, otherwise the argument's name.
    group: String,
    /// Its name, unique among the videos.
    name: String,
    /// Its prompt; two of VBench's dimensions use it.
    prompt: String,
    /// An .mp4 file, or a path that [`Media::read`] accepts.
    path: PathBuf,
}

/// The scores of one video, from 0 to 1, higher is better (for `dynamic_degree`: more motion).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scores {
    /// Its group: the policy in a comparison, otherwise the argument's name.
    pub group: String,
    /// Its name, unique among the videos.
    pub name: String,
    /// Scores by dimension.
    pub scores: BTreeMap<String, f64>,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> VBenchError {
    move |source| VBenchError::Io { path: path.to_owned(), source }
}

/// The entries of a folder, in natural order.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, VBenchError> {
    media::entries(folder).map_err(at(folder))
}

fn ends_in(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(ending))
}

fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(|| "video".into(), |stem| stem.to_string_lossy().into_owned())
}

/// Whether the command `vbench` is in the path.
pub fn is_installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join("vbench").is_file())
}

/// Scores the videos in `inputs` (paths that [`Media::read`] accepts, folders of .mp4 files, folders written by `adacache compare`) by
/// `dimensions`. The new or empty `folder` receives the videos as .mp4, with `fps` frames per second for folders of pictures, and VBench's
/// results.
///
/// # Errors
/// An input that contains no video or cannot be read, a folder that is not empty; the command is not installed, or left no results.
pub fn score(inputs: &[PathBuf], dimensions: &[String], folder: &Path, fps: f64) -> Result<Vec<Scores>, VBenchError> {
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    if let Some(name) = dimensions.iter().find(|name| !is_name(name)) {
        return Err(VBenchError::Dimension(name.clone()));
    }
    let videos = collect(inputs)?;
    lay_out(&videos, folder, fps)?;
    evaluate(&videos, folder, dimensions)
}

fn collect(inputs: &[PathBuf]) -> Result<Vec<Video>, VBenchError> {
    let mut videos: Vec<Video> = vec![];
    let mut add = |group: String, name: String, prompt: String, path: PathBuf| {
        let name = format!("{:03}-{name}", videos.len());
        videos.push(Video { group, name, prompt, path });
    };
    for input in inputs {
        if input.is_file() {
            add(stem(input), stem(input), stem(input), input.clone());
            continue;
        }
        let inside = if input.is_dir() { entries(input)? } else { vec![] };
        let mut found = false;
        if inside.iter().any(|path| media::is_picture(path)) {
            add(stem(input), stem(input), stem(input), input.clone());
            found = true;
        }
        for path in inside.iter().filter(|path| ends_in(path, "mp4") && path.is_file()) {
            add(stem(input), stem(path), stem(path), path.clone());
            found = true;
        }
        for run in if input.join("runs").is_dir() { entries(&input.join("runs"))? } else { vec![] } {
            for policy in entries(&run)? {
                let report = policy.join("report.json");
                // Without its report a run is not finished.
                let Ok(text) = fs::read_to_string(&report) else { continue };
                let report: Report = serde_json::from_str(&text)
                    .map_err(|e| VBenchError::Results { file: report.clone(), problem: e.to_string() })?;
                let group = policy.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let name = format!("{}-{group}", run.file_name().unwrap_or_default().to_string_lossy());
                add(group, name, report.prompt, policy.join("frames"));
                found = true;
            }
        }
        if !found {
            return Err(VBenchError::NoVideo(input.clone()));
        }
    }
    Ok(videos)
}

fn lay_out(videos: &[Video], folder: &Path, fps: f64) -> Result<(), VBenchError> {
    let inside = folder.join(VIDEOS);
    if folder.is_dir() && fs::read_dir(folder).map_err(at(folder))?.next().is_some() {
        return Err(VBenchError::Occupied(folder.to_owned()));
    }
    fs::create_dir_all(&inside).map_err(at(&inside))?;
    let mut prompts = serde_json::Map::new();
    for Video { name, prompt, path, .. } in videos {
        let file = inside.join(format!("{name}.mp4"));
        if ends_in(path, "mp4") {
            fs::copy(path, &file).map_err(at(path))?;
        } else {
            let Media::Frames(mut frames) = Media::read(path)? else { return Err(VBenchError::NoVideo(path.clone())) };
            if path.is_dir() {
                frames.fps = fps;
            }
            Output::new(&file)?.write_frames(
                &frames,
                &Metadata { prompt: prompt.clone(), ..Metadata::default() },
                None,
            )?;
        }
        prompts.insert(format!("{name}.mp4"), prompt.clone().into());
    }
    Ok(write_file(&folder.join(PROMPTS), Value::Object(prompts).to_string().as_bytes())?)
}

/// Runs the command on the content of `folder`.
fn evaluate(videos: &[Video], folder: &Path, dimensions: &[String]) -> Result<Vec<Scores>, VBenchError> {
    let mut command = Command::new("vbench");
    command.current_dir(folder).arg("evaluate").args(["--videos_path", VIDEOS, "--output_path", RESULTS]);
    command.args(["--mode", "custom_input", "--prompt_file", PROMPTS, "--dimension", &dimensions.join(" ")]);
    // Its messages are no results of ours.
    let status = match command.stdout(io::stderr()).status() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(VBenchError::NotInstalled(folder.to_owned())),
        other => other.map_err(at(Path::new("vbench")))?,
    };
    let results = folder.join(RESULTS);
    let files = if results.is_dir() { entries(&results)? } else { vec![] };
    match files.iter().find(|file| file.to_string_lossy().ends_with("_eval_results.json")) {
        Some(file) if status.success() => read(videos, file),
        _ => Err(VBenchError::Failed { folder: results, status: status.to_string() }),
    }
}

/// `{"dimension": [mean, [{"video_path": "videos/NAME.mp4", "video_results": score}, …]], …}`
fn read(videos: &[Video], file: &Path) -> Result<Vec<Scores>, VBenchError> {
    let failed = |problem: String| VBenchError::Results { file: file.to_owned(), problem };
    let text = fs::read_to_string(file).map_err(at(file))?;
    let results: BTreeMap<String, Value> = serde_json::from_str(&text).map_err(|e| failed(e.to_string()))?;
    let mut scores: Vec<Scores> = videos
        .iter()
        .map(|v| Scores { group: v.group.clone(), name: v.name.clone(), scores: BTreeMap::new() })
        .collect();
    for (dimension, result) in results {
        for video in result[1].as_array().ok_or_else(|| failed(format!("`{dimension}` lists no videos")))? {
            let path = Path::new(video["video_path"].as_str().unwrap_or_default());
            let score = match &video["video_results"] {
                // Whether anything moves at all (dynamic_degree).
                Value::Bool(yes) => Some(f64::from(u8::from(*yes))),
                // From 0 to 100 by videos, from 0 to 1 in VBench's own mean of them.
                percent if dimension == "imaging_quality" => percent.as_f64().map(|percent| percent / 100.0),
                other => other.as_f64(),
            };
            let of = scores.iter_mut().find(|scores| scores.name == stem(path));
            let (Some(of), Some(score)) = (of, score) else {
                return Err(failed(format!("`{dimension}` holds {video}")));
            };
            of.scores.insert(dimension.clone(), score);
        }
    }
    Ok(scores)
}
