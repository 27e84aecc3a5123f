//! Open-Sora 1.2's published checkpoint: the files it is made of, where they lie on disk, and how they get there.
//!
//! A checkpoint is a folder with three others, `transformer`, `vae` and `text`. [`Pull`] fills it with links to files that the hub's
//! client downloaded, or to files that are there already, so nothing lies on disk twice.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file;
use hf_hub::api::sync::{Api, ApiBuilder};
use hf_hub::{Cache, Repo, RepoType};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model::Weights;

/// The name under which the model is pulled and generated with.
pub const OPENSORA: &str = "opensora-v1.2";
/// Where the tokenizer of T5 v1.1 lies as a tokenizer.json; its own repository has only the format of another library.
const TOKENIZER: (&str, &str) = ("lmz/mt5-tokenizers", "t5-v1_1-xxl.tokenizer.json");
/// Downloads that are tried again when the connection breaks.
const RETRIES: usize = 5;

/// Why a checkpoint is not complete.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Files are not there.
    #[error("{OPENSORA} is not complete in {}; missing: {}\nfetch it: {command}\nor take files you have: {command} --from DIR", folder.display(), files.join(", "))]
    Missing {
        /// The checkpoint's folder.
        folder: PathBuf,
        /// The missing files, relative to it.
        files: Vec<String>,
        /// The command that fetches them.
        command: String,
    },
    /// A file is there and cannot be right.
    #[error("{}: {reason}\nfetch it again: {command}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// The command that fetches it.
        command: String,
    },
    /// `--from` names a folder without a file that is needed.
    #[error("{} has no {file} of {repo}; looked in {}", from.display(), places.join(", "))]
    NotInFolder {
        /// The folder given.
        from: PathBuf,
        /// The file.
        file: String,
        /// The repository it was published in.
        repo: String,
        /// Where it was looked for.
        places: Vec<String>,
    },
    /// Offline, and never downloaded.
    #[error(
        "{file} of {repo} was never downloaded and --offline forbids to; run `adacache pull {OPENSORA}` with a network, or `adacache pull {OPENSORA} --from DIR`"
    )]
    Offline {
        /// The file.
        file: String,
        /// Its repository.
        repo: String,
    },
    /// The hub did not give a file.
    #[error(
        "cannot download {file} of {repo}: {reason}\nthe same command resumes where it stopped; without a network: adacache pull {OPENSORA} --from DIR"
    )]
    Download {
        /// The file.
        file: String,
        /// Its repository.
        repo: String,
        /// What the client says.
        reason: String,
    },
    /// The file system said no.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// A third of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// STDiT3.
    Transformer,
    /// The video autoencoder.
    Vae,
    /// The T5 v1.1 encoder and its tokenizer.
    Text,
}

impl Part {
    /// All three.
    pub const ALL: [Part; 3] = [Part::Transformer, Part::Vae, Part::Text];

    /// The name of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Part::Transformer => "transformer",
            Part::Vae => "vae",
            Part::Text => "text",
        }
    }

    /// Where it was published.
    pub fn repo(self) -> &'static str {
        match self {
            Part::Transformer => "hpcai-tech/OpenSora-STDiT-v3",
            Part::Vae => "hpcai-tech/OpenSora-VAE-v1.2",
            Part::Text => "DeepFloyd/t5-v1_1-xxl",
        }
    }
}

/// The text encoder's weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextWeights {
    /// One file or shards.
    Safetensors(Vec<PathBuf>),
    /// As `torch.save` writes them, one file or shards.
    Pickle(Vec<PathBuf>),
    /// Quantised.
    Gguf(PathBuf),
}

impl TextWeights {
    /// The files.
    pub fn files(&self) -> &[PathBuf] {
        match self {
            TextWeights::Safetensors(files) | TextWeights::Pickle(files) => files,
            TextWeights::Gguf(file) => std::slice::from_ref(file),
        }
    }
}

/// What is known about one file of a checkpoint without reading all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileStatus {
    /// What it belongs to.
    pub part: Part,
    /// Its name in the part's folder.
    pub file: String,
    /// Its size; `None`: it is missing.
    pub bytes: Option<u64>,
    /// What is wrong with it, if it is there.
    pub problem: Option<String>,
}

impl FileStatus {
    /// Whether it is there and whole.
    pub fn is_ok(&self) -> bool {
        self.bytes.is_some() && self.problem.is_none()
    }
}

/// A checkpoint's folder; its files may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    folder: PathBuf,
}

/// The folder that models are pulled into: `$ADACACHE_HOME`, or `adacache` in the user's cache folder.
pub fn cache_dir() -> PathBuf {
    let named = std::env::var_os("ADACACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    named.or_else(|| Some(dirs::cache_dir()?.join("adacache"))).unwrap_or_else(|| PathBuf::from(".adacache"))
}

impl Checkpoint {
    /// The one at `folder`.
    pub fn at(folder: impl Into<PathBuf>) -> Checkpoint {
        Checkpoint { folder: folder.into() }
    }

    /// The one that was pulled into the folder of models `cache` (see [`cache_dir`]).
    pub fn in_cache(cache: &Path) -> Checkpoint {
        Checkpoint::at(cache.join(OPENSORA))
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether a folder looks like one.
    pub fn is_one(folder: &Path) -> bool {
        folder.join(Part::Transformer.name()).is_dir()
    }

    /// The path of a part's file.
    pub fn file(&self, part: Part, name: &str) -> PathBuf {
        self.folder.join(part.name()).join(name)
    }

    /// The command that fetches what is missing here.
    fn command(&self) -> String {
        let plain = format!("adacache pull {OPENSORA}");
        match self.folder.parent() {
            Some(cache) if self.folder.file_name().is_some_and(|name| name == OPENSORA) && cache != cache_dir() => {
                format!("{plain} --dir {}", cache.display())
            }
            _ => plain,
        }
    }

    /// Every file of `part`: whether it is there, and whether it is whole as far as its header tells.
    pub fn status(&self, part: Part) -> Vec<FileStatus> {
        let folder = self.folder.join(part.name());
        let names = files_in(&folder);
        let mut files = vec!["config.json".to_owned()];
        if part == Part::Text {
            files.push("tokenizer.json".to_owned());
        }
        files.extend(weight_files(part, &names, &|name| read(&folder.join(name))));
        let status = |file: String| {
            let path = folder.join(&file);
            let bytes = fs::metadata(&path).ok().map(|m| m.len());
            let problem = bytes.and_then(|_| problem(&path));
            FileStatus { part, file, bytes, problem }
        };
        files.into_iter().map(status).collect()
    }

    /// Whether the files of `parts` are there and whole as far as their headers tell.
    ///
    /// # Errors
    /// [`CheckpointError::Missing`] with everything that is missing, or [`CheckpointError::Damaged`].
    pub fn require(&self, parts: &[Part]) -> Result<(), CheckpointError> {
        let status: Vec<FileStatus> = parts.iter().flat_map(|part| self.status(*part)).collect();
        let missing = status.iter().filter(|s| s.bytes.is_none());
        let files: Vec<String> = missing.map(|s| format!("{}/{}", s.part.name(), s.file)).collect();
        if !files.is_empty() {
            return Err(CheckpointError::Missing { folder: self.folder.clone(), files, command: self.command() });
        }
        match status.into_iter().find_map(|s| Some((self.file(s.part, &s.file), s.problem?))) {
            Some((file, reason)) => Err(CheckpointError::Damaged { file, reason, command: self.command() }),
            None => Ok(()),
        }
    }

    /// The files of the text encoder's weights, which [`Checkpoint::require`] has found.
    pub fn text_weights(&self) -> Result<TextWeights, CheckpointError> {
        self.require(&[Part::Text])?;
        let files = self.status(Part::Text).into_iter().map(|s| self.file(Part::Text, &s.file));
        let files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|e| e != "json")).collect();
        let first = files[0].extension().unwrap_or_default().to_owned();
        Ok(match first.to_str() {
            Some("gguf") => TextWeights::Gguf(files[0].clone()),
            Some("safetensors") => TextWeights::Safetensors(files),
            _ => TextWeights::Pickle(files),
        })
    }
}

/// Fills a checkpoint's folder.
#[derive(Clone, Debug, Default)]
pub struct Pull {
    /// Where models lie; `None`: [`cache_dir`].
    pub cache: Option<PathBuf>,
    /// A folder that holds the published repositories: take files from there, not from the hub.
    pub from: Option<PathBuf>,
    /// Take what was downloaded earlier; ask nobody.
    pub offline: bool,
    /// The repository of the text encoder; `None`: the published one.
    pub text_repo: Option<String>,
    /// Its file of weights, where it has several (quantised ones of different sizes).
    pub text_file: Option<String>,
    /// Show no progress.
    pub quiet: bool,
}

impl Pull {
    /// Finds or downloads every file, checks it, and links it into the checkpoint.
    ///
    /// # Errors
    /// The first file that cannot be had or is damaged; what was linked before it stays, and the next run goes on from there.
    pub fn run(&self) -> Result<Checkpoint, CheckpointError> {
        let cache = self.cache.clone().unwrap_or_else(cache_dir);
        let checkpoint = Checkpoint::in_cache(&cache);
        // What is complete stays, unless something else is asked for.
        let other =
            |part| self.from.is_some() || part == Part::Text && (self.text_repo.is_some() || self.text_file.is_some());
        for part in Part::ALL.into_iter().filter(|part| other(*part) || checkpoint.require(&[*part]).is_err()) {
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
        checkpoint.require(&Part::ALL)?;
        Ok(checkpoint)
    }

    /// The files of `part` by the names they have in a checkpoint.
    fn files(&self, cache: &Path, part: Part) -> Result<Vec<(String, PathBuf)>, CheckpointError> {
        let repo = self.text_repo.as_deref().filter(|_| part == Part::Text).unwrap_or(part.repo());
        let origin = self.origin(cache, repo);
        let mut names = origin.names()?;
        let has = |name: &str| names.iter().any(|n| n == name);
        // Repositories of quantised weights have no configuration of their own.
        let published = self.origin(cache, part.repo());
        let config = if has("config.json") { &origin } else { &published };
        let mut files = vec![("config.json".to_owned(), config.fetch("config.json")?)];
        if part == Part::Text {
            let tokenizer = match has("tokenizer.json") {
                true => origin.fetch("tokenizer.json")?,
                false => self.origin(cache, TOKENIZER.0).fetch(TOKENIZER.1)?,
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
            repo: hub,
            name: repo.to_owned(),
            caches,
            from: self.from.clone(),
            offline: self.offline,
            quiet: self.quiet,
        }
    }
}

/// Where the files of one repository come from.
struct Origin {
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
        let part = Part::ALL.into_iter().find(|part| part.repo() == self.name).map(|part| from.join(part.name()));
        let mut places = vec![from.join(&self.name), from.join(short)];
        places.extend(part);
        places.extend(snapshot(&Cache::new(from.to_owned()), &self.repo));
        places.push(from.to_owned());
        places
    }

    /// The names of the repository's files, as far as they can be told.
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

    /// The path of the repository's file `name`, downloaded if need be.
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
            return Err(CheckpointError::Offline { file: name.to_owned(), repo: self.name.clone() });
        }
        let api = self.api()?;
        let repo = api.repo(self.repo.clone());
        let metadata = api.metadata(&repo.url(name)).map_err(|e| self.failed(name, &e))?;
        let path = repo.download(name).map_err(|e| self.failed(name, &e))?;
        let wrong = match checksum(&path, metadata.etag()) {
            Ok(true) if fs::metadata(&path).is_ok_and(|m| m.len() == metadata.size() as u64) => return Ok(path),
            Ok(_) => "what arrived is not what the hub has (size or SHA-256 differ); it was removed".to_owned(),
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
        CheckpointError::Download { file: file.to_owned(), repo: self.name.clone(), reason: reason.to_string() }
    }
}

/// The folder of a repository's newest files in the hub client's cache.
fn snapshot(cache: &Cache, repo: &Repo) -> Option<PathBuf> {
    let commit = read(&cache.path().join(repo.folder_name()).join("refs").join(repo.revision()))?;
    Some(cache.repo(repo.clone()).pointer_path(commit.trim()))
}

/// The names of the files in a folder; none where there is no folder.
fn files_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return vec![] };
    let files = entries.flatten().filter(|entry| entry.path().is_file());
    files.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Whether a file has the content its etag names. Large files have their SHA-256 there; others a hash of another kind, which
/// tells nothing here.
fn checksum(path: &Path, etag: &str) -> std::io::Result<bool> {
    if etag.len() != 64 || !etag.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(true);
    }
    let (mut file, mut hash) = (File::open(path)?, Sha256::new());
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => hash.update(&buffer[..count]),
        }
    }
    let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(hash.eq_ignore_ascii_case(etag))
}

/// The files that hold the weights of `part`, of those in `names`; `text` reads an index. With none the usual name is asked for.
fn weight_files(part: Part, names: &[String], text: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    const SAFETENSORS: &str = "model.safetensors";
    let has = |name: &str| names.iter().any(|n| n == name);
    if part != Part::Text || has(SAFETENSORS) {
        return vec![SAFETENSORS.to_owned()];
    }
    if let Some(index) =
        ["model.safetensors.index.json", "pytorch_model.bin.index.json"].into_iter().find(|name| has(name))
    {
        #[derive(Deserialize)]
        struct Index {
            weight_map: std::collections::BTreeMap<String, String>,
        }
        let parsed = text(index).and_then(|text| serde_json::from_str::<Index>(&text).ok());
        let mut shards: Vec<String> = parsed.map_or(vec![], |index| index.weight_map.into_values().collect());
        shards.sort();
        shards.dedup();
        // A shard's name is a file's name, not a way out of the folder.
        shards.retain(|shard| !shard.contains(['/', '\\']));
        if shards.is_empty() {
            shards.push(SAFETENSORS.to_owned());
        }
        return std::iter::once(index.to_owned()).chain(shards).collect();
    }
    if has("pytorch_model.bin") {
        return vec!["pytorch_model.bin".to_owned()];
    }
    let weights = names.iter().find(|name| name.ends_with(".gguf") || name.ends_with(".safetensors"));
    vec![weights.map_or(SAFETENSORS, String::as_str).to_owned()]
}

/// What is wrong with a file, as far as can be told without reading all of it.
fn problem(path: &Path) -> Option<String> {
    let result = match path.extension().and_then(|e| e.to_str()) {
        Some("safetensors") => Weights::open(path).map(drop).map_err(|e| e.to_string()),
        Some("json") => File::open(path)
            .map_err(|e| e.to_string())
            .and_then(|file| serde_json::from_reader(std::io::BufReader::new(file)).map_err(|e| e.to_string()))
            .map(|_: serde::de::IgnoredAny| ()),
        Some("bin") => match candle_core::pickle::read_pth_tensor_info(path, false, None) {
            Ok(_) => Ok(()),
            Err(e) => Err(format!("not a complete file of torch.save: {e}")),
        },
        Some("gguf") => gguf(path),
        _ => Ok(()),
    };
    result.err()
}

/// Whether a GGUF file has the bytes that its header speaks of.
fn gguf(path: &Path) -> Result<(), String> {
    let mut file = File::open(path).map_err(|e| e.to_string())?;
    let content = gguf_file::Content::read(&mut file).map_err(|e| format!("not a GGUF file: {e}"))?;
    let ends = content.tensor_infos.values().map(|info| {
        let blocks = info.shape.elem_count() / info.ggml_dtype.block_size();
        content.tensor_data_offset + info.offset + (blocks * info.ggml_dtype.type_size()) as u64
    });
    let (needed, there) = (ends.max().unwrap_or(0), file.metadata().map_err(|e| e.to_string())?.len());
    if there < needed { Err(format!("the file ends after {there} of {needed} bytes")) } else { Ok(()) }
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// Makes `folder/name` stand for the file at `path`; an earlier link is replaced in one step.
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

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CheckpointError {
    let path = path.to_owned();
    move |source| CheckpointError::Io { action, path, source }
}
