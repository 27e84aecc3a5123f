//! The verdict that each case under `tests/verdicts` must get: faults that only checked mode finds, and kernels that look like one. The list
//! is `verdicts.tsv`: case, mode (plain, checked, races), and `ok` or what the report says.

use ptx_vm::VmConfig;
use ptx_vm::case::run_case;
use std::path::Path;

#[test]
fn every_case_gets_its_verdict() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verdicts");
    let list = std::fs::read_to_string(root.join("verdicts.tsv")).unwrap();
    let mut wrong = Vec::new();
    for line in list.lines() {
        let [case, mode, want] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let plain = VmConfig { instruction_budget: Some(50_000_000), ..VmConfig::default() };
        let config = match mode {
            "plain" => plain,
            "checked" => VmConfig { checked: true, ..plain },
            "races" => VmConfig { checked: true, global_races: true, ..plain },
            _ => panic!("{line}"),
        };
        for adverse in [None, Some(1), Some(2)] {
            // What adverse runs find first may be something else.
            if adverse.is_some() && want != "ok" {
                continue;
            }
            let outcome = run_case(&root.join(case), &VmConfig { adverse, ..config.clone() }).unwrap();
            let report = outcome.fault.clone().unwrap_or_default();
            let right = if want == "ok" { outcome.ok } else { !outcome.ok && report.contains(want) };
            if !right {
                wrong.push(format!("{line}: {report} {:?}", outcome.message));
            }
        }
    }
    assert!(list.lines().count() >= 13);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn registers_nobody_has_written_hold_the_same_whatever_ran_before() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verdicts/raw_uninit_reg");
    let text = std::fs::read_to_string(case.join("kernel.ptx")).unwrap();
    let run = |threads: usize, before: bool| {
        let vm = ptx_vm::Vm::new(VmConfig { threads, ..VmConfig::default() });
        let module = ptx_vm::Module::parse("kernel.ptx", &text).unwrap();
        let out = vm.alloc(512).unwrap();
        vm.fill(out, 0, 512).unwrap();
        let launch = ptx_vm::Launch::new([4, 1, 1], [32, 1, 1]);
        for entry in if before { &["fill", "uninit"][..] } else { &["uninit"] } {
            vm.launch(&module.kernel(entry).unwrap(), &launch, &out.to_le_bytes()).unwrap();
        }
        let mut bytes = [0; 512];
        vm.read(out, &mut bytes).unwrap();
        bytes
    };
    let first = run(1, false);
    for threads in [1, 2, 4] {
        for before in [false, true] {
            assert_eq!(run(threads, before), first, "{threads} threads, {before}");
        }
    }
}
