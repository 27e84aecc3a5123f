//! Where the files of a checkpoint lie: in one folder for each part, as `pull` makes them, or as a repository has them.

use std::path::Path;

use super::files::{files_in, read, weight_files};
use super::published::{Part, Published, PublishedFile, PublishedForm};

/// The configuration of a part.
pub(super) const CONFIG: &str = "config.json";
/// The tokenizer's file.
pub(super) const TOKENIZER: &str = "tokenizer.json";

/// An arrangement of a checkpoint's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// As `pull` links them: a folder for each part, the tokenizer beside the text encoder.
    Pulled,
    /// As the repositories have them that `pull` takes.
    Published,
    /// As the other repository has them.
    Other,
}

/// Whether a part has a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Config {
    Needed,
    /// The weights tell what it says, but it may be there.
    Spare,
    /// A file of that name is of another part.
    None,
}

/// The files of one part in one layout.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) part: Part,
    pub(super) repo: &'static str,
    /// The folder of weights and configuration; empty for the root.
    pub(super) folder: &'static str,
    pub(super) config: Config,
    /// The name of the weights, or what the name of their index begins with; `None`: any that the folder has.
    weights: Option<&'static str>,
    pub(super) tokenizer: PublishedFile,
}

impl Published {
    /// The layouts that one folder may have, the better first.
    fn layouts(&self) -> impl Iterator<Item = Layout> {
        let first = self.parts.first().map(|part| part.repo);
        let together = self.parts.iter().all(|part| Some(part.repo) == first);
        let all = [(Layout::Pulled, true), (Layout::Published, together), (Layout::Other, self.other.is_some())];
        all.into_iter().filter(|(_, possible)| *possible).map(|(layout, _)| layout)
    }

    /// The layouts of what was published.
    pub(super) fn origins(&self) -> impl Iterator<Item = Layout> {
        [(Layout::Published, true), (Layout::Other, self.other.is_some())]
            .into_iter()
            .filter(|(_, possible)| *possible)
            .map(|(layout, _)| layout)
    }

    /// The place of `part` in a layout that the checkpoint may have.
    ///
    /// # Panics
    /// If the checkpoint has no such part.
    pub(super) fn place(&self, layout: Layout, part: Part) -> Place {
        let published = self.part(part);
        let other = self.other.as_ref().and_then(|other| {
            let own = other.parts.iter().find(|own| own.part == part)?;
            Some((other.repo, own))
        });
        // What one repository does without, the other does not need.
        let config = if other.is_some_and(|(_, own)| !own.config) { Config::Spare } else { Config::Needed };
        let repo = published.repo;
        let beside = |folder| PublishedFile { repo, folder, name: TOKENIZER };
        match (layout, other) {
            (Layout::Other, Some((repo, own))) => {
                let config = if own.config { Config::Needed } else { Config::None };
                let tokenizer = PublishedFile { repo, folder: own.tokenizer, name: TOKENIZER };
                Place { part, repo, folder: own.folder, config, weights: Some(own.weights), tokenizer }
            }
            (Layout::Published, _) => {
                let (folder, tokenizer) = (published.folder, published.tokenizer);
                let tokenizer = tokenizer.unwrap_or_else(|| beside(folder));
                Place { part, repo, folder, config, weights: None, tokenizer }
            }
            _ => {
                let folder = part.name();
                Place { part, repo, folder, config, weights: None, tokenizer: beside(folder) }
            }
        }
    }

    /// The layout in which a folder has all parts, else that in which it has the most, whole or not.
    pub(super) fn layout_of(&self, folder: &Path) -> Layout {
        let parts = |layout| {
            let places = || self.parts.iter().map(|p| self.place(layout, p.part));
            let whole = places().all(|place| place.whole(folder));
            places().filter(|place| place.begun(folder)).count() + usize::from(whole)
        };
        most(self.layouts(), parts)
    }

    /// The layouts of a folder in the order in which to look at them, `first` first.
    pub(super) fn layouts_after(&self, first: Layout) -> impl Iterator<Item = Layout> {
        std::iter::once(first).chain(self.layouts().filter(move |layout| *layout != first))
    }

    /// The repository of a layout, for messages.
    pub(super) fn repository(&self, layout: Layout) -> &'static str {
        match (layout, &self.other) {
            (Layout::Pulled, _) => "one folder for each part",
            (Layout::Other, Some(other)) => other.repo,
            _ => self.parts.first().map_or(self.name, |part| part.repo),
        }
    }
}

/// The first of the layouts with the most parts.
pub(super) fn most(layouts: impl Iterator<Item = Layout>, parts: impl Fn(Layout) -> usize) -> Layout {
    let more = |best: (Layout, usize), next: (Layout, usize)| if next.1 > best.1 { next } else { best };
    let counted = layouts.map(|layout| (layout, parts(layout)));
    counted.reduce(more).map_or(Layout::Published, |(layout, _)| layout)
}

/// A file's name in a folder of a repository, or in its root.
pub(super) fn in_folder(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

impl Place {
    /// That of one of the part's forms.
    pub(super) fn of_form(self, form: &PublishedForm) -> Place {
        Place { folder: form.folder, ..self }
    }

    /// The weight files of the part, given the `names` of the files in its folder; without any, the name to expect.
    ///
    /// # Errors
    /// As [`weight_files`].
    pub(super) fn weights(
        &self,
        names: &[String],
        text: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Vec<String>, Vec<String>> {
        let Some(weights) = self.weights else { return weight_files(names, text) };
        let index = format!("{weights}.index.json");
        let own: Vec<String> = names.iter().filter(|name| **name == weights || **name == index).cloned().collect();
        if own.is_empty() { Ok(vec![weights.to_owned()]) } else { weight_files(&own, text) }
    }

    /// [`Place::weights`] of the part in the checkpoint's folder.
    pub(super) fn weights_in(&self, checkpoint: &Path) -> Result<Vec<String>, Vec<String>> {
        let folder = checkpoint.join(self.folder);
        self.weights(&files_in(&folder), &|name| read(&folder.join(name)))
    }

    /// Whether every file of the part is in the checkpoint's folder.
    fn whole(&self, checkpoint: &Path) -> bool {
        let folder = checkpoint.join(self.folder);
        let config = self.config != Config::Needed || folder.join(CONFIG).is_file();
        let weights = self.weights_in(checkpoint);
        let weights = weights.is_ok_and(|names| names.iter().all(|name| folder.join(name).is_file()));
        let tokenizer = checkpoint.join(self.tokenizer.folder).join(self.tokenizer.name);
        config && weights && (self.part != Part::Text || tokenizer.is_file())
    }

    /// Whether some file of the part is in the checkpoint's folder.
    fn begun(&self, checkpoint: &Path) -> bool {
        let folder = checkpoint.join(self.folder);
        let weights = self.weights_in(checkpoint).unwrap_or_else(|several| several);
        let config = (self.config == Config::Needed).then(|| CONFIG.to_owned());
        weights.iter().chain(&config).any(|name| folder.join(name).is_file())
    }
}
