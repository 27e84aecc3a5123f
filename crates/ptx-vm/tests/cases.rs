//! The launch cases under `tests/cases`: PTX of nvcc and Triton, planted faults, and expectations that do not hold (`oracle_`). All run
//! in checked mode.

use ptx_vm::case::run_case;
use ptx_vm::{MmaRounding, VmConfig};
use std::path::Path;

#[test]
fn cases_pass_in_checked_mode() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut dirs: Vec<_> = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    dirs.sort();
    assert!(dirs.len() >= 6);
    for dir in dirs.iter().filter(|dir| !wrong(dir)) {
        let config = VmConfig { checked: true, counters: true, ..VmConfig::default() };
        let outcome = run_case(dir, &config).unwrap();
        assert!(outcome.ok, "{}: {:?} {:?}", outcome.case, outcome.fault, outcome.message);
    }
}

/// Whether the case expects what does not come out.
fn wrong(dir: &Path) -> bool {
    dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with("oracle_"))
}

#[test]
fn wrong_expectations_are_told() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    for checked in [false, true] {
        let run = |name: &str| run_case(&root.join(name), &VmConfig { checked, ..VmConfig::default() });
        for (name, told) in [
            ("oracle_expect_inf_got_1", "argument 0: 4 elements differ: [0] 1 instead of inf"),
            ("oracle_expect_inf_got_minus_inf", "argument 0: 4 elements differ: [0] -inf instead of inf"),
            (
                "oracle_i64_off_by_one",
                "argument 0: 4 elements differ: [0] 9007199254740992 instead of 9007199254740993",
            ),
        ] {
            let outcome = run(name).unwrap();
            assert!(!outcome.ok, "{name}");
            assert!(outcome.message.as_ref().is_some_and(|m| m.starts_with(told)), "{name}: {:?}", outcome.message);
        }
        let error = run("oracle_fault_any_load_error").unwrap_err().to_string();
        assert!(error.contains("no entry `nosuchentry`; there are: f32k, i64k"), "{error}");
    }
}

#[test]
fn ordinary_cases_pass_unchecked_on_any_number_of_threads() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    for name in ["nv_cp_async_double_buffer", "nv_shfl_modes", "triton_softmax_row", "triton_vector_add_odd"] {
        for threads in [1, 3] {
            let outcome = run_case(&root.join(name), &VmConfig { threads, ..VmConfig::default() }).unwrap();
            assert!(outcome.ok, "{}: {:?} {:?}", outcome.case, outcome.fault, outcome.message);
        }
    }
}

/// Tolerances belong to the formats: the sums of tensor cores, with as few bits as they keep, are as right as those in f32.
#[test]
fn products_pass_when_tensor_cores_truncate() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut names = Vec::new();
    for dir in std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir() && !wrong(p)) {
        let ptx = std::fs::read_to_string(dir.join("kernel.ptx")).unwrap();
        if !ptx.contains("mma.sync") && !ptx.contains("wgmma") {
            continue;
        }
        let outcome = run_case(&dir, &VmConfig { mma: MmaRounding::Truncate, ..VmConfig::default() }).unwrap();
        assert!(outcome.ok, "{}: {:?} {:?}", outcome.case, outcome.fault, outcome.message);
        names.push(outcome.case);
    }
    // Among them sums of 8-bit floats, which keep 13 fraction bits.
    assert!(names.len() >= 8 && names.iter().any(|name| name.contains("fp8e4")), "{names:?}");
}
