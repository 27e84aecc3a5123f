//! The transformers of a model, of which one or all are on the device.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::PipelineError;
use super::source::{Content, ModelSource};
use crate::device::Device;
use crate::model::{Fp8Weights, Transformer};
use crate::tensor::DType;

/// What is on the device of a model's transformers. They are loaded when their steps come.
pub(super) struct Experts {
    source: ModelSource,
    device: Device,
    dtype: DType,
    /// The number of blocks whose weights are in host memory.
    streamed: usize,
    /// Whether one stays on the device when another takes over.
    together: bool,
    loaded: Mutex<BTreeMap<usize, Arc<dyn Transformer>>>,
    /// Hears of every load in a run.
    listener: Option<Box<OnLoad>>,
}

/// Is called with the name of an expert that is about to be loaded.
pub type OnLoad = dyn Fn(&'static str) + Send + Sync;

impl Experts {
    /// Transformers of `source`, none of them loaded.
    pub(super) fn new(source: &ModelSource, device: &Device, dtype: DType, streamed: usize, together: bool) -> Experts {
        let (source, device) = (source.clone(), device.clone());
        Experts { source, device, dtype, streamed, together, loaded: Mutex::default(), listener: None }
    }

    /// Tells `listener` of every load from now on.
    pub(super) fn tell(&mut self, listener: Box<OnLoad>) {
        self.listener = Some(listener);
    }

    /// Whether an expert is freed when another takes over.
    pub(super) fn make_room(&self) -> bool {
        self.source.experts().len() > 1 && !self.together
    }

    fn loaded(&self) -> MutexGuard<'_, BTreeMap<usize, Arc<dyn Transformer>>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The transformer `index`, loaded if it is not there. Unless all fit, the one before is freed first.
    pub(super) fn get(&self, index: usize) -> Result<Arc<dyn Transformer>, PipelineError> {
        let mut loaded = self.loaded();
        if let Some(model) = loaded.get(&index) {
            return Ok(model.clone());
        }
        if !self.together {
            loaded.clear();
        }
        let Experts { source, device, dtype, streamed, .. } = self;
        if let (Some(listener), Some(expert)) = (&self.listener, source.experts().get(index)) {
            listener(expert.name);
        }
        let model: Arc<dyn Transformer> = source.expert(index, device, *dtype, *streamed, Content::Files)?.into();
        loaded.insert(index, model.clone());
        Ok(model)
    }

    /// The element type that they run in.
    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }

    /// What of the loaded ones' weights is in e4m3, if that was asked for: products of all, and the largest error.
    pub(super) fn fp8(&self) -> Option<Fp8Weights> {
        let loaded = self.loaded();
        let of = loaded.values().filter_map(|model| model.weights().fp8());
        of.reduce(|all, of| Fp8Weights {
            products: all.products + of.products,
            others: all.others + of.others,
            error: all.error.max(of.error),
        })
    }

    /// The bytes of the loaded ones' weights on the device, and in host memory.
    pub(super) fn weight_bytes(&self) -> [usize; 2] {
        let loaded = self.loaded();
        let of = loaded.values().map(|model| model.weight_bytes());
        of.fold([0; 2], |[resident, streamed], of| [resident + of.resident, streamed + of.streamed])
    }
}
