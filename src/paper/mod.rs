//! The tables of AdaCache's paper (arXiv 2411.02397): its figures, and the same runs counted and modelled here.

mod ablation;
mod published;

use serde::Serialize;

pub use ablation::{Variant, ablation};
pub use published::{Figures, Line, SYSTEMS, System, lines};

use crate::cache::CacheConfig;
use crate::chips::Chip;
use crate::pipeline::{Job, PipelineError, cache_config};
use crate::plan::{Estimate, Expected, Total};
use crate::profile::{Cost, Efficiency};

/// A run of a line, counted and modelled: all denoising steps, and decoding.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Counted {
    /// Why it has this number of computed calls.
    pub because: Because,
    /// Calls of the transformer that compute all of it. A fraction stands for the mean of many videos.
    pub computed_calls: f64,
    /// Calls that compute a part of it.
    pub partial_calls: usize,
    /// Tera-operations of matrix products.
    pub tflop: f64,
    /// The same as the published figure counts them: see [`System::sees_attention`].
    pub tflop_as_published: f64,
    /// Modelled seconds.
    pub modelled_seconds: f64,
    /// Modelled speed-up over computing every step.
    pub modelled_speedup: f64,
}

/// Where a number of computed calls is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Because {
    /// The policy has its plan before the first step.
    Plan,
    /// The published operations amount to it.
    PublishedWork,
    /// The published seconds amount to it; no operations were published.
    PublishedSeconds,
    /// Nothing changes: the fewest that the policy allows.
    Fewest,
    /// Everything changes: the most that the policy allows.
    Most,
}

/// A line of a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// The method, as the paper calls it.
    pub method: &'static str,
    /// The preset.
    pub cache: &'static str,
    /// Its settings.
    pub settings: CacheConfig,
    /// The run here: one, or of a policy that decides by what it measures, where nothing was published, the two ends of its range.
    pub counted: Vec<Counted>,
    /// The paper's figures.
    pub published: Figures,
}

/// Operations and modelled seconds of a part of a run.
#[derive(Clone, Copy, Default)]
struct Work {
    flops: f64,
    attention: f64,
    seconds: f64,
}

impl Work {
    fn of(cost: &Cost) -> Work {
        Work { flops: cost.flops as f64, attention: cost.attention_flops() as f64, seconds: cost.modelled_seconds }
    }

    fn of_total(total: &Total) -> Work {
        Work { flops: total.flops, attention: total.attention_flops, seconds: total.modelled_seconds }
    }

    fn plus(self, other: Work, times: f64) -> Work {
        Work {
            flops: self.flops + times * other.flops,
            attention: self.attention + times * other.attention,
            seconds: self.seconds + times * other.seconds,
        }
    }

    fn counted(self, sees_attention: bool, because: Because, computed_calls: f64, partial_calls: usize) -> Counted {
        let seen = if sees_attention { self.flops } else { self.flops - self.attention };
        Counted {
            because,
            computed_calls,
            partial_calls,
            tflop: self.flops / 1e12,
            tflop_as_published: seen / 1e12,
            modelled_seconds: self.seconds,
            modelled_speedup: 1.0,
        }
    }
}

/// Counts the lines of a table for `job`, whose own policy does not matter, on `gpu`; the first line computes every step. `decoding`: that of
/// the job, which every line includes. `sees_attention`: see [`System`].
///
/// # Errors
/// As [`Job::estimate`].
pub fn count(
    job: &Job,
    decoding: Option<&Cost>,
    gpu: &Chip,
    efficiency: &Efficiency,
    lines: &[Line],
    sees_attention: bool,
) -> Result<Vec<Entry>, PipelineError> {
    let decoding = decoding.map(Work::of).unwrap_or_default();
    let base = lines.first().map(|line| line.published).unwrap_or_default();
    let mut entries: Vec<Entry> = vec![];
    for line in lines {
        let settings = cache_config(&job.source, line.cache, false, job.steps)?;
        let job = Job { cache: settings.clone(), decodes: false, ..job.clone() };
        let estimate = job.estimate(gpu, efficiency.clone(), &Expected::Bounds)?;
        let totals = estimate.totals.iter().map(|total| (total, Work::of_total(total).plus(decoding, 1.0)));
        let totals: Vec<(&Total, Work)> = totals.collect();
        let own = |(total, work): &(&Total, Work), because| {
            work.counted(sees_attention, because, total.computed_steps as f64, total.partial_steps)
        };
        let mut counted = match (&totals[..], calls(&estimate, line.published, base, decoding)) {
            // Every step computed, alone or beside a plan.
            ([every], _) => vec![own(every, Because::Plan)],
            ([_, planned], _) => vec![own(planned, Because::Plan)],
            (_, Some((because, computed))) => {
                let reused = estimate.reused_step.as_ref().map(Work::of).unwrap_or_default();
                let work = decoding.plus(Work::of(&estimate.computed_step), computed);
                let work = work.plus(reused, estimate.totals[0].computed_steps as f64 - computed);
                vec![work.counted(sees_attention, because, computed, 0)]
            }
            ([_, most, fewest, ..], None) => vec![own(fewest, Because::Fewest), own(most, Because::Most)],
            ([], None) => vec![],
        };
        let every = totals.first().map_or(0.0, |(_, work)| work.seconds);
        counted.iter_mut().for_each(|run| run.modelled_speedup = every / run.modelled_seconds);
        let Line { method, cache, published } = *line;
        entries.push(Entry { method, cache, settings, counted, published });
    }
    Ok(entries)
}

/// The computed calls that published figures amount to, `base` being those of every step computed: of the operations beside decoding, a
/// share as large as the share of calls.
fn calls(estimate: &Estimate, of: Figures, base: Figures, decoding: Work) -> Option<(Because, f64)> {
    let calls = estimate.totals.first()?.computed_steps as f64;
    let decoding = (decoding.flops - decoding.attention) / 1e12;
    let work = of.tflop.zip(base.tflop).map(|(of, base)| (of - decoding) / (base - decoding));
    let seconds = of.seconds.zip(base.seconds).map(|(of, base)| of / base);
    let share = work.map(|share| (Because::PublishedWork, share));
    let share = share.or_else(|| seconds.map(|share| (Because::PublishedSeconds, share)));
    share.map(|(because, share)| (because, calls * share))
}

#[cfg(test)]
mod tests;
