//! A kernel of your own, from PTX that is not part of the crate: `cargo run --release --example own_kernel [auto|vm|cuda:N]`
//!
//! The PTX below is what `nvcc -ptx -arch=sm_80` makes of
//!
//! ```cuda
//! struct ScaleParams { const float* x; float* out; unsigned count; float factor; };
//! extern "C" __global__ void scale(ScaleParams p) {
//!   unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
//!   if (i < p.count) p.out[i] = p.factor * p.x[i];
//! }
//! ```
//!
//! written by hand. A GPU and the virtual GPU run the same text; `vm:checked` looks for reads and writes out of bounds.

use adacache::device::{Device, DeviceError};
use bytemuck::{Pod, Zeroable};

const PTX: &str = r#"
.version 8.0
.target sm_80
.address_size 64

.visible .entry scale(.param .align 8 .b8 p[24])
{
  .reg .pred %out;
  .reg .b32 %i, %block, %threads, %thread, %count;
  .reg .f32 %factor, %value;
  .reg .b64 %x, %y, %at;

  ld.param.u64 %x, [p];
  ld.param.u64 %y, [p+8];
  ld.param.u32 %count, [p+16];
  ld.param.f32 %factor, [p+20];
  mov.u32 %block, %ctaid.x;
  mov.u32 %threads, %ntid.x;
  mov.u32 %thread, %tid.x;
  mad.lo.u32 %i, %block, %threads, %thread;
  setp.ge.u32 %out, %i, %count;
  @%out ret;
  cvta.to.global.u64 %x, %x;
  cvta.to.global.u64 %y, %y;
  mul.wide.u32 %at, %i, 4;
  add.s64 %x, %x, %at;
  add.s64 %y, %y, %at;
  ld.global.f32 %value, [%x];
  mul.f32 %value, %value, %factor;
  st.global.f32 [%y], %value;
  ret;
}
"#;

/// The kernel's one parameter, as the struct in CUDA lays it out; padding would have to be a field.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ScaleParams {
    x: u64,
    out: u64,
    count: u32,
    factor: f32,
}

/// `factor · x`, computed on `device`.
pub(crate) fn scaled(device: &Device, factor: f32, x: &[f32]) -> Result<Vec<f32>, DeviceError> {
    let kernel = device.kernel_from_ptx("scale.ptx", PTX, "scale")?; // keep it if you launch it often
    let (input, out) = (device.alloc_slice(x)?, device.alloc(size_of_val(x))?);
    let params = ScaleParams { x: input.ptr(), out: out.ptr(), count: x.len() as u32, factor };
    let blocks = x.len().div_ceil(128).max(1) as u32;
    device.launch(&kernel, [blocks, 1, 1], [128, 1, 1], 0, &params)?;
    // Waits for the launch: both are on the device's one stream.
    device.download_vec(&out, 0, x.len())
}

fn main() -> Result<(), DeviceError> {
    let device = Device::open(&std::env::args().nth(1).unwrap_or_else(|| "auto".into()))?;
    let x: Vec<f32> = (0..300).map(|i| i as f32).collect();
    let y = scaled(&device, 0.5, &x)?;
    println!("{}: 0.5 · {:?} … = {:?} …", device.info().label(), &x[..4], &y[..4]);
    assert!(x.iter().zip(&y).all(|(x, y)| *y == 0.5 * x));
    Ok(())
}
