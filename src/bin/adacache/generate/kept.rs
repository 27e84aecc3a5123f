//! Which videos are there already: a file is taken for finished if it says that it was made with the settings asked for now.

use adacache::media::Output;
use adacache::pipeline::{Batch, How, ModelSource, PromptText, Settings};
use anyhow::bail;
use serde_json::{Value, json};

use super::args::Args;
use super::like::Like;
use crate::{out, runs};

/// One video to make.
pub(super) struct Video {
    pub(super) prompt: PromptText,
    pub(super) output: Output,
    pub(super) settings: Settings,
}

/// What is asked for besides prompts and outputs.
pub(super) struct Asked<'a> {
    pub(super) args: &'a Args,
    pub(super) source: &'a ModelSource,
    pub(super) how: How<'a>,
    /// Given frames and parts, by hashes and places.
    pub(super) given: Option<Value>,
    /// Hash of embeddings that are given.
    pub(super) embedding: Option<String>,
    /// Hash of initial noise that is given.
    pub(super) noise: Option<String>,
    /// The report that is repeated.
    pub(super) like: Option<&'a Like>,
}

impl Asked<'_> {
    /// The videos that are not finished, in batches that are made together.
    ///
    /// # Errors
    /// Files that were made with other settings, or that do not say with which, unless they may be overwritten.
    pub(super) fn unfinished(&self, jobs: Vec<(PromptText, Output)>) -> anyhow::Result<Vec<Vec<Video>>> {
        let args = self.args;
        let weights = runs::weights_hash(self.source, args.quiet)?;
        let (batch, all) = (usize::from(args.batch), jobs.len());
        let together = if args.per_sample { 1 } else { batch };
        let mut videos: Vec<Video> = vec![];
        for jobs in jobs.chunks(together) {
            let prompts: Vec<String> = jobs.iter().map(|(prompt, _)| prompt.to_string()).collect();
            let settings =
                |prompt: &PromptText| Settings { batch: Batch::of(&prompts), ..self.settings(&weights, prompt) };
            videos.extend(jobs.iter().map(|(prompt, output)| Video {
                settings: settings(prompt),
                prompt: prompt.clone(),
                output: output.clone(),
            }));
        }
        if let (Some(like), [video]) = (self.like, &videos[..]) {
            like.check(&video.settings, args.quiet)?;
        }
        let states: Vec<State> = videos.iter().map(State::of).collect();
        let problems: Vec<String> = videos.iter().zip(&states).filter_map(|(v, state)| state.problem(v)).collect();
        if !problems.is_empty() && !args.overwrite {
            bail!("{}\nname another --out, or replace what is there with --overwrite", problems.join("\n"));
        }
        // A single video is made again: whoever asks for it may want its report.
        let finished = |state: &State| args.prompts.is_some() && matches!(state, State::Same);
        // What is decided about together is made together again, or the rest of the batch would come out otherwise.
        let mut groups: Vec<Vec<Video>> = vec![];
        let mut waiting = videos.into_iter().zip(states).peekable();
        while waiting.peek().is_some() {
            let group: Vec<(Video, State)> = waiting.by_ref().take(together).collect();
            if group.iter().all(|(_, state)| finished(state)) {
                continue;
            }
            match groups.last_mut() {
                Some(last) if together == 1 && last.len() < batch => last.extend(group.into_iter().map(|(v, _)| v)),
                _ => groups.push(group.into_iter().map(|(video, _)| video).collect()),
            }
        }
        let done = all - groups.iter().map(Vec::len).sum::<usize>();
        if done > 0 && !args.quiet {
            out::note(format_args!("{done} of {all} videos are finished already"));
        }
        for video in groups.iter().flatten() {
            video.output.check_writable()?;
        }
        Ok(groups)
    }

    fn settings(&self, weights: &str, prompt: &PromptText) -> Settings {
        let args = self.args;
        let default = self.source.config().negative_prompt;
        let (embeds, scored) = (self.source.inputs().text && self.embedding.is_none(), default.is_none());
        Settings {
            embedding: self.embedding.clone(),
            negative: args.negative_prompt.clone().or(default.map(str::to_owned)).filter(|_| embeds),
            noise: self.noise.clone(),
            scores: if embeds && scored { json!(args.scores()) } else { Value::Null },
            packed_cache: args.fp8_cache,
            given: self.given.clone(),
            ..Settings::new(self.source, weights, prompt.to_string(), &self.how)
        }
    }
}

/// What is at the place of a video.
enum State {
    Nothing,
    /// A video of the same settings.
    Same,
    /// A video of others, and how they differ.
    Other(Vec<String>),
    /// Something that does not say how it was made.
    Unknown,
}

impl State {
    fn of(video: &Video) -> State {
        if !video.output.is_finished() {
            return State::Nothing;
        }
        let Some(made) = video.output.settings().as_deref().and_then(Settings::read) else { return State::Unknown };
        match made.differences(&video.settings) {
            differences if differences.is_empty() => State::Same,
            differences => State::Other(differences.into_iter().map(|(_, words)| words).collect()),
        }
    }

    fn problem(&self, video: &Video) -> Option<String> {
        let output = &video.output;
        match self {
            State::Nothing | State::Same => None,
            State::Other(differences) => {
                Some(format!("`{output}` is there, made with other settings: {}", differences.join("; ")))
            }
            State::Unknown => Some(format!(
                "`{output}` is there and does not say with which settings it was made: it is another program's, or an older version's"
            )),
        }
    }
}
