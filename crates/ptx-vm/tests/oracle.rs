//! What `run` says of results that are wrong, and of cases that do not check what they seem to.

use ptx_vm::VmConfig;
use ptx_vm::case::{CaseError, Outcome, run_case};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A kernel for each element size: the first thread stores the parameter at the pointer. `nothing` stores nothing, `half` only to the
/// first of two elements.
fn ptx() -> String {
    let mut text = ".version 8.0\n.target sm_80\n.address_size 64\n".to_owned();
    for (bits, class, reg) in [(8, "rs", "b16"), (16, "rs", "b16"), (32, "r", "b32"), (64, "rl", "b64")] {
        text += &format!(
            ".visible .entry put{bits}(.param .u64 to, .param .b{bits} value) {{
                .reg .b64 %rd<2>; .reg .{reg} %{class}<2>;
                ld.param.u64 %rd1, [to]; ld.param.b{bits} %{class}1, [value];
                st.global.b{bits} [%rd1], %{class}1; ret; }}\n"
        );
    }
    text += ".visible .entry nothing(.param .u64 to) { ret; }\n";
    text += ".visible .entry bad(.param .u64 to) { .reg .b32 %r<2>;\nfrobnicate.b32 %r1, %r1; ret; }\n";
    text += ".visible .entry undeclared(.param .u64 to) { add.u32 %r1, %r1, %r1; ret; }\n";
    text + ".visible .entry off(.param .u64 to) { .reg .b64 %rd<2>; .reg .b32 %r<2>;
            ld.param.u64 %rd1, [to]; mov.u32 %r1, 0; st.global.u32 [%rd1+1000000], %r1; ret; }\n"
}

fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("oracle").join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("kernel.ptx"), ptx()).unwrap();
    dir
}

/// Runs a `case.json` of this text.
fn run_text(name: &str, text: &str, checked: bool) -> Result<Outcome, CaseError> {
    let dir = scratch(name);
    std::fs::write(dir.join("case.json"), text).unwrap();
    run_case(&dir, &VmConfig { checked, threads: 1, ..VmConfig::default() })
}

fn case(entry: &str, args: Value) -> Value {
    json!({"ptx": "kernel.ptx", "entry": entry, "grid": [1, 1, 1], "block": [1, 1, 1], "args": args})
}

fn run(name: &str, spec: &Value) -> Result<Outcome, CaseError> {
    let plain = run_text(name, &spec.to_string(), false);
    let checked = run_text(name, &spec.to_string(), true);
    match (&plain, &checked) {
        (Ok(p), Ok(c)) => assert_eq!((p.ok, &p.message), (c.ok, &c.message), "{spec}"),
        (Err(p), Err(c)) => {
            // Checked mode may have half the memory.
            let told = |e: &CaseError| e.to_string().split(" and a limit").next().map(str::to_owned);
            assert_eq!(told(p), told(c));
        }
        _ => panic!("{spec}: {plain:?}, checked {checked:?}"),
    }
    plain
}

/// The message of a case that fails.
fn failure(name: &str, spec: &Value) -> String {
    let outcome = run(name, spec).unwrap();
    assert!(!outcome.ok, "{spec}");
    outcome.message.unwrap()
}

/// Why a case is refused.
fn refusal(name: &str, spec: &Value) -> String {
    match run(name, spec) {
        Ok(outcome) => panic!("{spec} is accepted: {outcome:?}"),
        Err(error) => error.to_string(),
    }
}

fn put(dtype: &str, value: Value, buffer: Value) -> Value {
    let bits: String = dtype.chars().filter(char::is_ascii_digit).collect();
    let mut whole = json!({"kind": "buffer", "dtype": dtype, "len": 1});
    whole.as_object_mut().unwrap().extend(buffer.as_object().unwrap().clone());
    case(&format!("put{bits}"), json!([whole, {"kind": dtype, "value": value}]))
}

#[test]
fn every_dtype_passes_with_the_right_value_and_fails_with_its_neighbour() {
    for (dtype, value, wrong) in [
        ("i8", json!(-128), json!(-127)),
        ("u8", json!(255), json!(254)),
        ("i16", json!(-1), json!(0)),
        ("u16", json!(65535), json!(0)),
        ("i32", json!(2147483647), json!(2147483646)),
        ("u32", json!(4294967295u32), json!(4294967294u32)),
        ("i64", json!(9007199254740992i64), json!(9007199254740993i64)),
        ("u64", json!(u64::MAX), json!(u64::MAX - 1)),
        ("f16", json!(1), json!(1.0009765625)),
        ("bf16", json!(-1), json!(1)),
        ("f32", json!(16777216), json!(16777218)),
        ("f64", json!(0), json!(5e-324)),
        ("f32", json!("nan"), json!(0)),
        ("f32", json!(0), json!("nan")),
        ("f64", json!(1.7e308), json!("inf")),
        ("f16", json!("inf"), json!("-inf")),
    ] {
        for tolerance in [json!({}), json!({"rtol": 0, "atol": 0}), json!({"rtol": 1e-30, "atol": 1e-330})] {
            let mut buffer = tolerance.clone();
            buffer["expect"] = value.clone();
            let outcome = run("dtypes", &put(dtype, value.clone(), buffer.clone())).unwrap();
            assert!(outcome.ok && outcome.compared == 1, "{dtype} {value}: {outcome:?}");
            buffer["expect"] = wrong.clone();
            let message = failure("dtypes", &put(dtype, value.clone(), buffer));
            assert!(message.starts_with("argument 0: 1 elements differ: [0] "), "{dtype} {value} {wrong}: {message}");
        }
    }
    assert_eq!(
        failure("dtypes", &put("f64", json!(5e-324), json!({"expect": 1e-300}))),
        "argument 0: 1 elements differ: [0] 5e-324 instead of 1e-300"
    );
}

#[test]
fn infinity_is_not_within_any_tolerance() {
    for value in [json!(1), json!("-inf"), json!("nan")] {
        for dtype in ["f16", "bf16", "f32", "f64"] {
            let spec = put(dtype, value.clone(), json!({"expect": "inf", "rtol": 1e-3, "atol": 1e3}));
            assert!(failure("inf", &spec).contains("instead of inf"));
        }
    }
    assert!(run("inf", &put("f32", json!("inf"), json!({"expect": ["inf"], "rtol": 1e-3}))).unwrap().ok);
}

#[test]
fn a_buffer_nobody_writes_is_told() {
    for (dtype, value) in
        [("f32", json!(0)), ("f32", json!("nan")), ("u8", json!(0)), ("i64", json!(-1)), ("bf16", json!(1))]
    {
        let buffer = json!({"kind": "buffer", "dtype": dtype, "len": 3, "expect": value, "rtol": 0.5});
        assert_eq!(
            failure("unwritten", &case("nothing", json!([buffer]))),
            "argument 0: nobody has written any of the 3 elements that are expected"
        );
    }
    // One of two.
    let two = json!({"kind": "buffer", "dtype": "u32", "len": 2, "expect": 7});
    assert_eq!(
        failure("unwritten", &case("put32", json!([two, {"kind": "u32", "value": 7}]))),
        "argument 0: 1 elements differ, 1 of them because nobody has written them: [1] not written instead of 7"
    );
    // What is there before may be what is expected.
    let kept = json!({"kind": "buffer", "dtype": "u32", "len": 3, "init": 7, "expect": 7});
    assert!(run("unwritten", &case("nothing", json!([kept]))).unwrap().ok);
    // Nothing is compared, and that is said.
    let outcome = run("unwritten", &case("nothing", json!([{"kind": "buffer", "dtype": "u32", "len": 3}]))).unwrap();
    assert!(outcome.ok && outcome.compared == 0);
}

#[test]
fn a_case_that_checks_nothing_or_other_than_it_seems_is_refused() {
    let buffer = |more: Value| {
        let mut whole = json!({"kind": "buffer", "dtype": "u8", "len": 2, "init": 1});
        whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        case("nothing", json!([whole]))
    };
    for (more, told) in [
        (json!({"expct": 1}), "unknown field `expct`"),
        (json!({"Expect": 1}), "unknown field `Expect`"),
        (json!({"expect": 1, "rtoll": 0.1}), "unknown field `rtoll`"),
        (json!({"value": 1}), "`value` means nothing for `buffer`"),
        (json!({"hex": "00"}), "`hex` means nothing for `buffer`"),
        (json!({"rtol": 0.1}), "`rtol` and `atol` mean nothing without `expect`"),
        (json!({"expect": 1, "rtol": -0.1}), "`rtol` is -0.1: a tolerance is a number from 0 on"),
        (json!({"expect": 1, "atol": -1}), "`atol` is -1: a tolerance is a number from 0 on"),
        (json!({"expect": 1, "atol": "nan"}), "invalid type: string \"nan\", expected f64"),
        (json!({"expect": 1, "atol": null}), "invalid type: null, expected f64"),
        (json!({"expect": 1, "atol": 254}), "the tolerance of 2.54e2 accepts every u8 where 1 is expected"),
        (json!({"expect": 200, "rtol": 1}), "the tolerance of 2e2 accepts every u8 where 200 is expected"),
        (json!({"expect": null}), "null is not a u8"),
        (json!({"expect": "nan"}), "nan: No such file"),
        (json!({"expect": "none.bin"}), "none.bin: No such file"),
        (json!({"expect": [1]}), "1 bytes, 2 expected: 2 elements of u8"),
        (json!({"expect": [1, 2, 3]}), "3 bytes, 2 expected"),
        (json!({"expect": 256}), "256 does not fit a u8"),
        (json!({"expect": -1}), "-1 does not fit a u8"),
        (json!({"expect": 1.5}), "1.5 is not a u8"),
        (json!({"expect": {"value": 1}}), "is not a u8"),
        (json!({"dtype": "f32", "init": 0, "expect": 1e39}), "1e+39 does not fit a f32"),
        (json!({"dtype": "f16", "init": 65520}), "65520 does not fit a f16"),
        (json!({"dtype": "f64", "init": 0, "expect": 1e10, "rtol": 1e300}), "accepts every finite f64"),
        (json!({"dtype": "f23"}), "unknown dtype `f23`"),
        (json!({"len": 0, "expect": []}), "`expect` of no elements is no check"),
        (json!({"len": 0, "init": [], "expect": 1}), "`expect` of no elements is no check"),
        (json!({"len": -1}), "invalid value: integer `-1`"),
        (json!({"len": 1u64 << 62}), "out of device memory"),
        (json!({"dtype": "u64", "len": 1u64 << 62}), "`len` is too large"),
        (json!({"kind": "buffr"}), "unknown kind `buffr`"),
    ] {
        let refused = refusal("refused", &buffer(more.clone()));
        assert!(refused.contains(told), "{more}: {refused}");
    }
    let scalar = |arg: Value| case("put8", json!([{"kind": "buffer", "dtype": "u8", "len": 1}, arg]));
    for (arg, told) in [
        (json!({"kind": "u8", "value": 1, "expect": 1}), "argument 1: `expect` means nothing for `u8`"),
        (json!({"kind": "u8", "value": 256}), "argument 1: 256 does not fit a u8"),
        (json!({"kind": "i32", "value": 1}), "argument 1: 4 bytes, parameter `value` takes 1"),
        (json!({"kind": "u8"}), "argument 1: a scalar has a `value`"),
        (json!({"value": 1}), "argument 1: an argument has a `kind`"),
        (json!({"kind": "null", "len": 1}), "argument 1: `len` means nothing for `null`"),
        (json!({"kind": "bytes", "hex": "+1"}), "argument 1: `hex` is not hexadecimal"),
        (json!({"kind": "bytes", "hex": "1"}), "argument 1: `hex` is not hexadecimal"),
        (json!({"kind": "f32", "value": 1e39}), "argument 1: 1e+39 does not fit a f32"),
    ] {
        let refused = refusal("refused", &scalar(arg.clone()));
        assert!(refused.contains(told), "{arg}: {refused}");
    }
    // Pointers may be left out, numbers not: they would be 0.
    let refused = refusal("refused", &case("put32", json!([{"kind": "null"}])));
    assert!(
        refused.contains("1 arguments, the kernel takes 2: only pointers may be left out, not `value`"),
        "{refused}"
    );
    assert!(run("refused", &case("nothing", json!([]))).unwrap().ok);
}

#[test]
fn the_whole_file_is_strict_as_well() {
    let good = case("nothing", json!([{"kind": "null"}]));
    assert!(run("strict", &good).unwrap().ok);
    for (key, value, told) in [
        ("expect", json!(1), "unknown field `expect`"),
        ("expected_fault", json!("race"), "unknown field `expected_fault`"),
        ("expect_fault", json!("rase"), "unknown fault `rase`; there are: out_of_bounds, "),
        ("grid", json!([1, 1]), "invalid length 2"),
        ("grid", json!([1, 1, -1]), "invalid value: integer `-1`"),
        ("dynamic_shared", json!(1u64 << 32), "invalid value"),
    ] {
        let mut spec = good.clone();
        spec[key] = value;
        let refused = refusal("strict", &spec);
        assert!(refused.contains(told), "{key}: {refused}");
    }
    let mut spec = good.clone();
    spec["note"] = "a word to people".into();
    spec["expect_fault"] = Value::Null;
    assert!(run("strict", &spec).unwrap().ok);
    for key in ["ptx", "entry", "grid", "block", "args"] {
        let mut spec = good.clone();
        spec.as_object_mut().unwrap().remove(key);
        let refused = refusal("strict", &spec);
        assert!(refused.contains(key) && refused.contains("missing"), "{key}: {refused}");
    }
    // The last of two would win.
    for twice in [
        r#"{"ptx": "kernel.ptx", "entry": "nothing", "grid": [1, 1, 1], "block": [1, 1, 1], "args": [], "args": []}"#,
        r#"{"ptx": "kernel.ptx", "entry": "nothing", "grid": [1, 1, 1], "block": [1, 1, 1],
            "args": [{"kind": "buffer", "dtype": "u8", "len": 1, "init": 1, "expect": 2, "expect": 1}]}"#,
    ] {
        let refused = run_text("strict", twice, false).unwrap_err().to_string();
        assert!(refused.contains("duplicate field"), "{refused}");
    }
}

#[test]
fn only_the_expected_fault_will_do() {
    let word = json!({"kind": "buffer", "dtype": "u32", "len": 1});
    let expecting = |entry: &str, fault: &str| {
        let mut spec = case(entry, json!([word]));
        spec["expect_fault"] = fault.into();
        spec
    };
    for (entry, fault, kind) in [
        ("bad", "unknown_opcode", "unknown_opcode"),
        ("undeclared", "unknown_opcode", "load"),
        ("off", "out_of_bounds", "out_of_bounds"),
        ("off", "misaligned", "out_of_bounds"),
        ("off", "unknown_opcode", "out_of_bounds"),
        ("bad", "out_of_bounds", "unknown_opcode"),
    ] {
        let outcome = run("faults", &expecting(entry, fault)).unwrap();
        assert_eq!(outcome.fault_kind.as_deref(), Some(kind), "{entry}: {outcome:?}");
        assert_eq!(outcome.ok, fault == kind, "{entry}, {fault}");
        let told = format!("the fault is `{kind}`, not the expected `{fault}`");
        assert_eq!(outcome.message, (fault != kind).then_some(told));
    }
    assert_eq!(failure("faults", &expecting("nothing", "race")), "the launch ended without the expected fault `race`");
    // A kernel that is not there is no fault of a kernel.
    for fault in ["unknown_opcode", "launch"] {
        assert!(refusal("faults", &expecting("nowhere", fault)).contains("no entry `nowhere`; there are: put8"));
    }
    // Nor is text that is no PTX an instruction nobody knows.
    let dir = scratch("text");
    std::fs::write(dir.join("kernel.ptx"), "hello").unwrap();
    std::fs::write(dir.join("case.json"), expecting("bad", "unknown_opcode").to_string()).unwrap();
    let outcome = run_case(&dir, &VmConfig::default()).unwrap();
    assert_eq!((outcome.ok, outcome.fault_kind.as_deref()), (false, Some("load")));
    // Nobody looks at what a launch leaves that faults.
    let mut both = expecting("off", "out_of_bounds");
    both["args"][0]["expect"] = 1.into();
    assert!(refusal("faults", &both).contains("`expect` and `expect_fault` do not go together"));
}
