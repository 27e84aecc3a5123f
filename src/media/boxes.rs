//! The boxes of MP4 and MOV files (ISO/IEC 14496-12) and the numbers in them.

/// A box's name and content.
pub(super) type Named<'a> = ([u8; 4], &'a [u8]);

pub(super) const SHORT: &str = "its index is cut off";

pub(super) fn be16(bytes: &[u8], at: usize) -> Result<usize, String> {
    let two = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(SHORT)?;
    Ok(usize::from(u16::from_be_bytes(*two)))
}

pub(super) fn be32(bytes: &[u8], at: usize) -> Result<usize, String> {
    let four = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(SHORT)?;
    Ok(u32::from_be_bytes(*four) as usize)
}

pub(super) fn be64(bytes: &[u8], at: usize) -> Result<usize, String> {
    let eight = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(SHORT)?;
    usize::try_from(u64::from_be_bytes(*eight)).map_err(|_| SHORT.into())
}

/// The boxes in `bytes`.
pub(super) fn boxes(mut bytes: &[u8]) -> Result<Vec<Named<'_>>, String> {
    let mut found = vec![];
    // QuickTime ends some lists with four zeros.
    while bytes.len() >= 8 {
        let name = [bytes[4], bytes[5], bytes[6], bytes[7]];
        let (header, size) = match be32(bytes, 0)? {
            0 => (8, bytes.len()),
            1 => (16, be64(bytes, 8)?),
            size => (8, size),
        };
        let ends = || format!("the file ends within its box `{}`", name.escape_ascii());
        found.push((name, bytes.get(header..size).ok_or_else(ends)?));
        bytes = &bytes[size..];
    }
    Ok(found)
}

pub(super) fn child<'a>(bytes: &'a [u8], name: &[u8; 4]) -> Result<&'a [u8], String> {
    let found = boxes(bytes)?.into_iter().find(|(n, _)| n == name);
    found.map(|(_, content)| content).ok_or_else(|| format!("it has no box `{}`", name.escape_ascii()))
}
