//! Bytes of undefined bits, as they stand in memory.

/// Up to eight bytes as a number.
pub(super) fn word(bytes: &[u8]) -> u64 {
    let mut out = [0u8; 8];
    let n = bytes.len().min(8);
    out[..n].copy_from_slice(&bytes[..n]);
    u64::from_le_bytes(out)
}

/// Whether all of `bytes` bytes are 0.
pub(super) unsafe fn is_zero(at: *const u8, bytes: usize) -> bool {
    // SAFETY: the caller has as many bytes there. Other blocks may write them meanwhile, as they may write the memory they stand for.
    unsafe {
        let words = bytes / 8;
        (0..words).all(|i| at.cast::<u64>().add(i).read_unaligned() == 0)
            && (8 * words..bytes).all(|i| at.add(i).read() == 0)
    }
}
