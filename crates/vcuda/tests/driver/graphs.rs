//! Graphs: by capture and by hand, instantiated, changed, launched.

use super::client::{code::*, *};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

#[repr(C)]
#[derive(Clone, Copy)]
struct Kernel {
    function: u64,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    params: *const *const std::ffi::c_void,
    extra: u64,
}

/// With a library's kernel and a context.
#[repr(C)]
struct Kernel2 {
    first: Kernel,
    kernel: u64,
    context: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Fill {
    dst: u64,
    pitch: usize,
    value: u32,
    element: u32,
    width: usize,
    height: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Copy {
    src_x: usize,
    src_y: usize,
    src_z: usize,
    src_lod: usize,
    src_type: u32,
    src_host: u64,
    src_device: u64,
    src_array: u64,
    src_context: u64,
    src_pitch: usize,
    src_height: usize,
    dst_x: usize,
    dst_y: usize,
    dst_z: usize,
    dst_lod: usize,
    dst_type: u32,
    dst_host: u64,
    dst_device: u64,
    dst_array: u64,
    dst_context: u64,
    dst_pitch: usize,
    dst_height: usize,
    width: usize,
    height: usize,
    depth: usize,
}

fn copy(dst: u64, src: u64, bytes: usize) -> Copy {
    Copy {
        src_type: 2,
        src_device: src,
        src_pitch: bytes,
        src_height: 1,
        dst_type: 2,
        dst_device: dst,
        dst_pitch: bytes,
        dst_height: 1,
        width: bytes,
        height: 1,
        depth: 1,
        ..Copy::default()
    }
}

fn kernel(function: u64, threads: u32, params: &Params) -> Kernel {
    Kernel { function, grid: [1; 3], block: [threads, 1, 1], shared: 0, params: params.list.as_ptr(), extra: 0 }
}

fn graph() -> u64 {
    made(|out| cu("cuGraphCreate", (out, 0u32)))
}

fn add_kernel(graph: u64, waits: &[u64], node: &Kernel) -> u64 {
    made(|out| cu("cuGraphAddKernelNode", (out, graph, waits.as_ptr(), waits.len(), node)))
}

fn empty(graph: u64, waits: &[u64]) -> u64 {
    made(|out| cu("cuGraphAddEmptyNode", (out, graph, waits.as_ptr(), waits.len())))
}

fn mark(order: &Order, graph: u64, waits: &[u64], tag: u32) -> u64 {
    let params = params(&[P(order.log), U(tag)]);
    add_kernel(graph, waits, &kernel(order.append, 1, &params))
}

fn run(exec: u64, stream: u64) {
    ok("cuGraphLaunch", (exec, stream));
    ok("cuStreamSynchronize", (stream,));
}

fn list(name: &str, of: u64) -> Vec<u64> {
    let mut count = 0usize;
    ok(name, (of, NULL, &mut count));
    let mut list = vec![0u64; count];
    ok(name, (of, list.as_mut_ptr(), &mut count));
    list.sort_unstable();
    list
}

fn edges(graph: u64) -> Vec<(u64, u64)> {
    let mut count = 0usize;
    ok("cuGraphGetEdges", (graph, NULL, NULL, &mut count));
    let (mut from, mut to) = (vec![0u64; count], vec![0u64; count]);
    ok("cuGraphGetEdges", (graph, from.as_mut_ptr(), to.as_mut_ptr(), &mut count));
    let mut edges: Vec<_> = from.into_iter().zip(to).collect();
    edges.sort_unstable();
    edges
}

fn kind(node: u64) -> u32 {
    let mut kind = 99;
    ok("cuGraphNodeGetType", (node, &mut kind));
    kind
}

extern "C" fn count(counter: *const AtomicU32) {
    // SAFETY: the tests give a static.
    unsafe { &*counter }.fetch_add(1, SeqCst);
}

scenarios! {
    a_captured_fork_and_join [] {
        start();
        let order = Order::new();
        let (a, b) = (stream(NON_BLOCKING), stream(NON_BLOCKING));
        let (fork, join) = (event(), event());
        begin_capture(a, GLOBAL);
        order.mark(a, 1);
        ok("cuEventRecord", (fork, a));
        ok("cuStreamWaitEvent", (b, fork, 0u32));
        order.mark(b, 2);
        order.mark(a, 3);
        ok("cuEventRecord", (join, b));
        ok("cuStreamWaitEvent", (a, join, 0u32));
        order.mark(a, 4);
        let mut status = 9u32;
        for s in [a, b] {
            ok("cuStreamIsCapturing", (s, &mut status));
            assert_eq!(status, 1);
        }
        // The state of the capture, and what the next node would wait for.
        let (mut number, mut graph, mut tail, mut length) = (0u64, 0u64, std::ptr::null::<u64>(), 0usize);
        ok("cuStreamGetCaptureInfo_v2", (a, &mut status, &mut number, &mut graph, &mut tail, &mut length));
        assert_eq!((status, length), (1, 1));
        assert_eq!(kind(peek(tail, 0)), 0);
        let mut other = 0u64;
        ok("cuStreamGetCaptureInfo", (b, &mut status, &mut other));
        assert_eq!((status, other), (1, number));
        assert_eq!(end_capture(a), graph);
        ok("cuStreamIsCapturing", (b, &mut status));
        assert_eq!(status, 0, "the joined stream is let go");
        assert_eq!(nodes(graph).len(), 4);
        assert_eq!(edges(graph).len(), 4);
        let roots = list("cuGraphGetRootNodes", graph);
        assert_eq!(roots.len(), 1);
        assert_eq!(list("cuGraphNodeGetDependentNodes", roots[0]).len(), 2);
        assert!(order.seen().is_empty(), "nothing has run");
        let exec = instantiate(graph);
        ok("cuGraphDestroy", (graph,));
        ok("cuGraphUpload", (exec, a));
        for _ in 0..2 {
            run(exec, a);
        }
        let seen = order.seen();
        assert_eq!(seen.len(), 8);
        for half in seen.chunks(4) {
            assert_eq!((half[0], half[3]), (1, 4), "{seen:?}");
        }
        ok("cuGraphExecDestroy", (exec,));
        fails(INVALID_VALUE, "cuGraphExecDestroy", (exec,));
        fails(INVALID_HANDLE, "cuGraphLaunch", (exec, a));
    }

    nodes_of_every_kind [] {
        start();
        static CALLED: AtomicU32 = AtomicU32::new(0);
        let (a, b) = (alloc(64), alloc(64));
        let add = function(module(PTX), "add");
        let graph = graph();
        let fill = Fill { dst: a, pitch: 0, value: 5, element: 4, width: 16, height: 1 };
        let n1 = made(|out| cu("cuGraphAddMemsetNode", (out, graph, NULL, 0usize, &fill, NULL)));
        let copied = copy(b, a, 64);
        let n2 = made(|out| cu("cuGraphAddMemcpyNode", (out, graph, &n1, 1usize, &copied, NULL)));
        let of = params(&[P(b), P(b), U(1)]);
        let n3 = add_kernel(graph, &[n2], &kernel(add, 16, &of));
        // With no function but a kernel of a library.
        let text = c(PTX);
        let library = made(|out| cu("cuLibraryLoadData", (out, text.as_ptr(), NULL, NULL, 0u32, NULL, NULL, 0u32)));
        let name = c("add");
        let of_library = made(|out| cu("cuLibraryGetKernel", (out, library, name.as_ptr())));
        let second = Kernel2 { first: kernel(0, 16, &of), kernel: of_library, context: 0 };
        let n4 = made(|out| cu("cuGraphAddKernelNode_v2", (out, graph, &n3, 1usize, &second)));
        let host = (count as extern "C" fn(*const AtomicU32), std::ptr::from_ref(&CALLED));
        let n5 = made(|out| cu("cuGraphAddHostNode", (out, graph, &n4, 1usize, &host)));
        let n6 = empty(graph, &[n5]);
        let child = {
            let child = self::graph();
            add_kernel(child, &[], &kernel(add, 16, &of));
            child
        };
        let n7 = made(|out| cu("cuGraphAddChildGraphNode", (out, graph, &n6, 1usize, child)));
        ok("cuGraphDestroy", (child,));
        let (before, after) = (event(), event());
        let n8 = made(|out| cu("cuGraphAddEventWaitNode", (out, graph, &n7, 1usize, before)));
        let n9 = made(|out| cu("cuGraphAddEventRecordNode", (out, graph, &n8, 1usize, after)));
        assert_eq!([n1, n2, n3, n4, n5, n6, n7, n8, n9].map(kind), [2, 1, 0, 0, 3, 5, 4, 6, 7]);
        let exec = instantiate(graph);
        ok("cuGraphLaunch", (exec, NULL));
        ok("cuEventSynchronize", (after,));
        assert_eq!(download::<u32>(b, 16), [8; 16]);
        assert_eq!(CALLED.load(SeqCst), 1);
        // Other parameters, in the graph and in what was instantiated.
        let fill = Fill { value: 50, ..fill };
        ok("cuGraphExecMemsetNodeSetParams", (exec, n1, &fill, NULL));
        let of = params(&[P(b), P(b), U(100)]);
        ok("cuGraphExecKernelNodeSetParams", (exec, n3, &kernel(add, 16, &of)));
        run(exec, NULL);
        assert_eq!(download::<u32>(b, 16), [152; 16]);
        ok("cuGraphExecMemcpyNodeSetParams", (exec, n2, &copy(b + 32, a, 32), NULL));
        run(exec, NULL);
        assert_eq!(download::<u32>(b, 16), [[254; 8], [152; 8]].concat(), "the first half is added to again");
        fails(INVALID_VALUE, "cuGraphExecMemsetNodeSetParams", (exec, n2, &fill, NULL));
        fails(INVALID_VALUE, "cuGraphExecMemsetNodeSetParams", (exec, NULL, &fill, NULL));
        ok("cuGraphMemsetNodeSetParams", (n1, &fill));
        ok("cuGraphKernelNodeSetParams", (n3, &kernel(add, 16, &of)));
        ok("cuGraphMemcpyNodeSetParams", (n2, &copied));
        ok("cuGraphHostNodeSetParams", (n5, &host));
        ok("cuGraphExecHostNodeSetParams", (exec, n5, &host));
        ok("cuGraphExecEventRecordNodeSetEvent", (exec, n9, before));
        ok("cuGraphExecEventWaitNodeSetEvent", (exec, n8, after));
        run(instantiate(graph), NULL);
        assert_eq!(download::<u32>(b, 16), [152; 16]);
        assert_eq!(CALLED.load(SeqCst), 4);
        let child = self::graph();
        ok("cuGraphExecChildGraphNodeSetParams", (exec, n7, child));
    }

    a_disabled_node_is_passed_over [] {
        start();
        let order = Order::new();
        let graph = graph();
        let n1 = mark(&order, graph, &[], 1);
        let n2 = mark(&order, graph, &[n1], 2);
        let n3 = mark(&order, graph, &[n2], 3);
        let end = empty(graph, &[n3]);
        let exec = instantiate(graph);
        let mut enabled = 9u32;
        ok("cuGraphNodeGetEnabled", (exec, n2, &mut enabled));
        assert_eq!(enabled, 1);
        ok("cuGraphNodeSetEnabled", (exec, n2, 0u32));
        ok("cuGraphNodeGetEnabled", (exec, n2, &mut enabled));
        assert_eq!(enabled, 0);
        run(exec, NULL);
        ok("cuGraphNodeSetEnabled", (exec, n2, 1u32));
        run(exec, NULL);
        assert_eq!(order.seen(), [1, 3, 1, 2, 3]);
        // Kernels, copies and fills only.
        fails(INVALID_VALUE, "cuGraphNodeSetEnabled", (exec, end, 0u32));
        fails(INVALID_VALUE, "cuGraphNodeSetEnabled", (exec, NULL, 0u32));
    }

    edges_by_hand [] {
        start();
        let order = Order::new();
        let graph = graph();
        let (n1, n2, n3) = (mark(&order, graph, &[], 1), mark(&order, graph, &[], 2), mark(&order, graph, &[], 3));
        ok("cuGraphAddDependencies", (graph, &[n3, n1], &[n1, n2], 2usize));
        assert_eq!(edges(graph), [(n1, n2), (n3, n1)]);
        assert_eq!(list("cuGraphNodeGetDependencies", n1), [n3]);
        assert_eq!(list("cuGraphNodeGetDependentNodes", n1), [n2]);
        assert_eq!(list("cuGraphGetRootNodes", graph), [n3]);
        run(instantiate(graph), NULL);
        assert_eq!(order.seen(), [3, 1, 2]);
        // Twice, in a circle, to itself, of no node; such a call changes nothing.
        for (from, to) in [(n1, n2), (n2, n3), (n1, n1), (n1, NULL), (NULL, n1)] {
            fails(INVALID_VALUE, "cuGraphAddDependencies", (graph, &from, &to, 1usize));
        }
        fails(INVALID_VALUE, "cuGraphRemoveDependencies", (graph, &n3, &n2, 1usize));
        fails(INVALID_VALUE, "cuGraphRemoveDependencies", (graph, &[n3, n3], &[n1, n2], 2usize));
        assert_eq!(edges(graph).len(), 2);
        ok("cuGraphRemoveDependencies", (graph, &n3, &n1, 1usize));
        assert_eq!(edges(graph), [(n1, n2)]);
        ok("cuGraphDestroyNode", (n1,));
        fails(INVALID_VALUE, "cuGraphDestroyNode", (n1,));
        assert_eq!((nodes(graph).len(), edges(graph).len()), (2, 0));
        // A dependency twice, and one of another graph.
        fails(INVALID_VALUE, "cuGraphAddEmptyNode", (&mut 0u64, graph, &[n2, n2], 2usize));
        let other = empty(self::graph(), &[]);
        fails(INVALID_VALUE, "cuGraphAddEmptyNode", (&mut 0u64, graph, &other, 1usize));
        // Room for fewer, and for more.
        let (mut room, mut all) = (1usize, [7u64; 3]);
        ok("cuGraphGetNodes", (graph, &mut all, &mut room));
        assert_eq!((room, all[1]), (1, 7));
        room = 3;
        ok("cuGraphGetNodes", (graph, &mut all, &mut room));
        assert_eq!((room, all[2]), (2, 0), "what is over is null");
        ok("cuGraphDestroy", (graph,));
        fails(INVALID_VALUE, "cuGraphDestroy", (graph,));
        fails(INVALID_VALUE, "cuGraphInstantiateWithFlags", (&mut 0u64, graph, 0u64));
    }

    a_clone_is_its_own [] {
        start();
        let order = Order::new();
        let graph = graph();
        let n1 = mark(&order, graph, &[], 1);
        mark(&order, graph, &[n1], 2);
        let clone = made(|out| cu("cuGraphClone", (out, graph)));
        assert!(nodes(clone).iter().all(|node| !nodes(graph).contains(node)));
        assert_eq!(edges(clone).len(), 1);
        ok("cuGraphDestroy", (graph,));
        run(instantiate(clone), NULL);
        assert_eq!(order.seen(), [1, 2]);
    }

    an_update [] {
        start();
        let order = Order::new();
        let make = |tags: [u32; 3], chain: bool| {
            let graph = graph();
            let n1 = mark(&order, graph, &[], tags[0]);
            let n2 = mark(&order, graph, &[n1], tags[1]);
            mark(&order, graph, &[if chain { n2 } else { n1 }], tags[2]);
            graph
        };
        let exec = instantiate(make([1, 2, 3], true));
        ok("cuGraphExecUpdate_v2", (exec, make([4, 5, 6], true), &mut [0u64; 3]));
        run(exec, NULL);
        assert_eq!(order.seen(), [4, 5, 6]);
        // Another form, another number of nodes, another kind: nothing changes.
        let (mut node, mut result) = (0u64, 0u32);
        fails(GRAPH_EXEC_UPDATE_FAILURE, "cuGraphExecUpdate", (exec, make([7, 8, 9], false), &mut node, &mut result));
        assert_eq!((node != 0, result), (true, 2));
        fails(GRAPH_EXEC_UPDATE_FAILURE, "cuGraphExecUpdate", (exec, graph(), &mut node, &mut result));
        assert_eq!(result, 2);
        let other = graph();
        let n1 = mark(&order, other, &[], 7);
        let n2 = empty(other, &[n1]);
        mark(&order, other, &[n2], 9);
        let mut answer = [0u64; 3];
        fails(GRAPH_EXEC_UPDATE_FAILURE, "cuGraphExecUpdate_v2", (exec, other, &mut answer));
        assert_eq!((answer[0] as u32, answer[1]), (3, n2));
        run(exec, NULL);
        assert_eq!(order.seen(), [4, 5, 6, 4, 5, 6]);
    }

    ways_to_instantiate [] {
        start();
        let order = Order::new();
        let graph = graph();
        mark(&order, graph, &[], 1);
        let (mut node, mut log) = (9u64, [1u8; 16]);
        let exec = made(|out| cu("cuGraphInstantiate_v2", (out, graph, &mut node, &mut log, 16usize)));
        assert_eq!((node, log[0]), (0, 0));
        run(exec, NULL);
        // Flags, stream, node, result.
        let mut params = [8u64, 0, 9, 9];
        let exec = made(|out| cu("cuGraphInstantiateWithParams", (out, graph, &mut params)));
        assert_eq!((params[2], params[3] as u32), (0, 0));
        let mut flags = 0u64;
        ok("cuGraphExecGetFlags", (exec, &mut flags));
        assert_eq!(flags, 8);
        run(exec, NULL);
        assert_eq!(order.seen(), [1, 1]);
        fails(INVALID_VALUE, "cuGraphInstantiateWithFlags", (&mut 0u64, graph, 1u64 << 20));
        fails(INVALID_VALUE, "cuGraphInstantiateWithFlags", (0u64, graph, 0u64));
        let path = std::env::temp_dir().join(format!("vcuda-test-{}.dot", std::process::id()));
        let name = c(path.to_str().unwrap());
        ok("cuGraphDebugDotPrint", (graph, name.as_ptr(), 0u32));
        assert!(std::fs::read_to_string(&path).unwrap().contains("append"));
        std::fs::remove_file(path).unwrap();
    }

    /// A graph launched into a capture is part of it, once more when that is launched.
    a_graph_in_a_capture [] {
        start();
        let order = Order::new();
        let inner = graph();
        mark(&order, inner, &[], 2);
        let exec = instantiate(inner);
        let s = stream(0);
        begin_capture(s, GLOBAL);
        order.mark(s, 1);
        ok("cuGraphLaunch", (exec, s));
        order.mark(s, 3);
        let outer = end_capture(s);
        assert_eq!(nodes(outer).len(), 3);
        run(instantiate(outer), s);
        assert_eq!(order.seen(), [1, 2, 3]);
    }

    /// What a capture puts on the nodes of another graph.
    a_capture_into_a_graph [] {
        start();
        let order = Order::new();
        let graph = graph();
        let first = mark(&order, graph, &[], 1);
        let s = stream(0);
        ok("cuStreamBeginCaptureToGraph", (s, graph, &first, NULL, 1usize, RELAXED));
        order.mark(s, 2);
        assert_eq!(end_capture(s), graph);
        assert_eq!(edges(graph).len(), 1);
        // A stream that goes spoils the capture, and leaves the graph.
        ok("cuStreamBeginCaptureToGraph", (s, graph, NULL, NULL, 0usize, RELAXED));
        ok("cuStreamDestroy_v2", (s,));
        run(instantiate(graph), NULL);
        assert_eq!(order.seen(), [1, 2]);
        let other = stream(0);
        begin_capture(other, RELAXED);
        order.mark(other, 3);
        ok("cuStreamUpdateCaptureDependencies", (other, NULL, 0usize, 1u32));
        order.mark(other, 4);
        let graph = end_capture(other);
        assert_eq!((nodes(graph).len(), edges(graph).len()), (2, 0));
        fails(ILLEGAL_STATE, "cuStreamUpdateCaptureDependencies", (other, NULL, 0usize, 1u32));
    }

    /// Copies, fills, host functions, and events for those outside.
    a_capture_of_every_kind [] {
        start();
        static CALLED: AtomicU32 = AtomicU32::new(0);
        let (s, memory, host) = (stream(0), alloc(64), pinned::<u32>(16));
        let outside = event();
        let add = function(module(PTX), "add");
        begin_capture(s, THREAD_LOCAL);
        ok("cuMemsetD32Async", (memory, 5u32, 16usize, s));
        launch(add, 1, 16, s, &[P(memory), P(memory), U(2)]);
        ok("cuMemcpyDtoHAsync_v2", (host, memory, 64usize, s));
        ok("cuLaunchHostFunc", (s, count as extern "C" fn(*const AtomicU32), &CALLED));
        ok("cuStreamWaitEvent", (s, outside, 1u32));
        ok("cuEventRecordWithFlags", (outside, s, 1u32));
        let graph = end_capture(s);
        assert_eq!(nodes(graph).iter().map(|node| kind(*node)).collect::<Vec<_>>(), [2, 0, 1, 3, 6, 7]);
        ok("cuGraphLaunch", (instantiate(graph), s));
        ok("cuEventSynchronize", (outside,));
        assert_eq!((peek(host, 15), CALLED.load(SeqCst)), (7, 1));
    }

    /// Launches of one graph follow one another, also on different streams.
    a_graph_does_not_overtake_itself [VCUDA_SCHEDULE = "random:5"] {
        start();
        let order = Order::new();
        let graph = graph();
        let n1 = mark(&order, graph, &[], 1);
        mark(&order, graph, &[n1], 2);
        let exec = instantiate(graph);
        for _ in 0..8 {
            ok("cuGraphLaunch", (exec, stream(NON_BLOCKING)));
        }
        assert_eq!(order.seen(), [1, 2].repeat(8));
        // Destroyed while it runs, it runs to its end.
        ok("cuGraphLaunch", (exec, NULL));
        ok("cuGraphExecDestroy", (exec,));
        assert_eq!(order.seen(), [1, 2].repeat(9));
    }

    /// A user object lives as long as the program, a graph, its executable or a launch of that holds it.
    objects_of_the_program [VCUDA_SCHEDULE = "late"] {
        start();
        static GONE: AtomicU32 = AtomicU32::new(0);
        let destroy = count as extern "C" fn(*const AtomicU32);
        let object = || made(|out| cu("cuUserObjectCreate", (out, &GONE, destroy, 1u32, 1u32)));
        let gone = |expected: u32| {
            // Destructors have a thread of the driver's.
            for _ in 0..2000 {
                if GONE.load(SeqCst) >= expected {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            assert_eq!(GONE.load(SeqCst), expected);
        };
        fails(INVALID_VALUE, "cuUserObjectCreate", (&mut 0u64, &GONE, destroy, 1u32, 0u32));
        let alone = object();
        ok("cuUserObjectRetain", (alone, 2u32));
        ok("cuUserObjectRelease", (alone, 2u32));
        fails(INVALID_VALUE, "cuUserObjectRelease", (alone, 2u32));
        ok("cuUserObjectRelease", (alone, 1u32));
        gone(1);
        fails(INVALID_VALUE, "cuUserObjectRelease", (alone, 1u32));

        let (graph, order, s) = (graph(), Order::new(), stream(NON_BLOCKING));
        mark(&order, graph, &[], 1);
        // Moved into the graph.
        ok("cuGraphRetainUserObject", (graph, object(), 1u32, 1u32));
        let kept = object();
        ok("cuGraphRetainUserObject", (graph, kept, 2u32, 0u32));
        ok("cuUserObjectRelease", (kept, 1u32));
        ok("cuGraphReleaseUserObject", (graph, kept, 1u32));
        assert_eq!(GONE.load(SeqCst), 1);
        ok("cuGraphReleaseUserObject", (graph, kept, 1u32));
        gone(2);
        let exec = instantiate(graph);
        ok("cuGraphDestroy", (graph,));
        ok("cuGraphLaunch", (exec, s));
        ok("cuGraphExecDestroy", (exec,));
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(GONE.load(SeqCst), 2, "the launch has not run yet");
        ok("cuStreamSynchronize", (s,));
        gone(3);
    }
}
