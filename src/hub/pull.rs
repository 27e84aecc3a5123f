//! Fills a checkpoint's folder with links to files that the hub's client downloaded, or to existing files.

use std::fs;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder};
use hf_hub::{Cache, Repo, RepoType};

use super::checkpoint::{Checkpoint, cache_dir};
use super::error::{CheckpointError, io};
use super::files::{checksum, files_in, problem, read, weight_files};
use super::published::{Part, Published};

/// The maximum number of retries of a download when the connection breaks.
const RETRIES: usize = 5;

/// Fills a checkpoint's folder.
#[derive(Clone, Debug)]
pub struct Pull {
    /// The checkpoint.
    pub published: &'static Published,
    /// The folder of models; `None`: [`cache_dir`].
    pub cache: Option<PathBuf>,
    /// A folder that holds the published repositories: files are taken from it instead of the hub.
    pub from: Option<PathBuf>,
    /// Use only files that were downloaded earlier, without network access.
    pub offline: bool,
    /// The repository of the text encoder; `None`: the published one.
    pub text_repo: Option<String>,
    /// Its weight file, if it has several (quantised ones of different sizes).
    pub text_file: Option<String>,
    /// Show no progress.
    pub quiet: bool,
}

impl Pull {
    /// The whole checkpoint, into the default folder of models.
    pub fn new(published: &'static Published) -> Pull {
        Pull { published, cache: None, from: None, offline: false, text_repo: None, text_file: None, quiet: false }
    }

    /// Finds or downloads every file, checks it, and links it into the checkpoint.
    ///
    /// # Errors
    /// The first file that is unavailable or damaged; files linked before it stay, and the next run continues from there.
    pub fn run(&self) -> Result<Checkpoint, CheckpointError> {
        let cache = self.cache.clone().unwrap_or_else(cache_dir);
        let checkpoint = Checkpoint::in_cache(self.published, &cache);
        // What is complete stays, unless something else is asked for.
        let other =
            |part| self.from.is_some() || part == Part::Text && (self.text_repo.is_some() || self.text_file.is_some());
        for part in checkpoint.parts().filter(|part| other(*part) || checkpoint.require(&[*part]).is_err()) {
            let folder = checkpoint.folder.join(part.name());
            fs::create_dir_all(&folder).map_err(io("create", &folder))?;
            let files = self.files(&cache, part)?;
            // Links of an earlier pull: the text encoder's weights come in different forms.
            for entry in fs::read_dir(&folder).map_err(io("read", &folder))?.flatten() {
                if entry.path().is_symlink() && !files.iter().any(|(name, _)| entry.file_name() == name.as_str()) {
                    fs::remove_file(entry.path()).map_err(io("remove", &entry.path()))?;
                }
            }
            for (name, path) in files {
                link(&path, &folder, &name)?;
            }
        }
        checkpoint.require(&checkpoint.parts().collect::<Vec<_>>())?;
        Ok(checkpoint)
    }

    /// The files of `part`, by their names in a checkpoint.
    fn files(&self, cache: &Path, part: Part) -> Result<Vec<(String, PathBuf)>, CheckpointError> {
        let own = self.published.part(part);
        let repo = self.text_repo.as_deref().filter(|_| part == Part::Text).unwrap_or(own.repo);
        let origin = self.origin(cache, repo);
        let mut names = origin.names()?;
        let has = |name: &str| names.iter().any(|n| n == name);
        // Repositories of quantised weights have no configuration of their own.
        let published = self.origin(cache, own.repo);
        let config = if has("config.json") { &origin } else { &published };
        let mut files = vec![("config.json".to_owned(), config.fetch("config.json")?)];
        if part == Part::Text {
            let tokenizer = match own.tokenizer.filter(|_| !has("tokenizer.json")) {
                Some((repo, file)) => self.origin(cache, repo).fetch(file)?,
                None => origin.fetch("tokenizer.json")?,
            };
            files.push(("tokenizer.json".to_owned(), tokenizer));
            names = self.text_file.clone().map_or(names, |file| vec![file]);
        }
        for name in weight_files(part, &names, &|name| origin.fetch(name).ok().and_then(|path| read(&path))) {
            let path = origin.fetch(&name)?;
            files.push((name, path));
        }
        Ok(files)
    }

    fn origin(&self, cache: &Path, repo: &str) -> Origin {
        let hub = Repo::new(repo.to_owned(), RepoType::Model);
        // Ours, then the one that other programs of this user share.
        let caches = vec![Cache::new(cache.join("hub")), Cache::from_env()];
        Origin {
            published: self.published,
            repo: hub,
            name: repo.to_owned(),
            caches,
            from: self.from.clone(),
            offline: self.offline,
            quiet: self.quiet,
        }
    }
}

/// The source of one repository's files.
struct Origin {
    published: &'static Published,
    repo: Repo,
    name: String,
    caches: Vec<Cache>,
    from: Option<PathBuf>,
    offline: bool,
    quiet: bool,
}

impl Origin {
    /// The folders in which `--from DIR` may hold this repository.
    fn places(&self, from: &Path) -> Vec<PathBuf> {
        let short = self.name.rsplit('/').next().unwrap_or(&self.name);
        let own = self.published.parts.iter().find(|part| part.repo == self.name);
        let part = own.map(|own| from.join(own.part.name()));
        let mut places = vec![from.join(&self.name), from.join(short)];
        places.extend(part);
        places.extend(snapshot(&Cache::new(from.to_owned()), &self.repo));
        places.push(from.to_owned());
        places
    }

    /// The names of the repository's files, as far as they are known.
    fn names(&self) -> Result<Vec<String>, CheckpointError> {
        if let Some(from) = &self.from {
            let places = self.places(from);
            return Ok(places.iter().map(|place| files_in(place)).find(|files| !files.is_empty()).unwrap_or_default());
        }
        let earlier = self.caches.iter().filter_map(|cache| snapshot(cache, &self.repo)).flat_map(|p| files_in(&p));
        let earlier: Vec<String> = earlier.collect();
        if self.offline {
            return Ok(earlier);
        }
        let info = self.api()?.repo(self.repo.clone()).info().map_err(|e| self.failed("the list of files", &e))?;
        Ok(info.siblings.into_iter().map(|file| file.rfilename).collect())
    }

    /// The path of the repository's file `name`, downloaded if necessary.
    fn fetch(&self, name: &str) -> Result<PathBuf, CheckpointError> {
        if let Some(from) = &self.from {
            let places = self.places(from);
            let found = places.iter().map(|place| place.join(name)).find(|path| path.is_file());
            return found.ok_or_else(|| CheckpointError::NotInFolder {
                from: from.clone(),
                file: name.to_owned(),
                repo: self.name.clone(),
                places: places.iter().map(|p| p.display().to_string()).collect(),
            });
        }
        let earlier = self.caches.iter().filter_map(|cache| cache.repo(self.repo.clone()).get(name));
        if let Some(path) = earlier.into_iter().find(|path| problem(path).is_none()) {
            return Ok(path);
        }
        if self.offline {
            return Err(CheckpointError::Offline {
                model: self.published.name,
                file: name.to_owned(),
                repo: self.name.clone(),
            });
        }
        let api = self.api()?;
        let repo = api.repo(self.repo.clone());
        let metadata = api.metadata(&repo.url(name)).map_err(|e| self.failed(name, &e))?;
        let path = repo.download(name).map_err(|e| self.failed(name, &e))?;
        let wrong = match checksum(&path, metadata.etag()) {
            Ok(true) if fs::metadata(&path).is_ok_and(|m| m.len() == metadata.size() as u64) => return Ok(path),
            Ok(_) => "the download differs from the hub's file (size or SHA-256); it was removed".to_owned(),
            Err(error) => error.to_string(),
        };
        let blob = path.canonicalize().unwrap_or_else(|_| path.clone());
        for path in [&path, &blob] {
            // Best effort: the error tells in any case.
            let _ = fs::remove_file(path);
        }
        Err(self.failed(name, &wrong))
    }

    fn api(&self) -> Result<Api, CheckpointError> {
        let builder = ApiBuilder::from_env().with_cache_dir(self.caches[0].path().clone());
        let builder = builder.with_token(self.caches[1].token()).with_retries(RETRIES).with_progress(!self.quiet);
        builder.build().map_err(|e| self.failed("anything", &e))
    }

    fn failed(&self, file: &str, reason: &dyn std::fmt::Display) -> CheckpointError {
        CheckpointError::Download {
            model: self.published.name,
            file: file.to_owned(),
            repo: self.name.clone(),
            reason: reason.to_string(),
        }
    }
}

/// The folder of a repository's newest files in the hub client's cache.
fn snapshot(cache: &Cache, repo: &Repo) -> Option<PathBuf> {
    let commit = read(&cache.path().join(repo.folder_name()).join("refs").join(repo.revision()))?;
    Some(cache.repo(repo.clone()).pointer_path(commit.trim()))
}

/// Makes `folder/name` a link to the file at `path`; an earlier link is replaced in one step.
fn link(path: &Path, folder: &Path, name: &str) -> Result<(), CheckpointError> {
    let (target, place) = (path.canonicalize().map_err(io("find", path))?, folder.join(name));
    if place.canonicalize().is_ok_and(|there| there == target) {
        return Ok(());
    }
    let temporary = folder.join(format!(".{name}.{}.tmp", std::process::id()));
    #[cfg(unix)]
    let made = std::os::unix::fs::symlink(&target, &temporary);
    #[cfg(not(unix))]
    let made = fs::copy(&target, &temporary).map(drop);
    made.and_then(|()| fs::rename(&temporary, &place)).map_err(io("link", &place))
}
