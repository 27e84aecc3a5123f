//! The representation of kernels: instructions over virtual registers, what they become, the state they work on, and what is known about
//! them. No instruction is executed here, and no text is read.

mod access;
mod class;
mod constant;
mod event;
mod handler;
mod kernel;
mod lanes;
mod meta;
mod op;
mod raw;

pub(crate) use access::{Access, AccessKind, addresses};
pub use class::Class;
pub(crate) use constant::{ConstSource, RESERVED, Special, Where, width};
pub(crate) use event::{Event, Happened};
pub(crate) use handler::{Exec, Level, handler, level};
pub(crate) use kernel::ClusterRules;
pub(crate) use kernel::Globals;
pub use kernel::{Kernel, Param, SourceLine};
pub(crate) use lanes::{FULL, L, Lanes, WARP, lanes, lanes_of, set_lane};
pub(crate) use meta::{Loc, Meta};
pub(crate) use op::{
    Arrival, BARRIERS, CONST_BIT, Cache, Cx, Handler, NAMED, NO_FRAME, NO_SLOT, OFFSET, Object, Op, Path, Poll,
    RANK_SHIFT, Reduce, Rule, Stop, guarded,
};
pub(crate) use raw::{Flow, Raw, Val, negation};
