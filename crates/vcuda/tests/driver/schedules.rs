//! When queued work runs: late, at random, from many threads.

use super::client::{code::*, *};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// A diamond: 1, then 2 and 3, then 4.
fn diamond() -> Vec<u32> {
    let order = Order::new();
    let (a, b) = (stream(NON_BLOCKING), stream(NON_BLOCKING));
    let (fork, join) = (event(), event());
    order.mark(a, 1);
    ok("cuEventRecord", (fork, a));
    ok("cuStreamWaitEvent", (b, fork, 0u32));
    order.mark(a, 2);
    order.mark(b, 3);
    ok("cuEventRecord", (join, b));
    ok("cuStreamWaitEvent", (a, join, 0u32));
    order.mark(a, 4);
    order.seen()
}

/// Two streams of three: the order of all six.
fn two_streams() -> Vec<u32> {
    let order = Order::new();
    let (a, b) = (stream(NON_BLOCKING), stream(NON_BLOCKING));
    for i in 0..3 {
        order.mark(a, i);
        order.mark(b, 10 + i);
    }
    order.seen()
}

/// What a scenario prints under a schedule.
fn printed(name: &str, schedule: &str, body: fn()) -> String {
    let output = alone(name, &[("VCUDA_SCHEDULE", schedule)], body);
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find_map(|line| line.split_once("order: "));
    line.unwrap_or_else(|| panic!("{text}")).1.to_owned()
}

#[test]
fn all_orders_that_are_allowed_occur() {
    let name = concat!(module_path!(), "::all_orders_that_are_allowed_occur");
    let body = || {
        start();
        println!("order: {:?}", diamond());
    };
    let seen: BTreeSet<String> = (0..16).map(|seed| printed(name, &format!("random:{seed}"), body)).collect();
    let expected = ["[1, 2, 3, 4]", "[1, 3, 2, 4]"].map(str::to_owned).into();
    assert_eq!(seen, expected);
}

#[test]
fn a_seed_is_an_order() {
    let name = concat!(module_path!(), "::a_seed_is_an_order");
    let body = || {
        start();
        println!("order: {:?}", two_streams());
    };
    let run = |seed: u32| printed(name, &format!("random:{seed}"), body);
    let seen: Vec<String> = (0..8).map(run).collect();
    for (seed, first) in [(0, &seen[0]), (5, &seen[5])] {
        assert_eq!(run(seed), *first, "seed {seed}");
    }
    // Of twenty orders.
    let different = BTreeSet::from_iter(&seen).len();
    assert!(different >= 4, "{seen:?}");
    for order in &seen {
        let tags: Vec<u32> = order.trim_matches(['[', ']']).split(", ").map(|tag| tag.parse().unwrap()).collect();
        for stream in [0, 10] {
            let own: Vec<u32> = tags.iter().copied().filter(|tag| tag / 10 * 10 == stream).collect();
            assert_eq!(own, [stream, stream + 1, stream + 2], "{order}");
        }
    }
}

/// A consumer that forgets to wait for its producer reads what was there before, with some seed; one that waits never does.
#[test]
fn a_missing_wait_shows() {
    let name = concat!(module_path!(), "::a_missing_wait_shows");
    let body = || {
        start();
        let module = module(PTX);
        let (fill, add) = (function(module, "fill"), function(module, "add"));
        let (a, b) = (stream(NON_BLOCKING), stream(NON_BLOCKING));
        let (from, to, ready) = (alloc(64), alloc(64), event());
        ok("cuMemsetD8_v2", (from, 0u8, 64usize));
        ok("cuCtxSynchronize", ());
        launch(fill, 1, 16, a, &[P(from), U(7)]);
        ok("cuEventRecord", (ready, a));
        if std::env::var_os("WAIT").is_some() {
            ok("cuStreamWaitEvent", (b, ready, 0u32));
        }
        launch(add, 1, 16, b, &[P(to), P(from), U(1)]);
        ok("cuStreamSynchronize", (b,));
        let host = pinned::<u32>(16);
        ok("cuMemcpyDtoHAsync_v2", (host, to, 64usize, b));
        ok("cuStreamSynchronize", (b,));
        println!("order: {}", peek(host, 15));
    };
    let run = |schedule: &str, wait: bool| {
        let mut variables = vec![("VCUDA_SCHEDULE", schedule)];
        variables.extend(wait.then_some(("WAIT", "1")));
        let text = String::from_utf8(alone(name, &variables, body).stdout).unwrap();
        text.lines().find_map(|line| Some(line.split_once("order: ")?.1.to_owned())).unwrap()
    };
    assert_eq!(run("late", false), "1", "the producer was not waited for");
    assert_eq!(run("late", true), "8");
    let seeds: Vec<String> = (0..8).map(|seed| format!("random:{seed}")).collect();
    let without: BTreeSet<String> = seeds.iter().map(|seed| run(seed, false)).collect();
    assert_eq!(without, ["1", "8"].map(str::to_owned).into());
    assert!(seeds.iter().take(4).all(|seed| run(seed, true) == "8"));
}

scenarios! {
    late_copies_have_not_happened [VCUDA_SCHEDULE = "late"] {
        start();
        let (s, memory) = (stream(NON_BLOCKING), alloc(16));
        let (from, to) = (pinned::<u32>(4), pinned::<u32>(4));
        // SAFETY: pinned memory of this test.
        unsafe { from.write(1) };
        ok("cuMemcpyHtoDAsync_v2", (memory, from, 16usize, s));
        ok("cuMemcpyDtoHAsync_v2", (to, memory, 16usize, s));
        assert_eq!(peek(to, 0), u32::MAX, "read before the wait");
        // Written before the wait: the copy takes what is there when it runs.
        // SAFETY: as above.
        unsafe { from.write_volatile(2) };
        ok("cuStreamSynchronize", (s,));
        assert_eq!(peek(to, 0), 2);
        // Pageable memory, too.
        let mut pageable = [3u32; 4];
        ok("cuMemcpyHtoDAsync_v2", (memory, pageable.as_ptr(), 16usize, s));
        pageable.fill(4);
        ok("cuStreamSynchronize", (s,));
        assert_eq!(download::<u32>(memory, 1), [4]);
        // A synchronous one has taken its bytes.
        ok("cuMemcpyHtoD_v2", (memory, pageable.as_ptr(), 16usize));
        pageable.fill(5);
        assert_eq!(download::<u32>(memory, 1), [4]);
    }

    pinned_memory_that_goes_too_early [VCUDA_SCHEDULE = "late"] {
        ok("cuInit", (0u32,));
        for to_host in [false, true] {
            let own = context(0);
            let (memory, host) = (alloc(64), pinned::<u32>(16));
            if to_host {
                ok("cuMemcpyDtoHAsync_v2", (host, memory, 64usize, NULL));
            } else {
                ok("cuMemcpyHtoDAsync_v2", (memory, host, 64usize, NULL));
            }
            ok("cuMemFreeHost", (host,));
            // The same address may be another's by now.
            pinned::<u32>(16);
            fails(ILLEGAL_ADDRESS, "cuCtxSynchronize", ());
            ok("cuCtxDestroy_v2", (own,));
        }
        // Pageable memory that is no more is a fault as well, where the system can tell.
        context(0);
        // SAFETY: a new mapping, and its end.
        unsafe {
            let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let at = libc::mmap(std::ptr::null_mut(), 4096, prot, flags, -1, 0);
            ok("cuMemcpyHtoDAsync_v2", (alloc(64), at, 64usize, NULL));
            libc::munmap(at, 4096);
        }
        fails(ILLEGAL_ADDRESS, "cuCtxSynchronize", ());
    }

    only_what_is_waited_for_runs [VCUDA_SCHEDULE = "late"] {
        start();
        let order = Order::new();
        let (a, b) = (stream(NON_BLOCKING), stream(NON_BLOCKING));
        let event = event();
        order.mark(a, 1);
        order.mark(b, 2);
        ok("cuEventRecord", (event, b));
        order.mark(b, 3);
        ok("cuEventSynchronize", (event,));
        order.mark(b, 4);
        ok("cuStreamSynchronize", (b,));
        ok("cuStreamSynchronize", (a,));
        assert_eq!(order.seen(), [2, 3, 4, 1]);
    }

    /// Each question lets an operation happen, in every schedule.
    polling_gets_on [VCUDA_SCHEDULE = "late"] {
        start();
        let order = Order::new();
        let (s, event) = (stream(NON_BLOCKING), event());
        for tag in 0..5 {
            order.mark(s, tag);
        }
        ok("cuEventRecord", (event, s));
        let mut questions = 0;
        while cu("cuEventQuery", (event,)) == NOT_READY {
            questions += 1;
            assert!(questions < 100);
        }
        assert!(questions >= 6, "{questions}");
        order.mark(s, 5);
        questions = 0;
        while cu("cuStreamQuery", (s,)) == NOT_READY {
            questions += 1;
            assert!(questions < 100);
        }
        assert_eq!(order.seen(), [0, 1, 2, 3, 4, 5]);
    }

    many_threads_at_once [VCUDA_SCHEDULE = "random:7"] {
        let own = start();
        let module = module(PTX);
        let (fill, add) = (function(module, "fill"), function(module, "add"));
        let threads: Vec<_> = (0..8u32)
            .map(|thread| {
                std::thread::spawn(move || {
                    ok("cuCtxSetCurrent", (own,));
                    extern "C" fn nothing(_: u64) {}
                    let (a, b) = (stream(NON_BLOCKING), stream(0));
                    let (memory, event, host) = (alloc(256), event(), pinned::<u32>(64));
                    for round in 0..20 {
                        launch(fill, 1, 64, a, &[P(memory), U(round)]);
                        ok("cuLaunchHostFunc", (a, nothing as extern "C" fn(u64), NULL));
                        ok("cuEventRecord", (event, a));
                        ok("cuStreamWaitEvent", (b, event, 0u32));
                        launch(add, 1, 64, b, &[P(memory), P(memory), U(thread)]);
                        ok("cuMemcpyDtoHAsync_v2", (host, memory, 256usize, b));
                        match round % 4 {
                            0 => ok("cuStreamSynchronize", (b,)),
                            1 => {
                                ok("cuEventRecord", (event, b));
                                ok("cuEventSynchronize", (event,));
                            }
                            2 => while cu("cuStreamQuery", (b,)) == NOT_READY {},
                            _ => ok("cuCtxSynchronize", ()),
                        }
                        assert_eq!(peek(host, 63), round + thread);
                    }
                    ok("cuMemFree_v2", (memory,));
                    ok("cuMemFreeHost", (host,));
                    ok("cuStreamDestroy_v2", (a,));
                    ok("cuStreamDestroy_v2", (b,));
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    /// A context that goes while other threads work in theirs.
    contexts_come_and_go [VCUDA_SCHEDULE = "random:2"] {
        ok("cuInit", (0u32,));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(|| {
                    for round in 0..8 {
                        let own = context(0);
                        let memory = alloc(256);
                        launch(function(module(PTX), "fill"), 1, 64, stream(0), &[P(memory), U(round)]);
                        if round % 2 == 0 {
                            ok("cuCtxSynchronize", ());
                        }
                        ok("cuCtxDestroy_v2", (own,));
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// 20,000 fills in one stream, and 20,000 in a graph's or several streams' shape: neither waiting nor polling for them takes long.
#[test]
fn long_queues() {
    let name = concat!(module_path!(), "::long_queues");
    for schedule in ["late", "random:1", "eager"] {
        let body = || {
            start();
            let memory = alloc(64);
            let streams: Vec<u64> = (0..8).map(|_| stream(NON_BLOCKING)).collect();
            let began = Instant::now();
            let queue = |streams: &[u64]| {
                for i in 0..20_000 {
                    ok("cuMemsetD8Async", (memory, 1u8, 4usize, streams[i % streams.len()]));
                }
            };
            queue(&streams[..1]);
            ok("cuStreamSynchronize", (streams[0],));
            queue(&streams);
            ok("cuCtxSynchronize", ());
            queue(&streams[..1]);
            while cu("cuStreamQuery", (streams[0],)) == NOT_READY {}
            queue(&streams);
            ok("cuMemFree_v2", (memory,));
            let took = began.elapsed();
            println!("order: {took:?}");
            assert!(took < Duration::from_secs(60), "{took:?}");
        };
        println!("{schedule}: {}", printed(name, schedule, body));
    }
}

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}

/// Handles of all kinds that the threads of [`chaos`] have made and share, also when they are long destroyed.
#[derive(Default)]
struct Handles {
    contexts: Vec<u64>,
    streams: Vec<u64>,
    events: Vec<u64>,
    memory: Vec<u64>,
    pinned: Vec<u64>,
    modules: Vec<u64>,
    functions: Vec<u64>,
    graphs: Vec<u64>,
    execs: Vec<u64>,
}

/// Any calls in any order from several threads, with handles of each other, stale ones, those of contexts that failed: whatever each call
/// answers, the driver neither panics nor hangs nor crashes, and a new context is well in the end.
fn chaos() {
    ok("cuInit", (0u32,));
    let handles = std::sync::Mutex::new(Handles::default());
    let text = c(PTX);
    let names = ["fill", "add", "append", "bad", "small"].map(c);
    std::thread::scope(|scope| {
        for seed in 1..=4u64 {
            let (handles, text, names) = (&handles, &text, &names);
            scope.spawn(move || {
                let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                extern "C" fn nothing(_: u64) {}
                let nothing = nothing as extern "C" fn(u64);
                // Nothing may be written to memory that is given back: it may be anybody's by then.
                let target = vec![0u8; 4096].leak().as_mut_ptr() as u64;
                for _ in 0..5000 {
                    let mut made = 0u64;
                    let mut pick = |list: fn(&mut Handles) -> &mut Vec<u64>| {
                        let mut handles = handles.lock().unwrap();
                        let list = list(&mut handles);
                        // Of the newest, mostly alive.
                        let from = list.len().saturating_sub(6);
                        list.get(from + dice.below(list.len() - from)).copied().unwrap_or(0)
                    };
                    let (s, e, m) = (pick(|h| &mut h.streams), pick(|h| &mut h.events), pick(|h| &mut h.memory));
                    let (t, h, g) = (pick(|h| &mut h.streams), pick(|h| &mut h.pinned), pick(|h| &mut h.graphs));
                    let (x, f, c) = (pick(|h| &mut h.execs), pick(|h| &mut h.functions), pick(|h| &mut h.contexts));
                    let module = pick(|h| &mut h.modules);
                    let list: Option<fn(&mut Handles) -> &mut Vec<u64>> = match dice.below(44) {
                        0 => (cu("cuCtxCreate_v2", (&mut made, 0u32, 0i32)) == 0).then_some(|h| &mut h.contexts),
                        1..=3 => {
                            (cu("cuStreamCreate", (&mut made, seed as u32 & 1)) == 0).then_some(|h| &mut h.streams)
                        }
                        4 | 5 => (cu("cuEventCreate", (&mut made, 2u32)) == 0).then_some(|h| &mut h.events),
                        6 | 7 => (cu("cuMemAlloc_v2", (&mut made, 4096usize)) == 0).then_some(|h| &mut h.memory),
                        8 => (cu("cuMemAllocAsync", (&mut made, 4096usize, s)) == 0).then_some(|h| &mut h.memory),
                        9 => (cu("cuMemHostAlloc", (&mut made, 4096usize, 0u32)) == 0).then_some(|h| &mut h.pinned),
                        10 => (cu("cuModuleLoadData", (&mut made, text.as_ptr())) == 0).then_some(|h| &mut h.modules),
                        11..=14 => {
                            let some = if dice.below(20) == 0 { 5 } else { 3 };
                            let name = &names[dice.below(some)];
                            (cu("cuModuleGetFunction", (&mut made, module, name.as_ptr())) == 0)
                                .then_some(|h| &mut h.functions)
                        }
                        15 | 16 => {
                            let code = cu("cuStreamEndCapture", (s, &mut made));
                            (code == 0).then_some(|h| &mut h.graphs)
                        }
                        17 => {
                            (cu("cuGraphInstantiateWithFlags", (&mut made, g, 0u64)) == 0).then_some(|h| &mut h.execs)
                        }
                        other => {
                            match other {
                                18 => cu("cuCtxSetCurrent", (c,)),
                                19 => {
                                    if dice.below(8) == 0 {
                                        cu("cuCtxDestroy_v2", (c,))
                                    } else {
                                        cu("cuCtxPushCurrent_v2", (c,))
                                    }
                                }
                                20 => cu("cuStreamDestroy_v2", (s,)),
                                21 => cu("cuEventDestroy_v2", (e,)),
                                22 => {
                                    if dice.below(4) == 0 {
                                        cu("cuMemFree_v2", (m,))
                                    } else {
                                        cu("cuMemFreeAsync", (m, s))
                                    }
                                }
                                23 => {
                                    if dice.below(4) == 0 {
                                        cu("cuMemFreeHost", (h,))
                                    } else {
                                        cu("cuStreamQuery", (s,))
                                    }
                                }
                                24 => {
                                    if dice.below(8) == 0 {
                                        cu("cuModuleUnload", (module,))
                                    } else {
                                        cu("cuEventQuery", (e,))
                                    }
                                }
                                25 => cu("cuGraphDestroy", (g,)),
                                26 => cu("cuGraphExecDestroy", (x,)),
                                27..=30 => {
                                    try_launch(f, 2, 32, 0, s, &[P(m), P(if dice.below(2) == 0 { m } else { h }), U(1)])
                                }
                                31 => cu("cuMemcpyDtoHAsync_v2", (target, m, 4096usize, s)),
                                32 => cu("cuMemcpyHtoDAsync_v2", (m, h, 4096usize, s)),
                                33 => cu("cuMemsetD32Async", (m, 1u32, 1024usize, s)),
                                34 => cu("cuEventRecord", (e, s)),
                                35 | 36 => cu("cuStreamWaitEvent", (t, e, 0u32)),
                                37 => cu("cuLaunchHostFunc", (s, nothing, NULL)),
                                38 | 39 => cu("cuStreamBeginCapture_v2", (s, dice.below(3) as u32)),
                                40 => cu("cuGraphLaunch", (x, s)),
                                41 => cu("cuStreamSynchronize", (s,)),
                                42 => cu("cuEventSynchronize", (e,)),
                                _ => cu("cuGraphExecUpdate_v2", (x, g, &mut [0u64; 3])),
                            };
                            None
                        }
                    };
                    if let Some(list) = list {
                        list(&mut handles.lock().unwrap()).push(made);
                    } else if dice.below(100) == 0 || matches!(cu("cuProfilerStart", ()), INVALID_CONTEXT | 700..=720) {
                        // After a fault: on with a new one.
                        if cu("cuCtxCreate_v2", (&mut made, 0u32, 0i32)) == 0 {
                            handles.lock().unwrap().contexts.push(made);
                        }
                    }
                }
            });
        }
    });
    context(0);
    let memory = alloc(64);
    launch(function(module(PTX), "fill"), 1, 16, stream(0), &[P(memory), U(4)]);
    ok("cuCtxSynchronize", ());
    assert_eq!(download::<u32>(memory, 16), [4; 16]);
}

scenarios! {
    chaos_eager [VCUDA_SCHEDULE = "eager"] { chaos() }
    chaos_late [VCUDA_SCHEDULE = "late"] { chaos() }
    chaos_random [VCUDA_SCHEDULE = "random:11"] { chaos() }
}

scenarios! {
    /// A thread that queues without end keeps no other from returning.
    an_eager_thread_does_not_run_others_work_for_ever [] {
        let own = start();
        let (memory, fill) = (alloc(4 << 16), function(module(PTX), "fill"));
        static STOP: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
        let busy: Vec<_> = (0..3)
            .map(|_| {
                std::thread::spawn(move || {
                    ok("cuCtxSetCurrent", (own,));
                    let s = stream(NON_BLOCKING);
                    while !STOP.load(std::sync::atomic::Ordering::SeqCst) {
                        launch(fill, 64, 256, s, &[P(memory), U(1)]);
                    }
                })
            })
            .collect();
        let (s, began) = (stream(NON_BLOCKING), Instant::now());
        for _ in 0..20 {
            launch(fill, 1, 1, s, &[P(memory), U(2)]);
            ok("cuStreamSynchronize", (s,));
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        STOP.store(true, std::sync::atomic::Ordering::SeqCst);
        busy.into_iter().for_each(|thread| thread.join().unwrap());
    }
}
