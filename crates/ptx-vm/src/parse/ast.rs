//! The syntax tree. Names borrow from the PTX text.

/// Scalar types of PTX.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]

pub(crate) enum Ty {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    Tf32,
    F32,
    F64,
    U16x2,
    S16x2,
    E4m3,
    E5m2,
    E4m3x2,
    E5m2x2,
}

impl Ty {
    const NAMES: &'static [(&'static str, Ty)] = &[
        ("pred", Ty::Pred),
        ("b8", Ty::B8),
        ("b16", Ty::B16),
        ("b32", Ty::B32),
        ("b64", Ty::B64),
        ("b128", Ty::B128),
        ("u8", Ty::U8),
        ("u16", Ty::U16),
        ("u32", Ty::U32),
        ("u64", Ty::U64),
        ("s8", Ty::S8),
        ("s16", Ty::S16),
        ("s32", Ty::S32),
        ("s64", Ty::S64),
        ("f16", Ty::F16),
        ("f16x2", Ty::F16x2),
        ("bf16", Ty::Bf16),
        ("bf16x2", Ty::Bf16x2),
        ("tf32", Ty::Tf32),
        ("f32", Ty::F32),
        ("f64", Ty::F64),
        ("u16x2", Ty::U16x2),
        ("s16x2", Ty::S16x2),
        ("e4m3", Ty::E4m3),
        ("e5m2", Ty::E5m2),
        ("e4m3x2", Ty::E4m3x2),
        ("e5m2x2", Ty::E5m2x2),
    ];

    pub(crate) fn parse(name: &str) -> Option<Ty> {
        Ty::NAMES.iter().find(|(n, _)| *n == name).map(|(_, ty)| *ty)
    }

    pub(crate) fn name(self) -> &'static str {
        Ty::NAMES.iter().find(|(_, ty)| *ty == self).map_or("?", |(n, _)| n)
    }

    /// Size in bytes; predicates count as 1.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Ty::Pred | Ty::B8 | Ty::U8 | Ty::S8 | Ty::E4m3 | Ty::E5m2 => 1,
            Ty::B16 | Ty::U16 | Ty::S16 | Ty::F16 | Ty::Bf16 | Ty::E4m3x2 | Ty::E5m2x2 => 2,
            Ty::B32 | Ty::U32 | Ty::S32 | Ty::F32 | Ty::Tf32 | Ty::F16x2 | Ty::Bf16x2 | Ty::U16x2 | Ty::S16x2 => 4,
            Ty::B64 | Ty::U64 | Ty::S64 | Ty::F64 => 8,
            Ty::B128 => 16,
        }
    }

    /// Whether an operand of an instruction of this type may be a register declared with another type: of the same size, and
    /// untyped, or of the same kind.
    pub(crate) fn takes(self, register: Ty) -> bool {
        self.bytes() == register.bytes() && self.kind_takes(register)
    }

    /// The same where the register may be wider: for `ld`, `st` and `cvt`.
    pub(crate) fn fits(self, register: Ty) -> bool {
        self.bytes() <= register.bytes() && self.kind_takes(register)
    }

    pub(crate) fn untyped(self) -> bool {
        matches!(self, Ty::B8 | Ty::B16 | Ty::B32 | Ty::B64 | Ty::B128)
    }

    fn kind_takes(self, register: Ty) -> bool {
        let untyped = register.untyped() || register == Ty::F16x2;
        let integer = |ty| matches!(ty, Ty::U8 | Ty::U16 | Ty::U32 | Ty::U64) || ty.signed();
        match self {
            _ if register == Ty::Pred => false,
            _ if untyped => true,
            _ if self.untyped() => true,
            Ty::F16 | Ty::F32 | Ty::F64 => self == register,
            _ => integer(self) && integer(register),
        }
    }

    pub(crate) fn signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64)
    }

    pub(crate) fn float(self) -> bool {
        matches!(self, Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2 | Ty::Tf32 | Ty::F32 | Ty::F64)
    }
}

/// State spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Const,
    Param,
}

impl Space {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Space::Generic => "generic",
            Space::Global => "global",
            Space::Shared => "shared",
            Space::Local => "local",
            Space::Const => "const",
            Space::Param => "param",
        }
    }
}

/// A variable declaration: `.shared .align 16 .b8 tile[2048]`.
#[derive(Debug, Clone)]
pub(crate) struct Var<'a> {
    /// `.visible`, `.extern`, `.weak`, `.common` or nothing.
    pub(crate) linkage: &'a str,
    pub(crate) space: Space,
    pub(crate) name: &'a str,
    pub(crate) ty: Ty,
    /// Bytes of one element: of a vector where it is one.
    pub(crate) element: usize,
    pub(crate) align: usize,
    /// Bytes; 0 for an unsized array (`.extern .shared .b8 dyn[]`).
    pub(crate) size: usize,
    pub(crate) init: Vec<Init<'a>>,
    pub(crate) line: u32,
}

/// One element of an initialiser.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Init<'a> {
    Bits(u64),
    Address(&'a str, i64),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operand<'a> {
    /// A register, symbol, label or special register.
    Name(&'a str),
    /// `symbol+4`.
    NameOffset(&'a str, i64),
    /// `array[2]`: the address of an element.
    Element(&'a str, i64),
    Int(i128),
    F32(u32),
    F64(u64),
    /// `[base + offset]`; no base for an absolute address.
    Address(Option<&'a str>, i64),
    Vector(Vec<Operand<'a>>),
    /// `a|b`.
    Pair(Box<Operand<'a>>, Box<Operand<'a>>),
    /// `!p`.
    Not(&'a str),
    /// `-r`, as `vmad` takes it.
    Negated(&'a str),
    /// `(a, b)` of a call.
    List(Vec<Operand<'a>>),
}

#[derive(Debug, Clone)]
pub(crate) struct Inst<'a> {
    pub(crate) line: u32,
    /// The whole instruction as written.
    pub(crate) text: &'a str,
    /// Guard predicate and whether it is negated.
    pub(crate) guard: Option<(&'a str, bool)>,
    pub(crate) opcode: &'a str,
    pub(crate) operands: Vec<Operand<'a>>,
}

/// `.loc`: file number, line and column, and those of the call that was inlined.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loc {
    pub(crate) place: [u32; 3],
    pub(crate) inlined_at: Option<[u32; 3]>,
}

#[derive(Debug, Clone)]
pub(crate) enum Stmt<'a> {
    Open,
    Close,
    /// `.reg .b32 %r<10>`: name, number of registers when given as a range.
    Reg(&'a str, Option<u32>, Ty, u32),
    Var(Var<'a>),
    Label(&'a str, u32),
    Inst(Inst<'a>),
    Loc(Loc),
    /// `name: .branchtargets a, b;`
    Targets(&'a str, Vec<&'a str>),
}

/// A parameter of an entry or function.
#[derive(Debug, Clone)]
pub(crate) struct ParamDecl<'a> {
    pub(crate) name: &'a str,
    pub(crate) ty: Ty,
    pub(crate) align: usize,
    pub(crate) size: usize,
    /// Declared `.reg` (old ABI) instead of `.param`.
    pub(crate) register: bool,
}
