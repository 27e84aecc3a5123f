//! The functions of the device runtime that compilers call: `printf`, `assert`, `malloc`, `free`.

use super::find::{describe_miss, resolve};
use crate::error::FaultKind;
use crate::ir::*;

/// Which function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Printf,
    AssertFail,
    Malloc,
    Free,
}

/// A function by name: which, how many arguments and results it takes, and the bytes of the result.
pub(crate) fn find(name: &str) -> Option<(Kind, (usize, usize), u32)> {
    Some(match name {
        "vprintf" => (Kind::Printf, (2, 1), 4),
        "__assertfail" => (Kind::AssertFail, (5, 0), 0),
        "malloc" => (Kind::Malloc, (1, 1), 8),
        "free" => (Kind::Free, (1, 0), 0),
        _ => return None,
    })
}

/// imm = which; list = where the result and the arguments lie in local memory.
pub(crate) struct Runtime;
impl Exec for Runtime {
    const RARE: bool = true;

    #[inline(always)]
    unsafe fn exec(cx: &mut Cx, op: *const Op) -> *const Op {
        // SAFETY: forwarded.
        unsafe { run(cx, op) }
    }
}

#[inline(never)]
unsafe fn run(cx: &mut Cx, op: *const Op) -> *const Op {
    // SAFETY: the list holds 64-bit operands; they name variables inside local memory; the heap outlives the launch.
    unsafe {
        let imm = (*op).imm;
        let mask = cx.mask;
        for lane in (0..WARP).filter(|lane| mask >> lane & 1 != 0) {
            let at = |cx: &Cx, i: usize| {
                let offset = (*cx.at::<u64>(cx.list(op, i)))[lane];
                cx.local.add(lane * cx.local_len as usize + offset as usize)
            };
            let word = |cx: &Cx, i: usize| at(cx, i).cast::<u64>().read_unaligned();
            let lane = lane as u32;
            let string = |cx: &Cx, address| text(cx, address, lane).map_err(|message| (lane, address, message));
            let failed = |cx: &mut Cx, (lane, address, message)| {
                cx.fault(op, FaultKind::OutOfBounds, Some(lane), Some(address), message)
            };
            if imm == Kind::Printf as i64 {
                let (format, arguments) = (word(cx, 1), word(cx, 2));
                match string(cx, format).and_then(|format| print(cx, &format, arguments, lane)) {
                    Ok(count) => at(cx, 0).cast::<i32>().write_unaligned(count),
                    Err(miss) => return failed(cx, miss),
                }
            } else if imm == Kind::Malloc as i64 {
                let bytes = word(cx, 1);
                let address = (*cx.heap).malloc(bytes);
                at(cx, 0).cast::<u64>().write_unaligned(address);
            } else if imm == Kind::Free as i64 {
                let address = word(cx, 0);
                if address != 0 && !(*cx.heap).free(address) {
                    let message = format!(
                        "free of {address:#x}, which is not the start of what malloc gave, or was freed before"
                    );
                    return cx.fault(op, FaultKind::OutOfBounds, Some(lane), Some(address), message);
                }
            } else {
                let (message, file, line, function) = (word(cx, 0), word(cx, 1), word(cx, 2) as u32, word(cx, 3));
                let parts = [message, file, function].map(|address| string(cx, address));
                let [Ok(message), Ok(file), Ok(function)] = parts else {
                    let miss = parts.into_iter().find_map(Result::err).unwrap_or_default();
                    return failed(cx, miss);
                };
                let [message, file, function] =
                    [message, file, function].map(|b| String::from_utf8_lossy(&b).into_owned());
                let message = format!("assertion `{message}` failed at {file}:{line} in {function}");
                return cx.fault(op, FaultKind::Trap, Some(lane), None, message);
            }
        }
        op.add(1)
    }
}

type Miss = (u32, u64, String);

/// A string in memory, up to its zero byte.
unsafe fn text(cx: &Cx, address: u64, lane: u32) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    loop {
        let at = address.wrapping_add(out.len() as u64);
        // SAFETY: `resolve` checks.
        match unsafe { resolve(cx, at, 1, true, lane).map(|p| *p) } {
            None => return Err(describe_miss(cx, at, 1, false)),
            Some(0) => return Ok(out),
            Some(byte) => out.push(byte),
        }
    }
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
}

/// Writes a format with the arguments that lie in memory one behind the other, each aligned to its size. Gives the number of arguments.
unsafe fn print(cx: &mut Cx, format: &[u8], arguments: u64, lane: u32) -> Result<i32, Miss> {
    let mut at = arguments;
    let mut count = 0;
    let mut take = |cx: &Cx, bytes: u64| -> Result<u64, Miss> {
        at = at.next_multiple_of(bytes);
        // SAFETY: `resolve` checks.
        let value = unsafe {
            match resolve(cx, at, bytes, true, lane) {
                None => return Err((lane, at, describe_miss(cx, at, bytes, false))),
                Some(p) if bytes == 4 => u64::from(p.cast::<u32>().read_unaligned()),
                Some(p) => p.cast::<u64>().read_unaligned(),
            }
        };
        at += bytes;
        count += 1;
        Ok(value)
    };
    let mut out = Vec::new();
    let mut rest = format.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
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
            let width = take(cx, 4)? as i32;
            spec.left |= width < 0;
            spec.width = (width.unsigned_abs() as usize).min(4096);
        }
        while let Some(digit) = rest.next_if(u8::is_ascii_digit) {
            spec.width = (spec.width * 10 + usize::from(digit - b'0')).min(4096);
        }
        if rest.next_if_eq(&b'.').is_some() {
            let mut precision = 0;
            if rest.next_if_eq(&b'*').is_some() {
                let given = take(cx, 4)? as i32;
                spec.precision = usize::try_from(given).ok().map(|given| given.min(4096));
            } else {
                while let Some(digit) = rest.next_if(u8::is_ascii_digit) {
                    precision = (precision * 10 + usize::from(digit - b'0')).min(4096);
                }
                spec.precision = Some(precision);
            }
        }
        let mut long = false;
        let mut short = 0;
        while let Some(size) = rest.next_if(|b| b"hljztL".contains(b)) {
            long |= size != b'h';
            short += u32::from(size == b'h');
        }
        let Some(kind) = rest.next() else { break };
        let bytes = if long { 8 } else { 4 };
        match kind {
            b'%' => out.push(b'%'),
            b'd' | b'i' => {
                let raw = take(cx, bytes)?;
                let value = match (long, short) {
                    (true, _) => raw as i64,
                    (_, 0) => i64::from(raw as i32),
                    (_, 1) => i64::from(raw as i16),
                    _ => i64::from(raw as i8),
                };
                number(&mut out, &spec, sign(&spec, value < 0), value.unsigned_abs().to_string());
            }
            b'u' | b'x' | b'X' | b'o' => {
                let raw = take(cx, bytes)?;
                let value = match short {
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
                number(&mut out, &spec, if spec.alternate && value != 0 { prefix } else { "" }, digits);
            }
            b'p' => match take(cx, 8)? {
                0 => pad(&mut out, &spec, "", "(nil)", false),
                value => pad(&mut out, &spec, "0x", &format!("{value:x}"), false),
            },
            b'c' => {
                let value = take(cx, 4)? as u8;
                let blanks = spec.width.saturating_sub(1);
                let blanks = std::iter::repeat_n(b' ', blanks);
                if spec.left {
                    out.push(value);
                    out.extend(blanks);
                } else {
                    out.extend(blanks);
                    out.push(value);
                }
            }
            b's' => {
                let address = take(cx, 8)?;
                // SAFETY: forwarded.
                let mut value = match unsafe { text(cx, address, lane) } {
                    _ if address == 0 => b"(null)".to_vec(),
                    Ok(value) => value,
                    Err(message) => return Err((lane, address, message)),
                };
                value.truncate(spec.precision.unwrap_or(usize::MAX));
                pad(&mut out, &spec, "", &String::from_utf8_lossy(&value), false);
            }
            b'f' | b'F' | b'e' | b'E' | b'g' | b'G' | b'a' | b'A' => {
                let value = f64::from_bits(take(cx, 8)?);
                let mut digits = float(value.abs(), kind.to_ascii_lowercase(), spec.precision, spec.alternate);
                let mut prefix = sign(&spec, value.is_sign_negative()).to_owned();
                if let Some(hex) = digits.strip_prefix("0x") {
                    prefix += "0x";
                    digits = hex.to_owned();
                }
                if kind.is_ascii_uppercase() {
                    (prefix, digits) = (prefix.to_uppercase(), digits.to_uppercase());
                }
                pad(&mut out, &spec, &prefix, &digits, spec.zero && value.is_finite());
            }
            other => out.extend([b'%', other]),
        }
    }
    cx.printed.extend(out);
    Ok(count)
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
