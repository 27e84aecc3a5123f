//! T5's tokens of a prompt, as many as the model reads, and what of a longer prompt is cut.

use std::fmt;
use std::path::Path;

use tokenizers::Tokenizer;

use super::error::{EncoderError, failed, fault};

/// Words of what is cut that a message shows.
const SHOWN: usize = 8;

/// T5's tokenizer, for prompts of limited length.
pub struct Tokens {
    tokenizer: Tokenizer,
    most: usize,
}

/// The tokens of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokenised {
    /// As many as the model reads, with the end-of-sentence token.
    pub ids: Vec<u32>,
    /// What did not fit.
    pub cut: Option<Cut>,
}

/// The end of a prompt that is longer than the model reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Tokens that the model reads.
    pub most: usize,
    /// Tokens that are cut.
    pub tokens: usize,
    /// The text that is cut, from its first word on; a word that is cut in the middle is whole here.
    pub text: String,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cut { most, tokens, text } = self;
        let words: Vec<&str> = text.split_whitespace().collect();
        let shown = words[..words.len().min(SHOWN)].join(" ");
        let more = if words.len() > SHOWN { " …" } else { "" };
        let tokens = if *tokens == 1 { "its last token is".into() } else { format!("its last {tokens} tokens are") };
        write!(
            f,
            "the prompt is longer than the {most} tokens that the model reads: {tokens} cut, from `{shown}{more}` on"
        )
    }
}

impl Tokens {
    /// The tokenizer in the file `path` (`tokenizer.json`), for prompts of at most `most` tokens, the end-of-sentence token included.
    ///
    /// # Errors
    /// A file that is missing or no tokenizer.
    pub fn load(path: &Path, most: usize) -> Result<Tokens, EncoderError> {
        let mut tokenizer = Tokenizer::from_file(path).map_err(fault(path))?;
        // Cut here: a tokenizer that cuts does not look at the rest.
        tokenizer.with_truncation(None).map_err(fault(path))?;
        tokenizer.with_padding(None);
        Ok(Tokens { tokenizer, most })
    }

    /// Size of the vocabulary.
    pub(super) fn vocabulary(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The tokens of a prompt.
    ///
    /// # Errors
    /// Text that the tokenizer rejects.
    pub fn of(&self, prompt: &str) -> Result<Tokenised, EncoderError> {
        let encoding = self.tokenizer.encode(prompt, true).map_err(failed(prompt))?;
        let (ids, most) = (encoding.get_ids(), self.most);
        if ids.len() <= most {
            return Ok(Tokenised { ids: ids.to_vec(), cut: None });
        }
        // What the tokenizer appends stays.
        let appended = encoding.get_special_tokens_mask().iter().rev().take_while(|special| **special == 1).count();
        let kept = most.saturating_sub(appended);
        let (start, _) = encoding.get_offsets()[kept];
        let text = prompt[whole_word(prompt, start)..].trim().to_owned();
        let cut = Some(Cut { most, tokens: ids.len() - most, text });
        Ok(Tokenised { ids: [&ids[..kept], &ids[ids.len() - appended..]].concat(), cut })
    }
}

/// Where the word begins that byte `at` belongs to; `at` itself, or the boundary before it, if that is between words.
fn whole_word(text: &str, at: usize) -> usize {
    let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    if text[at..].starts_with(char::is_whitespace) {
        return at;
    }
    text[..at].char_indices().rev().take_while(|(_, c)| !c.is_whitespace()).last().map_or(at, |(start, _)| start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_told_by_whole_words() {
        let text = "eins zwölf drei";
        let from = |at: usize| &text[whole_word(text, at)..];
        assert_eq!((from(0), from(2), from(4)), (text, text, " zwölf drei"));
        // In the middle of the word, and of a letter.
        assert_eq!((from(7), from(8), from(99)), ("zwölf drei", "zwölf drei", "drei"));
        let cut = |tokens, text: &str| Cut { most: 300, tokens, text: text.into() }.to_string();
        assert!(cut(1, "sea").ends_with("300 tokens that the model reads: its last token is cut, from `sea` on"));
        let long = cut(12, "a b c d e f g h i j");
        assert!(long.ends_with("its last 12 tokens are cut, from `a b c d e f g h …` on"), "{long}");
    }
}
