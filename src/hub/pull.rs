//! Fills a checkpoint's folder with links to files in the hub's cache, downloaded if necessary, or to existing files.

use std::cell::{Cell, OnceCell};
use std::fs;
use std::path::{Path, PathBuf};

use super::checkpoint::{Checkpoint, cache_dir, several};
use super::client::{Client, Listing};
use super::download::Download;
use super::error::{CheckpointError, Half, HubError, io};
use super::files::{files_in, is_weights, problem, read, weight_files};
use super::layout::{CONFIG, Config, Layout, Place, TOKENIZER, in_folder, most};
use super::published::{Part, Published, PublishedFile, PublishedForm};
use super::settings::{hub_cache, offline, process};
use super::store::{Store, replaced};

/// Fills a checkpoint's folder.
#[derive(Clone, Debug)]
pub struct Pull {
    /// The checkpoint.
    pub published: &'static Published,
    /// The folder of models; `None`: [`cache_dir`].
    pub cache: Option<PathBuf>,
    /// A folder that holds the published repositories: files are taken from it instead of the hub, and no server is asked.
    pub from: Option<PathBuf>,
    /// Use only files that were downloaded earlier, without network access. `HF_HUB_OFFLINE` asks for the same.
    pub offline: bool,
    /// The repository to take the parts from, of [`Published::repositories`]; `None`: of files that are here the one with the most parts, and
    /// the first if a server is asked.
    pub repo: Option<String>,
    /// The form of the autoencoder, of [`Published::forms`]; `None`: the first, unless one is there and no files are given.
    pub vae: Option<&'static PublishedForm>,
    /// The repository of the text encoder; `None`: the published one.
    pub text_repo: Option<String>,
    /// Its weight file, if it has several (quantised ones of different sizes).
    pub text_file: Option<String>,
    /// Show no progress.
    pub quiet: bool,
}

/// What all repositories of one pull share.
struct Hub<'a> {
    pull: &'a Pull,
    /// The caches that files may be in; downloads go to the first.
    caches: Vec<PathBuf>,
    /// The option or the variable that forbids to ask a server.
    offline: Option<&'static str>,
    client: OnceCell<Client<'static>>,
}

impl Pull {
    /// The whole checkpoint, into the default folder of models.
    pub fn new(published: &'static Published) -> Pull {
        let (cache, from, repo, text_repo, text_file) = (None, None, None, None, None);
        Pull { published, cache, from, offline: false, repo, vae: None, text_repo, text_file, quiet: false }
    }

    /// The cache that downloads go to: the one that a variable of the hub names; else `hub` in a folder of models that was chosen, as the disk
    /// was chosen with it; else the one that all programs of this user share.
    pub fn downloads(&self) -> PathBuf {
        let shared = hub_cache(&process);
        let chosen = self.cache.is_some() || process("ADACACHE_HOME").is_some();
        if chosen && !shared.named { self.models().join("hub") } else { shared.folder }
    }

    fn models(&self) -> PathBuf {
        self.cache.clone().unwrap_or_else(cache_dir)
    }

    fn hub(&self) -> Hub<'_> {
        let mut caches = vec![self.downloads(), self.models().join("hub"), hub_cache(&process).folder];
        // An earlier version downloaded there.
        caches.push(cache_dir().join("hub"));
        let offline = if self.offline { Some("--offline") } else { offline(&process) };
        Hub { pull: self, caches, offline, client: OnceCell::new() }
    }

    /// Finds or downloads every file, checks it, and links it into the checkpoint.
    ///
    /// # Errors
    /// The first file that is unavailable or damaged; files linked before it stay, and the next run continues from there.
    pub fn run(&self) -> Result<Checkpoint, CheckpointError> {
        let there = Checkpoint::in_cache(self.published, &self.models());
        let checkpoint = Checkpoint::to_pull(self.published, &self.models());
        let asked = self.from.is_some() || self.repo.is_some();
        let text = self.text_repo.is_some() || self.text_file.is_some();
        let vae = |there: &Checkpoint| self.vae.is_some() && there.form(Part::Vae) != self.vae;
        // A copy of a repository in this place is as good.
        if there != checkpoint && !asked && !text && !vae(&there) && there.is_whole() {
            return Ok(there);
        }
        let hub = self.hub();
        let layout = self.layout(&hub);
        // What is complete stays, unless something else is asked for.
        let other = |part| asked || part == Part::Text && text || part == Part::Vae && vae(&checkpoint);
        for part in checkpoint.parts().filter(|part| other(*part) || checkpoint.require(&[*part]).is_err()) {
            let folder = checkpoint.folder.join(part.name());
            let files = self.files(&hub, layout, part).map_err(|error| self.halves(&hub, layout, error))?;
            fs::create_dir_all(&folder).map_err(io("create", &folder))?;
            // Links of an earlier pull: weights come in different forms.
            for entry in fs::read_dir(&folder).map_err(io("read", &folder))?.flatten() {
                // Those that begin with a dot are another process's, which it is about to rename.
                let theirs = entry.file_name().as_encoded_bytes().starts_with(b".");
                let wanted = files.iter().any(|(name, _)| entry.file_name() == name.as_str());
                if entry.path().is_symlink() && !theirs && !wanted {
                    fs::remove_file(entry.path()).map_err(io("remove", &entry.path()))?;
                }
            }
            // The configuration last: it tells which form is there.
            for (name, path) in files.into_iter().rev() {
                link(&path, &folder, &name)?;
            }
        }
        if let Some(index) = &self.published.index {
            self.index(&hub, layout, &checkpoint, index)?;
        }
        let readable = |part: &Part| *part != Part::Text || checkpoint.tokenizer().exists();
        checkpoint.require(&checkpoint.parts().filter(readable).collect::<Vec<_>>())?;
        Ok(checkpoint)
    }

    /// The layout of the files to take.
    fn layout(&self, hub: &Hub<'_>) -> Layout {
        let asked = |layout: &Layout| self.repo.as_deref() == Some(self.published.repository(*layout));
        if let Some(layout) = self.published.origins().find(asked) {
            return layout;
        }
        if self.from.is_none() && hub.offline.is_none() {
            return Layout::Published;
        }
        let parts = |layout| self.published.parts.iter().filter(|p| self.has_weights(hub, layout, p.part)).count();
        most(self.published.origins(), parts)
    }

    /// The place of `part` in a layout, in the form asked for.
    fn place(&self, layout: Layout, part: Part) -> Place {
        let place = self.published.place(layout, part);
        self.form(layout, part).into_iter().fold(place, Place::of_form)
    }

    /// The form of `part` that is asked for.
    fn form(&self, layout: Layout, part: Part) -> Option<&'static PublishedForm> {
        self.vae.filter(|_| layout == Layout::Published && part == Part::Vae)
    }

    /// Whether weights of a part are here in a layout.
    fn has_weights(&self, hub: &Hub<'_>, layout: Layout, part: Part) -> bool {
        let place = self.place(layout, part);
        let names = hub.part(layout, &place).names().unwrap_or_default();
        let weights = place.weights(&names, &|_| None).unwrap_or_else(|several| several);
        weights.iter().any(|name| names.contains(name))
    }

    /// The same error about a file that is not in a folder, or what the folder holds of each of two layouts.
    fn halves(&self, hub: &Hub<'_>, layout: Layout, error: CheckpointError) -> CheckpointError {
        let (CheckpointError::NotInFolder { .. }, Some(from)) = (&error, &self.from) else { return error };
        let half = |layout| {
            let mut half = Half { layout: self.published.repository(layout).into(), there: vec![], missing: vec![] };
            for published in self.published.parts {
                let place = self.place(layout, published.part);
                let origin = hub.part(layout, &place);
                let names = origin.names().unwrap_or_default();
                let given = |name: &str| origin.given(from, name).ok();
                let weights = place.weights(&names, &|name| given(name).and_then(|path| read(&path)));
                let config = (place.config == Config::Needed).then(|| CONFIG.to_owned());
                for name in config.into_iter().chain(weights.unwrap_or_else(|several| several)) {
                    let list = if given(&name).is_some() { &mut half.there } else { &mut half.missing };
                    list.push(in_folder(place.folder, &name));
                }
            }
            half
        };
        let others = self.published.origins().filter(|other| *other != layout);
        let halves: Vec<Half> = std::iter::once(layout).chain(others).map(half).collect();
        if halves.len() < 2 || halves.iter().any(|half| half.there.is_empty()) {
            return error;
        }
        let (model, folder) = (self.published.name, from.clone());
        CheckpointError::Halves { model, folder, halves, command: format!("adacache pull {model}") }
    }

    /// Links the file of the whole. A folder that lacks it is as published, and so is another layout.
    fn index(
        &self,
        hub: &Hub<'_>,
        layout: Layout,
        checkpoint: &Checkpoint,
        index: &PublishedFile,
    ) -> Result<(), CheckpointError> {
        let found = (layout == Layout::Published).then(|| hub.repo(index.repo, index.folder).fetch(index.name));
        match found {
            Some(Ok(path)) => link(&path, checkpoint.folder(), index.name),
            None | Some(Err(CheckpointError::NotInFolder { .. } | CheckpointError::Offline { .. })) => {
                let earlier = checkpoint.folder().join(index.name);
                if earlier.is_symlink() { fs::remove_file(&earlier).map_err(io("remove", &earlier)) } else { Ok(()) }
            }
            Some(Err(error)) => Err(error),
        }
    }

    /// The files of `part`, by their names in a checkpoint.
    fn files(&self, hub: &Hub<'_>, layout: Layout, part: Part) -> Result<Vec<(String, PathBuf)>, CheckpointError> {
        let own = self.place(layout, part);
        let published = hub.part(layout, &own);
        // Only the published repository has the published folders.
        let other = self.text_repo.as_deref().filter(|repo| part == Part::Text && *repo != own.repo);
        let other = other.map(|repo| hub.repo(repo, ""));
        let origin = other.as_ref().unwrap_or(&published);
        let mut names = origin.names()?;
        let has = |name: &str| names.iter().any(|n| n == name);
        let mut files = vec![];
        // Repositories of quantised weights have no configuration of their own.
        let config = match own.config {
            _ if other.is_some() && has(CONFIG) => Some(origin.fetch(CONFIG)?),
            Config::Needed => Some(published.fetch(CONFIG)?),
            Config::Spare if other.is_none() && has(CONFIG) => Some(published.fetch(CONFIG)?),
            Config::Spare | Config::None => None,
        };
        if let (Some(path), Some(form)) = (&config, self.form(layout, part)) {
            self.check_form(path, part, form)?;
        }
        files.extend(config.map(|path| (CONFIG.to_owned(), path)));
        if part == Part::Text {
            let PublishedFile { repo, folder, name } = own.tokenizer;
            let tokenizer = if has(TOKENIZER) { origin.fetch(TOKENIZER) } else { hub.repo(repo, folder).fetch(name) };
            match tokenizer {
                Ok(path) => files.push((TOKENIZER.to_owned(), path)),
                Err(error @ CheckpointError::NotInFolder { .. }) => {
                    tracing::warn!("{error}\nwithout it no prompt can be read, only --embeddings");
                }
                Err(error) => return Err(error),
            }
            names = self.text_file.clone().map_or(names, |file| vec![file]);
        }
        let failed = Cell::new(None);
        let fetched = |name: &str| origin.fetch(name).map_err(|error| failed.set(Some(error))).ok();
        let text = |name: &str| fetched(name).and_then(|path| read(&path));
        // Another repository, or a file that is named, has names of its own.
        let weights = match other.is_some() || self.text_file.is_some() && part == Part::Text {
            true => weight_files(&names, &text),
            false => own.weights(&names, &text),
        };
        if let Some(error) = failed.take() {
            return Err(error);
        }
        let weights = weights.map_err(|files| several(origin.place(), part, files, &self.command(&origin.name)))?;
        for name in weights {
            let path = origin.fetch(&name)?;
            let short = name.rsplit('/').next().unwrap_or(&name).to_owned();
            files.push((short, path));
        }
        Ok(files)
    }

    /// Rejects the configuration of another form of `part`: a folder that was pulled may hold any.
    fn check_form(&self, config: &Path, part: Part, form: &'static PublishedForm) -> Result<(), CheckpointError> {
        match self.published.form_with(part, config).filter(|found| *found != form) {
            None => Ok(()),
            Some(found) => Err(CheckpointError::OtherForm {
                file: config.to_owned(),
                found: found.class,
                folder: form.folder,
                repo: self.published.part(part).repo,
                expected: form.class,
            }),
        }
    }

    /// The command that this pull was, as far as weights of the text encoder are concerned.
    fn command(&self, repo: &str) -> String {
        let mut command = format!("adacache pull {}", self.published.name);
        if let Some(from) = &self.from {
            command += &format!(" --from {}", from.display());
        }
        if self.text_repo.is_some() {
            command += &format!(" --text-repo {repo}");
        }
        command
    }
}

impl Hub<'_> {
    fn repo<'a>(&'a self, name: &str, folder: &'static str) -> Origin<'a> {
        let stores = self.caches.iter().map(|cache| Store::new(cache, name)).collect();
        Origin { hub: self, name: name.to_owned(), folder, pulled: None, stores, listing: OnceCell::new() }
    }

    /// The source of a part.
    fn part<'a>(&'a self, layout: Layout, place: &Place) -> Origin<'a> {
        let pulled = (layout == Layout::Published).then_some(place.part);
        Origin { pulled, ..self.repo(place.repo, place.folder) }
    }

    fn client(&self) -> Result<&Client<'static>, HubError> {
        if self.client.get().is_none() {
            let client = Client::new(&process)?;
            return Ok(self.client.get_or_init(|| client));
        }
        Ok(self.client.get().expect("it was just there"))
    }
}

/// The source of the files in one folder of a repository.
struct Origin<'a> {
    hub: &'a Hub<'a>,
    name: String,
    /// Empty for the repository's root.
    folder: &'static str,
    /// The part that it is, where a folder that was pulled may be in its place.
    pulled: Option<Part>,
    /// In every cache; downloads go to the first.
    stores: Vec<Store>,
    listing: OnceCell<Listing>,
}

impl Origin<'_> {
    /// The folders in which `--from DIR` may hold this repository.
    fn places(&self, from: &Path) -> Vec<PathBuf> {
        let short = self.name.rsplit('/').next().unwrap_or(&self.name);
        let part = self.pulled.map(|part| from.join(part.name()));
        let mut places = vec![self.inside(&from.join(&self.name)), self.inside(&from.join(short))];
        // Of the repository itself the folder comes before that of a pulled part, whose name another one may have.
        places.extend(Some(self.inside(from)).filter(|_| !self.folder.is_empty()));
        places.extend(part);
        // A cache of the hub's client, or the folder of one.
        let caches = [from.to_owned(), from.join("hub")];
        let snapshots = caches.iter().filter_map(|cache| Store::new(cache, &self.name).snapshot());
        places.extend(snapshots.map(|snapshot| self.inside(&snapshot)));
        places.extend(Some(from.to_owned()).filter(|_| self.folder.is_empty()));
        places.dedup();
        places
    }

    /// The folder in a copy of the repository.
    fn inside(&self, repository: &Path) -> PathBuf {
        if self.folder.is_empty() { repository.to_owned() } else { repository.join(self.folder) }
    }

    /// The name in the repository of a file in the folder.
    fn full(&self, name: &str) -> String {
        in_folder(self.folder, name)
    }

    /// The place of its files, for messages.
    fn place(&self) -> String {
        let from = self.hub.pull.from.as_deref();
        let found = from.and_then(|from| self.places(from).into_iter().find(|place| !files_in(place).is_empty()));
        found.map_or_else(|| self.name.clone(), |place| place.display().to_string())
    }

    /// The names of the repository's files, as far as they are known, sorted.
    fn names(&self) -> Result<Vec<String>, CheckpointError> {
        let mut names = if let Some(from) = &self.hub.pull.from {
            self.places(from).iter().map(|place| files_in(place)).find(|files| !files.is_empty()).unwrap_or_default()
        } else if self.hub.offline.is_some() {
            self.cached()
        } else {
            match self.listing() {
                Ok(listing) => {
                    let start = self.full("");
                    listing.names().iter().filter_map(|name| Some(name.strip_prefix(&start)?.to_owned())).collect()
                }
                // As the hub's own client does.
                Err(HubError::Gone { reason, .. }) if !self.cached().is_empty() => {
                    tracing::warn!("{reason}: using what is in the cache of {}", self.name);
                    self.cached()
                }
                Err(error) => return Err(self.failed("the list of files", error)),
            }
        };
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// The files that were downloaded before.
    fn cached(&self) -> Vec<String> {
        self.stores.iter().filter_map(Store::snapshot).flat_map(|root| files_in(&self.inside(&root))).collect()
    }

    fn listing(&self) -> Result<&Listing, HubError> {
        if self.listing.get().is_none() {
            let listing = self.hub.client()?.list(&self.name)?;
            return Ok(self.listing.get_or_init(|| listing));
        }
        Ok(self.listing.get().expect("it was just there"))
    }

    /// The path of the repository's file `name`, downloaded if necessary.
    fn fetch(&self, name: &str) -> Result<PathBuf, CheckpointError> {
        let Pull { from, published, quiet, .. } = self.hub.pull;
        if let Some(from) = from {
            return self.given(from, name);
        }
        // Files of two commits need not fit together.
        let commit = self.listing.get().and_then(|listing| listing.sha.as_deref());
        let full = self.full(name);
        let name = full.as_str();
        let earlier = self.stores.iter().filter_map(|store| store.find(commit, name));
        if let Some(path) = earlier.into_iter().find(|path| problem(path).is_none()) {
            return Ok(path);
        }
        if let Some(by) = self.hub.offline {
            return Err(CheckpointError::Offline {
                by,
                model: published.name,
                file: name.to_owned(),
                repo: self.name.clone(),
            });
        }
        let download =
            |client| Download { client, store: &self.stores[0], repo: &self.name, name, commit, quiet: *quiet }.run();
        self.hub.client().and_then(download).map_err(|e| self.failed(name, e))
    }

    /// The file in the folder `from`.
    fn given(&self, from: &Path, name: &str) -> Result<PathBuf, CheckpointError> {
        let places = self.places(from);
        let found = places.iter().map(|place| place.join(name)).find(|path| path.is_file());
        found.ok_or_else(|| CheckpointError::NotInFolder {
            from: from.to_owned(),
            file: name.to_owned(),
            repo: self.name.clone(),
            places: places.iter().map(|p| p.display().to_string()).collect(),
            others: self.names().unwrap_or_default().into_iter().filter(|name| is_weights(name)).collect(),
        })
    }

    fn failed(&self, file: &str, source: HubError) -> CheckpointError {
        let model = self.hub.pull.published.name;
        CheckpointError::Download { model, file: file.to_owned(), repo: self.name.clone(), source }
    }
}

/// Makes `folder/name` a link to the file at `path`; an earlier link is replaced in one step.
fn link(path: &Path, folder: &Path, name: &str) -> Result<(), CheckpointError> {
    let (target, place) = (path.canonicalize().map_err(io("find", path))?, folder.join(name));
    if place.canonicalize().is_ok_and(|there| there == target) {
        return Ok(());
    }
    replaced(&place, |temporary| {
        #[cfg(unix)]
        return std::os::unix::fs::symlink(&target, temporary);
        #[cfg(not(unix))]
        return fs::copy(&target, temporary).map(drop);
    })
    .map_err(io("link", &place))
}
