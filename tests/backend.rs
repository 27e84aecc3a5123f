//! What a device promises to those that have to stop it, wait for it, or do without its graphs: on the device that `ADACACHE_DEVICE` names.

mod common;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use adacache::cache::CacheConfig;
use adacache::device::{
    Device, DeviceError, Event, Interrupter, Kernel, Launch, LaunchObserver, LaunchStats, Memory, Module, VmConfig,
};
use adacache::family;
use adacache::pipeline::{Pipeline, Request};
use adacache::tensor::{DType, Tensor};
use common::device;

/// A kernel of one thread that writes 7 to the address it is given, after `turns` turns of a loop.
fn slow_kernel(device: &Device, turns: u64) -> Kernel {
    let ptx = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n\n.visible .entry slow(\n  .param .u64 slow_param_0\n)\n{{\n  \
         .reg .pred %p;\n  .reg .b64 %rd<4>;\n  .reg .b32 %r1;\n  ld.param.u64 %rd1, [slow_param_0];\n  \
         cvta.to.global.u64 %rd1, %rd1;\n  mov.u64 %rd2, 0;\nLOOP:\n  add.u64 %rd2, %rd2, 1;\n  setp.lt.u64 %p, %rd2, {turns};\n  \
         @%p bra LOOP;\n  mov.u32 %r1, 7;\n  st.global.u8 [%rd1], %r1;\n  ret;\n}}\n"
    );
    device.kernel_from_ptx("slow", &ptx, "slow").unwrap()
}

const ONE: [u32; 3] = [1, 1, 1];

fn is_interrupted<T>(result: Result<T, DeviceError>) -> bool {
    matches!(result, Err(DeviceError::Interrupted { .. }))
}

// ---- interruption ----------------------------------------------------------------------------------------------------

#[test]
fn an_interrupted_device_begins_nothing_until_it_is_resumed() {
    let device = device();
    let memory = device.alloc(64).unwrap();
    let other = device.alloc(64).unwrap();
    device.upload(&memory, 0, &[5; 64]).unwrap();
    let pinned = device.pin(vec![6; 64]).unwrap();
    let kernel = slow_kernel(&device, 1);
    let graphs = device.record_graphs(|| device.fill(&other, 0..64, 9)).unwrap();
    let read = device.read_async(&memory, 0, 64).unwrap();
    let event = device.record().unwrap();

    let interrupter = device.interrupter();
    interrupter.interrupt();
    assert!(interrupter.is_interrupted());
    assert!(is_interrupted(device.alloc(1)));
    assert!(is_interrupted(device.upload(&memory, 0, &[1])));
    assert!(is_interrupted(device.download(&memory, 0, &mut [0])));
    assert!(is_interrupted(device.copy(&other, 0, &memory, 0, 64)));
    assert!(is_interrupted(device.fill(&memory, 0..64, 1)));
    assert!(is_interrupted(device.launch(&kernel, ONE, ONE, 0, &memory.ptr())));
    assert!(is_interrupted(device.read_async(&memory, 0, 64)));
    assert!(is_interrupted(device.pin(vec![1])));
    assert!(is_interrupted(device.fetch(&other, 0, &pinned)));
    assert!(is_interrupted(graphs[0].replay()));
    assert!(is_interrupted(device.record_graphs(|| device.fill(&other, 0..64, 1))));
    assert!(is_interrupted(device.kernel(Module::Motion, "motion_f32")));
    let error = device.alloc(1).unwrap_err();
    assert!(error.is_stop() && error.to_string().contains("interrupted"), "{error}");
    // What is on its way arrives, what is held goes, and what waits returns.
    assert_eq!(read.wait().unwrap(), [5; 64]);
    event.wait().unwrap();
    drop((pinned, kernel));
    device.synchronize().unwrap();

    interrupter.resume();
    assert!(!interrupter.is_interrupted());
    let read = |memory| device.read_async(memory, 0, 64).unwrap().wait().unwrap();
    assert_eq!(read(&memory), [5; 64], "nothing was done meanwhile");
    graphs[0].replay().unwrap();
    assert_eq!(read(&other), [9; 64]);
    let kernel = slow_kernel(&device, 1);
    device.launch(&kernel, ONE, ONE, 0, &memory.ptr()).unwrap();
    assert_eq!(read(&memory)[..2], [7, 5]);
}

#[test]
fn a_launch_on_the_virtual_gpu_ends_early() {
    let Some(device) = common::vm("launches that end early", VmConfig::default()) else { return };
    let beside = device.vm_beside(VmConfig { counters: true, ..VmConfig::default() });
    for device in [&device, &beside] {
        let memory = device.alloc(1).unwrap();
        let kernel = slow_kernel(device, 1 << 50);
        let interrupter = device.interrupter();
        let (launched, seconds) = std::thread::scope(|scope| {
            let launch = scope.spawn(|| (device.launch(&kernel, ONE, ONE, 0, &memory.ptr()), Instant::now()));
            std::thread::sleep(Duration::from_millis(300));
            let start = Instant::now();
            interrupter.interrupt();
            let (launched, end) = launch.join().unwrap();
            (launched, end.saturating_duration_since(start).as_secs_f64())
        });
        assert!(is_interrupted(launched));
        assert!(seconds < 1.0, "it took {seconds} s");
        interrupter.resume();
        let kernel = slow_kernel(device, 3);
        device.launch(&kernel, ONE, ONE, 0, &memory.ptr()).unwrap();
        assert_eq!(device.read_async(&memory, 0, 1).unwrap().wait().unwrap(), [7]);
    }
}

// ---- events and graphs -----------------------------------------------------------------------------------------------

#[test]
fn events_happen_in_the_order_of_the_stream() {
    let device = device();
    let memory = device.alloc(1).unwrap();
    let kernel = slow_kernel(&device, 2000);
    let start = device.record().unwrap();
    device.launch(&kernel, ONE, ONE, 0, &memory.ptr()).unwrap();
    let middle = device.record().unwrap();
    device.launch(&kernel, ONE, ONE, 0, &memory.ptr()).unwrap();
    let end = device.record().unwrap();
    middle.wait().unwrap();
    assert!(start.ready().unwrap() && middle.ready().unwrap());
    end.wait().unwrap();
    assert!(end.ready().unwrap());
    let (whole, half) = (end.seconds_since(&start).unwrap(), middle.seconds_since(&start).unwrap());
    assert!(half > 0.0 && whole >= half && whole < 60.0, "{half} {whole}");
    assert_eq!(start.seconds_since(&end).unwrap(), 0.0, "time does not run backwards");
    // Who asks for a time waits for both ends of it.
    device.launch(&kernel, ONE, ONE, 0, &memory.ptr()).unwrap();
    let last = device.record().unwrap();
    assert_eq!(end.seconds_since(&last).unwrap(), 0.0);
}

/// Copies, fills, fetches in two graphs, and what they leave.
fn replayed(device: &Device) -> Vec<u8> {
    let (room, seen) = (device.alloc(8).unwrap(), device.alloc(16).unwrap());
    let (first, second) = (device.pin(vec![1; 8]).unwrap(), device.pin(vec![2; 8]).unwrap());
    let graphs = device.record_graphs(|| {
        device.fill(&seen, 0..16, 3)?;
        device.fetch(&room, 0, &first)?;
        device.fetched(&room, 0)?;
        device.copy(&seen, 0, &room, 0, 8)?;
        device.cut();
        device.fetch(&room, 0, &second)?;
        device.fetched(&room, 0)?;
        device.copy(&seen, 8, &room, 0, 4)
    });
    let graphs = graphs.unwrap();
    for _ in 0..3 {
        graphs.iter().for_each(|graph| graph.replay().unwrap());
    }
    device.read_async(&seen, 0, 16).unwrap().wait().unwrap()
}

#[test]
fn without_graphs_the_same_is_done_launch_by_launch() {
    let device = device();
    assert!(device.uses_graphs());
    let with = replayed(&device);
    assert_eq!(with, [1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]);
    assert!(device.uses_graphs(), "no graph was refused");
    device.use_graphs(false);
    assert!(!device.uses_graphs());
    assert_eq!(replayed(&device), with);
    device.use_graphs(true);
    assert_eq!(replayed(&device), with);
}

#[test]
fn what_was_fetched_before_a_graph_is_there_in_it() {
    let device = device();
    // Large enough that its copy is not done by chance when the graph begins.
    let bytes = 64 << 20;
    let (room, seen) = (device.alloc(bytes).unwrap(), device.alloc(bytes).unwrap());
    let graphs = device.record_graphs(|| {
        device.fetched(&room, 0)?;
        device.copy(&seen, 0, &room, 0, bytes)
    });
    let graphs = graphs.unwrap();
    for value in [1u8, 2] {
        let weights = device.pin(vec![value; bytes]).unwrap();
        device.fetch(&room, 0, &weights).unwrap();
        graphs[0].replay().unwrap();
        let last = device.read_async(&seen, bytes - 8, 8).unwrap();
        assert_eq!(last.wait().unwrap(), [value; 8]);
    }
    assert!(device.uses_graphs(), "no graph was refused");
}

/// One room for what is fetched again and again: no fetch overtakes the work in front of it, and no work the fetch that it waits for. All of it is
/// queued before anybody waits.
#[test]
fn fetches_and_work_take_turns() {
    const TURNS: usize = 6;
    let bytes = 1 << 20;
    let device = device();
    let room = device.alloc(bytes).unwrap();
    let seen: Vec<Memory> = (0..TURNS).map(|_| device.alloc(bytes).unwrap()).collect();
    let blocks: Vec<_> = (0..TURNS).map(|turn| device.pin(vec![turn as u8; bytes]).unwrap()).collect();
    device.fill(&room, 0..bytes, 99).unwrap();
    for (seen, block) in seen.iter().zip(&blocks) {
        device.fetch(&room, 0, block).unwrap();
        device.fetched(&room, 0).unwrap();
        device.copy(seen, 0, &room, 0, bytes).unwrap();
    }
    let reads: Vec<_> = seen.iter().map(|seen| device.read_async(seen, bytes - 8, 8).unwrap()).collect();
    let found: Vec<u8> = reads.into_iter().map(|read| read.wait().unwrap()[0]).collect();
    assert_eq!(found, (0..TURNS as u8).collect::<Vec<_>>());
}

/// The same one by one: where each fetch is done when it is needed and no sooner, it has to be asked for.
#[test]
fn each_fetch_is_there_for_the_work_behind_it() {
    let bytes = 1 << 20;
    let device = device();
    let (room, seen) = (device.alloc(bytes).unwrap(), device.alloc(bytes).unwrap());
    let blocks: Vec<_> = (0..6u8).map(|turn| device.pin(vec![turn; bytes]).unwrap()).collect();
    for (turn, block) in blocks.iter().enumerate() {
        device.fetch(&room, 0, block).unwrap();
        device.fetched(&room, 0).unwrap();
        device.copy(&seen, 0, &room, 0, bytes).unwrap();
        let read = device.read_async(&seen, bytes - 8, 8).unwrap();
        assert_eq!(read.wait().unwrap(), [turn as u8; 8]);
    }
}

/// Host memory stays until what is fetched from it has arrived, also when its owner lets go of it before.
#[test]
fn what_is_fetched_from_outlives_its_owner() {
    let device = device();
    let room = device.alloc(1 << 20).unwrap();
    for value in [1u8, 2, 3] {
        let block = device.pin(vec![value; 1 << 20]).unwrap();
        device.fetch(&room, 0, &block).unwrap();
        drop(block);
        // What is pinned next may lie where that was.
        let _other = device.pin(vec![99; 1 << 20]).unwrap();
        device.fetched(&room, 0).unwrap();
        assert_eq!(device.read_async(&room, (1 << 20) - 8, 8).unwrap().wait().unwrap(), [value; 8]);
    }
}

/// Memory that is freed takes its fetches along, those to its middle too: later memory of that address is not written to.
#[test]
fn freed_memory_is_not_fetched_to() {
    let device = device();
    let weights = device.pin(vec![8; 16]).unwrap();
    for _ in 0..20 {
        let memory = device.alloc(4096).unwrap();
        device.fill(&memory, 0..4096, 1).unwrap();
        device.fetched(&memory, 256).unwrap();
        let read = device.read_async(&memory, 256, 16).unwrap();
        assert_eq!(read.wait().unwrap(), [1; 16]);
        device.fetch(&memory, 256, &weights).unwrap();
    }
}

#[test]
fn a_recording_that_panics_leaves_the_thread_as_it_was() {
    let device = device();
    let x = Tensor::zeros(&device, &[16], DType::F32).unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = device.record_graphs(|| -> Result<(), DeviceError> { panic!("on purpose") });
    }));
    assert!(panicked.is_err());
    assert!(!device.cut(), "nothing is being recorded");
    x.write_f32(&[1.0; 16]).unwrap();
    assert_eq!(x.to_f32().unwrap(), [1.0; 16]);
}

// ---- runs ------------------------------------------------------------------------------------------------------------

const STEPS: usize = 7;

fn sprites(device: &Device) -> (Pipeline, Request) {
    let pipeline = Pipeline::load(&family::sprites(), device, DType::Bf16).unwrap();
    let request = Request::new(&pipeline, "large red circle bouncing fast navy").unwrap();
    (pipeline, Request { steps: STEPS, cache: CacheConfig::None, decode: false, ..request })
}

/// Counts the last kernel of a step.
#[derive(Default)]
struct Steps(AtomicUsize);

impl LaunchObserver for Steps {
    fn launched(&self, launch: &Launch<'_>, _start: Event, _end: Event, _stats: Option<LaunchStats>) {
        if launch.kernel.starts_with("sampler_step") {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn a_step_is_told_of_when_it_is_finished_and_little_is_queued_behind_it() {
    let device = device();
    let (pipeline, request) = sprites(&device);
    for observed in [false, true] {
        let steps = Arc::new(Steps::default());
        device.observe(observed.then(|| steps.clone() as Arc<dyn LaunchObserver>));
        let mut told = vec![];
        pipeline
            .generate(&request, &mut |event| {
                assert!(event.end.ready().unwrap(), "step {} is not finished", event.step);
                assert!(event.seconds > 0.0 && event.steps == STEPS);
                if observed {
                    let queued = steps.0.load(Ordering::Relaxed);
                    assert!((event.step..=event.step + 1).contains(&queued), "{queued} at {}", event.step);
                }
                told.push(event.step);
                ControlFlow::Continue(())
            })
            .unwrap();
        device.observe(None);
        assert_eq!(told, (1..=STEPS).collect::<Vec<_>>());
    }
}

#[test]
fn a_stopped_run_and_an_interrupted_one_leave_nothing_and_the_next_is_as_ever() {
    let device = device();
    let (pipeline, request) = sprites(&device);
    let latents = || pipeline.generate(&request, &mut |_| ControlFlow::Continue(())).unwrap().latents;
    let whole = latents();
    let held = device.allocated_bytes();

    let stopped = pipeline.generate(&request, &mut |event| {
        if event.step == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let error = stopped.unwrap_err();
    assert!(error.is_stop() && error.to_string().contains("after step 3"), "{error}");
    assert_eq!(device.allocated_bytes(), held);

    // Also a callback that goes on: the device itself is stopped, from another thread.
    let interrupter: Mutex<Interrupter> = Mutex::new(device.interrupter());
    let interrupted = pipeline.generate(&request, &mut |event| {
        if event.step == 2 {
            std::thread::scope(|scope| scope.spawn(|| interrupter.lock().unwrap().interrupt()).join().unwrap());
        }
        assert!(event.step < 5, "the run goes on");
        ControlFlow::Continue(())
    });
    let error = interrupted.unwrap_err();
    assert!(error.is_stop() && error.to_string().contains("interrupted"), "{error}");
    assert_eq!(device.allocated_bytes(), held);
    interrupter.lock().unwrap().resume();
    assert_eq!(latents(), whole);

    device.use_graphs(false);
    assert_eq!(latents(), whole, "graphs change nothing");
}
