//! Decoded kernels.

use super::constant::{ConstSource, Special, Where};
use super::meta::{Loc, Meta};
use super::op::Op;
use crate::error::{Fault, FaultKind};
use crate::memory::Table;
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;

/// Module-level variables in global and constant memory.
#[derive(Default)]
pub(crate) struct Globals {
    pub(crate) table: Table,
    pub(crate) addresses: HashMap<String, u64>,
}

/// What a kernel says of its clusters.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ClusterRules {
    /// `.reqnctapercluster`.
    pub(crate) required: Option<[u32; 3]>,
    /// `.maxclusterrank`.
    pub(crate) most: Option<u32>,
    /// `.explicitcluster`: it has to be said how large they are.
    pub(crate) explicit: bool,
    /// `.blocksareclusters`: the grid counts clusters.
    pub(crate) counted: bool,
}

/// One kernel parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Param {
    /// Name in the PTX.
    pub name: String,
    /// Byte offset in the parameter block.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
    /// Alignment in bytes.
    pub align: usize,
    /// Type in the PTX, such as `u64`; of the elements when it is an array.
    pub ty: &'static str,
}

/// A decoded kernel, ready to launch.
pub struct Kernel {
    pub(crate) name: String,
    pub(crate) file: Arc<str>,
    /// The module's text, for reports.
    pub(crate) text: Arc<str>,
    /// The architecture of the module's target, as 80.
    pub(crate) arch: u32,
    pub(crate) params: Vec<Param>,
    pub(crate) param_bytes: usize,
    pub(crate) static_shared: usize,
    /// Bytes of local memory for each thread, without recursion.
    pub(crate) local_bytes: usize,
    /// Functions call each other in circles, or allocate on the stack: its depth is known only at run time.
    pub(crate) stack: bool,
    /// The entry's part of it.
    pub(crate) frame_bytes: usize,
    pub(crate) code: Vec<Op>,
    pub(crate) lists: Vec<u32>,
    pub(crate) meta: Vec<Meta>,
    /// How many instructions from each one on are calm: they neither order anything nor touch memory that others see.
    pub(crate) calm: Vec<u32>,
    /// The registers of the instructions, see [`Meta::flow`]: slots, which are multiples of 128, plus bytes of a lane.
    pub(crate) flows: Vec<u32>,
    /// The registers, as above, that may be read before anything has written them.
    pub(crate) unwritten: Vec<u32>,
    /// Bytes of registers for each warp, a multiple of 128.
    pub(crate) reg_bytes: usize,
    pub(crate) preds: usize,
    /// The constants; those not known yet are zero.
    pub(crate) const_image: Vec<u8>,
    /// Constants to fill in at launch: byte offset, width, source.
    pub(crate) launch_consts: Vec<(u32, Where, ConstSource)>,
    /// The arrays of shared memory: name (empty for what is dynamic), first byte and end. Their numbers begin at 1.
    pub(crate) arrays: Vec<(String, u64, u64)>,
    /// Constants that are addresses in one of them: slot and number.
    pub(crate) array_consts: Vec<(u32, u8)>,
    /// Registers to fill in for every warp.
    pub(crate) warp_consts: Vec<(u32, Where, Special)>,
    pub(crate) caches: usize,
    /// Bytes of [`super::op::Cx::stage`].
    pub(crate) stage_bytes: usize,
    pub(crate) globals: Arc<Globals>,
    pub(crate) reqntid: Option<[u32; 3]>,
    pub(crate) maxntid: Option<u64>,
    pub(crate) cluster: ClusterRules,
    /// Instructions of which nothing is left, with the position in `code` they would have stood before.
    pub(crate) dissolved: Vec<(u32, Meta)>,
    /// `.file` names and `.loc` places, for reports.
    pub(crate) files: Vec<(u32, String)>,
    pub(crate) locs: Vec<Loc>,
}

// SAFETY: an `Op` holds function pointers and integers only.
unsafe impl Send for Kernel {}

// SAFETY: kernels are immutable.
unsafe impl Sync for Kernel {}

/// A place in the source the PTX was compiled from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub struct SourceLine {
    /// File name, as the compiler wrote it.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1; 0 when not known.
    pub column: u32,
}

impl Kernel {
    /// Entry name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Parameters in order.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Size of the parameter block in bytes.
    pub fn param_bytes(&self) -> usize {
        self.param_bytes
    }

    /// Lays out the parameter block: the bytes of one argument for each parameter, in order.
    ///
    /// # Errors
    /// When there are more or fewer arguments than parameters, or one has not the size of its parameter.
    pub fn pack(&self, arguments: &[&[u8]]) -> Result<Vec<u8>, Fault> {
        let refuse = |message| Err(Fault::at_launch(self, message));
        if arguments.len() != self.params.len() {
            return refuse(format!("{} arguments, the kernel takes {}", arguments.len(), self.params.len()));
        }
        let mut out = vec![0; self.param_bytes];
        for (argument, param) in arguments.iter().zip(&self.params) {
            if argument.len() != param.size {
                return refuse(format!(
                    "{} bytes for parameter `{}`, which takes {}",
                    argument.len(),
                    param.name,
                    param.size
                ));
            }
            out[param.offset..param.offset + param.size].copy_from_slice(argument);
        }
        Ok(out)
    }

    /// Threads a block must have in x, y, z, when the PTX says so (`.reqntid`).
    pub fn required_block(&self) -> Option<[u32; 3]> {
        self.reqntid
    }

    /// The most threads a block may have, when the PTX says so (`.maxntid`; of several dimensions the product).
    pub fn max_threads(&self) -> Option<u64> {
        self.maxntid
    }

    /// Blocks a cluster must have in x, y, z, when the PTX says so (`.reqnctapercluster`).
    pub fn required_cluster(&self) -> Option<[u32; 3]> {
        self.cluster.required
    }

    /// The most blocks a cluster may have, when the PTX says so (`.maxclusterrank`).
    pub fn max_cluster(&self) -> Option<u32> {
        self.cluster.most
    }

    /// Whether a launch has to say how large clusters are, unless [`Kernel::required_cluster`] does (`.explicitcluster`).
    pub fn needs_cluster(&self) -> bool {
        self.cluster.explicit
    }

    /// Local memory of a thread in bytes; for recursive functions and `alloca` [`crate::VmConfig::stack_bytes`] come on top.
    pub fn local_bytes(&self) -> usize {
        self.local_bytes
    }

    /// Static shared memory in bytes.
    pub fn static_shared(&self) -> usize {
        self.static_shared
    }

    /// Number of decoded instructions, for reports.
    pub fn instructions(&self) -> usize {
        self.code.len()
    }

    /// A place in the source, then the places where that was inlined.
    pub(crate) fn source(&self, loc: u32) -> Vec<SourceLine> {
        let mut out = Vec::new();
        let mut next = self.locs.get(loc as usize);
        // Places name earlier ones only.
        while let Some(loc) = next.filter(|loc| loc.line > 0) {
            let file = self.files.iter().find(|(n, _)| *n == loc.file).map_or("?", |(_, name)| name.as_str());
            out.push(SourceLine { file: file.to_owned(), line: loc.line, column: loc.column });
            next = self.locs.get(loc.inlined_at as usize);
        }
        out
    }

    /// Bytes of registers a warp takes, for reports.
    pub fn register_bytes(&self) -> usize {
        self.reg_bytes
    }
}

impl Fault {
    /// The launch itself is not possible.
    pub(crate) fn at_launch(kernel: &Kernel, message: String) -> Fault {
        Fault {
            kind: FaultKind::Launch,
            kernel: kernel.name().to_owned(),
            file: kernel.file.to_string(),
            line: 0,
            instruction: String::new(),
            source_line: None,
            block: None,
            thread: None,
            address: None,
            message,
        }
    }

    /// The launch was not begun, or not all of its blocks were.
    pub(crate) fn cut(kernel: &Kernel, kind: FaultKind, message: &str) -> Fault {
        Fault { kind, ..Fault::at_launch(kernel, message.to_owned()) }
    }
}
