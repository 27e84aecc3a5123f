//! Graphs: nodes by hand, instantiation, updates, launches.

use crate::api::copy::{Memcpy3D, read_copy};
use crate::api::launch::Arguments;
use crate::code::{Answer, Code};
use crate::driver::Driver;
use crate::enter::{api, put, put_if, text};
use crate::made::Id;
use crate::work::{Graph, HostFn, Node, Nodes, Objects, UserObject, Work, closure, node_type};
use std::ffi::{c_char, c_void};
use std::sync::Arc;

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct KernelParams {
    function: Id,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    params: *const *const c_void,
    extra: *const *const c_void,
}

/// As [`KernelParams`], with a library's kernel and a context.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct KernelParams2 {
    first: KernelParams,
    kernel: Id,
    context: Id,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct MemsetParams {
    dst: u64,
    pitch: usize,
    value: u32,
    element: u32,
    width: usize,
    height: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct HostParams {
    function: Option<HostFn>,
    data: *mut c_void,
}

#[repr(C)]
pub(crate) struct InstantiateParams {
    flags: u64,
    upload: Id,
    error_node: Id,
    result: u32,
}

#[repr(C)]
pub(crate) struct UpdateResult {
    result: u32,
    error_node: Id,
    error_from: Id,
}

fn read<T: Copy>(from: *const T) -> Answer<T> {
    if from.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: the program's structure.
    Ok(unsafe { from.read_unaligned() })
}

fn add(d: &mut Driver, out: *mut Id, graph: Id, waits: *const Id, count: usize, work: Work) -> Answer {
    let mut waits = crate::api::list(waits, count)?;
    waits.sort_unstable();
    let before = waits.len();
    waits.dedup();
    let id = d.id();
    let known = d.graphs.get_mut(&graph).ok_or(Code::INVALID_VALUE)?;
    if out.is_null() || waits.len() != before || !waits.iter().all(|node| known.nodes.contains_key(node)) {
        return Err(Code::INVALID_VALUE);
    }
    known.nodes.insert(id, Node { work, waits });
    put(out, id)
}

fn kernel_work(d: &mut Driver, params: KernelParams) -> Answer<Work> {
    let KernelParams { function, grid, block, shared, params, extra } = params;
    let shape = ptx_vm::Launch::new(grid, block).dynamic_shared(shared);
    d.launch_of(function, shape, Arguments { params, extra }).map(Work::Launch)
}

fn kernel_work2(d: &mut Driver, params: KernelParams2) -> Answer<Work> {
    let function = if params.first.function == 0 { params.kernel } else { params.first.function };
    kernel_work(d, KernelParams { function, ..params.first })
}

fn fill_work(d: &Driver, params: MemsetParams) -> Answer<Work> {
    let MemsetParams { dst, pitch, value, element, width, height } = params;
    if !matches!(element, 1 | 2 | 4) || height == 0 {
        return Err(Code::INVALID_VALUE);
    }
    d.fill_of(dst, pitch, value, element as usize, [width, height]).map(Work::Fill)
}

fn node_mut(d: &mut Driver, node: Id) -> Answer<&mut Node> {
    let graph = d.graph_of_node(node)?;
    d.graphs.get_mut(&graph).and_then(|graph| graph.nodes.get_mut(&node)).ok_or(Code::INVALID_VALUE)
}

/// Gives a node other work of the same kind.
fn set_node(d: &mut Driver, node: Id, work: Work) -> Answer {
    let known = node_mut(d, node)?;
    if node_type(&known.work) != node_type(&work) {
        return Err(Code::INVALID_VALUE);
    }
    known.work = work;
    Ok(())
}

/// The same in an instantiated graph.
fn set_exec_node(d: &mut Driver, exec: Id, node: Id, work: Work) -> Answer {
    let exec = d.execs.get_mut(&exec).ok_or(Code::INVALID_VALUE)?;
    let known = exec.nodes.iter_mut().find(|(id, _)| *id == node).ok_or(Code::INVALID_VALUE)?;
    if node_type(&known.1.work) != node_type(&work) {
        return Err(Code::INVALID_VALUE);
    }
    known.1.work = work;
    Ok(())
}

/// A list into an array whose room the program tells; null asks for the number.
fn give(list: &[Id], out: *mut Id, count: *mut usize) -> Answer {
    let room = read(count)?;
    if out.is_null() {
        return put(count, list.len());
    }
    for i in 0..room {
        put(out.wrapping_add(i), list.get(i).copied().unwrap_or(0))?;
    }
    put(count, list.len().min(room))
}

fn edges(d: &Driver, graph: Id) -> Answer<Vec<(Id, Id)>> {
    let graph = d.graphs.get(&graph).ok_or(Code::INVALID_VALUE)?;
    Ok(graph.nodes.iter().flat_map(|(to, node)| node.waits.iter().map(move |from| (*from, *to))).collect())
}

const FREE_ON_LAUNCH: u64 = 1;
const DEVICE_LAUNCH: u64 = 4;

fn instantiate(d: &mut Driver, out: *mut Id, graph: Id, flags: u64) -> Answer {
    // A graph that kernels launch cannot free on launch.
    let exclusive = FREE_ON_LAUNCH | DEVICE_LAUNCH;
    if out.is_null() || flags & !15 != 0 || flags & exclusive == exclusive {
        return Err(Code::INVALID_VALUE);
    }
    let exec = d.instantiate(graph, flags)?;
    put(out, exec)
}

fn update(d: &mut Driver, exec: Id, graph: Id) -> Answer<Option<(Id, u32)>> {
    Ok(d.update_exec(exec, graph)?.err())
}

/// Adds references.
fn refer(objects: &mut Objects, id: Id, object: Arc<UserObject>, count: u32) -> Answer {
    let (_, known) = objects.entry(id).or_insert((object, 0));
    *known = known.checked_add(count).ok_or(Code::INVALID_VALUE)?;
    Ok(())
}

/// The program gives up some of its own references.
fn release(d: &mut Driver, object: Id, count: u32) -> Answer {
    let (_, known) = d.user_objects.get_mut(&object).ok_or(Code::INVALID_VALUE)?;
    *known = known.checked_sub(count).filter(|_| count > 0).ok_or(Code::INVALID_VALUE)?;
    if *known == 0 {
        d.user_objects.remove(&object);
    }
    Ok(())
}

fn change_edges(d: &mut Driver, graph: Id, from: *const Id, to: *const Id, count: usize, make: bool) -> Answer {
    let (from, to) = (crate::api::list(from, count)?, crate::api::list(to, count)?);
    let graph = d.graphs.get_mut(&graph).ok_or(Code::INVALID_VALUE)?;
    let mut nodes = graph.nodes.clone();
    for (from, to) in from.into_iter().zip(to) {
        if !nodes.contains_key(&from) {
            return Err(Code::INVALID_VALUE);
        }
        // No circles.
        if make && closure(&nodes, &[from]).contains(&to) {
            return Err(Code::INVALID_VALUE);
        }
        let node = nodes.get_mut(&to).ok_or(Code::INVALID_VALUE)?;
        match (node.waits.iter().position(|wait| *wait == from), make) {
            (None, true) => node.waits.push(from),
            (Some(at), false) => {
                node.waits.remove(at);
            }
            _ => return Err(Code::INVALID_VALUE),
        }
    }
    graph.nodes = nodes;
    Ok(())
}

fn upload(d: &mut Driver, exec: Id, stream: Id) -> Answer {
    d.own_stream(stream)?;
    d.execs.get(&exec).map(drop).ok_or(Code::INVALID_VALUE)
}

api! {
    Init fn cuGraphCreate(d, out: *mut Id, flags: u32) {
        if out.is_null() || flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let (id, made) = (d.id(), d.made());
        d.graphs.insert(id, Graph { nodes: Nodes::new(), objects: Objects::new(), captured_by: None, made });
        put(out, id)
    }
    Init fn cuGraphDestroy(d, graph: Id) {
        if d.graphs.get(&graph).ok_or(Code::INVALID_VALUE)?.captured_by.is_some() {
            return Err(Code::ILLEGAL_STATE);
        }
        d.graphs.remove(&graph);
        Ok(())
    }
    Init fn cuGraphClone(d, out: *mut Id, graph: Id) {
        let graph = d.graphs.get(&graph).ok_or(Code::INVALID_VALUE)?;
        let (known, objects) = (graph.nodes.clone(), graph.objects.clone());
        // Nodes of the copy are others.
        let names: std::collections::HashMap<Id, Id> = known.keys().copied().collect::<Vec<_>>().into_iter().map(|old| (old, d.id())).collect();
        let renamed = known.into_iter().map(|(id, node)| {
            let waits = node.waits.iter().map(|wait| names[wait]).collect();
            (names[&id], Node { waits, ..node })
        });
        let nodes = renamed.collect();
        let (id, made) = (d.id(), d.made());
        d.graphs.insert(id, Graph { nodes, objects, captured_by: None, made });
        put(out, id)
    }
    Context fn cuGraphAddKernelNode(d, out: *mut Id, graph: Id, waits: *const Id, count: usize, params: *const KernelParams) {
        let work = kernel_work(d, read(params)?)?;
        add(d, out, graph, waits, count, work)
    }
    Context fn cuGraphAddKernelNode_v2(d, out: *mut Id, graph: Id, waits: *const Id, count: usize, params: *const KernelParams2) {
        let work = kernel_work2(d, read(params)?)?;
        add(d, out, graph, waits, count, work)
    }
    Context fn cuGraphAddMemcpyNode(d, out: *mut Id, graph: Id, waits: *const Id, count: usize, copy: *const Memcpy3D, context: Id) {
        let _ = context;
        let work = Work::Copy(read_copy(d, copy)?);
        add(d, out, graph, waits, count, work)
    }
    Context fn cuGraphAddMemsetNode(d, out: *mut Id, graph: Id, waits: *const Id, count: usize, params: *const MemsetParams, context: Id) {
        let _ = context;
        let work = fill_work(d, read(params)?)?;
        add(d, out, graph, waits, count, work)
    }
    Context fn cuGraphAddHostNode(d, out: *mut Id, graph: Id, waits: *const Id, count: usize, params: *const HostParams) {
        let params = read(params)?;
        let work = Work::Host(params.function.ok_or(Code::INVALID_VALUE)?, params.data as usize);
        add(d, out, graph, waits, count, work)
    }
    Context fn cuGraphAddEmptyNode(d, out: *mut Id, graph: Id, waits: *const Id, count: usize) {
        add(d, out, graph, waits, count, Work::Nothing)
    }
    Context fn cuGraphAddChildGraphNode(d, out: *mut Id, graph: Id, waits: *const Id, count: usize, child: Id) {
        let child = d.graphs.get(&child).ok_or(Code::INVALID_VALUE)?;
        let (nodes, objects) = (child.nodes.clone(), child.objects.clone());
        add(d, out, graph, waits, count, Work::Child(Box::new(nodes)))?;
        let parent = d.graphs.get_mut(&graph).ok_or(Code::INVALID_VALUE)?;
        objects.into_iter().try_for_each(|(id, (object, count))| refer(&mut parent.objects, id, object, count))
    }
    Context fn cuGraphAddEventRecordNode(d, out: *mut Id, graph: Id, waits: *const Id, count: usize, event: Id) {
        if !d.events.contains_key(&event) {
            return Err(Code::INVALID_VALUE);
        }
        add(d, out, graph, waits, count, Work::Record(event))
    }
    Context fn cuGraphAddEventWaitNode(d, out: *mut Id, graph: Id, waits: *const Id, count: usize, event: Id) {
        if !d.events.contains_key(&event) {
            return Err(Code::INVALID_VALUE);
        }
        add(d, out, graph, waits, count, Work::Await(event))
    }
    Init fn cuGraphAddDependencies(d, graph: Id, from: *const Id, to: *const Id, count: usize) {
        change_edges(d, graph, from, to, count, true)
    }
    Init fn cuGraphRemoveDependencies(d, graph: Id, from: *const Id, to: *const Id, count: usize) {
        change_edges(d, graph, from, to, count, false)
    }
    Init fn cuGraphDestroyNode(d, node: Id) {
        let graph = d.graph_of_node(node)?;
        if let Some(graph) = d.graphs.get_mut(&graph) {
            graph.nodes.remove(&node);
            graph.nodes.values_mut().for_each(|other| other.waits.retain(|wait| *wait != node));
        }
        Ok(())
    }
    Init fn cuGraphGetNodes(d, graph: Id, nodes: *mut Id, count: *mut usize) {
        let list: Vec<Id> = d.graphs.get(&graph).ok_or(Code::INVALID_VALUE)?.nodes.keys().copied().collect();
        give(&list, nodes, count)
    }
    Init fn cuGraphGetRootNodes(d, graph: Id, nodes: *mut Id, count: *mut usize) {
        let graph = d.graphs.get(&graph).ok_or(Code::INVALID_VALUE)?;
        let list: Vec<Id> = graph.nodes.iter().filter(|(_, node)| node.waits.is_empty()).map(|(id, _)| *id).collect();
        give(&list, nodes, count)
    }
    Init fn cuGraphGetEdges(d, graph: Id, from: *mut Id, to: *mut Id, count: *mut usize) {
        let (first, second): (Vec<Id>, Vec<Id>) = edges(d, graph)?.into_iter().unzip();
        if from.is_null() != to.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let room = read(count)?;
        give(&first, from, count)?;
        if to.is_null() {
            return Ok(());
        }
        put(count, room)?;
        give(&second, to, count)
    }
    Init fn cuGraphNodeGetDependencies(d, node: Id, nodes: *mut Id, count: *mut usize) {
        let list = node_mut(d, node)?.waits.clone();
        give(&list, nodes, count)
    }
    Init fn cuGraphNodeGetDependentNodes(d, node: Id, nodes: *mut Id, count: *mut usize) {
        let graph = d.graph_of_node(node)?;
        let list: Vec<Id> = edges(d, graph)?.into_iter().filter(|(from, _)| *from == node).map(|(_, to)| to).collect();
        give(&list, nodes, count)
    }
    Init fn cuGraphNodeGetType(d, node: Id, kind: *mut u32) {
        put(kind, node_type(&node_mut(d, node)?.work))
    }
    Context fn cuGraphKernelNodeSetParams(d, node: Id, params: *const KernelParams) {
        let work = kernel_work(d, read(params)?)?;
        set_node(d, node, work)
    }
    Context fn cuGraphKernelNodeSetParams_v2(d, node: Id, params: *const KernelParams2) {
        let work = kernel_work2(d, read(params)?)?;
        set_node(d, node, work)
    }
    Context fn cuGraphMemcpyNodeSetParams(d, node: Id, copy: *const Memcpy3D) {
        let work = Work::Copy(read_copy(d, copy)?);
        set_node(d, node, work)
    }
    Context fn cuGraphMemsetNodeSetParams(d, node: Id, params: *const MemsetParams) {
        let work = fill_work(d, read(params)?)?;
        set_node(d, node, work)
    }
    Context fn cuGraphHostNodeSetParams(d, node: Id, params: *const HostParams) {
        let params = read(params)?;
        let work = Work::Host(params.function.ok_or(Code::INVALID_VALUE)?, params.data as usize);
        set_node(d, node, work)
    }
    Context fn cuGraphExecKernelNodeSetParams(d, exec: Id, node: Id, params: *const KernelParams) {
        let work = kernel_work(d, read(params)?)?;
        set_exec_node(d, exec, node, work)
    }
    Context fn cuGraphExecKernelNodeSetParams_v2(d, exec: Id, node: Id, params: *const KernelParams2) {
        let work = kernel_work2(d, read(params)?)?;
        set_exec_node(d, exec, node, work)
    }
    Context fn cuGraphExecMemcpyNodeSetParams(d, exec: Id, node: Id, copy: *const Memcpy3D, context: Id) {
        let _ = context;
        let work = Work::Copy(read_copy(d, copy)?);
        set_exec_node(d, exec, node, work)
    }
    Context fn cuGraphExecMemsetNodeSetParams(d, exec: Id, node: Id, params: *const MemsetParams, context: Id) {
        let _ = context;
        let work = fill_work(d, read(params)?)?;
        set_exec_node(d, exec, node, work)
    }
    Context fn cuGraphExecHostNodeSetParams(d, exec: Id, node: Id, params: *const HostParams) {
        let params = read(params)?;
        let work = Work::Host(params.function.ok_or(Code::INVALID_VALUE)?, params.data as usize);
        set_exec_node(d, exec, node, work)
    }
    Context fn cuGraphExecChildGraphNodeSetParams(d, exec: Id, node: Id, child: Id) {
        let nodes = d.graphs.get(&child).ok_or(Code::INVALID_VALUE)?.nodes.clone();
        set_exec_node(d, exec, node, Work::Child(Box::new(nodes)))
    }
    Context fn cuGraphExecEventRecordNodeSetEvent(d, exec: Id, node: Id, event: Id) {
        if !d.events.contains_key(&event) {
            return Err(Code::INVALID_VALUE);
        }
        set_exec_node(d, exec, node, Work::Record(event))
    }
    Context fn cuGraphExecEventWaitNodeSetEvent(d, exec: Id, node: Id, event: Id) {
        if !d.events.contains_key(&event) {
            return Err(Code::INVALID_VALUE);
        }
        set_exec_node(d, exec, node, Work::Await(event))
    }
    Context fn cuGraphNodeSetEnabled(d, exec: Id, node: Id, enabled: u32) {
        let exec = d.execs.get_mut(&exec).ok_or(Code::INVALID_VALUE)?;
        let known = exec.nodes.iter().find(|(id, _)| *id == node).ok_or(Code::INVALID_VALUE)?;
        if node_type(&known.1.work) > 2 {
            return Err(Code::INVALID_VALUE);
        }
        if enabled == 0 {
            exec.disabled.insert(node);
        } else {
            exec.disabled.remove(&node);
        }
        Ok(())
    }
    Context fn cuGraphNodeGetEnabled(d, exec: Id, node: Id, enabled: *mut u32) {
        let exec = d.execs.get(&exec).ok_or(Code::INVALID_VALUE)?;
        put(enabled, u32::from(!exec.disabled.contains(&node)))
    }
    Unsafe fn cuGraphInstantiateWithFlags(d, out: *mut Id, graph: Id, flags: u64) {
        instantiate(d, out, graph, flags)
    }
    Unsafe fn cuGraphInstantiate_v2(d, out: *mut Id, graph: Id, error_node: *mut Id, log: *mut c_char, bytes: usize) {
        put_if(error_node, 0);
        if bytes > 0 {
            put_if(log, 0);
        }
        instantiate(d, out, graph, 0)
    }
    Unsafe fn cuGraphInstantiateWithParams / cuGraphInstantiateWithParams_ptsz (d, out: *mut Id, graph: Id, params: *mut InstantiateParams) {
        if params.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the program's structure.
        let params = unsafe { &mut *params };
        (params.error_node, params.result) = (0, 1);
        instantiate(d, out, graph, params.flags)?;
        params.result = 0;
        Ok(())
    }
    Context fn cuGraphUpload / cuGraphUpload_ptsz (d, exec: Id, stream: Id) {
        upload(d, exec, stream)
    }
    Context fn cuGraphLaunch / cuGraphLaunch_ptsz (d, exec: Id, stream: Id) {
        let stream = d.own_stream(stream)?;
        d.launch_graph(exec, stream)
    }
    Init fn cuGraphExecDestroy(d, exec: Id) {
        // One that runs goes on to its end.
        d.execs.remove(&exec).map(drop).ok_or(Code::INVALID_VALUE)
    }
    Init fn cuGraphExecGetFlags(d, exec: Id, flags: *mut u64) {
        put(flags, d.execs.get(&exec).ok_or(Code::INVALID_VALUE)?.flags)
    }
    Context fn cuGraphExecUpdate(d, exec: Id, graph: Id, error_node: *mut Id, result: *mut u32) {
        let failed = update(d, exec, graph)?;
        put_if(error_node, failed.map_or(0, |(node, _)| node));
        put_if(result, failed.map_or(0, |(_, result)| result));
        if failed.is_some() { Err(Code::GRAPH_EXEC_UPDATE_FAILURE) } else { Ok(()) }
    }
    Context fn cuGraphExecUpdate_v2(d, exec: Id, graph: Id, result: *mut UpdateResult) {
        let failed = update(d, exec, graph)?;
        let (error_node, code) = failed.unwrap_or_default();
        put(result, UpdateResult { result: code, error_node, error_from: 0 })?;
        if failed.is_some() { Err(Code::GRAPH_EXEC_UPDATE_FAILURE) } else { Ok(()) }
    }
    Init fn cuUserObjectCreate(d, out: *mut Id, data: *mut c_void, destroy: Option<HostFn>, count: u32, flags: u32) {
        // Every destructor has to be declared as one that nobody waits for.
        if out.is_null() || count == 0 || count > i32::MAX as u32 || flags != 1 {
            return Err(Code::INVALID_VALUE);
        }
        let destroy = destroy.ok_or(Code::INVALID_VALUE)?;
        let (id, object) = (d.id(), UserObject { destroy, data: data as usize, made: d.made() });
        d.user_objects.insert(id, (Arc::new(object), count));
        put(out, id)
    }
    Init fn cuUserObjectRetain(d, object: Id, count: u32) {
        let (_, known) = d.user_objects.get_mut(&object).ok_or(Code::INVALID_VALUE)?;
        *known = known.checked_add(count).filter(|sum| count > 0 && *sum <= i32::MAX as u32).ok_or(Code::INVALID_VALUE)?;
        Ok(())
    }
    Init fn cuUserObjectRelease(d, object: Id, count: u32) {
        release(d, object, count)
    }
    Init fn cuGraphRetainUserObject(d, graph: Id, object: Id, count: u32, flags: u32) {
        let shared = d.user_objects.get(&object).ok_or(Code::INVALID_VALUE)?.0.clone();
        if count == 0 || flags > 1 || !d.graphs.contains_key(&graph) {
            return Err(Code::INVALID_VALUE);
        }
        // Moved, not copied, when asked for.
        if flags == 1 {
            release(d, object, count)?;
        }
        let graph = d.graphs.get_mut(&graph).ok_or(Code::INVALID_VALUE)?;
        refer(&mut graph.objects, object, shared, count)
    }
    Init fn cuGraphReleaseUserObject(d, graph: Id, object: Id, count: u32) {
        let graph = d.graphs.get_mut(&graph).ok_or(Code::INVALID_VALUE)?;
        let (_, known) = graph.objects.get_mut(&object).ok_or(Code::INVALID_VALUE)?;
        *known = known.checked_sub(count).filter(|_| count > 0).ok_or(Code::INVALID_VALUE)?;
        if *known == 0 {
            graph.objects.remove(&object);
        }
        Ok(())
    }
    Init fn cuGraphDebugDotPrint(d, graph: Id, path: *const c_char, flags: u32) {
        let _ = flags;
        let known = d.graphs.get(&graph).ok_or(Code::INVALID_VALUE)?;
        let mut dot = String::from("digraph graph_1 {\n");
        for (id, node) in &known.nodes {
            let label = match &node.work {
                Work::Launch(launch) => launch.kernel.name().to_owned(),
                work => ["kernel", "memcpy", "memset", "host", "graph", "empty", "wait", "record"]
                    .get(node_type(work) as usize).copied().unwrap_or("free").to_owned(),
            };
            dot += &format!("  n{id} [label=\"{label}\"];\n");
            node.waits.iter().for_each(|from| dot += &format!("  n{from} -> n{id};\n"));
        }
        dot += "}\n";
        std::fs::write(text(path)?, dot).map_err(|_| Code::OPERATING_SYSTEM)
    }
}
