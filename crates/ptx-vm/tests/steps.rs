//! Cases with named buffers, variables of the module, pointers in structs and tables, and several steps.

use ptx_vm::VmConfig;
use ptx_vm::case::{CaseError, Outcome, run_case};
use serde_json::{Value, json};
use std::path::Path;

/// `add`: to[i] += what[i] * scale for 4 words. `by_struct`: the pointers stand in a struct, `to` at byte 8 and `what` at 24. `by_table`:
/// they stand in memory. `boom` traps.
const PTX: &str = ".version 8.0\n.target sm_80\n.address_size 64
.const .align 4 .u32 scale = 1;
.global .align 4 .u32 calls;
.global .align 8 .u64 home;
.visible .entry add(.param .u64 to, .param .u64 what) {
    .reg .b64 %rd<9>; .reg .b32 %r<9>;
    ld.param.u64 %rd1, [to]; ld.param.u64 %rd2, [what];
    mov.u32 %r1, %tid.x; mul.wide.u32 %rd3, %r1, 4;
    add.s64 %rd1, %rd1, %rd3; add.s64 %rd2, %rd2, %rd3;
    ld.global.u32 %r2, [%rd1]; ld.global.u32 %r3, [%rd2]; ld.const.u32 %r4, [scale];
    mad.lo.u32 %r2, %r3, %r4, %r2; st.global.u32 [%rd1], %r2;
    mov.u64 %rd4, calls; red.global.add.u32 [%rd4], 1;
    ret; }
.visible .entry by_struct(.param .align 8 .b8 both[32]) {
    .reg .b64 %rd<9>; .reg .b32 %r<9>;
    ld.param.u64 %rd1, [both+8]; ld.param.u64 %rd2, [both+24]; ld.param.u32 %r5, [both];
    ld.global.u32 %r2, [%rd2]; add.u32 %r2, %r2, %r5; st.global.u32 [%rd1], %r2;
    ret; }
.visible .entry by_table(.param .u64 table) {
    .reg .b64 %rd<9>; .reg .b32 %r<9>;
    ld.param.u64 %rd1, [table]; ld.global.u64 %rd2, [%rd1]; ld.global.u64 %rd3, [%rd1+8];
    ld.global.u32 %r2, [%rd3]; st.global.u32 [%rd2], %r2;
    ret; }
.visible .entry go_home() {
    .reg .b64 %rd<9>; .reg .b32 %r<9>;
    mov.u64 %rd1, home; ld.global.u64 %rd2, [%rd1]; mov.u32 %r1, 77; st.global.u32 [%rd2], %r1;
    ret; }
.visible .entry boom() { trap; ret; }
";

fn run(name: &str, spec: &Value) -> Result<Outcome, CaseError> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("steps").join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("kernel.ptx"), PTX).unwrap();
    std::fs::write(dir.join("case.json"), spec.to_string()).unwrap();
    let run = |checked| run_case(&dir, &VmConfig { checked, threads: 1, counters: true, ..VmConfig::default() });
    let (plain, checked) = (run(false), run(true));
    let told =
        |r: &Result<Outcome, CaseError>| r.as_ref().map(|o| (o.ok, o.message.clone())).map_err(ToString::to_string);
    assert_eq!(told(&plain), told(&checked));
    plain
}

fn launch(entry: &str, threads: u32, args: Value) -> Value {
    json!({"launch": entry, "grid": [1, 1, 1], "block": [threads, 1, 1], "args": args})
}

fn to(name: &str) -> Value {
    json!({"kind": "pointer", "to": name})
}

/// Two launches that add `x` to `sum`, with a fill of `x` between them, and checks.
fn two(sum: &Value, between: &Value) -> Value {
    json!({"ptx": "kernel.ptx",
        "buffers": {"x": {"dtype": "u32", "len": 4, "init": [1, 2, 3, 4]}, "sum": sum},
        "steps": [launch("add", 4, json!([to("sum"), to("x")])), between, {"fill": "x", "with": 10},
            launch("add", 4, json!([to("sum"), to("x")]))]})
}

#[test]
fn launches_share_buffers_and_are_checked_in_between() {
    let sum = json!({"dtype": "u32", "len": 4, "init": 100, "expect": [111, 112, 113, 114]});
    let outcome = run("two", &two(&sum, &json!({"check": "sum", "expect": [101, 102, 103, 104]}))).unwrap();
    assert!(outcome.ok && outcome.compared == 8, "{outcome:?}");
    assert_eq!(outcome.launches.len(), 2);
    let each: Vec<u64> = outcome.launches.iter().map(|l| l.counters.unwrap().warp_instructions).collect();
    assert_eq!(each.iter().sum::<u64>(), outcome.counters.unwrap().warp_instructions);
    assert!(each[0] > 0 && each[0] == each[1]);
    // What is wrong in between and in the end is told of each.
    let wrong = json!({"dtype": "u32", "len": 4, "init": 100, "expect": [111, 112, 113, 115]});
    let outcome = run("two", &two(&wrong, &json!({"check": "sum", "expect": 101}))).unwrap();
    assert!(!outcome.ok);
    assert_eq!(
        outcome.message.unwrap(),
        "step 1: `sum`: 3 elements differ: [1] 102 instead of 101, [2] 103 instead of 101, [3] 104 instead of 101\n\
         `sum`: 1 elements differ: [3] 114 instead of 115"
    );
}

#[test]
fn what_only_a_check_expects_must_have_been_written() {
    let spec = |threads: u32, expect: Value| {
        json!({"ptx": "kernel.ptx",
            "buffers": {"x": {"dtype": "u32", "len": 4, "init": 0}, "out": {"dtype": "u32", "len": 1}},
            "steps": [launch("by_struct", threads, json!([{"kind": "bytes", "hex": "00".repeat(32),
                    "pointers": [{"at": 8, "to": "x"}, {"at": 24, "to": "x", "offset": 4}]}])),
                {"check": "out", "expect": expect}]})
    };
    for expect in [json!(0), json!(0xadad_adad_u32), json!(0x5252_5252)] {
        let outcome = run("unwritten", &spec(1, expect)).unwrap();
        let told = "step 1: `out`: nobody has written any of the 1 elements that are expected";
        assert_eq!(outcome.message.as_deref(), Some(told));
        assert!(!outcome.ok);
    }
}

#[test]
fn pointers_stand_in_structs_and_in_memory() {
    let hex = format!("05000000{}", "00".repeat(28));
    let spec = |at: u64, offset: i64, expect: u32| {
        json!({"ptx": "kernel.ptx", "entry": "by_struct", "grid": [1, 1, 1], "block": [1, 1, 1],
            "buffers": {"in": {"dtype": "u32", "len": 3, "init": [10, 20, 30]}, "out": {"dtype": "u32", "len": 1, "expect": expect}},
            "args": [{"kind": "bytes", "hex": hex, "pointers": [{"at": 8, "to": "out"}, {"at": at, "to": "in", "offset": offset}]}]})
    };
    assert!(run("struct", &spec(24, 8, 35)).unwrap().ok);
    assert!(run("struct", &spec(24, 0, 15)).unwrap().ok);
    let outcome = run("struct", &spec(24, 0, 16)).unwrap();
    assert_eq!(outcome.message.as_deref(), Some("`out`: 1 elements differ: [0] 15 instead of 16"));
    // One byte off is not another pointer, and outside is not inside.
    assert_eq!(run("struct", &spec(24, 2, 15)).unwrap().fault_kind.as_deref(), Some("misaligned"));
    assert_eq!(run("struct", &spec(24, 12, 15)).unwrap().fault_kind.as_deref(), Some("out_of_bounds"));
    for (at, told) in [
        (25, "argument 0: a pointer at byte 25 does not fit 32 bytes"),
        (u64::MAX, "argument 0: a pointer at byte 18446744073709551615 does not fit 32 bytes"),
        (15, "argument 0: the pointer at byte 15 overlaps another"),
    ] {
        let refused = run("struct", &spec(at, 0, 15)).unwrap_err().to_string();
        assert!(refused.ends_with(told), "{refused}");
    }
    let table = json!({"ptx": "kernel.ptx", "entry": "by_table", "grid": [1, 1, 1], "block": [1, 1, 1],
        "buffers": {"in": {"dtype": "u32", "len": 2, "init": [10, 20]}, "out": {"dtype": "u32", "len": 1, "expect": 20}},
        "args": [{"kind": "buffer", "dtype": "u64", "len": 2, "pointers": [{"at": 0, "to": "out"}, {"at": 8, "to": "in", "offset": 4}]}]});
    assert!(run("table", &table).unwrap().ok);
}

#[test]
fn variables_of_the_module_have_values() {
    let spec = |symbols: Value, expect: Value| {
        json!({"ptx": "kernel.ptx", "entry": "add", "grid": [1, 1, 1], "block": [4, 1, 1], "symbols": symbols,
            "args": [{"kind": "buffer", "dtype": "u32", "len": 4, "init": 0, "expect": expect},
                {"kind": "buffer", "dtype": "u32", "len": 4, "init": [1, 2, 3, 4]}]})
    };
    // As the PTX says, as the case says, and what the kernel leaves there.
    assert!(run("symbols", &spec(json!({}), json!([1, 2, 3, 4]))).unwrap().ok);
    let given =
        json!({"scale": {"dtype": "u32", "init": 3}, "calls": {"dtype": "u32", "len": 1, "init": [50], "expect": 54}});
    assert!(run("symbols", &spec(given, json!([3, 6, 9, 12]))).unwrap().ok);
    let outcome = run("symbols", &spec(json!({"calls": {"dtype": "i32", "expect": 5}}), json!([1, 2, 3, 4]))).unwrap();
    assert_eq!(outcome.message.as_deref(), Some("`calls`: 1 elements differ: [0] 4 instead of 5"));
    // A variable that nobody writes has the value it begins with.
    assert!(run("symbols", &spec(json!({"home": {"dtype": "u64", "expect": 0}}), json!([1, 2, 3, 4]))).unwrap().ok);
    let home = json!({"ptx": "kernel.ptx", "entry": "go_home", "grid": [1, 1, 1], "block": [1, 1, 1], "args": [],
        "buffers": {"out": {"dtype": "u32", "len": 2, "init": 0, "expect": [0, 77]}},
        "symbols": {"home": {"dtype": "u64", "pointers": [{"at": 0, "to": "out", "offset": 4}]}}});
    assert!(run("home", &home).unwrap().ok);
    for (symbols, told) in [
        (
            json!({"scala": {"dtype": "u32", "init": 3}}),
            "`scala`: the module has no .global or .const variable of that name; there are: scale, calls, home",
        ),
        (
            json!({"scale": {"dtype": "u64", "init": 3}}),
            "`scale`: the variable has 4 bytes, which is not 0 elements of u64",
        ),
        (
            json!({"scale": {"dtype": "u32", "len": 2, "init": 3}}),
            "`scale`: the variable has 4 bytes, which is not 2 elements of u32",
        ),
        (json!({"scale": {"dtype": "u8", "init": 300}}), "`scale`: 300 does not fit a u8"),
        (json!({"scale": {"dtype": "u32", "value": 3}}), "`scale`: `value` means nothing for a symbol"),
        (json!({"scale": {"init": 3}}), "`scale`: a `dtype` is missing"),
    ] {
        let refused = run("symbols", &spec(symbols, json!(0))).unwrap_err().to_string();
        assert!(refused.ends_with(told), "{refused}");
    }
}

#[test]
fn steps_that_mean_something_else_are_refused() {
    let sum = json!({"dtype": "u32", "len": 4, "init": 100, "expect": [111, 112, 113, 114]});
    for (step, told) in [
        (json!({"check": "sum"}), "step 1: `expect` is missing"),
        (json!({"check": "summ", "expect": 1}), "step 1: `summ`: is not one of `buffers` or `symbols`"),
        (json!({"check": "sum", "expect": 1, "rtol": -1}), "step 1: `rtol` is -1: a tolerance is a number from 0 on"),
        (
            json!({"check": "sum", "expect": 1, "atol": 4294967294u32}),
            "step 1: `sum`: the tolerance of 4.294967294e9 accepts every u32 where 1 is expected",
        ),
        (json!({"check": "sum", "expect": 1, "with": 1}), "step 1: `with` means nothing for a check"),
        (json!({"check": "sum", "expects": 1}), "unknown field `expects`"),
        (json!({"fill": "sum"}), "step 1: `with` is missing: what to fill it with"),
        (json!({"fill": "sum", "with": 1, "expect": 1}), "step 1: `expect` means nothing for a fill"),
        (json!({"fill": "sum", "with": [1]}), "step 1: `sum`: 4 bytes, 16 expected: 4 elements of u32"),
        (json!({"fill": "sum", "check": "sum", "expect": 1}), "step 1: a step is a `launch`, a `fill` or a `check`"),
        (json!({}), "step 1: a step is a `launch`, a `fill` or a `check`"),
        (json!({"launch": "boom", "grid": [1, 1, 1], "block": [1, 1, 1]}), "step 1: `args` is missing"),
        (launch("bomb", 1, json!([])), "no entry `bomb`; there are: add, by_struct, by_table, go_home, boom"),
        (
            launch("add", 1, json!([to("sun"), to("x")])),
            "step 1: argument 0: `sun` is neither one of `buffers` nor a variable of the module",
        ),
    ] {
        let refused = run("odd", &two(&sum, &step)).unwrap_err().to_string();
        assert!(refused.contains(told), "{step}: {refused}");
    }
    let good = two(&sum, &json!({"fill": "x", "with": 1}));
    let mut mixed = good.clone();
    mixed["entry"] = "add".into();
    assert!(run("odd", &mixed).unwrap_err().to_string().contains("`entry` means nothing for a case of `steps`"));
    let mut none = good.clone();
    none["steps"] = json!([{"fill": "x", "with": 1}]);
    assert!(run("odd", &none).unwrap_err().to_string().ends_with("no step is a launch"));
    let mut both = good.clone();
    both["symbols"] = json!({"sum": {"dtype": "u32"}});
    assert!(run("odd", &both).unwrap_err().to_string().ends_with("`sum` is both a buffer and a symbol"));
    let twice = good.to_string().replace("\"sum\":{", "\"x\":{\"dtype\":\"u32\",\"len\":4},\"sum\":{");
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("steps/odd");
    std::fs::write(dir.join("case.json"), twice).unwrap();
    let refused = run_case(&dir, &VmConfig::default()).unwrap_err().to_string();
    assert!(refused.contains("`x` stands there twice"), "{refused}");
}

#[test]
fn a_fault_is_that_of_the_step_it_is_expected_of() {
    let boom = |fault: Option<&str>| {
        let mut step = launch("boom", 1, json!([]));
        if let Some(fault) = fault {
            step["expect_fault"] = fault.into();
        }
        step
    };
    let spec = |steps: Value| {
        json!({"ptx": "kernel.ptx", "steps": steps,
            "buffers": {"x": {"dtype": "u32", "len": 4, "init": 0}, "sum": {"dtype": "u32", "len": 4, "init": 0}}})
    };
    let add = launch("add", 4, json!([to("sum"), to("x")]));
    assert!(run("fault", &spec(json!([add, {"check": "sum", "expect": 0}, boom(Some("trap"))]))).unwrap().ok);
    let early = run("fault", &spec(json!([boom(None), boom(Some("trap"))]))).unwrap();
    assert!(!early.ok && early.fault_kind.as_deref() == Some("trap"));
    let checked = run("fault", &spec(json!([add, {"check": "sum", "expect": 1}, boom(Some("trap"))]))).unwrap();
    assert!(!checked.ok && checked.message.unwrap().contains("step 1: `sum`: 4 elements differ"));
    let refused = run("fault", &spec(json!([boom(Some("trap")), add]))).unwrap_err().to_string();
    assert!(refused.contains("step 0: a step that is to end with a fault is the last"), "{refused}");
}
