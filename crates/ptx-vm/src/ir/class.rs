//! Classes of instructions.

/// Classes of instructions, for the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Class {
    /// Integer arithmetic.
    Integer,
    /// Bits, shifts, `lop3`, `prmt`.
    Logic,
    /// f32 arithmetic.
    Float,
    /// f64 arithmetic.
    Double,
    /// f16 and bf16 arithmetic, packed or not.
    Half,
    /// `rcp`, `sqrt`, `rsqrt`, `ex2`, `lg2`, `sin`, `cos`, `tanh` of f32.
    Special,
    /// `cvt`.
    Convert,
    /// `mov`, `cvta`, `isspacep`.
    Move,
    /// `setp`, `set`, `selp`, `slct`.
    Compare,
    /// Branches, calls, `ret`, `exit`, `trap`.
    Control,
    /// Barriers of the block: `bar`, `barrier`.
    Barrier,
    /// `membar`, `fence` and other orderings.
    Fence,
    /// What lanes tell each other: `shfl`, `vote`, `match`, `redux`, `bar.warp.sync`.
    Warp,
    /// `ld` of every space, `prefetch`.
    Load,
    /// `st` of every space.
    Store,
    /// `atom`, `red`.
    Atomic,
    /// Asynchronous copies, their groups and mbarriers.
    Async,
    /// `ldmatrix`, `stmatrix`, `movmatrix`.
    Matrix,
    /// `mma`.
    Tensor,
    /// What fits nowhere else.
    Other,
}

impl Class {
    /// Every class, in order.
    pub const ALL: [Class; 20] = [
        Class::Integer,
        Class::Logic,
        Class::Float,
        Class::Double,
        Class::Half,
        Class::Special,
        Class::Convert,
        Class::Move,
        Class::Compare,
        Class::Control,
        Class::Barrier,
        Class::Fence,
        Class::Warp,
        Class::Load,
        Class::Store,
        Class::Atomic,
        Class::Async,
        Class::Matrix,
        Class::Tensor,
        Class::Other,
    ];
}
