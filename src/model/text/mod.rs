//! T5 v1.1 and umT5, the encoders of prompts.

mod config;
mod encoder;
mod names;
mod needs;

pub use self::config::T5Config;
pub use self::encoder::T5Encoder;
pub use self::names::published;
pub use self::needs::T5Needs;
