//! The launch cases under `tests/cases`: PTX of nvcc and Triton, and planted faults. All run in checked mode.

use ptx_vm::VmConfig;
use ptx_vm::case::run_case;
use std::path::Path;

#[test]
fn cases_pass_in_checked_mode() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut dirs: Vec<_> = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    dirs.sort();
    assert!(dirs.len() >= 6);
    for dir in dirs {
        let config = VmConfig { checked: true, counters: true, ..VmConfig::default() };
        let outcome = run_case(&dir, &config).unwrap();
        assert!(outcome.ok, "{}: {:?} {:?}", outcome.case, outcome.fault, outcome.message);
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
