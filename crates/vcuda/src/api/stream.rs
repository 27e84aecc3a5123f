//! Streams and events, host functions, and the capture of streams.

use crate::code::{Answer, Code};
use crate::driver::Driver;
use crate::enter::{api, put, put_if};
use crate::made::Id;
use crate::object::{Event, EventState, Kind, Stream};
use crate::settings::Schedule;
use crate::thread::{THREAD, capture_mode};
use crate::work::{Callback, HostFn, RELAXED, Work};
use std::ffi::c_void;

const TIMING_DISABLED: u32 = 2;
const INTERPROCESS: u32 = 4;
const EXTERNAL: u32 = 1;

fn create(d: &mut Driver, out: *mut Id, flags: u32, priority: i32) -> Answer {
    if flags > 1 || out.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    let (context, id, made) = (d.current()?, d.id(), d.made());
    let priority = priority.clamp(-5, 0);
    d.streams.insert(id, Stream { flags, priority, default: false, ..Stream::default_of(context, made) });
    put(out, id)
}

/// In a capture: an event that things outside of the graph wait for, or that it waits for.
fn external(d: &mut Driver, stream: Id, event: Id, work: Work) -> Answer {
    event_of(d, event)?;
    if d.capture_of(stream)?.is_none() {
        return Err(Code::INVALID_VALUE);
    }
    d.submit(stream, work).map(drop)
}

/// Waiting for a stream, or asking it, spoils its capture.
fn not_capturing(d: &mut Driver, stream: Id) -> Answer {
    if let Some(capture) = d.streams[&stream].capture {
        d.invalidate(capture);
        return Err(Code::STREAM_CAPTURE_UNSUPPORTED);
    }
    d.forbid_implicit(stream)
}

/// Polls: every question after the first in vain lets one operation happen, so that a program that only polls gets on.
fn poll(d: &mut Driver, targets: &[Id], queries: u32) -> Answer {
    if targets.iter().all(|op| !d.ops.contains_key(op)) {
        return Ok(());
    }
    if d.schedule() != Schedule::Late || queries > 0 {
        d.nudge(targets);
    }
    Err(Code::NOT_READY)
}

fn event_of(d: &Driver, event: Id) -> Answer<&Event> {
    d.events.get(&event).ok_or(Code::INVALID_HANDLE)
}

/// Waiting for an event that a capture recorded, or asking it, spoils that capture.
fn not_captured(d: &mut Driver, event: Id) -> Answer {
    if let EventState::Captured { capture, .. } = event_of(d, event)?.state {
        d.invalidate(capture);
        return Err(Code::CAPTURED_EVENT);
    }
    Ok(())
}

fn sticky(d: &Driver, context: Id) -> Answer {
    d.contexts.get(&context).and_then(|context| context.error).map_or(Ok(()), Err)
}

fn elapsed(d: &mut Driver, milliseconds: *mut f32, start: Id, end: Id) -> Answer {
    let (a, b) = (event_of(d, start)?, event_of(d, end)?);
    if a.context != b.context || (a.flags | b.flags) & TIMING_DISABLED != 0 {
        return Err(Code::INVALID_HANDLE);
    }
    for event in [a, b] {
        match event.state {
            EventState::Never => return Err(Code::INVALID_HANDLE),
            EventState::Captured { .. } => return Err(Code::CAPTURED_EVENT),
            EventState::Recorded { .. } => {}
        }
    }
    match (a.time, b.time) {
        (Some(from), Some(to)) => put(milliseconds, ((to - from) * 1e3) as f32),
        _ => Err(Code::NOT_READY),
    }
}

fn capture_info(
    d: &mut Driver,
    stream: Id,
    status: *mut u32,
    number: *mut u64,
    graph: *mut Id,
    nodes: *mut *const Id,
    count: *mut usize,
) -> Answer {
    if status.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    let stream = d.any_stream(stream)?;
    let Some(capture) = d.streams[&stream].capture else { return put(status, 0) };
    let known = d.captures.get(&capture).ok_or(Code::ILLEGAL_STATE)?;
    put(status, if known.active { 1 } else { 2 })?;
    put_if(number, known.number);
    put_if(graph, known.graph);
    let tail = &d.streams[&stream].captured_tail;
    put_if(nodes, tail.as_ptr());
    put_if(count, tail.len());
    Ok(())
}

api! {
    Context fn cuStreamCreate(d, out: *mut Id, flags: u32) {
        create(d, out, flags, 0)
    }
    Context fn cuStreamCreateWithPriority(d, out: *mut Id, flags: u32, priority: i32) {
        create(d, out, flags, priority)
    }
    Init fn cuStreamDestroy_v2(d, stream: Id) {
        if d.streams.get(&stream).is_none_or(|stream| stream.default) {
            return Err(Code::INVALID_HANDLE);
        }
        d.remove_stream(stream);
        Ok(())
    }
    Context fn cuStreamSynchronize / cuStreamSynchronize_ptsz (d, stream: Id) {
        let stream = d.any_stream(stream)?;
        not_capturing(d, stream)?;
        d.forbid_in_capture()?;
        let (context, targets) = (d.streams[&stream].context, d.stream_waits(stream));
        d.finish(context, &targets)
    }
    Context fn cuStreamQuery / cuStreamQuery_ptsz (d, stream: Id) {
        let stream = d.any_stream(stream)?;
        not_capturing(d, stream)?;
        d.forbid_in_capture()?;
        let (context, targets) = (d.streams[&stream].context, d.stream_waits(stream));
        sticky(d, context)?;
        poll(d, &targets, 1)
    }
    Context fn cuStreamGetPriority / cuStreamGetPriority_ptsz (d, stream: Id, priority: *mut i32) {
        let stream = d.any_stream(stream)?;
        put(priority, d.streams[&stream].priority)
    }
    Context fn cuStreamGetFlags / cuStreamGetFlags_ptsz (d, stream: Id, flags: *mut u32) {
        let stream = d.any_stream(stream)?;
        put(flags, d.streams[&stream].flags)
    }
    Context fn cuStreamGetId / cuStreamGetId_ptsz (d, stream: Id, id: *mut u64) {
        let stream = d.any_stream(stream)?;
        put(id, stream)
    }
    Context fn cuStreamGetCtx / cuStreamGetCtx_ptsz (d, stream: Id, context: *mut Id) {
        let stream = d.any_stream(stream)?;
        put(context, d.streams[&stream].context)
    }
    Context fn cuStreamGetDevice / cuStreamGetDevice_ptsz (d, stream: Id, device: *mut i32) {
        let stream = d.any_stream(stream)?;
        let context = d.streams[&stream].context;
        put(device, d.contexts[&context].device as i32)
    }
    Context fn cuStreamWaitEvent / cuStreamWaitEvent_ptsz (d, stream: Id, event: Id, flags: u32) {
        if flags > EXTERNAL {
            return Err(Code::INVALID_VALUE);
        }
        let stream = d.any_stream(stream)?;
        if flags == EXTERNAL { external(d, stream, event, Work::Await(event)) } else { d.wait_event(stream, event) }
    }
    Context fn cuStreamAttachMemAsync / cuStreamAttachMemAsync_ptsz (d, stream: Id, address: u64, bytes: usize, flags: u32) {
        let _ = (bytes, flags);
        let stream = d.own_stream(stream)?;
        if d.range(address).is_none_or(|(_, range)| !matches!(range.kind, Kind::Managed)) {
            return Err(Code::INVALID_VALUE);
        }
        d.submit(stream, Work::Nothing).map(drop)
    }
    Context fn cuLaunchHostFunc / cuLaunchHostFunc_ptsz (d, stream: Id, function: Option<HostFn>, data: *mut c_void) {
        let stream = d.own_stream(stream)?;
        let function = function.ok_or(Code::INVALID_VALUE)?;
        d.submit(stream, Work::Host(function, data as usize)).map(drop)
    }
    Context fn cuStreamAddCallback / cuStreamAddCallback_ptsz (
        d,
        stream: Id,
        callback: Option<unsafe extern "C" fn(Id, u32, *mut c_void)>,
        data: *mut c_void,
        flags: u32,
    ) {
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let handle = stream;
        let stream = d.own_stream(stream)?;
        if let Some(capture) = d.streams[&stream].capture {
            d.invalidate(capture);
            return Err(Code::STREAM_CAPTURE_UNSUPPORTED);
        }
        let function = callback.ok_or(Code::INVALID_VALUE)?;
        d.submit(stream, Work::Callback(Callback { function, stream: handle, data: data as usize })).map(drop)
    }

    Context fn cuEventCreate(d, out: *mut Id, flags: u32) {
        if flags > 7 || out.is_null() || flags & INTERPROCESS != 0 && flags & TIMING_DISABLED == 0 {
            return Err(Code::INVALID_VALUE);
        }
        let (context, id, made) = (d.current()?, d.id(), d.made());
        d.events.insert(id, Event { context, flags, state: EventState::Never, time: None, queries: 0, made });
        put(out, id)
    }
    Init fn cuEventDestroy_v2(d, event: Id) {
        // An event under way may be destroyed: what waits for it waits on.
        d.events.remove(&event).map(drop).ok_or(Code::INVALID_HANDLE)
    }
    Context fn cuEventRecord / cuEventRecord_ptsz (d, event: Id, stream: Id) {
        let stream = d.any_stream(stream)?;
        d.record_event(event, stream)
    }
    Context fn cuEventRecordWithFlags / cuEventRecordWithFlags_ptsz (d, event: Id, stream: Id, flags: u32) {
        if flags > EXTERNAL {
            return Err(Code::INVALID_VALUE);
        }
        let stream = d.any_stream(stream)?;
        if flags == EXTERNAL { external(d, stream, event, Work::Record(event)) } else { d.record_event(event, stream) }
    }
    Context fn cuEventQuery(d, event: Id) {
        not_captured(d, event)?;
        d.forbid_in_capture()?;
        let known = event_of(d, event)?;
        let (context, queries) = (known.context, known.queries);
        match known.state {
            EventState::Never | EventState::Captured { .. } => Ok(()),
            EventState::Recorded { op } => {
                sticky(d, context)?;
                if let Some(event) = d.events.get_mut(&event) {
                    event.queries += 1;
                }
                poll(d, &[op], queries)
            }
        }
    }
    Context fn cuEventSynchronize(d, event: Id) {
        not_captured(d, event)?;
        d.forbid_in_capture()?;
        let known = event_of(d, event)?;
        let context = known.context;
        match known.state {
            EventState::Never | EventState::Captured { .. } => Ok(()),
            EventState::Recorded { op } => d.finish(context, &[op]),
        }
    }
    Context fn cuEventElapsedTime(d, milliseconds: *mut f32, start: Id, end: Id) {
        elapsed(d, milliseconds, start, end)
    }
    Context fn cuEventElapsedTime_v2(d, milliseconds: *mut f32, start: Id, end: Id) {
        elapsed(d, milliseconds, start, end)
    }

    Context fn cuStreamBeginCapture_v2 / cuStreamBeginCapture_v2_ptsz (d, stream: Id, mode: u32) {
        let stream = d.any_stream(stream)?;
        d.begin_capture(stream, mode, None)
    }
    Context fn cuStreamBeginCaptureToGraph / cuStreamBeginCaptureToGraph_ptsz (
        d,
        stream: Id,
        graph: Id,
        nodes: *const Id,
        edges: *const c_void,
        count: usize,
        mode: u32,
    ) {
        let _ = edges;
        let stream = d.any_stream(stream)?;
        let tail = crate::api::list(nodes, count)?;
        let known = d.graphs.get(&graph).ok_or(Code::INVALID_VALUE)?;
        if !tail.iter().all(|node| known.nodes.contains_key(node)) {
            return Err(Code::INVALID_VALUE);
        }
        d.begin_capture(stream, mode, Some((graph, tail)))
    }
    Context fn cuStreamEndCapture / cuStreamEndCapture_ptsz (d, stream: Id, out: *mut Id) {
        let stream = d.any_stream(stream)?;
        put_if(out, 0);
        let graph = d.end_capture(stream)?;
        put(out, graph)
    }
    Context fn cuStreamIsCapturing / cuStreamIsCapturing_ptsz (d, stream: Id, status: *mut u32) {
        let stream = d.any_stream(stream)?;
        let capture = d.streams[&stream].capture.and_then(|capture| d.captures.get(&capture));
        put(status, capture.map_or(0, |capture| if capture.active { 1 } else { 2 }))
    }
    Context fn cuStreamGetCaptureInfo / cuStreamGetCaptureInfo_ptsz (d, stream: Id, status: *mut u32, number: *mut u64) {
        capture_info(d, stream, status, number, std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut())
    }
    Context fn cuStreamGetCaptureInfo_v2 / cuStreamGetCaptureInfo_v2_ptsz (
        d,
        stream: Id,
        status: *mut u32,
        number: *mut u64,
        graph: *mut Id,
        nodes: *mut *const Id,
        count: *mut usize,
    ) {
        capture_info(d, stream, status, number, graph, nodes, count)
    }
    Context fn cuStreamGetCaptureInfo_v3 / cuStreamGetCaptureInfo_v3_ptsz (
        d,
        stream: Id,
        status: *mut u32,
        number: *mut u64,
        graph: *mut Id,
        nodes: *mut *const Id,
        edges: *mut *const c_void,
        count: *mut usize,
    ) {
        put_if(edges, std::ptr::null());
        capture_info(d, stream, status, number, graph, nodes, count)
    }
    Context fn cuStreamUpdateCaptureDependencies / cuStreamUpdateCaptureDependencies_ptsz (
        d,
        stream: Id,
        nodes: *const Id,
        count: usize,
        flags: u32,
    ) {
        let stream = d.any_stream(stream)?;
        let capture = d.capture_of(stream)?.ok_or(Code::ILLEGAL_STATE)?;
        let nodes = crate::api::list(nodes, count)?;
        let graph = d.captures[&capture].graph;
        if flags > 1 || !nodes.iter().all(|node| d.graphs[&graph].nodes.contains_key(node)) {
            return Err(Code::INVALID_VALUE);
        }
        let tail = &mut d.streams.get_mut(&stream).ok_or(Code::INVALID_HANDLE)?.captured_tail;
        if flags == 1 {
            tail.clear();
        }
        tail.extend(nodes);
        tail.sort_unstable();
        tail.dedup();
        Ok(())
    }
    Bare fn cuThreadExchangeStreamCaptureMode(d, mode: *mut u32) {
        if mode.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the program's variable.
        let new = unsafe { mode.read_unaligned() };
        if new > RELAXED {
            return Err(Code::INVALID_VALUE);
        }
        let old = capture_mode();
        THREAD.with(|thread| thread.capture_mode.set(new));
        put(mode, old)
    }
}
