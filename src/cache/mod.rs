//! Caching policies: which denoising steps run the transformer and which reuse the residuals of an earlier step.
//!
//! A [`Policy`] is a pure state machine on the host. It owns no memory and launches nothing: the sampler asks it for a [`Plan`], measures
//! what [`Policy::probes`] lists, and passes the measurements to it. A recorded [`trace`] can therefore replay,
//! without a model, any policy whose points it measures.
//! [`ResidualStore`] holds the residuals kept on the device.

mod adacache;
mod adacache_config;
mod anatomy;
mod block;
mod config;
mod delta_dit;
mod easycache;
mod fbcache;
mod fits;
mod fixed;
mod groups;
mod kept;
mod magcache;
mod measurement;
mod pab;
mod point;
mod policy;
mod presets;
mod published;
mod scaling;
mod schedule;
mod seacache;
mod settings;
mod store;
mod taylor;
mod teacache;
mod tgate;
pub mod trace;

pub use adacache::AdaCache;
pub use adacache_config::{AdaCacheConfig, Codebook, Metric, MotionRegularization, ResidualKind};
pub use anatomy::Anatomy;
pub use block::{Module, Span};
pub use config::{CacheConfig, Custom, TaylorConfig};
pub use delta_dit::DeltaDitConfig;
pub use easycache::{EasyCache, EasyCacheConfig};
pub use fbcache::{FbCache, FbCacheConfig};
pub use fits::check_fits;
pub use fixed::{ComputeAll, FewerStepsConfig, Interval, IntervalConfig};
pub use groups::{GroupSet, ModuleGroup};
pub use kept::Shapes;
pub use magcache::{MagCache, MagCacheConfig};
pub(crate) use measurement::ratio;
pub use measurement::{Measurement, MotionSums};
pub use pab::PabConfig;
pub use point::{ProbePoint, Site};
pub use policy::{
    Decision, Extrapolation, Half, Plan, Policy, Probes, Reused, computed_steps, computed_steps_of, partial_steps, walk,
};
pub use presets::{DeltaDitPreset, Listed, Named, Presets, TeaCachePreset, names as preset_names};
pub use published::{FittedTo, Published};
pub use scaling::{Scaling, ScalingConfig};
pub use schedule::ModuleSchedule;
pub use seacache::{SeaCache, SeaCacheConfig};
pub use settings::{CacheError, Settings};
pub use store::{PendingMeasurements, ResidualStore, StoreOptions};
pub use taylor::Taylor;
pub use teacache::{Signal, TeaCache, TeaCacheConfig};
pub use tgate::TGateConfig;
