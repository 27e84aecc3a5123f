//! The counted tables against the published ones.

use super::*;
use crate::family;
use crate::tensor::DType;

fn counted(system: &System) -> Vec<Entry> {
    let source = family::published(system.model, &system.options()).unwrap();
    let job = Job { steps: system.steps, ..Job::usual(&source, DType::Bf16).unwrap() };
    let gpu = Chip::named("a100").unwrap();
    let efficiency = Efficiency::assumed(gpu);
    let decoding = job.decoding(gpu, &efficiency).unwrap();
    count(&job, decoding.as_ref(), gpu, &efficiency, system.lines, system.sees_attention).unwrap()
}

/// Every method's operations are the published ones within 2 %: what each reuses, and when, is what ran there. Methods that decide by what
/// they measure are led back to a number of calls by these operations, which has to lie within what they allow.
#[test]
fn operations_are_the_published_ones() {
    for system in SYSTEMS.iter().filter(|system| system.lines[0].published.tflop.is_some()) {
        let entries = counted(system);
        assert_eq!(entries.len(), 8);
        for entry in &entries {
            let [run] = &entry.counted[..] else { panic!("{}: {:?}", entry.method, entry.counted) };
            let published = entry.published.tflop.unwrap();
            let off = run.tflop_as_published / published - 1.0;
            assert!(off.abs() < 0.02, "{}, {}: {off:+.4}", system.name, entry.method);
            let adapts = entry.cache.starts_with("adacache");
            assert_eq!(run.because, if adapts { Because::PublishedWork } else { Because::Plan }, "{}", entry.method);
            if adapts {
                assert!(run.modelled_speedup > 1.2 && run.computed_calls > 3.0, "{run:?}");
            }
        }
        assert_eq!(entries[0].counted[0].modelled_speedup, 1.0);
    }
}

/// Of 720p seconds alone were published: 21 of 100 steps.
#[test]
fn without_operations_the_seconds_count() {
    let entries = counted(System::named("opensora-720p").unwrap());
    let run = &entries[1].counted[0];
    assert_eq!(run.because, Because::PublishedSeconds);
    assert!((run.computed_calls - 100.0 * 89.53 / 419.60).abs() < 1e-9);
    assert!(run.modelled_speedup > 4.0 && run.modelled_speedup < 100.0 / run.computed_calls);
}

/// A model that the paper does not have shows the ends of what a policy allows.
#[test]
fn other_models_have_a_range() {
    let source = family::sprites();
    let job = Job::usual(&source, DType::Bf16).unwrap();
    let gpu = Chip::named("h100").unwrap();
    let entries = count(&job, None, gpu, &Efficiency::assumed(gpu), &lines(), true).unwrap();
    let fast = entries.iter().find(|entry| entry.cache == "adacache-fast").unwrap();
    let [fewest, most] = &fast.counted[..] else { panic!() };
    assert_eq!((fewest.because, most.because), (Because::Fewest, Because::Most));
    assert!(fewest.computed_calls < most.computed_calls && fewest.tflop < most.tflop);
}

#[test]
fn variants_differ_in_one_setting_each() {
    let source = family::sprites();
    let presets = source.presets(30).unwrap();
    let variants = ablation(&presets, source.anatomy(), 30);
    for (i, variant) in variants.iter().enumerate() {
        variant.cache().validate_for(source.anatomy(), 16).unwrap();
        assert!(variants[..i].iter().all(|other| other.name != variant.name && other.settings != variant.settings));
        let (usual, own) = (&variants[0].settings, &variant.settings);
        let changed = [
            ("metric", usual.metric != own.metric),
            ("probe", usual.residual != own.residual),
            ("place", usual.blocks != own.blocks),
            ("codebook", usual.codebook != own.codebook || usual.moreg != own.moreg),
        ];
        let changed: Vec<&str> = changed.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect();
        assert_eq!(changed, if i == 0 { vec![] } else { vec![variant.changes] }, "{}", variant.name);
    }
    for changes in ["metric", "probe", "place", "codebook"] {
        assert!(variants.iter().filter(|variant| variant.changes == changes).count() >= 2, "{changes}");
    }
}
