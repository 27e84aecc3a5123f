//! Matrix descriptors of `wgmma`: where the rows of an operand lie in shared memory.
//!
//! A descriptor describes 8x8 matrices of 16-byte rows, as many as the operand has along M (or N) and two along K:
//!
//! ```text
//! bits 0-13   start address / 16          bits 16-29  leading offset / 16        bits 32-45  stride offset / 16
//! bits 49-51  base offset                 bits 62-63  swizzle: 0 none, 1 of 128 bytes, 2 of 64, 3 of 32
//! ```
//!
//! With a swizzle of `w` bytes (16 for none), row `r` of matrix `(outer, inner)` begins at
//!
//! ```text
//! K-major    start + w r + stride outer + 16 inner                                (leading inner instead, for none)
//! MN-major   start + w r + 16 (outer % (w / 16)) + leading (outer / (w / 16)) + stride inner
//!            (stride outer + leading inner instead, for none)
//! ```
//!
//! where `r` runs along M (or N), or along K in an MN-major operand. The swizzle then exchanges the 16-byte columns of a row of `w` bytes:
//! bits 4 to 6 of the address are combined by exclusive or with bits 7 to 9, or with as many of them as `w` has columns. Rows of 128
//! bytes are counted from the base offset.

/// Rows of an 8x8 matrix.
pub const ROWS: usize = 8;

/// What a descriptor says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    start: u32,
    leading: u32,
    stride: u32,
    base: u32,
    /// Columns of 16 bytes of a swizzled row: 1, 2, 4 or 8.
    columns: u32,
}

/// Bits that mean nothing.
const RESERVED: u64 = !(0x3fff | 0x3fff << 16 | 0x3fff << 32 | 7 << 49 | 3 << 62);

impl Descriptor {
    /// Takes a descriptor apart.
    ///
    /// # Errors
    /// In words, when it is malformed.
    pub fn read(bits: u64) -> Result<Descriptor, &'static str> {
        let field = |at: u32| (bits >> at & 0x3fff) as u32 * 16;
        let columns = [1, 8, 4, 2][(bits >> 62) as usize];
        let base = (bits >> 49 & 7) as u32;
        if bits & RESERVED != 0 {
            return Err("bits are set that have no meaning");
        }
        if columns == 1 && base != 0 {
            return Err("it has a base offset and no swizzle");
        }
        Ok(Descriptor { start: field(0), leading: field(16), stride: field(32), base, columns })
    }

    /// The swizzle in bytes; 0 for none.
    pub fn swizzle(&self) -> u32 {
        if self.columns == 1 { 0 } else { 16 * self.columns }
    }

    /// The addresses of the rows of matrix `(outer, inner)`: `outer` along M or N, `inner` along K; `mn_major` as the operand is.
    pub fn rows(&self, mn_major: bool, outer: u32, inner: u32) -> [u32; ROWS] {
        let n = self.columns;
        let first = match (mn_major, n) {
            (false, 1) => self.stride * outer + self.leading * inner,
            (false, _) => self.stride * outer + 16 * inner,
            (true, 1) => self.stride * outer + self.leading * inner,
            (true, _) => 16 * (outer % n) + self.leading * (outer / n) + self.stride * inner,
        };
        std::array::from_fn(|row| {
            let at = self.start + first + 16 * n * row as u32;
            at ^ ((at >> 7).wrapping_sub(self.base) & (n - 1)) << 4
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(start: u32, leading: u32, stride: u32, base: u64, swizzle: u64) -> Descriptor {
        let field = |bytes: u32| u64::from(bytes / 16);
        Descriptor::read(field(start) | field(leading) << 16 | field(stride) << 32 | base << 49 | swizzle << 62)
            .unwrap()
    }

    #[test]
    fn rows_without_a_swizzle_lie_side_by_side() {
        let d = descriptor(256, 128, 1024, 0, 0);
        assert_eq!(d.rows(false, 0, 0), [256, 272, 288, 304, 320, 336, 352, 368]);
        assert_eq!((d.rows(false, 2, 0)[0], d.rows(false, 0, 1)[0]), (256 + 2048, 256 + 128));
        assert_eq!((d.rows(true, 2, 0)[0], d.rows(true, 0, 1)[0]), (256 + 2048, 256 + 128));
    }

    #[test]
    fn swizzles_exchange_columns() {
        let d = descriptor(1024, 16, 1024, 0, 1);
        assert_eq!(d.rows(false, 0, 0), std::array::from_fn(|r| 1024 + 128 * r as u32 + 16 * r as u32));
        assert_eq!(d.rows(false, 0, 1)[..3], [1024 + 16, 1024 + 128, 1024 + 256 + 48]);
        // The next 32 bytes of a row.
        assert_eq!(descriptor(1024 + 32, 16, 1024, 0, 1).rows(false, 0, 0)[1], 1024 + 128 + 48);
        let d = descriptor(512, 16, 512, 0, 2);
        assert_eq!(d.rows(false, 0, 1)[..5], [528, 512 + 64 + 16, 512 + 128, 512 + 192, 512 + 256 + 48]);
        let d = descriptor(256, 16, 256, 0, 3);
        assert_eq!(d.rows(false, 1, 0)[..5], [512, 544, 576, 608, 656]);
    }

    #[test]
    fn a_swizzle_counts_from_its_base_offset() {
        // A pattern that begins 128 bytes behind a multiple of 1024.
        let (plain, moved) = (descriptor(1024, 16, 1024, 0, 1), descriptor(1152, 16, 1024, 1, 1));
        assert_eq!(moved.rows(false, 0, 1), plain.rows(false, 0, 1).map(|a| a + 128));
    }

    #[test]
    fn rows_of_mn_major_operands_run_along_k() {
        let d = descriptor(0, 4096, 1024, 0, 1);
        assert_eq!((d.rows(true, 3, 0)[0], d.rows(true, 3, 0)[1]), (48, 128 + 32));
        assert_eq!((d.rows(true, 8, 0)[0], d.rows(true, 0, 1)[0]), (4096, 1024));
        let d = descriptor(0, 4096, 256, 0, 3);
        assert_eq!((d.rows(true, 2, 0)[0], d.rows(true, 1, 1)[4]), (4096, 256 + 128));
    }

    #[test]
    fn malformed_descriptors_are_told() {
        assert!(Descriptor::read(1 << 14).is_err() && Descriptor::read(1 << 52).is_err());
        assert!(Descriptor::read(1 << 49).is_err() && Descriptor::read(1 << 49 | 1 << 62).is_ok());
    }
}
