//! All families of models, one row each. The layers below know no family by name.

mod baselines;
mod clean;
mod embed;
pub mod latte;
mod mojibake;
pub mod opensora;
mod presets;
mod registry;
mod row;
pub mod sprites;
pub mod wan;

pub use registry::{FAMILIES, named, open, published, sprites, that_take};
pub use row::{Family, Measured};
