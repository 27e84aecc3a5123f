//! LoRA: small matrices whose product is added to a weight when it is read, `W + strength · alpha/rank · up · down`.
//!
//! Three spellings are in use, and mixed: those of diffusers and PEFT (`….lora_A.weight`, `….lora_B.weight`), the official one
//! (`diffusion_model.….lora_down.weight`, `….lora_up.weight`), and kohya's, in which the dots of a module's name are underscores
//! (`lora_unet_blocks_0_self_attn_q.lora_down.weight`). `….alpha` is the rank if it is absent. `….diff` and `….diff_b` are added to a weight and a
//! bias as they are.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::thread;

use super::weights::Addition;
use super::{ModelError, Weights};

/// What stands before a module's name.
const PREFIXES: [&str; 6] =
    ["base_model.model.", "diffusion_model.", "transformer.", "model.", "lora_unet__", "lora_unet_"];
/// What stands behind it, and the part that it is.
const PARTS: [(&str, Part); 11] = [
    (".lora_A.weight", Part::Down),
    (".lora_A.default.weight", Part::Down),
    (".lora_down.weight", Part::Down),
    (".lora.down.weight", Part::Down),
    (".lora_B.weight", Part::Up),
    (".lora_B.default.weight", Part::Up),
    (".lora_up.weight", Part::Up),
    (".lora.up.weight", Part::Up),
    (".alpha", Part::Alpha),
    (".diff", Part::Weight),
    (".diff_b", Part::Bias),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Down,
    Up,
    Alpha,
    Weight,
    Bias,
}

/// A LoRA to add to a model's weights.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraFile {
    /// The safetensors file.
    pub path: PathBuf,
    /// What its product is multiplied by.
    pub strength: f32,
    /// The expert that it is for, of models of several; `None`: all.
    pub expert: Option<String>,
}

impl FromStr for LoraFile {
    type Err = String;

    /// `FILE` or `FILE:STRENGTH`, and `@EXPERT` behind either; the strength is 1 if it is left out.
    fn from_str(text: &str) -> Result<LoraFile, String> {
        let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        let (rest, expert) = match text.rsplit_once('@') {
            Some((rest, name)) if !rest.is_empty() && is_name(name) => (rest, Some(name.to_owned())),
            _ => (text, None),
        };
        let (path, strength) = match rest.rsplit_once(':') {
            Some((path, strength)) if !path.is_empty() && !strength.contains(['/', '\\']) => (path, strength),
            _ => (rest, "1"),
        };
        let strength = strength.parse().ok().filter(|strength: &f32| strength.is_finite());
        match strength {
            Some(strength) => Ok(LoraFile { path: path.into(), strength, expert }),
            None => Err(format!("`{text}`: write FILE or FILE:STRENGTH with a number, as in style.safetensors:0.8")),
        }
    }
}

/// `weights` with LoRAs added when they are read, in this order. `published` turns the name of a tensor in another spelling into that of one
/// of these.
///
/// # Errors
/// As [`Lora::open`].
pub(super) fn adapted<'a>(
    weights: Weights<'a>,
    loras: &[LoraFile],
    published: &dyn Fn(&str) -> String,
) -> Result<Weights<'a>, ModelError> {
    let tensors: BTreeMap<&str, Vec<usize>> =
        weights.names().map(|name| (name, weights.shape(name).unwrap_or_default())).collect();
    let open = |lora| Ok::<_, ModelError>(Box::new(Lora::open(lora, &tensors, published)?) as Box<dyn Addition>);
    let additions = loras.iter().map(open).collect::<Result<_, _>>()?;
    Ok(weights.with(additions))
}

/// A LoRA file, resolved to the tensors of one checkpoint.
struct Lora {
    weights: Weights<'static>,
    strength: f32,
    /// The names of its parts in the file, by module.
    modules: BTreeMap<String, BTreeMap<Part, String>>,
}

impl Lora {
    /// Opens a file for a checkpoint whose `tensors` have these names and shapes; `published` turns a tensor's name in another spelling into
    /// one of them.
    ///
    /// # Errors
    /// A file that cannot be read, names that are no LoRA's or of no weight that the checkpoint has, parts without their other half, shapes
    /// that do not fit.
    fn open(
        LoraFile { path, strength, .. }: &LoraFile,
        tensors: &BTreeMap<&str, Vec<usize>>,
        published: &dyn Fn(&str) -> String,
    ) -> Result<Lora, ModelError> {
        let (weights, strength) = (Weights::open(path)?, *strength);
        let bad = |reason: String| ModelError::Lora { file: path.display().to_string(), reason };
        let underscored: BTreeMap<String, &str> =
            tensors.keys().filter_map(|name| name.strip_suffix(".weight")).map(|m| (m.replace('.', "_"), m)).collect();
        let mut modules: BTreeMap<String, BTreeMap<Part, String>> = BTreeMap::new();
        let mut unknown = vec![];
        for name in weights.names() {
            let Some((module, part)) =
                PARTS.iter().find_map(|(ending, part)| Some((name.strip_suffix(ending)?, *part)))
            else {
                unknown.push(name.to_owned());
                continue;
            };
            let plain = PREFIXES.iter().fold(module, |module, prefix| module.strip_prefix(prefix).unwrap_or(module));
            let full = published(&format!("{plain}.weight"));
            let found = match underscored.get(plain) {
                Some(module) => Some((*module).to_owned()),
                None => full.strip_suffix(".weight").filter(|_| tensors.contains_key(&*full)).map(str::to_owned),
            };
            match found {
                Some(module) => drop(modules.entry(module).or_default().insert(part, name.to_owned())),
                None => unknown.push(name.to_owned()),
            }
        }
        if let Some(first) = unknown.first() {
            let (tensors, more) = (unknown.len(), weights.names().count());
            return Err(bad(format!(
                "{tensors} of its {more} tensors belong to no weight of this model, the first is `{first}`: is it a LoRA for another one?"
            )));
        }
        let halved = |parts: &BTreeMap<Part, String>| parts.contains_key(&Part::Down) != parts.contains_key(&Part::Up);
        if let Some((module, _)) = modules.iter().find(|(_, parts)| halved(parts)) {
            return Err(bad(format!("`{module}` has one of the two matrices without the other")));
        }
        if modules.is_empty() {
            return Err(bad("it holds no tensors".into()));
        }
        let lora = Lora { weights, strength, modules };
        lora.check_shapes(tensors).map_err(bad)?;
        Ok(lora)
    }

    /// Checks that what is added has the shape of what it is added to.
    fn check_shapes(&self, tensors: &BTreeMap<&str, Vec<usize>>) -> Result<(), String> {
        for (module, parts) in &self.modules {
            let target = |kind: &str| tensors.get(&*format!("{module}.{kind}")).map(Vec::as_slice);
            let found = |name: &String| self.weights.shape(name).unwrap_or_default();
            let refused = |kind: &str, name: &str, shape: &[usize]| {
                let own = target(kind).map_or_else(|| "is not there".into(), |own| format!("has shape {own:?}"));
                Err(format!(
                    "tensor `{name}` of shape {shape:?} does not fit: `{module}.{kind}` of this model {own}; is it a LoRA for another one?"
                ))
            };
            for (part, kind) in [(Part::Weight, "weight"), (Part::Bias, "bias")] {
                if let Some(name) = parts.get(&part)
                    && target(kind) != Some(&found(name))
                {
                    return refused(kind, name, &found(name));
                }
            }
            let (Some(down), Some(up)) = (parts.get(&Part::Down), parts.get(&Part::Up)) else { continue };
            let rank = found(down).first().copied().unwrap_or(0).max(1);
            let own = target("weight").unwrap_or_default();
            let rows = own.first().copied().unwrap_or(0);
            let columns: usize = own.iter().skip(1).product();
            for (name, sides) in [(down, [rank, columns]), (up, [rows, rank])] {
                let shape = found(name);
                if shape.first() != Some(&sides[0]) || shape.iter().product::<usize>() != sides[0] * sides[1] {
                    return refused("weight", name, &shape);
                }
            }
        }
        Ok(())
    }

    /// Adds `strength · alpha/rank · up · down`.
    fn multiply(
        &self,
        [down, up]: [&str; 2],
        alpha: Option<&String>,
        shape: &[usize],
        values: &mut [f32],
    ) -> Result<(), ModelError> {
        let found = self.weights.shape(down).unwrap_or_default();
        let (rank, rows) = (found.first().copied().unwrap_or(0).max(1), shape.first().copied().unwrap_or(0));
        let columns = values.len() / rows.max(1);
        // Convolutions are spelled with the axes of their kernels, or as matrices; both were found to fit.
        let matrix = |name: &str| self.weights.values(name, &self.weights.shape(name).unwrap_or_default());
        let (down, up) = (matrix(down)?, matrix(up)?);
        let alpha = match alpha {
            Some(name) => self.weights.values(name, &self.weights.shape(name).unwrap_or_default())?.first().copied(),
            None => None,
        };
        let scale = self.strength * alpha.map_or(1.0, |alpha| alpha / rank as f32);
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let band = rows.div_ceil(threads).max(1);
        thread::scope(|scope| {
            for (values, up) in values.chunks_mut(band * columns).zip(up.chunks(band * rank)) {
                let down = &down;
                scope.spawn(move || {
                    for (row, up) in values.chunks_exact_mut(columns).zip(up.chunks_exact(rank)) {
                        for (down, up) in down.chunks_exact(columns).zip(up) {
                            let factor = scale * up;
                            row.iter_mut().zip(down).for_each(|(value, down)| *value += factor * down);
                        }
                    }
                });
            }
        });
        Ok(())
    }
}

impl Addition for Lora {
    fn add(&self, name: &str, shape: &[usize], values: &mut [f32]) -> Result<(), ModelError> {
        let Some((module, kind)) = name.rsplit_once('.') else { return Ok(()) };
        let Some(parts) = self.modules.get(module) else { return Ok(()) };
        let difference = match kind {
            "weight" => parts.get(&Part::Weight),
            "bias" => parts.get(&Part::Bias),
            _ => None,
        };
        if let Some(difference) = difference {
            let added = self.weights.values(difference, shape)?;
            values.iter_mut().zip(added).for_each(|(value, added)| *value += self.strength * added);
        }
        if let ("weight", Some(down), Some(up)) = (kind, parts.get(&Part::Down), parts.get(&Part::Up)) {
            self.multiply([down, up], parts.get(&Part::Alpha), shape, values)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    use super::*;

    /// A file of f32 tensors of ascending numbers.
    fn file(tensors: &[(&str, &[usize])]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::with_suffix(".safetensors").unwrap();
        let bytes = |shape: &[usize]| -> Vec<u8> {
            (0..shape.iter().product()).flat_map(|i: usize| (i as f32 + 1.0).to_le_bytes()).collect()
        };
        let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, shape)| bytes(shape)).collect();
        let views = tensors
            .iter()
            .zip(&bytes)
            .map(|((name, shape), bytes)| (*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap()));
        std::fs::write(file.path(), safetensors::serialize(views, None).unwrap()).unwrap();
        file
    }

    const BASE: [&str; 3] = ["blocks.0.self_attn.q.weight", "blocks.0.self_attn.q.bias", "patch.weight"];
    const SHAPES: [&[usize]; 3] = [&[2, 3], &[2], &[2, 3, 1]];

    fn opened(tensors: &[(&str, &[usize])], strength: f32) -> Result<Lora, ModelError> {
        let published = |name: &str| name.replace("attn1.to_q", "self_attn.q");
        let file = file(tensors);
        let base = BASE.into_iter().zip(SHAPES.map(<[usize]>::to_vec)).collect();
        Lora::open(&LoraFile { path: file.path().into(), strength, expert: None }, &base, &published)
    }

    #[test]
    fn a_strength_follows_the_last_colon() {
        let read = |text: &str| text.parse::<LoraFile>().map(|lora| (lora.path.display().to_string(), lora.strength));
        assert_eq!(read("a.safetensors"), Ok(("a.safetensors".into(), 1.0)));
        assert_eq!(read("a.safetensors:-0.5"), Ok(("a.safetensors".into(), -0.5)));
        assert_eq!(read("C:/a.safetensors"), Ok(("C:/a.safetensors".into(), 1.0)));
        assert!(read("a.safetensors:much").is_err() && read("a:inf").is_err());
        let expert = |text: &str| text.parse::<LoraFile>().map(|lora| (lora.path, lora.strength, lora.expert));
        assert_eq!(expert("a.safetensors:0.5@low-noise"), Ok(("a.safetensors".into(), 0.5, Some("low-noise".into()))));
        assert_eq!(expert("a@b/c.safetensors"), Ok(("a@b/c.safetensors".into(), 1.0, None)));
    }

    #[test]
    fn every_spelling_adds_the_same_product() {
        // up [2, 2] = 1 2 / 3 4, down [2, 3] = 1 2 3 / 4 5 6: up · down = 9 12 15 / 19 26 33.
        let (down, up): (&[usize], &[usize]) = (&[2, 3], &[2, 2]);
        for names in [
            ["blocks.0.self_attn.q.lora_A.weight", "blocks.0.self_attn.q.lora_B.weight"],
            ["transformer.blocks.0.attn1.to_q.lora_A.weight", "transformer.blocks.0.attn1.to_q.lora_B.weight"],
            [
                "diffusion_model.blocks.0.self_attn.q.lora_down.weight",
                "diffusion_model.blocks.0.self_attn.q.lora_up.weight",
            ],
            ["lora_unet_blocks_0_self_attn_q.lora_down.weight", "lora_unet_blocks_0_self_attn_q.lora_up.weight"],
            [
                "base_model.model.blocks.0.attn1.to_q.lora_A.default.weight",
                "base_model.model.blocks.0.attn1.to_q.lora_B.default.weight",
            ],
        ] {
            let lora = opened(&[(names[0], down), (names[1], up)], 0.5).unwrap();
            let mut values = [1.0, 0.0, 0.0, 0.0, 0.0, 1.0];
            lora.add(BASE[0], &[2, 3], &mut values).unwrap();
            assert_eq!(values, [5.5, 6.0, 7.5, 9.5, 13.0, 17.5], "{names:?}");
            // No other tensor changes.
            let mut bias = [1.0, 2.0];
            lora.add(BASE[1], &[2], &mut bias).unwrap();
            assert_eq!(bias, [1.0, 2.0]);
        }
        // alpha 1 of rank 2 halves it.
        let name = |part: &str| format!("lora_unet_blocks_0_self_attn_q.{part}");
        let [down_name, up_name, alpha] = [name("lora_down.weight"), name("lora_up.weight"), name("alpha")];
        let lora = opened(&[(&down_name, down), (&up_name, up), (&alpha, &[])], 1.0).unwrap();
        let mut values = [0.0; 6];
        lora.add(BASE[0], &[2, 3], &mut values).unwrap();
        assert_eq!(values, [4.5, 6.0, 7.5, 9.5, 13.0, 16.5]);
    }

    #[test]
    fn differences_are_added_as_they_are_and_convolutions_have_their_axes() {
        let lora = opened(&[("blocks.0.self_attn.q.diff_b", &[2]), ("patch.diff", &[2, 3, 1])], 2.0).unwrap();
        let (mut bias, mut patch) = ([0.0; 2], [0.0; 6]);
        lora.add(BASE[1], &[2], &mut bias).unwrap();
        lora.add(BASE[2], &[2, 3, 1], &mut patch).unwrap();
        assert_eq!((bias, patch), ([2.0, 4.0], [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]));
        let names = ["patch.lora_A.weight", "patch.lora_B.weight"];
        let lora = opened(&[(names[0], &[1, 3, 1]), (names[1], &[2, 1, 1])], 1.0).unwrap();
        let mut patch = [0.0; 6];
        lora.add(BASE[2], &[2, 3, 1], &mut patch).unwrap();
        assert_eq!(patch, [1.0, 2.0, 3.0, 2.0, 4.0, 6.0]);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let message = |tensors: &[(&str, &[usize])]| opened(tensors, 1.0).err().unwrap().to_string();
        let other = message(&[("blocks.9.self_attn.q.lora_A.weight", &[2, 3])]);
        assert!(other.contains("1 of its 1 tensors") && other.contains("blocks.9.self_attn.q"), "{other}");
        assert!(message(&[("x.weight", &[2])]).contains("`x.weight`"));
        assert!(message(&[("blocks.0.self_attn.q.lora_A.weight", &[2, 3])]).contains("without the other"));
        assert!(message(&[]).contains("no tensors"));
        let names = ["blocks.0.self_attn.q.lora_A.weight", "blocks.0.self_attn.q.lora_B.weight"];
        for (shapes, part, found) in [
            ([&[2, 4][..], &[2, 2]], "lora_A", "[2, 4]"),
            ([&[2, 3], &[3, 2]], "lora_B", "[3, 2]"),
            ([&[2, 3], &[2, 1]], "lora_B", "[2, 1]"),
        ] {
            let error = message(&[(names[0], shapes[0]), (names[1], shapes[1])]);
            assert!(error.contains(part) && error.contains(found) && error.contains("[2, 3]"), "{error}");
        }
        let bias = message(&[("patch.diff_b", &[2])]);
        assert!(bias.contains("`patch.bias` of this model is not there"), "{bias}");
    }
}
