//! Streams and events: default streams of both kinds, blocking and non-blocking ones, host functions, timing.

use super::client::{code::*, *};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::mpsc;
use std::time::Duration;

const LEGACY: u64 = 1;
const PER_THREAD: u64 = 2;

extern "C" fn count(counter: *const AtomicU32) {
    // SAFETY: the tests give a static.
    unsafe { &*counter }.fetch_add(1, SeqCst);
}

fn host(stream: u64, function: extern "C" fn(*const AtomicU32), counter: &'static AtomicU32) {
    ok("cuLaunchHostFunc", (stream, function, std::ptr::from_ref(counter)));
}

/// Whether the work of `second` waited for that of `first`, in some of the random orders: tags in the order they ran.
fn order(first: u64, second: u64) -> Vec<u32> {
    let order = Order::new();
    order.mark(first, 1);
    order.mark(second, 2);
    order.seen()
}

/// The order of two streams with every seed of a few: whether it was ever the other way round.
fn swapped(name: &str, body: fn()) -> bool {
    let mut swapped = false;
    for seed in 0..12 {
        let output = alone(name, &[("VCUDA_SCHEDULE", &format!("random:{seed}"))], body);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("[1, 2]") || text.contains("[2, 1]"), "{text}");
        swapped |= text.contains("[2, 1]");
    }
    swapped
}

/// A pair of streams, and whether they keep order.
macro_rules! orders {
    ($($name:ident: $first:expr, $second:expr => $free:literal)*) => {
        $(
            #[test]
            fn $name() {
                let free = swapped(concat!(module_path!(), "::", stringify!($name)), || {
                    start();
                    println!("{:?}", order($first, $second));
                });
                assert_eq!(free, $free);
            }
        )*
    };
}

orders! {
    legacy_and_blocking_keep_order: NULL, stream(0) => false
    blocking_and_legacy_keep_order: stream(0), LEGACY => false
    legacy_and_non_blocking_do_not: NULL, stream(NON_BLOCKING) => true
    legacy_and_per_thread_keep_order: LEGACY, PER_THREAD => false
    per_thread_and_legacy_keep_order: PER_THREAD, NULL => false
    per_thread_and_blocking_do_not: PER_THREAD, stream(0) => true
    two_blocking_do_not: stream(0), stream(0) => true
}

scenarios! {
    what_a_stream_is_asked [] {
        let own = start();
        let plain = stream(0);
        let urgent = made(|out| cu("cuStreamCreateWithPriority", (out, NON_BLOCKING, -99i32)));
        let (mut flags, mut priority, mut context, mut device) = (9u32, 9i32, 0u64, 9i32);
        ok("cuStreamGetFlags", (urgent, &mut flags));
        ok("cuStreamGetPriority", (urgent, &mut priority));
        assert_eq!((flags, priority), (1, -5));
        ok("cuStreamGetFlags", (plain, &mut flags));
        ok("cuStreamGetPriority", (plain, &mut priority));
        assert_eq!((flags, priority), (0, 0));
        ok("cuStreamGetCtx", (plain, &mut context));
        assert_eq!(context, own);
        ok("cuStreamGetDevice", (plain, &mut device));
        assert_eq!(device, 0);
        let (mut a, mut b) = (0u64, 0u64);
        ok("cuStreamGetId", (plain, &mut a));
        ok("cuStreamGetId", (urgent, &mut b));
        assert_ne!(a, b);
        fails(INVALID_VALUE, "cuStreamCreate", (&mut a, 2u32));
        fails(INVALID_VALUE, "cuStreamCreate", (0u64, 0u32));
        ok("cuStreamQuery", (plain,));
        ok("cuStreamSynchronize", (plain,));
        ok("cuStreamDestroy_v2", (plain,));
        for name in ["cuStreamDestroy_v2", "cuStreamSynchronize", "cuStreamQuery"] {
            fails(INVALID_HANDLE, name, (plain,));
        }
        fails(INVALID_HANDLE, "cuStreamDestroy_v2", (NULL,));
    }

    /// The per-thread default stream is each thread's own, and the functions `_ptsz` mean it by null.
    per_thread_streams [] {
        let own = start();
        let id = |name: &str, stream: u64| { let mut id = 0u64; ok(name, (stream, &mut id)); id };
        let mine = id("cuStreamGetId", PER_THREAD);
        assert_eq!(mine, id("cuStreamGetId_ptsz", NULL));
        assert_ne!(mine, id("cuStreamGetId", NULL));
        assert_eq!(id("cuStreamGetId", NULL), id("cuStreamGetId_ptsz", LEGACY));
        let other = std::thread::spawn(move || {
            ok("cuCtxSetCurrent", (own,));
            let mut id = 0u64;
            ok("cuStreamGetId_ptsz", (NULL, &mut id));
            id
        });
        assert_ne!(mine, other.join().unwrap());
    }

    events_with_time [] {
        start();
        let (first, second) = (made(|out| cu("cuEventCreate", (out, 0u32))), made(|out| cu("cuEventCreate", (out, 1u32))));
        let mut ms = -1f32;
        fails(INVALID_HANDLE, "cuEventElapsedTime", (&mut ms, first, second));
        let memory = alloc(4 << 16);
        let fill = function(module(PTX), "fill");
        ok("cuEventRecord", (first, NULL));
        launch(fill, 256, 256, NULL, &[P(memory), U(1)]);
        ok("cuEventRecord", (second, NULL));
        ok("cuEventSynchronize", (second,));
        ok("cuEventElapsedTime", (&mut ms, first, second));
        assert!(ms > 0.0, "{ms}");
        ok("cuEventElapsedTime", (&mut ms, second, first));
        assert!(ms < 0.0, "{ms}");
        // One without timing has no time.
        let plain = event();
        ok("cuEventRecord", (plain, NULL));
        fails(INVALID_HANDLE, "cuEventElapsedTime", (&mut ms, first, plain));
        ok("cuEventDestroy_v2", (plain,));
        for name in ["cuEventDestroy_v2", "cuEventQuery", "cuEventSynchronize"] {
            fails(INVALID_HANDLE, name, (plain,));
        }
        fails(INVALID_HANDLE, "cuEventRecord", (plain, NULL));
        fails(INVALID_HANDLE, "cuStreamWaitEvent", (NULL, plain, 0u32));
        fails(INVALID_VALUE, "cuEventCreate", (&mut 0u64, 8u32));
        // For other processes only without timing.
        fails(INVALID_VALUE, "cuEventCreate", (&mut 0u64, 4u32));
        fails(INVALID_VALUE, "cuStreamWaitEvent", (NULL, first, 2u32));
        // External events are there in captures only.
        fails(INVALID_VALUE, "cuStreamWaitEvent", (NULL, first, 1u32));
        fails(INVALID_VALUE, "cuEventRecordWithFlags", (first, NULL, 1u32));
    }

    an_event_that_is_not_done [VCUDA_SCHEDULE = "late"] {
        start();
        let (first, second) = (made(|out| cu("cuEventCreate", (out, 0u32))), made(|out| cu("cuEventCreate", (out, 0u32))));
        ok("cuEventQuery", (first,));
        ok("cuEventSynchronize", (first,));
        ok("cuEventRecord", (first, NULL));
        ok("cuEventRecord", (second, NULL));
        let mut ms = 0f32;
        fails(NOT_READY, "cuEventElapsedTime", (&mut ms, first, second));
        fails(NOT_READY, "cuEventQuery", (second,));
        ok("cuEventSynchronize", (first,));
        ok("cuEventQuery", (first,));
        fails(NOT_READY, "cuEventQuery", (second,));
        // Destroyed under way: what waits for it waits on.
        let order = Order::new();
        let (a, b) = (stream(NON_BLOCKING), stream(NON_BLOCKING));
        order.mark(a, 1);
        ok("cuEventRecord", (second, a));
        ok("cuStreamWaitEvent", (b, second, 0u32));
        ok("cuEventDestroy_v2", (second,));
        order.mark(b, 2);
        ok("cuStreamSynchronize", (b,));
        assert_eq!(order.seen(), [1, 2]);
    }

    /// A wait is for the record that was there when it was queued.
    an_event_recorded_again [VCUDA_SCHEDULE = "late"] {
        start();
        let order = Order::new();
        let (a, b, c) = (stream(NON_BLOCKING), stream(NON_BLOCKING), stream(NON_BLOCKING));
        let event = event();
        order.mark(a, 1);
        ok("cuEventRecord", (event, a));
        ok("cuStreamWaitEvent", (b, event, 0u32));
        order.mark(c, 3);
        ok("cuEventRecord", (event, c));
        order.mark(b, 2);
        ok("cuStreamSynchronize", (b,));
        let two: Vec<u32> = {
            let host = pinned::<u32>(4);
            let copy = stream(NON_BLOCKING);
            ok("cuMemcpyDtoHAsync_v2", (host, order.log, 16usize, copy));
            ok("cuStreamSynchronize", (copy,));
            (0..3).map(|i| peek(host, i)).collect()
        };
        assert_eq!(two, [2, 1, 2], "the third stream has not run");
    }

    host_functions_run_in_order [] {
        start();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        extern "C" fn refused(_: *const AtomicU32) {
            // No calls of the driver from here.
            assert_eq!(cu("cuCtxSynchronize", ()), NOT_PERMITTED);
            assert_eq!(cu("cuMemAlloc_v2", (&mut 0u64, 16usize)), NOT_PERMITTED);
            COUNT.fetch_add(10, SeqCst);
        }
        host(NULL, count, &COUNT);
        host(NULL, refused, &COUNT);
        ok("cuStreamSynchronize", (NULL,));
        assert_eq!(COUNT.load(SeqCst), 11);
        extern "C" fn status(_: u64, status: u32, data: *const AtomicU32) {
            assert_eq!(status, 0);
            count(data);
        }
        ok("cuStreamAddCallback", (NULL, status as extern "C" fn(u64, u32, *const AtomicU32), &COUNT, 0u32));
        ok("cuStreamSynchronize", (NULL,));
        assert_eq!(COUNT.load(SeqCst), 12);
        fails(INVALID_VALUE, "cuLaunchHostFunc", (NULL, NULL, NULL));
        fails(INVALID_VALUE, "cuStreamAddCallback", (NULL, status as extern "C" fn(u64, u32, *const AtomicU32), NULL, 1u32));
    }

    /// A callback is told of a fault; a host function is not called after one.
    callbacks_after_a_fault [VCUDA_SCHEDULE = "late"] {
        start();
        static STATUS: AtomicU32 = AtomicU32::new(9999);
        static CALLED: AtomicU32 = AtomicU32::new(0);
        extern "C" fn status(_: u64, status: u32, _: u64) {
            STATUS.store(status, SeqCst);
        }
        let bad = function(module(PTX), "bad");
        launch(bad, 1, 1, NULL, &[]);
        host(NULL, count, &CALLED);
        ok("cuStreamAddCallback", (NULL, status as extern "C" fn(u64, u32, u64), NULL, 0u32));
        fails(ILLEGAL_ADDRESS, "cuStreamSynchronize", (NULL,));
        let began = std::time::Instant::now();
        while STATUS.load(SeqCst) == 9999 && began.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!((STATUS.load(SeqCst), CALLED.load(SeqCst)), (ILLEGAL_ADDRESS, 0));
    }

    /// A host function may wait for another thread, and that thread may use the driver meanwhile.
    a_host_function_that_waits [VCUDA_SCHEDULE = "random:3"] {
        let own = start();
        type Pair = (mpsc::Sender<()>, mpsc::Receiver<()>);
        extern "C" fn meet(pair: *const Pair) {
            // SAFETY: the test's pair, which outlives the call.
            let (tell, wait) = unsafe { &*pair };
            tell.send(()).unwrap();
            wait.recv().unwrap();
        }
        let (tell, told) = mpsc::channel();
        let (release, wait) = mpsc::channel();
        let pair: Pair = (tell, wait);
        let (a, b) = (stream(NON_BLOCKING), stream(NON_BLOCKING));
        let order = Order::new();
        ok("cuLaunchHostFunc", (a, meet as extern "C" fn(*const Pair), &pair));
        order.mark(a, 2);
        let log = order.log;
        let append = order.append;
        let other = std::thread::spawn(move || {
            ok("cuCtxSetCurrent", (own,));
            told.recv().unwrap();
            launch(append, 1, 1, b, &[P(log), U(1)]);
            ok("cuStreamSynchronize", (b,));
            release.send(()).unwrap();
        });
        ok("cuStreamSynchronize", (a,));
        other.join().unwrap();
        assert_eq!(order.seen(), [1, 2]);
    }

    /// An eager driver goes on after a host function without being asked.
    eager_streams_run_by_themselves [] {
        start();
        static GATE: AtomicU32 = AtomicU32::new(0);
        extern "C" fn wait(gate: *const AtomicU32) {
            // SAFETY: a static.
            while unsafe { &*gate }.load(SeqCst) == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let (a, b) = (stream(NON_BLOCKING), stream(NON_BLOCKING));
        let flag = pinned::<u32>(1);
        let fill = function(module(PTX), "fill");
        let event = event();
        host(a, wait, &GATE);
        ok("cuEventRecord", (event, a));
        ok("cuStreamWaitEvent", (b, event, 0u32));
        launch(fill, 1, 1, b, &[P(flag as u64), U(5)]);
        assert_eq!(peek(flag, 0), u32::MAX);
        GATE.store(1, SeqCst);
        let began = std::time::Instant::now();
        while peek(flag, 0) != 5 {
            assert!(began.elapsed() < Duration::from_secs(20), "nobody runs it");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What is queued on a stream that is destroyed runs all the same, and the legacy stream waits for it.
    a_stream_destroyed_with_work_queued [VCUDA_SCHEDULE = "late"] {
        start();
        let order = Order::new();
        let (a, b) = (stream(0), stream(NON_BLOCKING));
        order.mark(a, 1);
        ok("cuStreamDestroy_v2", (a,));
        order.mark(NULL, 2);
        ok("cuStreamSynchronize", (NULL,));
        order.mark(b, 3);
        ok("cuStreamDestroy_v2", (b,));
        assert_eq!(order.seen(), [1, 2, 3]);
    }
}
