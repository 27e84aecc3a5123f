//! What the documentation forbids: calls while capturing, by mode and thread; captures that end wrongly; handles that are stale or another
//! context's; and faults, which stay.

use super::client::{code::*, *};

type Call = Box<dyn Fn() -> u32>;

/// The calls that may wait or allocate: forbidden while a capture is under way that is not relaxed.
fn unsafe_calls() -> Vec<(&'static str, Call)> {
    let (memory, freed, other, done) = (alloc(64), alloc(64), stream(NON_BLOCKING), event());
    let host = pinned::<u32>(1) as u64;
    ok("cuEventRecord", (done, other));
    let (loaded, text) = (module(PTX), c(PTX));
    let graph = made(|out| cu("cuGraphCreate", (out, 0u32)));
    vec![
        ("cuMemAlloc_v2", Box::new(|| cu("cuMemAlloc_v2", (&mut 0u64, 64usize)))),
        ("cuMemAllocPitch_v2", Box::new(|| cu("cuMemAllocPitch_v2", (&mut 0u64, &mut 0usize, 64usize, 1usize, 4u32)))),
        ("cuMemFree_v2", Box::new(move || cu("cuMemFree_v2", (freed,)))),
        ("cuMemHostAlloc", Box::new(|| cu("cuMemHostAlloc", (&mut 0u64, 64usize, 0u32)))),
        ("cuMemFreeHost", Box::new(move || cu("cuMemFreeHost", (host,)))),
        ("cuMemcpyHtoD_v2", Box::new(move || cu("cuMemcpyHtoD_v2", (memory, &0u32, 4usize)))),
        ("cuMemcpyDtoH_v2", Box::new(move || cu("cuMemcpyDtoH_v2", (&mut 0u32, memory, 4usize)))),
        ("cuMemsetD32_v2", Box::new(move || cu("cuMemsetD32_v2", (memory, 0u32, 1usize)))),
        ("cuStreamSynchronize", Box::new(move || cu("cuStreamSynchronize", (other,)))),
        ("cuStreamQuery", Box::new(move || cu("cuStreamQuery", (other,)))),
        ("cuEventSynchronize", Box::new(move || cu("cuEventSynchronize", (done,)))),
        ("cuEventQuery", Box::new(move || cu("cuEventQuery", (done,)))),
        ("cuModuleLoadData", Box::new(move || cu("cuModuleLoadData", (&mut 0u64, text.as_ptr())))),
        ("cuModuleUnload", Box::new(move || cu("cuModuleUnload", (loaded,)))),
        ("cuGraphInstantiateWithFlags", Box::new(move || cu("cuGraphInstantiateWithFlags", (&mut 0u64, graph, 0u64)))),
    ]
}

fn exchange(mode: u32) -> u32 {
    let mut value = mode;
    ok("cuThreadExchangeStreamCaptureMode", (&mut value,));
    value
}

/// Ends a capture that was spoilt.
#[track_caller]
fn ends(code: u32, stream: u64) {
    let mut graph = 9u64;
    fails(code, "cuStreamEndCapture", (stream, &mut graph));
    assert_eq!(graph, 0);
    let mut status = 9u32;
    ok("cuStreamIsCapturing", (stream, &mut status));
    assert_eq!(status, 0);
}

scenarios! {
    unsafe_calls_of_the_capturing_thread [] {
        start();
        let s = stream(NON_BLOCKING);
        for (name, call) in unsafe_calls() {
            for mode in [GLOBAL, THREAD_LOCAL] {
                begin_capture(s, mode);
                assert_eq!(call(), CAPTURE_UNSUPPORTED, "{name}");
                let mut status = 0u32;
                ok("cuStreamIsCapturing", (s, &mut status));
                assert_eq!(status, 2, "{name} spoils it");
                fails(CAPTURE_INVALIDATED, "cuMemsetD8Async", (NULL + 1, 0u8, 0usize, s));
                ends(CAPTURE_INVALIDATED, s);
            }
            // A relaxed capture, and a relaxed thread, do not care.
            begin_capture(s, RELAXED);
            assert_eq!(call(), 0, "{name}");
            end_capture(s);
        }
    }

    unsafe_calls_of_a_relaxed_thread [] {
        start();
        let s = stream(NON_BLOCKING);
        begin_capture(s, GLOBAL);
        assert_eq!(exchange(RELAXED), GLOBAL);
        alloc(64);
        assert_eq!(exchange(GLOBAL), RELAXED);
        fails(INVALID_VALUE, "cuThreadExchangeStreamCaptureMode", (&mut 3u32,));
        end_capture(s);
    }

    unsafe_calls_of_another_thread [] {
        let own = start();
        let s = stream(NON_BLOCKING);
        for (mode, other, expected) in [
            (GLOBAL, GLOBAL, CAPTURE_UNSUPPORTED),
            (GLOBAL, THREAD_LOCAL, 0),
            (GLOBAL, RELAXED, 0),
            (THREAD_LOCAL, GLOBAL, 0),
            (RELAXED, GLOBAL, 0),
        ] {
            begin_capture(s, mode);
            let got = std::thread::spawn(move || {
                ok("cuCtxSetCurrent", (own,));
                exchange(other);
                cu("cuMemAlloc_v2", (&mut 0u64, 64usize))
            });
            assert_eq!(got.join().unwrap(), expected, "{mode} {other}");
            if expected == 0 {
                end_capture(s);
            } else {
                ends(CAPTURE_INVALIDATED, s);
            }
        }
    }

    a_capture_that_is_waited_for [] {
        start();
        let (s, other) = (stream(NON_BLOCKING), stream(0));
        for name in ["cuStreamSynchronize", "cuStreamQuery"] {
            begin_capture(s, RELAXED);
            fails(CAPTURE_UNSUPPORTED, name, (s,));
            ends(CAPTURE_INVALIDATED, s);
        }
        begin_capture(s, RELAXED);
        fails(CAPTURE_UNSUPPORTED, "cuCtxSynchronize", ());
        ends(CAPTURE_INVALIDATED, s);
        // An event of a capture is no event.
        let event = event();
        for name in ["cuEventQuery", "cuEventSynchronize"] {
            begin_capture(s, RELAXED);
            ok("cuEventRecord", (event, s));
            fails(CAPTURED_EVENT, name, (event,));
            ends(CAPTURE_INVALIDATED, s);
        }
        begin_capture(s, RELAXED);
        ok("cuEventRecord", (event, s));
        end_capture(s);
        fails(CAPTURED_EVENT, "cuStreamWaitEvent", (other, event, 0u32));
        fails(CAPTURED_EVENT, "cuEventQuery", (event,));
        ok("cuEventRecord", (event, other));
        ok("cuEventSynchronize", (event,));
        // Callbacks cannot be captured.
        begin_capture(s, RELAXED);
        extern "C" fn callback(_: u64, _: u32, _: u64) {}
        fails(CAPTURE_UNSUPPORTED, "cuStreamAddCallback", (s, callback as extern "C" fn(u64, u32, u64), NULL, 0u32));
        ends(CAPTURE_INVALIDATED, s);
    }

    captures_that_begin_wrongly [] {
        start();
        let s = stream(0);
        fails(CAPTURE_UNSUPPORTED, "cuStreamBeginCapture_v2", (NULL, GLOBAL));
        fails(INVALID_VALUE, "cuStreamBeginCapture_v2", (s, 3u32));
        begin_capture(s, GLOBAL);
        fails(ILLEGAL_STATE, "cuStreamBeginCapture_v2", (s, GLOBAL));
        end_capture(s);
        fails(ILLEGAL_STATE, "cuStreamEndCapture", (s, &mut 0u64));
        // The per-thread default stream may.
        ok("cuStreamBeginCapture_v2_ptsz", (NULL, GLOBAL));
        let mut graph = 0u64;
        ok("cuStreamEndCapture_ptsz", (NULL, &mut graph));
        assert_ne!(graph, 0);
    }

    the_legacy_stream_cannot_wait_for_a_capture [] {
        start();
        let (blocking, free, memory) = (stream(0), stream(NON_BLOCKING), alloc(64));
        begin_capture(free, RELAXED);
        ok("cuMemsetD8Async", (memory, 0u8, 64usize, NULL));
        end_capture(free);
        let event = event();
        let calls: [&dyn Fn() -> u32; 5] = [
            &|| cu("cuMemcpyDtoH_v2", (&mut 0u32, memory, 4usize)),
            &|| cu("cuMemsetD8Async", (memory, 0u8, 64usize, NULL)),
            &|| cu("cuLaunchHostFunc", (NULL, find("cuInit"), NULL)),
            &|| cu("cuEventRecord", (event, NULL)),
            &|| cu("cuStreamSynchronize", (NULL,)),
        ];
        for call in calls {
            begin_capture(blocking, RELAXED);
            assert_eq!(call(), CAPTURE_IMPLICIT);
            ends(CAPTURE_INVALIDATED, blocking);
        }
        // Nor join one.
        begin_capture(free, RELAXED);
        ok("cuEventRecord", (event, free));
        fails(CAPTURE_IMPLICIT, "cuStreamWaitEvent", (NULL, event, 0u32));
        ends(CAPTURE_INVALIDATED, free);
    }

    joins_that_are_missing_or_wrong [] {
        start();
        let order = Order::new();
        let (a, b) = (stream(NON_BLOCKING), stream(NON_BLOCKING));
        let (first, second) = (event(), event());
        // Work on a second stream that is not joined.
        begin_capture(a, GLOBAL);
        ok("cuEventRecord", (first, a));
        ok("cuStreamWaitEvent", (b, first, 0u32));
        order.mark(b, 1);
        ends(CAPTURE_UNJOINED, a);
        let mut status = 9u32;
        ok("cuStreamIsCapturing", (b, &mut status));
        assert_eq!(status, 0);
        // Joined, and then used again.
        begin_capture(a, GLOBAL);
        ok("cuEventRecord", (first, a));
        ok("cuStreamWaitEvent", (b, first, 0u32));
        order.mark(b, 1);
        ok("cuEventRecord", (second, b));
        ok("cuStreamWaitEvent", (a, second, 0u32));
        order.mark(b, 2);
        ends(CAPTURE_UNJOINED, a);
        // Ended on the stream that was joined.
        begin_capture(a, GLOBAL);
        ok("cuEventRecord", (first, a));
        ok("cuStreamWaitEvent", (b, first, 0u32));
        fails(CAPTURE_UNMATCHED, "cuStreamEndCapture", (b, &mut 0u64));
        ends(CAPTURE_INVALIDATED, a);
        // Two captures into one.
        begin_capture(a, GLOBAL);
        begin_capture(b, GLOBAL);
        ok("cuEventRecord", (first, a));
        fails(CAPTURE_MERGE, "cuStreamWaitEvent", (b, first, 0u32));
        ends(CAPTURE_INVALIDATED, a);
        ends(CAPTURE_INVALIDATED, b);
        // Work outside, and an event that was never recorded.
        ok("cuEventRecord", (first, b));
        begin_capture(a, GLOBAL);
        fails(CAPTURE_ISOLATION, "cuStreamWaitEvent", (a, first, 0u32));
        ends(CAPTURE_INVALIDATED, a);
        begin_capture(a, GLOBAL);
        fails(CAPTURE_ISOLATION, "cuStreamWaitEvent", (a, event(), 0u32));
        ends(CAPTURE_INVALIDATED, a);
        // A joined stream that goes.
        let gone = stream(NON_BLOCKING);
        begin_capture(a, GLOBAL);
        ok("cuEventRecord", (first, a));
        ok("cuStreamWaitEvent", (gone, first, 0u32));
        ok("cuStreamDestroy_v2", (gone,));
        ends(CAPTURE_INVALIDATED, a);
        // An event of a spoilt capture.
        begin_capture(a, GLOBAL);
        ok("cuEventRecord", (first, a));
        fails(CAPTURE_UNSUPPORTED, "cuStreamSynchronize", (a,));
        fails(CAPTURE_INVALIDATED, "cuStreamWaitEvent", (b, first, 0u32));
        fails(CAPTURE_INVALIDATED, "cuEventRecord", (first, a));
        ends(CAPTURE_INVALIDATED, a);
    }

    captures_of_another_thread [] {
        let own = start();
        let s = stream(NON_BLOCKING);
        let end = move || {
            let other = std::thread::spawn(move || {
                ok("cuCtxSetCurrent", (own,));
                cu("cuStreamEndCapture", (s, &mut 0u64))
            });
            other.join().unwrap()
        };
        for mode in [GLOBAL, THREAD_LOCAL] {
            begin_capture(s, mode);
            assert_eq!(end(), CAPTURE_WRONG_THREAD);
            end_capture(s);
        }
        begin_capture(s, RELAXED);
        assert_eq!(end(), 0);
    }

    /// A graph is the capture's until that ends.
    the_graph_of_a_capture [] {
        let own = start();
        let s = stream(NON_BLOCKING);
        begin_capture(s, RELAXED);
        let (mut status, mut number, mut graph) = (0u32, 0u64, 0u64);
        ok("cuStreamGetCaptureInfo_v2", (s, &mut status, &mut number, &mut graph, NULL, NULL));
        assert_ne!(cu("cuGraphDestroy", (graph,)), 0);
        assert_ne!(cu("cuGraphInstantiateWithFlags", (&mut 0u64, graph, 0u64)), 0);
        end_capture(s);
        // Streams of two contexts in one capture: when the first goes, the second is free.
        let second = context(0);
        let t = stream(NON_BLOCKING);
        ok("cuCtxSetCurrent", (own,));
        let event = event();
        begin_capture(s, RELAXED);
        ok("cuEventRecord", (event, s));
        ok("cuStreamWaitEvent", (t, event, 0u32));
        ok("cuCtxDestroy_v2", (own,));
        ok("cuCtxSetCurrent", (second,));
        ok("cuStreamSynchronize", (t,));
        begin_capture(t, GLOBAL);
        end_capture(t);
    }

    handles_of_another_context [] {
        let first = start();
        let (s, module, memory) = (stream(0), module(PTX), alloc(64));
        let (fill, mine) = (function(module, "fill"), event());
        let second = context(0);
        assert_eq!(try_launch(fill, 1, 1, 0, NULL, &[P(memory), U(1)]), INVALID_HANDLE);
        fails(INVALID_HANDLE, "cuEventRecord", (mine, NULL));
        fails(INVALID_HANDLE, "cuLaunchHostFunc", (s, 1usize, NULL));
        fails(INVALID_HANDLE, "cuMemsetD8Async", (memory, 0u8, 64usize, s));
        // Waiting and asking is allowed from everywhere.
        ok("cuStreamSynchronize", (s,));
        ok("cuEventSynchronize", (mine,));
        let other = event();
        ok("cuEventRecord", (other, NULL));
        ok("cuStreamWaitEvent", (s, other, 0u32));
        ok("cuStreamSynchronize", (s,));
        let mut ms = 0f32;
        fails(INVALID_HANDLE, "cuEventElapsedTime", (&mut ms, mine, other));
        // And numbers that are no handles.
        for handle in [3u64, 0xdead_beef, first, memory] {
            fails(INVALID_HANDLE, "cuStreamSynchronize", (handle,));
            fails(INVALID_HANDLE, "cuEventSynchronize", (handle,));
            fails(INVALID_HANDLE, "cuModuleUnload", (handle,));
            assert_eq!(try_launch(handle, 1, 1, 0, NULL, &[]), INVALID_HANDLE);
        }
        ok("cuCtxDestroy_v2", (second,));
    }

    /// Every call of the context then answers the same; a new context is well.
    faults_stay [] {
        ok("cuInit", (0u32,));
        for (kernel, code) in [("bad", ILLEGAL_ADDRESS), ("odd", MISALIGNED_ADDRESS), ("trapped", LAUNCH_FAILED)] {
            let own = context(0);
            let (s, event, memory, host) = (stream(0), event(), alloc(64), pinned::<u32>(1));
            let module = module(PTX);
            let fill = function(module, "fill");
            let of: &[Param] = if kernel == "odd" { &[P(memory)] } else { &[] };
            // The launch itself succeeds.
            assert_eq!(try_launch(function(module, kernel), 1, 1, 0, s, of), 0);
            fails(code, "cuStreamSynchronize", (s,));
            for _ in 0..2 {
                fails(code, "cuCtxSynchronize", ());
                fails(code, "cuStreamSynchronize", (s,));
                fails(code, "cuStreamQuery", (s,));
                fails(code, "cuEventRecord", (event, s));
                fails(code, "cuEventQuery", (event,));
                fails(code, "cuEventSynchronize", (event,));
                fails(code, "cuMemAlloc_v2", (&mut 0u64, 64usize));
                fails(code, "cuMemFree_v2", (memory,));
                fails(code, "cuMemFreeHost", (host,));
                fails(code, "cuMemcpyDtoH_v2", (&mut 0u32, memory, 4usize));
                fails(code, "cuMemsetD8Async", (memory, 0u8, 4usize, s));
                fails(code, "cuModuleUnload", (module,));
                fails(code, "cuStreamCreate", (&mut 0u64, 0u32));
                assert_eq!(try_launch(fill, 1, 1, 0, s, &[P(memory), U(1)]), code);
            }
            // What needs no context goes on, and the stack of contexts too.
            ok("cuDriverGetVersion", (&mut 0i32,));
            ok("cuDeviceGetCount", (&mut 0i32,));
            assert_eq!(made(|out| cu("cuCtxGetCurrent", (out,))), own);
            ok("cuCtxDestroy_v2", (own,));
        }
        context(0);
        let memory = alloc(64);
        launch(function(module(PTX), "fill"), 1, 16, NULL, &[P(memory), U(4)]);
        assert_eq!(download::<u32>(memory, 16), [4; 16]);
    }

    /// So does one of a primary context, until that is reset; other contexts of the device do not see it.
    a_fault_of_a_primary_context [] {
        ok("cuInit", (0u32,));
        let own = context(0);
        let primary = made(|out| cu("cuDevicePrimaryCtxRetain", (out, 0i32)));
        ok("cuCtxPushCurrent_v2", (primary,));
        launch(function(module(PTX), "bad"), 1, 1, NULL, &[]);
        fails(ILLEGAL_ADDRESS, "cuCtxSynchronize", ());
        ok("cuCtxPopCurrent_v2", (NULL,));
        alloc(64);
        ok("cuCtxSynchronize", ());
        ok("cuDevicePrimaryCtxReset_v2", (0i32,));
        let primary = made(|out| cu("cuDevicePrimaryCtxRetain", (out, 0i32)));
        ok("cuCtxSetCurrent", (primary,));
        alloc(64);
        ok("cuCtxDestroy_v2", (own,));
    }

    /// Drivers wait before memory goes; the documentation does not say so, and programs can be held to that.
    a_free_that_waits [VCUDA_SCHEDULE = "late"] {
        start();
        let memory = alloc(64);
        launch(function(module(PTX), "fill"), 1, 16, NULL, &[P(memory), U(1)]);
        ok("cuMemFree_v2", (memory,));
        ok("cuCtxSynchronize", ());
    }

    a_free_that_does_not_wait [VCUDA_SCHEDULE = "late", VCUDA_FREE_WAITS = "0"] {
        start();
        let (memory, other) = (alloc(64), alloc(64));
        let fill = function(module(PTX), "fill");
        launch(fill, 1, 16, NULL, &[P(other), U(1)]);
        ok("cuCtxSynchronize", ());
        ok("cuMemFree_v2", (other,));
        launch(fill, 1, 16, NULL, &[P(memory), U(1)]);
        ok("cuMemFree_v2", (memory,));
        fails(ILLEGAL_ADDRESS, "cuCtxSynchronize", ());
    }

    /// Memory after its end, and beyond its end.
    memory_that_is_not_there [VCUDA_SCHEDULE = "late"] {
        ok("cuInit", (0u32,));
        for what in 0..3 {
            context(0);
            let fill = function(module(PTX), "fill");
            let s = stream(NON_BLOCKING);
            let memory = match what {
                // Freed in the order of the stream, and used behind that.
                0 => {
                    let memory = made(|out| cu("cuMemAllocAsync", (out, 64usize, s)));
                    ok("cuMemFreeAsync", (memory, s));
                    memory
                }
                1 => {
                    let memory = alloc(64);
                    ok("cuMemFree_v2", (memory,));
                    memory
                }
                _ => alloc(60),
            };
            launch(fill, 1, 16, s, &[P(memory), U(1)]);
            fails(ILLEGAL_ADDRESS, "cuStreamSynchronize", (s,));
            ok("cuCtxDestroy_v2", (made(|out| cu("cuCtxGetCurrent", (out,))),));
        }
    }
}
