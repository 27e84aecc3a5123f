//! Latents as a safetensors file whose bytes depend on nothing but the latents and the metadata.

use std::collections::BTreeMap;

use super::{Latents, Metadata};

/// The file's bytes: header length, JSON header padded with spaces to 8 bytes, values in little endian.
///
/// Written here because the `safetensors` crate takes its metadata as a hash map, whose order changes from run to run.
pub(super) fn serialize(latents: &Latents, metadata: &Metadata) -> Result<Vec<u8>, String> {
    let expected = latents.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    if expected != Some(latents.values.len()) {
        return Err(format!("{} values do not have the shape {:?}", latents.values.len(), latents.shape));
    }
    let mut facts: BTreeMap<&str, &str> =
        metadata.facts.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    facts.insert("prompt", &metadata.prompt);
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
        let metadata = Metadata { prompt: "a \"b\"".into(), facts: vec![("seed".into(), "7".into())] };
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
}
