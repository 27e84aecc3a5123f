//! The cache of the hub's own client, one repository of it: its files are used from there, and downloads are put where that client finds them.
//!
//! `models--OWNER--NAME/blobs/ETAG` holds contents, `snapshots/COMMIT/FILE` links to them, `refs/main` names the commit, and `.locks` is beside the
//! repositories. `blobs/ETAG.part` is a download that has not ended: its first bytes, whatever stopped it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};

use super::client::REVISION;
use super::error::{HubError, hub_io};

/// The place of one repository in a cache.
#[derive(Clone)]
pub(super) struct Store {
    cache: PathBuf,
    folder: String,
}

/// Holds a lock while it lives; `part` is nobody else's for that long.
pub(super) struct Turn {
    _lock: Option<File>,
    pub(super) part: PathBuf,
}

impl Store {
    pub(super) fn new(cache: &Path, repo: &str) -> Store {
        Store { cache: cache.to_owned(), folder: format!("models--{}", repo.replace('/', "--")) }
    }

    fn root(&self) -> PathBuf {
        self.cache.join(&self.folder)
    }

    /// The folder of the newest files.
    pub(super) fn snapshot(&self) -> Option<PathBuf> {
        let commit = fs::read_to_string(self.root().join("refs").join(REVISION)).ok()?;
        Some(self.root().join("snapshots").join(commit.trim()))
    }

    /// A file of `commit`, or else of the newest.
    pub(super) fn find(&self, commit: Option<&str>, name: &str) -> Option<PathBuf> {
        let folder = match commit {
            Some(commit) => self.root().join("snapshots").join(inside(commit)?),
            None => self.snapshot()?,
        };
        Some(folder.join(inside(name)?)).filter(|path| path.is_file())
    }

    /// The content that `etag` identifies.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.root().join("blobs").join(file_name(etag))
    }

    /// Waits until no other process downloads this content.
    pub(super) fn turn(&self, etag: &str, name: &str) -> Result<Turn, HubError> {
        let blob = self.blob(etag);
        let path = self.cache.join(".locks").join(&self.folder).join(format!("{}.lock", file_name(etag)));
        for folder in [blob.parent(), path.parent()].into_iter().flatten() {
            fs::create_dir_all(folder).map_err(hub_io("create", folder))?;
        }
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(hub_io("open", &path))?;
        let locked = match lock.try_lock() {
            Err(TryLockError::WouldBlock) => {
                tracing::warn!("another process fetches {name}: waiting for it");
                lock.lock()
            }
            Err(TryLockError::Error(error)) => Err(error),
            Ok(()) => Ok(()),
        };
        // Some network file systems have no locks: then nobody else writes the file of this process.
        let part = if locked.is_ok() { "part".to_owned() } else { format!("{}.part", std::process::id()) };
        Ok(Turn {
            _lock: locked.is_ok().then_some(lock),
            part: blob.with_file_name(format!("{}.{part}", file_name(etag))),
        })
    }

    /// Links `name` of `commit` to the content of `etag`, and makes that commit the newest.
    pub(super) fn place(&self, name: &str, commit: &str, etag: &str) -> Result<PathBuf, HubError> {
        let root = self.root();
        let bad = || HubError::Wrong(format!("`{name}` of commit `{commit}` is no file's name in a repository"));
        let below = Path::new("snapshots").join(inside(commit).ok_or_else(bad)?).join(inside(name).ok_or_else(bad)?);
        let (place, up) = (root.join(&below), below.components().count() - 1);
        let target: PathBuf = std::iter::repeat_n("..", up).collect::<PathBuf>().join("blobs").join(file_name(etag));
        if fs::read_link(&place).ok().as_deref() != Some(&*target) {
            stored(&place, |temporary| {
                #[cfg(unix)]
                return std::os::unix::fs::symlink(&target, temporary);
                // Links need a right there that few users have.
                #[cfg(not(unix))]
                return fs::hard_link(self.blob(etag), temporary)
                    .or_else(|_| fs::copy(self.blob(etag), temporary).map(drop));
            })?;
        }
        let newest = root.join("refs").join(REVISION);
        if fs::read_to_string(&newest).ok().as_deref() != Some(commit) {
            stored(&newest, |temporary| fs::write(temporary, commit))?;
        }
        Ok(place)
    }
}

/// As [`replaced`], in a folder that need not be there yet.
fn stored(place: &Path, write: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<(), HubError> {
    let folder = place.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(hub_io("create", folder))?;
    replaced(place, write).map_err(hub_io("write", place))
}

/// Writes `place` in one step: somebody else may read it at any time.
pub(super) fn replaced(place: &Path, write: impl FnOnce(&Path) -> std::io::Result<()>) -> std::io::Result<()> {
    let folder = place.parent().unwrap_or(Path::new("."));
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.{}.tmp", std::process::id()));
    // Of a process of the same number that was killed.
    let _ = fs::remove_file(&temporary);
    let written = write(&temporary).and_then(|()| fs::rename(&temporary, place));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// A name from outside as a path that stays inside.
pub(super) fn inside(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(name);
    let plain = !name.is_empty() && path.components().all(|part| matches!(part, Component::Normal(_)));
    (plain && !name.contains('\\')).then_some(path)
}

/// The file's name for an etag; a hash of those that are no names.
fn file_name(etag: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if !etag.is_empty() && etag.len() <= 128 && etag.bytes().all(plain) {
        return etag.to_owned();
    }
    Sha256::digest(etag).iter().map(|byte| format!("{byte:02x}")).collect()
}
