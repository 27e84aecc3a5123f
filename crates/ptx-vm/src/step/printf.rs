//! What the device's `printf` writes: C's formats, with arguments that lie in the kernel's memory.

use super::find::{describe_miss, resolve};
use crate::ir::*;
use std::iter::{Copied, Peekable};
use std::slice::Iter;

/// The address that was meant, and what is wrong with it.
pub(super) type Miss = (u64, String);

/// A string in memory, up to its zero byte.
pub(super) fn text(cx: &mut Cx, address: u64, lane: u32) -> Result<Vec<u8>, Miss> {
    let mut out = Vec::new();
    loop {
        let at = address.wrapping_add(out.len() as u64);
        // SAFETY: `resolve` checks.
        match unsafe { resolve(cx, at, 1, true, lane).map(|p| *p) } {
            None => return Err((address, describe_miss(cx, at, 1, false))),
            Some(0) => {
                cx.has_read(lane, address, out.len() as u64 + 1, "a string");
                return Ok(out);
            }
            Some(byte) => out.push(byte),
        }
    }
}

/// What is left of a format.
type Rest<'a> = Peekable<Copied<Iter<'a, u8>>>;

/// The arguments of a lane, one behind the other, each aligned to its size.
struct Arguments<'a> {
    cx: &'a mut Cx,
    lane: u32,
    at: u64,
    count: i32,
}

impl Arguments<'_> {
    fn take(&mut self, bytes: u64) -> Result<u64, Miss> {
        let at = self.at.next_multiple_of(bytes);
        // SAFETY: `resolve` checks.
        let value = unsafe {
            match resolve(self.cx, at, bytes, true, self.lane) {
                None => return Err((at, describe_miss(self.cx, at, bytes, false))),
                Some(p) if bytes == 4 => u64::from(p.cast::<u32>().read_unaligned()),
                Some(p) => p.cast::<u64>().read_unaligned(),
            }
        };
        self.cx.has_read(self.lane, at, bytes, "what `printf` prints");
        self.at = at + bytes;
        self.count += 1;
        Ok(value)
    }

    /// The string that the next argument points to.
    fn string(&mut self) -> Result<Vec<u8>, Miss> {
        let address = self.take(8)?;
        if address == 0 {
            return Ok(b"(null)".to_vec());
        }
        text(self.cx, address, self.lane)
    }
}

/// Writes a format with the arguments at an address. Gives the number of arguments.
pub(super) fn print(cx: &mut Cx, format: &[u8], at: u64, lane: u32) -> Result<i32, Miss> {
    let mut arguments = Arguments { cx, lane, at, count: 0 };
    let mut out = Vec::new();
    let mut rest = format.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let spec = Spec::read(&mut rest, &mut arguments)?;
        let Some(kind) = rest.next() else { break };
        spec.convert(kind, &mut arguments, &mut out)?;
    }
    arguments.cx.printed.extend(out);
    Ok(arguments.count)
}

/// What a conversion of a format asks for.
#[derive(Default)]
struct Spec {
    left: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    zero: bool,
    width: usize,
    precision: Option<usize>,
    /// The argument has 64 bits.
    long: bool,
    /// How often `h` halves it.
    short: u32,
}

impl Spec {
    /// Reads what stands between `%` and the letter.
    fn read(rest: &mut Rest, arguments: &mut Arguments) -> Result<Spec, Miss> {
        let mut spec = Spec::default();
        while let Some(flag) = rest.next_if(|b| b"-+ #0".contains(b)) {
            match flag {
                b'-' => spec.left = true,
                b'+' => spec.plus = true,
                b' ' => spec.space = true,
                b'#' => spec.alternate = true,
                _ => spec.zero = true,
            }
        }
        if rest.next_if_eq(&b'*').is_some() {
            let width = arguments.take(4)? as i32;
            spec.left |= width < 0;
            spec.width = (width.unsigned_abs() as usize).min(MOST);
        } else {
            spec.width = digits(rest);
        }
        if rest.next_if_eq(&b'.').is_some() {
            spec.precision = match rest.next_if_eq(&b'*') {
                Some(_) => usize::try_from(arguments.take(4)? as i32).ok().map(|given| given.min(MOST)),
                None => Some(digits(rest)),
            };
        }
        while let Some(size) = rest.next_if(|b| b"hljztL".contains(b)) {
            spec.long |= size != b'h';
            spec.short += u32::from(size == b'h');
        }
        Ok(spec)
    }

    /// Writes the next argument as the letter says.
    fn convert(&self, kind: u8, arguments: &mut Arguments, out: &mut Vec<u8>) -> Result<(), Miss> {
        let bytes = if self.long { 8 } else { 4 };
        match kind {
            b'%' => out.push(b'%'),
            b'd' | b'i' => self.signed(arguments.take(bytes)?, out),
            b'u' | b'x' | b'X' | b'o' => self.unsigned(kind, arguments.take(bytes)?, out),
            b'p' => match arguments.take(8)? {
                0 => pad(out, self, "", "(nil)", false),
                value => pad(out, self, "0x", &format!("{value:x}"), false),
            },
            b'c' => {
                let value = arguments.take(4)? as u8;
                let blanks = std::iter::repeat_n(b' ', self.width.saturating_sub(1));
                if self.left {
                    out.push(value);
                    out.extend(blanks);
                } else {
                    out.extend(blanks);
                    out.push(value);
                }
            }
            b's' => {
                let mut value = arguments.string()?;
                value.truncate(self.precision.unwrap_or(usize::MAX));
                pad(out, self, "", &String::from_utf8_lossy(&value), false);
            }
            b'f' | b'F' | b'e' | b'E' | b'g' | b'G' | b'a' | b'A' => {
                self.float(kind, f64::from_bits(arguments.take(8)?), out);
            }
            other => out.extend([b'%', other]),
        }
        Ok(())
    }

    fn signed(&self, raw: u64, out: &mut Vec<u8>) {
        let value = match (self.long, self.short) {
            (true, _) => raw as i64,
            (_, 0) => i64::from(raw as i32),
            (_, 1) => i64::from(raw as i16),
            _ => i64::from(raw as i8),
        };
        number(out, self, sign(self, value < 0), value.unsigned_abs().to_string());
    }

    fn unsigned(&self, kind: u8, raw: u64, out: &mut Vec<u8>) {
        let value = match self.short {
            0 => raw,
            1 => u64::from(raw as u16),
            _ => u64::from(raw as u8),
        };
        let (prefix, digits) = match kind {
            b'u' => ("", value.to_string()),
            b'x' => ("0x", format!("{value:x}")),
            b'X' => ("0X", format!("{value:X}")),
            _ => ("0", format!("{value:o}")),
        };
        number(out, self, if self.alternate && value != 0 { prefix } else { "" }, digits);
    }

    fn float(&self, kind: u8, value: f64, out: &mut Vec<u8>) {
        let mut digits = float(value.abs(), kind.to_ascii_lowercase(), self.precision, self.alternate);
        let mut prefix = sign(self, value.is_sign_negative()).to_owned();
        if let Some(hex) = digits.strip_prefix("0x") {
            prefix += "0x";
            digits = hex.to_owned();
        }
        if kind.is_ascii_uppercase() {
            (prefix, digits) = (prefix.to_uppercase(), digits.to_uppercase());
        }
        pad(out, self, &prefix, &digits, self.zero && value.is_finite());
    }
}

/// The widest field and the longest fraction: no output is longer for want of sense in a format.
const MOST: usize = 4096;

fn digits(rest: &mut Rest) -> usize {
    let mut value = 0;
    while let Some(digit) = rest.next_if(u8::is_ascii_digit) {
        value = (value * 10 + usize::from(digit - b'0')).min(MOST);
    }
    value
}

fn sign(spec: &Spec, negative: bool) -> &'static str {
    match (negative, spec.plus, spec.space) {
        (true, ..) => "-",
        (_, true, _) => "+",
        (.., true) => " ",
        _ => "",
    }
}

/// An integer: the precision is the least number of digits, and turns zero padding off.
fn number(out: &mut Vec<u8>, spec: &Spec, prefix: &str, mut digits: String) {
    match spec.precision {
        Some(0) if digits == "0" => digits.clear(),
        Some(least) => digits.insert_str(0, &"0".repeat(least.saturating_sub(digits.len()))),
        None => {}
    }
    pad(out, spec, prefix, &digits, spec.zero && spec.precision.is_none());
}

fn pad(out: &mut Vec<u8>, spec: &Spec, prefix: &str, body: &str, zeros: bool) {
    let fill = spec.width.saturating_sub(prefix.len() + body.len());
    let (blanks, zeros, after) = match (spec.left, zeros) {
        (true, _) => (0, 0, fill),
        (_, true) => (0, fill, 0),
        _ => (fill, 0, 0),
    };
    let line = format!("{}{prefix}{}{body}{}", " ".repeat(blanks), "0".repeat(zeros), " ".repeat(after));
    out.extend(line.into_bytes());
}

/// A number that is not negative, as C's `%f`, `%e`, `%g` and `%a` write it.
fn float(value: f64, kind: u8, precision: Option<usize>, alternate: bool) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return "inf".to_owned();
    }
    let point = |text: String| if alternate && !text.contains('.') { text + "." } else { text };
    let scientific = |digits: usize| {
        let text = format!("{value:.digits$e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent = exponent.parse::<i32>().unwrap_or(0);
        (mantissa.to_owned(), exponent)
    };
    let with_exponent = |mantissa: String, exponent: i32| {
        format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
    };
    match kind {
        b'f' => point(format!("{value:.*}", precision.unwrap_or(6))),
        b'e' => {
            let (mantissa, exponent) = scientific(precision.unwrap_or(6));
            with_exponent(point(mantissa), exponent)
        }
        b'g' => {
            let digits = precision.unwrap_or(6).max(1);
            let (mantissa, exponent) = scientific(digits - 1);
            let trim = |text: String| match text.contains('.') && !alternate {
                true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
                false => text,
            };
            if exponent < -4 || exponent >= digits as i32 {
                with_exponent(trim(point(mantissa)), exponent)
            } else {
                trim(point(format!("{value:.*}", (digits as i32 - 1 - exponent) as usize)))
            }
        }
        _ => hexadecimal(value, precision, alternate),
    }
}

/// `%a`: the significand in hexadecimal, rounded to nearest even when it is cut short.
fn hexadecimal(value: f64, precision: Option<usize>, alternate: bool) -> String {
    let bits = value.to_bits();
    let (mut exponent, mut significand) = ((bits >> 52) as i32, bits & ((1 << 52) - 1));
    if exponent == 0 {
        exponent = if significand == 0 { 0 } else { -1022 };
    } else {
        significand |= 1 << 52;
        exponent -= 1023;
    }
    let mut digits = 13;
    if let Some(wanted) = precision.filter(|wanted| *wanted < 13) {
        let drop = 4 * (13 - wanted);
        let (half, low) = (1u64 << (drop - 1), significand & ((1 << drop) - 1));
        significand >>= drop;
        significand += u64::from(low > half || low == half && significand & 1 != 0);
        digits = wanted;
    }
    let lead = significand >> (4 * digits);
    let mut fraction =
        if digits == 0 { String::new() } else { format!("{:0digits$x}", significand & ((1 << (4 * digits)) - 1)) };
    match precision {
        None => fraction.truncate(fraction.trim_end_matches('0').len()),
        Some(wanted) => fraction.extend(std::iter::repeat_n('0', wanted.saturating_sub(13))),
    }
    let point = if fraction.is_empty() && !alternate { "" } else { "." };
    format!("0x{lead:x}{point}{fraction}p{exponent:+}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_as_c_writes_them() {
        for (value, kind, precision, want) in [
            (1.5, b'f', None, "1.500000"),
            (0.0, b'e', None, "0.000000e+00"),
            (12345.678, b'e', Some(3), "1.235e+04"),
            (1e-300, b'e', Some(0), "1e-300"),
            (0.0001, b'g', None, "0.0001"),
            (0.00001, b'g', None, "1e-05"),
            (123456.0, b'g', None, "123456"),
            (1234567.0, b'g', None, "1.23457e+06"),
            (999999.5, b'g', None, "1e+06"),
            (0.0, b'g', None, "0"),
            (2.5, b'f', Some(0), "2"),
            (1.0, b'a', None, "0x1p+0"),
            (0.1, b'a', None, "0x1.999999999999ap-4"),
            (0.1, b'a', Some(2), "0x1.9ap-4"),
            (0.0, b'a', None, "0x0p+0"),
            (f64::INFINITY, b'f', None, "inf"),
        ] {
            assert_eq!(float(value, kind, precision, false), want, "{value} {}", kind as char);
        }
        assert_eq!(float(1.0, b'g', None, true), "1.00000");
    }
}
