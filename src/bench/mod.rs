//! Microbenchmarks of single operations, in the manner of nvbench: warm-up, cold and batched times, median and noise, the share of
//! what the chip could do. On the virtual GPU there are counters and the CPU's wall clock, labelled as such.

mod differ;
mod measure;
mod shapes;

pub use differ::Difference;
pub use measure::{BenchResult, Budget, Counted, Timing};
pub use shapes::{
    AttentionKind, AttentionShape, Case, Epilogue, LinearShape, NormKind, NormShape, Op, Prepared, ResidualKind,
    ResidualShape, SamplerShape, Shapes, ShapesError,
};

use crate::device::{Device, VmConfig};
use crate::ops::OpError;
use crate::tensor::DType;

/// Measures every operation of `shapes` on `device`, one after the other; `on_result` hears of each.
///
/// # Errors
/// Shapes that a launcher refuses, or that do not fit the device's memory.
pub fn run(
    device: &Device,
    dtype: DType,
    shapes: &Shapes,
    budget: &Budget,
    on_result: &mut dyn FnMut(&BenchResult),
) -> Result<(), OpError> {
    // Counting slows the VM down, so that it happens on another one.
    let counting = device.is_vm().then(|| device.vm_beside(VmConfig { counters: true, ..VmConfig::default() }));
    for case in shapes.cases() {
        let mut result = measure::measure(device, dtype, &case, budget)?;
        if let Some(counting) = &counting {
            result.counted = Some(measure::count(counting, dtype, &case)?);
        }
        on_result(&result);
    }
    Ok(())
}

/// Runs every operation of `shapes` once on `device` and once on `reference`, with the same bits as input.
///
/// # Errors
/// As [`run`].
pub fn compare(device: &Device, reference: &Device, dtype: DType, shapes: &Shapes) -> Result<Vec<Difference>, OpError> {
    shapes.cases().iter().map(|case| differ::differ(device, reference, dtype, case)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DryConfig;
    use crate::model::{Geometry, StDiT3Config};

    #[test]
    fn a_file_of_shapes_is_read_and_malformed_ones_are_named() {
        let shapes = Shapes::from_toml(include_str!("example.toml"), "example.toml").unwrap();
        let names: Vec<String> = shapes.cases().iter().map(|c| c.name()).collect();
        assert_eq!(names.len(), 10, "{names:?}");
        for (text, part) in [
            ("[[linear]]\nm = 1\nn = 2", "line 1"),
            ("[[linear]]\nm = 1\nn = 2\nk = 3\nspeed = 1", "speed"),
            ("[[attention]]\nkind = 'sparse'", "sparse"),
            ("[[linear]]\nm = 0\nn = 2\nk = 3", "m is 0"),
            ("", "no shapes"),
        ] {
            let message = Shapes::from_toml(text, "s.toml").unwrap_err().to_string();
            assert!(message.contains(part) && message.contains("s.toml"), "{message}");
        }
    }

    #[test]
    fn operations_are_chosen_by_name() {
        let shapes =
            Shapes::of_model(&StDiT3Config::opensora_v1_2(), &Geometry::guided(1, [15, 90, 160], 960.0, 24.0), 300);
        let all = shapes.cases().len();
        let only = shapes.clone().only(&[Op::Attention, Op::Residual]);
        assert!(only.cases().iter().all(|c| matches!(c.op(), Op::Attention | Op::Residual)));
        assert!(only.cases().len() < all);
        assert!(Op::ALL.iter().all(|op| !shapes.clone().only(&[*op]).cases().is_empty()));
    }

    #[test]
    fn two_virtual_gpus_agree_to_the_bit() {
        let (one, other) = (
            Device::vm(VmConfig::default()),
            Device::vm(VmConfig { threads: 1, checked: true, ..VmConfig::default() }),
        );
        let shapes = Shapes::from_toml(include_str!("example.toml"), "example.toml").unwrap();
        let differences = compare(&one, &other, DType::F16, &shapes).unwrap();
        assert_eq!(differences.len(), 10);
        for d in &differences {
            assert!(d.elements > 0, "{d:?}");
            assert_eq!((d.different, d.max_ulp, d.max_relative), (0, 0, 0.0), "{d:?}");
        }
    }

    /// The work of a case is that of its launches: at Open-Sora's size nothing needs to run for it.
    #[test]
    fn work_comes_from_the_launches() {
        let gpu = DryConfig { name: "A100".into(), memory: 1 << 40, units: 108, compute_capability: (8, 0) };
        let device = Device::dry(gpu);
        let shapes = Shapes {
            linear: vec![LinearShape { m: 1000, n: 300, k: 200, ..Default::default() }],
            ..Default::default()
        };
        let mut results = vec![];
        run(&device, DType::Bf16, &shapes, &Budget::quick(), &mut |r| results.push(r.clone())).unwrap();
        let [result] = &results[..] else { panic!() };
        assert_eq!(result.work.flops, 2 * 1000 * 300 * 200);
        assert_eq!(result.work.bytes(), 2 * (1000 * 200 + 300 * 200 + 300 + 1000 * 300));
        assert_eq!(result.kernels.len(), 1);
        assert!(result.kernels[0].starts_with("linear_bias_bf16"));
    }

    #[test]
    fn every_operation_runs_on_the_vm_with_counters_and_without_a_share_of_any_peak() {
        let device = Device::vm(VmConfig::default());
        let config = StDiT3Config {
            depth: 1,
            hidden_size: 64,
            num_heads: 2,
            caption_channels: 16,
            ..StDiT3Config::opensora_v1_2()
        };
        let shapes = Shapes::of_model(&config, &Geometry::guided(1, [3, 6, 10], 64.0, 8.0), 5);
        let mut results = vec![];
        run(&device, DType::Bf16, &shapes, &Budget::quick(), &mut |r| results.push(r.clone())).unwrap();
        assert_eq!(results.len(), shapes.cases().len());
        for r in &results {
            assert!(r.cold.median_seconds > 0.0 && r.batched.median_seconds > 0.0, "{r:?}");
            assert!(r.percent_of_peak.is_none(), "the VM has no peak");
            let counted = r.counted.as_ref().unwrap();
            assert!(counted.warp_instructions > 0 && counted.global_bytes > 0, "{r:?}");
            assert_eq!(r.work.flops > 0, counted.tensor_flops > 0, "{r:?}");
        }
    }
}
