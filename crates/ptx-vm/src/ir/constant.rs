//! Constants of a kernel: where their lanes come from, and how wide they are.

use crate::parse::Ty;

/// A special register, or another value known only at run time that is the same in all or part of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    /// Index of the cluster, and how many there are.
    ClusterId(u8),
    NClusterId(u8),
    /// Index of the block in its cluster, and how many there are.
    ClusterCtaid(u8),
    ClusterNctaid(u8),
    /// The same in one number.
    ClusterRank,
    ClusterBlocks,
    /// Whether launch or kernel say how large clusters are.
    ExplicitCluster,
    WarpId,
    NWarpId,
    DynamicShared,
    TotalShared,
    /// The worker thread that runs the block stands for the multiprocessor.
    SmId,
    NSm,
    /// Number of the launch.
    GridId,
    /// Half of the address of the grid's workspace, in which cooperative groups keep their barrier: the upper one, or the lower.
    Workspace(bool),
    /// An offset into the shared memory that is reserved for the system, from where that begins.
    Reserved(u32),
}

/// Where a constant's lanes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ConstSource {
    /// A number, and the array of shared memory it is an address of (0: none).
    Imm(u64, u8),
    /// Lane `4 g + t` gives `g * group + t * thread`; the lane number itself is 4, 1.
    Lane {
        group: u32,
        thread: u32,
    },
    /// `%lanemask_*`: 0 eq, 1 le, 2 lt, 3 ge, 4 gt.
    LaneMask(u8),
    /// Bytes of the parameter block at an offset, read as a type.
    Param(u32, Ty),
    Special(Special),
}

impl ConstSource {
    /// Differs from block to block.
    pub(crate) fn is_of_block(self) -> bool {
        use Special::{ClusterCtaid, ClusterId, ClusterRank, Ctaid};
        matches!(self, ConstSource::Special(Ctaid(_) | ClusterId(_) | ClusterCtaid(_) | ClusterRank))
    }

    pub(crate) fn is_reserved(self) -> bool {
        matches!(self, ConstSource::Special(Special::Reserved(_)))
    }

    pub(crate) fn is_workspace(self) -> bool {
        matches!(self, ConstSource::Special(Special::Workspace(_)))
    }
}

/// Lane width of a register or constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Where {
    W16,
    W32,
    W64,
}

impl Where {
    pub(crate) fn bytes(self) -> usize {
        match self {
            Where::W16 => 2,
            Where::W32 => 4,
            Where::W64 => 8,
        }
    }
}

/// Width of a register that holds a `ty`.
pub(crate) fn width(ty: Ty) -> Where {
    match ty.bytes() {
        1 | 2 => Where::W16,
        4 => Where::W32,
        _ => Where::W64,
    }
}

/// Bytes of shared memory that are reserved for the system, in blocks of kernels that ask where.
pub(crate) const RESERVED: u32 = 1024;
