//! Microbenchmarks of single operations, similar to nvbench: warm-up, cold and batched times, median and noise, and the share of the chip's
//! peak. On the virtual GPU the results are counters and the CPU's wall clock, labelled as such.

mod case;
mod differ;
mod measure;
mod models;
mod prepare;

pub use case::{Case, ShapesError};
pub use differ::Difference;
pub use measure::{BenchResult, Budget, Counted, Timing};
pub use prepare::Prepared;

use std::ops::ControlFlow;

use crate::device::{Device, VmConfig};
use crate::ops::OpError;
pub use crate::shapes::{
    AttentionKind, AttentionShape, ConvShape, Epilogue, GroupNormKind, GroupNormShape, LinearShape, NormKind,
    NormShape, Op, PackKind, PackShape, ResampleKind, ResampleShape, ResidualKind, ResidualShape, RmsNormShape,
    SamplerShape, Shapes, SoftmaxShape,
};
use crate::tensor::DType;

/// Measures every operation of `shapes` on `device`, one after the other; `on_result` is called with each result, and may end the run.
///
/// # Errors
/// Shapes that a launcher rejects, or that do not fit the device's memory.
pub fn run(
    device: &Device,
    dtype: DType,
    shapes: &Shapes,
    budget: &Budget,
    on_result: &mut dyn FnMut(&BenchResult) -> ControlFlow<()>,
) -> Result<(), OpError> {
    // Counting slows the VM down, so that it happens on another one.
    let counting = device.is_vm().then(|| device.vm_beside(VmConfig { counters: true, ..VmConfig::default() }));
    for case in shapes.cases() {
        let mut result = measure::measure(device, dtype, &case, budget)?;
        if let Some(counting) = &counting {
            result.counted = Some(measure::count(counting, dtype, &case)?);
        }
        if on_result(&result).is_break() {
            break;
        }
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

    fn keep(results: &mut Vec<BenchResult>) -> impl FnMut(&BenchResult) -> ControlFlow<()> {
        |result| {
            results.push(result.clone());
            ControlFlow::Continue(())
        }
    }
    use crate::model::vae::{SpatialConfig, TemporalConfig, VaeConfig, WanVaeConfig};
    use crate::model::{Geometry, StDiT3Config};

    #[test]
    fn a_file_of_shapes_is_read_and_malformed_ones_are_named() {
        let shapes = Shapes::from_toml(include_str!("example.toml"), "example.toml").unwrap();
        let names: Vec<String> = shapes.cases().iter().map(|c| c.name()).collect();
        assert_eq!(names.len(), 21, "{names:?}");
        for op in Op::ALL {
            assert!(shapes.cases().iter().any(|case| case.op() == op), "{op:?} has no example");
        }
        for (text, part) in [
            ("[[linear]]\nm = 1\nn = 2", "line 1"),
            ("[[linear]]\nm = 1\nn = 2\nk = 3\nspeed = 1", "speed"),
            ("[[attention]]\nkind = 'sparse'", "sparse"),
            ("[[linear]]\nm = 0\nn = 2\nk = 3", "m is 0"),
            ("[[conv]]\nframes = 1\nheight = 4\nwidth = 4\nchannels = 8\nn = 8\nkernel = 0", "kernel is 0"),
            ("[[conv]]\nframes = 1\nheight = 4\nwidth = 4\nchannels = 8\nn = 8\ntime_factor = 0", "time_factor is 0"),
            (
                "[[group_norm]]\nkind = 'apply'\nframes = 1\nheight = 4\nwidth = 4\nchannels = 8\ngroups = 0",
                "groups is 0",
            ),
            ("[[softmax]]\nrows = 1", "columns"),
            ("[[resample]]\nkind = 'sideways'", "sideways"),
            ("[[rms_norm]]\nrows = 1\nchannels = 0", "channels is 0"),
            ("[[pack]]\nkind = 'zip'\nrows = 1\nchannels = 1", "zip"),
            ("", "no shapes"),
        ] {
            let message = Shapes::from_toml(text, "s.toml").unwrap_err().to_string();
            assert!(message.contains(part) && message.contains("s.toml"), "{message}");
        }
    }

    #[test]
    fn operations_are_chosen_by_name() {
        let shapes = Shapes::opensora("720p").unwrap().and(WanVaeConfig::wan22().launches([44, 80]));
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
        assert_eq!(differences.len(), 21);
        for d in &differences {
            assert!(d.elements > 0, "{d:?}");
            assert_eq!((d.different, d.max_ulp, d.max_relative), (0, 0, 0.0), "{d:?}");
        }
    }

    /// The work of a case is that of its launches: at Open-Sora's size nothing needs to run to determine it.
    #[test]
    fn work_comes_from_the_launches() {
        let gpu = DryConfig { name: "A100".into(), memory: 1 << 40, units: 108, compute_capability: (8, 0) };
        let device = Device::dry(gpu);
        let causal = ConvShape { kernel_t: 3, time_factor: 2, ..ConvShape::image([5, 30, 40], 64, 128) };
        let shapes = Shapes {
            linear: vec![LinearShape { m: 1000, n: 300, k: 200, ..Default::default() }],
            conv: vec![causal, ConvShape { stride: 2, ..ConvShape::image([2, 9, 8], 16, 24) }],
            ..Default::default()
        };
        let mut results = vec![];
        run(&device, DType::Bf16, &shapes, &Budget::quick(), &mut keep(&mut results)).unwrap();
        let [linear, causal, halved] = &results[..] else { panic!() };
        assert_eq!(linear.work.flops, 2 * 1000 * 300 * 200);
        assert_eq!(linear.work.bytes(), 2 * (1000 * 200 + 300 * 200 + 300 + 1000 * 300));
        assert_eq!(linear.kernels.len(), 1);
        assert!(linear.kernels[0].starts_with("linear_bias_bf16"));
        // As many positions as the input has; the 128 channels of each become those of two frames.
        assert_eq!(causal.work.flops, 2 * (5 * 30 * 40) * 128 * 27 * 64);
        assert_eq!(causal.work.bytes_written, 2 * 10 * 30 * 40 * 64);
        assert_eq!(causal.shape, "3x3x3 frames=5 height=30 width=40 channels=64 n=128 time_factor=2");
        // Rows 0, 2, 4 and 6 begin a kernel of three, as do columns 0, 2 and 4; column 6 has zeros for a third.
        assert_eq!(halved.work.flops, 2 * (2 * 4 * 4) * 24 * 9 * 16);
    }

    /// The GPU workload: every operation of Open-Sora, each with memory of its own, including more frames than those of 51.
    #[test]
    fn the_shapes_of_opensora_are_accepted_and_fit_a_gpu() {
        let gpu = DryConfig { name: "H200".into(), memory: 40 << 30, units: 132, compute_capability: (9, 0) };
        let device = Device::dry(gpu);
        let mut results = vec![];
        let shapes = Shapes::opensora("720p").unwrap();
        run(&device, DType::Bf16, &shapes, &Budget::quick(), &mut keep(&mut results)).unwrap();
        assert_eq!(results.len(), shapes.cases().len());
        let kernels = |shape: &str| -> Vec<&str> {
            let of_shape = results.iter().filter(|r| r.shape.starts_with(shape));
            of_shape.flat_map(|r| r.kernels.iter().map(String::as_str)).collect()
        };
        assert_eq!(kernels("temporal batch=2 frames=15"), ["attention_72_bf16_short"]);
        assert_eq!(kernels("temporal batch=2 frames=120"), ["attention_72_bf16_large"]);
        // Both tiles, of many and of few channels.
        assert!(kernels("1x3x3").contains(&"conv_bf16_128") && kernels("1x3x3").contains(&"conv_bf16_16"));
        assert_eq!(kernels("statistics by frame"), ["group_affine_bf16", "group_sums_bf16"]);
        assert_eq!(kernels("pack"), ["pack_error", "residual_pack_bf16"]);
        assert_eq!(kernels("add"), ["residual_unpack_bf16"]);
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
        let shapes = config.launches(&Geometry::guided(1, [3, 6, 10], 64.0, 8.0), 5);
        let vae = VaeConfig {
            spatial: SpatialConfig { block_out_channels: vec![8, 16], norm_num_groups: 8, ..Default::default() },
            temporal: TemporalConfig { filters: 8, num_groups: 8, ..Default::default() },
            micro_frame_size: 4,
            ..Default::default()
        };
        let wan = WanVaeConfig::sized([8, 8], 8, true);
        let shapes = shapes.and(vae.launches([2, 3])).and(wan.launches([1, 2]));
        assert!(Op::ALL.iter().all(|op| shapes.cases().iter().any(|case| case.op() == *op)));
        let mut results = vec![];
        run(&device, DType::Bf16, &shapes, &Budget::quick(), &mut keep(&mut results)).unwrap();
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
