//! A prompt on its way to the model: first read, which is cheap and finds what is wrong with it, then embedded.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::PipelineError;
use super::opensora::{Embedding, Scores};
use crate::model::Weights;

/// Characters of a file name made from a prompt.
const SLUG_LENGTH: usize = 60;

/// A prompt that was read: words the model knows, or text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptText {
    text: String,
    slug: String,
}

impl PromptText {
    /// Takes free text.
    ///
    /// # Errors
    /// Text without a letter or digit.
    pub fn new(text: &str) -> Result<PromptText, PipelineError> {
        let words = text.to_lowercase();
        let words = words.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        let mut slug = String::new();
        for word in words {
            if slug.chars().count() + word.chars().count() > SLUG_LENGTH && !slug.is_empty() {
                break;
            }
            if !slug.is_empty() {
                slug.push('-');
            }
            slug.extend(word.chars().take(SLUG_LENGTH));
        }
        if slug.is_empty() {
            return Err(PipelineError::Setting("the prompt is empty: say what the video shows".into()));
        }
        Ok(PromptText { text: text.trim().to_owned(), slug })
    }

    /// The words joined for a file name: `large-red-circle-bouncing-fast-navy`.
    pub fn slug(&self) -> &str {
        &self.slug
    }
}

impl fmt::Display for PromptText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What besides the prompt itself decides its embedding.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct TextOptions {
    /// What is said about the video behind the prompt (Open-Sora).
    pub scores: Scores,
}

/// A prompt the model can be given.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    text: PromptText,
    embedding: Arc<Embedding>,
}

impl Prompt {
    /// A prompt with its embedding.
    pub fn new(text: PromptText, embedding: Embedding) -> Prompt {
        Prompt { text, embedding: Arc::new(embedding) }
    }

    /// `[tokens, channels]`, without filling.
    pub fn embedding(&self) -> &Embedding {
        &self.embedding
    }

    /// The words joined for a file name.
    pub fn slug(&self) -> &str {
        &self.text.slug
    }
}

impl fmt::Display for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl Embedding {
    /// The tensor's name in files.
    pub(super) const TENSOR: &'static str = "embedding";

    /// Reads tensor `embedding` `[tokens, channels]`, also with axes of size 1 before them, from a safetensors file.
    ///
    /// # Errors
    /// Another shape, more than `max_tokens` tokens, values that are no numbers.
    pub fn open(path: &Path, channels: usize, max_tokens: usize) -> Result<Embedding, PipelineError> {
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
