//! Activations in one allocation, first fit: a decoder or encoder takes and releases memory as it runs. Work is queued on one stream, so a
//! range can be reused at once.

use std::cell::RefCell;
use std::ops::Deref;
use std::rc::Rc;

use crate::device::Device;
use crate::tensor::{DType, Tensor, TensorError};

/// Alignment of tensors: that of the kernels' widest accesses and of a cache line.
const ALIGNMENT: usize = 256;

/// Memory of a fixed size, lent out in pieces.
pub(super) struct Heap {
    memory: Tensor,
    /// The (start, end) of every lent range, in order.
    lent: RefCell<Vec<(usize, usize)>>,
    peak: RefCell<usize>,
}

/// Bytes that nobody else gets until this is dropped.
struct Range<'a> {
    heap: &'a Heap,
    start: usize,
}

/// A tensor in the heap, or some of its frames; its bytes are released when nothing of it is left.
pub(super) struct Lent<'a> {
    range: Rc<Range<'a>>,
    tensor: Tensor,
}

impl Heap {
    pub(super) fn new(device: &Device, bytes: usize) -> Result<Heap, TensorError> {
        let memory = Tensor::empty(device, &[bytes], DType::U8)?;
        Ok(Heap { memory, lent: RefCell::default(), peak: RefCell::new(0) })
    }

    /// Uninitialised memory of a shape, at the lowest offset where it fits.
    ///
    /// # Errors
    /// It fits nowhere.
    pub(super) fn take(&self, shape: &[usize], dtype: DType) -> Result<Lent<'_>, TensorError> {
        let mut lent = self.lent.borrow_mut();
        let bytes = shape.iter().try_fold(dtype.size(), |product, &axis| product.checked_mul(axis));
        let bytes = bytes.and_then(|n| n.max(1).checked_next_multiple_of(ALIGNMENT));
        let bytes = bytes.ok_or_else(|| TensorError::TooLarge { shape: shape.to_vec(), dtype })?;
        let (mut start, mut index) = (0, 0);
        while lent.get(index).is_some_and(|(next, _)| start + bytes > *next) {
            start = lent[index].1;
            index += 1;
        }
        let tensor = self.memory.carve(start, shape, dtype)?;
        lent.insert(index, (start, start + bytes));
        let mut peak = self.peak.borrow_mut();
        *peak = (*peak).max(start + bytes);
        Ok(Lent { range: Rc::new(Range { heap: self, start }), tensor })
    }

    /// The highest end of any range ever lent: a heap of this size is enough for the same requests.
    pub(super) fn peak(&self) -> usize {
        *self.peak.borrow()
    }
}

impl Lent<'_> {
    /// `count` frames from `first` on, in the same memory.
    pub(super) fn frames(&self, first: usize, count: usize) -> Result<Self, TensorError> {
        Ok(Lent { range: self.range.clone(), tensor: self.tensor.slice_rows(first, count)? })
    }
}

impl Deref for Lent<'_> {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        &self.tensor
    }
}

impl Drop for Range<'_> {
    fn drop(&mut self) {
        self.heap.lent.borrow_mut().retain(|(start, _)| *start != self.start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_lent_again_and_nothing_overlaps() {
        let device = Device::open("vm").unwrap();
        let heap = Heap::new(&device, 1024).unwrap();
        let take = |bytes| heap.take(&[bytes], DType::U8);
        let (a, b, c) = (take(200).unwrap(), take(257).unwrap(), take(1).unwrap());
        assert!(!a.overlaps(&b) && !b.overlaps(&c) && heap.peak() == 1024);
        assert!(take(1).is_err(), "full");
        let at = b.ptr();
        drop(b);
        assert!(take(513).is_err(), "512 bytes are free");
        let d = take(100).unwrap();
        assert_eq!(d.ptr(), at);
        assert!(take(300).is_err() && take(256).is_ok());
        let part = d.frames(90, 10).unwrap();
        assert!(part.overlaps(&d));
        drop((a, c, d));
        assert!(take(1024).is_err(), "a part of it is in use");
        drop(part);
        assert!(take(1024).is_ok() && heap.peak() == 1024);
    }
}
