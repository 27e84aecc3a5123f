//! SHA-256 of files, which identifies the weights that a video was made with.
//!
//! Checkpoints have gigabytes, so the hashes of large files are kept in `hashes.json` in the folder of models ([`cache_dir`]). A kept hash
//! holds for a file of the same path, device, inode, size, modification time and change time.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::checkpoint::cache_dir;
use crate::media::write_file;
use crate::model::{ModelError, Progress};

/// Smaller files are hashed whenever they are asked for.
const LEAST: u64 = 16 << 20;
/// A file that changed this recently may change again without its times telling.
const SETTLED: Duration = Duration::from_secs(2);
/// How often progress is told.
const TELLING: Duration = Duration::from_millis(50);

/// SHA-256 of files in hexadecimal, in their order. `progress` is called with the bytes that are hashed and their total, if that takes a
/// while, and may stop it.
///
/// # Errors
/// A file that cannot be read; [`ModelError::Stopped`].
pub fn sha256(files: &[PathBuf], progress: Progress<'_>) -> Result<Vec<String>, ModelError> {
    Hashes { file: cache_dir().join("hashes.json"), least: LEAST }.of(files, progress)
}

/// Hexadecimal digits of a finished hash.
pub(crate) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The kept hash of a file.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// What the file was then.
    stamp: String,
    sha256: String,
}

struct Hashes {
    /// Where they are kept.
    file: PathBuf,
    /// The size from which on they are.
    least: u64,
}

/// A file to hash.
struct Task {
    /// Its place in the result.
    index: usize,
    /// Its real path.
    path: PathBuf,
    /// Its stamp; `None`: its hash is not kept.
    stamp: Option<String>,
    bytes: usize,
}

impl Hashes {
    fn of(&self, files: &[PathBuf], progress: Progress<'_>) -> Result<Vec<String>, ModelError> {
        let mut kept: BTreeMap<String, Kept> =
            fs::read(&self.file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let (mut hashes, mut tasks) = (vec![String::new(); files.len()], vec![]);
        for (index, file) in files.iter().enumerate() {
            let failed = |source| ModelError::Io { file: file.display().to_string(), source };
            let path = file.canonicalize().map_err(failed)?;
            let metadata = fs::metadata(&path).map_err(failed)?;
            let stamp = (metadata.len() >= self.least).then(|| stamp(&metadata));
            match kept.get(&*path.to_string_lossy()) {
                Some(known) if stamp.as_ref() == Some(&known.stamp) => hashes[index].clone_from(&known.sha256),
                _ => tasks.push(Task { index, path, stamp, bytes: metadata.len() as usize }),
            }
        }
        let made = hash_all(&tasks, progress)?;
        let mut news = false;
        for (task, hash) in tasks.into_iter().zip(made) {
            hashes[task.index].clone_from(&hash);
            // Unless it changed meanwhile, or may be changing.
            let now = fs::metadata(&task.path).ok().filter(is_settled).map(|metadata| stamp(&metadata));
            if let Some(stamp) = task.stamp.filter(|stamp| now.as_ref() == Some(stamp)) {
                kept.insert(task.path.to_string_lossy().into_owned(), Kept { stamp, sha256: hash });
                news = true;
            }
        }
        if news && let Err(error) = self.keep(&kept) {
            tracing::warn!("the weights' hashes are not kept, and are made again next time: {error}");
        }
        Ok(hashes)
    }

    fn keep(&self, kept: &BTreeMap<String, Kept>) -> Result<(), Box<dyn std::error::Error>> {
        fs::create_dir_all(self.file.parent().unwrap_or(Path::new(".")))?;
        Ok(write_file(&self.file, &serde_json::to_vec_pretty(kept)?)?)
    }
}

/// Hashes files, several at once if there is much to read.
fn hash_all(tasks: &[Task], progress: Progress<'_>) -> Result<Vec<String>, ModelError> {
    let total: usize = tasks.iter().map(|task| task.bytes).sum();
    let (done, next, stop) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let one = |task: &Task| {
        let failed = |source| ModelError::Io { file: task.path.display().to_string(), source };
        hash(&task.path, &done, &stop).map_err(failed)?.ok_or(ModelError::Stopped)
    };
    if total < LEAST as usize {
        return tasks.iter().map(one).collect();
    }
    let work = || {
        let mut made = vec![];
        while let Some((index, task)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| Some((i, tasks.get(i)?)))
        {
            made.push((index, one(task)));
        }
        made
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(tasks.len());
    let mut made = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        while !workers.iter().all(thread::ScopedJoinHandle::is_finished) {
            thread::sleep(TELLING);
            if progress(done.load(Ordering::Relaxed), total).is_break() {
                stop.store(true, Ordering::Relaxed);
            }
        }
        workers.into_iter().flat_map(|worker| worker.join().expect("hashing does not panic")).collect::<Vec<_>>()
    });
    made.sort_by_key(|(index, _)| *index);
    made.into_iter().map(|(_, hash)| hash).collect()
}

/// SHA-256 of a file; `None` if it was stopped.
fn hash(path: &Path, done: &AtomicUsize, stop: &AtomicBool) -> io::Result<Option<String>> {
    let (mut file, mut hash, mut buffer) = (File::open(path)?, Sha256::new(), vec![0; 1 << 20]);
    while !stop.load(Ordering::Relaxed) {
        match file.read(&mut buffer)? {
            0 => return Ok(Some(hex(hash))),
            count => {
                hash.update(&buffer[..count]);
                done.fetch_add(count, Ordering::Relaxed);
            }
        }
    }
    Ok(None)
}

/// What identifies a file's content without reading it.
#[cfg(unix)]
fn stamp(file: &Metadata) -> String {
    use std::os::unix::fs::MetadataExt;
    let (device, inode, bytes) = (file.dev(), file.ino(), file.len());
    let (modified, changed) = ((file.mtime(), file.mtime_nsec()), (file.ctime(), file.ctime_nsec()));
    format!("{device} {inode} {bytes} {}.{:09} {}.{:09}", modified.0, modified.1, changed.0, changed.1)
}

#[cfg(not(unix))]
fn stamp(file: &Metadata) -> String {
    format!("{} {:?}", file.len(), file.modified().ok())
}

/// Whether the file's times would tell of a change from now on.
fn is_settled(file: &Metadata) -> bool {
    #[cfg(unix)]
    let changed = {
        use std::os::unix::fs::MetadataExt;
        SystemTime::UNIX_EPOCH + Duration::new(file.ctime().try_into().unwrap_or(0), file.ctime_nsec() as u32)
    };
    #[cfg(not(unix))]
    let changed = SystemTime::UNIX_EPOCH;
    let modified = file.modified().unwrap_or(SystemTime::now());
    [modified, changed].iter().all(|time| time.elapsed().is_ok_and(|age| age >= SETTLED))
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;

    fn go_on(_: usize, _: usize) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    #[test]
    fn kept_hashes_hold_for_the_same_file_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (weights, kept) = (dir.path().join("w.bin"), dir.path().join("kept/hashes.json"));
        let hashes = Hashes { file: kept.clone(), least: 2 };
        let of = || hashes.of(std::slice::from_ref(&weights), &mut go_on).unwrap().remove(0);
        fs::write(&weights, "abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(of(), abc);
        assert!(!kept.exists(), "it was written just now");
        thread::sleep(SETTLED + Duration::from_millis(100));
        assert_eq!(of(), abc);
        // What is kept is used: a lie would be believed.
        let text = fs::read_to_string(&kept).unwrap();
        fs::write(&kept, text.replace("ba78", "0000")).unwrap();
        assert!(of().starts_with("0000"));
        // Another content of the same size and modification time is not taken for it.
        let modified = fs::metadata(&weights).unwrap().modified().unwrap();
        let file = File::options().write(true).open(&weights).unwrap();
        io::Write::write_all(&mut &file, b"abd").unwrap();
        file.set_modified(modified).unwrap();
        assert!(cfg!(not(unix)) || of().starts_with("a52d159f262b2c6ddb724a61840befc36eb30c88"), "{}", of());
        // Damage is no obstacle; small files are not kept.
        fs::write(&kept, "{").unwrap();
        assert_eq!(of().len(), 64);
        fs::write(&weights, "a").unwrap();
        assert!(of().starts_with("ca978112ca1bbdca"));
        assert_eq!(fs::read_to_string(&kept).unwrap(), "{");
        assert!(hashes.of(&[dir.path().join("gone")], &mut go_on).unwrap_err().to_string().contains("gone"));
    }

    #[test]
    fn many_files_are_hashed_at_once_and_can_be_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = (0..5).map(|i| dir.path().join(format!("{i}"))).collect();
        for (i, file) in files.iter().enumerate() {
            fs::write(file, vec![i as u8; (LEAST as usize >> 2) + i]).unwrap();
        }
        let hashes = Hashes { file: dir.path().join("kept.json"), least: LEAST };
        let all = hashes.of(&files, &mut go_on).unwrap();
        for (file, hash) in files.iter().zip(&all) {
            assert_eq!(&hex(Sha256::new_with_prefix(fs::read(file).unwrap())), hash);
        }
        let stopped = hashes.of(&files, &mut |_, _| ControlFlow::Break(()));
        // It may be done before it is asked.
        assert!(matches!(stopped, Err(ModelError::Stopped)) || stopped.unwrap() == all);
    }
}
