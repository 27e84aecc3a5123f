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
        let mut pageable = vec![3u32; 4];
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
