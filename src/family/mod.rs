//! The families of models there are: one row each. Nothing below this room knows a family by name.

pub mod opensora;
mod presets;
mod registry;
mod row;
pub mod sprites;

pub use registry::{FAMILIES, named, open, published, sprites, that_take};
pub use row::{Family, Measured};
