//! The directory of a zip archive, as far as `torch.save` writes one: entries that are not compressed, also beyond 4 GiB.

use std::collections::HashMap;
use std::ops::Range;

use super::stored::{Refusal, unsupported};

/// The beginning of the first entry.
pub(super) const MAGIC: &[u8] = b"PK\x03\x04";

/// Signatures and sizes of the records at the end, and of those of an entry.
const END: (&[u8], usize) = (b"PK\x05\x06", 22);
const END64: (&[u8], usize) = (b"PK\x06\x06", 56);
const LOCATOR64: (&[u8], usize) = (b"PK\x06\x07", 20);
const ENTRY: (&[u8], usize) = (b"PK\x01\x02", 46);
const LOCAL: (&[u8], usize) = (MAGIC, 30);
/// The longest comment after the end.
const COMMENT: usize = 0xffff;
/// The extra field with what does not fit into 32 bits.
const EXTRA64: u16 = 1;
const ENCRYPTED: u16 = 1;

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// The record at `at`, which begins with its signature.
fn record<'a>(file: &'a [u8], at: u64, (signature, size): (&[u8], usize), what: &str) -> Result<&'a [u8], Refusal> {
    let from = usize::try_from(at).ok().and_then(|at| file.get(at..));
    let found = from.filter(|from| from.len() >= size && from.starts_with(signature));
    Ok(found.ok_or_else(|| format!("there is no {what} at byte {at} of {}", file.len()))?)
}

/// The number of entries and where their directory begins.
fn directory(file: &[u8]) -> Result<(u64, u64), Refusal> {
    let most = file.len().saturating_sub(END.1);
    let ends = (most.saturating_sub(COMMENT)..=most).rev().find(|at| file[*at..].starts_with(END.0));
    let at = ends.filter(|_| file.len() >= END.1).ok_or("its directory is missing: the file is cut")?;
    let end = &file[at..];
    let (entries, start) = (u16_at(end, 10), u32_at(end, 16));
    if entries != u16::MAX && start != u32::MAX {
        return Ok((entries.into(), start.into()));
    }
    let Some(locator) = at.checked_sub(LOCATOR64.1).filter(|at| file[*at..].starts_with(LOCATOR64.0)) else {
        return Ok((entries.into(), start.into()));
    };
    let end = record(file, u64_at(file, locator + 8), END64, "end of its directory")?;
    Ok((u64_at(end, 32), u64_at(end, 48)))
}

/// Sizes (packed, whole) and offset of an entry with the extra fields `extra`.
fn sizes(entry: &[u8], mut extra: &[u8]) -> Option<[u64; 3]> {
    let mut sizes = [24, 20, 42].map(|at| u64::from(u32_at(entry, at)));
    while extra.len() >= 4 {
        let (kind, length) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
        let mut field = extra.get(4..4 + length)?;
        extra = &extra[4 + length..];
        if kind == EXTRA64 {
            // Only those that do not fit, in this order.
            for size in sizes.iter_mut().filter(|size| **size == u64::from(u32::MAX)) {
                *size = u64_at(field.get(..8)?, 0);
                field = &field[8..];
            }
        }
    }
    let [whole, packed, offset] = sizes;
    Some([packed, whole, offset])
}

/// The place in the file of every entry's content, by name.
pub(super) fn entries(file: &[u8]) -> Result<HashMap<String, Range<usize>>, Refusal> {
    let (count, mut at) = directory(file)?;
    let mut entries = HashMap::new();
    for _ in 0..count {
        let entry = record(file, at, ENTRY, "entry of its directory")?;
        let [name, extra, comment] = [28, 30, 32].map(|at| usize::from(u16_at(entry, at)));
        let ends = ENTRY.1 + name + extra + comment;
        let all = entry.get(ENTRY.1..ends).ok_or("the file ends in its directory")?;
        at += ends as u64;
        let (name, extra) = (String::from_utf8_lossy(&all[..name]).into_owned(), &all[name..name + extra]);
        let [packed, whole, offset] =
            sizes(entry, extra).ok_or_else(|| format!("the sizes of `{name}` are missing"))?;
        if u16_at(entry, 8) & ENCRYPTED != 0 {
            return unsupported(format!("`{name}` in it is encrypted"));
        }
        if u16_at(entry, 10) != 0 || packed != whole {
            return unsupported(format!(
                "`{name}` in it is compressed, which torch.save never does: save it again with that"
            ));
        }
        let local = record(file, offset, LOCAL, &format!("entry `{name}`"))?;
        let before = LOCAL.1 + usize::from(u16_at(local, 26)) + usize::from(u16_at(local, 28));
        let start = offset as usize + before;
        let end = usize::try_from(whole).ok().and_then(|whole| start.checked_add(whole));
        let end = end.filter(|end| *end <= file.len());
        let end = end.ok_or_else(|| format!("`{name}` in it ends after the end of the file: the file is cut"))?;
        entries.insert(name, start..end);
    }
    Ok(entries)
}
