//! The `cuda` backend on the virtual NVIDIA driver (`crates/vcuda`): the program as its users run it, with a driver that is late, that runs things in
//! any order, that is old, that lacks functions, or that fails at any call.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;

const PROMPT: &str = "large red circle bouncing fast navy";

/// A folder with the virtual driver under the names that programs look for.
fn driver() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        // Beside the test executables: a dependency of tests.
        let deps = std::env::current_exe().unwrap().parent().unwrap().to_owned();
        let library = deps.join("libvcuda.so");
        assert!(library.is_file(), "{} is missing: cargo builds it with the tests", library.display());
        let folder = deps.join("virtual-driver");
        fs::create_dir_all(&folder).unwrap();
        for (name, library) in [("libcuda.so.1", library), ("libnvidia-ml.so.1", deps.join("libvnvml.so"))] {
            let link = folder.join(name);
            if !link.exists() {
                // Tests run side by side: who comes second finds it there.
                let _ = std::os::unix::fs::symlink(library, link);
            }
        }
        folder
    })
}

/// `adacache` in `folder` on the virtual driver, with settings of that.
fn adacache(folder: &Path, args: &[&str], settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adacache"));
    // As many multiprocessors as the virtual GPU has threads: what splits sums by their number then splits them alike.
    let units = std::thread::available_parallelism().map_or(1, usize::from);
    command
        .current_dir(folder)
        .args(args)
        .env("LD_LIBRARY_PATH", driver())
        .env("VCUDA_DEVICES", format!("sm_80:8GiB:{units}sm"))
        .env("VCUDA_REPORT", folder.join("report.json"))
        .env_remove("ADACACHE_DEVICE")
        .envs(settings.iter().copied());
    command
}

struct Run {
    status: ExitStatus,
    stderr: String,
    report: Option<Value>,
}

/// Runs to the end; a minute is a hang.
fn run(folder: &Path, args: &[&str], settings: &[(&str, &str)]) -> Run {
    let (out, err) = (folder.join("stdout.txt"), folder.join("stderr.txt"));
    let mut child = adacache(folder, args, settings)
        .stdin(Stdio::null())
        .stdout(fs::File::create(&out).unwrap())
        .stderr(fs::File::create(&err).unwrap())
        .spawn()
        .unwrap();
    let began = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if began.elapsed() > Duration::from_secs(60) => {
                let _ = child.kill();
                panic!("{args:?} {settings:?} hangs: {}", fs::read_to_string(&err).unwrap_or_default());
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let report = fs::read_to_string(folder.join("report.json")).ok().map(|text| serde_json::from_str(&text).unwrap());
    Run { status, stderr: fs::read_to_string(&err).unwrap(), report }
}

/// Files that a run left, beside what [`run`] itself writes.
fn left(folder: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| !["report.json", "stdout.txt", "stderr.txt"].contains(&name.as_str())).collect()
}

const SHORT: &[&str] = &["generate", PROMPT, "--steps", "3", "--size", "16x16", "--frames", "2", "--quiet"];

fn with<'a>(args: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    args.iter().chain(more).copied().collect()
}

// ---- the same bits, whatever the driver does late ------------------------------------------------------------------------

/// Latents of a run on `device`, with these settings of the virtual driver.
#[track_caller]
fn latents(args: &[&str], device: &str, settings: &[(&str, &str)]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let done = run(folder.path(), &with(args, &["--device", device, "--out", "x.safetensors"]), settings);
    assert!(done.status.success(), "{args:?} on {device}, {settings:?}: {}", done.stderr);
    if device == "cuda" {
        let report = done.report.expect("the virtual driver ran");
        for kind in ["leaked", "lost_with_context", "faults", "remarks"] {
            assert_eq!(report[kind], Value::Array(vec![]), "{args:?}, {settings:?}");
        }
        assert!(report["calls"].as_u64().unwrap() > 100, "the driver was hardly used: {report}");
    }
    fs::read(folder.path().join("x.safetensors")).unwrap()
}

/// A seed that changes from day to day of development, and is told.
fn random_schedule() -> String {
    let seed = std::env::var("VCUDA_SEED").unwrap_or_else(|_| "1".into());
    println!("VCUDA_SCHEDULE=random:{seed} (VCUDA_SEED=N for another)");
    format!("random:{seed}")
}

fn same_on_every_schedule(args: &[&str]) {
    let expected = latents(args, "vm", &[]);
    let random = random_schedule();
    for schedule in ["eager", "late", &random] {
        let got = latents(args, "cuda", &[("VCUDA_SCHEDULE", schedule)]);
        assert!(got == expected, "{args:?}: VCUDA_SCHEDULE={schedule} gives other latents than the virtual GPU");
    }
}

#[test]
fn generate_gives_the_same_bits_on_every_schedule() {
    same_on_every_schedule(&["generate", PROMPT, "--steps", "8", "--size", "32x32", "--frames", "4", "--moreg"]);
}

#[test]
fn policies_of_every_kind_give_the_same_bits() {
    for cache in ["pab", "teacache-fast", "fbcache", "adacache-fast+taylor"] {
        same_on_every_schedule(&[
            "generate", PROMPT, "--steps", "6", "--size", "16x16", "--frames", "4", "--cache", cache,
        ]);
    }
}

#[test]
fn streamed_weights_give_the_same_bits() {
    let args = ["generate", PROMPT, "--steps", "5", "--size", "16x16", "--frames", "4"];
    // Just above the least: most blocks wait in the host's memory.
    let expected = latents(&args, "vm", &[]);
    let random = random_schedule();
    for schedule in ["late", &random] {
        for graphs in [&[][..], &["--no-graphs"]] {
            let streamed = with(&with(&args, &["--vram-budget", "6MiB"]), graphs);
            let got = latents(&streamed, "cuda", &[("VCUDA_SCHEDULE", schedule)]);
            assert!(got == expected, "{streamed:?}, {schedule}: other latents than with all weights on the device");
        }
    }
}

/// A profile of a run has launches of the driver's events, and what NVML says of the device.
#[test]
fn a_profile_has_power_and_clocks() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["generate", PROMPT, "--steps", "8", "--size", "32x32", "--frames", "8", "--out", "x.gif"];
    let done = run(folder.path(), &with(&args, &["--device", "cuda", "--profile", "profile.json"]), &[]);
    assert!(done.status.success(), "{}", done.stderr);
    let profile: Value = serde_json::from_slice(&fs::read(folder.path().join("profile.json")).unwrap()).unwrap();
    common::assert_nests(&profile);
    let names: BTreeSet<&str> =
        profile["traceEvents"].as_array().unwrap().iter().filter_map(|event| event["name"].as_str()).collect();
    for name in ["power (W)", "SM clock (MHz)"] {
        assert!(names.contains(name), "{name} is missing: {names:?}");
    }
}

// ---- drivers that will not do --------------------------------------------------------------------------------------------

/// `auto` says why it takes the virtual GPU, `cuda` fails, and `devices` tells the same, when the driver is like `settings`.
#[track_caller]
fn will_not_do(settings: &[(&str, &str)], reason: &str) {
    let folder = tempfile::tempdir().unwrap();
    let args = with(SHORT, &["--out", "x.safetensors"]);
    let auto = run(folder.path(), &args, settings);
    assert!(auto.status.success(), "{settings:?}: {}", auto.stderr);
    let warnings: Vec<&str> = auto.stderr.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert!(matches!(warnings[..], [line] if line.contains(reason) && line.contains("virtual GPU")), "{}", auto.stderr);
    assert!(left(folder.path()).contains("x.safetensors"));

    let folder = tempfile::tempdir().unwrap();
    let cuda = run(folder.path(), &with(&args, &["--device", "cuda"]), settings);
    assert_eq!(cuda.status.code(), Some(1), "{settings:?}: {}", cuda.stderr);
    assert!(cuda.stderr.starts_with("error: ") && cuda.stderr.contains(reason), "{}", cuda.stderr);
    assert_eq!(left(folder.path()), BTreeSet::new());

    let list = run(folder.path(), &["devices"], settings);
    let told = fs::read_to_string(folder.path().join("stdout.txt")).unwrap();
    assert!(list.status.success() && told.contains("not available") && told.contains(reason), "{told}{}", list.stderr);
}

/// The same GPU with its own kernels and with those that all GPUs run, each named in the report.
#[test]
fn a_hopper_can_count_as_an_older_gpu() {
    let shapes = "[[linear]]\nm = 1030\nn = 1056\nk = 520\nmodulate = true\n";
    let launches = |device: &str| {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("shapes.toml"), shapes).unwrap();
        let args = ["bench", "--device", device, "--shapes", "shapes.toml", "--dtype", "bf16", "--quick", "--json"];
        let done = run(folder.path(), &args, &[("VCUDA_DEVICES", "sm_90:8GiB:2sm")]);
        assert!(done.status.success(), "{device}: {}", done.stderr);
        let told: Value = serde_json::from_str(&fs::read_to_string(folder.path().join("stdout.txt")).unwrap()).unwrap();
        (told["device"]["id"].clone(), told["results"][0]["work"]["bytes_written"].as_u64().unwrap())
    };
    let ((hopper, apart), (older, fused)) = (launches("cuda:0"), launches("cuda:0:sm_80"));
    assert_eq!((hopper, older), (Value::from("cuda:0"), Value::from("cuda:0:sm_80")));
    // Normed rows on their way to the product: only kernels for Hopper need them.
    assert_eq!(apart - fused, 2 * 1030 * 520);
}

/// Products of e4m3 by the driver of a Hopper, on two schedules: the latents of the virtual GPU. Where it counts as an older GPU there are none.
#[test]
fn a_hopper_multiplies_in_8_bits() {
    let hopper = ("VCUDA_DEVICES", "sm_90:8GiB:2sm");
    let args = ["generate", PROMPT, "--model", "sprites-wan", "--steps", "2", "--cache", "none", "--fp8-weights"];
    let expected = latents(&args, "vm:sm_90", &[]);
    let random = random_schedule();
    for schedule in ["late", &random] {
        let got = latents(&args, "cuda", &[hopper, ("VCUDA_SCHEDULE", schedule)]);
        assert!(got == expected, "{schedule}: other latents than on the virtual GPU");
    }
    let folder = tempfile::tempdir().unwrap();
    let older = with(&args, &["--device", "cuda:0:sm_80", "--out", "x.safetensors"]);
    let refused = run(folder.path(), &older, &[hopper]);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("--fp8-weights needs a Hopper"), "{}", refused.stderr);
    assert!(!left(folder.path()).contains("x.safetensors"));
}

/// Two GPUs share the halves of guidance, on two schedules, with graphs and without: the latents of two virtual GPUs.
#[test]
fn two_gpus_share_guidance() {
    let args =
        |devices| ["generate", PROMPT, "--steps", "6", "--cache", "adacache-fast", "--moreg", "--devices", devices];
    let expected = latents(&args("vm,vm"), "vm", &[]);
    let units = std::thread::available_parallelism().map_or(1, usize::from);
    let gpu = format!("sm_80:8GiB:{units}sm");
    let two = format!("{gpu},{gpu}");
    let random = random_schedule();
    for (schedule, more) in [("late", &[][..]), (&random, &[]), (&random, &["--no-graphs"])] {
        let settings = [("VCUDA_DEVICES", two.as_str()), ("VCUDA_SCHEDULE", schedule)];
        let got = latents(&with(&args("cuda:0,cuda:1"), more), "cuda", &settings);
        assert!(got == expected, "{schedule}, {more:?}: other latents than on two virtual GPUs");
    }
}

#[test]
fn an_old_driver_is_left_for_the_virtual_gpu() {
    will_not_do(&[("VCUDA_DRIVER", "11080")], "CUDA 11.8");
}

#[test]
fn an_old_gpu_is_left_for_the_virtual_gpu() {
    will_not_do(&[("VCUDA_DEVICES", "sm_75")], "compute capability 7.5");
}

#[test]
fn a_driver_that_fails_to_begin_is_left_for_the_virtual_gpu() {
    will_not_do(&[("VCUDA_FAIL", "cuInit=SYSTEM_DRIVER_MISMATCH")], "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH");
    will_not_do(&[("VCUDA_FAIL", "cuInit=STUB_LIBRARY")], "stub");
}

/// The library that a toolkit has for linking, or that half a container has.
#[test]
fn a_library_that_lacks_functions_is_left_for_the_virtual_gpu() {
    let stub = tempfile::tempdir().unwrap();
    let source = stub.path().join("stub.c");
    fs::write(&source, "int cuInit(unsigned flags) { return 34; }\n").unwrap();
    let library = stub.path().join("libcuda.so.1");
    let made = Command::new("cc").args(["-shared", "-o"]).arg(&library).arg(&source).status().unwrap();
    assert!(made.success(), "cc makes the stub");
    will_not_do(&[("LD_LIBRARY_PATH", stub.path().to_str().unwrap())], "lacks cuDriverGetVersion");
}

/// Whatever of a graph is refused, the run goes on launch by launch, and says so once.
#[test]
fn refused_graphs_are_done_without_and_told_once() {
    let args = ["generate", PROMPT, "--steps", "6", "--size", "16x16", "--frames", "4", "--cache", "none"];
    let expected = latents(&args, "vm", &[]);
    for call in [
        "cuStreamBeginCapture_v2",
        "cuStreamEndCapture",
        "cuGraphInstantiateWithFlags",
        "cuGraphUpload",
        "cuGraphLaunch",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let fail = format!("{call}=NOT_SUPPORTED");
        let done =
            run(folder.path(), &with(&args, &["--device", "cuda", "--out", "x.safetensors"]), &[("VCUDA_FAIL", &fail)]);
        assert!(done.status.success(), "{fail}: {}", done.stderr);
        assert_eq!(done.stderr.matches("warning: ").count(), 1, "{fail}: {}", done.stderr);
        assert!(fs::read(folder.path().join("x.safetensors")).unwrap() == expected, "{fail}: other latents");
        let report = done.report.unwrap();
        assert_eq!(report["leaked"], Value::Array(vec![]), "{fail}");
    }
}

// ---- signals -------------------------------------------------------------------------------------------------------------

/// A run of far more steps than anybody waits for ends by a signal, with everything given back.
#[test]
fn a_signal_ends_a_run_in_order() {
    for (signal, schedule, cache) in
        [("-INT", "late", "none"), ("-TERM", "eager", "adacache-fast"), ("-TERM", "late", "pab")]
    {
        let folder = tempfile::tempdir().unwrap();
        let args = ["generate", PROMPT, "--steps", "5000", "--size", "32x32", "--frames", "4", "--cache", cache];
        let args = with(&args, &["--device", "cuda", "--out", "x.mp4"]);
        let child = adacache(folder.path(), &args, &[("VCUDA_SCHEDULE", schedule)]).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap();
        std::thread::sleep(Duration::from_secs(3));
        assert!(child.try_wait().unwrap().is_none(), "it takes too little time for this test");
        let began = Instant::now();
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(130), "{message}");
        assert!(message.contains("interrupted: `x.mp4` was not written"), "{message}");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert_eq!(left(folder.path()), BTreeSet::new());
        let report: Value = serde_json::from_slice(&fs::read(folder.path().join("report.json")).unwrap()).unwrap();
        for kind in ["leaked", "lost_with_context", "faults", "remarks"] {
            assert_eq!(report[kind], Value::Array(vec![]), "{signal}, {schedule}, {cache}");
        }
    }
}

// ---- failures at every call ----------------------------------------------------------------------------------------------

/// Functions that give something back: when one of them fails, what it should have given back stays.
fn gives_back(function: &str) -> bool {
    ["Free", "Destroy", "Unload", "Release"].iter().any(|word| function.contains(word))
}

/// Lets the `nth` driver call of a short generation fail with `code`. What is wrong with what the program made of it, or nothing.
fn survive(nth: u64, code: &str, expected: &[u8]) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let fail = format!("*@{nth}={code}");
    let args = with(SHORT, &["--device", "cuda", "--out", "x.safetensors"]);
    let done = run(folder.path(), &args, &[("VCUDA_FAIL", &fail)]);
    let problem = |what: &str| Err(format!("VCUDA_FAIL={fail}: {what}: {:?}\n{}", done.status, done.stderr));
    let Some(report) = &done.report else { return problem("no report: the process did not end as it should") };
    let Some(injected) = report["injected"][0].as_str() else { return problem("nothing was made to fail") };
    let function = injected.split(',').next().unwrap_or_default();
    if done.stderr.contains("panicked") {
        return problem("a panic");
    }
    if done.status.success() {
        // The call was not needed, or something else was done.
        if fs::read(folder.path().join("x.safetensors")).ok().as_deref() != Some(expected) {
            return problem("it succeeded with another result");
        }
    } else {
        let errors = done.stderr.lines().filter(|line| line.starts_with("error: ")).count();
        if done.status.code() != Some(1) || errors != 1 {
            return problem("not one error, and exit status 1");
        }
        if !left(folder.path()).is_empty() {
            return problem(&format!("files are left: {:?}", left(folder.path())));
        }
    }
    let kept = |kind: &str| report[kind].as_array().map_or(0, Vec::len);
    if !gives_back(function) && (kept("leaked") > 0 || kept("lost_with_context") > 0) {
        return problem(&format!("leaked: {} {}", report["leaked"], report["lost_with_context"]));
    }
    Ok(())
}

/// Every driver call of a short generation, one by one: an error of ours or a fallback each time; no panic, no hang, nothing leaked, no partial file.
#[test]
fn a_failure_at_any_call_is_survived() {
    let folder = tempfile::tempdir().unwrap();
    let args = with(SHORT, &["--device", "cuda", "--out", "x.safetensors"]);
    let whole = run(folder.path(), &args, &[]);
    assert!(whole.status.success(), "{}", whole.stderr);
    let expected = fs::read(folder.path().join("x.safetensors")).unwrap();
    let calls = whole.report.expect("a report")["calls"].as_u64().unwrap();
    // What a call may say: each of them meets each kind of function at some place.
    let codes = ["UNKNOWN", "OUT_OF_MEMORY", "NOT_SUPPORTED", "ILLEGAL_ADDRESS", "INVALID_VALUE", "12345"];
    let (next, problems) = (AtomicU64::new(1), Mutex::new(vec![]));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    if nth > calls {
                        break;
                    }
                    let code = codes[(nth % codes.len() as u64) as usize];
                    if let Err(problem) = survive(nth, code, &expected) {
                        problems.lock().unwrap().push(problem);
                    }
                }
            });
        }
    });
    let problems = problems.into_inner().unwrap();
    println!("{calls} calls were made to fail, one by one");
    let shown = problems.iter().take(10).cloned().collect::<Vec<_>>().join("\n\n");
    assert!(problems.is_empty(), "{} of {calls} failures were not survived:\n{shown}", problems.len());
}
