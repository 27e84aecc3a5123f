"""The Rust library's residual kernels on CUDA tensors."""
