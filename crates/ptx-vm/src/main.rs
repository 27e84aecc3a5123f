//! `ptx-vm`: runs launch cases on the virtual GPU.

fn main() {}
