//! What programs make, as data: contexts, streams, events, memory, modules.

use crate::code::Code;
use crate::image::{Image, Log};
use crate::made::{Id, Made};
use crate::spec::Spec;
use ptx_vm::{Kernel, Region, Vm};
use std::collections::{BTreeSet, HashMap};
use std::ffi::CString;
use std::sync::Arc;
use std::thread::ThreadId;

pub(crate) struct Device {
    pub(crate) spec: Spec,
    /// Made with the first context.
    pub(crate) vm: Option<Arc<Vm>>,
    pub(crate) primary: Option<Id>,
    pub(crate) primary_uses: u32,
    pub(crate) primary_flags: u32,
    pub(crate) default_pool: Id,
    pub(crate) pool: Id,
}

pub(crate) struct Context {
    pub(crate) device: usize,
    pub(crate) flags: u32,
    pub(crate) primary: bool,
    /// The legacy default stream.
    pub(crate) legacy: Id,
    pub(crate) per_thread: HashMap<ThreadId, Id>,
    /// The last operations of blocking streams that were destroyed meanwhile: the legacy stream waits for them still.
    pub(crate) orphans: Vec<Id>,
    /// The fault that it died of.
    pub(crate) error: Option<Code>,
    /// Contexts whose memory kernels of this one may use, and their devices.
    pub(crate) peers: HashMap<Id, usize>,
    pub(crate) limits: HashMap<u32, usize>,
    pub(crate) cache_config: u32,
    pub(crate) shared_config: u32,
    pub(crate) made: Made,
}

pub(crate) struct Stream {
    pub(crate) context: Id,
    pub(crate) flags: u32,
    pub(crate) priority: i32,
    /// What the next operation waits for.
    pub(crate) tail: Vec<Id>,
    pub(crate) capture: Option<Id>,
    /// In a capture: the nodes that the next one depends on.
    pub(crate) captured_tail: Vec<Id>,
    /// The default streams belong to their context and are no leaks.
    pub(crate) default: bool,
    pub(crate) made: Made,
}

impl Stream {
    /// The default stream of a context.
    pub(crate) fn default_of(context: Id, made: Made) -> Stream {
        let (tail, captured_tail) = (vec![], vec![]);
        Stream { context, flags: 0, priority: 0, tail, capture: None, captured_tail, default: true, made }
    }

    /// Whether it takes turns with the legacy default stream.
    pub(crate) fn blocks(&self) -> bool {
        self.flags & 1 == 0
    }
}

pub(crate) enum EventState {
    Never,
    Recorded {
        op: Id,
    },
    /// Recorded in a capture, and what was captured there so far.
    Captured {
        capture: Id,
        nodes: Vec<Id>,
    },
}

pub(crate) struct Event {
    pub(crate) context: Id,
    pub(crate) flags: u32,
    pub(crate) state: EventState,
    /// When the last record happened, in seconds.
    pub(crate) time: Option<f64>,
    /// Queries in vain since the last record.
    pub(crate) queries: u32,
    pub(crate) made: Made,
}

/// Memory by its address.
pub(crate) enum Kind {
    Device,
    /// Of a pool; `freed` once a free is queued.
    Pooled {
        pool: Id,
        freed: bool,
    },
    /// A variable of a module.
    Variable,
    /// Host memory that the driver allocated.
    Pinned,
    /// Host memory of the program.
    Registered,
    Managed,
}

impl Kind {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Kind::Device => "device memory",
            Kind::Pooled { .. } => "pool memory",
            Kind::Variable => "variable",
            Kind::Pinned => "pinned host memory",
            Kind::Registered => "registered host memory",
            Kind::Managed => "managed memory",
        }
    }
}

pub(crate) struct Range {
    pub(crate) id: Id,
    pub(crate) bytes: usize,
    pub(crate) kind: Kind,
    pub(crate) context: Id,
    /// The device whose memory it is; of host memory, the one that was current.
    pub(crate) device: usize,
    pub(crate) flags: u32,
    /// Of host memory: how the virtual GPUs know it.
    pub(crate) region: Option<Region>,
    pub(crate) made: Made,
}

impl Range {
    pub(crate) fn on_host(&self) -> bool {
        matches!(self.kind, Kind::Pinned | Kind::Registered | Kind::Managed)
    }
}

pub(crate) struct Pool {
    pub(crate) device: usize,
    pub(crate) default: bool,
    pub(crate) threshold: u64,
    /// Other devices whose kernels may use its memory.
    pub(crate) shared_with: BTreeSet<usize>,
    pub(crate) reuse: [u32; 3],
    pub(crate) used: u64,
    pub(crate) used_high: u64,
    pub(crate) made: Made,
}

pub(crate) struct Module {
    pub(crate) context: Id,
    pub(crate) library: Option<Id>,
    pub(crate) source: Arc<ptx_vm::Module>,
    /// Address and size by name.
    pub(crate) variables: HashMap<String, (u64, usize)>,
    /// Entries that the virtual GPU cannot run, and why.
    pub(crate) broken: HashMap<String, String>,
    pub(crate) functions: HashMap<String, Id>,
    pub(crate) made: Made,
}

pub(crate) struct Function {
    pub(crate) module: Id,
    pub(crate) context: Id,
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) name: CString,
    /// The dynamic shared memory opted in to.
    pub(crate) dynamic_shared: i32,
    pub(crate) carveout: i32,
    /// The cluster it requires, where the program has said so, and whether it may have more blocks than all devices allow.
    pub(crate) cluster: [i32; 3],
    pub(crate) large_clusters: bool,
}

/// A module that is loaded into a context when a kernel of it is first used there.
pub(crate) struct Library {
    pub(crate) image: Image,
    /// By context.
    pub(crate) modules: HashMap<Id, Id>,
    /// Kernels asked for, by name.
    pub(crate) kernels: HashMap<String, Id>,
    pub(crate) made: Made,
}

pub(crate) struct Link {
    pub(crate) parts: Vec<String>,
    pub(crate) made_image: Option<Vec<u8>>,
    pub(crate) log: Log,
    pub(crate) made: Made,
}
