//! Tensor maps: what `cp.async.bulk.tensor` is told about a tensor in global memory and the boxes that are copied of it.
//!
//! On hardware the 128 bytes are opaque, and the driver makes them. Here the layout is ours, with the rules of `cuTensorMapEncodeTiled`.

use std::fmt;

/// The bytes of an encoded map, which stand at a multiple of 64.
pub const TENSOR_MAP_BYTES: usize = 128;
/// The most axes.
const MOST_AXES: usize = 5;
/// The most elements of a box along an axis, and the largest step between them.
const MOST_BOX: u32 = 256;
const MOST_STEP: u32 = 8;
/// What an encoded map begins with.
const MARK: [u8; 8] = *b"ptxvmmap";

/// The type of a tensor's elements, numbered as `CUtensorMapDataType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the driver's names")]
pub enum TensorType {
    U8,
    U16,
    U32,
    S32,
    U64,
    S64,
    F16,
    F32,
    F64,
    Bf16,
    F32Ftz,
    Tf32,
    Tf32Ftz,
}

impl TensorType {
    const ALL: [TensorType; 13] = [
        TensorType::U8,
        TensorType::U16,
        TensorType::U32,
        TensorType::S32,
        TensorType::U64,
        TensorType::S64,
        TensorType::F16,
        TensorType::F32,
        TensorType::F64,
        TensorType::Bf16,
        TensorType::F32Ftz,
        TensorType::Tf32,
        TensorType::Tf32Ftz,
    ];

    /// The type of this number, as the driver counts them.
    pub fn numbered(number: u32) -> Option<TensorType> {
        TensorType::ALL.get(number as usize).copied()
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            TensorType::U8 => 1,
            TensorType::U16 | TensorType::F16 | TensorType::Bf16 => 2,
            TensorType::U64 | TensorType::S64 | TensorType::F64 => 8,
            _ => 4,
        }
    }

    /// A quiet NaN, repeated to eight bytes; zeros for integers.
    pub(crate) fn nan(self) -> [u8; 8] {
        match self {
            TensorType::F16 => 0x7fff_7fff_7fff_7fff_u64,
            TensorType::Bf16 => 0x7fff_7fff_7fff_7fff,
            TensorType::F32 | TensorType::F32Ftz | TensorType::Tf32 | TensorType::Tf32Ftz => 0x7fff_ffff_7fff_ffff,
            TensorType::F64 => 0x7fff_ffff_ffff_ffff,
            _ => 0,
        }
        .to_le_bytes()
    }
}

/// How 16-byte pieces change places in shared memory, so that columns of a box meet different banks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TensorSwizzle {
    /// They do not.
    #[default]
    None,
    /// Within 32 bytes.
    B32,
    /// Within 64 bytes.
    B64,
    /// Within 128 bytes.
    B128,
}

impl TensorSwizzle {
    const ALL: [TensorSwizzle; 4] = [TensorSwizzle::None, TensorSwizzle::B32, TensorSwizzle::B64, TensorSwizzle::B128];

    /// The mode of this number, as `CUtensorMapSwizzle` counts them.
    pub fn numbered(number: u32) -> Option<TensorSwizzle> {
        TensorSwizzle::ALL.get(number as usize).copied()
    }

    /// The bytes within which pieces change places; `None` if they stay.
    pub fn span(self) -> Option<usize> {
        (self != TensorSwizzle::None).then_some(16 << self as usize)
    }

    /// The address at which the byte stands that would stand at `address` without swizzle: bits 4.. are combined with bits 7...
    pub(crate) fn place(self, address: u64) -> u64 {
        let mask = (1 << self as u64) - 1;
        address ^ (address >> 7 & mask) << 4
    }
}

/// A tensor in global memory and the boxes that are copied of it. Axes are innermost first.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorMap {
    /// The type of its elements.
    pub ty: TensorType,
    /// Where it begins.
    pub address: u64,
    /// Elements along every axis.
    pub sizes: Vec<u64>,
    /// Bytes from one element to the next, along all axes but the innermost, whose elements stand side by side.
    pub strides: Vec<u64>,
    /// Elements of a box along every axis.
    pub box_sizes: Vec<u32>,
    /// Of those, every so many-th is copied; that of the innermost axis is not looked at.
    pub steps: Vec<u32>,
    /// How a box lies in shared memory.
    pub swizzle: TensorSwizzle,
    /// Whether elements of a box outside of the tensor are NaN instead of 0.
    pub nan: bool,
}

/// Why a tensor map is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tensor map: {0}")]
pub struct TensorMapError(String);

impl TensorMap {
    /// A map of a tensor without swizzle, of whose boxes every element is copied.
    pub fn new(ty: TensorType, address: u64, sizes: &[u64], strides: &[u64], box_sizes: &[u32]) -> TensorMap {
        TensorMap {
            ty,
            address,
            sizes: sizes.into(),
            strides: strides.into(),
            box_sizes: box_sizes.into(),
            steps: vec![1; sizes.len()],
            swizzle: TensorSwizzle::None,
            nan: false,
        }
    }

    /// The same with another swizzle.
    pub fn with_swizzle(self, swizzle: TensorSwizzle) -> TensorMap {
        TensorMap { swizzle, ..self }
    }

    /// Elements of a copied box along every axis.
    pub(crate) fn copied(&self) -> impl Iterator<Item = u64> + '_ {
        let axis =
            |(i, (size, step)): (usize, (&u32, &u32))| u64::from(if i == 0 { *size } else { size.div_ceil(*step) });
        self.box_sizes.iter().zip(&self.steps).enumerate().map(axis)
    }

    /// The bytes of a box in shared memory.
    pub fn box_bytes(&self) -> usize {
        self.copied().product::<u64>() as usize * self.ty.bytes()
    }

    fn check(&self) -> Result<(), String> {
        let TensorMap { address, sizes, strides, box_sizes, steps, .. } = self;
        let axes = sizes.len();
        if !(1..=MOST_AXES).contains(&axes) {
            return Err(format!("{axes} axes, 1 to {MOST_AXES} expected"));
        }
        for (name, length, expected) in [
            ("strides", strides.len(), axes - 1),
            ("sizes of the box", box_sizes.len(), axes),
            ("steps", steps.len(), axes),
        ] {
            if length != expected {
                return Err(format!("{length} {name}, {expected} expected for {axes} axes"));
            }
        }
        if !address.is_multiple_of(16) {
            return Err(format!("the address {address:#x} is no multiple of 16"));
        }
        let each =
            |name, values: &mut dyn Iterator<Item = u64>, fits: &dyn Fn(u64) -> bool, expected: &str| match values
                .enumerate()
                .find(|(_, value)| !fits(*value))
            {
                Some((axis, value)) => Err(format!("the {name} {value} of axis {axis} is not {expected}")),
                None => Ok(()),
            };
        let wide = |values: &[u32]| values.iter().map(|v| u64::from(*v)).collect::<Vec<_>>().into_iter();
        each("size", &mut sizes.iter().copied(), &|v| (1..=1 << 32).contains(&v), "1 to 2^32")?;
        let stride = |v: u64| v.is_multiple_of(16) && v < 1 << 40;
        each("stride", &mut strides.iter().copied(), &stride, "a multiple of 16 below 2^40")?;
        let most = u64::from(MOST_BOX);
        each("box size", &mut wide(box_sizes), &|v| (1..=most).contains(&v), "1 to 256")?;
        each("step", &mut wide(steps), &|v| (1..=u64::from(MOST_STEP)).contains(&v), "1 to 8")?;
        let inner = box_sizes[0] as usize * self.ty.bytes();
        if !inner.is_multiple_of(16) {
            return Err(format!("the innermost axis of the box has {inner} bytes, which is no multiple of 16"));
        }
        match self.swizzle.span() {
            Some(span) if inner > span => {
                Err(format!("the innermost axis of the box has {inner} bytes; with this swizzle at most {span}"))
            }
            _ => Ok(()),
        }
    }

    /// The map as a kernel takes it, in memory or as a parameter.
    ///
    /// # Errors
    /// [`TensorMapError`] for what `cuTensorMapEncodeTiled` refuses.
    pub fn encode(&self) -> Result<[u8; TENSOR_MAP_BYTES], TensorMapError> {
        self.check().map_err(TensorMapError)?;
        let mut bytes = MARK.to_vec();
        bytes.extend([self.ty as u8, self.sizes.len() as u8, self.swizzle as u8, u8::from(self.nan)]);
        bytes.extend(self.address.to_le_bytes());
        for axis in 0..MOST_AXES {
            let at = |values: &[u32]| values.get(axis).copied().unwrap_or(1) as u16;
            bytes.extend(((self.sizes.get(axis).copied().unwrap_or(1) - 1) as u32).to_le_bytes());
            bytes.extend(self.strides.get(axis).copied().unwrap_or(0).to_le_bytes());
            bytes.extend(at(&self.box_sizes).to_le_bytes());
            bytes.extend(at(&self.steps).to_le_bytes());
        }
        bytes.resize(TENSOR_MAP_BYTES, 0);
        Ok(bytes.try_into().expect("it has been brought to this size"))
    }

    /// What [`TensorMap::encode`] has made; none for other bytes.
    pub fn decode(bytes: &[u8; TENSOR_MAP_BYTES]) -> Option<TensorMap> {
        let rest = bytes.strip_prefix(&MARK)?;
        let (&[ty, axes, swizzle, nan], rest) = rest.split_first_chunk()?;
        let (address, mut rest) = rest.split_first_chunk()?;
        let mut map = TensorMap::new(TensorType::numbered(ty.into())?, u64::from_le_bytes(*address), &[], &[], &[]);
        (map.swizzle, map.nan) = (TensorSwizzle::numbered(swizzle.into())?, nan != 0);
        for axis in 0..usize::from(axes) {
            let (size, stride, counts);
            (size, rest) = rest.split_first_chunk()?;
            (stride, rest) = rest.split_first_chunk()?;
            (counts, rest) = rest.split_first_chunk::<4>()?;
            map.sizes.push(u64::from(u32::from_le_bytes(*size)) + 1);
            if axis + 1 < usize::from(axes) {
                map.strides.push(u64::from_le_bytes(*stride));
            }
            map.box_sizes.push(u16::from_le_bytes([counts[0], counts[1]]).into());
            map.steps.push(u16::from_le_bytes([counts[2], counts[3]]).into());
        }
        map.check().is_ok().then_some(map)
    }
}

impl fmt::Display for TensorMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a tensor of {:?} of sizes {:?} in boxes of {:?}", self.ty, self.sizes, self.box_sizes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_maps_are_read_back() {
        let map = TensorMap {
            steps: vec![1, 2, 8],
            nan: true,
            ..TensorMap::new(TensorType::Bf16, 1 << 40, &[1 << 32, 7, 1], &[16, (1 << 40) - 16], &[64, 256, 1])
        };
        let map = map.with_swizzle(TensorSwizzle::B128);
        assert_eq!(TensorMap::decode(&map.encode().unwrap()), Some(map.clone()));
        assert_eq!(map.box_bytes(), 64 * 128 * 2);
        assert_eq!(TensorMap::decode(&[0; TENSOR_MAP_BYTES]), None);
    }

    #[test]
    fn what_the_driver_refuses_is_refused() {
        let good = || TensorMap::new(TensorType::F32, 256, &[9, 5], &[48], &[8, 4]);
        good().encode().unwrap();
        type Change = fn(&mut TensorMap);
        let bad: [(Change, &str); 13] = [
            (|m| m.address = 8, "0x8 is no multiple of 16"),
            (|m| m.sizes.clear(), "0 axes"),
            (|m| m.sizes = vec![1; 6], "6 axes"),
            (|m| m.strides.push(16), "2 strides, 1 expected"),
            (|m| m.sizes[1] = 0, "size 0 of axis 1"),
            (|m| m.sizes[0] = (1 << 32) + 1, "1 to 2^32"),
            (|m| m.strides[0] = 40, "stride 40 of axis 0"),
            (|m| m.strides[0] = 1 << 40, "below 2^40"),
            (|m| m.box_sizes[1] = 257, "box size 257 of axis 1"),
            (|m| m.box_sizes[0] = 6, "24 bytes, which is no multiple of 16"),
            (|m| m.steps[1] = 9, "step 9 of axis 1"),
            (|m| m.steps.clear(), "0 steps"),
            (|m| (m.box_sizes[0], m.swizzle) = (12, TensorSwizzle::B32), "at most 32"),
        ];
        for (change, expected) in bad {
            let mut map = good();
            change(&mut map);
            let error = map.encode().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    /// Of a swizzle, the pieces of every line of 128 bytes change places among themselves, in another way in each of its rows.
    #[test]
    fn swizzles_permute() {
        for swizzle in TensorSwizzle::ALL {
            let mut columns = vec![];
            for line in 0..8u64 {
                let places: Vec<u64> = (0..8).map(|piece| swizzle.place(line * 128 + piece * 16)).collect();
                let mut sorted = places.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..8).map(|piece| line * 128 + piece * 16).collect::<Vec<_>>());
                columns.push(places[0] % 128 / 16);
            }
            columns.sort_unstable();
            columns.dedup();
            assert_eq!(columns.len(), swizzle.span().map_or(1, |span| span / 16), "{swizzle:?}");
        }
    }
}
