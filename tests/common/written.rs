//! Files of weights as other programs write them, made for tests: GGUF by ggml's description of it, and zip archives of `torch.save`.

use std::fs;
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

/// A tensor in f32: name, shape, values.
pub(crate) type Plain = (String, Vec<usize>, Vec<f32>);

/// The tensors of a safetensors file.
pub(crate) fn read(path: &Path) -> Vec<Plain> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values = |dtype, data: &[u8]| -> Vec<f32> {
        let halves = || data.chunks_exact(2).map(|b| u16::from_le_bytes(b.try_into().unwrap()));
        match dtype {
            Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
            Dtype::F16 => halves().map(|bits| f16::from_bits(bits).to_f32()).collect(),
            Dtype::BF16 => halves().map(|bits| bf16::from_bits(bits).to_f32()).collect(),
            other => panic!("{other:?}"),
        }
    };
    let tensors = file.tensors().into_iter();
    tensors.map(|(name, view)| (name, view.shape().to_vec(), values(view.dtype(), view.data()))).collect()
}

/// A safetensors file of tensors in f32.
pub(crate) fn safetensors(tensors: &[Plain]) -> Vec<u8> {
    let bytes = |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|v| v.to_le_bytes()).collect() };
    let stored: Vec<_> = tensors.iter().map(|(name, shape, values)| (name, shape.clone(), bytes(values))).collect();
    let views = stored.iter().map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes)));
    safetensors::serialize(views.map(|(name, view)| (name, view.unwrap())), None).unwrap()
}

/// Types of GGUF tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    F32 = 0,
    F16 = 1,
    Q8_0 = 8,
}

impl Kind {
    fn bytes(self, values: &[f32]) -> Vec<u8> {
        match self {
            Kind::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Kind::F16 => values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
            Kind::Q8_0 => values.chunks_exact(32).flat_map(eight).collect(),
        }
    }
}

/// 32 values as bytes and their scale.
fn eight(values: &[f32]) -> Vec<u8> {
    let largest = values.iter().fold(0f32, |most, x| most.max(x.abs()));
    let scale = f16::from_f32(largest / 127.0);
    let bytes = values.iter().map(|x| if largest > 0.0 { (x / scale.to_f32()).round() as i8 as u8 } else { 0 });
    scale.to_le_bytes().into_iter().chain(bytes).collect()
}

/// A GGUF file of version 3.
pub(crate) fn gguf(tensors: &[(Plain, Kind)]) -> Vec<u8> {
    let string = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let mut header = [&b"GGUF\x03\0\0\0"[..], &(tensors.len() as u64).to_le_bytes(), &1u64.to_le_bytes()].concat();
    header.extend([&string("general.architecture")[..], &8u32.to_le_bytes(), &string("t5encoder")].concat());
    let mut data: Vec<u8> = vec![];
    for ((name, shape, values), kind) in tensors {
        header.extend([&string(name)[..], &(shape.len() as u32).to_le_bytes()].concat());
        shape.iter().rev().for_each(|axis| header.extend((*axis as u64).to_le_bytes()));
        header.extend([&(*kind as u32).to_le_bytes()[..], &(data.len() as u64).to_le_bytes()].concat());
        data.extend(kind.bytes(values));
        data.resize(data.len().next_multiple_of(32), 0);
    }
    header.resize(header.len().next_multiple_of(32), 0);
    [header, data].concat()
}

/// A file of `torch.save`: a dictionary of tensors in f32, in a dictionary under `key` if there is one.
pub(crate) fn torch(key: Option<&str>, tensors: &[Plain]) -> Vec<u8> {
    let text = |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    let number = |number: usize| [b"J", &(number as u32).to_le_bytes()[..]].concat();
    let tuple =
        |numbers: &[usize]| [b"(", &numbers.iter().flat_map(|n| number(*n)).collect::<Vec<_>>()[..], b"t"].concat();
    let outer = key.map_or(vec![], |key| [b"}", &text(key)[..]].concat());
    let mut code = [b"\x80\x02", &outer[..], b"}("].concat();
    let mut entries = vec![];
    for (i, (name, shape, values)) in tensors.iter().enumerate() {
        let strides: Vec<usize> = (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect();
        let storage = [&text("storage")[..], b"ctorch\nFloatStorage\n", &text(&i.to_string()), &text("cpu")].concat();
        code.extend(
            [&text(name)[..], b"ctorch._utils\n_rebuild_tensor_v2\n((", &storage, &number(values.len()), b"tQ"]
                .concat(),
        );
        code.extend([&number(0)[..], &tuple(shape), &tuple(&strides), b"\x89NtR"].concat());
        entries.push((format!("m/data/{i}"), Kind::F32.bytes(values)));
    }
    code.extend(if key.is_some() { &b"us."[..] } else { b"u." });
    entries.push(("m/data.pkl".into(), code));
    zip(&entries)
}

/// A zip archive of entries that are not compressed.
fn zip(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut file, mut directory) = (vec![], vec![]);
    for (name, content) in entries {
        let (size, offset, length) = (content.len() as u32, file.len() as u32, name.len() as u16);
        let sizes = [size.to_le_bytes(), size.to_le_bytes()].concat();
        file.extend(
            [b"PK\x03\x04", &[0; 14][..], &sizes, &length.to_le_bytes(), &[0; 2], name.as_bytes(), content].concat(),
        );
        directory.extend([b"PK\x01\x02", &[0; 16][..], &sizes, &length.to_le_bytes(), &[0; 12]].concat());
        directory.extend([&offset.to_le_bytes(), name.as_bytes()].concat());
    }
    let (count, size, start) = (entries.len() as u16, directory.len() as u32, file.len() as u32);
    let counts = [count.to_le_bytes(), count.to_le_bytes()].concat();
    [&file[..], &directory, b"PK\x05\x06", &[0; 4], &counts, &size.to_le_bytes(), &start.to_le_bytes(), &[0; 2]]
        .concat()
}
