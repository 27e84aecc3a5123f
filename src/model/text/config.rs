//! `config.json` of a T5 or umT5 encoder, with the field names of transformers or those of Wan's published code.

use serde::Deserialize;

use super::names::TOKENS;
use crate::model::dit::pieces::NORM_EPS;
use crate::model::{ModelError, Weights};

/// The shape of a T5 v1.1 encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct T5Config {
    /// Entries of the token table.
    pub vocabulary: usize,
    /// Channels C of a token.
    pub width: usize,
    /// Channels of an attention head.
    pub head_dim: usize,
    /// Attention heads.
    pub heads: usize,
    /// Hidden width of the MLP.
    pub hidden: usize,
    /// Blocks.
    pub layers: usize,
    /// Buckets of the relative bias.
    pub buckets: usize,
    /// The distance from which on all share the last bucket.
    pub max_distance: usize,
}

/// The fields of both spellings.
#[derive(Deserialize)]
struct Fields {
    vocab_size: usize,
    #[serde(alias = "dim")]
    d_model: usize,
    d_kv: Option<usize>,
    dim_attn: Option<usize>,
    #[serde(alias = "dim_ffn")]
    d_ff: usize,
    num_layers: usize,
    num_heads: usize,
    #[serde(alias = "num_buckets", default = "buckets")]
    relative_attention_num_buckets: usize,
    #[serde(default = "max_distance")]
    relative_attention_max_distance: usize,
    feed_forward_proj: Option<String>,
    layer_norm_epsilon: Option<f64>,
}

fn buckets() -> usize {
    32
}

fn max_distance() -> usize {
    128
}

impl T5Config {
    /// Reads and checks the text of a `config.json`; `file` names it in errors.
    ///
    /// # Errors
    /// Fields that are missing; a network that is not a gated T5; sizes that this runtime has no kernels for.
    pub fn from_json(text: &str, file: &str) -> Result<T5Config, ModelError> {
        let bad = |reason| ModelError::Config { file: file.into(), reason };
        let fields: Fields =
            serde_json::from_str(text).map_err(|e| bad(format!("not the configuration of a T5 encoder: {e}")))?;
        let head_dim = fields.d_kv.or(fields.dim_attn.and_then(|all| all.checked_div(fields.num_heads)));
        let config = T5Config {
            vocabulary: fields.vocab_size,
            width: fields.d_model,
            head_dim: head_dim.ok_or_else(|| bad("there is neither `d_kv` nor `dim_attn`".into()))?,
            heads: fields.num_heads,
            hidden: fields.d_ff,
            layers: fields.num_layers,
            buckets: fields.relative_attention_num_buckets,
            max_distance: fields.relative_attention_max_distance,
        };
        if let Some(other) = fields.feed_forward_proj.filter(|name| name != "gated-gelu") {
            return Err(bad(format!("feed_forward_proj is `{other}`: gated-gelu (T5 v1.1, umT5) is supported")));
        }
        if let Some(eps) = fields.layer_norm_epsilon.filter(|eps| *eps as f32 != NORM_EPS) {
            return Err(bad(format!("layer_norm_epsilon is {eps}, expected {NORM_EPS:e}")));
        }
        config.validate().map_err(bad)?;
        Ok(config)
    }

    /// The sizes of an encoder without a `config.json`, as the shapes of its tensors tell them; `weights` have the names of transformers (see
    /// [`published`](super::published)).
    ///
    /// # Errors
    /// Tensors that are missing or have other axes; sizes that this runtime has no kernels for.
    pub fn from_weights(weights: &Weights<'_>) -> Result<T5Config, ModelError> {
        let file = weights.file().to_owned();
        let matrix = |name: &str| match weights.shape(name).as_deref() {
            Some([rows, columns]) => Ok([*rows, *columns]),
            Some(_) => Err(ModelError::Config { file: file.clone(), reason: format!("`{name}` is no matrix") }),
            None => Err(ModelError::MissingTensor { file: file.clone(), tensor: name.into(), expected: vec![] }),
        };
        let block = |index: usize, name: &str| format!("encoder.block.{index}.layer.{name}.weight");
        let [vocabulary, width] = matrix(TOKENS)?;
        let [buckets, heads] = matrix(&block(0, "0.SelfAttention.relative_attention_bias"))?;
        let [inner, _] = matrix(&block(0, "0.SelfAttention.q"))?;
        let [hidden, _] = matrix(&block(0, "1.DenseReluDense.wi_0"))?;
        let layers = (0..).take_while(|index| weights.has(&block(*index, "0.SelfAttention.q"))).count();
        let head_dim = inner.checked_div(heads).unwrap_or(0);
        let max_distance = max_distance();
        let config = T5Config { vocabulary, width, head_dim, heads, hidden, layers, buckets, max_distance };
        config.validate().map_err(|reason| ModelError::Config { file: file.clone(), reason })?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), String> {
        let counts = [
            ("vocab_size", self.vocabulary, 1 << 24),
            ("d_model", self.width, 65536),
            ("num_heads", self.heads, 1024),
            ("d_ff", self.hidden, 1 << 20),
            ("num_layers", self.layers, 1000),
        ];
        for (name, value, most) in counts {
            if !(1..=most).contains(&value) {
                return Err(format!("{name} is {value}, expected 1 to {most}"));
            }
        }
        if !(8..=64).contains(&self.head_dim) || !self.head_dim.is_multiple_of(8) || !self.width.is_multiple_of(2) {
            return Err(format!(
                "d_kv {} and d_model {}: there are kernels for heads of 8 to 64 channels in steps of 8, and an even d_model",
                self.head_dim, self.width
            ));
        }
        if !self.buckets.is_multiple_of(4) || self.buckets < 4 || self.max_distance <= self.buckets / 4 {
            return Err(format!(
                "{} buckets for distances up to {}: expected a multiple of 4, and distances beyond a quarter of it",
                self.buckets, self.max_distance
            ));
        }
        Ok(())
    }

    /// The bucket of a distance from query to key: near ones have one each, then they grow by powers.
    pub(super) fn bucket(&self, distance: isize) -> usize {
        let (side, far) = (self.buckets / 2, distance.unsigned_abs());
        let exact = side / 2;
        let within = if far < exact {
            far
        } else {
            // far/exact ≥ (max_distance/exact)^(k/n), without logarithms, which round.
            let n = (side - exact) as i32;
            let (ratio, most) = (far as f64 / exact as f64, self.max_distance as f64 / exact as f64);
            exact + (1..n).take_while(|k| ratio.powi(n) >= most.powi(*k)).count()
        };
        if distance > 0 { side + within } else { within }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_begin_where_they_do_in_the_published_code() {
        let text = r#"{"vocab_size": 8, "dim": 8, "dim_attn": 8, "dim_ffn": 8, "num_heads": 1, "num_layers": 1}"#;
        let config = T5Config::from_json(text, "config.json").unwrap();
        let begins = [(8, 8), (12, 9), (16, 10), (23, 11), (32, 12), (46, 13), (64, 14), (91, 15), (1000, 15)];
        for (distance, bucket) in begins {
            assert_eq!(config.bucket(-distance), bucket, "{distance}");
            assert_eq!(config.bucket(distance), 16 + bucket, "{distance}");
            if distance < 1000 {
                assert_eq!(config.bucket(1 - distance), bucket - 1, "{distance}");
            }
        }
        assert_eq!((config.bucket(0), config.bucket(1), config.bucket(-7)), (0, 17, 7));
    }
}
