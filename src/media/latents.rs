//! Latents as a safetensors file: reading, and writing whose bytes depend on nothing but the latents and the metadata.

use std::collections::BTreeMap;
use std::path::Path;

use super::frames::{Latents, Metadata};
use super::settings;
use crate::model::{ModelError, Weights};

impl Latents {
    /// Reads tensor `latents` `[channels, frames, height, width]` of F32, F16 or BF16, as `generate --out FILE.safetensors` writes it.
    ///
    /// # Errors
    /// No such tensor, another number of axes or an empty one, values that are not numbers.
    pub fn open(path: &Path) -> Result<Latents, ModelError> {
        const TENSOR: &str = "latents";
        let weights = Weights::open(path)?;
        let found = weights.shape(TENSOR).unwrap_or_default();
        let shape: Option<[usize; 4]> = found.clone().try_into().ok().filter(|shape: &[usize; 4]| !shape.contains(&0));
        let Some(shape) = shape.or_else(|| (!weights.has(TENSOR)).then_some([4, 1, 1, 1])) else {
            return Err(ModelError::Input(format!(
                "{}: tensor `{TENSOR}` has shape {found:?}, expected channels, frames, height and width, none of them 0",
                weights.file()
            )));
        };
        Ok(Latents { shape, values: weights.values(TENSOR, &shape)? })
    }
}

/// The file's bytes: header length, JSON header padded with spaces to 8 bytes, values in little endian.
///
/// Implemented here because the `safetensors` crate takes its metadata as a hash map, whose order changes from run to run.
pub(super) fn serialize(latents: &Latents, metadata: &Metadata) -> Result<Vec<u8>, String> {
    let expected = latents.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    if expected != Some(latents.values.len()) {
        return Err(format!("{} values do not have the shape {:?}", latents.values.len(), latents.shape));
    }
    let mut facts: BTreeMap<&str, &str> =
        metadata.facts.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    facts.insert("prompt", &metadata.prompt);
    if !metadata.settings.is_empty() {
        facts.insert(settings::NAME, &metadata.settings);
    }
    let tensor = serde_json::json!({
        "dtype": "F32", "shape": latents.shape, "data_offsets": [0, latents.values.len() * 4],
    });
    let mut header = serde_json::json!({ "__metadata__": facts, "latents": tensor }).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut header);
    bytes.extend(latents.values.iter().flat_map(|value| value.to_le_bytes()));
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_safetensors_crate_reads_it_back() {
        let latents = Latents { shape: [2, 1, 1, 3], values: vec![0.5, -1.0, 2.0, f32::MIN, 0.0, 1e-7] };
        let metadata =
            Metadata { prompt: "a \"b\"".into(), facts: vec![("seed".into(), "7".into())], ..Metadata::default() };
        let bytes = serialize(&latents, &metadata).unwrap();
        assert_eq!(bytes, serialize(&latents, &metadata).unwrap());
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let facts = header.metadata().as_ref().unwrap();
        assert_eq!((facts["prompt"].as_str(), facts["seed"].as_str()), ("a \"b\"", "7"));
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let view = file.tensor("latents").unwrap();
        assert_eq!((view.shape(), view.dtype()), (&[2, 1, 1, 3][..], safetensors::Dtype::F32));
        let values: Vec<u8> = latents.values.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(view.data(), values);
        assert!(serialize(&Latents { shape: [1, 1, 1, 5], ..latents }, &metadata).is_err());
    }

    #[test]
    fn types_of_16_bits_are_read_and_nonsense_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("z.safetensors");
        let open = |name: &str, dtype, shape: &[usize], bytes: &[u8]| {
            let view = safetensors::tensor::TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
            std::fs::write(&file, safetensors::serialize([(name, view)], None).unwrap()).unwrap();
            Latents::open(&file).map_err(|e| e.to_string())
        };
        use safetensors::Dtype::{BF16, F16, F32, I16};
        // 1 and -2 in each.
        let expected = Latents { shape: [1, 2, 1, 1], values: vec![1.0, -2.0] };
        assert_eq!(open("latents", BF16, &[1, 2, 1, 1], &[0x80, 0x3F, 0x00, 0xC0]), Ok(expected.clone()));
        assert_eq!(open("latents", F16, &[1, 2, 1, 1], &[0x00, 0x3C, 0x00, 0xC0]), Ok(expected));
        for (name, dtype, shape, bytes, problem) in [
            ("other", F32, &[1, 1, 1, 1][..], &[0; 4][..], "`latents` is missing"),
            ("latents", F32, &[1, 1], &[0; 4], "shape [1, 1], expected channels"),
            ("latents", F32, &[1, 0, 1, 1], &[], "none of them 0"),
            ("latents", I16, &[1, 1, 1, 1], &[0; 2], "type I16"),
            ("latents", BF16, &[1, 1, 1, 1], &[0xC0, 0x7F], "NaN"),
        ] {
            let error = open(name, dtype, shape, bytes).unwrap_err();
            assert!(error.contains(problem) && error.contains("z.safetensors"), "{error}");
        }
    }
}
