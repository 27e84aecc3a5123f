//! Wan 2.1 and 2.2.

mod magcache;
pub mod presets;
