//! Weight files: which ones a part has, and whether they are complete according to their headers.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use candle_core::quantized::gguf_file;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::published::Part;
use crate::model::Weights;

/// The names of the files in a folder; none if there is no folder.
pub(super) fn files_in(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return vec![] };
    let files = entries.flatten().filter(|entry| entry.path().is_file());
    files.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Whether a file's content matches its etag. Large files have their SHA-256 as etag; others have a hash of another kind, which cannot be
/// checked here.
pub(super) fn checksum(path: &Path, etag: &str) -> std::io::Result<bool> {
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

/// The weight files of `part`, given the `names` of the existing files; `text` reads an index. Without any, the usual name.
pub(super) fn weight_files(part: Part, names: &[String], text: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
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

/// The problem with a file, as far as it can be detected without reading all of it.
pub(super) fn problem(path: &Path) -> Option<String> {
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

/// Whether a GGUF file has the size that its header implies.
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

pub(super) fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}
