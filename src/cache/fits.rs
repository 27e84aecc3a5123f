//! Whether a policy, also one from outside the crate, fits a model: its probes, head and groups exist there.

use super::anatomy::Anatomy;
use super::block::Span;
use super::point::{ProbePoint, Site};
use super::policy::{Policy, Probes, Reused};
use super::settings::{CacheError, invalid};

/// Checks the probes, the head and the groups of `policy` against a model of this anatomy that generates `frames` frames of tokens.
///
/// # Errors
/// [`CacheError::Invalid`] with what does not exist and what there is.
pub fn check_fits(policy: &dyn Policy, anatomy: &Anatomy, frames: usize) -> Result<(), CacheError> {
    let (name, head, Probes { points, strides }) = (policy.name(), policy.head(), policy.probes());
    if head > anatomy.blocks() {
        let blocks = anatomy.blocks();
        return invalid(format!(
            "policy `{name}` plans after {head} blocks, and the model has {blocks}: 0 to {blocks}"
        ));
    }
    for &point in &points {
        check_point(name, point, &points, anatomy, head)?;
    }
    if let Some(stride) = strides.iter().find(|stride| !(1..frames).contains(*stride)) {
        let range =
            if frames > 1 { format!("1 to {}", frames - 1) } else { "none, so it cannot measure motion".into() };
        return invalid(format!(
            "policy `{name}` measures motion between frames {stride} apart; in {frames} frames that is {range}"
        ));
    }
    let (groups, modules) = (policy.groups(), anatomy.modules());
    let beyond = groups.iter().flat_map(|group| &group.runs).find(|run| run.start >= run.end || run.end > modules);
    if let Some(run) = beyond {
        let last = modules.saturating_sub(1);
        return invalid(format!("policy `{name}` reuses modules {run:?}, and the model has modules 0 to {last}"));
    }
    if groups.len() > u32::BITS as usize {
        return invalid(format!("policy `{name}` has {} groups: 0 to {}", groups.len(), u32::BITS));
    }
    if !groups.is_empty() && (policy.reuses() || head > 0 || !points.is_empty()) {
        return invalid(format!(
            "policy `{name}` reuses groups of the model's {modules} modules, so it can neither probe nor reuse whole forwards"
        ));
    }
    let whole = policy.reuses() && policy.reused() == Reused::Fold && groups.is_empty() && head == 0;
    if policy.decides_halves() && !(whole && points.is_empty()) {
        return invalid(format!(
            "policy `{name}` decides about each half of guidance, so it can reuse folds of whole forwards only, and not probe"
        ));
    }
    Ok(())
}

/// Checks one probe point.
fn check_point(
    name: &str,
    point: ProbePoint,
    points: &[ProbePoint],
    anatomy: &Anatomy,
    head: usize,
) -> Result<(), CacheError> {
    if points.iter().filter(|other| **other == point).count() > 1 {
        return invalid(format!("policy `{name}` probes `{point}` twice"));
    }
    let ProbePoint::Residual { span, site, .. } = point else { return Ok(()) };
    let Some(block) = anatomy.block_of(point) else {
        return invalid(format!(
            "policy `{name}` probes `{point}`, which the model does not have: {}",
            layers(anatomy)
        ));
    };
    if !anatomy.modules_of(block).iter().any(|module| site.contains(*module)) {
        let parts = format!("block `{}.{}` has no such part", span.name(), anatomy.layer(block));
        return invalid(format!("policy `{name}` probes `{point}`, and {parts}"));
    }
    if site == Site::CrossMlp && points.contains(&anatomy.probe(block, Site::Whole)) {
        let whole = anatomy.probe(block, Site::Whole);
        return invalid(format!("policy `{name}` probes `{point}` and `{whole}`, which cannot both be measured"));
    }
    if head > 0 && block >= head {
        return invalid(format!("policy `{name}` plans after {head} blocks, but probes `{point}`, which comes later"));
    }
    Ok(())
}

/// The blocks of a model by the names of probes: `spatial.0 to spatial.4, temporal.0 to temporal.4`.
fn layers(anatomy: &Anatomy) -> String {
    let of = |span: Span| {
        let count = (0..anatomy.blocks()).filter(|block| anatomy.span(*block) == span).count();
        let name = span.name();
        (count > 0).then(|| format!("{name}.0 to {name}.{}", count - 1))
    };
    Span::ALL.into_iter().filter_map(of).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Decision, Measurement, ModuleGroup, Plan};

    #[derive(Default)]
    struct Asking {
        probes: Probes,
        head: usize,
        groups: Vec<ModuleGroup>,
    }

    impl Policy for Asking {
        fn name(&self) -> &str {
            "asking"
        }
        fn plan(&mut self, _step: usize) -> Plan {
            Plan::Compute
        }
        fn probes(&self) -> Probes {
            self.probes.clone()
        }
        fn reuses(&self) -> bool {
            false
        }
        fn groups(&self) -> Vec<ModuleGroup> {
            self.groups.clone()
        }
        fn head(&self) -> usize {
            self.head
        }
        fn observe(&mut self, _step: usize, _probe: usize, _measurement: &Measurement) -> Option<Decision> {
            None
        }
    }

    fn refused(policy: &Asking, frames: usize) -> String {
        check_fits(policy, &Anatomy::spatial_temporal(5), frames).unwrap_err().to_string()
    }

    #[test]
    fn what_a_model_does_not_have_is_told_with_the_range() {
        let at = |points: &[&str]| Asking {
            probes: Probes::at(points.iter().map(|point| point.parse().unwrap()).collect::<Vec<_>>()),
            ..Asking::default()
        };
        let fits = |policy: &Asking| check_fits(policy, &Anatomy::spatial_temporal(5), 16);
        fits(&at(&["latents", "spatial.4.whole", "temporal.4.attention", "prediction"])).unwrap();
        for (points, part) in [
            (&["temporal.99.attention"][..], "`temporal.99.attention`"),
            (&["temporal.5.attention"], "spatial.0 to spatial.4, temporal.0 to temporal.4"),
            (&["block.0.whole"], "temporal.0 to temporal.4"),
            (&["fold", "fold"], "twice"),
            (&["spatial.0.cross-mlp", "spatial.0.whole"], "cannot both"),
        ] {
            let message = refused(&at(points), 16);
            assert!(message.contains(part), "{points:?}: {message}");
        }
        let motion = |stride| Asking {
            probes: Probes { strides: vec![stride], ..at(&["spatial.0.whole"]).probes },
            ..Asking::default()
        };
        fits(&motion(15)).unwrap();
        for stride in [0, 16, 99] {
            let message = refused(&motion(stride), 16);
            assert!(message.contains(&format!("{stride} apart")) && message.contains("1 to 15"), "{message}");
        }
        assert!(refused(&motion(1), 1).contains("cannot measure motion"));
        fits(&Asking { head: 10, ..Asking::default() }).unwrap();
        for head in [11, 1000, usize::MAX] {
            assert!(refused(&Asking { head, ..Asking::default() }, 16).contains("0 to 10"), "{head}");
        }
        let late = Asking { head: 2, ..at(&["spatial.3.whole"]) };
        assert!(refused(&late, 16).contains("comes later"));
        #[allow(clippy::single_range_in_vec_init)] // One run.
        let group = |run| Asking { groups: vec![ModuleGroup { runs: vec![run] }], ..Asking::default() };
        fits(&group(29..30)).unwrap();
        for run in [29..31, 1000..1001, 3..3] {
            assert!(refused(&group(run.clone()), 16).contains("modules 0 to 29"), "{run:?}");
        }
    }
}
