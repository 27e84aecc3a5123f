//! Text encoders: the fixed table of the sprites model, T5 and umT5.

mod error;
mod t5;
mod tokens;
mod words;

use std::path::Path;

pub use error::EncoderError;
pub use t5::{T5, T5Files};
pub use tokens::{Cut, Tokenised, Tokens};
pub use words::{TextEncoder, TextError, UnknownWord, Vocabulary, Words};

use crate::model::{ModelError, Weights};

/// The embedding of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// `[tokens, channels]`
    pub values: Vec<f32>,
    /// The number of tokens, the end-of-sentence token included.
    pub tokens: usize,
}

impl Embedding {
    /// The tensor's name in files.
    pub const TENSOR: &'static str = "embedding";

    /// Reads tensor `embedding` `[tokens, channels]`, optionally with leading axes of size 1, from a safetensors file.
    ///
    /// # Errors
    /// Another shape, more than `max_tokens` tokens, values that are not numbers.
    pub fn open(path: &Path, channels: usize, max_tokens: usize) -> Result<Embedding, ModelError> {
        let weights = Weights::open(path)?;
        let shape = weights.shape(Self::TENSOR).unwrap_or_default();
        let tokens = match &shape[..] {
            [.., tokens, width] if *width == channels && shape.iter().product::<usize>() == tokens * width => *tokens,
            _ => 0,
        };
        // Asking for a shape that it does not have gives the error that names both.
        let fits = (1..=max_tokens).contains(&tokens);
        let expected = if fits { shape } else { vec![max_tokens, channels] };
        let values = weights.values(Self::TENSOR, &expected)?;
        Ok(Embedding { values, tokens })
    }
}
