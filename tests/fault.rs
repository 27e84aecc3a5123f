//! A kernel that goes wrong, on the device that `ADACACHE_DEVICE` names. One test alone: a GPU is lost to the whole process.

mod common;

use adacache::device::{DeviceError, Kernel};

/// An entry that writes where no memory is, and one that does nothing.
const PTX: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry astray()
{
  .reg .b64 %rd<2>;
  .reg .b32 %r<2>;
  mov.u64 %rd1, 8;
  mov.u32 %r1, 1;
  st.global.u32 [%rd1], %r1;
  ret;
}
.visible .entry quiet()
{
  ret;
}
";

/// The launch that meets a fault is not its cause, every later call says the same, and what is dropped says nothing.
#[test]
fn a_fault_is_told_of_what_was_queued_before() {
    let device = common::device();
    let memory = device.alloc(256).unwrap();
    let kernel = |entry| device.kernel_from_ptx("faults", PTX, entry).unwrap();
    let (astray, quiet) = (kernel("astray"), kernel("quiet"));
    let launch = |kernel: &Kernel| device.launch(kernel, [2, 1, 1], [1, 1, 1], 0, &());
    let graphs = device.record_graphs(|| launch(&quiet).and_then(|()| launch(&astray))).unwrap();
    launch(&quiet).unwrap();
    if device.is_vm() {
        // Nothing is ever later than its launch.
        let message = graphs[0].replay().unwrap_err().to_string();
        assert!(message.contains("astray failed on vm"), "{message}");
        launch(&quiet).unwrap();
        return;
    }
    graphs[0].replay().unwrap();
    // A quick device has failed before this call, another one after it.
    let pending = device.record();
    let met = device.synchronize().unwrap_err();
    let message = met.to_string();
    let DeviceError::GpuFault(fault) = met else { panic!("{message}") };
    assert_eq!(fault.last, "a graph of 2 kernels from quiet to astray");
    match &pending {
        Ok(_) => assert!(fault.call.ends_with("Synchronize"), "{}", fault.call),
        Err(error) => assert_eq!(error.to_string(), message),
    }
    assert!(message.contains("queued earlier") && message.contains("--device vm"), "{message}");
    let mut byte = [0];
    let later = [
        launch(&quiet),
        device.alloc(1).map(drop),
        device.upload(&memory, 0, &[1]),
        device.download(&memory, 0, &mut byte),
        device.fill(&memory, 0..256, 1),
        graphs[0].replay(),
        pending.and_then(|event| event.wait()),
        device.synchronize(),
        device.record_graphs(|| launch(&quiet)).map(drop),
        device.kernel_from_ptx("faults", PTX, "quiet").map(drop),
    ];
    for (i, later) in later.into_iter().enumerate() {
        assert_eq!(later.unwrap_err().to_string(), message, "call {i}");
    }
    assert!(device.uses_graphs(), "a fault is no refusal of a graph");
}
