//! Devices: bytes that go there and back, errors instead of panics, and the layout of launch parameters.

mod common;

use adacache::device::{
    Device, DeviceError, DeviceKind, DryConfig, Event, Kernel, Launch, LaunchObserver, LaunchStats, Memory, Module,
    TensorMap, TensorType, VmConfig,
};
use adacache::ops::params::*;
use adacache::tensor::{DType, Tensor, TensorError};
use bytemuck::{Pod, Zeroable};
use common::checked_devices as devices;
use std::sync::{Arc, Mutex};

/// Another device than that of a test.
fn elsewhere() -> Device {
    Device::vm(VmConfig::default())
}

// ---- opening ---------------------------------------------------------------------------------------------------------

#[test]
fn without_a_driver_cuda_is_an_error_and_auto_the_vm() {
    if common::gpu().is_some() {
        assert_eq!(Device::open("auto").unwrap().info().kind, DeviceKind::Cuda);
        let message = Device::open("cuda:4096").unwrap_err().to_string();
        assert!(message.contains("cuda:4096"), "{message}");
        return;
    }
    for spec in ["cuda", "cuda:0", "cuda:7"] {
        let error = Device::open(spec).unwrap_err();
        assert!(!matches!(error, DeviceError::UnknownDevice { .. }), "{error}");
        assert!(
            error.to_string().contains("--device vm") || error.to_string().contains("`adacache devices`"),
            "{error}"
        );
    }
    assert!(Device::open("auto").unwrap().is_vm());
    let list = Device::list();
    assert!(list.iter().any(|d| d.id.starts_with("cuda") && d.unavailable.is_some()), "{list:?}");
}

#[test]
fn unknown_names_are_errors_that_list_the_known_ones() {
    for spec in
        ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "vm:0", "vm:sm_75", "vm:sm_", "vm:sm_90:", "vm:sm_90:slow", "vmsm_90"]
    {
        let message = Device::open(spec).unwrap_err().to_string();
        assert!(
            message.contains("auto, vm, vm:checked, vm:truncate, vm:adverse:SEED, vm:sm_90, cuda or cuda:N"),
            "{spec}: {message}"
        );
    }
    for spec in
        ["vm", "vm:checked", "vm:truncate", "vm:adverse:3", "vm:sm_90", "vm:sm_90:checked", "vm:sm_120:adverse:3"]
    {
        let device = Device::open(spec).unwrap();
        assert!(device.is_vm());
        assert_eq!(device.info().id, spec);
    }
    assert_eq!(Device::open("vm:sm_120").unwrap().info().compute_capability, Some((12, 0)));
}

#[test]
fn the_list_ends_with_the_vm() {
    let list = Device::list();
    let vm = list.last().unwrap();
    assert_eq!((vm.id.as_str(), vm.kind), ("vm", DeviceKind::Vm));
    assert!(vm.unavailable.is_none() && vm.units > 0 && vm.memory > 0);
}

// ---- memory ----------------------------------------------------------------------------------------------------------

#[test]
fn bytes_go_there_and_back() {
    for device in devices() {
        let memory = device.alloc(1000).unwrap();
        assert_eq!(memory.ptr() % 256, 0);
        let bytes: Vec<u8> = (0..1000).map(|i| (i * 7 % 251) as u8).collect();
        device.upload(&memory, 0, &bytes).unwrap();
        device.upload(&memory, 997, &[1, 2, 3]).unwrap();
        let mut back = vec![0; 500];
        device.download(&memory, 500, &mut back).unwrap();
        assert_eq!(back[..497], bytes[500..997]);
        assert_eq!(back[497..], [1, 2, 3]);

        let other = device.alloc(64).unwrap();
        device.fill(&other, 0..64, 9).unwrap();
        device.copy(&other, 3, &memory, 10, 5).unwrap();
        let read = device.read_async(&other, 0, 64).unwrap();
        let back = read.wait().unwrap();
        assert_eq!(back[..3], [9; 3]);
        assert_eq!(back[3..8], bytes[10..15]);
        assert_eq!(back[8..], [9; 56]);
        drop(device.read_async(&other, 0, 64).unwrap());
        device.synchronize().unwrap();
    }
}

#[test]
fn ranges_and_owners_are_checked() {
    // Another handle of the same GPU is another device, too.
    for (device, other) in devices().into_iter().zip(devices()) {
        let memory = device.alloc(16).unwrap();
        let is_out_of_range = |result: Result<(), DeviceError>| matches!(result, Err(DeviceError::OutOfRange { .. }));
        assert!(is_out_of_range(device.upload(&memory, 15, &[0, 0])));
        assert!(is_out_of_range(device.download(&memory, usize::MAX, &mut [0])));
        assert!(is_out_of_range(device.fill(&memory, 0..17, 0)));
        assert!(is_out_of_range(device.copy(&memory, 0, &memory, 8, 9)));
        assert!(device.read_async(&memory, 1, 16).is_err());
        assert!(matches!(device.copy(&memory, 0, &memory, 4, 8), Err(DeviceError::Overlap { .. })));
        assert!(matches!(other.upload(&memory, 0, &[0]), Err(DeviceError::ForeignMemory { .. })));
        device.upload(&memory, 16, &[]).unwrap();
    }
}

#[test]
fn absurd_sizes_are_errors() {
    for device in devices() {
        for bytes in [1 << 50, isize::MAX as usize, usize::MAX] {
            match device.alloc(bytes) {
                Err(DeviceError::OutOfMemory { asked, free, .. }) => assert!(asked == bytes && free < bytes),
                other => panic!("{bytes}: {other:?}"),
            }
        }
        let too_large = Tensor::empty(&device, &[usize::MAX, 3], DType::F32);
        assert!(matches!(too_large, Err(TensorError::TooLarge { .. })), "{too_large:?}");
        assert_eq!(device.allocated_bytes(), 0);
    }
}

#[test]
fn the_vm_has_no_more_memory_than_it_was_given() {
    let config = VmConfig { memory_limit: Some(1 << 20), ..VmConfig::default() };
    let Some(small) = common::vm("its limit of memory", config) else { return };
    let _held = small.alloc(1 << 19).unwrap();
    assert!(matches!(small.alloc(1 << 20), Err(DeviceError::OutOfMemory { .. })));
}

#[test]
fn bytes_held_are_counted() {
    for device in devices() {
        let a = device.alloc(100).unwrap();
        let b = device.alloc(50).unwrap();
        assert_eq!((device.allocated_bytes(), device.peak_bytes()), (150, 150));
        drop(a);
        assert_eq!((device.allocated_bytes(), device.peak_bytes()), (50, 150));
        device.reset_peak();
        assert_eq!(device.peak_bytes(), 50);
        drop(b);
        assert_eq!(device.allocated_bytes(), 0);
        assert!(device.alloc(0).unwrap().ptr() != 0, "null means absent");
    }
}

#[test]
fn tensors_keep_values_shapes_and_views() {
    for device in devices() {
        let values: Vec<f32> = (0..24).map(|i| i as f32 - 11.0).collect();
        for dtype in [DType::Bf16, DType::F16, DType::F32, DType::F64] {
            let tensor = Tensor::from_f32(&device, &[4, 3, 2], &values, dtype).unwrap();
            assert_eq!(tensor.to_f32().unwrap(), values);
            let rows = tensor.slice_rows(1, 2).unwrap();
            assert_eq!((rows.shape(), rows.ptr()), ([2, 3, 2].as_slice(), tensor.ptr() + 6 * dtype.size() as u64));
            assert_eq!(rows.to_f32().unwrap(), values[6..18]);
            assert!(rows.overlaps(&tensor) && !rows.overlaps(&tensor.slice_rows(3, 1).unwrap()));
            rows.reshape(&[12]).unwrap().write_f32(&[5.0; 12]).unwrap();
            assert_eq!(tensor.to_f32().unwrap()[5..7], [values[5], 5.0]);
            assert!(tensor.slice_rows(3, 2).is_err() && tensor.slice_rows(usize::MAX, 2).is_err());
            assert!(tensor.reshape(&[5, 5]).is_err());
            assert!(matches!(tensor.to_vec::<u8>(), Err(TensorError::DType { .. })));
        }
        assert!(matches!(Tensor::from_f32(&device, &[2], &[0.0; 3], DType::F32), Err(TensorError::Elements { .. })));
        assert!(Tensor::from_f32(&device, &[1], &[0.0], DType::U8).is_err());
        let sums = Tensor::from_slice(&device, &[2], &[1.5f64, -2.0]).unwrap();
        assert_eq!(sums.read_async().unwrap().wait_as::<f64>().unwrap(), [1.5, -2.0]);
        let zeros = Tensor::zeros(&device, &[2], DType::F64).unwrap();
        zeros.copy_from(&sums).unwrap();
        assert_eq!(zeros.to_vec::<f64>().unwrap(), [1.5, -2.0]);
        assert!(zeros.copy_from(&Tensor::zeros(&device, &[3], DType::F64).unwrap()).is_err());
    }
}

// ---- launching -------------------------------------------------------------------------------------------------------

/// PTX of an entry that takes one struct of `bytes` bytes, whose first field is an address, and writes its bytes there.
fn echo(bytes: usize) -> String {
    let mut body = String::new();
    for offset in 0..bytes {
        body += &format!("  ld.param.u8 %r1, [echo_param_0+{offset}];\n  st.global.u8 [%rd1+{offset}], %r1;\n");
    }
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n\n.visible .entry echo(\n  .param .align 8 .b8 echo_param_0[{bytes}]\n)\n{{\n  \
         .reg .b32 %r<2>;\n  .reg .b64 %rd<2>;\n  ld.param.u64 %rd1, [echo_param_0];\n  cvta.to.global.u64 %rd1, %rd1;\n{body}  ret;\n}}\n"
    )
}

const ONE: [u32; 3] = [1, 1, 1];

#[test]
fn refused_launches_say_what_was_asked() {
    for device in devices() {
        let kernel = device.kernel_from_ptx("echo", &echo(8), "echo").unwrap();
        assert_eq!(kernel.param_bytes(), 8);
        match device.launch(&kernel, ONE, ONE, 0, &[0u64; 2]) {
            Err(DeviceError::ParamSize { given: 16, expected: 8, .. }) => {}
            other => panic!("{other:?}"),
        }
        let place = format!("echo on {}", device.info().id);
        let refused = |grid: [u32; 3], block: [u32; 3], shared: u32, asked: &str| {
            let message = device.launch(&kernel, grid, block, shared, &0u64).unwrap_err().to_string();
            assert!(message.contains(&place) && message.contains(asked), "{message}");
        };
        for (grid, block) in [([0, 1, 1], ONE), (ONE, [1, 0, 1]), ([1, 65536, 1], ONE)] {
            refused(grid, block, 0, &format!("{grid:?}"));
        }
        if !device.is_vm() {
            // The VM's own limits are faults, and ptx-vm's to test.
            refused(ONE, [2048, 1, 1], 0, "2048");
            refused(ONE, ONE, 1 << 20, "1048576 bytes");
        }
        // None of them harmed the device.
        let memory = device.alloc(8).unwrap();
        device.launch(&kernel, ONE, ONE, 0, &memory.ptr()).unwrap();
        device.synchronize().unwrap();
    }
}

/// A null pointer: the VM names the kernel, the line and the thread, and the device is as good as before.
#[test]
fn a_fault_of_a_kernel_says_where() {
    let Some(device) = common::vm("faults", VmConfig::default()) else { return };
    let kernel = device.kernel_from_ptx("echo", &echo(8), "echo").unwrap();
    let message = device.launch(&kernel, ONE, ONE, 0, &0u64).unwrap_err().to_string();
    assert!(message.contains("echo failed on vm") && message.contains("thread (0, 0, 0)"), "{message}");
    let memory = device.alloc(8).unwrap();
    device.launch(&kernel, ONE, ONE, 0, &memory.ptr()).unwrap();
}

#[test]
fn a_kernel_of_another_device_is_refused() {
    let gpu = DryConfig { name: "gpu".into(), memory: 1 << 30, units: 108, compute_capability: (8, 0) };
    let load = |device: &Device| device.kernel_from_ptx("echo", &echo(8), "echo").unwrap();
    for (device, other) in devices().into_iter().zip(devices()) {
        let memory = device.alloc(8).unwrap();
        let is_foreign = |kernel: &Kernel| {
            let launched = device.launch(kernel, ONE, ONE, 0, &memory.ptr());
            assert!(matches!(launched, Err(DeviceError::ForeignMemory { .. })), "{launched:?}");
        };
        is_foreign(&load(&Device::dry(gpu.clone())));
        // PTX that the VM has read belongs to no device of its own.
        if !device.is_vm() {
            is_foreign(&load(&other));
        }
    }
}

#[test]
fn modules_that_do_not_load_are_errors() {
    for device in devices() {
        let missing = device.kernel_from_ptx("echo", &echo(8), "other").unwrap_err();
        assert!(matches!(missing, DeviceError::NoEntry { .. }), "{missing}");
        let broken = echo(8).replace("cvta.to.global.u64", "no.such.instruction");
        let error = device.kernel_from_ptx("broken", &broken, "echo").unwrap_err().to_string();
        assert!(error.contains("cannot load broken.ptx"), "{error}");
        assert!(matches!(device.kernel(Module::Norm, "no_such_entry"), Err(DeviceError::NoEntry { .. })));
    }
}

#[derive(Default)]
struct Log(Mutex<Vec<(String, Event, Event)>>);

impl LaunchObserver for Log {
    fn launched(&self, launch: &Launch<'_>, start: Event, end: Event, _stats: Option<LaunchStats>) {
        self.0.lock().unwrap().push((launch.kernel.to_owned(), start, end));
    }
}

#[test]
fn observers_see_launches_with_their_times() {
    for device in devices() {
        let kernel = device.kernel_from_ptx("echo", &echo(64), "echo").unwrap();
        let memory = device.alloc(64).unwrap();
        let mut params = [0u64; 8];
        params[0] = memory.ptr();
        let log = Arc::new(Log::default());
        device.observe(Some(log.clone()));
        device.launch(&kernel, ONE, ONE, 0, &params).unwrap();
        device.observe(None);
        device.launch(&kernel, ONE, ONE, 0, &params).unwrap();
        let log = log.0.lock().unwrap();
        let [(name, start, end)] = log.as_slice() else { panic!("one launch was observed") };
        assert_eq!(name, "echo");
        let seconds = end.seconds_since(start).unwrap();
        assert!((0.0..10.0).contains(&seconds), "{seconds}");
    }
}

#[test]
fn graphs_replay_what_was_recorded() {
    for device in devices() {
        let a = Tensor::from_f32(&device, &[64], &[1.0; 64], DType::F32).unwrap();
        let b = Tensor::from_f32(&device, &[64], &[2.0; 64], DType::F32).unwrap();
        let kept = Tensor::zeros(&device, &[64], DType::F32).unwrap();
        let graphs = device.record_graphs(|| {
            adacache::ops::residual::unfold(&a, &b, &a)?;
            assert!(device.cut());
            kept.copy_from(&a)?;
            b.fill_bytes(0)?;
            Ok::<(), adacache::ops::OpError>(())
        });
        let graphs = graphs.unwrap();
        assert!(!device.cut(), "nothing is being recorded");
        assert_eq!(graphs.iter().map(|g| g.len()).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(a.to_f32().unwrap(), [1.0; 64], "recording does nothing");
        graphs[0].replay().unwrap();
        graphs[0].replay().unwrap();
        assert_eq!((a.to_f32().unwrap(), b.to_f32().unwrap()), (vec![5.0; 64], vec![2.0; 64]));
        graphs[1].replay().unwrap();
        graphs[0].replay().unwrap();
        assert_eq!((kept.to_f32().unwrap(), a.to_f32().unwrap()), (vec![5.0; 64], vec![5.0; 64]));

        // An observer sees the launches one by one.
        let log = Arc::new(Log::default());
        device.observe(Some(log.clone()));
        graphs.iter().for_each(|graph| graph.replay().unwrap());
        device.observe(None);
        let names: Vec<String> = log.0.lock().unwrap().iter().map(|(name, ..)| name.clone()).collect();
        assert_eq!(names, ["residual_unfold_f32", "copy", "fill"]);
    }
}

#[test]
fn fetches_arrive_when_they_are_waited_for() {
    for device in devices() {
        let (slot, seen) = (device.alloc(8).unwrap(), device.alloc(8).unwrap());
        let read = |memory: &Memory| {
            let mut bytes = [0; 8];
            device.download(memory, 0, &mut bytes).unwrap();
            bytes
        };
        device.upload(&slot, 0, &[9; 8]).unwrap();
        let weights = device.pin(vec![1, 2, 3, 4]).unwrap();
        assert_eq!(weights.bytes(), 4);
        device.fetch(&slot, 0, &weights).unwrap();
        if device.is_vm() {
            // Late as a GPU's copy may be, and what was there is gone at once.
            assert_eq!(read(&slot), [255, 255, 255, 255, 9, 9, 9, 9]);
        }
        device.fetched(&slot, 0).unwrap();
        device.copy(&seen, 0, &slot, 0, 8).unwrap();
        assert_eq!(read(&seen), [1, 2, 3, 4, 9, 9, 9, 9]);
        // What is there already is waited for in vain.
        device.upload(&slot, 0, &[9; 8]).unwrap();
        device.fetched(&slot, 0).unwrap();
        assert_eq!(read(&slot), [9; 8]);

        // A recording holds the host memory, and a graph ends with everything it fetched.
        let other = device.pin(vec![5, 6, 7, 8]).unwrap();
        let graphs = device.record_graphs(|| {
            device.fetch(&slot, 0, &weights)?;
            device.fetch(&slot, 4, &other)?;
            device.fetched(&slot, 0)?;
            device.copy(&seen, 0, &slot, 0, 4)?;
            device.cut();
            device.fetched(&slot, 4)?;
            device.copy(&seen, 4, &slot, 4, 4)
        });
        drop((weights, other));
        let graphs = graphs.unwrap();
        assert_eq!(read(&slot), [9; 8], "recording does nothing");
        for _ in 0..2 {
            device.fill(&seen, 0..8, 0).unwrap();
            graphs[0].replay().unwrap();
            assert_eq!(read(&seen), [1, 2, 3, 4, 0, 0, 0, 0]);
            graphs[1].replay().unwrap();
            assert_eq!(read(&seen), [1, 2, 3, 4, 5, 6, 7, 8]);
        }
        assert!(device.uses_graphs(), "no graph was refused");

        let long = device.pin(vec![0; 9]).unwrap();
        assert!(matches!(device.fetch(&slot, 0, &long), Err(DeviceError::OutOfRange { .. })));
        assert!(matches!(
            elsewhere().fetch(&elsewhere().alloc(9).unwrap(), 0, &long),
            Err(DeviceError::ForeignMemory { .. })
        ));
        // Memory that goes while a copy is under way takes it along.
        let short = device.pin(vec![0; 8]).unwrap();
        device.fetch(&slot, 0, &short).unwrap();
        drop((slot, short));
        device.synchronize().unwrap();
    }
}

#[test]
fn a_limit_bounds_what_is_held_at_once() {
    for device in devices() {
        device.limit_memory(Some(1000));
        let memory = device.memory().unwrap();
        assert_eq!((memory.free, memory.total), (1000, 1000));
        let first = device.alloc(600).unwrap();
        assert_eq!(device.memory().unwrap().free, 400);
        match device.alloc(401) {
            Err(DeviceError::OutOfMemory { asked, free, .. }) => assert_eq!((asked, free), (401, 400)),
            other => panic!("{other:?}"),
        }
        assert_eq!((device.allocated_bytes(), device.peak_bytes()), (600, 600));
        let second = device.alloc(400).unwrap();
        drop(first);
        assert!(device.alloc(600).is_ok());
        device.limit_memory(Some(10));
        assert_eq!(device.memory().unwrap().free, 0, "what is held already stays");
        device.limit_memory(None);
        assert!(device.alloc(2000).is_ok());
        drop(second);
    }
}

#[test]
fn a_recording_is_of_one_thread() {
    for device in devices() {
        let x = Tensor::zeros(&device, &[16], DType::F32).unwrap();
        let graphs = device.record_graphs(|| {
            x.fill_bytes(1)?;
            let other = Tensor::zeros(&elsewhere(), &[4], DType::F32)?;
            assert_eq!(other.to_f32()?, [0.0; 4]);
            std::thread::scope(|scope| {
                let elsewhere = || {
                    assert!(!device.cut());
                    Tensor::from_f32(&device, &[2], &[3.0; 2], DType::F32).unwrap().to_f32().unwrap()
                };
                assert_eq!(scope.spawn(elsewhere).join().unwrap(), [3.0; 2]);
            });
            Ok::<(), TensorError>(())
        });
        let graphs = graphs.unwrap();
        assert_eq!((graphs.len(), graphs[0].len()), (1, 1));
        assert_eq!(x.to_f32().unwrap(), [0.0; 16]);
    }
}

#[test]
fn what_is_no_part_of_a_graph_is_an_error_and_ends_the_recording() {
    for device in devices() {
        let x = Tensor::zeros(&device, &[4], DType::F32).unwrap();
        let not_recorded = |body: &dyn Fn() -> Result<(), TensorError>, call: &str| {
            let message = device.record_graphs(body).unwrap_err().to_string();
            assert!(message.contains(call) && message.contains("recorded"), "{message}");
            assert!(!device.cut(), "{call} left the recording on");
        };
        not_recorded(&|| Tensor::zeros(&device, &[4], DType::F32).map(drop), "an allocation");
        not_recorded(&|| x.write_f32(&[1.0; 4]), "an upload");
        not_recorded(&|| x.to_f32().map(drop), "a download");
        not_recorded(&|| Ok(x.read_async().map(drop)?), "a read-back");
        not_recorded(&|| Ok(device.record_graphs(|| Ok::<(), DeviceError>(())).map(drop)?), "a recording");
        assert_eq!(x.to_f32().unwrap(), [0.0; 4]);
    }
}

// ---- parameter structs -----------------------------------------------------------------------------------------------

/// A struct of `kernels/params.h`: name, size, alignment, and which entries take it.
struct Layout {
    name: &'static str,
    size: usize,
    align: usize,
    module: Module,
    /// Entry names begin with one of these, followed by nothing or by `_` and a suffix without these words.
    entries: &'static [&'static str],
}

macro_rules! layouts {
    ($($name:ident: $module:ident [$($entry:literal),*];)*) => {
        const LAYOUTS: &[Layout] = &[$(Layout {
            name: stringify!($name), size: size_of::<$name>(), align: align_of::<$name>(), module: Module::$module, entries: &[$($entry),*],
        }),*];

        /// Every struct through a kernel and back, all bytes distinct from their neighbours.
        fn echo_all(device: &Device) {
            $(echo_one::<$name>(device, stringify!($name));)*
        }
    };
}

layouts! {
    LinearParams: Linear ["linear_bias", "linear_gelu", "linear_residual", "linear_ln_bias", "linear_ln_gelu"];
    LinearFewParams: LinearFew ["linear_bias", "linear_gelu", "linear_residual"];
    AttentionParams: Attention ["attention"];
    RowStatsParams: Norm ["row_stats"];
    RmsRopeParams: Norm ["rms_rope"];
    ModulateParams: Norm ["modulate"];
    ResidualProbeParams: Residual ["residual_probe"];
    ReduceParams: Residual ["reduce_partials"];
    FoldParams: Residual ["residual_fold", "residual_unfold"];
    ExtrapolateParams: Residual ["residual_extrapolate"];
    MotionParams: Motion ["motion"];
    PatchifyParams: Embed ["patchify"];
    UnpatchifyParams: Embed ["unpatchify"];
    PositionTableParams: Embed ["position_table"];
    PositionAddParams: Embed ["position_add"];
    TimestepEmbedParams: Embed ["timestep_embed"];
    SmallLinearParams: Embed ["small_linear"];
    ModulationParams: Embed ["modulation"];
    RopeTableParams: Embed ["rope_table"];
    MultiplyParams: Embed ["multiply"];
    GatherRowsParams: Embed ["gather_rows"];
    SamplerStepParams: Sampler ["sampler_step"];
    SamplerNoiseParams: Sampler ["sampler_noise"];
    StepBeginParams: Decide ["step_begin"];
    DecideParams: Decide ["decide"];
    PackParams: Pack ["residual_pack"];
    UnpackParams: Pack ["residual_unpack"];
    PackErrorParams: Pack ["pack_error"];
    PatchDecodeParams: Decode ["patch_decode"];
    PixelsParams: Decode ["pixels"];
    ConvParams: Conv ["conv"];
    GroupSumsParams: GroupNorm ["group_sums"];
    GroupAffineParams: GroupNorm ["group_affine"];
    GroupApplyParams: GroupNorm ["group_apply"];
    CirculantParams: Circulant ["circulant"];
    SoftmaxParams: Softmax ["softmax"];
    RmsNormParams: RmsNorm ["rms_norm"];
    ResampleParams: Resample ["dup_up", "avg_down"];
    TimeUpParams: Resample ["time_up"];
    PermuteParams: Resample ["permute"];
    LinearWgmmaParams: LinearWgmma ["linear_bias", "linear_gelu", "linear_residual"];
    LinearFp8Params: LinearFp8 ["linear_fp8_bias", "linear_fp8_gelu", "linear_fp8_residual"];
    QuantiseModulatedParams: Quantise ["quantise_modulated"];
    PackParams: Quantise ["quantise"];
    AttentionWgmmaParams: AttentionWgmma ["attention_72", "attention_128"];
}

fn echo_one<P: Pod + Zeroable>(device: &Device, name: &str) {
    let size = size_of::<P>();
    let memory = device.alloc(size).unwrap();
    let mut params = P::zeroed();
    let bytes = bytemuck::bytes_of_mut(&mut params);
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = (i * 37 + 11) as u8;
    }
    bytes[..8].copy_from_slice(&memory.ptr().to_le_bytes());
    let sent = bytes.to_vec();
    let kernel = device.kernel_from_ptx("echo", &echo(size), "echo").unwrap();
    device.launch(&kernel, ONE, ONE, 0, &params).unwrap();
    let mut received = vec![0; size];
    device.download(&memory, 0, &mut received).unwrap();
    assert_eq!(received, sent, "{name}");
}

#[test]
fn parameters_arrive_byte_for_byte() {
    for device in devices() {
        echo_all(&device);
    }
}

/// `(offset, element size)` of every scalar of a struct, from the checked-in bindings.
fn fields(name: &str) -> Vec<(usize, usize)> {
    let source = include_str!("../src/ops/params.rs");
    let body = source.split(&format!("pub struct {name} {{")).nth(1).and_then(|rest| rest.split("\n}").next());
    let mut offset = 0;
    let mut found = vec![];
    for line in body.expect("a struct of params.rs").lines() {
        let Some((_, kind)) = line.trim().strip_prefix("pub ").and_then(|field| field.split_once(": ")) else {
            continue;
        };
        match kind.trim_end_matches(',') {
            "u64" | "i64" | "f64" => found.push((offset, 8)),
            "i32" | "f32" => found.push((offset, 4)),
            "[i32; 8usize]" => found.extend((0..8).map(|i| (offset + 4 * i, 4))),
            "[u64; 2usize]" => found.extend((0..2).map(|i| (offset + 8 * i, 8))),
            "[u64; 3usize]" => found.extend((0..3).map(|i| (offset + 8 * i, 8))),
            "[i32; 12usize]" => found.extend((0..12).map(|i| (offset + 4 * i, 4))),
            "[i32; 6usize]" => found.extend((0..6).map(|i| (offset + 4 * i, 4))),
            // Nobody reads a part of it.
            "TensorMap" => found.push((offset, 128)),
            inner
            @ ("SequenceLayout" | "LinearParams" | "AttentionParams" | "LinearWgmmaParams" | "ModulateParams") => {
                found.extend(fields(inner).into_iter().map(|(at, size)| (offset + at, size)))
            }
            other => panic!("{name}: a field of type {other}"),
        }
        let (last, size) = found[found.len() - 1];
        offset = last + size;
    }
    found
}

/// Every `ld.param` of an entry: (offset, bytes of one element, elements).
fn parameter_loads<'a>(body: &'a str, entry: &str) -> Vec<(usize, usize, usize, &'a str)> {
    // The parameter's name, and registers that hold its address.
    let mut names = vec![format!("{entry}_param_0")];
    for line in body.lines() {
        if let Some((to, from)) = line.trim().strip_prefix("mov.").and_then(|mov| mov.split_once(", "))
            && names.iter().any(|name| name == from.trim_end_matches(';'))
        {
            names.extend(to.split_whitespace().last().map(str::to_owned));
        }
    }
    let load = |line: &'a str| {
        let (instruction, operands) = line.trim().split_once(char::is_whitespace)?;
        let mut suffixes = instruction.strip_prefix("ld.param.")?.split('.');
        let place = operands.split_once('[')?.1.split(']').next()?;
        let (name, offset) = place.split_once('+').unwrap_or((place, "0"));
        names.iter().find(|known| *known == name)?;
        let offset = offset.parse().ok()?;
        let mut kind = suffixes.next()?;
        let count = match kind {
            "v2" => 2,
            "v4" => 4,
            _ => 1,
        };
        if count > 1 {
            kind = suffixes.next()?;
        }
        let bits: usize = kind.trim_start_matches(|c: char| c.is_ascii_alphabetic()).parse().ok()?;
        Some((offset, bits / 8, count, line))
    };
    body.lines().filter_map(load).collect()
}

#[test]
fn structs_match_the_parameter_blocks_of_the_ptx() {
    let mut entries = 0;
    for module in Module::ALL {
        let ptx = module.ptx().unwrap_or_else(|| panic!("ptx/{}.ptx is missing", module.name()));
        for body in ptx.split(".visible .entry ").skip(1) {
            let entry = body.split('(').next().unwrap_or_default();
            let takes = |layout: &&Layout| {
                let suffix =
                    |stem: &&&str| entry.strip_prefix(**stem).is_some_and(|s| s.is_empty() || s.starts_with('_'));
                layout.module == *module && layout.entries.iter().any(|stem| suffix(&stem))
            };
            let layout =
                LAYOUTS.iter().find(takes).unwrap_or_else(|| panic!("{}: {entry} has no struct", module.name()));
            let block = format!(".param .align {} .b8 {entry}_param_0[{}]", layout.align, layout.size);
            assert!(ptx.contains(&block), "{entry} takes no {} of {} bytes", layout.name, layout.size);

            // The compiler's offsets are our fields: it loads nothing that begins or ends inside one.
            let fields = fields(layout.name);
            let end = fields.last().map(|(at, size)| at + size);
            assert_eq!(end, Some(layout.size), "{}", layout.name);
            let loads = parameter_loads(body, entry);
            assert!(!loads.is_empty(), "{entry} reads no parameter");
            for (offset, size, count, line) in loads {
                for element in 0..count {
                    let at = offset + element * size;
                    let field = fields.iter().find(|(field, _)| *field == at);
                    assert!(field.is_some_and(|(_, s)| *s >= size), "{entry} and {}: {}", layout.name, line.trim());
                }
            }
            entries += 1;
        }
    }
    assert!(entries > 100, "{entries} entries");
}

/// Adds 1 to the words of the box of 4 × 2 at (3, 1) of a tensor: loaded and stored by its map.
const TENSOR: &str = ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry next(.param .align 64 .b8 params[128]) {
    .reg .pred %p<3>; .reg .b32 %r<6>; .reg .b64 %rd<4>;
    .shared .align 8 .b64 mbar; .shared .align 128 .b8 tile[128];
    mov.b64 %rd0, params; cvta.param.u64 %rd1, %rd0;
    mov.u32 %r0, %tid.x; setp.eq.u32 %p1, %r0, 0; mov.u32 %r4, 3; mov.u32 %r5, 1;
    @%p1 mbarrier.init.shared.b64 [mbar], 1; bar.sync 0;
    @%p1 mbarrier.arrive.expect_tx.shared.b64 %rd2, [mbar], 32;
    @%p1 cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [tile], [%rd1, {%r4, %r5}], [mbar];
    WAIT: mbarrier.try_wait.parity.shared.b64 %p2, [mbar], 0; @!%p2 bra WAIT;
    shl.b32 %r1, %r0, 2; mov.u32 %r2, tile; add.u32 %r2, %r2, %r1;
    ld.shared.u32 %r3, [%r2]; add.u32 %r3, %r3, 1; st.shared.u32 [%r2], %r3;
    fence.proxy.async.shared::cta; bar.sync 0;
    @%p1 cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%rd1, {%r4, %r5}], [tile];
    @%p1 cp.async.bulk.commit_group; @%p1 cp.async.bulk.wait_group 0;
    ret;
}";

/// A kernel takes a tensor map from its parameters: what lies inside of the tensor is loaded and stored.
#[test]
fn tensor_maps_are_encoded_for_kernels() {
    for device in devices() {
        let memory = device.alloc_slice(&(0..24u32).collect::<Vec<_>>()).unwrap();
        let map = TensorMap::new(TensorType::U32, memory.ptr(), &[5, 3], &[32], &[4, 2]);
        if !device.is_vm() && device.info().compute_capability < Some((9, 0)) {
            let error = device.tensor_map(&map).unwrap_err().to_string();
            assert!(error.contains("Hopper"), "{error}");
            continue;
        }
        let kernel = device.kernel_from_ptx("tensor", TENSOR, "next").unwrap();
        let encoded = device.tensor_map(&map).unwrap();
        device.launch(&kernel, ONE, [8, 1, 1], 0, &encoded).unwrap();
        // Rows 1 and 2 of three, columns 3 and 4 of five.
        let expected: Vec<u32> = (0..24).map(|i| i + u32::from([11, 12, 19, 20].contains(&i))).collect();
        assert_eq!(device.download_vec::<u32>(&memory, 0, 24).unwrap(), expected);
        let wrong = TensorMap::new(TensorType::U32, memory.ptr() + 4, &[5, 3], &[32], &[4, 2]);
        let error = device.tensor_map(&wrong).unwrap_err();
        assert!(
            matches!(error, DeviceError::TensorMap { .. }) && error.to_string().contains("multiple of 16"),
            "{error}"
        );
    }
}
