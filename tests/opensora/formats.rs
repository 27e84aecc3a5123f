//! Checkpoints as trainers and converters write them: read where they can be, else named for what they are; and never the wrong one of several.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::json;

use crate::common::text;
use crate::common::written::{self, Kind};
use crate::{GENERATE, MODEL, adacache, fails, repositories, succeeds};

/// Tensors: name, type, shape, bytes.
type Tensors = Vec<(String, Dtype, Vec<usize>, Vec<u8>)>;

fn read(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensors().into_iter().map(|(n, v)| (n, v.dtype(), v.shape().to_vec(), v.data().to_vec())).collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(n, d, s, data)| (n.as_str(), TensorView::new(*d, s.clone(), data).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn named(tensors: &Tensors, name: impl Fn(&str) -> String) -> Tensors {
    tensors.iter().map(|(n, d, s, data)| (name(n), *d, s.clone(), data.clone())).collect()
}

/// Folders with the repositories, of which one is changed.
struct Scene {
    dir: tempfile::TempDir,
    model: PathBuf,
    t5: PathBuf,
}

impl Scene {
    fn new() -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let files = repositories(dir.path());
        Scene { dir, model: files.join("OpenSora-STDiT-v3"), t5: files.join("t5-v1_1-xxl") }
    }

    /// What the run of the changed repositories is asked for.
    fn generate() -> Vec<&'static str> {
        [&GENERATE[..], &["x.safetensors", "--dtype", "f32"]].concat()
    }

    /// What the changed repositories generate, and what is said.
    #[track_caller]
    fn generated(&self) -> (Vec<u8>, String) {
        let folder = self.dir.path();
        let _ = fs::remove_dir_all(folder.join(MODEL));
        succeeds(folder, &["pull", "opensora-v1.2", "--from", "files"]);
        let output = adacache(folder, &Scene::generate());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let bytes = fs::read(folder.join("x.safetensors")).unwrap();
        fs::remove_file(folder.join("x.safetensors")).unwrap();
        (SafeTensors::deserialize(&bytes).unwrap().tensor("latents").unwrap().data().to_vec(), text(&output.stderr))
    }
}

#[test]
fn names_of_trainers_shards_and_averages_are_read() {
    let scene = Scene::new();
    let (expected, _) = scene.generated();
    let whole = scene.model.join("model.safetensors");
    let tensors = read(&whole);
    let zeros = |tensors: &Tensors| -> Tensors {
        tensors.iter().map(|(n, d, s, data)| (n.clone(), *d, s.clone(), vec![0; data.len()])).collect()
    };
    write(&whole, &named(&tensors, |name| format!("module.{name}")));
    assert!(scene.generated().0 == expected);

    let of_many = named(&tensors, |name| format!("model.diffusion_model.{name}"));
    let other = vec![("first_stage_model.a".to_owned(), Dtype::F32, vec![1], vec![0; 4])];
    write(&whole, &[of_many, other].concat());
    let (got, said) = scene.generated();
    assert!(got == expected && said.contains("first_stage_model.a") && said.contains("left out"), "{said}");

    let averaged = named(&tensors, |name| format!("ema.{name}"));
    write(&whole, &[averaged, named(&zeros(&tensors), |name| format!("model.{name}"))].concat());
    let (got, said) = scene.generated();
    assert!(got == expected && said.contains("ema.*"), "{said}");

    // Shards, with the names of another library.
    fs::remove_file(&whole).unwrap();
    let (first, second) = tensors.split_at(tensors.len() / 2);
    let shard = |i| format!("diffusion_pytorch_model-0000{i}-of-00002.safetensors");
    write(&scene.model.join(shard(1)), &first.to_vec());
    write(&scene.model.join(shard(2)), &second.to_vec());
    let map = |tensors: &[(String, Dtype, Vec<usize>, Vec<u8>)], i| -> serde_json::Map<String, serde_json::Value> {
        tensors.iter().map(|(name, ..)| (name.clone(), json!(shard(i)))).collect()
    };
    let mut places = map(first, 1);
    places.extend(map(second, 2));
    let index = scene.model.join("diffusion_pytorch_model.safetensors.index.json");
    fs::write(&index, json!({ "weight_map": places }).to_string()).unwrap();
    assert!(scene.generated().0 == expected);
    // One of them missing is told, as is one that would be somewhere else.
    let (folder, pull) = (scene.dir.path(), ["pull", "opensora-v1.2", "--from", "files"]);
    fs::rename(scene.model.join(shard(2)), scene.model.join("elsewhere")).unwrap();
    fails(folder, &pull, &[&shard(2)]);
    fs::write(&index, r#"{"weight_map": {"a": "../x.safetensors"}}"#).unwrap();
    fails(folder, &pull, &["../x.safetensors"]);
}

/// The value of eight bits: four of exponent, three of mantissa.
fn small(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    let magnitude = if exponent == 0 { mantissa / 512.0 } else { (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7) };
    if bits & 0x80 == 0 { magnitude } else { -magnitude }
}

/// The eight bits nearest to a value.
fn nearest(value: f32) -> u8 {
    let all = (0..=255u8).filter(|bits| bits & 0x7f != 0x7f);
    all.min_by(|a, b| (small(*a) - value).abs().total_cmp(&(small(*b) - value).abs())).unwrap()
}

/// In eight bits, and what those are in 32.
fn quantised(tensors: &Tensors) -> [Tensors; 2] {
    let eight = |(name, dtype, shape, data): &(String, Dtype, Vec<usize>, Vec<u8>)| {
        let values: Vec<f32> = match dtype {
            Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
            Dtype::F16 => {
                data.chunks_exact(2).map(|b| half::f16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect()
            }
            Dtype::BF16 => {
                data.chunks_exact(2).map(|b| half::bf16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect()
            }
            other => panic!("{other:?}"),
        };
        let bits = values.iter().map(|value| nearest(*value)).collect::<Vec<u8>>();
        (name.clone(), Dtype::F8_E4M3, shape.clone(), bits)
    };
    let eight: Tensors = tensors.iter().map(eight).collect();
    let wide = |(name, _, shape, data): &(String, Dtype, Vec<usize>, Vec<u8>)| {
        (name.clone(), Dtype::F32, shape.clone(), data.iter().flat_map(|bits| small(*bits).to_le_bytes()).collect())
    };
    let wide = eight.iter().map(wide).collect();
    [eight, wide]
}

#[test]
fn eight_bit_checkpoints_give_what_their_values_give() {
    let scene = Scene::new();
    let files = [scene.model.join("model.safetensors"), scene.t5.join("model.safetensors")];
    let forms = files.each_ref().map(|path| quantised(&read(path)));
    for (path, [_, wide]) in files.iter().zip(&forms) {
        write(path, wide);
    }
    let (expected, _) = scene.generated();
    write(&files[0], &forms[0][0]);
    assert!(scene.generated().0 == expected, "the transformer in eight bits");
    write(&files[1], &named(&forms[1][0], |name| format!("module.{name}")));
    assert!(scene.generated().0 == expected, "the text encoder in eight bits");
    // One tensor with a factor, and its products.
    let name = "encoder.block.0.layer.0.SelfAttention.q";
    let [mut factors, mut products] = forms[1].clone();
    let product = products.iter_mut().find(|(tensor, ..)| *tensor == format!("{name}.weight")).unwrap();
    for value in product.3.as_chunks_mut().0 {
        *value = (2.0 * f32::from_le_bytes(*value)).to_le_bytes();
    }
    write(&files[1], &products);
    let (expected, _) = scene.generated();
    factors.push((format!("{name}.scale_weight"), Dtype::F32, vec![], 2f32.to_le_bytes().to_vec()));
    factors.push(("scaled_fp8".into(), Dtype::F8_E4M3, vec![2], vec![0; 2]));
    write(&files[1], &factors);
    assert!(scene.generated().0 == expected, "the text encoder in eight bits with factors");
}

/// The transformer from a training state that torch.save has written.
#[test]
fn files_of_torch_are_read() {
    let scene = Scene::new();
    let (expected, _) = scene.generated();
    let path = scene.model.join("model.safetensors");
    let tensors = written::read(&path);
    fs::remove_file(&path).unwrap();
    fs::write(scene.model.join("last.ckpt"), written::torch(Some("state_dict"), &tensors)).unwrap();
    assert!(scene.generated().0 == expected);
}

#[test]
fn other_formats_are_named_for_what_they_are() {
    let scene = Scene::new();
    let (folder, pull) = (scene.dir.path(), ["pull", "opensora-v1.2", "--from", "files"]);
    let path = scene.model.join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{:064}\nsize 2345\n", 0);
    for (bytes, words) in [
        (pointer.as_bytes(), "Git LFS pointer, not the file of 2345 bytes"),
        (b"<!DOCTYPE html>\n<html>", "web page"),
        (b"PK\x03\x04archive/data.pkl", "torch.save"),
        (b"", "empty"),
    ] {
        fs::write(&path, bytes).unwrap();
        fails(folder, &pull, &["transformer/model.safetensors", words]);
    }
    // Older files of torch.save are named too, and how to convert them.
    fs::remove_file(&path).unwrap();
    fs::write(scene.model.join("ema.pt"), b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.").unwrap();
    fails(folder, &pull, &["ema.pt", "before PyTorch 1.6", "convert it once", "torch.load"]);
    fs::write(scene.model.join("ema.pt"), b"something else").unwrap();
    fails(folder, &pull, &["ema.pt", "no file of torch.save"]);
    // Two of them: which one is meant is not guessed.
    fs::copy(scene.model.join("ema.pt"), scene.model.join("last.pt")).unwrap();
    fails(folder, &pull, &["several files of weights", "ema.pt, last.pt"]);
    fs::write(&path, whole).unwrap();
    succeeds(folder, &pull);
}

#[test]
fn of_several_gguf_files_none_is_guessed() {
    let scene = Scene::new();
    let folder = scene.dir.path();
    for name in ["model.safetensors", "reference.safetensors"] {
        fs::remove_file(scene.t5.join(name)).unwrap();
    }
    // Whole files, as far as headers tell.
    let gguf = |name: &str| {
        let tensor = (name.to_owned(), vec![32], vec![0.0; 32]);
        fs::write(scene.t5.join(name), written::gguf(&[(tensor, Kind::F32)])).unwrap();
    };
    // In no order.
    ["t5.Q8_0.gguf", "t5.Q2_K.gguf", "t5.Q4_0.gguf"].into_iter().for_each(gguf);
    let all = "t5.Q2_K.gguf, t5.Q4_0.gguf, t5.Q8_0.gguf";
    let pull = ["pull", "opensora-v1.2", "--from", "files"];
    fails(
        folder,
        &pull,
        &["several files of weights", all, "adacache pull opensora-v1.2 --from files --text-file FILE"],
    );
    for name in ["t5.Q4_0.gguf", "t5.Q8_0.gguf"] {
        succeeds(folder, &[&pull[..], &["--text-file", name]].concat());
        assert_eq!(
            fs::read(folder.join(MODEL).join("text").join(name)).unwrap(),
            fs::read(scene.t5.join(name)).unwrap()
        );
        let others = crate::common::names(&folder.join(MODEL).join("text"));
        assert_eq!(others, ["config.json", name, "tokenizer.json"]);
    }
    fails(
        folder,
        &[&pull[..], &["--text-file", "t5.Q6_K.gguf"]].concat(),
        &["has no t5.Q6_K.gguf", all, "--from asks no server"],
    );

    // Nor when a folder with several is used as it is.
    fs::copy(scene.t5.join("t5.Q2_K.gguf"), folder.join(MODEL).join("text/t5.Q2_K.gguf")).unwrap();
    fails(folder, &Scene::generate(), &["several files of weights", "t5.Q2_K.gguf, t5.Q8_0.gguf"]);
    assert!(succeeds(folder, &["models"]).contains("one of several"));
    // One is no question.
    fs::remove_dir_all(folder.join(MODEL)).unwrap();
    for name in ["t5.Q8_0.gguf", "t5.Q2_K.gguf"] {
        fs::remove_file(scene.t5.join(name)).unwrap();
    }
    succeeds(folder, &pull);
}
