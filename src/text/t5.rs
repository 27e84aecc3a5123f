//! The T5 v1.1 encoder for Open-Sora's prompts. It runs on the CPU, and is released once its embeddings are computed.
//!
//! The published pipeline pads every prompt to 300 tokens and masks the padding out of the attention. Masked tokens have no weight in it at
//! all and positions are relative, so the unpadded prompt has the same embedding, and only that is computed.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file;
use candle_core::{DType, Device, Tensor, pickle::PthTensors, safetensors::MmapedSafetensors};
use candle_transformers::models::{quantized_t5, t5};

use super::Embedding;
use super::error::{EncoderError, failed, fault};
use super::tokens::{Tokenised, Tokens};
use crate::hub::{Checkpoint, Part, TextWeights};
use crate::model::Naming;

enum Encoder {
    Full(t5::T5EncoderModel),
    Quantised(quantized_t5::T5EncoderModel),
}

/// A loaded text encoder.
pub struct T5 {
    tokens: Tokens,
    encoder: Encoder,
    channels: usize,
}

impl T5 {
    /// Loads the encoder of `checkpoint` for prompts of at most `max_tokens` tokens, the end-of-sentence token included.
    ///
    /// Weights keep the element type in which they are stored; everything is computed in f32.
    ///
    /// # Errors
    /// Missing or damaged files, tensors that are missing or have another shape than config.json implies.
    pub fn load(checkpoint: &Checkpoint, max_tokens: usize) -> Result<T5, EncoderError> {
        let weights = checkpoint.text_weights()?;
        let tokens = Tokens::load(checkpoint, max_tokens)?;
        let path = checkpoint.file(Part::Text, "config.json");
        let text = fs::read_to_string(&path).map_err(fault(&path))?;
        let config: t5::Config = serde_json::from_str(&text).map_err(fault(&path))?;
        let file = &weights.files()[0];
        let encoder = match &weights {
            TextWeights::Safetensors(files) => full(&config, safetensors(files)?, file)?,
            TextWeights::Pickle(files) => full(&config, pickles(files)?, file)?,
            TextWeights::Gguf(file) => {
                let config: quantized_t5::Config = serde_json::from_str(&text).map_err(fault(&path))?;
                let renamed = published_names(file)?;
                let weights = match &renamed {
                    Some(bytes) => quantized_t5::VarBuilder::from_gguf_buffer(bytes, &Device::Cpu),
                    None => quantized_t5::VarBuilder::from_gguf(file, &Device::Cpu),
                };
                let loaded = weights.and_then(|weights| quantized_t5::T5EncoderModel::load(weights, &config));
                Encoder::Quantised(loaded.map_err(fault(file))?)
            }
        };
        if tokens.vocabulary() > config.vocab_size {
            let reason = format!("its tokenizer has {} tokens, the encoder {}", tokens.vocabulary(), config.vocab_size);
            return Err(EncoderError::File { file: path, reason });
        }
        Ok(T5 { tokens, encoder, channels: config.d_model })
    }

    /// Width of an embedding.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The tokens of a prompt, truncated to the maximum, with the end-of-sentence token.
    pub fn tokens(&self, prompt: &str) -> Result<Vec<u32>, EncoderError> {
        Ok(self.tokens.of(prompt)?.ids)
    }

    /// The embedding of a prompt, of as many tokens as [`T5::tokens`] gives; a warning tells what is cut.
    pub fn encode(&mut self, prompt: &str) -> Result<Embedding, EncoderError> {
        let Tokenised { ids, cut } = self.tokens.of(prompt)?;
        if let Some(cut) = cut {
            tracing::warn!("{cut}");
        }
        let tokens = ids.len();
        let values =
            self.forward(&ids).and_then(|hidden| hidden.flatten_all()?.to_vec1::<f32>()).map_err(failed(prompt))?;
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(failed(prompt)(format!("its embedding holds {value}")));
        }
        Ok(Embedding { values, tokens })
    }

    fn forward(&mut self, ids: &[u32]) -> candle_core::Result<Tensor> {
        let ids = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
        match &mut self.encoder {
            Encoder::Full(model) => model.forward_dt(&ids, Some(DType::F32)),
            Encoder::Quantised(model) => model.forward(&ids),
        }
    }
}

/// The encoder's tensors by name.
type Tensors = HashMap<String, Tensor>;

/// Whether a tensor belongs to the encoder: some files hold the decoder too.
fn is_encoders(name: &str) -> bool {
    name == "shared.weight" || name.starts_with("encoder.")
}

/// The encoder's tensors among `names`, each with its published name.
fn encoders(names: &[String]) -> Vec<(&String, String)> {
    let naming = Naming::of(names.iter().map(String::as_str));
    let plain = names.iter().filter_map(|name| Some((name, naming.plain(name)?.to_owned())));
    plain.filter(|(_, plain)| is_encoders(plain)).collect()
}

fn safetensors(files: &[PathBuf]) -> Result<Tensors, EncoderError> {
    // SAFETY: the file is only read, and nobody changes checkpoints while a program uses them.
    let mapped = unsafe { MmapedSafetensors::multi(files) }.map_err(fault(&files[0]))?;
    let names: Vec<String> = mapped.tensors().into_iter().map(|(name, _)| name).collect();
    let tensors = encoders(&names).into_iter();
    tensors.map(|(name, plain)| Ok((plain, mapped.load(name, &Device::Cpu).map_err(fault(&files[0]))?))).collect()
}

fn pickles(files: &[PathBuf]) -> Result<Tensors, EncoderError> {
    let mut tensors = Tensors::new();
    for file in files {
        let shard = PthTensors::new(file, None).map_err(fault(file))?;
        let names: Vec<String> = shard.tensor_infos().keys().cloned().collect();
        for (name, plain) in encoders(&names) {
            let tensor = shard.get(name).map_err(fault(file))?;
            tensors.extend(tensor.map(|tensor| (plain, tensor)));
        }
    }
    Ok(tensors)
}

fn full(config: &t5::Config, tensors: Tensors, file: &Path) -> Result<Encoder, EncoderError> {
    let refused = |reason| Err(EncoderError::File { file: file.to_owned(), reason });
    let float = |dtype| matches!(dtype, DType::F32 | DType::F16 | DType::BF16 | DType::F8E4M3);
    if let Some((name, tensor)) = tensors.iter().find(|(_, tensor)| !float(tensor.dtype())) {
        return refused(format!(
            "tensor `{name}` has element type {:?}, expected F32, F16, BF16 or F8_E4M3",
            tensor.dtype()
        ));
    }
    if let Some(name) = tensors.keys().find(|name| name.ends_with(".scale_weight") || name.ends_with(".weight_scale")) {
        return refused(format!(
            "it is in eight bits with factors (`{name}`), which are not read; take a file without, or GGUF"
        ));
    }
    // Nothing is computed in eight bits; sixteen hold all their values.
    let wide = |tensor: &Tensor| if tensor.dtype() == DType::F8E4M3 { DType::BF16 } else { tensor.dtype() };
    let dtype = tensors.values().next().map_or(DType::F32, wide);
    let weights = candle_nn::VarBuilder::from_tensors(tensors, dtype, &Device::Cpu);
    Ok(Encoder::Full(t5::T5EncoderModel::load(weights, config).map_err(fault(file))?))
}

/// The bytes of a GGUF file with the published tensor names, if it uses those of llama.cpp.
fn published_names(path: &Path) -> Result<Option<Vec<u8>>, EncoderError> {
    let mut file = File::open(path).map_err(fault(path))?;
    let content = gguf_file::Content::read(&mut file).map_err(fault(path))?;
    if !content.tensor_infos.contains_key("token_embd.weight") {
        return Ok(None);
    }
    let names = content.tensor_infos.keys().filter_map(|name| Some((name, published_name(name)?)));
    let tensors: Vec<_> = names
        .map(|(name, published)| Ok((published, content.tensor(&mut file, name, &Device::Cpu)?)))
        .collect::<candle_core::Result<_>>()
        .map_err(fault(path))?;
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut bytes = std::io::Cursor::new(vec![]);
    gguf_file::write(&mut bytes, &[], &tensors).map_err(fault(path))?;
    Ok(Some(bytes.into_inner()))
}

/// The published name of one of llama.cpp's tensors; `None` for those of the decoder.
fn published_name(name: &str) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("shared.weight".into()),
        "enc.output_norm.weight" => return Some("encoder.final_layer_norm.weight".into()),
        _ => {}
    }
    let (block, part) = name.strip_prefix("enc.blk.")?.split_once('.')?;
    let part = match part.strip_suffix(".weight")? {
        "attn_q" => "0.SelfAttention.q",
        "attn_k" => "0.SelfAttention.k",
        "attn_v" => "0.SelfAttention.v",
        "attn_o" => "0.SelfAttention.o",
        "attn_rel_b" => "0.SelfAttention.relative_attention_bias",
        "attn_norm" => "0.layer_norm",
        "ffn_gate" => "1.DenseReluDense.wi_0",
        "ffn_up" => "1.DenseReluDense.wi_1",
        "ffn_down" => "1.DenseReluDense.wo",
        "ffn_norm" => "1.layer_norm",
        _ => return None,
    };
    Some(format!("encoder.block.{block}.layer.{part}.weight"))
}
