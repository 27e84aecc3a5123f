//! Prompts of the sprites model: six words, one of each kind, and their fixed embeddings.

use std::fmt;

use super::Embedding;
use crate::messages;
use crate::model::{ModelError, Weights};

/// The kinds of words, in the order the model was trained with.
const KINDS: [(&str, &[&str]); 6] = [
    ("size", &["small", "large"]),
    ("color", &["red", "green", "blue", "yellow", "white", "purple", "orange", "cyan"]),
    ("shape", &["circle", "square", "triangle", "ring"]),
    ("motion", &["still", "left", "right", "up", "down", "bouncing", "orbiting", "spinning", "growing", "shrinking"]),
    ("speed", &["slowly", "fast"]),
    ("background", &["black", "gray", "navy", "gradient", "checkerboard", "striped"]),
];
/// One word of each kind, for examples.
const EXAMPLE: [&str; 6] = ["large", "red", "circle", "bouncing", "fast", "navy"];
/// Words behind a whole prompt that a message shows.
const SHOWN: usize = 8;
/// The token that pads a prompt to its fixed length: the vocabulary's first entry.
const PAD: &str = "<pad>";

/// Why a prompt, or a vocabulary, cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// Words the model was not trained with.
    #[error("the model does not know {}\n{help}", unknown(words))]
    UnknownWords {
        /// The words, in the order of the prompt, at least one.
        words: Vec<UnknownWord>,
        /// The vocabulary by kind.
        help: String,
    },
    /// Words of some kinds are missing.
    #[error("the prompt names no {}\n{help}", .kinds.join(", no "))]
    Missing {
        /// The kinds without a word.
        kinds: Vec<&'static str>,
        /// The vocabulary by kind.
        help: String,
    },
    /// Two words of one kind.
    #[error("`{first}` and `{second}` are both a {kind}; a prompt has one\n{help}")]
    Twice {
        /// The kind.
        kind: &'static str,
        /// The first word of this kind.
        first: String,
        /// The second.
        second: String,
        /// The vocabulary by kind.
        help: String,
    },
    /// The model's vocabulary is not valid for sprites.
    #[error("the model's vocabulary cannot be used: {0}")]
    Vocabulary(String),
}

/// A word that a model does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownWord {
    /// The word as given.
    pub word: String,
    /// The known word that was probably meant, if there is one.
    pub nearest: Option<String>,
}

/// The words, and what was probably meant.
fn unknown(words: &[UnknownWord]) -> String {
    if let [UnknownWord { word, nearest }] = words {
        return format!("the word `{word}`{}", messages::did_you_mean(nearest.as_deref()));
    }
    let list: Vec<String> = words.iter().map(|UnknownWord { word, .. }| format!("`{word}`")).collect();
    let meant =
        words.iter().filter_map(|UnknownWord { word, nearest }| Some(format!("`{}` for `{word}`", nearest.as_ref()?)));
    let meant: Vec<String> = meant.collect();
    let meant = if meant.is_empty() { String::new() } else { format!("; did you mean {}?", meant.join(", ")) };
    format!("the words {}{meant}", list.join(", "))
}

/// The words a model knows. A word's position is its token id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary(Vec<String>);

impl Vocabulary {
    /// Checks the list from `config.json`: `<pad>` first, then known words without repeats, at least one of every kind.
    pub fn new(words: Vec<String>) -> Result<Vocabulary, TextError> {
        let bad = |reason: String| Err(TextError::Vocabulary(reason));
        if words.first().map(String::as_str) != Some(PAD) {
            return bad(format!("its first entry must be {PAD}"));
        }
        for (i, word) in words.iter().enumerate().skip(1) {
            if !KINDS.iter().any(|(_, known)| known.contains(&word.as_str())) {
                return bad(format!("entry {i}, `{word}`, has no known kind"));
            }
            if words[..i].contains(word) {
                return bad(format!("`{word}` occurs twice"));
            }
        }
        let vocabulary = Vocabulary(words);
        match KINDS.iter().find(|(_, known)| vocabulary.of_kind(known).next().is_none()) {
            Some((kind, _)) => bad(format!("it has no word of the kind {kind}")),
            None => Ok(vocabulary),
        }
    }

    /// Number of tokens, including `<pad>`.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Always false: a vocabulary has at least `<pad>` and one word of every kind.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Parses a prompt: one word of each kind, in any order (the model receives them in its own order), in any case, with any punctuation.
    /// Words behind a whole prompt are left out: [`Words::rest`].
    ///
    /// ```
    /// # use adacache::family;
    /// let vocabulary = family::sprites::vocabulary();
    /// let prompt = vocabulary.parse("Navy: large, red circle bouncing FAST.")?;
    /// assert_eq!(prompt.to_string(), "large red circle bouncing fast navy");
    /// assert!(vocabulary.parse("large crimson circle bouncing fast navy").is_err());
    /// # Ok::<(), adacache::pipeline::PipelineError>(())
    /// ```
    ///
    /// # Errors
    /// Words that the model does not know, two of one kind, none of a kind.
    pub fn parse(&self, prompt: &str) -> Result<Words, TextError> {
        let mut slots: [Option<String>; 6] = Default::default();
        let mut unknown = vec![];
        let mut words = prompt.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|w| !w.is_empty());
        for word in words.by_ref().map(str::to_lowercase) {
            let kind = KINDS.iter().position(|(_, known)| self.of_kind(known).any(|w| w == word));
            let Some(kind) = kind else {
                unknown.push(UnknownWord { nearest: self.nearest(&word), word });
                continue;
            };
            if let Some(first) = slots[kind].replace(word.clone()) {
                return Err(TextError::Twice { kind: KINDS[kind].0, first, second: word, help: self.to_string() });
            }
            if unknown.is_empty() && slots.iter().all(Option::is_some) {
                break;
            }
        }
        if !unknown.is_empty() {
            return Err(TextError::UnknownWords { words: unknown, help: self.to_string() });
        }
        let kinds: Vec<_> = KINDS.iter().zip(&slots).filter(|(_, slot)| slot.is_none()).map(|((k, _), _)| *k).collect();
        if !kinds.is_empty() {
            return Err(TextError::Missing { kinds, help: self.to_string() });
        }
        let rest = words.map(str::to_owned).collect();
        let words = slots.map(Option::unwrap_or_default);
        let ids = words.iter().map(|word| self.0.iter().position(|w| w == word).unwrap_or(0)).collect();
        Ok(Words { words, ids, rest })
    }

    fn of_kind(&self, known: &[&str]) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str).filter(move |word| known.contains(word))
    }

    fn nearest(&self, word: &str) -> Option<String> {
        messages::nearest(word, self.0[1..].iter().map(String::as_str)).map(str::to_owned)
    }

    /// A prompt of this vocabulary.
    pub fn example(&self) -> String {
        let word = |((_, known), example): (&(&str, &[&str]), &str)| -> String {
            let words: Vec<&str> = self.of_kind(known).collect();
            words.iter().find(|word| **word == example).or(words.first()).map_or_else(String::new, |w| (*w).to_owned())
        };
        KINDS.iter().zip(EXAMPLE).map(word).collect::<Vec<_>>().join(" ")
    }
}

impl fmt::Display for Vocabulary {
    /// What the model draws: the words by kind, one line each, and an example.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it draws one moving shape, from six words, one of each kind, in any order:")?;
        for (kind, known) in KINDS {
            write!(f, "\n  {kind:<11}")?;
            for word in self.of_kind(known) {
                write!(f, " {word}")?;
            }
        }
        write!(f, "\nfor example: {}", self.example())
    }
}

/// The words of a prompt, one of each kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    words: [String; 6],
    ids: Vec<usize>,
    rest: Vec<String>,
}

impl Words {
    /// Token ids in the model's order: size, color, shape, motion, speed, background.
    pub fn ids(&self) -> &[usize] {
        &self.ids
    }

    /// A warning, if there were words behind the six: they are left out.
    pub fn rest(&self) -> Option<String> {
        let shown = self.rest[..self.rest.len().min(SHOWN)].join(" ");
        let more = if self.rest.len() > SHOWN { " …" } else { "" };
        let warning =
            || format!("the prompt is longer than the six words that the model reads: `{shown}{more}` is cut");
        (!self.rest.is_empty()).then(warning)
    }

    /// A warning, if a model that reads `most` words does not read all of these.
    pub fn cut(&self, most: usize) -> Option<String> {
        let warning = || {
            let cut = self.words[most..].join(" ");
            format!("the model reads {most} of the prompt's six words: `{cut}` is cut")
        };
        (most < self.words.len()).then(warning)
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words.join(" "))
    }
}

/// The fixed table that replaces a text encoder.
pub struct TextEncoder {
    /// `[words, channels]`
    table: Vec<f32>,
    channels: usize,
    prompt_length: usize,
}

impl TextEncoder {
    /// Loads `embedding.weight [words, channels]` from `text.safetensors`.
    pub fn load(
        weights: Weights<'_>,
        words: usize,
        channels: usize,
        prompt_length: usize,
    ) -> Result<TextEncoder, ModelError> {
        let table = weights.values("embedding.weight", &[words, channels])?;
        weights.finish(&[])?;
        Ok(TextEncoder { table, channels, prompt_length })
    }

    /// The prompt's embedding `[prompt_length, channels]`, padded with `<pad>`.
    pub fn encode(&self, prompt: &Words) -> Embedding {
        self.rows(&prompt.ids)
    }

    /// The embedding `[prompt_length, channels]` of no words.
    pub fn padding(&self) -> Embedding {
        self.rows(&[])
    }

    fn rows(&self, ids: &[usize]) -> Embedding {
        let ids = ids.iter().copied().chain(std::iter::repeat(0)).take(self.prompt_length);
        let values = ids.flat_map(|id| &self.table[id * self.channels..][..self.channels]).copied().collect();
        Embedding { values, tokens: self.prompt_length }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary() -> Vocabulary {
        crate::family::sprites::vocabulary()
    }

    #[test]
    fn any_order_gives_the_canonical_ids() {
        // Ids of config.json: red 1, circle 9, bouncing 18, fast 24, large 26, navy 29.
        let prompt = vocabulary().parse("  red circle,large navy fast\tBouncing ").unwrap();
        assert_eq!(prompt.ids(), [26, 1, 9, 18, 24, 29]);
        assert_eq!(prompt.to_string(), "large red circle bouncing fast navy");
        for prompt in [
            "Large, RED circle: bouncing fast; navy.",
            "\u{feff}large red circle bouncing fast navy",
            "«large» (red) circle—bouncing/fast … navy!",
        ] {
            let words = vocabulary().parse(prompt).unwrap();
            assert_eq!((words.ids(), words.rest()), (&[26, 1, 9, 18, 24, 29][..], None), "{prompt}");
        }
    }

    #[test]
    fn words_behind_the_six_are_told() {
        let words = vocabulary().parse("large red circle bouncing fast navy, over the sea").unwrap();
        assert_eq!(words.to_string(), "large red circle bouncing fast navy");
        let warning = words.rest().unwrap();
        assert!(warning.contains("six words") && warning.contains("`over the sea` is cut"), "{warning}");
        assert_eq!((words.cut(6), words.cut(8)), (None, None));
        assert!(words.cut(4).unwrap().contains("`fast navy` is cut"));
    }

    #[test]
    fn unknown_words_are_answered_with_the_vocabulary_and_a_guess() {
        let error = vocabulary().parse("large gren circle bouncing fast navy").unwrap_err();
        let text = error.to_string();
        assert!(text.contains("`gren`; did you mean `green`?"), "{text}");
        for word in &vocabulary().0[1..] {
            assert!(text.contains(word.as_str()), "{word} is missing in: {text}");
        }
        let far = vocabulary().parse("xylophone").unwrap_err();
        assert!(matches!(&far, TextError::UnknownWords { words, .. } if words[0].nearest.is_none()), "{far}");
        assert!(vocabulary().parse("large grey circle still fast navy").unwrap_err().to_string().contains("`gray`"));
        assert!(matches!(vocabulary().parse("<pad>"), Err(TextError::UnknownWords { .. })));
        // All of them at once, and what can be drawn.
        let moon = vocabulary().parse("a cat on the moon").unwrap_err().to_string();
        assert!(moon.contains("the words `a`, `cat`, `on`, `the`, `moon`\nit draws one moving shape"), "{moon}");
        assert!(moon.ends_with("for example: large red circle bouncing fast navy"), "{moon}");
        let rde = vocabulary().parse("large rde circle bouncing fast navy").unwrap_err().to_string();
        assert!(rde.contains("`rde`; did you mean `red`?"), "{rde}");
        let two = vocabulary().parse("lagre rde circle bouncing fast sea").unwrap_err().to_string();
        assert!(two.contains("`lagre`, `rde`, `sea`; did you mean `large` for `lagre`, `red` for `rde`?"), "{two}");
        vocabulary().parse(&vocabulary().example()).unwrap();
    }

    #[test]
    fn missing_and_doubled_kinds_are_named() {
        let error = vocabulary().parse("large circle bouncing navy").unwrap_err();
        assert!(matches!(&error, TextError::Missing { kinds, .. } if kinds == &["color", "speed"]), "{error}");
        let error = vocabulary().parse("large red blue circle bouncing fast navy").unwrap_err();
        assert!(error.to_string().starts_with("`red` and `blue` are both a color"), "{error}");
        assert!(matches!(vocabulary().parse(""), Err(TextError::Missing { kinds, .. }) if kinds.len() == 6));
    }

    #[test]
    fn broken_vocabularies_are_refused() {
        let words = vocabulary().0;
        let without = |word: &str| words.iter().filter(|w| *w != word).cloned().collect::<Vec<_>>();
        assert!(Vocabulary::new(vec![]).is_err());
        assert!(Vocabulary::new(words[1..].to_vec()).is_err());
        assert!(Vocabulary::new([words.clone(), vec!["red".into()]].concat()).is_err());
        assert!(Vocabulary::new([words.clone(), vec!["dog".into()]].concat()).is_err());
        assert!(Vocabulary::new(without("red")).is_ok());
        assert!(Vocabulary::new(without("small").into_iter().filter(|w| w != "large").collect()).is_err());
    }

    #[test]
    fn embeddings_are_padded_rows_of_the_table() {
        let values: Vec<u8> = (0..3 * 2).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![3, 2], &values).unwrap();
        let bytes = safetensors::serialize([("embedding.weight", view)], None).unwrap();
        let encoder = TextEncoder::load(Weights::from_bytes("t", &bytes).unwrap(), 3, 2, 4).unwrap();
        let prompt = Words { words: Default::default(), ids: vec![2, 1], rest: vec![] };
        assert_eq!(encoder.encode(&prompt).values, [4.0, 5.0, 2.0, 3.0, 0.0, 1.0, 0.0, 1.0]);
        assert_eq!(encoder.padding().values, [0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
        assert!(TextEncoder::load(Weights::from_bytes("t", &bytes).unwrap(), 4, 2, 4).is_err());
    }
}
