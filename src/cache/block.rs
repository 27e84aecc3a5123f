//! The transformer block: the span of its self-attention, and its modules.

/// The tokens that a block's self-attention spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Span {
    /// The tokens of one frame: a spatial block.
    Frame,
    /// The tokens of all frames at one location: a temporal block.
    Time,
    /// All tokens.
    Everything,
}

impl Span {
    /// All spans.
    pub const ALL: [Span; 3] = [Span::Frame, Span::Time, Span::Everything];

    /// Its name in traces, settings and messages: `spatial`, `temporal`, `block`.
    pub fn name(self) -> &'static str {
        match self {
            Span::Frame => "spatial",
            Span::Time => "temporal",
            Span::Everything => "block",
        }
    }
}

/// A part of a block that adds to the hidden state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Module {
    /// The gated self-attention.
    Attention,
    /// The cross-attention.
    Cross,
    /// The gated MLP.
    Mlp,
}

impl Module {
    /// All modules of a block, in execution order.
    pub const ALL: [Module; 3] = [Module::Attention, Module::Cross, Module::Mlp];
}
