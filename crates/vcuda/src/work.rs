//! Work, as data: launches, copies, fills and calls of functions; queued as operations, or in graphs as nodes.

use crate::code::{Answer, Code};
use crate::made::{Id, Made};
use crate::thread::call_back;
use ptx_vm::Kernel;
use std::collections::{BTreeMap, HashSet};
use std::ffi::c_void;
use std::sync::Arc;
use std::thread::ThreadId;

/// Where bytes are.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// Memory of a device, by address.
    Device(u64, usize),
    /// Host memory; `range` names page-locked memory, which has to be there still when the bytes move.
    Host { at: usize, range: Option<(u64, Id)> },
    /// Bytes taken when the copy was asked for.
    Staged(Arc<[u8]>),
}

impl Place {
    pub(crate) fn is_pageable(&self) -> bool {
        matches!(self, Place::Host { range: None, .. })
    }

    pub(crate) fn is_device(&self) -> bool {
        matches!(self, Place::Device(..))
    }
}

/// Rows of `width` bytes, `height` of them, `depth` times; pitches in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) depth: usize,
}

impl Extent {
    pub(crate) fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0 || self.depth == 0
    }
}

/// One side of a copy.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    pub(crate) place: Place,
    pub(crate) pitch: usize,
    pub(crate) slice: usize,
}

impl Side {
    pub(crate) fn flat(place: Place) -> Side {
        Side { place, pitch: 0, slice: 0 }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub(crate) dst: Side,
    pub(crate) src: Side,
    pub(crate) extent: Extent,
}

/// `width` elements of `size` bytes a row.
#[derive(Clone, Debug)]
pub(crate) struct Fill {
    pub(crate) dst: Place,
    pub(crate) pitch: usize,
    pub(crate) value: u32,
    pub(crate) size: usize,
    pub(crate) width: usize,
    pub(crate) height: usize,
}

/// Bytes from the first to behind the last of an extent with these pitches.
pub(crate) fn span(extent: Extent, pitch: usize, slice: usize) -> Option<usize> {
    let Extent { width, height, depth } = extent;
    if width == 0 || height == 0 || depth == 0 {
        return Some(0);
    }
    let rows = pitch.checked_mul(height - 1)?;
    slice.checked_mul(depth - 1)?.checked_add(rows)?.checked_add(width)
}

/// A launch as it will run: everything in it was copied when it was queued.
#[derive(Clone)]
pub(crate) struct Launch {
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) function: Id,
    pub(crate) shape: ptx_vm::Launch,
    pub(crate) params: Vec<u8>,
}

pub(crate) type HostFn = unsafe extern "C" fn(*mut c_void);

/// A function of `cuStreamAddCallback`: it is called after faults too, and told of them.
#[derive(Clone, Copy)]
pub(crate) struct Callback {
    pub(crate) function: unsafe extern "C" fn(Id, u32, *mut c_void),
    pub(crate) stream: Id,
    pub(crate) data: usize,
}

impl Callback {
    pub(crate) fn run(self, status: Code) {
        // SAFETY: the program gave the function and its argument, for one call.
        unsafe { (self.function)(self.stream, status.0, self.data as *mut c_void) };
    }
}

/// What an operation does.
#[derive(Clone)]
pub(crate) enum Work {
    /// Only ties others together.
    Nothing,
    /// The same, and keeps what a graph needs until it has run.
    Keep(#[allow(dead_code)] Objects), // Given back when it is dropped.
    Record(Id),
    /// In graphs: waits for an event as it is when the graph is launched.
    Await(Id),
    Launch(Launch),
    Copy(Copy),
    Fill(Fill),
    Host(HostFn, usize),
    Callback(Callback),
    /// A graph within a graph.
    Child(Box<Nodes>),
    /// Gives memory of a pool back.
    Free(u64),
}

pub(crate) struct Op {
    pub(crate) context: Id,
    /// What had to be done before when it was queued; what is not queued any more is done.
    pub(crate) waits: Vec<Id>,
    pub(crate) work: Work,
    pub(crate) running: bool,
    /// How many of `waits` are still queued.
    pub(crate) unmet: usize,
    /// Who waits for it.
    pub(crate) followers: Vec<Id>,
}

pub(crate) const GLOBAL: u32 = 0;
pub(crate) const RELAXED: u32 = 2;

/// One node.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) work: Work,
    pub(crate) waits: Vec<Id>,
}

pub(crate) type Nodes = BTreeMap<Id, Node>;

/// Something of the program that graphs keep alive. Its destructor runs on a thread of the driver when the last reference is gone.
pub(crate) struct UserObject {
    pub(crate) destroy: HostFn,
    pub(crate) data: usize,
    pub(crate) made: Made,
}

impl Drop for UserObject {
    fn drop(&mut self) {
        let (destroy, data) = (self.destroy, self.data);
        let started = call_back("vcuda user object", move || {
            // SAFETY: the program gave the function and its argument, for one call.
            unsafe { destroy(data as *mut c_void) };
        });
        if let Err(error) = started {
            eprintln!("vcuda: no thread for a user object's destructor: {error}");
        }
    }
}

/// References to user objects, with how many of each.
pub(crate) type Objects = BTreeMap<Id, (Arc<UserObject>, u32)>;

pub(crate) struct Graph {
    pub(crate) nodes: Nodes,
    pub(crate) objects: Objects,
    /// Being captured: owned by its capture until that ends.
    pub(crate) captured_by: Option<Id>,
    pub(crate) made: Made,
}

/// A stream capture under way.
pub(crate) struct Capture {
    pub(crate) context: Id,
    pub(crate) origin: Id,
    pub(crate) mode: u32,
    pub(crate) thread: ThreadId,
    pub(crate) graph: Id,
    pub(crate) active: bool,
    pub(crate) streams: Vec<Id>,
    /// A number of its own, which programs may ask for.
    pub(crate) number: u64,
}

/// An instantiated graph.
pub(crate) struct Exec {
    pub(crate) context: Id,
    /// In an order in which every node stands behind what it depends on.
    pub(crate) nodes: Vec<(Id, Node)>,
    pub(crate) objects: Objects,
    /// Nodes that are switched off.
    pub(crate) disabled: HashSet<Id>,
    /// The end of its last launch: launches of one graph follow one another.
    pub(crate) last: Option<Id>,
    /// As it was instantiated; they change nothing here.
    pub(crate) flags: u64,
    pub(crate) made: Made,
}

/// Nodes in an order that respects what they depend on; an error when they depend on each other in a circle.
pub(crate) fn sorted(nodes: &Nodes) -> Answer<Vec<(Id, Node)>> {
    let mut done = HashSet::new();
    let mut order = Vec::with_capacity(nodes.len());
    while order.len() < nodes.len() {
        let before = order.len();
        for (id, node) in nodes {
            if !done.contains(id) && node.waits.iter().all(|wait| done.contains(wait)) {
                done.insert(*id);
                order.push((*id, node.clone()));
            }
        }
        if order.len() == before {
            return Err(Code::INVALID_VALUE);
        }
    }
    Ok(order)
}

/// What `from` depends on, itself included.
pub(crate) fn closure(nodes: &Nodes, from: &[Id]) -> HashSet<Id> {
    let mut found = HashSet::new();
    let mut open = from.to_vec();
    while let Some(id) = open.pop() {
        if found.insert(id)
            && let Some(node) = nodes.get(&id)
        {
            open.extend(&node.waits);
        }
    }
    found
}

/// `CUgraphNodeType`.
pub(crate) fn node_type(work: &Work) -> u32 {
    match work {
        Work::Launch(_) => 0,
        Work::Copy(_) => 1,
        Work::Fill(_) => 2,
        Work::Host(..) | Work::Callback(_) => 3,
        Work::Child(_) => 4,
        Work::Nothing | Work::Keep(_) => 5,
        Work::Await(_) => 6,
        Work::Record(_) => 7,
        Work::Free(_) => 11,
    }
}
