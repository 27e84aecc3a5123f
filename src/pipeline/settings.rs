//! What a video depends on. It is written into the video and its report, and compared before anything kept is used again.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::guidance::Guidance;
use crate::cache::CacheConfig;
use crate::hub::hex;

/// The version of this program's results. It rises with every change after which equal settings give a video of other bits, unless that
/// change is one of the kernels, which have a hash.
pub const RESULTS: u32 = 2;

/// Digits of hashes in messages.
const DIGITS: usize = 12;
/// The longest value in a message, in characters.
const LONGEST: usize = 60;
/// Fields that say where a video is from; it does not depend on them.
const ORIGIN: [&str; 2] = ["program", "preset"];

/// Everything that a video depends on, apart from the device, which may round differently.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Version of the program. The video depends on `results` and `kernels` instead.
    pub program: String,
    /// [`RESULTS`]
    pub results: u32,
    /// [`KERNELS`](crate::device::KERNELS)
    pub kernels: String,
    /// The model's name.
    pub model: String,
    /// [`weights_hash`](super::weights_hash) of the model.
    pub weights: String,
    /// The prompt as passed to the model.
    pub prompt: String,
    /// [`embedding_hash`](super::embedding_hash) of the embeddings of prompt and negative prompt, where they are known; otherwise they follow
    /// from the prompts, scores and weights.
    #[serde(default)]
    pub embedding: Option<String>,
    /// The negative prompt, of models that have one, unless its embedding is given.
    #[serde(default)]
    pub negative: Option<String>,
    /// What is appended to the prompt; `null`: nothing.
    #[serde(default)]
    pub scores: Value,
    /// Seed of the initial noise; in JSON text above 2^53.
    #[serde(with = "super::seed")]
    pub seed: u64,
    /// Hash of initial noise in place of the seed's.
    #[serde(default)]
    pub noise: Option<String>,
    /// Sampler and timestep shift, of models that have several.
    #[serde(default)]
    pub sampling: Value,
    /// Denoising steps, as requested.
    pub steps: usize,
    /// Guidance scales.
    pub cfg_scale: Guidance,
    /// The name by which the cache policy was chosen. The video depends on `codebook` instead.
    pub preset: String,
    /// The cache policy with all its settings.
    pub codebook: Value,
    /// Whether residuals are kept in 8 bits.
    #[serde(default)]
    pub packed_cache: bool,
    /// Whether the large products of blocks are of e4m3.
    #[serde(default)]
    pub fp8_weights: bool,
    /// Whether it was decoded in tiles.
    #[serde(default)]
    pub vae_tiling: bool,
    /// Element type of weights and activations.
    pub dtype: String,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Frames, of each part of a long video.
    pub frames: usize,
    /// Frames per second.
    pub fps: f64,
    /// The scale of the position embedding, which distinguishes sizes that differ before they are rounded.
    pub scale: f64,
    /// The videos that are decided about together; `None`: this one alone.
    #[serde(default)]
    pub batch: Option<Batch>,
    /// Given frames, and the parts of a long video: hashes and places; `None`: neither.
    #[serde(default)]
    pub given: Option<Value>,
    /// The device, where what is kept depends on it too: times, for example.
    #[serde(default)]
    pub device: Option<String>,
}

/// Videos that are decided about together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Their number.
    pub videos: usize,
    /// SHA-256 of their prompts, in order.
    pub prompts: String,
}

impl Batch {
    /// The batch of videos of these prompts; `None` for a single one.
    pub fn of(prompts: &[String]) -> Option<Batch> {
        let hash = |prompts: &[String]| hex(Sha256::new_with_prefix(json!(prompts).to_string()));
        (prompts.len() > 1).then(|| Batch { videos: prompts.len(), prompts: hash(prompts) })
    }
}

impl Settings {
    /// The settings in `text`, as [`Settings::to_json`] writes them; `None` for anything else, such as what another version has written.
    pub fn read(text: &str) -> Option<Settings> {
        serde_json::from_str(text).ok()
    }

    /// As JSON, on one line.
    pub fn to_json(&self) -> String {
        json!(self).to_string()
    }

    /// What the video depends on, as text: equal for equal videos.
    pub fn key(&self) -> String {
        json!(self.dependencies()).to_string()
    }

    fn dependencies(&self) -> Map<String, Value> {
        let Value::Object(mut fields) = json!(self) else { unreachable!("a struct is an object") };
        fields.retain(|name, _| !ORIGIN.contains(&name.as_str()));
        fields.values_mut().for_each(rounded);
        fields
    }

    /// How these settings differ from those asked for now, by field, in words: `seed 3, now 4`. Empty if the video is the same.
    pub fn differences(&self, asked: &Settings) -> Vec<(String, String)> {
        let (kept, now) = (self.dependencies(), asked.dependencies());
        let different = kept.iter().filter(|(name, value)| now.get(*name) != Some(value));
        let words = |(name, value): (&String, &Value)| match name.as_str() {
            "codebook" if self.preset == asked.preset => format!("cache {} with other settings", self.preset),
            "codebook" => format!("cache {}, now {}", self.preset, asked.preset),
            "results" | "kernels" => {
                format!("made by version {} of the program ({name} {})", self.program, short(value))
            }
            "given" => "other given frames or parts".to_owned(),
            _ => format!("{} {}, now {}", name.replace('_', " "), short(value), short(&now[name])),
        };
        different.map(|(name, value)| (name.clone(), words((name, value)))).collect()
    }
}

/// A cache policy with all its settings. A policy from outside the crate has no JSON form, and is described instead.
pub(super) fn codebook(cache: &CacheConfig) -> Value {
    serde_json::to_value(cache).unwrap_or_else(|_| json!(format!("{cache:?}")))
}

/// Rounds fractions to 13 digits: JSON may change the last bit of a number on its way to a file and back.
fn rounded(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let text = format!("{:.12e}", number.as_f64().unwrap_or_default());
            *value = json!(text.parse::<f64>().unwrap_or_default());
        }
        Value::Array(values) => values.iter_mut().for_each(rounded),
        Value::Object(fields) => fields.values_mut().for_each(rounded),
        _ => {}
    }
}

/// A value in a message.
fn short(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".into(),
        other => other.to_string(),
    };
    let is_hash = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let most = if is_hash { DIGITS } else { LONGEST };
    if text.chars().count() > most { text.chars().take(most).chain(['…']).collect() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            program: "0.2.0".into(),
            results: 1,
            kernels: "ab".repeat(32),
            model: "sprites".into(),
            weights: "cd".repeat(32),
            prompt: "a cat".into(),
            embedding: None,
            negative: None,
            scores: Value::Null,
            seed: u64::MAX,
            noise: None,
            sampling: Value::Null,
            steps: 30,
            cfg_scale: 7.5.into(),
            preset: "adacache-fast".into(),
            codebook: json!({ "policy": "adacache", "blocks": [2] }),
            packed_cache: false,
            fp8_weights: false,
            vae_tiling: false,
            dtype: "bf16".into(),
            width: 64,
            height: 48,
            frames: 16,
            fps: 8.0,
            scale: 55.4,
            batch: None,
            given: None,
            device: None,
        }
    }

    #[test]
    fn settings_come_back_from_json() {
        let all = Settings {
            batch: Batch::of(&["a".into(), "b".into()]),
            given: Some(json!({ "parts": 2 })),
            embedding: Some("ef".repeat(32)),
            ..settings()
        };
        for settings in [settings(), all] {
            assert_eq!(Settings::read(&settings.to_json()), Some(settings));
        }
        for other in ["", "{", "{\"seed\": 3}", "finished"] {
            assert_eq!(Settings::read(other), None);
        }
        assert_eq!(Batch::of(&["a".into()]), None);
    }

    #[test]
    fn whatever_a_video_depends_on_makes_a_difference() {
        let kept = settings();
        let value = |change: Value| {
            let mut fields = json!(kept);
            change.as_object().unwrap().iter().for_each(|(name, value)| fields[name] = value.clone());
            serde_json::from_value::<Settings>(fields).unwrap()
        };
        for (change, words) in [
            (json!({ "results": 2 }), "made by version 0.2.0 of the program (results 1)"),
            (json!({ "kernels": "0" }), "made by version 0.2.0 of the program (kernels abababababab…)"),
            (json!({ "model": "x" }), "model sprites, now x"),
            (json!({ "weights": "ef".repeat(32) }), "weights cdcdcdcdcdcd…, now efefefefefef…"),
            (json!({ "prompt": "a dog" }), "prompt a cat, now a dog"),
            (json!({ "embedding": "x" }), "embedding none, now x"),
            (json!({ "negative": "x" }), "negative none, now x"),
            (json!({ "noise": "x" }), "noise none, now x"),
            (json!({ "sampling": "euler" }), "sampling none, now euler"),
            (json!({ "seed": 3 }), "seed 18446744073709551615, now 3"),
            (json!({ "steps": 20 }), "steps 30, now 20"),
            (json!({ "cfg_scale": 1.0 }), "cfg scale 7.5, now 1.0"),
            (json!({ "cfg_scale": [7.5, 3.0] }), "cfg scale 7.5, now [7.5,3.0]"),
            (json!({ "codebook": {} }), "cache adacache-fast with other settings"),
            (json!({ "codebook": {}, "preset": "none" }), "cache adacache-fast, now none"),
            (json!({ "packed_cache": true }), "packed cache false, now true"),
            (json!({ "fp8_weights": true }), "fp8 weights false, now true"),
            (json!({ "vae_tiling": true }), "vae tiling false, now true"),
            (json!({ "dtype": "f32" }), "dtype bf16, now f32"),
            (json!({ "width": 8 }), "width 64, now 8"),
            (json!({ "height": 8 }), "height 48, now 8"),
            (json!({ "frames": 1 }), "frames 16, now 1"),
            (json!({ "fps": 24.0 }), "fps 8.0, now 24.0"),
            (json!({ "scale": 1.0 }), "scale 55.4, now 1.0"),
            (json!({ "given": { "parts": 2 } }), "other given frames or parts"),
            (json!({ "device": "vm" }), "device none, now vm"),
        ] {
            let asked = value(change);
            let differences = kept.differences(&asked);
            assert_eq!(differences.iter().map(|(_, words)| &words[..]).collect::<Vec<_>>(), [words]);
            assert_ne!(kept.key(), asked.key());
        }
        let scored = value(json!({ "scores": { "aesthetic": 5.0, "motion": null, "camera": null } }));
        assert!(kept.differences(&scored)[0].1.starts_with("scores none, now {"));
        let together = Settings { batch: Batch::of(&["a cat".into(), "a dog".into()]), ..settings() };
        assert!(kept.differences(&together)[0].1.starts_with("batch none, now {"));
        // The name of the program's version and of equal settings make none.
        let same = value(json!({ "program": "9.9.9", "preset": "my.toml" }));
        assert!(kept.differences(&same).is_empty() && kept.key() == same.key());
    }
}
