//! The description of a family.

use std::path::Path;

use crate::device::Device;
use crate::hub::Published as PublishedCheckpoint;
use crate::model::{ModelError, Transformer, Weights};
use crate::pipeline::{Inputs, ModelSource, OpenOptions, PipelineError};
use crate::tensor::DType;

/// A family of models: how it is recognised and opened, and what is known of it without files.
pub trait Family: Sync {
    /// The name by which `--model` selects the family's own model.
    fn name(&self) -> &'static str;

    /// Whether `folder` holds a model of this family.
    fn recognises(&self, folder: &Path) -> bool;

    /// Opens the model in `folder`, or the family's own, for videos of a size. Weights are not read yet.
    ///
    /// # Errors
    /// Files that are missing or damaged; a size that the model does not support.
    fn open(&self, folder: Option<&Path>, size: &OpenOptions) -> Result<ModelSource, PipelineError>;

    /// The family's own model as published, without any of its files: enough for counting.
    ///
    /// # Errors
    /// A size that the model does not support.
    fn published(&self, size: &OpenOptions) -> Result<ModelSource, PipelineError> {
        self.open(None, size)
    }

    /// A transformer of the family's architecture with a configuration and weights of its own, as reference cases have them.
    ///
    /// # Errors
    /// A configuration or weights that do not fit; a family without reference cases.
    fn reference(
        &self,
        _device: &Device,
        _config: &str,
        _weights: Weights<'_>,
        _dtype: DType,
    ) -> Result<Box<dyn Transformer>, ModelError> {
        Err(ModelError::Input(format!("`adacache check` has no reference cases of {}", self.name())))
    }

    /// The inputs a generation accepts besides the prompt.
    fn inputs(&self) -> Inputs;

    /// The checkpoint of the family's own model; `None` if it is built in.
    fn checkpoint(&self) -> Option<&'static PublishedCheckpoint> {
        None
    }

    /// The common published resolutions.
    fn resolutions(&self) -> &'static [&'static str] {
        &[]
    }

    /// Runs with published times.
    fn measured(&self) -> &'static [Measured] {
        &[]
    }
}

/// A published run on one A100 80 GB, in the default aspect ratio.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// The resolution's name; `None`: the model's own size.
    pub resolution: Option<&'static str>,
    /// Frames.
    pub frames: usize,
    /// Denoising steps.
    pub steps: usize,
    /// The variant that ran.
    pub what: &'static str,
    /// Seconds it took.
    pub seconds: f64,
}
