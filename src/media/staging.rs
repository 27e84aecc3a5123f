//! A file or folder under a temporary name beside its target, which either becomes the target in one rename or is removed.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::error::OutputError;

/// A file or folder being written. If dropped without a commit, it is removed.
pub(super) struct Staged {
    temporary: PathBuf,
    target: PathBuf,
    kind: Kind,
}

/// What the target is.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    File,
    Folder,
    /// A device or a pipe. It is written to, not replaced; its temporary file lies elsewhere.
    Stream,
}

/// Whether there is a device or a pipe at `path`, or it is one of the system's names for an open file: it is written to, not replaced.
pub fn is_stream(path: &Path) -> bool {
    let is_open = ["/dev/stdout", "/dev/stderr", "/dev/fd", "/proc"].iter().any(|open| path.starts_with(open));
    fs::metadata(path).is_ok_and(|there| !there.is_dir() && (is_open || !there.is_file()))
}

/// The path behind symbolic links, which need not exist: a link is not replaced by what is written to it.
fn followed(target: &Path) -> PathBuf {
    /// As many as Linux follows.
    const LINKS: usize = 40;
    let mut path = target.to_owned();
    for _ in 0..LINKS {
        let Ok(next) = fs::read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new("")).join(next);
    }
    path
}

/// Folders made for an output. Those that are still empty when it is dropped are removed.
#[derive(Debug)]
pub struct Folders(Vec<PathBuf>);

impl Folders {
    /// Makes the folders of `target` that are missing.
    pub(super) fn make(target: &Path) -> Result<Folders, OutputError> {
        let missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
        let mut folders = Folders(target.ancestors().skip(1).take_while(missing).map(Path::to_owned).collect());
        // The outermost first; what could not be made is not removed.
        for (made, folder) in folders.0.clone().iter().rev().enumerate() {
            if let Err(error) = fs::create_dir(folder) {
                folders.0.drain(..folders.0.len() - made);
                return Err(io(target)(error));
            }
        }
        Ok(folders)
    }
}

impl Drop for Folders {
    fn drop(&mut self) {
        for folder in &self.0 {
            // Somebody else's file in it keeps it, and nobody is told.
            let _ = fs::remove_dir(folder);
        }
    }
}

pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> OutputError + '_ {
    |source| match source.kind() {
        ErrorKind::FileTooLarge => OutputError::TooLarge(path.to_owned()),
        _ => OutputError::Io { path: path.to_owned(), source },
    }
}

impl Staged {
    /// Creates the temporary file for `target`.
    pub(super) fn file(target: &Path) -> Result<Staged, OutputError> {
        if target.is_dir() {
            return Err(OutputError::Occupied {
                path: target.to_owned(),
                problem: "it is a folder; end the path in / for PNG frames or name a file",
            });
        }
        let staged = match is_stream(target) {
            true => Staged::named(&std::env::temp_dir().join("stream"), target, Kind::Stream)?,
            false => {
                let target = followed(target);
                Staged::named(&target, &target, Kind::File)?
            }
        };
        File::create_new(&staged.temporary).map_err(io(target))?;
        Ok(staged)
    }

    /// Creates the temporary folder for `target`.
    pub(super) fn folder(target: &Path) -> Result<Staged, OutputError> {
        // `.` and `a/..` have no name to put a temporary folder beside.
        let target = if target.exists() { target.canonicalize().map_err(io(target))? } else { target.to_owned() };
        let staged = Staged::named(&target, &target, Kind::Folder)?;
        fs::create_dir(&staged.temporary).map_err(io(&target))?;
        Ok(staged)
    }

    /// With a temporary name beside `place`.
    fn named(place: &Path, target: &Path, kind: Kind) -> Result<Staged, OutputError> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let name = place.file_name().ok_or_else(|| OutputError::UnknownFormat(target.to_owned()))?;
        let parent = match place.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if !parent.exists() {
            return Err(OutputError::NoParent { path: target.to_owned(), parent: parent.to_owned() });
        }
        // Long target names are cut so that the temporary one stays within the file system's limit.
        let short: String = name.to_string_lossy().chars().take(40).collect();
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let temporary = parent.join(format!(".{short}.{}-{serial}.tmp", std::process::id()));
        Ok(Staged { temporary, target: target.to_owned(), kind })
    }

    /// The temporary path.
    pub(super) fn path(&self) -> &Path {
        &self.temporary
    }

    /// Writes `bytes` to the temporary file and moves it to the target.
    pub(super) fn commit_bytes(self, bytes: &[u8]) -> Result<(), OutputError> {
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&self.temporary)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(io(&self.target))?;
        self.commit()
    }

    /// Moves the temporary file or folder to the target.
    pub(super) fn commit(self) -> Result<(), OutputError> {
        // A folder that is there (its contents checked by the caller) cannot be renamed over: move it aside first.
        if self.kind == Kind::Stream {
            let copy = || -> std::io::Result<u64> {
                let mut stream = File::options().write(true).open(&self.target)?;
                std::io::copy(&mut File::open(&self.temporary)?, &mut stream)
            };
            return copy().map(drop).map_err(io(&self.target));
        }
        if self.kind == Kind::Folder && self.target.is_dir() {
            let aside = self.temporary.with_extension("old");
            fs::rename(&self.target, &aside).map_err(io(&self.target))?;
            if let Err(error) = fs::rename(&self.temporary, &self.target) {
                // Best effort: the caller hears of the first error either way.
                let _ = fs::rename(&aside, &self.target);
                return Err(io(&self.target)(error));
            }
            let _ = fs::remove_dir_all(&aside);
            return Ok(());
        }
        fs::rename(&self.temporary, &self.target).map_err(io(&self.target))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a commit there is nothing under this name; a failure to clean up has nobody to tell.
        let _ = if self.kind == Kind::Folder {
            fs::remove_dir_all(&self.temporary)
        } else {
            fs::remove_file(&self.temporary)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_leaves_nothing_and_committing_leaves_the_target() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.bin");
        fs::write(&target, b"old").unwrap();
        drop(Staged::file(&target).unwrap());
        assert_eq!(fs::read(&target).unwrap(), b"old");
        Staged::file(&target).unwrap().commit_bytes(b"new").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn links_and_pipes_are_written_to_and_stay() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("real"), b"old").unwrap();
        std::os::unix::fs::symlink("real", at("link")).unwrap();
        std::os::unix::fs::symlink("link", at("chain")).unwrap();
        std::os::unix::fs::symlink("missing", at("dangling")).unwrap();
        Staged::file(&at("chain")).unwrap().commit_bytes(b"new").unwrap();
        Staged::file(&at("dangling")).unwrap().commit_bytes(b"made").unwrap();
        assert_eq!((fs::read(at("real")).unwrap(), fs::read(at("missing")).unwrap()), (b"new".into(), b"made".into()));
        assert!(["link", "chain", "dangling"].iter().all(|name| at(name).is_symlink()));
        let made = std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap();
        assert!(made.success());
        drop(Staged::file(&at("pipe")).unwrap());
        let reader = std::thread::spawn({
            let pipe = at("pipe");
            move || fs::read(pipe).unwrap()
        });
        Staged::file(&at("pipe")).unwrap().commit_bytes(b"through").unwrap();
        assert_eq!(reader.join().unwrap(), b"through");
        assert!(!fs::metadata(at("pipe")).unwrap().is_file());
        Staged::file(Path::new("/dev/null")).unwrap().commit_bytes(b"gone").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
        let full = Staged::file(Path::new("/dev/full")).unwrap().commit_bytes(b"too much");
        assert!(full.unwrap_err().to_string().contains("/dev/full"));
    }

    #[test]
    fn folders_made_for_nothing_go_again() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a/b/c.mp4");
        drop(Folders::make(&target).unwrap());
        assert!(!dir.path().join("a").exists());
        let folders = Folders::make(&target).unwrap();
        fs::write(dir.path().join("a/mine"), "x").unwrap();
        drop(folders);
        assert!(dir.path().join("a/mine").exists() && !dir.path().join("a/b").exists());
        let folders = Folders::make(&target).unwrap();
        fs::write(&target, "x").unwrap();
        drop(folders);
        assert!(target.exists());
        // A file where a folder has to be: nothing else is made.
        assert!(Folders::make(&dir.path().join("a/mine/d/e.mp4")).is_err());
        drop(Folders::make(Path::new("e.mp4")).unwrap());
    }

    #[test]
    fn missing_folders_and_wrong_kinds_are_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Staged::file(&dir.path().join("no/a.mp4")), Err(OutputError::NoParent { .. })));
        assert!(matches!(Staged::file(dir.path()), Err(OutputError::Occupied { .. })));
        let file = dir.path().join("f");
        fs::write(&file, b"x").unwrap();
        assert!(matches!(Staged::file(&file.join("a.mp4")), Err(OutputError::Io { .. })));
    }
}
