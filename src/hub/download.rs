//! A file of the hub into the cache, going on where an earlier try stopped.
//!
//! What came stays in `blobs/ETAG.part`, whatever ends the transfer, and the next try asks for the rest. Nothing is believed on the way: an answer is
//! written behind what is there only if it is of the same content (etag) and says where it begins; where it begins earlier, as that of a server which
//! ignores ranges, the bytes that are there already are compared, not written again. In the end size and SHA-256 decide.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};

use super::client::{Answer, Client, Fault, Patience, Wanted, broken_off, is_sha256, passing, web_page};
use super::error::{HubError, hub_io};
use super::files::{checksum, problem_of};
use super::store::Store;

/// How often content may change on the hub while it is fetched.
const CHANGES: usize = 3;

/// A file to fetch.
pub(super) struct Download<'a> {
    pub(super) client: &'a Client<'a>,
    pub(super) store: &'a Store,
    pub(super) repo: &'a str,
    pub(super) name: &'a str,
    /// The commit of the repository's list, for servers that name none with a file.
    pub(super) commit: Option<&'a str>,
    pub(super) quiet: bool,
}

/// What the hub says a file is.
struct Identity {
    etag: String,
    commit: String,
    size: Option<u64>,
    tag: Option<String>,
}

/// How a transfer ended.
enum End {
    Complete,
    /// The hub has other content now.
    Changed,
}

impl Download<'_> {
    /// The path of the file in the cache.
    pub(super) fn run(&self) -> Result<PathBuf, HubError> {
        for _ in 0..CHANGES {
            let identity = self.identity()?;
            let turn = self.store.turn(&identity.etag, self.name)?;
            let blob = self.store.blob(&identity.etag);
            let done = self.kept(&blob, &turn.part, &identity)? || self.fetched(&blob, &turn.part, &identity)?;
            if done {
                return self.store.place(self.name, &identity.commit, &identity.etag);
            }
            tracing::warn!("{} has changed on the hub: fetching what it is now", self.name);
        }
        Err(HubError::Wrong(format!("the hub's {} changes faster than it can be fetched", self.name)))
    }

    fn wanted(&self) -> Wanted<'_> {
        Wanted { repo: self.repo, file: Some(self.name) }
    }

    fn ask(&self, range: Option<String>, tag: Option<&str>) -> Result<Answer, Fault> {
        self.client.get(&self.client.url(self.repo, self.name), &self.wanted(), range, tag)
    }

    /// Asks what the file is: for its first byte, as servers that answer no HEAD still answer that.
    fn identity(&self) -> Result<Identity, HubError> {
        let mut patience = self.client.patience();
        loop {
            let answer = match self.ask(Some("bytes=0-0".into()), None) {
                Ok(answer) => answer,
                Err(fault) => {
                    patience.wait(fault)?;
                    continue;
                }
            };
            let commit = answer.commit.as_deref().or(self.commit);
            let (Some(etag), Some(commit)) = (answer.etag.filter(|etag| !etag.is_empty()), commit) else {
                return Err(match answer.page {
                    true => web_page(&answer.host),
                    false => HubError::Wrong(format!(
                        "{} does not answer as a hub does: it names no ETag or no commit; is HF_ENDPOINT the address of one?",
                        answer.host
                    )),
                });
            };
            return Ok(Identity { etag, commit: commit.to_owned(), size: answer.size, tag: answer.tag });
        }
    }

    /// Whether the content is there already, under another name or of another commit. What is damaged is not.
    fn kept(&self, blob: &Path, part: &Path, identity: &Identity) -> Result<bool, HubError> {
        let Ok(metadata) = fs::metadata(blob) else { return Ok(false) };
        let whole = identity.size.is_none_or(|size| size == metadata.len());
        let sound = whole
            && if is_sha256(&identity.etag) {
                checksum(blob, &identity.etag).map_err(hub_io("read", blob))?
            } else {
                problem_of(blob, self.name).is_none()
            };
        if !sound {
            tracing::warn!("{} in the cache is damaged: fetching what is missing", self.name);
            // Its beginning may be good.
            let better = fs::metadata(part).map_or(0, |m| m.len()) < metadata.len();
            let moved = if whole || !better { fs::remove_file(blob) } else { fs::rename(blob, part) };
            moved.map_err(hub_io("replace", blob))?;
        }
        Ok(sound)
    }

    /// Fetches the content, checks it and makes it `blob`. False if the hub has other content now.
    fn fetched(&self, blob: &Path, part: &Path, identity: &Identity) -> Result<bool, HubError> {
        let mut transfer = Transfer::new(self, part, identity)?;
        let mut resumed = transfer.length > 0;
        loop {
            if let End::Changed = transfer.run()? {
                return Ok(false);
            }
            let length = transfer.length;
            let checked = is_sha256(&identity.etag);
            if checked && checksum(part, &identity.etag).map_err(hub_io("read", part))? {
                break;
            }
            if checked && resumed {
                tracing::warn!(
                    "the beginning of {} that an earlier run left is not the hub's: fetching all of it",
                    self.name
                );
                transfer.restart(0)?;
                resumed = false;
                continue;
            }
            let problem = match checked {
                true => Some("the download differs from the hub's file (SHA-256); it was removed".to_owned()),
                false => problem_of(part, self.name)
                    .map(|problem| format!("what {length} bytes came as {} {problem}; they were removed", self.name)),
            };
            let Some(problem) = problem else { break };
            if transfer.size.is_none() && !resumed {
                let reason = format!(
                    "{length} bytes came of {}, whose size nobody tells, and they are not all of it",
                    self.name
                );
                return Err(HubError::Wrong(reason));
            }
            // Best effort: the error tells in any case.
            let _ = fs::remove_file(part);
            return Err(HubError::Wrong(problem));
        }
        transfer.bar.finish_and_clear();
        transfer.file.sync_all().map_err(hub_io("write", part))?;
        fs::rename(part, blob).map_err(hub_io("rename", part))?;
        Ok(true)
    }
}

/// The bytes of one content on their way into a file.
struct Transfer<'a> {
    download: &'a Download<'a>,
    identity: &'a Identity,
    file: File,
    part: &'a Path,
    /// The bytes that are there.
    length: u64,
    size: Option<u64>,
    bar: ProgressBar,
}

impl<'a> Transfer<'a> {
    fn new(download: &'a Download<'a>, part: &'a Path, identity: &'a Identity) -> Result<Transfer<'a>, HubError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(part)
            .map_err(hub_io("open", part))?;
        let length = file.metadata().map_err(hub_io("read", part))?.len();
        let bar = if download.quiet { ProgressBar::hidden() } else { ProgressBar::new(identity.size.unwrap_or(0)) };
        let style = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(download.name.to_owned());
        let mut transfer = Transfer { download, identity, file, part, length, size: identity.size, bar };
        if let Some(size) = identity.size.filter(|size| *size < length) {
            // Only a checksum can tell whether the first of them are the file.
            transfer.restart(if is_sha256(&identity.etag) { size } else { 0 })?;
        }
        Ok(transfer)
    }

    /// Keeps the first `length` bytes.
    fn restart(&mut self, length: u64) -> Result<(), HubError> {
        self.file.set_len(length).map_err(hub_io("cut", self.part))?;
        self.length = length;
        Ok(())
    }

    /// Until all bytes are there.
    fn run(&mut self) -> Result<End, HubError> {
        let mut patience = self.download.client.patience();
        // Whether the server gives a part when it is asked for one.
        let mut by_ranges = true;
        while self.size != Some(self.length) {
            let range = (self.length > 0 && by_ranges).then(|| format!("bytes={}-", self.length));
            let tag = self.identity.tag.as_deref().filter(|_| range.is_some() && !is_sha256(&self.identity.etag));
            let asked = range.is_some();
            let answer = match self.download.ask(range, tag) {
                Ok(answer) => answer,
                Err(fault) => {
                    patience.wait(fault)?;
                    continue;
                }
            };
            if answer.etag.as_deref() != Some(&*self.identity.etag) && answer.status != 416 {
                return Ok(End::Changed);
            }
            let start = match answer.status {
                200 => Some(0),
                206 => answer.start.filter(|start| *start <= self.length),
                // Asked for what is behind the last byte.
                _ if asked && answer.size == Some(self.length) => return Ok(End::Complete),
                _ => None,
            };
            let Some(start) = start else {
                by_ranges = false;
                patience.wait(passing(format!("{} answers with other bytes than it was asked for", answer.host)))?;
                continue;
            };
            if let (Some(told), Some(known)) = (answer.size, self.size)
                && told != known
            {
                by_ranges = false;
                patience.wait(passing(format!("{} says {told} bytes, the hub {known}", answer.host)))?;
                continue;
            }
            self.size = self.size.or(answer.size);
            if let Some(size) = self.size.filter(|size| *size < self.length) {
                self.restart(size)?;
            }
            if self.take(answer, start, &mut patience)? {
                return Ok(End::Complete);
            }
        }
        Ok(End::Complete)
    }

    /// Takes an answer that begins at byte `start`. True if that was all, of a file whose size nobody tells.
    fn take(&mut self, answer: Answer, start: u64, patience: &mut Patience<'_>) -> Result<bool, HubError> {
        let (host, framed) = (answer.host, answer.framed);
        let before = self.length;
        self.bar.set_length(self.size.unwrap_or(0));
        self.bar.set_position(before);
        let ended = self.copy(&mut answer.body.into_reader(), start)?;
        if self.length > before {
            patience.progressed();
        }
        let reason = match (ended, self.size) {
            (_, Some(size)) if self.length >= size => return Ok(false),
            (Err(reason), _) => reason,
            (Ok(()), Some(size)) => format!("the answer ends after {} of {size} bytes", self.length),
            // Its end is marked, or there is nothing behind the end of the answer before.
            (Ok(()), None) if framed || self.length == before => return Ok(true),
            (Ok(()), None) => return Ok(false),
        };
        self.bar.suspend(|| patience.wait(passing(format!("{host}: {reason}"))))?;
        Ok(false)
    }

    /// Copies `body`, whose first byte is byte `start` of the file: what is there already is compared, the rest appended. The inner error is the
    /// server's.
    fn copy(&mut self, body: &mut dyn Read, start: u64) -> Result<Result<(), String>, HubError> {
        let (mut buffer, mut there) = (vec![0; 1 << 18], vec![]);
        let mut at = start;
        loop {
            let left = self.size.map_or(u64::MAX, |size| size - at);
            let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = match body.read(&mut buffer[..most]) {
                Ok(0) => return Ok(Ok(())),
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Err(broken_off(error.into()))),
            };
            let known = usize::try_from(self.length - at).unwrap_or(usize::MAX).min(count);
            there.resize(known, 0);
            self.file.seek(SeekFrom::Start(at)).map_err(hub_io("read", self.part))?;
            self.file.read_exact(&mut there).map_err(hub_io("read", self.part))?;
            let same = there.iter().zip(&buffer).take_while(|(a, b)| a == b).count();
            if same < known {
                tracing::warn!("byte {} of {} is another one now", at + same as u64, self.download.name);
                self.restart(at + same as u64)?;
            }
            let new = &buffer[same..count];
            self.file.seek(SeekFrom::Start(at + same as u64)).map_err(hub_io("write", self.part))?;
            self.file.write_all(new).map_err(hub_io("write", self.part))?;
            at += count as u64;
            self.length = self.length.max(at);
            self.bar.set_position(self.length);
        }
    }
}
