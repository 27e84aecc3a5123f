//! The text encoder against the reference, whole and quantised.

use std::fs;

use adacache::family::opensora::PUBLISHED;
use adacache::hub::{Checkpoint, Part};
use adacache::model::text::{T5Config, T5Needs};
use adacache::tensor::DType;
use adacache::text::{T5, T5Files, Tokenised, Tokens};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::common::written::{self, Kind, Plain};
use crate::common::{device, names};
use crate::golden;

/// What the reference has of the text encoder.
struct Reference {
    /// Prompts and their tokens.
    prompts: Vec<(String, Vec<u32>)>,
    /// `[prompts, tokens, channels]`, padded and masked.
    hidden: Vec<f32>,
    shape: Vec<usize>,
}

fn reference() -> Reference {
    let cases: Vec<Value> = serde_json::from_slice(&fs::read(golden("t5-v1_1-xxl/reference.json")).unwrap()).unwrap();
    let ids = |case: &Value| case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    let prompts = cases.iter().map(|case| (case["prompt"].as_str().unwrap().to_owned(), ids(case))).collect();
    let bytes = fs::read(golden("t5-v1_1-xxl/reference.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor("hidden").unwrap();
    let hidden = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    Reference { prompts, hidden, shape: view.shape().to_vec() }
}

/// The relative error of the encoder in `folder`'s checkpoint against the reference; tokens have to be the same.
fn error_of(checkpoint: &Checkpoint) -> f64 {
    let Reference { prompts, hidden, shape } = reference();
    let (length, channels) = (shape[1], shape[2]);
    let t5 = T5::load(&T5Files::of(checkpoint).unwrap(), &device(), DType::F32, 300).unwrap();
    let (mut difference, mut norm) = (0.0, 0.0);
    for (i, (prompt, ids)) in prompts.iter().enumerate() {
        assert_eq!(t5.tokens(prompt).unwrap(), *ids, "{prompt}");
        let embedding = t5.encode(prompt).unwrap();
        assert_eq!((embedding.tokens, embedding.values.len()), (ids.len(), ids.len() * channels));
        for (ours, theirs) in embedding.values.iter().zip(&hidden[i * length * channels..]) {
            difference += f64::from(ours - theirs).powi(2);
            norm += f64::from(*theirs).powi(2);
        }
        // What the encoder makes of padding, and a part of the prompt alone.
        for places in [length, 3] {
            let padded = t5.encode_to(prompt, places).unwrap();
            assert_eq!((padded.tokens, padded.values.len()), (places, places * channels));
            for (ours, theirs) in padded.values.iter().zip(&hidden[i * length * channels..]) {
                difference += f64::from(ours - theirs).powi(2);
                norm += f64::from(*theirs).powi(2);
            }
        }
    }
    (difference / norm).sqrt()
}

/// A text encoder's folder with other weights.
fn with_weights(weights: &[(&str, &[u8])]) -> (tempfile::TempDir, Checkpoint) {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text");
    fs::create_dir(&text).unwrap();
    for name in ["config.json", "tokenizer.json"] {
        fs::copy(golden("t5-v1_1-xxl").join(name), text.join(name)).unwrap();
    }
    for (name, bytes) in weights {
        fs::write(text.join(name), bytes).unwrap();
    }
    let checkpoint = Checkpoint::at(&PUBLISHED, dir.path());
    (dir, checkpoint)
}

#[test]
fn the_text_encoder_agrees_with_the_reference() {
    let bytes = fs::read(golden("t5-v1_1-xxl/model.safetensors")).unwrap();
    let (_dir, checkpoint) = with_weights(&[("model.safetensors", &bytes)]);
    let error = error_of(&checkpoint);
    assert!(error <= 1e-5, "safetensors: {error:.1e}");

    let shards: Vec<(String, Vec<u8>)> = names(&golden("t5-bin"))
        .into_iter()
        .map(|n| (n.clone(), fs::read(golden("t5-bin").join(n)).unwrap()))
        .collect();
    let shards: Vec<(&str, &[u8])> = shards.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    let (_dir, checkpoint) = with_weights(&shards);
    let error = error_of(&checkpoint);
    assert!(error <= 1e-5, "shards of torch.save: {error:.1e}");
}

/// The names of llama.cpp.
fn llama(name: &str) -> String {
    let parts = [
        ("shared.", "token_embd."),
        ("encoder.final_layer_norm", "enc.output_norm"),
        ("encoder.block.", "enc.blk."),
        ("layer.0.SelfAttention.relative_attention_bias", "attn_rel_b"),
        ("layer.0.SelfAttention.", "attn_"),
        ("layer.0.layer_norm", "attn_norm"),
        ("layer.1.layer_norm", "ffn_norm"),
        ("layer.1.DenseReluDense.wi_0", "ffn_gate"),
        ("layer.1.DenseReluDense.wi_1", "ffn_up"),
        ("layer.1.DenseReluDense.wo", "ffn_down"),
    ];
    parts.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

#[test]
fn quantised_text_encoders_come_close() {
    let tensors = written::read(&golden("t5-v1_1-xxl/model.safetensors"));
    let plain = |name: &str| name.to_owned();
    for (names, kind, bound) in [
        (&plain as &dyn Fn(&str) -> String, Kind::Q8_0, 2e-2),
        (&llama, Kind::Q8_0, 2e-2),
        (&llama, Kind::F16, 2e-3),
        (&llama, Kind::F32, 1e-5),
    ] {
        let quantised: Vec<(Plain, Kind)> = tensors
            .iter()
            .map(|(name, shape, values)| {
                // Norms and the few biases of positions stay as they are, as everybody's converters leave them.
                let keep = name.contains("norm") || name.contains("relative");
                ((names(name), shape.clone(), values.clone()), if keep { Kind::F32 } else { kind })
            })
            .collect();
        let bytes = written::gguf(&quantised);
        let (dir, checkpoint) = with_weights(&[("t5.gguf", &bytes)]);
        let error = error_of(&checkpoint);
        assert!(error > 0.0 && error <= bound, "{kind:?}: {error:.1e}");

        fs::write(dir.path().join("text/t5.gguf"), &bytes[..bytes.len() - 100]).unwrap();
        let error = checkpoint.require(&[Part::Text]).unwrap_err().to_string();
        assert!(error.contains("t5.gguf") && error.contains("ends after"), "{error}");
    }
}

/// umT5 under the names of Wan's published code, as torch.save writes it, without a config.json, and with blocks in host memory.
#[test]
fn the_encoder_of_wan_is_read_without_a_configuration() {
    let umt5 = golden("../umt5_a");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("models_t5_umt5-xxl-enc-bf16.pth");
    fs::write(&file, written::torch(Some("state_dict"), &written::read(&umt5.join("model.safetensors")))).unwrap();
    let bare = T5Files { tokenizer: golden("t5-v1_1-xxl/tokenizer.json"), config: None, weights: vec![file] };
    let config = umt5.join("config.json");
    let whole = T5Files { config: Some(config.clone()), weights: vec![umt5.join("model.safetensors")], ..bare.clone() };

    let device = device();
    let embedding = |files| T5::load(files, &device, DType::F32, 512)?.encode("a drone flies over a river");
    let found = embedding(&bare).unwrap();
    assert_eq!(found, embedding(&whole).unwrap());
    let config = T5Config::from_json(&fs::read_to_string(&config).unwrap(), "config.json").unwrap();
    let needs = T5Needs::count(&config, &device, DType::F32, 512).unwrap();
    let limited = |bytes| {
        device.limit_memory(Some(device.allocated_bytes() + bytes));
        embedding(&whole)
    };
    assert_eq!(found, limited(needs.least()).unwrap());
    let error = limited(needs.least() - 1).unwrap_err().to_string();
    assert!(error.contains("the text encoder takes") && error.contains("--vram-budget"), "{error}");
}

/// What is cut begins with the first word that does not fit whole.
#[test]
fn the_end_of_a_long_prompt_is_told() {
    let bytes = fs::read(golden("t5-v1_1-xxl/model.safetensors")).unwrap();
    let (_dir, checkpoint) = with_weights(&[("model.safetensors", &bytes)]);
    let prompt = "a drone flies over a river between snowy mountains, two red boats on the sea in the mörning light";
    let files = T5Files::of(&checkpoint).unwrap();
    let all = Tokens::load(&files.tokenizer, 300).unwrap().of(prompt).unwrap();
    assert_eq!(all.cut, None);
    for most in [5, 8, 13, 21, all.ids.len() - 1] {
        let tokens = Tokens::load(&files.tokenizer, most).unwrap();
        let Tokenised { ids, cut } = tokens.of(prompt).unwrap();
        let cut = cut.unwrap();
        // All but the end-of-sentence token, which stays.
        assert_eq!((ids.len(), &ids[..most - 1], ids.last()), (most, &all.ids[..most - 1], all.ids.last()));
        assert_eq!((cut.most, cut.tokens), (most, all.ids.len() - most));
        let kept = prompt.strip_suffix(&cut.text).unwrap();
        assert!(kept.is_empty() || kept.ends_with(' '), "{most}: {cut}");
        assert_eq!(tokens.of(kept.trim()).unwrap().cut, None, "{most}: {cut}");
        let more = format!("{kept}{}", cut.text.split(' ').next().unwrap());
        assert!(tokens.of(&more).unwrap().cut.is_some(), "{most}: {cut}");
        assert!(cut.to_string().contains(&format!("the {most} tokens that the model reads")), "{cut}");
    }
    assert_eq!(T5::load(&files, &device(), DType::Bf16, 8).unwrap().tokens(prompt).unwrap().len(), 8);
}
