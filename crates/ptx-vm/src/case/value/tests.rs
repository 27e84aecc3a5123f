//! Comparisons of every type of value.

use super::*;
use serde_json::json;

const EXACT: Tolerance = Tolerance { rtol: 0.0, atol: 0.0 };

fn bytes(dtype: &str, value: &Value) -> Vec<u8> {
    Dtype::parse(dtype).unwrap().encode(value).unwrap()
}

/// Whether `got` passes for `want`.
fn passes(dtype: &str, got: &Value, want: &Value, rtol: f64, atol: f64) -> bool {
    let (got, want) = (bytes(dtype, got), bytes(dtype, want));
    let found = compare(Dtype::parse(dtype).unwrap(), &got, &want, Tolerance { rtol, atol }, |_| false);
    assert_eq!(found.elements, 1);
    assert_eq!(found.wrong == 0, found.verdict().is_none());
    found.wrong == 0
}

#[test]
fn wrong_values_of_every_dtype_are_told() {
    for (dtype, got, want) in [
        ("i8", json!(-1), json!(0)),
        ("i8", json!(-128), json!(127)),
        ("u8", json!(255), json!(254)),
        ("u8", json!(0), json!(128)),
        ("i16", json!(-32768), json!(32767)),
        ("u16", json!(65535), json!(65534)),
        ("i32", json!(2147483647), json!(2147483646)),
        ("u32", json!(4294967295u32), json!(4294967294u32)),
        // f64 takes these for the same.
        ("i64", json!(9007199254740993i64), json!(9007199254740992i64)),
        ("i64", json!(i64::MAX), json!(i64::MAX - 1)),
        ("i64", json!(i64::MIN), json!(i64::MIN + 1)),
        ("u64", json!(u64::MAX), json!(u64::MAX - 1)),
        ("u64", json!(9223372036854775809u64), json!(9223372036854775808u64)),
        ("f16", json!(1.0), json!(1.0009765625)),
        ("bf16", json!(1.0), json!(1.0078125)),
        ("f32", json!(1.0), json!(1.0000001)),
        ("f64", json!(1.0), json!(1.0000000000000002)),
        ("f64", json!(5e-324), json!(0.0)),
    ] {
        assert!(!passes(dtype, &got, &want, 0.0, 0.0), "{dtype}: {got} for {want}");
        assert!(passes(dtype, &want, &want, 0.0, 0.0), "{dtype}: {want} for itself");
    }
}

#[test]
fn what_is_no_number_is_near_nothing_else_whatever_the_tolerance() {
    for dtype in ["f16", "bf16", "f32", "f64"] {
        let odd = [json!("nan"), json!("inf"), json!("-inf"), json!(1.0), json!(-1.0), json!(0.0)];
        for (i, got) in odd.iter().enumerate() {
            for (j, want) in odd.iter().enumerate().filter(|(j, _)| i.min(*j) < 3) {
                for (rtol, atol) in [(0.0, 0.0), (1e-3, 0.0), (0.0, 1e4), (0.5, 100.0)] {
                    assert_eq!(passes(dtype, got, want, rtol, atol), i == j, "{dtype}: {got} for {want}");
                }
            }
        }
    }
    // NaN has many patterns, and any will do.
    let found = compare(Dtype::F32, &0xffc1_2345_u32.to_le_bytes(), &0x7fc0_0000_u32.to_le_bytes(), EXACT, |_| false);
    assert_eq!((found.wrong, found.max_abs), (0, 0.0));
}

#[test]
fn errors_are_numbers() {
    for (got, want, abs, rel) in [
        (json!(5.5), json!(5.0), 0.5, 0.1),
        (json!(5.0), json!(0.0), 5.0, 0.0),
        (json!(1e300), json!(1e-300), 1e300, f64::MAX),
        (json!("inf"), json!(1.0), 0.0, 0.0),
        (json!(1e308), json!(-1e308), 0.0, 0.0),
    ] {
        let (got, want) = (bytes("f64", &got), bytes("f64", &want));
        let found = compare(Dtype::F64, &got, &want, EXACT, |_| false);
        assert_eq!((found.max_abs, found.max_rel, found.wrong), (abs, rel, 1));
    }
}

#[test]
fn zeros_are_equal() {
    for dtype in ["f16", "bf16", "f32", "f64"] {
        assert!(passes(dtype, &json!(-0.0), &json!(0.0), 0.0, 0.0));
        assert!(passes(dtype, &json!(0.0), &json!(-0.0), 1e-3, 0.0));
    }
}

#[test]
fn a_tolerance_ends_where_it_says() {
    for (dtype, got, want, rtol, atol, near) in [
        ("f32", json!(1.5), json!(1.0), 0.0, 0.5, true),
        ("f32", json!(1.5), json!(1.0), 0.0, 0.499, false),
        ("f32", json!(-103.0), json!(-100.0), 0.02, 1.0, true),
        ("f32", json!(-103.5), json!(-100.0), 0.02, 1.0, false),
        ("f32", json!(100.0), json!(-100.0), 1.0, 0.0, false),
        ("f64", json!(1e308), json!(-1e308), 1.5, 0.0, false),
        ("i32", json!(103), json!(100), 0.02, 1.0, true),
        ("i32", json!(104), json!(100), 0.02, 1.0, false),
        ("i32", json!(1), json!(0), 0.5, 0.99, false),
        ("u8", json!(0), json!(3), 0.0, 3.0, true),
        ("u8", json!(0), json!(4), 0.0, 3.0, false),
        ("i64", json!(9007199254740994i64), json!(9007199254740992i64), 0.0, 1.0, false),
        ("i64", json!(9007199254740993i64), json!(9007199254740992i64), 0.0, 1.0, true),
        ("u64", json!(u64::MAX), json!(u64::MAX - 3), 0.0, 3.0, true),
        ("u64", json!(u64::MAX), json!(u64::MAX - 3), 0.0, 2.5, false),
        ("u64", json!(u64::MAX), json!(u64::MAX - 3), 1e-20, 2.0, false),
    ] {
        assert_eq!(passes(dtype, &got, &want, rtol, atol), near, "{dtype}: {got} for {want}, {rtol}, {atol}");
    }
}

#[test]
fn tolerances_that_accept_everything_are_refused() {
    for (rtol, atol) in [(-1.0, 0.0), (0.0, -1e-9), (f64::NAN, 0.0), (0.0, f64::NAN), (f64::INFINITY, 0.0)] {
        assert!(Tolerance { rtol, atol }.check().is_err(), "{rtol}, {atol}");
    }
    assert!(Tolerance { rtol: 0.0, atol: -0.0 }.check().is_ok());
    for (dtype, want, rtol, atol, all) in [
        ("u8", json!(200), 1.0, 0.0, true),
        ("u8", json!(100), 1.0, 0.0, false),
        ("i8", json!(0), 0.0, 128.0, true),
        ("i8", json!(0), 0.0, 127.0, false),
        ("u64", json!(0), 0.0, 1.9e19, true),
        ("f16", json!(0), 0.0, 65504.0, true),
        ("f16", json!(0), 0.0, 65503.0, false),
        ("f16", json!("inf"), 0.0, 65504.0, false),
        ("f32", json!(1), 0.0, 1e30, false),
        ("f64", json!(1e10), 1e300, 0.0, true),
        ("f64", json!(1.0), 1e300, 0.0, false),
    ] {
        let found = Dtype::parse(dtype).unwrap().vacuous(&bytes(dtype, &want), Tolerance { rtol, atol });
        assert_eq!(found.is_some(), all, "{dtype} {want} {rtol} {atol}: {found:?}");
    }
}

#[test]
fn numbers_that_do_not_fit_are_refused() {
    for (dtype, value) in [
        ("i8", json!(128)),
        ("i8", json!(-129)),
        ("u8", json!(256)),
        ("u8", json!(-1)),
        ("i16", json!(32768)),
        ("u16", json!(-1)),
        ("i32", json!(2147483648u32)),
        ("u32", json!(4294967296u64)),
        ("u32", json!(-1)),
        ("i64", json!(9223372036854775808u64)),
        ("u64", json!(-1)),
        ("u64", json!(18446744073709551616.0)),
        ("i64", json!(-1e30)),
        ("f16", json!(65520)),
        ("bf16", json!(3.4e38)),
        ("f32", json!(1e39)),
        ("f32", json!(-1e39)),
    ] {
        let refused = Dtype::parse(dtype).unwrap().encode(&value).unwrap_err();
        assert_eq!(refused, format!("{value} does not fit a {dtype}"));
    }
    for (dtype, value) in [
        ("i32", json!(1.5)),
        ("i32", json!("nan")),
        ("u8", json!(true)),
        ("f32", json!("many")),
        ("f32", json!(null)),
        ("f64", json!([1])),
    ] {
        let refused = Dtype::parse(dtype).unwrap().encode(&value).unwrap_err();
        assert_eq!(refused, format!("{value} is not a {dtype}"));
    }
    for (dtype, value, want) in [
        ("i8", json!(-128), vec![0x80]),
        ("u16", json!(65535), vec![0xff; 2]),
        ("i64", json!(i64::MIN), i64::MIN.to_le_bytes().to_vec()),
        ("u64", json!(u64::MAX), vec![0xff; 8]),
        ("f16", json!(65504), f16::MAX.to_le_bytes().to_vec()),
        ("f32", json!(3.4028235e38), f32::MAX.to_le_bytes().to_vec()),
        ("f32", json!("-inf"), f32::NEG_INFINITY.to_le_bytes().to_vec()),
    ] {
        assert_eq!(bytes(dtype, &value), want, "{dtype} {value}");
    }
}

#[test]
fn reports_are_short_and_exact() {
    for (dtype, value, shown) in [
        ("f64", json!(5e-324), "5e-324"),
        ("f64", json!(-2.2250738585072014e-308), "-2.2250738585072014e-308"),
        ("f64", json!(1.7976931348623157e308), "1.7976931348623157e308"),
        ("f64", json!(0.1), "0.1"),
        ("f64", json!(0.0), "0"),
        ("f64", json!(-0.0), "-0"),
        ("f64", json!(1e-5), "0.00001"),
        ("f64", json!(9.9e-6), "9.9e-6"),
        ("f64", json!("nan"), "NaN"),
        ("f64", json!("-inf"), "-inf"),
        ("f32", json!(0.1), "0.1"),
        ("f32", json!(1e-45), "1e-45"),
        ("f32", json!(3.4e38), "3.4e38"),
        ("i64", json!(9007199254740993i64), "9007199254740993"),
        ("u64", json!(u64::MAX), "18446744073709551615"),
        ("i8", json!(-128), "-128"),
    ] {
        assert_eq!(Dtype::parse(dtype).unwrap().show(&bytes(dtype, &value)), shown);
    }
}

#[test]
fn poison_is_never_accepted() {
    for (name, dtype) in Dtype::ALL {
        let mut wants = vec![json!(0), json!(1), json!(82), json!(100)];
        if dtype.float() {
            wants.extend([json!("nan"), json!("inf"), json!(-2.5)]);
        }
        for want in &wants {
            let want = bytes(name, want);
            for tolerance in [EXACT, Tolerance { rtol: 0.1, atol: 100.0 }] {
                assert_eq!(dtype.vacuous(&want, tolerance), None);
                let poison = dtype.poison(&[(&want, tolerance)]).unwrap();
                let near = dtype.near(&poison[..dtype.bytes()], &want, tolerance);
                assert!(!near, "{name}: {poison:?} for {want:?}");
            }
        }
    }
}
