//! Captions on their way to a transformer: the tokens to keep, one after the other, and their projection to the width of the model.

use super::linear::Linear;
use crate::device::Device;
use crate::model::ModelError;
use crate::ops;
use crate::ops::linear::Activation;
use crate::tensor::{DType, Tensor};

/// The indices of the tokens to keep of each of `batch` captions `y` (`[batch, length, width]`): those for which `mask` (`[batch, length]`)
/// is true, or all.
///
/// # Errors
/// Sizes that do not fit, values that are not finite.
pub(in crate::model) fn kept(
    y: &[f32],
    batch: usize,
    width: usize,
    mask: Option<&[bool]>,
) -> Result<Vec<Vec<i32>>, ModelError> {
    if batch == 0 || y.is_empty() || !y.len().is_multiple_of(batch * width) {
        return Err(ModelError::Input(format!(
            "captions hold {} values, expected a multiple of batch {batch} × {width} channels",
            y.len()
        )));
    }
    if let Some(i) = y.iter().position(|v| !v.is_finite()) {
        return Err(ModelError::Input(format!("the caption embedding holds {} at element {i}", y[i])));
    }
    let length = y.len() / (batch * width);
    if let Some(mask) = mask.filter(|m| m.len() != batch * length) {
        return Err(ModelError::Input(format!(
            "the text mask has {} entries, expected {batch} × {length}",
            mask.len()
        )));
    }
    let keeps = |b: usize, j: usize| mask.is_none_or(|m| m[b * length + j]);
    Ok((0..batch).map(|b| (0..length).filter(|j| keeps(b, *j)).map(|j| j as i32).collect()).collect())
}

/// The tokens `kept` of captions `y` (`[batch, length, width]`), as `[batch·longest, width]`; what is left of a caption's rows is zeros.
///
/// # Errors
/// Out of memory.
pub(in crate::model) fn pack(
    device: &Device,
    y: &[f32],
    width: usize,
    kept: &[Vec<i32>],
    longest: usize,
    dtype: DType,
) -> Result<Tensor, ModelError> {
    let batch = kept.len();
    let rows = kept.iter().flat_map(|tokens| tokens.iter().copied().chain(std::iter::repeat(-1)).take(longest));
    let index = Tensor::from_slice(device, &[batch, longest], &rows.collect::<Vec<i32>>())?;
    let source = Tensor::from_f32(device, &[batch, y.len() / (batch * width), width], y, dtype)?;
    let packed = Tensor::empty(device, &[batch, longest, width], dtype)?;
    ops::embed::gather_rows(&source, &index, &packed)?;
    Ok(packed.reshape(&[batch * longest, width])?)
}

/// `second(GELU(first(y)))` of packed captions `y` `[rows, width]`, as `[rows, C]`.
///
/// # Errors
/// Out of memory.
pub(in crate::model) fn projected(y: &Tensor, [first, second]: &[Linear; 2]) -> Result<Tensor, ModelError> {
    let shape = [y.shape()[0], first.bias.elements()];
    let hidden = Tensor::empty(y.device(), &shape, y.dtype())?;
    let text = Tensor::empty(y.device(), &shape, y.dtype())?;
    ops::linear::linear(y, &first.weight, Some(&first.bias), None, Activation::GeluTanh, &hidden)?;
    ops::linear::linear(&hidden, &second.weight, Some(&second.bias), None, Activation::None, &text)?;
    Ok(text)
}
