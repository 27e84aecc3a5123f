//! The names of a Wan transformer's tensors in diffusers, as published ones.

use crate::model::Weights;

/// Published names and those of diffusers, replaced in this order. (`norm2` of diffusers is the published `norm3`; the other norms have no
/// weights.)
const PARTS: [(&str, &str); 15] = [
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ("time_projection.1", "condition_embedder.time_proj"),
    ("head.head", "proj_out"),
    ("ffn.0", "ffn.net.0.proj"),
    ("ffn.2", "ffn.net.2"),
    ("norm3", "norm2"),
    ("self_attn", "attn1"),
    ("cross_attn", "attn2"),
    (".q.", ".to_q."),
    (".k.", ".to_k."),
    (".v.", ".to_v."),
    (".o.", ".to_out.0."),
];

/// `weights` under the published names.
pub(super) fn published(weights: Weights<'_>) -> Weights<'_> {
    if !weights.has("condition_embedder.time_proj.weight") {
        return weights;
    }
    weights.renamed(|name| Some(of_diffusers(name)))
}

/// The published name of a tensor of diffusers.
fn of_diffusers(name: &str) -> String {
    match name {
        // The table of the head; those of the blocks have the block's name before it.
        "scale_shift_table" => "head.modulation".into(),
        name => {
            let name = name.replace(".scale_shift_table", ".modulation");
            PARTS.iter().fold(name, |name, (published, diffusers)| name.replace(diffusers, published))
        }
    }
}

/// The published name of a tensor in either spelling.
pub(super) fn of_either(name: &str) -> String {
    let marks = ["attn1", "attn2", "ffn.net", "condition_embedder", "scale_shift_table", "proj_out"];
    if marks.iter().any(|mark| name.contains(mark)) { of_diffusers(name) } else { name.to_owned() }
}
