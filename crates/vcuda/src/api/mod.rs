//! The exported functions, a file a family.

mod basics;
mod context;
mod copy;
mod device;
mod graph;
mod launch;
mod memory;
mod module;
mod pool;
mod stream;
mod tensor_map;

use crate::code::{Answer, Code};

/// A list that the program gave.
fn list<T: Copy>(at: *const T, count: usize) -> Answer<Vec<T>> {
    match (count, at.is_null()) {
        (0, _) => Ok(vec![]),
        (_, true) => Err(Code::INVALID_VALUE),
        // SAFETY: the program says that there are so many.
        _ => Ok(unsafe { std::slice::from_raw_parts(at, count) }.to_vec()),
    }
}
