//! Files of `torch.save` since PyTorch 1.6: a zip archive of a pickle, which says what the tensors are, and their storages.

use std::collections::HashMap;
use std::ops::Range;

use super::pickle::{self, View};
use super::stored::{Encoding, Refusal, Stored, Tensors, unsupported};
use super::zip;

/// How files of older versions begin: a pickled number.
pub(super) const OLD_MAGIC: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";

/// The pickle's name in the archive, after that of the folder.
const PICKLE: &str = "data.pkl";

/// The tensors of a file with the content `file`.
pub(super) fn read(file: &[u8]) -> Result<Tensors, Refusal> {
    let entries = zip::entries(file)?;
    let mut folders = entries.keys().filter_map(|name| name.strip_suffix(PICKLE));
    let folder = folders.find(|folder| folder.is_empty() || folder.ends_with('/'));
    let Some(folder) = folder else {
        return unsupported(format!("there is no {PICKLE} in it: it is another zip archive"));
    };
    if entries.get(&format!("{folder}byteorder")).is_some_and(|place| &file[place.clone()] == b"big") {
        return unsupported("it is big-endian: save it on a machine that is not");
    }
    let views = pickle::tensors(&file[entries[&format!("{folder}{PICKLE}")].clone()])?;
    let mut tensors = Tensors::new();
    for (name, view) in views {
        let stored = stored(&entries, folder, &view).map_err(|reason| format!("tensor `{name}` {reason}"))?;
        tensors.insert(name, stored);
    }
    Ok(tensors)
}

/// The encoding of a storage's elements, and their bytes.
fn encoding(class: &str) -> (Encoding, usize) {
    let other = |bytes| (Encoding::Other(class.trim_end_matches("Storage").into()), bytes);
    match class {
        "FloatStorage" => (Encoding::F32, 4),
        "HalfStorage" => (Encoding::F16, 2),
        "BFloat16Storage" => (Encoding::Bf16, 2),
        "LongStorage" => (Encoding::I64, 8),
        "DoubleStorage" => other(8),
        "IntStorage" => other(4),
        "ShortStorage" => other(2),
        _ => other(1),
    }
}

/// Where a tensor is.
fn stored(entries: &HashMap<String, Range<usize>>, folder: &str, view: &View) -> Result<Stored, String> {
    let View { storage, offset, shape, strides } = view;
    let (encoding, size) = encoding(&storage.class);
    let key = &storage.key;
    let place = entries.get(&format!("{folder}data/{key}")).ok_or_else(|| format!("is missing: no data/{key}"))?;
    let there = place.len() / size;
    if there < storage.elements {
        return Err(format!("has a storage of {} elements, and data/{key} holds {there}", storage.elements));
    }
    if shape.len() != strides.len() {
        return Err(format!("has the shape {shape:?} and the strides {strides:?}"));
    }
    let count = shape.iter().try_fold(1, |product: usize, axis| product.checked_mul(*axis));
    let last = shape
        .iter()
        .zip(strides)
        .try_fold(*offset, |last, (axis, stride)| last.checked_add(axis.saturating_sub(1).checked_mul(*stride)?));
    let (count, end) = match (count, last) {
        (Some(0), _) => (0, *offset),
        (Some(count), Some(last)) if last < storage.elements && count <= storage.elements => (count, last + 1),
        _ => {
            return Err(format!(
                "of shape {shape:?}, strides {strides:?} and offset {offset} leaves its storage of {} elements",
                storage.elements
            ));
        }
    };
    let mut next = 1usize;
    let in_order = shape.iter().zip(strides).rev().all(|(axis, stride)| {
        let fits = *axis == 1 || *stride == next;
        next = next.saturating_mul(*axis);
        fits
    });
    let strides = (count > 0 && !in_order).then(|| strides.clone());
    // An empty tensor may lie anywhere.
    let first = if count > 0 { place.start + offset * size } else { place.start };
    let end = if count > 0 { place.start + end * size } else { first };
    Ok(Stored { encoding, shape: shape.clone(), bytes: first..end, strides })
}
