//! What tests through the typed launchers share: the devices, tensors, poison. Inputs and the bound on errors are in `numbers`.

use super::common;
pub use super::numbers::{Random, add_cut, assert_close, epsilon, round, tf32_loss};
use adacache::device::Device;
use adacache::tensor::{DType, Tensor};
use std::sync::OnceLock;

/// The devices to test on, the virtual GPU in checked mode. Made once, so that PTX is loaded once.
pub fn devices() -> &'static [Device] {
    static DEVICES: OnceLock<Vec<Device>> = OnceLock::new();
    DEVICES.get_or_init(common::checked_devices)
}

/// As [`devices`], those that run kernels for Hopper.
pub fn hopper_devices() -> &'static [Device] {
    static DEVICES: OnceLock<Vec<Device>> = OnceLock::new();
    DEVICES.get_or_init(common::hopper_devices)
}

/// As [`devices`], without the checks: for what would take too long with them.
pub fn unchecked_devices() -> &'static [Device] {
    static DEVICES: OnceLock<Vec<Device>> = OnceLock::new();
    DEVICES.get_or_init(common::devices)
}

/// Runs a body on every device with every dtype that models compute in.
pub fn for_each(mut body: impl FnMut(&Device, DType)) {
    for device in devices() {
        for dtype in DType::COMPUTE {
            body(device, dtype);
        }
    }
}

/// A tensor on the device with these values.
pub fn tensor(device: &Device, shape: &[usize], values: &[f32], dtype: DType) -> Tensor {
    Tensor::from_f32(device, shape, values, dtype).expect("upload")
}

/// An output whose every byte is poison (NaN in every float type), so that an element that is not written shows.
pub fn poisoned(device: &Device, shape: &[usize], dtype: DType) -> Tensor {
    let tensor = Tensor::empty(device, shape, dtype).expect("allocation");
    tensor.fill_bytes(0xff).expect("fill");
    tensor
}

/// As [`tensor`], the first element `misalign` elements past a 256-byte boundary, the last one at the end of its allocation.
pub fn placed(device: &Device, shape: &[usize], values: &[f32], dtype: DType, misalign: usize) -> Tensor {
    let at = poisoned_at(device, shape, dtype, misalign);
    at.write_f32(values).expect("upload");
    at
}

/// As [`poisoned`], placed as by [`placed`].
pub fn poisoned_at(device: &Device, shape: &[usize], dtype: DType, misalign: usize) -> Tensor {
    let count = shape.iter().product();
    let whole = poisoned(device, &[misalign + count], dtype);
    whole.slice_rows(misalign, count).and_then(|part| part.reshape(shape)).expect("a view")
}

/// Asserts that two runs of a kernel give the same bytes.
#[track_caller]
pub fn assert_same_bits(what: &str, mut run: impl FnMut() -> Tensor) {
    let (first, second) = (run().to_bytes().expect("read-back"), run().to_bytes().expect("read-back"));
    let differing = first.iter().zip(&second).filter(|(a, b)| a != b).count();
    assert!(first == second, "{what}: two runs differ in {differing} bytes");
}

#[test]
fn poison_is_not_a_number_in_every_float_type() {
    for_each(|device, dtype| {
        assert!(poisoned(device, &[3], dtype).to_f32().unwrap().iter().all(|v| v.is_nan()));
    });
}
