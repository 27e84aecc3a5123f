//! Failures on demand, and the report at the end.

use super::client::{code::*, *};
use serde_json::Value;
use std::path::PathBuf;

/// The report of a scenario.
fn report(name: &str, variables: &[(&str, &str)], body: fn()) -> Value {
    let path: PathBuf =
        std::env::temp_dir().join(format!("vcuda-{}-{}.json", name.replace(':', "-"), std::process::id()));
    let text = path.to_str().unwrap().to_owned();
    alone(name, &[variables, &[("VCUDA_REPORT", text.as_str())]].concat(), body);
    let report = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    serde_json::from_str(&report).unwrap()
}

fn kinds(list: &Value) -> Vec<&str> {
    let mut kinds: Vec<&str> = list.as_array().unwrap().iter().map(|entry| entry["kind"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    kinds
}

scenarios! {
    by_name_number_and_pattern [VCUDA_FAIL = "cuMemAlloc_v2@2=OUT_OF_MEMORY, cuStream*@3=CUDA_ERROR_UNKNOWN,cuEventCreate=12345,*Host*@1=NOT_SUPPORTED"] {
        start();
        alloc(16);
        fails(OUT_OF_MEMORY, "cuMemAlloc_v2", (&mut 0u64, 16usize));
        alloc(16);
        // The third of all whose name begins so.
        let s = stream(0);
        ok("cuStreamQuery", (s,));
        fails(999, "cuStreamDestroy_v2", (s,));
        ok("cuStreamDestroy_v2", (s,));
        for _ in 0..3 {
            fails(12345, "cuEventCreate", (&mut 0u64, 0u32));
        }
        fails(NOT_SUPPORTED, "cuMemHostAlloc", (&mut 0u64, 16usize, 0u32));
        pinned::<u8>(16);
    }

    /// Forms for per-thread streams are calls of the same function.
    both_forms_count [VCUDA_FAIL = "cuStreamQuery@2=LAUNCH_FAILED"] {
        start();
        ok("cuStreamQuery", (NULL,));
        fails(LAUNCH_FAILED, "cuStreamQuery_ptsz", (NULL,));
    }

    a_sticky_failure_stays [VCUDA_FAIL = "cuStreamSynchronize@1=ILLEGAL_ADDRESS,cuStreamQuery@1=OUT_OF_MEMORY"] {
        let own = start();
        let s = stream(0);
        fails(OUT_OF_MEMORY, "cuStreamQuery", (s,));
        ok("cuStreamQuery", (s,));
        fails(ILLEGAL_ADDRESS, "cuStreamSynchronize", (s,));
        fails(ILLEGAL_ADDRESS, "cuStreamSynchronize", (s,));
        fails(ILLEGAL_ADDRESS, "cuMemAlloc_v2", (&mut 0u64, 16usize));
        ok("cuCtxDestroy_v2", (own,));
        context(0);
        alloc(16);
    }

    init_can_fail [VCUDA_FAIL = "cuInit@1=SYSTEM_DRIVER_MISMATCH"] {
        fails(803, "cuInit", (0u32,));
        start();
    }
}

#[test]
fn a_tidy_program_leaves_nothing() {
    let report =
        report(concat!(module_path!(), "::a_tidy_program_leaves_nothing"), &[("VCUDA_SCHEDULE", "late")], || {
            ok("cuInit", (0u32,));
            let primary = made(|out| cu("cuDevicePrimaryCtxRetain", (out, 0i32)));
            ok("cuCtxSetCurrent", (primary,));
            let (s, event, memory, host) = (stream(0), event(), alloc(64), pinned::<u32>(16));
            let pooled = made(|out| cu("cuMemAllocAsync", (out, 64usize, s)));
            let module = module(PTX);
            begin_capture(s, RELAXED);
            launch(function(module, "fill"), 1, 16, s, &[P(memory), U(1)]);
            let graph = end_capture(s);
            let exec = instantiate(graph);
            ok("cuGraphLaunch", (exec, s));
            ok("cuGraphDestroy", (graph,));
            ok("cuGraphExecDestroy", (exec,));
            ok("cuMemFreeAsync", (pooled, s));
            // A capture that is spoilt leaves no graph.
            begin_capture(s, GLOBAL);
            fails(CAPTURE_UNSUPPORTED, "cuStreamSynchronize", (s,));
            fails(CAPTURE_INVALIDATED, "cuStreamEndCapture", (s, &mut 0u64));
            begin_capture(s, RELAXED);
            ok("cuStreamDestroy_v2", (s,));
            ok("cuEventDestroy_v2", (event,));
            ok("cuMemFree_v2", (memory,));
            ok("cuMemFreeHost", (host,));
            ok("cuModuleUnload", (module,));
            ok("cuDevicePrimaryCtxRelease_v2", (0i32,));
        });
    assert_eq!(report["leaked"], Value::Array(vec![]), "{report}");
    assert_eq!(report["lost_with_context"], Value::Array(vec![]), "{report}");
    assert_eq!(report["faults"], Value::Array(vec![]));
    assert_eq!(report["schedule"], "late");
    assert_eq!(report["calls_by_function"]["cuGraphLaunch"], 1);
    assert!(report["calls"].as_u64().unwrap() > 20);
}

#[test]
fn leaks_are_told_by_kind_and_place() {
    let report = report(concat!(module_path!(), "::leaks_are_told_by_kind_and_place"), &[], || {
        start();
        let s = stream(0);
        event();
        alloc(1234);
        pinned::<u32>(16);
        made(|out| cu("cuMemAllocAsync", (out, 64usize, s)));
        made(|out| cu("cuMemAllocManaged", (out, 64usize, 1u32)));
        module(PTX);
        made(|out| cu("cuLinkCreate_v2", (0u32, NULL, NULL, out)));
        let graph = made(|out| cu("cuGraphCreate", (out, 0u32)));
        instantiate(graph);
        extern "C" fn destroy(_: u64) {}
        made(|out| cu("cuUserObjectCreate", (out, NULL, destroy as extern "C" fn(u64), 1u32, 1u32)));
        let text = c(PTX);
        made(|out| cu("cuLibraryLoadData", (out, text.as_ptr(), NULL, NULL, 0u32, NULL, NULL, 0u32)));
        let host: &'static mut [u32] = vec![1u32; 1 << 20].leak();
        ok("cuMemHostRegister_v2", (host.as_mut_ptr(), 4096usize, 0u32));
    });
    let expected = [
        "context",
        "device memory",
        "event",
        "graph",
        "graph exec",
        "library",
        "link",
        "managed memory",
        "module",
        "pinned host memory",
        "pool memory",
        "registered host memory",
        "stream",
        "user object",
    ];
    assert_eq!(kinds(&report["leaked"]), expected, "{report}");
    let memory = report["leaked"].as_array().unwrap().iter().find(|entry| entry["kind"] == "device memory").unwrap();
    assert_eq!((&memory["bytes"], &memory["call"]), (&1234.into(), &"cuMemAlloc_v2".into()));
    let place = memory["made_at"].to_string();
    assert!(place.contains("demand.rs") || place.contains("client.rs"), "{place}");
    assert!(!place.contains("vcuda::enter"), "{place}");
}

/// What went with its context was not given back either.
#[test]
fn what_is_lost_with_a_context_is_told() {
    let report = report(concat!(module_path!(), "::what_is_lost_with_a_context_is_told"), &[], || {
        let own = start();
        stream(0);
        alloc(64);
        ok("cuCtxDestroy_v2", (own,));
        // After a fault nothing can be given back.
        let own = context(0);
        alloc(64);
        launch(function(module(PTX), "bad"), 1, 1, NULL, &[]);
        fails(ILLEGAL_ADDRESS, "cuCtxSynchronize", ());
        ok("cuCtxDestroy_v2", (own,));
    });
    assert_eq!(kinds(&report["lost_with_context"]), ["device memory", "stream"]);
    assert_eq!(report["leaked"], Value::Array(vec![]));
    let faults = report["faults"].as_array().unwrap();
    assert_eq!(faults.len(), 1);
    assert!(faults[0].as_str().unwrap().contains("bad"), "{faults:?}");
}

#[test]
fn what_was_made_to_fail_and_what_is_missing_is_told() {
    let name = concat!(module_path!(), "::what_was_made_to_fail_and_what_is_missing_is_told");
    let report = report(name, &[("VCUDA_FAIL", "cuMemAlloc_v2@1=OUT_OF_MEMORY"), ("VCUDA_SCHEDULE", "late")], || {
        let own = start();
        fails(OUT_OF_MEMORY, "cuMemAlloc_v2", (&mut 0u64, 16usize));
        fails(NOT_SUPPORTED, "cuArrayDestroy", (NULL,));
        ok("cuStreamWaitEvent", (NULL, event(), 0u32));
        ok("cuMemsetD8Async", (alloc(64), 0u8, 64usize, NULL));
        let _ = own;
    });
    let injected = report["injected"].as_array().unwrap();
    assert_eq!(injected.len(), 1);
    assert!(injected[0].as_str().unwrap().contains("cuMemAlloc_v2"), "{injected:?}");
    assert_eq!(report["not_supported"]["cuArrayDestroy"], 1);
    assert!(report["remarks"].to_string().contains("never recorded"), "{report}");
    assert_eq!(report["queued_and_never_waited_for"], 1);
}

/// A file that cannot be written is said, and the program ends as it would.
#[test]
fn a_report_that_cannot_be_written() {
    let name = concat!(module_path!(), "::a_report_that_cannot_be_written");
    let output = alone(name, &[("VCUDA_REPORT", "/nowhere/at/all")], || {
        start();
    });
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("vcuda: cannot write the report /nowhere/at/all"), "{text}");
}
