//! Why a model cannot be loaded or run.

use crate::device::DeviceError;
use crate::ops::OpError;
use crate::tensor::TensorError;

/// Why a model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file cannot be opened or read.
    #[error("cannot read {file}: {source}")]
    Io {
        /// The file.
        file: String,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// config.json does not describe a supported model.
    #[error("{file}: {reason}")]
    Config {
        /// The file.
        file: String,
        /// The error and the expected value.
        reason: String,
    },
    /// A file of weights is broken (truncated, bad header).
    #[error("{file} is not a complete {kind}: {reason}; download it again or restore it from its source")]
    Container {
        /// The file.
        file: String,
        /// What it is by its first bytes: `safetensors file`, `GGUF file` or `file of torch.save`.
        kind: &'static str,
        /// The reader's message.
        reason: String,
    },
    /// A file of weights is whole, and holds what is not read here.
    #[error("{file} is a {kind} that is not read here: {reason}")]
    Unsupported {
        /// The file.
        file: String,
        /// What it is by its first bytes, as in [`ModelError::Container`].
        kind: &'static str,
        /// What it holds.
        reason: String,
    },
    /// Weights in the form that PyTorch wrote before version 1.6.
    #[error(
        "{file} is a file of torch.save from before PyTorch 1.6; convert it once: python3 -c \"import torch; \
         torch.save(torch.load('{file}', map_location='cpu', weights_only=True), '{file}')\""
    )]
    OldTorch {
        /// The file.
        file: String,
    },
    /// Two shards hold the same tensor.
    #[error("{file}: two shards hold the same tensor; is its index the right one?")]
    SameTensor {
        /// The files.
        file: String,
    },
    /// A LoRA does not belong to the model.
    #[error("{file}: {reason}")]
    Lora {
        /// The file.
        file: String,
        /// The problem.
        reason: String,
    },
    /// An expected tensor is not in the file.
    #[error("{file}: tensor `{tensor}` is missing; expected shape {expected:?}")]
    MissingTensor {
        /// The file.
        file: String,
        /// The tensor's published name.
        tensor: String,
        /// The shape it must have.
        expected: Vec<usize>,
    },
    /// A tensor has another shape than the configuration implies.
    #[error(
        "{file}: tensor `{tensor}` has shape {found:?}, expected {expected:?}; do config.json and the weights belong together?"
    )]
    WrongShape {
        /// The file.
        file: String,
        /// The tensor's published name.
        tensor: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape it must have.
        expected: Vec<usize>,
    },
    /// A tensor has an element type weights cannot have.
    #[error("{file}: tensor `{tensor}` has element type {found}, expected BF16, F16 or F32")]
    WrongType {
        /// The file.
        file: String,
        /// The tensor's published name.
        tensor: String,
        /// The type in the file.
        found: String,
    },
    /// A tensor holds NaN or infinity.
    #[error("{file}: tensor `{tensor}` holds {value} at element {index}; the weights are damaged")]
    NotFinite {
        /// The file.
        file: String,
        /// The tensor's published name.
        tensor: String,
        /// The offending value.
        value: f32,
        /// The index of the element.
        index: usize,
    },
    /// A value cannot be represented in the element type the model runs in.
    #[error(
        "{file}: tensor `{tensor}` holds {value} at element {index}, which {dtype} cannot represent; use --dtype bf16 or f32"
    )]
    OutOfRange {
        /// The file.
        file: String,
        /// The tensor's published name.
        tensor: String,
        /// The offending value.
        value: f32,
        /// The index of the element.
        index: usize,
        /// The run's element type.
        dtype: String,
    },
    /// The file holds tensors that the architecture does not use.
    #[error("{file} holds tensors this model has no place for: {names}; is config.json the right one?")]
    Leftovers {
        /// The file.
        file: String,
        /// Their names.
        names: String,
    },
    /// The device or the element type has no products in e4m3.
    #[error(
        "--fp8-weights needs a Hopper (compute capability 9.0: cuda on an H100 or H200, or --device vm:sm_90) and --dtype bf16 or f16; \
         {device} is of compute capability {capability}, the type {dtype}: leave --fp8-weights out, or choose another device or type"
    )]
    NoFp8 {
        /// The device.
        device: String,
        /// Its compute capability.
        capability: String,
        /// The run's element type.
        dtype: String,
    },
    /// An input does not fit the model.
    #[error("{0}")]
    Input(String),
    /// The caller's progress callback asked to stop.
    #[error("stopped")]
    Stopped,
    /// A kernel launcher rejected its arguments.
    #[error(transparent)]
    Op(#[from] OpError),
    /// A tensor could not be created or read.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl ModelError {
    /// Whether the work was stopped by a callback or an interruption, rather than failed.
    pub fn is_stop(&self) -> bool {
        match self {
            ModelError::Stopped => true,
            ModelError::Op(error) => error.is_stop(),
            ModelError::Tensor(error) => error.is_stop(),
            ModelError::Device(error) => error.is_stop(),
            _ => false,
        }
    }
}
