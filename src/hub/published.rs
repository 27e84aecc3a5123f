//! A family's description of its published checkpoint.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::files::read;

/// A published checkpoint.
#[derive(Debug, PartialEq, Eq)]
pub struct Published {
    /// The name by which the model is pulled and used.
    pub name: &'static str,
    /// Its parts.
    pub parts: &'static [PublishedPart],
    /// A file of the whole, such as one that tells how the parts go together or has the sampler's settings; where it is not, it is left out.
    pub index: Option<PublishedFile>,
    /// Another repository of the same weights, in a layout of its own.
    pub other: Option<OtherRepository>,
}

/// A repository that holds a whole checkpoint, not as the first one does.
#[derive(Debug, PartialEq, Eq)]
pub struct OtherRepository {
    /// Its name.
    pub repo: &'static str,
    /// The parts, all of them.
    pub parts: &'static [OtherPart],
}

/// The place of a part in another repository.
#[derive(Debug, PartialEq, Eq)]
pub struct OtherPart {
    /// The part.
    pub part: Part,
    /// Its folder; empty for the repository's root. Parts may share one.
    pub folder: &'static str,
    /// The name of its weights; in shards, of their index without `.index.json`.
    pub weights: &'static str,
    /// Whether the folder's `config.json` is this part's. A part without one tells its shape by its weights.
    pub config: bool,
    /// The folder of `tokenizer.json`, if it is the text encoder.
    pub tokenizer: &'static str,
}

/// The place where a part was published.
#[derive(Debug, PartialEq, Eq)]
pub struct PublishedPart {
    /// The part.
    pub part: Part,
    /// Its repository.
    pub repo: &'static str,
    /// Its folder there; empty for the repository's root.
    pub folder: &'static str,
    /// Where its tokenizer.json is, if not beside its weights.
    pub tokenizer: Option<PublishedFile>,
    /// The forms to choose from, of which `folder` holds the first; none if there is no choice.
    pub forms: &'static [PublishedForm],
}

impl PublishedPart {
    /// A part in this folder of a repository, with all that belongs to it.
    pub const fn new(part: Part, repo: &'static str, folder: &'static str) -> PublishedPart {
        PublishedPart { part, repo, folder, tokenizer: None, forms: &[] }
    }
}

/// One of several forms of a part, of which any serves.
#[derive(Debug, PartialEq, Eq)]
pub struct PublishedForm {
    /// Its folder in the part's repository.
    pub folder: &'static str,
    /// Its class, as its configuration has it.
    pub class: &'static str,
}

/// The place where a file was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedFile {
    /// Its repository.
    pub repo: &'static str,
    /// Its folder there; empty for the repository's root.
    pub folder: &'static str,
    /// Its name in that folder.
    pub name: &'static str,
}

impl Published {
    /// The repositories in which all parts are together, to choose from; none if there is no choice.
    pub fn repositories(&self) -> impl Iterator<Item = &'static str> {
        let both = self.other.as_ref().and_then(|other| Some([self.parts.first()?.repo, other.repo]));
        both.into_iter().flatten()
    }

    /// The forms of `part` to choose from; none if there is no choice.
    pub fn forms(&self, part: Part) -> &'static [PublishedForm] {
        self.parts.iter().find(|published| published.part == part).map_or(&[], |published| published.forms)
    }

    /// The form of `part` with this configuration, if it is one of several.
    pub(super) fn form_with(&self, part: Part, config: &Path) -> Option<&'static PublishedForm> {
        let forms = self.forms(part);
        let text = if forms.is_empty() { None } else { read(config) };
        let config: Value = serde_json::from_str(&text?).ok()?;
        forms.iter().find(|form| config["_class_name"] == form.class)
    }

    /// The place where `part` was published.
    ///
    /// # Panics
    /// If the checkpoint has no such part.
    pub(super) fn part(&self, part: Part) -> &'static PublishedPart {
        self.parts.iter().find(|published| published.part == part).expect("a checkpoint is asked for its own parts")
    }
}

/// A part of a checkpoint, with a folder of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Part {
    /// The diffusion transformer; of two experts the first.
    Transformer,
    /// The second expert.
    #[serde(rename = "transformer_2")]
    Transformer2,
    /// The video autoencoder.
    Vae,
    /// The text encoder and its tokenizer.
    Text,
}

impl Part {
    /// All parts.
    pub const ALL: [Part; 4] = [Part::Transformer, Part::Transformer2, Part::Vae, Part::Text];

    /// The name of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Part::Transformer => "transformer",
            Part::Transformer2 => "transformer_2",
            Part::Vae => "vae",
            Part::Text => "text",
        }
    }
}
