//! Weight files: which ones a part has, and what is wrong with them, as far as their beginnings and headers tell.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::store::inside;
use crate::model::Weights;

/// The names of the files in a folder, sorted; none if there is no folder.
pub(super) fn files_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return vec![] };
    let files = entries.flatten().filter(|entry| entry.path().is_file());
    let mut names: Vec<String> = files.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Whether a file's content matches its etag. Large files have their SHA-256 as etag; others have a hash of another kind, which cannot be
/// checked here.
pub(super) fn checksum(path: &Path, etag: &str) -> std::io::Result<bool> {
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

/// Files of weights under the names that programs give them, the better first; an index names its shards.
const USUAL: [&str; 8] = [
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
    "diffusion_pytorch_model.bin",
];

/// The endings of others.
const ENDINGS: [&str; 6] = [".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt"];

/// The weight files of a part, given the `names` of its files; `text` reads an index. Without any, the usual name.
///
/// # Errors
/// All of them, if there are several and none has a usual name: nobody can know which one is wanted.
pub(super) fn weight_files(
    names: &[String],
    text: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<String>, Vec<String>> {
    if let Some(usual) = USUAL.into_iter().find(|usual| names.iter().any(|name| name == usual)) {
        return Ok(match usual.ends_with(".json") {
            true => std::iter::once(usual.to_owned()).chain(shards(usual, text)).collect(),
            false => vec![usual.to_owned()],
        });
    }
    let others: Vec<String> = names.iter().filter(|name| is_weights(name)).cloned().collect();
    match others.len() {
        0 => Ok(vec![USUAL[0].to_owned()]),
        1 => Ok(others),
        _ => Err(others),
    }
}

/// Whether a name is that of weights.
pub(super) fn is_weights(name: &str) -> bool {
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// The files that an index names.
fn shards(index: &str, text: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let parsed = text(index).and_then(|text| serde_json::from_str::<Index>(&text).ok());
    let shards: BTreeSet<String> = parsed.map_or_else(BTreeSet::new, |index| index.weight_map.into_values().collect());
    // An index without any is damaged: its shards are missing, whatever their names.
    if shards.is_empty() { vec![index.replace(".index.json", "")] } else { shards.into_iter().collect() }
}

/// The problem with a file, as far as it can be detected without reading all of it.
pub(super) fn problem(path: &Path) -> Option<String> {
    problem_of(path, &path.file_name()?.to_string_lossy())
}

/// The problem with the file at `path`, which belongs under `name`.
pub(super) fn problem_of(path: &Path, name: &str) -> Option<String> {
    let mut start = vec![];
    if let Err(error) = File::open(path).and_then(|file| file.take(1024).read_to_end(&mut start)) {
        return Some(error.to_string());
    }
    let ending = Path::new(name).extension().and_then(|e| e.to_str()).unwrap_or_default();
    if let Some(other) = other_kind(&start, ending) {
        return Some(other);
    }
    let result = match ending {
        "json" => json(path, name),
        _ if is_weights(name) => Weights::open(path).map(drop).map_err(|e| e.to_string()),
        _ => Ok(()),
    };
    result.err()
}

/// What a file is that begins with `start`, if its name promises something else.
fn other_kind(start: &[u8], ending: &str) -> Option<String> {
    let text = String::from_utf8_lossy(start);
    let begins = text.trim_start_matches('\u{feff}').trim_start().to_lowercase();
    if start.is_empty() {
        return Some("it is empty".into());
    }
    if begins.starts_with("version https://git-lfs") {
        let size = begins.lines().find_map(|line| line.strip_prefix("size ")).unwrap_or("?");
        return Some(format!(
            "it is a Git LFS pointer, not the file of {size} bytes that it stands for: run `git lfs pull` where it comes from"
        ));
    }
    if begins.starts_with("<!doctype html") || begins.starts_with("<html") || begins.starts_with("<head") {
        return Some("it is a web page (HTML), saved in place of the file".into());
    }
    if begins.starts_with("<?xml") {
        return Some("it is an XML message, saved in place of the file".into());
    }
    // A zip archive, or the number with which older versions begin.
    let torch = start.starts_with(b"PK\x03\x04") || start.starts_with(b"\x80\x02\x8a\x0al\xfc");
    match ending {
        "json" => None,
        _ if begins.starts_with("{\"error") => {
            Some(format!("it is an error message: {}", text.chars().take(200).collect::<String>()))
        }
        "safetensors" | "gguf" if torch => Some("it is a file of torch.save under another name".into()),
        "safetensors" | "bin" | "pt" | "pth" | "ckpt" if start.starts_with(b"GGUF") => {
            Some("it is a GGUF file under another name: rename it to end with .gguf".into())
        }
        "bin" | "pt" | "pth" | "ckpt" if !torch => Some("it is no file of torch.save".into()),
        "gguf" if !start.starts_with(b"GGUF") => Some("it is no GGUF file".into()),
        _ => None,
    }
}

/// Whether a JSON file can be read; whether an index names files of its own folder.
fn json(path: &Path, name: &str) -> Result<(), String> {
    let text = fs::read_to_string(path).map_err(|e| e.to_string())?;
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    if !name.ends_with(".index.json") {
        return Ok(());
    }
    let files = value["weight_map"].as_object().filter(|map| !map.is_empty()).ok_or("it has no `weight_map`")?;
    match files.values().find(|file| file.as_str().and_then(inside).is_none_or(|path| path.components().count() > 1)) {
        Some(file) => Err(format!("its shard {file} is no file of this folder")),
        None => Ok(()),
    }
}

pub(super) fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str]) -> Result<Vec<String>, Vec<String>> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        weight_files(&names, &|index| {
            let shard = |i| format!("\"t{i}\": \"{}-{i}\"", index.replace(".index.json", ""));
            Some(format!("{{\"weight_map\": {{{}, {}}}}}", shard(2), shard(1)))
        })
    }

    #[test]
    fn weights_are_chosen_by_name_and_never_by_order() {
        for (names, files) in [
            (&["b.gguf", "model.safetensors"][..], &["model.safetensors"][..]),
            (&["a.gguf", "diffusion_pytorch_model.safetensors"], &["diffusion_pytorch_model.safetensors"]),
            (
                &["model.safetensors.index.json", "pytorch_model.bin"],
                &["model.safetensors.index.json", "model.safetensors-1", "model.safetensors-2"],
            ),
            (&["README.md", "t5.Q4.gguf"], &["t5.Q4.gguf"]),
            (&["ema.pt"], &["ema.pt"]),
            (&["README.md"], &["model.safetensors"]),
        ] {
            assert_eq!(
                chosen(names).as_deref(),
                Ok(&*files.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>()),
                "{names:?}"
            );
        }
        for names in [["b.gguf", "a.gguf"], ["x.safetensors", "y.safetensors"], ["a.gguf", "x.safetensors"]] {
            assert_eq!(chosen(&names).unwrap_err(), names);
        }
    }

    #[test]
    fn files_are_named_for_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4711\n";
        for (name, bytes, words) in [
            ("model.safetensors", &lfs[..], "Git LFS pointer, not the file of 4711 bytes"),
            ("config.json", lfs, "Git LFS pointer"),
            ("model.safetensors", b"\n<!DOCTYPE html><html>", "web page"),
            ("pytorch_model.bin", b"<html>", "web page"),
            ("t5.gguf", b"<?xml version=\"1.0\"?><Error>", "XML"),
            ("t5.gguf", b"{\"error\":\"Repository not found\"}", "Repository not found"),
            ("model.safetensors", b"PK\x03\x04....", "torch.save"),
            ("model.safetensors", b"GGUF....", "GGUF"),
            ("t5.gguf", b"something", "no GGUF file"),
            ("t5.gguf", b"GGUF\x03\0\0\0", "ends after 8 bytes"),
            ("t5.pt", b"something", "no file of torch.save"),
            ("t5.pt", b"PK\x03\x04....", "the file is cut"),
            ("t5.pt", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "before PyTorch 1.6"),
            ("model.safetensors", b"", "empty"),
            ("model.safetensors.index.json", b"{\"weight_map\": {\"a\": \"../b\"}}", "../b"),
            ("model.safetensors.index.json", b"{}", "weight_map"),
        ] {
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            let found = problem(&path).unwrap_or_default();
            assert!(found.contains(words), "{name} {:?}: {found}", String::from_utf8_lossy(bytes));
        }
    }
}
