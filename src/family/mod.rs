//! All families of models, one row each. The layers below know no family by name.

mod embed;
pub mod opensora;
mod presets;
mod registry;
mod row;
pub mod sprites;

pub use registry::{FAMILIES, named, open, published, sprites, that_take};
pub use row::{Family, Measured};
