//! The settings in the metadata of a written result: where they are in each format, and reading them without decoding anything.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// The name of the text chunk (PNG), of the field (MP4) and of the entry (safetensors) that holds them.
pub(super) const NAME: &str = "settings";
/// The owner of the field in MP4.
pub(super) const OWNER: &[u8] = b"adacache";
/// The beginning of the comment (GIF) that holds them.
pub(super) const COMMENT: &str = "adacache settings ";

/// The most that metadata are read of: more is not ours.
const MOST: u64 = 64 << 20;

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

/// Reads the index, moov, into memory and looks the field up there.
pub(super) fn mp4(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let index = loop {
        let mut head = [0; 16];
        file.read_exact(&mut head[..8]).ok()?;
        let (mut size, mut header) = (u64::from(u32::from_be_bytes(head[..4].try_into().ok()?)), 8);
        if size == 1 {
            file.read_exact(&mut head[8..]).ok()?;
            (size, header) = (u64::from_be_bytes(head[8..].try_into().ok()?), 16);
        }
        let content = size.checked_sub(header)?;
        if &head[4..8] == b"moov" {
            let mut index = vec![];
            file.take(content.min(MOST)).read_to_end(&mut index).ok()?;
            break index;
        }
        file.seek(SeekFrom::Current(content.try_into().ok()?)).ok()?;
    };
    let udta = boxes(&index).find(|(name, _)| name == b"udta")?.1;
    let meta = boxes(udta).find(|(name, _)| name == b"meta")?.1.get(4..)?;
    let list = boxes(meta).find(|(name, _)| name == b"ilst")?.1;
    boxes(list).filter(|(name, _)| name == b"----").find_map(|(_, field)| {
        let part = |wanted: &[u8; 4], skip: usize| boxes(field).find(|(name, _)| name == wanted)?.1.get(skip..);
        let ours = part(b"mean", 4)? == OWNER && part(b"name", 4)? == NAME.as_bytes();
        text(part(b"data", 8)?).filter(|_| ours)
    })
}

/// The boxes in `bytes`, by name, as far as they are whole.
fn boxes(mut bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        let size = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let (name, content) = (bytes.get(4..8)?, bytes.get(8..size)?);
        bytes = &bytes[size..];
        Some((name, content))
    })
}

/// Looks through the extensions before the first picture.
pub(super) fn gif(path: &Path) -> Option<String> {
    let mut bytes = vec![];
    File::open(path).ok()?.take(MOST).read_to_end(&mut bytes).ok()?;
    let flags = *bytes.get(10)?;
    let palette = if flags & 0x80 != 0 { 3 << ((flags & 7) + 1) } else { 0 };
    let mut rest = bytes.strip_prefix(b"GIF89a").and_then(|_| bytes.get(13 + palette..))?;
    while let [0x21, kind, blocks @ ..] = rest {
        let mut content = vec![];
        rest = blocks;
        loop {
            let (&length, after) = rest.split_first()?;
            rest = after.get(usize::from(length)..)?;
            content.extend_from_slice(&after[..usize::from(length)]);
            if length == 0 {
                break;
            }
        }
        if let (0xFE, Some(settings)) = (*kind, content.strip_prefix(COMMENT.as_bytes())) {
            return text(settings);
        }
    }
    None
}

/// Looks at the first frame of the folder.
pub(super) fn png(folder: &Path) -> Option<String> {
    let file = std::io::BufReader::new(File::open(folder.join("frame_0000.png")).ok()?);
    let reader = png::Decoder::new(file).read_info().ok()?;
    reader.info().utf8_text.iter().find(|chunk| chunk.keyword == NAME)?.get_text().ok()
}

pub(super) fn safetensors(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let mut header = vec![];
    file.take(u64::from_le_bytes(length).min(MOST)).read_to_end(&mut header).ok()?;
    let header: serde_json::Value = serde_json::from_slice(&header).ok()?;
    Some(header["__metadata__"][NAME].as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use crate::media::{Format, Frames, Latents, Metadata, Output};

    #[test]
    fn every_format_gives_them_back_and_foreign_files_have_none() {
        let dir = tempfile::tempdir().unwrap();
        let frames = Frames { width: 16, height: 16, fps: 8.0, rgb: (0..16 * 16 * 3 * 2).map(|i| i as u8).collect() };
        let latents = Latents { shape: [1, 1, 1, 2], values: vec![0.5, 1.0] };
        // Longer than a block of a GIF's comment, and not ASCII.
        let long = format!("{{\"prompt\": \"ein Bär {}\"}}", "x".repeat(600));
        for name in ["a.mp4", "a.gif", "a/", "a.safetensors"] {
            let output = Output::new(dir.path().join(name)).unwrap();
            assert_eq!(output.settings(), None, "{name}: there is none");
            let write = |settings: &str| {
                let metadata = Metadata { prompt: "p".into(), settings: settings.into(), ..Metadata::default() };
                match output.format() {
                    Format::Safetensors => output.write_latents(&latents, &metadata).unwrap(),
                    _ => output.write_frames(&frames, &metadata, None).unwrap(),
                }
            };
            write(&long);
            assert_eq!(output.settings().as_ref(), Some(&long), "{name}");
            write("");
            assert_eq!(output.settings(), None, "{name}: an older version's");
            if output.format() == Format::PngFolder {
                continue;
            }
            // Cut anywhere: none, or all of it.
            write(&long);
            let bytes = std::fs::read(output.path()).unwrap();
            for end in (0..bytes.len()).step_by(7) {
                std::fs::write(output.path(), &bytes[..end]).unwrap();
                assert!(output.settings().is_none_or(|settings| settings == long), "{name} cut at {end}");
            }
            std::fs::write(output.path(), "finished").unwrap();
            assert_eq!(output.settings(), None);
        }
    }
}
