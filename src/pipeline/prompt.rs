//! A prompt on its way to the model: first parsed, which is cheap and detects errors, then embedded.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::PipelineError;
use crate::text::Embedding;

/// The maximum length of a file name made from a prompt, in characters.
const SLUG_LENGTH: usize = 60;

/// A parsed prompt: words from the model's vocabulary, or free text.
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
        // A byte-order mark, which some editors put before the first word, belongs to no word.
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
        Ok(PromptText { text: text.to_owned(), slug })
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

/// Attributes of the video besides the prompt's own words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Aesthetic score, 4 (plain) to 7 (beautiful).
    pub aesthetic: Option<f32>,
    /// Motion score, 0 (still) and up.
    pub motion: Option<f32>,
    /// Camera motion, such as `pan left`.
    pub camera: Option<String>,
}

impl Default for Scores {
    /// The published pipeline's default: aesthetic score 6.5, nothing else.
    fn default() -> Self {
        Scores { aesthetic: Some(6.5), motion: None, camera: None }
    }
}

impl Scores {
    /// Checks that the scores are plausible.
    ///
    /// # Errors
    /// A score that is not from 0 to 100.
    pub fn check(&self) -> Result<(), PipelineError> {
        for (name, score) in [("aesthetic", self.aesthetic), ("motion", self.motion)] {
            if let Some(score) = score.filter(|score| !(0.0..=100.0).contains(score)) {
                return Err(PipelineError::Setting(format!("the {name} score {score} must be from 0 to 100")));
            }
        }
        Ok(())
    }
}

/// Everything besides the prompt itself that its embedding depends on.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct TextOptions {
    /// Attributes of the video, appended to the prompt (Open-Sora).
    pub scores: Scores,
    /// The prompt of the unconditional half, for models without a null caption of their own (Wan); `None`: the model's default.
    pub negative: Option<String>,
    /// Whether the negative prompt is left out, as guidance of scale 1 reads none.
    pub unguided: bool,
}

/// A prompt in the form the model takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    text: PromptText,
    embedding: Arc<Embedding>,
    negative: Option<Arc<Embedding>>,
}

impl Prompt {
    /// A prompt with its embedding.
    pub fn new(text: PromptText, embedding: Embedding) -> Prompt {
        Prompt { text, embedding: Arc::new(embedding), negative: None }
    }

    /// The same prompt with the embedding of a negative prompt, which the unconditional half reads.
    pub fn against(self, negative: Arc<Embedding>) -> Prompt {
        Prompt { negative: Some(negative), ..self }
    }

    /// `[tokens, channels]`, without padding.
    pub fn embedding(&self) -> &Embedding {
        &self.embedding
    }

    /// The embedding of the negative prompt, `[tokens, channels]`, without padding; `None`: the model has a null caption of its own.
    pub fn negative(&self) -> Option<&Embedding> {
        self.negative.as_deref()
    }

    /// The tokens of the longer of the two embeddings.
    pub fn tokens(&self) -> usize {
        self.embedding.tokens.max(self.negative().map_or(0, |negative| negative.tokens))
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
