//! Files of weights: safetensors, GGUF and those of `torch.save`, mapped into memory. What a file is, its first bytes tell.
//!
//! The readers of the three forms give the same: the tensors by name, each with its encoding, its shape and its place. They check that every
//! place lies in the file, and copy nothing.

mod blocks;
mod gguf;
mod pickle;
mod stored;
mod torch;
mod zip;

use std::borrow::Cow;
use std::fs::File;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};

pub(super) use self::stored::{Encoding, Stored, from_e4m3};
use self::stored::{Refusal, Tensors};
use super::ModelError;

/// A file's bytes, mapped or embedded.
enum Source<'a> {
    Mapped(memmap2::Mmap),
    Embedded(&'a [u8]),
}

/// An open file of weights.
pub(super) struct Container<'a> {
    pub(super) file: String,
    source: Source<'a>,
    pub(super) tensors: Tensors,
}

impl<'a> Container<'a> {
    /// Maps the file at `path`.
    pub(super) fn open(path: &Path) -> Result<Container<'static>, ModelError> {
        let file = path.display().to_string();
        let io = |source| ModelError::Io { file: file.clone(), source };
        let handle = File::open(path).map_err(io)?;
        // SAFETY: the mapping is read-only; a file that another process truncates meanwhile is outside what we guard against,
        // as with every mmap reader of checkpoints.
        let map = unsafe { memmap2::Mmap::map(&handle) }.map_err(io)?;
        let tensors = read(&file, &map)?;
        Ok(Container { file, source: Source::Mapped(map), tensors })
    }

    /// A file that is already in memory.
    pub(super) fn embedded(file: String, bytes: &'a [u8]) -> Result<Container<'a>, ModelError> {
        let tensors = read(&file, bytes)?;
        Ok(Container { file, source: Source::Embedded(bytes), tensors })
    }

    /// The bytes of a tensor's elements, in order.
    pub(super) fn data(&self, tensor: &Stored) -> Cow<'_, [u8]> {
        let bytes = match &self.source {
            Source::Mapped(map) => &map[..],
            Source::Embedded(bytes) => bytes,
        };
        // Every reader has checked that its tensors lie in the file.
        tensor.gathered(&bytes[tensor.bytes.clone()])
    }
}

/// The tensors of a file with the content `bytes`.
fn read(file: &str, bytes: &[u8]) -> Result<Tensors, ModelError> {
    let (kind, tensors) = if bytes.starts_with(gguf::MAGIC) {
        ("GGUF file", gguf::read(bytes))
    } else if bytes.starts_with(zip::MAGIC) {
        ("file of torch.save", torch::read(bytes))
    } else if bytes.starts_with(torch::OLD_MAGIC) {
        return Err(ModelError::OldTorch { file: file.into() });
    } else {
        ("safetensors file", safetensors(bytes))
    };
    tensors.map_err(|refusal| match (refusal, file.into()) {
        (Refusal::Damaged(reason), file) => ModelError::Container { file, kind, reason },
        (Refusal::Unsupported(reason), file) => ModelError::Unsupported { file, kind, reason },
    })
}

fn safetensors(bytes: &[u8]) -> Result<Tensors, Refusal> {
    let (header_bytes, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
    // The data begins after the length and the header; read_metadata has checked that every tensor lies inside the file.
    let start = 8 + header_bytes;
    let tensors = metadata.tensors().into_iter().map(|(name, info)| {
        let encoding = match info.dtype {
            Dtype::F32 => Encoding::F32,
            Dtype::F16 => Encoding::F16,
            Dtype::BF16 => Encoding::Bf16,
            Dtype::F8_E4M3 => Encoding::F8E4M3,
            Dtype::F8_E5M2 => Encoding::F8E5M2,
            Dtype::I64 => Encoding::I64,
            other => Encoding::Other(format!("{other:?}")),
        };
        let (begin, end) = info.data_offsets;
        let stored = Stored { encoding, shape: info.shape.clone(), bytes: start + begin..start + end, strides: None };
        (name, stored)
    });
    Ok(tensors.collect())
}

#[cfg(test)]
mod tests;
