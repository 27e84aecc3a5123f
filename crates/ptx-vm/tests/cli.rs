//! The `ptx-vm` command as a person uses it: beginning a case, running it, profiling it.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn ptx_vm(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ptx-vm")).args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap() + &String::from_utf8_lossy(&output.stderr)
}

/// An empty folder of this test's own.
fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn saxpy() -> String {
    format!("{}/examples/saxpy.ptx", env!("CARGO_MANIFEST_DIR"))
}

/// A case of the example kernel with 100 elements, of which the last is expected to be `last`.
fn saxpy_case(name: &str, last: &str) -> PathBuf {
    let dir = scratch(name);
    let out = ptx_vm(&["new", dir.to_str().unwrap(), &saxpy()]);
    assert!(out.status.success(), "{}", text(&out));
    let path = dir.join("case.json");
    let mut spec: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    spec["args"][0]["value"] = 100.into();
    spec["args"][1]["value"] = 3.into();
    for i in [2, 3] {
        spec["args"][i]["len"] = 100.into();
    }
    spec["args"][2]["init"] = (0..100).collect::<Vec<i32>>().into();
    let mut expect: Vec<Value> = (0..99).map(|i| (3 * i + 1).into()).collect();
    expect.push(serde_json::from_str(last).unwrap());
    spec["args"][3]["expect"] = expect.into();
    std::fs::write(&path, spec.to_string()).unwrap();
    dir
}

#[test]
fn a_new_case_has_the_parameters_and_runs_once_filled_in() {
    let dir = saxpy_case("new", "298");
    let dir = dir.to_str().unwrap();
    let out = ptx_vm(&["run", dir, "--checked"]);
    assert!(out.status.success(), "{}", text(&out));
    // A second time would overwrite it.
    let again = ptx_vm(&["new", dir, &saxpy()]);
    assert_eq!(again.status.code(), Some(2));
    assert!(text(&again).contains("exists already"), "{}", text(&again));
    let wrong = ptx_vm(&["new", &format!("{dir}/other"), &saxpy(), "--entry", "nothing"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong).contains("no entry `nothing`; there are: saxpy"), "{}", text(&wrong));
}

#[test]
fn wrong_results_and_wrong_cases_are_told_apart() {
    let dir = saxpy_case("wrong", "299");
    let out = ptx_vm(&["run", dir.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out).contains("argument 3: 1 elements differ: [99] 298 instead of 299"), "{}", text(&out));
    let spec = std::fs::read_to_string(dir.join("case.json")).unwrap();
    std::fs::write(dir.join("case.json"), spec.replace("299", "\"many\"")).unwrap();
    let out = ptx_vm(&["run", dir.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out).contains("\"many\" is not a f32"), "{}", text(&out));
}

#[test]
fn profile_prints_tables_of_120_columns() {
    let dir = saxpy_case("tables", "298");
    std::fs::copy(saxpy().replace(".ptx", ".cu"), dir.join("saxpy.cu")).unwrap();
    let out = ptx_vm(&["profile", dir.to_str().unwrap(), "--top", "5", "--sort", "sectors"]);
    assert!(out.status.success(), "{}", text(&out));
    let out = text(&out);
    assert!(out.lines().all(|l| l.chars().count() <= 120), "{out}");
    // 100 threads in four warps: three with 4 sectors of each array, one with 1; 39 in all.
    for wanted in [
        "PTX lines by sectors, 3 of 20",
        "ld.global.f32 %f2, [%rd6];         saxpy.cu:7",
        "source lines by sectors, 1 of 6",
        "saxpy.cu:7: y[i] = scaled(a, x[i], y[i]);",
        "0 in tensor cores, 200 elsewhere",
        "global memory 800B read, 400B written; 12 requests of 3.25 sectors; 6.000 bytes of global memory a flop",
    ] {
        assert!(out.contains(wanted), "`{wanted}` is not in\n{out}");
    }
}

#[test]
fn profile_as_json_is_one_object_whose_lines_add_up() {
    let dir = saxpy_case("json", "298");
    let out = ptx_vm(&["profile", dir.to_str().unwrap(), "--json"]);
    let json: Value = serde_json::from_slice(&out.stdout).unwrap();
    let lines = json["lines"].as_array().unwrap();
    for field in ["warp_instructions", "thread_instructions", "flops"] {
        let sum: u64 = lines.iter().map(|l| l["counters"][field].as_u64().unwrap()).sum();
        assert_eq!(Some(sum), json["counters"][field].as_u64(), "{field}");
    }
    let fma = lines.iter().find(|l| l["text"].as_str().unwrap().starts_with("fma")).unwrap();
    let places: Vec<_> = fma["source"].as_array().unwrap().iter().map(|s| s["line"].as_u64().unwrap()).collect();
    assert_eq!(places, [2, 7]);
    assert_eq!(fma["ratios"]["lanes_per_instruction"], 25.0);
    assert!(json["ok"].as_bool().unwrap() && json["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(json["source_lines"].as_array().unwrap().len(), 6);
    // `run --counters --json` has the totals and no lines.
    let out = ptx_vm(&["run", dir.to_str().unwrap(), "--counters", "--json"]);
    let run: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(run["counters"], json["counters"]);
    assert!(run.get("lines").is_none());
}

#[test]
fn a_case_that_relies_on_the_order_of_blocks_fails_in_another() {
    let dir = scratch("order");
    let ptx = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 data) {
        .reg .b32 %r<3>; .reg .b64 %rd<4>;
        ld.param.u64 %rd1, [data]; mov.u32 %r1, %ctaid.x;
        mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2;
        ld.global.u32 %r2, [%rd3]; add.u32 %r2, %r2, 1; st.global.u32 [%rd3 + 4], %r2;
        ret; }";
    std::fs::write(dir.join("kernel.ptx"), ptx).unwrap();
    let words: Vec<i32> = (0..=20).collect();
    let spec = serde_json::json!({"ptx": "kernel.ptx", "entry": "k", "grid": [20, 1, 1], "block": [1, 1, 1], "dynamic_shared": 0,
        "args": [{"kind": "buffer", "dtype": "u32", "len": 21, "init": 0, "expect": words}]});
    std::fs::write(dir.join("case.json"), spec.to_string()).unwrap();
    let run = |options: &[&str]| ptx_vm(&[&["run", dir.to_str().unwrap(), "--threads", "1"], options].concat());
    assert_eq!(run(&[]).status.code(), Some(0));
    let out = run(&["--block-order", "1"]);
    assert!(out.status.code() == Some(1) && text(&out).contains("elements differ"), "{}", text(&out));
}

/// A command whose reader has gone before it begins.
#[cfg(unix)]
fn unread(arguments: &[&str], errors_too: bool) -> Output {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_ptx-vm"));
    command.args(arguments).stdout(writer.try_clone().unwrap());
    if errors_too {
        command.stderr(writer);
    }
    command.output().unwrap()
}

#[test]
#[cfg(unix)]
fn every_command_ends_quietly_when_its_reader_has_gone() {
    let dir = saxpy_case("closed", "298");
    let case = dir.to_str().unwrap();
    let (new, ptx) = (dir.join("new"), saxpy());
    for (arguments, status) in [
        (vec!["run", case], 141),
        (vec!["run", case, case, "--json", "--counters"], 141),
        (vec!["run", case, "--counters"], 141),
        (vec!["profile", case], 141),
        (vec!["profile", case, "--json"], 141),
        (vec!["load", &ptx], 141),
        (vec!["load", "/nowhere/at/all.ptx"], 141),
        (vec!["print", &ptx], 141),
        (vec!["isa"], 141),
        (vec!["isa", "--json"], 141),
        (vec!["new", new.to_str().unwrap(), &ptx], 141),
        // Nothing is written to standard output.
        (vec!["run", "/nowhere/at/all"], 2),
    ] {
        let out = unread(&arguments, false);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(status), "{arguments:?}: {said}");
        assert!(!said.contains("panicked") && (status == 2 || said.is_empty()), "{arguments:?}: {said}");
        let _ = std::fs::remove_dir_all(&new);
        // Nor is it worse when nobody reads the errors.
        assert_eq!(unread(&arguments, true).status.code(), Some(status), "{arguments:?}");
        let _ = std::fs::remove_dir_all(&new);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_an_error() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_ptx-vm")).arg("isa").stdout(full).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("cannot write the output"));
}

#[test]
fn numbers_nobody_can_mean_are_refused() {
    let dir = saxpy_case("numbers", "298");
    let dir = dir.to_str().unwrap();
    for arguments in [
        ["--threads", "30000"],
        ["--threads", "1025"],
        ["--threads", "18446744073709551616"],
        ["--threads", "-1"],
        ["--timeout", "0"],
        ["--timeout", "-1"],
        ["--timeout", "nan"],
        ["--timeout", "inf"],
        ["--timeout", "1e30"],
        ["--timeout", "soon"],
        ["--budget", "-1"],
        ["--launch-budget", "1e9"],
    ] {
        for command in ["run", "profile"] {
            let out = ptx_vm(&[&[command, dir][..], &arguments].concat());
            assert_eq!(out.status.code(), Some(2), "{command} {arguments:?}");
            assert!(
                text(&out).contains("error: invalid value") || text(&out).contains("unexpected argument"),
                "{}",
                text(&out)
            );
        }
    }
    for arguments in
        [["--threads", "64"], ["--timeout", "1e9"], ["--timeout", "5.5"], ["--budget", "0"], ["--launch-budget", "0"]]
    {
        let out = ptx_vm(&[&["run", dir][..], &arguments].concat());
        assert_eq!(out.status.code(), Some(0), "{arguments:?}: {}", text(&out));
    }
}

#[test]
fn a_case_that_does_not_end_is_ended() {
    let dir = scratch("endless");
    let ptx = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k() { $L: bra $L; ret; }";
    std::fs::write(dir.join("kernel.ptx"), ptx).unwrap();
    let spec =
        serde_json::json!({"ptx": "kernel.ptx", "entry": "k", "grid": [100000, 1, 1], "block": [32, 1, 1], "args": []});
    std::fs::write(dir.join("case.json"), spec.to_string()).unwrap();
    for (options, kind) in [
        (["--timeout", "0.2"], "timeout"),
        (["--budget", "100000"], "budget"),
        (["--launch-budget", "1000000"], "budget"),
    ] {
        let out = ptx_vm(&[&["run", dir.to_str().unwrap(), "--json"][..], &options].concat());
        let json: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!((out.status.code(), json["fault_kind"].as_str()), (Some(1), Some(kind)), "{json}");
    }
    // It may be what is expected.
    let mut spec = spec;
    spec["expect_fault"] = "timeout".into();
    std::fs::write(dir.join("case.json"), spec.to_string()).unwrap();
    let out = ptx_vm(&["run", dir.to_str().unwrap(), "--timeout", "0.1"]);
    assert!(out.status.success() && text(&out).contains("  timeout as expected, "), "{}", text(&out));
    let out = ptx_vm(&["run", dir.to_str().unwrap(), "--budget", "100000"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out).contains("  budget, ") && text(&out).contains("not the expected `timeout`"), "{}", text(&out));
}

#[test]
fn load_lists_every_gap_and_counts_them() {
    let dir = scratch("gaps");
    let file = dir.join("k.ptx");
    let ptx = ".version 8.0\n.target sm_90a\n.address_size 64\n.visible .entry good() { ret; }
.func f() { griddepcontrol.sideways; ret; }
.visible .entry bad() {\n tcgen05.fence::before_thread_sync;\n call f;\n frobnicate;\n ret; }
.visible .entry worse() { call f; ret; }\n";
    std::fs::write(&file, ptx).unwrap();
    let name = file.to_str().unwrap();
    let out = ptx_vm(&["load", name]);
    assert_eq!(out.status.code(), Some(1));
    let out = String::from_utf8(out.stdout).unwrap();
    let lines: Vec<&str> = out.lines().map(|line| line.strip_prefix(name).unwrap()).collect();
    assert!(lines[0].starts_with(": good: ") && lines[0].contains(" instructions, "), "{out}");
    assert!(lines[1].starts_with(":5: unsupported form of `griddepcontrol`: "), "{out}");
    assert!(lines[2].starts_with(":7: tensor memory instructions (tcgen05) are not supported in `tcgen05"), "{out}");
    assert_eq!(lines[3], ":9: unknown instruction `frobnicate` in `frobnicate`");
    assert_eq!(lines[4], ": bad: cannot be loaded, 3 gaps");
    assert!(lines[5].starts_with(":5: "), "{out}");
    assert_eq!(lines[6], ": worse: cannot be loaded, 1 gap");
    assert_eq!(lines[7], ": 3 gaps; 2 of 3 kernels cannot be loaded");
    assert_eq!(lines.len(), 8);
    // A file without kernels has nothing to load, and that is said.
    std::fs::write(&file, ".version 8.0\n.target sm_80\n.address_size 64\n").unwrap();
    let out = ptx_vm(&["load", name]);
    assert_eq!((out.status.code(), text(&out)), (Some(0), format!("{name}: no kernels\n")));
}

#[test]
fn a_case_of_several_launches_profiles_each() {
    let dir = scratch("launches");
    std::fs::copy(saxpy(), dir.join("kernel.ptx")).unwrap();
    let launch = |n: u32| {
        serde_json::json!({"launch": "saxpy", "grid": [1, 1, 1], "block": [128, 1, 1],
            "args": [{"kind": "i32", "value": n}, {"kind": "f32", "value": 2},
                {"kind": "pointer", "to": "x"}, {"kind": "pointer", "to": "y"}]})
    };
    let spec = serde_json::json!({"ptx": "kernel.ptx", "steps": [launch(100), launch(50)],
        "buffers": {"x": {"dtype": "f32", "len": 100, "init": 1}, "y": {"dtype": "f32", "len": 100, "init": 0}}});
    std::fs::write(dir.join("case.json"), spec.to_string()).unwrap();
    let out = ptx_vm(&["profile", dir.to_str().unwrap()]);
    assert!(out.status.success(), "{}", text(&out));
    let out = text(&out);
    assert!(out.contains("no values compared"), "{out}");
    assert_eq!(out.matches("saxpy in kernel.ptx").count(), 2, "{out}");
    assert!(
        out.contains("0 in tensor cores, 200 elsewhere") && out.contains("0 in tensor cores, 100 elsewhere"),
        "{out}"
    );
    let out = ptx_vm(&["profile", dir.to_str().unwrap(), "--json"]);
    let json: Value = serde_json::from_slice(&out.stdout).unwrap();
    let launches = json["launches"].as_array().unwrap();
    let flops: Vec<u64> = launches.iter().map(|l| l["counters"]["flops"].as_u64().unwrap()).collect();
    assert_eq!(flops, [200, 100]);
    assert_eq!(json["counters"]["flops"], 300);
    assert!(launches.iter().all(|l| !l["lines"].as_array().unwrap().is_empty() && l["kernel"] == "saxpy"));
}

#[test]
fn kinds_of_faults_are_chosen_by_name() {
    let dir = saxpy_case("kinds", "298");
    let dir = dir.to_str().unwrap();
    for (options, status) in [
        (vec!["--checked", "--only", "race"], 0),
        (vec!["--checked", "--only", "race,uninitialised,barrier"], 0),
        (vec!["--checked", "--except", "race,uninitialised"], 0),
        (vec!["--checked", "--only", "rase"], 2),
        (vec!["--checked", "--only", "race,"], 2),
        (vec!["--checked", "--except", "out_of_bounds"], 2),
        (vec!["--checked", "--only", "race", "--except", "barrier"], 2),
        // They would do nothing.
        (vec!["--only", "race"], 2),
        (vec!["--except", "race"], 2),
    ] {
        let out = ptx_vm(&[&["run", dir], options.as_slice()].concat());
        assert_eq!(out.status.code(), Some(status), "{options:?}: {}", text(&out));
    }
}
