//! The header of a GGUF file, as ggml's `docs/gguf.md` describes it: versions 2 and 3, little-endian. Of its metadata the alignment counts, and
//! shapes of tensors as ComfyUI-GGUF's converters write them.

use std::collections::BTreeMap;

use super::blocks::Blocks;
use super::stored::{Encoding, Refusal, Stored, Tensors, unsupported};

pub(super) const MAGIC: &[u8] = b"GGUF";

// ggml itself has four; the kernels of Wan's patch embedding have five in files of their converters.
const MOST_AXES: u32 = 5;
const DEFAULT_ALIGNMENT: usize = 32;

/// Before the name of a tensor: its shape, where its rows are no whole number of blocks. It lies in the file in rows of another length.
const SHAPE: &str = "comfy.gguf.orig_shape.";

/// The types of metadata that are looked at.
const UINT32: u32 = 4;
const INT32: u32 = 5;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Types of tensors that are not read.
const NOT_READ: [(u32, &str); 24] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (36, "IQ4_NL_4_4"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

fn encoding(kind: u32) -> Option<Encoding> {
    Some(match kind {
        0 => Encoding::F32,
        1 => Encoding::F16,
        2 => Encoding::Blocks(Blocks::Q4_0),
        3 => Encoding::Blocks(Blocks::Q4_1),
        6 => Encoding::Blocks(Blocks::Q5_0),
        7 => Encoding::Blocks(Blocks::Q5_1),
        8 => Encoding::Blocks(Blocks::Q8_0),
        10 => Encoding::Blocks(Blocks::Q2_K),
        11 => Encoding::Blocks(Blocks::Q3_K),
        12 => Encoding::Blocks(Blocks::Q4_K),
        13 => Encoding::Blocks(Blocks::Q5_K),
        14 => Encoding::Blocks(Blocks::Q6_K),
        30 => Encoding::Bf16,
        _ => return None,
    })
}

/// What the metadata say of the tensors.
struct Metadata {
    alignment: usize,
    /// Shapes by name, the last axis with the neighbours.
    shapes: BTreeMap<String, Vec<usize>>,
}

/// The part of the header that is not yet read.
struct Header<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Header<'a> {
    fn bytes(&mut self, count: u64) -> Result<&'a [u8], Refusal> {
        let rest = &self.file[self.at..];
        let bytes = usize::try_from(count).ok().and_then(|count| rest.get(..count));
        let bytes = bytes.ok_or_else(|| format!("the file ends after {} bytes, in its header", self.file.len()))?;
        self.at += bytes.len();
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        Ok(self.bytes(N as u64)?.try_into().expect("as many as asked for"))
    }

    fn u32(&mut self) -> Result<u32, Refusal> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Refusal> {
        self.array().map(u64::from_le_bytes)
    }

    fn string(&mut self) -> Result<&'a [u8], Refusal> {
        let length = self.u64()?;
        self.bytes(length)
    }

    /// Leaves out a value of metadata.
    fn skip(&mut self, kind: u32, key: &str) -> Result<(), Refusal> {
        let (kind, count) = if kind == ARRAY { (self.u32()?, self.u64()?) } else { (kind, 1) };
        if kind == STRING {
            return (0..count).try_for_each(|_| self.string().map(drop));
        }
        let size = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            other => return Err(format!("its metadata `{key}` has type {other}, which is unknown").into()),
        };
        self.bytes(count.saturating_mul(size)).map(drop)
    }

    fn metadata(&mut self, entries: u64) -> Result<Metadata, Refusal> {
        let mut metadata = Metadata { alignment: DEFAULT_ALIGNMENT, shapes: BTreeMap::new() };
        for _ in 0..entries {
            let key = String::from_utf8_lossy(self.string()?);
            let kind = self.u32()?;
            if key == "general.alignment" {
                metadata.alignment = match kind {
                    UINT32 => self.u32()? as usize,
                    _ => 0,
                };
                if !metadata.alignment.is_power_of_two() {
                    return Err("its general.alignment is no power of two".into());
                }
            } else if let Some(name) = key.strip_prefix(SHAPE) {
                let shape = self.shape(kind)?.ok_or_else(|| format!("its metadata `{key}` is no shape"))?;
                metadata.shapes.insert(name.into(), shape);
            } else {
                self.skip(kind, &key)?;
            }
        }
        Ok(metadata)
    }

    /// A value of metadata that is a shape, the last axis with the neighbours.
    fn shape(&mut self, kind: u32) -> Result<Option<Vec<usize>>, Refusal> {
        if kind != ARRAY || self.u32()? != INT32 {
            return Ok(None);
        }
        let count = self.u64()?;
        let axes = self.bytes(count.saturating_mul(4))?.as_chunks().0.iter();
        Ok(axes.map(|axis| usize::try_from(i32::from_le_bytes(*axis)).ok()).collect())
    }

    /// The next tensor: its name, and its place from the beginning of the data.
    fn tensor(&mut self, metadata: &Metadata) -> Result<(String, Stored), Refusal> {
        let name = String::from_utf8_lossy(self.string()?).into_owned();
        let axes = self.u32()?;
        if axes > MOST_AXES {
            return Err(format!("tensor `{name}` has {axes} axes, expected at most {MOST_AXES}").into());
        }
        let shape = (0..axes).map(|_| self.u64()).collect::<Result<Vec<u64>, _>>()?;
        let (kind, offset) = (self.u32()?, self.u64()?);
        let Some(encoding) = encoding(kind) else {
            let known = NOT_READ.iter().find(|(number, _)| *number == kind).map_or("unknown", |(_, known)| known);
            return unsupported(format!(
                "tensor `{name}` has type {kind} ({known}); take a file of F32, F16, BF16, Q8_0, Q4_0 to Q5_1, or Q2_K to Q6_K"
            ));
        };
        let elements = encoding.elements();
        let bytes = match &encoding {
            Encoding::Blocks(blocks) => blocks.bytes(),
            Encoding::F32 => 4,
            _ => 2,
        };
        // The first axis has the neighbours: here it is the last.
        let mut shape: Vec<usize> =
            shape.iter().map(|axis| usize::try_from(*axis)).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
        if !shape.first().is_none_or(|row| row.is_multiple_of(elements)) {
            return Err(format!("tensor `{name}` has rows of {} elements, in blocks of {elements}", shape[0]).into());
        }
        shape.reverse();
        let count = shape.iter().try_fold(1, |product: usize, axis| product.checked_mul(*axis));
        let place = || {
            let start = usize::try_from(offset).ok()?;
            Some(start..start.checked_add((count? / elements).checked_mul(bytes)?)?)
        };
        let place = place().ok_or_else(|| format!("tensor `{name}` has the impossible shape {shape:?}"))?;
        if let Some(original) = metadata.shapes.get(&name) {
            if original.iter().try_fold(1, |product: usize, axis| product.checked_mul(*axis)) != count {
                return Err(format!("tensor `{name}` of {shape:?} has the shape {original:?} in the metadata").into());
            }
            shape.clone_from(original);
        }
        if !place.start.is_multiple_of(metadata.alignment) {
            let alignment = metadata.alignment;
            return Err(format!("tensor `{name}` begins at {offset}, which is no multiple of {alignment}").into());
        }
        Ok((name, Stored { encoding, shape, bytes: place, strides: None }))
    }
}

/// The tensors of a file with the content `file`.
pub(super) fn read(file: &[u8]) -> Result<Tensors, Refusal> {
    let mut header = Header { file, at: MAGIC.len() };
    match header.u32()? {
        2 | 3 => {}
        1 => return unsupported("it has version 1, expected 2 or 3: convert it with a newer llama.cpp"),
        other if other.swap_bytes() <= 3 => return unsupported("it is big-endian: convert it for this machine"),
        other => return unsupported(format!("it has version {other}, expected 2 or 3")),
    }
    let (count, entries) = (header.u64()?, header.u64()?);
    let metadata = header.metadata(entries)?;
    let mut tensors = Tensors::new();
    for _ in 0..count {
        let (name, stored) = header.tensor(&metadata)?;
        if tensors.contains_key(&name) {
            return Err(format!("it has two tensors `{name}`").into());
        }
        tensors.insert(name, stored);
    }
    let start = header.at.next_multiple_of(metadata.alignment);
    let (mut needed, mut last) = (0, "");
    let mut places: Vec<(&String, &mut Stored)> = tensors.iter_mut().collect();
    places.sort_by_key(|(_, stored)| (stored.bytes.start, stored.bytes.end));
    for (name, stored) in places {
        if stored.bytes.start < needed {
            return Err(format!("tensors `{last}` and `{name}` overlap").into());
        }
        (needed, last) = (stored.bytes.end, name);
        let place = |at: usize| at.checked_add(start).ok_or_else(|| format!("tensor `{name}` lies beyond every file"));
        stored.bytes = place(stored.bytes.start)?..place(stored.bytes.end)?;
    }
    match start + needed {
        end if end > file.len() && needed > 0 => {
            Err(format!("the file ends after {} of {end} bytes", file.len()).into())
        }
        _ => Ok(tensors),
    }
}
