//! Elements of buffers: how a case writes them, and whether one is near enough to another.

use crate::TensorType;
use half::{bf16, f16};
use serde::Deserialize;
use serde_json::Value;

/// What a buffer consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dtype {
    F32,
    F64,
    F16,
    Bf16,
    /// Bytes of a signed integer.
    I(usize),
    /// Bytes of an unsigned integer.
    U(usize),
}

impl Dtype {
    /// The same as the type of a tensor map; integers of one and two bytes have no sign there.
    pub(super) fn tensor(self) -> TensorType {
        match self {
            Dtype::F32 => TensorType::F32,
            Dtype::F64 => TensorType::F64,
            Dtype::F16 => TensorType::F16,
            Dtype::Bf16 => TensorType::Bf16,
            Dtype::I(1) | Dtype::U(1) => TensorType::U8,
            Dtype::I(2) | Dtype::U(2) => TensorType::U16,
            Dtype::I(4) => TensorType::S32,
            Dtype::U(4) => TensorType::U32,
            Dtype::I(_) => TensorType::S64,
            Dtype::U(_) => TensorType::U64,
        }
    }
}

/// An element as what it means.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Number {
    Int(i128),
    Float(f64),
}

/// How far an element may be from what is expected: `atol + rtol * |want|`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
pub(super) struct Tolerance {
    pub(super) rtol: f64,
    pub(super) atol: f64,
}

impl Tolerance {
    /// Both are numbers from 0 on, or they mean nothing.
    pub(super) fn check(self) -> Result<Tolerance, String> {
        for (name, value) in [("rtol", self.rtol), ("atol", self.atol)] {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(format!("`{name}` is {value}: a tolerance is a number from 0 on"));
            }
        }
        Ok(self)
    }

    fn allowance(self, want: f64) -> f64 {
        self.atol + self.rtol * want.abs()
    }
}

impl Dtype {
    /// Every one, by name.
    pub(super) const ALL: [(&'static str, Dtype); 12] = [
        ("f32", Dtype::F32),
        ("f64", Dtype::F64),
        ("f16", Dtype::F16),
        ("bf16", Dtype::Bf16),
        ("i8", Dtype::I(1)),
        ("u8", Dtype::U(1)),
        ("i16", Dtype::I(2)),
        ("u16", Dtype::U(2)),
        ("i32", Dtype::I(4)),
        ("u32", Dtype::U(4)),
        ("i64", Dtype::I(8)),
        ("u64", Dtype::U(8)),
    ];

    pub(super) fn parse(name: &str) -> Option<Dtype> {
        Dtype::ALL.iter().find(|(n, _)| *n == name).map(|(_, dtype)| *dtype)
    }

    pub(super) fn name(self) -> &'static str {
        Dtype::ALL.iter().find(|(_, dtype)| *dtype == self).map_or("?", |(name, _)| name)
    }

    pub(super) fn bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F64 => 8,
            Dtype::F16 | Dtype::Bf16 => 2,
            Dtype::I(n) | Dtype::U(n) => n,
        }
    }

    pub(super) fn float(self) -> bool {
        !matches!(self, Dtype::I(_) | Dtype::U(_))
    }

    fn number(self, bytes: &[u8]) -> Number {
        let mut raw = [0u8; 8];
        raw[..bytes.len()].copy_from_slice(bytes);
        let bits = u64::from_le_bytes(raw);
        match self {
            Dtype::F32 => Number::Float(f64::from(f32::from_bits(bits as u32))),
            Dtype::F64 => Number::Float(f64::from_bits(bits)),
            Dtype::F16 => Number::Float(f16::from_bits(bits as u16).to_f64()),
            Dtype::Bf16 => Number::Float(bf16::from_bits(bits as u16).to_f64()),
            Dtype::U(_) => Number::Int(i128::from(bits)),
            Dtype::I(n) => {
                let shift = 64 - 8 * n as u32;
                Number::Int(i128::from((bits << shift) as i64 >> shift))
            }
        }
    }

    /// The smallest and the greatest finite value.
    fn range(self) -> [Number; 2] {
        let float = |max: f64| [Number::Float(-max), Number::Float(max)];
        match self {
            Dtype::F32 => float(f64::from(f32::MAX)),
            Dtype::F64 => float(f64::MAX),
            Dtype::F16 => float(f16::MAX.to_f64()),
            Dtype::Bf16 => float(bf16::MAX.to_f64()),
            Dtype::U(n) => [Number::Int(0), Number::Int((1 << (8 * n)) - 1)],
            Dtype::I(n) => [Number::Int(-(1 << (8 * n - 1))), Number::Int((1 << (8 * n - 1)) - 1)],
        }
    }

    /// One element, as a person reads it: the shortest text that gives the same value, with an exponent where it would be long.
    pub(super) fn show(self, bytes: &[u8]) -> String {
        match (self, self.number(bytes)) {
            (_, Number::Int(value)) => value.to_string(),
            (Dtype::F64, Number::Float(value)) => match long(value) {
                true => format!("{value:e}"),
                false => value.to_string(),
            },
            // As f32, or 0.1 would have 17 digits.
            (_, Number::Float(value)) => match long(value) {
                true => format!("{:e}", value as f32),
                false => (value as f32).to_string(),
            },
        }
    }

    /// The bytes of one element a case gives as JSON: a number, or the name of a float that is none.
    pub(super) fn encode(self, value: &Value) -> Result<Vec<u8>, String> {
        let not_one = || format!("{value} is not a {}", self.name());
        let too_large = || format!("{value} does not fit a {}", self.name());
        if self.float() {
            let wide = value.as_f64().or_else(|| special(value.as_str()?)).ok_or_else(not_one)?;
            let (bytes, back) = match self {
                Dtype::F32 => ((wide as f32).to_le_bytes().to_vec(), f64::from(wide as f32)),
                Dtype::F16 => (f16::from_f64(wide).to_le_bytes().to_vec(), f16::from_f64(wide).to_f64()),
                Dtype::Bf16 => (bf16::from_f64(wide).to_le_bytes().to_vec(), bf16::from_f64(wide).to_f64()),
                _ => (wide.to_le_bytes().to_vec(), wide),
            };
            // Infinity is what is written as infinity.
            return if back.is_infinite() && wide.is_finite() { Err(too_large()) } else { Ok(bytes) };
        }
        let whole = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
        let whole = match (whole, value.as_f64()) {
            (Some(whole), _) => whole,
            // JSON integers beyond 64 bits arrive as floats.
            (None, Some(float)) if float.abs() >= i64::MAX as f64 => return Err(too_large()),
            _ => return Err(not_one()),
        };
        match self.range() {
            [Number::Int(least), Number::Int(most)] if (least..=most).contains(&whole) => {
                Ok(whole.to_le_bytes()[..self.bytes()].to_vec())
            }
            _ => Err(too_large()),
        }
    }

    /// Whether an element is near enough to what is expected. Integers are compared as integers. NaN is near NaN and nothing else is,
    /// infinity near the same infinity, and 0 is -0.
    pub(super) fn near(self, got: &[u8], want: &[u8], tolerance: Tolerance) -> bool {
        if got == want {
            return true;
        }
        match (self.number(got), self.number(want)) {
            (Number::Int(g), Number::Int(w)) => g.abs_diff(w) <= tolerance.allowance(w as f64).floor() as u128,
            (Number::Float(g), Number::Float(w)) if !g.is_finite() || !w.is_finite() => {
                g == w || g.is_nan() && w.is_nan()
            }
            (Number::Float(g), Number::Float(w)) => g == w || (g - w).abs() <= tolerance.allowance(w),
            _ => false,
        }
    }

    /// Why this expectation holds whatever comes out, if it does.
    pub(super) fn vacuous(self, want: &[u8], tolerance: Tolerance) -> Option<String> {
        let all = |w: f64, far: f64| {
            let allowance = tolerance.allowance(w);
            let every = !allowance.is_finite() || allowance >= far;
            every.then(|| {
                format!(
                    "the tolerance of {allowance:e} accepts every {}{} where {} is expected",
                    if self.float() { "finite " } else { "" },
                    self.name(),
                    self.show(want)
                )
            })
        };
        match (self.number(want), self.range()) {
            (Number::Int(w), [Number::Int(least), Number::Int(most)]) => {
                all(w as f64, least.abs_diff(w).max(most.abs_diff(w)) as f64)
            }
            (Number::Float(w), [_, Number::Float(most)]) if w.is_finite() => all(w, most + w.abs()),
            _ => None,
        }
    }

    /// What an element may be filled with so that everybody sees when nobody has written it: something that none of `wants` accepts.
    /// The bytes of an element are the first.
    pub(super) fn poison(self, wants: &[(&[u8], Tolerance)]) -> Option<[u8; 8]> {
        let bits = |bytes: &[u8]| {
            let mut raw = [0; 8];
            raw[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(raw)
        };
        let [least, most] = self.range().map(|bound| if let Number::Int(value) = bound { value as u64 } else { 0 });
        let first = wants.first().map_or(0, |(want, _)| bits(want));
        let candidates = match self {
            // NaNs nobody computes, and a number for where NaN is expected.
            Dtype::F32 => [0x7fba_dbad, 0x5bad_badb, 0, 0, 0],
            Dtype::F64 => [0x7ff4_badb_adba_dbad, 0x5bad_badb_adba_dbad, 0, 0, 0],
            Dtype::F16 => [0x7dad, 0x5bad, 0, 0, 0],
            Dtype::Bf16 => [0x7fad, 0x5bad, 0, 0, 0],
            // Unlike what is expected in many bits, and as far from it as can be.
            _ => [first ^ 0xadad_adad_adad_adad, 0xadad_adad_adad_adad, 0x5252_5252_5252_5252, least, most],
        };
        let n = self.bytes();
        let told = |c: &[u8; 8]| wants.iter().all(|(want, tolerance)| !self.near(&c[..n], want, *tolerance));
        candidates.into_iter().map(u64::to_le_bytes).find(told)
    }
}

/// Whether a number has an exponent in reports.
fn long(value: f64) -> bool {
    value != 0.0 && value.is_finite() && !(1e-5..1e16).contains(&value.abs())
}

/// A float that JSON has no number for.
pub(super) fn special(name: &str) -> Option<f64> {
    Some(match name {
        "nan" | "NaN" => f64::NAN,
        "inf" | "Infinity" => f64::INFINITY,
        "-inf" | "-Infinity" => f64::NEG_INFINITY,
        _ => return None,
    })
}

/// What a comparison found.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub(super) elements: u64,
    /// Greatest errors, over the elements that are finite and are to be; relative ones where something else than 0 is expected.
    pub(super) max_abs: f64,
    pub(super) max_rel: f64,
    /// Elements that are not near enough or that nobody wrote: how many of each, and the first few in words.
    pub(super) wrong: u64,
    pub(super) unwritten: u64,
    pub(super) shown: Vec<String>,
}

/// Elements a report names.
const SHOWN: usize = 10;

/// Compares two buffers of the same length. `unwritten` tells of an element that nobody has written.
pub(super) fn compare(
    dtype: Dtype,
    got: &[u8],
    want: &[u8],
    tolerance: Tolerance,
    unwritten: impl Fn(usize) -> bool,
) -> Comparison {
    let mut out = Comparison::default();
    let n = dtype.bytes();
    for (e, (g, w)) in got.chunks_exact(n).zip(want.chunks_exact(n)).enumerate() {
        out.elements += 1;
        let missing = unwritten(e);
        if !missing && g != w {
            let (abs, size) = match (dtype.number(g), dtype.number(w)) {
                (Number::Int(g), Number::Int(w)) => (g.abs_diff(w) as f64, w as f64),
                (Number::Float(g), Number::Float(w)) => ((g - w).abs(), w),
                _ => (f64::NAN, 0.0),
            };
            if abs.is_finite() {
                out.max_abs = out.max_abs.max(abs);
                // To 0 nothing has a relation.
                if size != 0.0 {
                    out.max_rel = out.max_rel.max((abs / size.abs()).min(f64::MAX));
                }
            }
        }
        if !missing && dtype.near(g, w, tolerance) {
            continue;
        }
        out.wrong += 1;
        out.unwritten += u64::from(missing);
        if out.shown.len() < SHOWN {
            let got = if missing { "not written".to_owned() } else { dtype.show(g) };
            out.shown.push(format!("[{e}] {got} instead of {}", dtype.show(w)));
        }
    }
    out
}

impl Comparison {
    /// What is wrong, in words; none when all is right.
    pub(super) fn verdict(&self) -> Option<String> {
        if self.wrong == 0 {
            return None;
        }
        if self.unwritten == self.elements {
            return Some(format!("nobody has written any of the {} elements that are expected", self.elements));
        }
        let more = if self.wrong as usize > self.shown.len() { ", ..." } else { "" };
        let missing = match self.unwritten {
            0 => String::new(),
            n => format!(", {n} of them because nobody has written them"),
        };
        Some(format!("{} elements differ{missing}: {}{more}", self.wrong, self.shown.join(", ")))
    }
}

#[cfg(test)]
mod tests;
