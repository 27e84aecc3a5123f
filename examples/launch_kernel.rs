//! Launches one kernel with buffers of your own, on a GPU or on the virtual one.
//!
//! `residual_unfold_f32` is AdaCache's reused step: `out = a + b`, here on four numbers. A kernel takes one struct, generated
//! from `kernels/params.h`; addresses in it are device addresses.
//!
//! ```sh
//! cargo run --release --example launch_kernel [auto|vm|cuda:N]
//! ```

use adacache::device::{Device, DeviceError, Module};
use adacache::ops::params::{ELEMENTWISE_THREADS, FoldParams};

fn main() -> Result<(), DeviceError> {
    let spec = std::env::args().nth(1).unwrap_or_else(|| "auto".into());
    let device = Device::open(&spec)?;

    let embedding = [1.0f32, 2.0, 3.0, 4.0];
    let fold = [0.5f32, -0.5, 0.25, 0.0];
    // Memory is freed when its last handle goes.
    let (a, b) = (device.alloc_slice(&embedding)?, device.alloc_slice(&fold)?);
    let out = device.alloc(size_of_val(&embedding))?;

    let kernel = device.kernel(Module::Residual, "residual_unfold_f32")?;
    let params = FoldParams { a: a.ptr(), b: b.ptr(), out: out.ptr(), count: embedding.len() as i64 };
    // One block is enough: its threads stride over the elements.
    device.launch(&kernel, [1, 1, 1], [ELEMENTWISE_THREADS as u32, 1, 1], 0, &params)?;

    // The download waits for the launch: both are on the device's one stream.
    let result: Vec<f32> = device.download_vec(&out, 0, embedding.len())?;
    println!("{}: {embedding:?} + {fold:?} = {result:?}", device.info().label());
    assert_eq!(result, [1.5, 1.5, 3.25, 4.0]);
    Ok(())
}
