//! Graphs: nodes and what they depend on; made by hand or by capturing streams; instantiated, updated, launched.

use crate::code::{Answer, Code};
use crate::driver::Driver;
use crate::made::Id;
use crate::object::EventState;
use crate::work::{Capture, Exec, Graph, Node, Nodes, Objects, RELAXED, Work, closure, node_type, sorted};
use crate::world::World;
use std::collections::{HashMap, HashSet};

impl World {
    /// A capture is spoilt: what follows in it fails, and its end too.
    pub(crate) fn invalidate(&mut self, capture: Id) {
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.active = false;
        }
    }

    /// A capture is lost, with the graph that it made.
    pub(crate) fn abandon(&mut self, id: Id) {
        let Some(capture) = self.captures.remove(&id) else { return };
        for stream in &capture.streams {
            if let Some(stream) = self.streams.get_mut(stream).filter(|stream| stream.capture == Some(id)) {
                stream.capture = None;
                stream.captured_tail.clear();
            }
        }
        // One that the program gave to be captured into is the program's.
        if self.graphs.get(&capture.graph).is_some_and(|graph| graph.captured_by == Some(id)) {
            self.graphs.remove(&capture.graph);
        }
    }

    /// The capture that a stream is in, if it still is worth anything.
    pub(crate) fn capture_of(&self, stream: Id) -> Answer<Option<Id>> {
        match self.streams[&stream].capture {
            None => Ok(None),
            Some(capture) if self.captures.get(&capture).is_some_and(|c| c.active) => Ok(Some(capture)),
            Some(_) => Err(Code::STREAM_CAPTURE_INVALIDATED),
        }
    }

    /// Captures that the legacy stream of a context would have to wait for.
    pub(crate) fn implicit_captures(&self, context: Id) -> Vec<Id> {
        let blocking = self.streams.values().filter(|s| s.context == context && s.blocks());
        blocking.filter_map(|s| s.capture).collect()
    }

    pub(crate) fn graph_of_node(&self, node: Id) -> Answer<Id> {
        let graph = self.graphs.iter().find(|(_, graph)| graph.nodes.contains_key(&node));
        graph.map(|(id, _)| *id).ok_or(Code::INVALID_VALUE)
    }
}

impl Driver {
    /// Puts work onto a stream: into its capture, or into the queue.
    pub(crate) fn submit(&mut self, stream: Id, work: Work) -> Answer<Option<Id>> {
        if let Some(capture) = self.capture_of(stream)? {
            let node = self.capture_node(capture, self.streams[&stream].captured_tail.clone(), work)?;
            if let Some(stream) = self.streams.get_mut(&stream) {
                stream.captured_tail = vec![node];
            }
            return Ok(None);
        }
        self.forbid_implicit(stream)?;
        Ok(Some(self.enqueue(stream, work, vec![])))
    }

    /// The legacy stream cannot wait for a stream that is being captured.
    pub(crate) fn forbid_implicit(&mut self, stream: Id) -> Answer {
        let context = self.streams[&stream].context;
        if self.contexts[&context].legacy != stream {
            return Ok(());
        }
        let spoilt = self.implicit_captures(context);
        if spoilt.is_empty() {
            return Ok(());
        }
        spoilt.into_iter().for_each(|capture| self.invalidate(capture));
        Err(Code::STREAM_CAPTURE_IMPLICIT)
    }

    fn capture_node(&mut self, capture: Id, waits: Vec<Id>, work: Work) -> Answer<Id> {
        let graph = self.captures[&capture].graph;
        let id = self.id();
        let graph = self.graphs.get_mut(&graph).ok_or(Code::STREAM_CAPTURE_INVALIDATED)?;
        graph.nodes.insert(id, Node { work, waits });
        Ok(id)
    }

    pub(crate) fn begin_capture(&mut self, stream: Id, mode: u32, into: Option<(Id, Vec<Id>)>) -> Answer {
        if mode > RELAXED {
            return Err(Code::INVALID_VALUE);
        }
        let own = &self.streams[&stream];
        let context = own.context;
        if own.capture.is_some() {
            return Err(Code::ILLEGAL_STATE);
        }
        if self.contexts[&context].legacy == stream {
            return Err(Code::STREAM_CAPTURE_UNSUPPORTED);
        }
        let capture = self.id();
        let (graph, tail) = match into {
            Some((graph, tail)) => (graph, tail),
            None => {
                let (graph, made) = (self.id(), self.made());
                self.graphs.insert(
                    graph,
                    Graph { nodes: Nodes::new(), objects: Objects::new(), captured_by: Some(capture), made },
                );
                (graph, vec![])
            }
        };
        let thread = std::thread::current().id();
        let new = Capture {
            context,
            origin: stream,
            mode,
            thread,
            graph,
            active: true,
            streams: vec![stream],
            number: capture / 16,
        };
        self.captures.insert(capture, new);
        if let Some(stream) = self.streams.get_mut(&stream) {
            (stream.capture, stream.captured_tail) = (Some(capture), tail);
        }
        Ok(())
    }

    /// Ends a capture; the graph, when it is whole.
    pub(crate) fn end_capture(&mut self, stream: Id) -> Answer<Id> {
        let Some(id) = self.streams[&stream].capture else { return Err(Code::ILLEGAL_STATE) };
        let capture = &self.captures[&id];
        if capture.mode != RELAXED && capture.thread != std::thread::current().id() {
            return Err(Code::STREAM_CAPTURE_WRONG_THREAD);
        }
        if capture.origin != stream {
            self.invalidate(id);
            return Err(Code::STREAM_CAPTURE_UNMATCHED);
        }
        let Some(capture) = self.captures.remove(&id) else { return Err(Code::ILLEGAL_STATE) };
        let end = std::mem::take(&mut self.streams.get_mut(&stream).ok_or(Code::INVALID_HANDLE)?.captured_tail);
        let nodes = self.graphs.get(&capture.graph).map(|graph| &graph.nodes);
        let reached = nodes.map(|nodes| closure(nodes, &end)).unwrap_or_default();
        let mut unjoined = false;
        for joined in &capture.streams {
            if let Some(joined) = self.streams.get_mut(joined).filter(|s| s.capture == Some(id)) {
                unjoined |= joined.captured_tail.iter().any(|node| !reached.contains(node));
                joined.capture = None;
                joined.captured_tail.clear();
            }
        }
        let ours = self.graphs.get(&capture.graph).is_some_and(|graph| graph.captured_by == Some(id));
        let verdict = if !capture.active {
            Err(Code::STREAM_CAPTURE_INVALIDATED)
        } else if unjoined {
            Err(Code::STREAM_CAPTURE_UNJOINED)
        } else {
            Ok(capture.graph)
        };
        if verdict.is_err() && ours {
            self.graphs.remove(&capture.graph);
        } else if let Some(graph) = self.graphs.get_mut(&capture.graph) {
            graph.captured_by = None;
        }
        verdict
    }

    pub(crate) fn record_event(&mut self, event: Id, stream: Id) -> Answer {
        if !self.events.contains_key(&event) {
            return Err(Code::INVALID_HANDLE);
        }
        if self.events[&event].context != self.streams[&stream].context {
            return Err(Code::INVALID_HANDLE);
        }
        let state = match self.capture_of(stream)? {
            Some(capture) => EventState::Captured { capture, nodes: self.streams[&stream].captured_tail.clone() },
            None => {
                self.forbid_implicit(stream)?;
                let waits = self.stream_waits(stream);
                let context = self.streams[&stream].context;
                let op = self.add_op(context, waits, Work::Record(event));
                if let Some(stream) = self.streams.get_mut(&stream) {
                    stream.tail = vec![op];
                }
                EventState::Recorded { op }
            }
        };
        if let Some(event) = self.events.get_mut(&event) {
            (event.state, event.time, event.queries) = (state, None, 0);
        }
        Ok(())
    }

    pub(crate) fn wait_event(&mut self, stream: Id, event: Id) -> Answer {
        let known = self.events.get(&event).ok_or(Code::INVALID_HANDLE)?;
        let capture = self.capture_of(stream)?;
        match (&known.state, capture) {
            (EventState::Never, Some(capture)) => {
                self.invalidate(capture);
                Err(Code::STREAM_CAPTURE_ISOLATION)
            }
            (EventState::Never, None) => {
                let call = self.call;
                self.remark(format!("{call} on an event that was never recorded: it waits for nothing"));
                Ok(())
            }
            (EventState::Recorded { .. }, Some(capture)) => {
                self.invalidate(capture);
                Err(Code::STREAM_CAPTURE_ISOLATION)
            }
            (EventState::Recorded { op }, None) => {
                let op = *op;
                self.forbid_implicit(stream)?;
                self.enqueue(stream, Work::Nothing, vec![op]);
                Ok(())
            }
            (EventState::Captured { capture: of, nodes }, own) => {
                let (of, nodes) = (*of, nodes.clone());
                if self.captures.get(&of).is_some_and(|capture| !capture.active) {
                    return Err(Code::STREAM_CAPTURE_INVALIDATED);
                }
                if !self.captures.contains_key(&of) {
                    // The capture that recorded it has ended: nothing of it can be waited for.
                    if let Some(own) = own {
                        self.invalidate(own);
                    }
                    return Err(Code::CAPTURED_EVENT);
                }
                if own.is_some_and(|own| own != of) {
                    own.into_iter().chain([of]).for_each(|capture| self.invalidate(capture));
                    return Err(Code::STREAM_CAPTURE_MERGE);
                }
                let context = self.streams[&stream].context;
                if self.contexts[&context].legacy == stream {
                    self.invalidate(of);
                    return Err(Code::STREAM_CAPTURE_IMPLICIT);
                }
                if own.is_none()
                    && let Some(capture) = self.captures.get_mut(&of)
                {
                    capture.streams.push(stream);
                }
                if let Some(stream) = self.streams.get_mut(&stream) {
                    stream.capture = Some(of);
                    stream.captured_tail.extend(nodes);
                    stream.captured_tail.sort_unstable();
                    stream.captured_tail.dedup();
                }
                Ok(())
            }
        }
    }

    pub(crate) fn instantiate(&mut self, graph: Id, flags: u64) -> Answer<Id> {
        let context = self.current()?;
        let graph = self.graphs.get(&graph).ok_or(Code::INVALID_VALUE)?;
        if graph.captured_by.is_some() {
            return Err(Code::INVALID_VALUE);
        }
        let (nodes, objects) = (sorted(&graph.nodes)?, graph.objects.clone());
        let (id, made) = (self.id(), self.made());
        self.execs.insert(id, Exec { context, nodes, objects, disabled: HashSet::new(), last: None, flags, made });
        Ok(id)
    }

    /// Queues every node of an instantiated graph, between what is on the stream and what comes.
    pub(crate) fn launch_graph(&mut self, exec: Id, stream: Id) -> Answer {
        let known = self.execs.get(&exec).ok_or(Code::INVALID_HANDLE)?;
        let (nodes, disabled, last, objects) =
            (known.nodes.clone(), known.disabled.clone(), known.last, known.objects.clone());
        for (_, node) in &nodes {
            if let Work::Launch(launch) = &node.work
                && !self.functions.contains_key(&launch.function)
            {
                let name = launch.kernel.name().to_owned();
                self.remark(format!("a graph with {name} was launched after the kernel's module was unloaded"));
                return Err(Code::INVALID_HANDLE);
            }
        }
        if let Some(capture) = self.capture_of(stream)? {
            // A graph launched into a capture becomes a child node.
            let nodes = nodes.into_iter().collect();
            let waits = self.streams[&stream].captured_tail.clone();
            let node = self.capture_node(capture, waits, Work::Child(Box::new(nodes)))?;
            if let Some(stream) = self.streams.get_mut(&stream) {
                stream.captured_tail = vec![node];
            }
            return Ok(());
        }
        self.forbid_implicit(stream)?;
        let context = self.streams[&stream].context;
        let mut before = self.stream_waits(stream);
        before.extend(last.filter(|op| self.ops.contains_key(op)));
        let mut ops = vec![];
        let leaves = self.queue_nodes(context, &nodes, &disabled, &before, &mut ops)?;
        let end = self.add_op(context, leaves.into_iter().chain(before).collect(), Work::Keep(objects));
        ops.push(end);
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.tail = vec![end];
        }
        if let Some(exec) = self.execs.get_mut(&exec) {
            exec.last = Some(end);
        }
        Ok(())
    }

    /// Gives the operations that nothing among the nodes waits for.
    fn queue_nodes(
        &mut self,
        context: Id,
        nodes: &[(Id, Node)],
        disabled: &HashSet<Id>,
        before: &[Id],
        ops: &mut Vec<Id>,
    ) -> Answer<Vec<Id>> {
        // What stands for each node when another waits for it.
        let mut ends: HashMap<Id, Vec<Id>> = HashMap::new();
        let mut inner: HashSet<Id> = HashSet::new();
        for (id, node) in nodes {
            let mut waits: Vec<Id> = node.waits.iter().filter_map(|wait| ends.get(wait)).flatten().copied().collect();
            inner.extend(&node.waits);
            if node.waits.is_empty() {
                waits = before.to_vec();
            }
            let end = match &node.work {
                _ if disabled.contains(id) => vec![self.add_op(context, waits, Work::Nothing)],
                Work::Child(child) => {
                    let child = sorted(child)?;
                    let none = HashSet::new();
                    let leaves = self.queue_nodes(context, &child, &none, &waits, ops)?;
                    vec![self.add_op(context, leaves.into_iter().chain(waits).collect(), Work::Nothing)]
                }
                Work::Await(event) => {
                    if let Some(EventState::Recorded { op }) = self.events.get(event).map(|event| &event.state) {
                        waits.push(*op);
                    }
                    vec![self.add_op(context, waits, Work::Nothing)]
                }
                Work::Record(event) => {
                    let op = self.add_op(context, waits, node.work.clone());
                    if let Some(event) = self.events.get_mut(event) {
                        (event.state, event.time, event.queries) = (EventState::Recorded { op }, None, 0);
                    }
                    vec![op]
                }
                work => vec![self.add_op(context, waits, work.clone())],
            };
            ops.extend(&end);
            ends.insert(*id, end);
        }
        Ok(ends.into_iter().filter(|(id, _)| !inner.contains(id)).flat_map(|(_, end)| end).collect())
    }

    /// Makes an instantiated graph do what another graph says, if the two have the same form. `Err((node, result))` names what differs.
    pub(crate) fn update_exec(&mut self, exec: Id, graph: Id) -> Answer<Result<(), (Id, u32)>> {
        let graph = self.graphs.get(&graph).ok_or(Code::INVALID_VALUE)?;
        let (nodes, objects) = (sorted(&graph.nodes)?, graph.objects.clone());
        let exec = self.execs.get_mut(&exec).ok_or(Code::INVALID_VALUE)?;
        if nodes.len() != exec.nodes.len() {
            return Ok(Err((0, TOPOLOGY_CHANGED)));
        }
        let places = |list: &[(Id, Node)]| -> HashMap<Id, usize> {
            list.iter().enumerate().map(|(at, (id, _))| (*id, at)).collect()
        };
        let (old, new) = (places(&exec.nodes), places(&nodes));
        for ((_, a), (id, b)) in exec.nodes.iter().zip(&nodes) {
            let at = |map: &HashMap<Id, usize>, waits: &[Id]| -> Vec<usize> {
                let mut list: Vec<usize> = waits.iter().filter_map(|wait| map.get(wait).copied()).collect();
                list.sort_unstable();
                list
            };
            if at(&old, &a.waits) != at(&new, &b.waits) {
                return Ok(Err((*id, TOPOLOGY_CHANGED)));
            }
            if node_type(&a.work) != node_type(&b.work) {
                return Ok(Err((*id, NODE_TYPE_CHANGED)));
            }
        }
        for ((_, a), (_, b)) in exec.nodes.iter_mut().zip(nodes) {
            a.work = b.work;
        }
        exec.objects = objects;
        Ok(Ok(()))
    }
}

pub(crate) const TOPOLOGY_CHANGED: u32 = 2;
pub(crate) const NODE_TYPE_CHANGED: u32 = 3;
