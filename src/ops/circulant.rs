//! Circular filters along the axes of a grid, with other weights in every step: `kernels/circulant.cu`.

use super::decide::StepClock;
use super::params::{self, CirculantParams};
use super::{Op, Result};
use crate::device::{Device, Module};
use crate::tensor::{DType, Tensor};

/// One circular filter for each axis of a grid, with its weights of every step on the device.
#[derive(Debug, Clone)]
pub struct Circulant {
    /// Lengths of the axes.
    grid: Vec<usize>,
    /// `[steps, Σ lengths]` f32: the weights of the axes one after the other.
    table: Tensor,
    /// The clock's `[1]` i32: the step at hand, from 1.
    cursor: Tensor,
}

impl Circulant {
    /// Filters along the axes of `grid`, with the weights `steps[step][axis]`, as many as the axis is long, at the steps that `clock`
    /// begins.
    ///
    /// # Errors
    /// An axis that is empty or longer than the kernel takes, weights for other lengths or fewer steps than the clock has, values that are
    /// not finite; out of memory.
    pub fn new(device: &Device, grid: &[usize], steps: &[Vec<Vec<f32>>], clock: &StepClock) -> Result<Circulant> {
        let op = Op::on("Circulant", device);
        if let Some(length) = grid.iter().find(|length| !(1..=params::CIRCULANT_LENGTH).contains(*length)) {
            return Err(op.value("grid", length, format_args!("axes of 1 to {}", params::CIRCULANT_LENGTH)));
        }
        if steps.len() != clock.steps() {
            return Err(op.value("steps", steps.len(), format_args!("{}, as the clock has", clock.steps())));
        }
        let fits = |weights: &Vec<Vec<f32>>| weights.iter().map(Vec::len).eq(grid.iter().copied());
        if !steps.iter().all(fits) {
            return Err(op.value(
                "weights",
                "weights of other lengths",
                format_args!("{grid:?} of them in every step"),
            ));
        }
        let table: Vec<f32> = steps.iter().flatten().flatten().copied().collect();
        if let Some(weight) = table.iter().find(|weight| !weight.is_finite()) {
            return Err(op.value("weights", weight, "finite numbers"));
        }
        let row = grid.iter().sum();
        let table = Tensor::from_slice(device, &[steps.len(), row], &table)?;
        Ok(Circulant { grid: grid.into(), table, cursor: clock.cursor().clone() })
    }

    /// Filters `x` in place with the weights of the step at hand, which the clock has begun: along each axis `x[i] = Σ_j w[(i − j) mod n]·x[j]`.
    ///
    /// * `x` `[batch, …grid, channels]` D; axes of the grid may be joined.
    ///
    /// # Errors
    /// [`OpError`](super::OpError) if shapes, types or devices do not match.
    pub fn apply(&self, x: &Tensor) -> Result<()> {
        let op = Op::new("circulant", x);
        let dtype = op.compute_dtype("x", x)?;
        op.check("table", &self.table, DType::F32, &[])?;
        let cells: usize = self.grid.iter().product();
        let batch = x.shape().first().copied().unwrap_or(0);
        if batch == 0 || !x.elements().is_multiple_of(batch * cells) {
            return Err(op.value(
                "x",
                format_args!("{:?}", x.shape()),
                format_args!("[batch, {:?}, channels]", self.grid),
            ));
        }
        let channels = x.elements() / (batch * cells);
        let mut first = 0;
        for (axis, &length) in self.grid.iter().enumerate() {
            let outer = batch * self.grid[..axis].iter().product::<usize>();
            let inner = channels * self.grid[axis + 1..].iter().product::<usize>();
            let tile = tile(length).min(inner.next_power_of_two());
            let params = CirculantParams {
                x: x.ptr(),
                table: self.table.ptr(),
                cursor: self.cursor.ptr(),
                inner: inner as i64,
                length: op.int("length", length)?,
                tile: op.int("tile", tile)?,
                row: op.int("row", self.table.shape()[1])?,
                first: op.int("first", first)?,
            };
            let grid = [outer * inner.div_ceil(tile), 1];
            let counted = Op::new("circulant", x).counted(2 * x.elements() * length, &[Some(x)], &[Some(x)]);
            counted.launch(
                Module::Circulant,
                &format!("circulant_{dtype}"),
                grid,
                params::CIRCULANT_THREADS,
                &params,
            )?;
            first += length;
        }
        Ok(())
    }
}

/// The columns that a block takes: what its shared memory holds, at most two cache lines of bf16.
fn tile(length: usize) -> usize {
    let most = params::CIRCULANT_ELEMENTS / length;
    (1 << most.ilog2()).min(128)
}
