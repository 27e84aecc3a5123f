//! The names of an encoder's tensors: those of transformers, in place of those of Wan's published checkpoints and of llama.cpp.

use crate::model::Weights;

/// The token table, and a copy of it that some checkpoints carry.
pub(super) const TOKENS: &str = "shared.weight";
pub(super) const TOKENS_AGAIN: &str = "encoder.embed_tokens.weight";

/// Names in Wan's published checkpoints, and those of transformers.
const WAN: [(&str, &str); 12] = [
    ("token_embedding.", "shared."),
    ("blocks.", "encoder.block."),
    (".norm1.", ".layer.0.layer_norm."),
    (".norm2.", ".layer.1.layer_norm."),
    (".attn.q.", ".layer.0.SelfAttention.q."),
    (".attn.k.", ".layer.0.SelfAttention.k."),
    (".attn.v.", ".layer.0.SelfAttention.v."),
    (".attn.o.", ".layer.0.SelfAttention.o."),
    (".pos_embedding.embedding.", ".layer.0.SelfAttention.relative_attention_bias."),
    (".ffn.gate.0.", ".layer.1.DenseReluDense.wi_0."),
    (".ffn.fc1.", ".layer.1.DenseReluDense.wi_1."),
    (".ffn.fc2.", ".layer.1.DenseReluDense.wo."),
];

/// Names in llama.cpp's GGUF files, and those of transformers.
const LLAMA: [(&str, &str); 13] = [
    ("token_embd.", "shared."),
    ("enc.output_norm.", "encoder.final_layer_norm."),
    ("enc.blk.", "encoder.block."),
    (".attn_q.", ".layer.0.SelfAttention.q."),
    (".attn_k.", ".layer.0.SelfAttention.k."),
    (".attn_v.", ".layer.0.SelfAttention.v."),
    (".attn_o.", ".layer.0.SelfAttention.o."),
    (".attn_rel_b.", ".layer.0.SelfAttention.relative_attention_bias."),
    (".attn_norm.", ".layer.0.layer_norm."),
    (".ffn_gate.", ".layer.1.DenseReluDense.wi_0."),
    (".ffn_up.", ".layer.1.DenseReluDense.wi_1."),
    (".ffn_down.", ".layer.1.DenseReluDense.wo."),
    (".ffn_norm.", ".layer.1.layer_norm."),
];

fn replaced(name: &str, parts: &[(&str, &str)]) -> String {
    parts.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// The encoder's tensors among `weights` by the names of transformers; a decoder's and others are left out.
pub fn published(weights: Weights<'_>) -> Weights<'_> {
    let [wan, llama] = ["token_embedding.weight", "token_embd.weight"].map(|name| weights.has(name));
    let once = weights.has(TOKENS);
    weights.renamed(|name| match name {
        _ if once => Some(name.to_owned()).filter(|name| is_encoders(name)),
        "norm.weight" if wan => Some("encoder.final_layer_norm.weight".into()),
        name if wan => Some(replaced(name, &WAN)),
        name if llama => Some(replaced(name, &LLAMA)).filter(|name| is_encoders(name)),
        // Some have the table under this name alone.
        TOKENS_AGAIN => Some(TOKENS.into()),
        name => Some(name.to_owned()).filter(|name| is_encoders(name)),
    })
}

fn is_encoders(name: &str) -> bool {
    name.starts_with("shared.") || name.starts_with("encoder.")
}
