//! The `adacache` command as its users meet it: outputs, exit statuses, messages, and what is left behind.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

const PROMPT: &str = "large red circle bouncing fast navy";

/// Runs `adacache` in `folder`, on the device of the tests.
fn adacache(folder: &Path, args: &[&str]) -> Output {
    command(folder, args).output().expect("the binary runs")
}

fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adacache"));
    command.current_dir(folder).args(args).env("ADACACHE_DEVICE", common::device_name());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The run must fail with status `status`, say every one of `parts`, and leave no new file in `folder`.
#[track_caller]
fn fails(folder: &Path, args: &[&str], status: i32, parts: &[&str]) {
    let before = names(folder);
    let output = adacache(folder, args);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{args:?}: {message}");
    for part in parts {
        assert!(message.contains(part), "{args:?}: `{part}` is missing in: {message}");
    }
    assert!(!message.contains("panicked"), "{message}");
    assert_eq!(names(folder), before, "{args:?} left something behind");
}

#[track_caller]
fn succeeds(folder: &Path, args: &[&str]) -> Output {
    let output = adacache(folder, args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    output
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The embedded model as a folder, for tests to damage.
fn model_folder(parent: &Path) -> PathBuf {
    let folder = parent.join("model");
    fs::create_dir(&folder).unwrap();
    let sprites = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/sprites");
    for name in ["config.json", "codebooks.json", "model.safetensors", "decoder.safetensors", "text.safetensors"] {
        fs::copy(sprites.join(name), folder.join(name)).unwrap();
    }
    folder
}

/// A tensor on its way into a safetensors file.
struct RawTensor {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

/// Rewrites a safetensors file after `change` had its way with the tensors.
fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<RawTensor>)) {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<RawTensor> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| RawTensor {
            name,
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            data: view.data().to_vec(),
        })
        .collect();
    change(&mut tensors);
    let views = tensors
        .iter()
        .map(|t| (t.name.as_str(), safetensors::tensor::TensorView::new(t.dtype, t.shape.clone(), &t.data).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn find<'a>(tensors: &'a mut [RawTensor], name: &str) -> &'a mut RawTensor {
    tensors.iter_mut().find(|t| t.name == name).unwrap()
}

#[test]
fn devices_lists_the_virtual_gpu() {
    let dir = tempfile::tempdir().unwrap();
    let output = succeeds(dir.path(), &["devices"]);
    assert!(text(&output.stdout).lines().any(|line| line.starts_with("vm")));
}

#[test]
fn unknown_words_are_answered_with_the_vocabulary() {
    let dir = tempfile::tempdir().unwrap();
    let vocabulary = ["small large", "red green blue", "circle square", "bouncing", "slowly fast", "checkerboard"];
    for (prompt, parts) in [
        ("large crimsn circle bouncing fast navy", vec!["`crimsn`"]),
        ("large red circl bouncing fast navy", vec!["`circl`; did you mean `circle`?"]),
        ("large red circle bouncing fast", vec!["no background"]),
        ("red blue large circle bouncing fast navy", vec!["`red` and `blue` are both a color"]),
        ("", vec!["no size", "no speed"]),
    ] {
        fails(dir.path(), &["generate", prompt], 1, &[&parts[..], &vocabulary[..]].concat());
    }
}

#[test]
fn absurd_numbers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (args, part) in [
        (&["--steps", "0"][..], "0 steps"),
        (&["--steps", "1000000000"], "1000000000 steps"),
        (&["--cfg-scale", "NaN"], "guidance scale NaN"),
        (&["--cfg-scale", "inf"], "guidance scale inf"),
        (&["--cfg-scale", "-1e30"], "guidance scale"),
        (&["--model", "no/such/folder"], "no model `no/such/folder`"),
        (&["--device", "tpu"], "auto, vm, vm:checked, vm:truncate, vm:adverse:SEED, cuda"),
        (&["--cache", "adacache-fastest"], "none, adacache-fast, adacache-slow"),
        (&["--cache", "none", "--moreg"], "drop one"),
    ] {
        let output = adacache(dir.path(), &[&["generate", PROMPT], args].concat());
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {message}");
        assert!(message.contains(part), "{args:?}: {message}");
    }
    for args in [&["--steps", "-1"][..], &["--steps", "many"], &["--seed", "-1"], &["--dtype", "f8"], &["--frames"]] {
        fails(dir.path(), &[&["generate", PROMPT], args].concat(), 2, &["error"]);
    }
    fails(dir.path(), &["generate"], 2, &["required"]);
    assert!(names(dir.path()).is_empty());
}

#[test]
fn unwritable_outputs_are_found_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("taken.mp4")).unwrap();
    fs::create_dir(dir.path().join("full")).unwrap();
    fs::write(dir.path().join("full/thesis.txt"), "precious").unwrap();
    fs::write(dir.path().join("file"), "x").unwrap();
    for (out, part) in [
        ("movie.avi", ".mp4 or .gif"),
        ("movie", "cannot tell what to write"),
        ("no/such/movie.mp4", "`no/such` does not exist"),
        ("taken.mp4", "it is a folder"),
        ("full/", "other files"),
        ("file/", "in the way"),
        ("file/movie.mp4", "cannot write"),
        ("/proc/movie.mp4", "cannot write"),
    ] {
        // A model that does not exist on the device would fail later: the output has to be looked at first.
        fails(dir.path(), &["generate", PROMPT, "--out", out, "--steps", "5000"], 1, &[part]);
    }
    fails(dir.path(), &["generate", PROMPT, "--out", "a.mp4", "--report", "no/such/r.json"], 1, &["no/such"]);
    assert_eq!(fs::read_to_string(dir.path().join("full/thesis.txt")).unwrap(), "precious");
}

#[test]
fn invalid_codebooks_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let head = "policy = \"adacache\"\nblocks = [2]\n";
    for (settings, part) in [
        (format!("{head}codebook = []"), "codebook is empty"),
        (format!("{head}codebook = [[0.2, 3], [0.1, 1]]"), "ascend"),
        (format!("{head}codebook = [[0.1, 3], [0.1, 1]]"), "ascend"),
        (format!("{head}codebook = [[0.1, 0]]"), "rate 0"),
        (format!("{head}codebook = [[0.1, 1.5]]"), "rate 1.5"),
        (format!("{head}codebook = [[nan, 1]]"), "not a finite number"),
        (format!("{head}codebook = [[inf, 1]]"), "not a finite number"),
        (format!("{head}codebook = [[0.1]]"), "my.toml"),
        (head.to_owned(), "codebook"),
        ("policy = \"adacache\"\nblocks = []\ncodebook = [[1.0, 1]]".into(), "block"),
        ("policy = \"adacache\"\nblocks = [5]\ncodebook = [[1.0, 1]]".into(), "block 5 does not exist"),
        ("policy = \"adacache\"\nblocks = [2, 1]\ncodebook = [[1.0, 1]]".into(), "ascend"),
        ("policy = \"magic\"".into(), "magic"),
        (format!("{head}codebook = [[1.0, 1]]\nmetric = \"l3\""), "l3"),
        (format!("{head}codebook = [[1.0, 1]]\nspeed = 3"), "speed"),
        (
            format!(
                "{head}codebook = [[1.0, 1]]\n[moreg]\nstrides = [16]\nsteps = [4, 26]\nhyper = [1, 2, 1]\ngradient = 2"
            ),
            "stride 16",
        ),
        (
            format!(
                "{head}codebook = [[1.0, 1]]\n[moreg]\nstrides = [0]\nsteps = [4, 26]\nhyper = [1, 2, 1]\ngradient = 2"
            ),
            "stride",
        ),
        (
            format!(
                "{head}codebook = [[1.0, 1]]\n[moreg]\nstrides = [1]\nsteps = [4, 26]\nhyper = [0, 2, 1]\ngradient = 2"
            ),
            "hyper",
        ),
        ("policy = ".into(), "my.toml"),
    ] {
        fs::write(dir.path().join("my.toml"), &settings).unwrap();
        let output = adacache(dir.path(), &["generate", PROMPT, "--cache", "my.toml"]);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{settings}: {message}");
        assert!(message.contains(part), "`{part}` is missing for {settings}: {message}");
    }
    fails(dir.path(), &["generate", PROMPT, "--cache", "none.toml"], 1, &["none.toml"]);
    assert_eq!(names(dir.path()), ["my.toml"]);
}

#[test]
fn damaged_weights_are_refused_by_file_and_tensor() {
    type Damage = (&'static str, fn(&Path), &'static [&'static str]);
    const NORM: &str = "spatial_blocks.0.attn.q_norm.weight";
    let cases: &[Damage] = &[
        ("model.safetensors", |p| fs::remove_file(p).unwrap(), &["cannot read"]),
        ("text.safetensors", |p| fs::remove_file(p).unwrap(), &["cannot read"]),
        ("decoder.safetensors", |p| fs::remove_file(p).unwrap(), &["cannot read"]),
        ("config.json", |p| fs::remove_file(p).unwrap(), &["cannot read"]),
        ("model.safetensors", |p| fs::write(p, []).unwrap(), &["not a complete safetensors file"]),
        ("model.safetensors", |p| fs::write(p, [0xff; 64]).unwrap(), &["not a complete safetensors file"]),
        (
            "model.safetensors",
            |p| {
                let bytes = fs::read(p).unwrap();
                fs::write(p, &bytes[..bytes.len() / 2]).unwrap();
            },
            &["not a complete safetensors file"],
        ),
        (
            "model.safetensors",
            |p| rewrite(p, |tensors| find(tensors, NORM).data[4..6].copy_from_slice(&0x7FC0u16.to_le_bytes())),
            &[NORM, "NaN", "element 2"],
        ),
        ("decoder.safetensors", |p| rewrite(p, |tensors| find(tensors, "mean").data.fill(0xFF)), &["mean", "NaN"]),
        (
            "model.safetensors",
            |p| rewrite(p, |tensors| find(tensors, NORM).shape = vec![36, 2]),
            &[NORM, "shape [36, 2], expected [72]"],
        ),
        (
            "text.safetensors",
            |p| rewrite(p, |tensors| find(tensors, "embedding.weight").shape = vec![64, 33]),
            &["embedding.weight", "expected [33, 64]"],
        ),
        (
            "model.safetensors",
            |p| rewrite(p, |tensors| find(tensors, NORM).dtype = Dtype::I16),
            &[NORM, "I16", "expected BF16, F16 or F32"],
        ),
        ("model.safetensors", |p| rewrite(p, |tensors| tensors.retain(|t| t.name != NORM)), &[NORM, "missing"]),
        (
            "model.safetensors",
            |p| {
                rewrite(p, |tensors| {
                    tensors.push(RawTensor {
                        name: "stowaway".into(),
                        dtype: Dtype::F32,
                        shape: vec![1],
                        data: vec![0; 4],
                    });
                });
            },
            &["stowaway"],
        ),
        ("config.json", |p| fs::write(p, "{").unwrap(), &["config.json"]),
        ("config.json", |p| edit(p, "\"hidden_size\": 144", "\"hidden_size\": 1000000000000"), &["hidden_size"]),
        ("config.json", |p| edit(p, "\"depth\": 5", "\"depth\": 0"), &["depth"]),
        ("config.json", |p| edit(p, "\"depth\": 5", "\"depth\": 6"), &["spatial_blocks.5", "missing"]),
        ("config.json", |p| edit(p, "\"height\": 64", "\"height\": 99999999"), &["height"]),
        ("config.json", |p| edit(p, "\"fps\": 8", "\"fps\": 0"), &["fps"]),
        ("config.json", |p| edit(p, "\"prompt_length\": 8", "\"prompt_length\": 9"), &["prompt_length"]),
        ("config.json", |p| edit(p, "\"red\"", "\"crimson\""), &["crimson"]),
        (
            "codebooks.json",
            |p| fs::write(p, "{\"fast\": [[0.2, 1], [0.1, 1]]}").unwrap(),
            &["codebooks.json", "ascend"],
        ),
    ];
    for (file, damage, parts) in cases {
        let dir = tempfile::tempdir().unwrap();
        let model = model_folder(dir.path());
        damage(&model.join(file));
        // A changed configuration shows where it meets the weights: the message names those.
        let named = if parts.iter().any(|part| part.contains("spatial_blocks")) { "model.safetensors" } else { file };
        let parts = [*parts, &[named]].concat();
        fails(dir.path(), &["generate", PROMPT, "--model", "model", "--steps", "1"], 1, &parts);
    }
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn cuda_without_a_driver_is_a_clear_error() {
    if common::gpu().is_some() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let output = adacache(dir.path(), &["generate", PROMPT, "--device", "cuda"]);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    // No driver, or a GPU older than Ampere; or a driver without any GPU.
    assert!(message.contains("--device vm") || message.contains("`adacache devices`"), "{message}");
    assert!(names(dir.path()).is_empty());
}

/// A schedule of six steps with reused ones among them, whatever is measured.
const EVERY_OTHER: &str = "policy = \"adacache\"\nblocks = [2]\ncodebook = [[1e9, 3]]\n";

#[test]
fn every_format_is_written_with_its_report() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("c.toml"), EVERY_OTHER).unwrap();
    let run = |out: &str| {
        let args = ["generate", PROMPT, "--steps", "6", "--cache", "c.toml", "--seed", "3", "--out", out];
        text(&succeeds(dir.path(), &[&args[..], &["--report", "r.json"]].concat()).stdout)
    };
    let summary = run("a.mp4");
    for part in [PROMPT, "a.mp4", "█", "·", "counted", "measured", "one tensor per residual"] {
        assert!(summary.contains(part), "`{part}` is missing in: {summary}");
    }
    let mp4 = fs::read(dir.path().join("a.mp4")).unwrap();
    assert_eq!(&mp4[4..12], b"ftypisom");
    let report: serde_json::Value = serde_json::from_slice(&fs::read(dir.path().join("r.json")).unwrap()).unwrap();
    assert!(summary.contains(report["device"].as_str().unwrap()), "{summary}");
    // Step 2 follows the rate 1 a generation starts with; its decision asks for every third step; the last two are forced.
    assert_eq!(report["computed_steps"], serde_json::json!([1, 2, 5, 6]));
    assert_eq!((report["steps"].as_u64(), report["seed"].as_u64()), (Some(6), Some(3)));
    assert_eq!(report["seconds"]["per_step"].as_array().unwrap().len(), 6);
    assert!(report["cache_bytes"].as_u64() < report["cache_bytes_unfolded"].as_u64());
    assert!(report["peak_device_bytes"].as_u64() > Some(1 << 20));

    run("a.gif");
    assert_eq!(&fs::read(dir.path().join("a.gif")).unwrap()[..6], b"GIF89a");
    run("frames/");
    assert_eq!(names(&dir.path().join("frames")).len(), 16);

    // Two runs with one seed give the same bytes.
    run("a.safetensors");
    run("b.safetensors");
    let latents = fs::read(dir.path().join("a.safetensors")).unwrap();
    assert_eq!(latents, fs::read(dir.path().join("b.safetensors")).unwrap());
    assert_eq!(SafeTensors::deserialize(&latents).unwrap().tensor("latents").unwrap().shape(), [16, 16, 8, 8]);
    assert_eq!(names(dir.path()), ["a.gif", "a.mp4", "a.safetensors", "b.safetensors", "c.toml", "frames", "r.json"]);
}

#[test]
fn a_batch_resumes_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("prompts.txt"),
        "# two videos\nsmall blue ring left slowly black\n\n  large green square up fast gray\n",
    )
    .unwrap();
    let args = [
        "generate",
        "--prompts",
        "prompts.txt",
        "--out",
        "videos/{}.safetensors",
        "--steps",
        "1",
        "--report",
        "r.json",
    ];
    succeeds(dir.path(), &args);
    let [first, second] =
        ["002-small-blue-ring-left-slowly-black.safetensors", "004-large-green-square-up-fast-gray.safetensors"];
    let videos = dir.path().join("videos");
    assert_eq!(names(&videos), [first, second]);
    let reports =
        || -> Vec<serde_json::Value> { serde_json::from_slice(&fs::read(dir.path().join("r.json")).unwrap()).unwrap() };
    assert_eq!(reports().len(), 2);

    // What is finished is not touched, what is missing comes back the same.
    let bytes = fs::read(videos.join(second)).unwrap();
    fs::remove_file(videos.join(second)).unwrap();
    fs::write(videos.join(first), "finished").unwrap();
    let output = succeeds(dir.path(), &args);
    assert!(text(&output.stderr).contains("1 of 2 videos are finished already"));
    assert_eq!(fs::read(videos.join(second)).unwrap(), bytes);
    assert_eq!(fs::read(videos.join(first)).unwrap(), b"finished");
    assert_eq!(reports().len(), 2);

    fs::write(dir.path().join("prompts.txt"), "small blue ring left slowly black\nsmall bleu ring left slowly black\n")
        .unwrap();
    fails(dir.path(), &args, 1, &["line 2", "did you mean `blue`"]);
    fails(dir.path(), &["generate", "--prompts", "prompts.txt", "--out", "one.mp4"], 1, &["{}"]);
    fails(dir.path(), &["generate", "--prompts", "none.txt"], 1, &["none.txt"]);
    fs::write(dir.path().join("prompts.txt"), "\n# nothing\n").unwrap();
    fails(dir.path(), &args, 1, &["no prompts"]);
}

#[test]
fn quiet_is_quiet() {
    let dir = tempfile::tempdir().unwrap();
    let output = succeeds(dir.path(), &["generate", PROMPT, "--steps", "1", "--quiet", "--out", "q.safetensors"]);
    assert_eq!((text(&output.stdout), text(&output.stderr)), (String::new(), String::new()));
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_nothing_and_says_130() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = command(dir.path(), &["generate", PROMPT, "--steps", "10000", "--cache", "none", "--out", "x.mp4"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(names(dir.path()).is_empty());
}

#[test]
fn check_tells_failed_from_unreadable() {
    let dir = tempfile::tempdir().unwrap();
    fails(dir.path(), &["check", "nothing-here"], 2, &["nothing-here"]);
    fs::create_dir(dir.path().join("broken")).unwrap();
    fs::write(dir.path().join("broken/case.json"), "{").unwrap();
    let output = adacache(dir.path(), &["check", "broken", "--json"]);
    assert_eq!(output.status.code(), Some(2));
    let line: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((line["case"].as_str(), line["ok"].as_bool()), (Some("broken"), Some(false)));
    assert!(line["error"].as_str().is_some_and(|e| e.contains("case.json")));
}

#[test]
fn a_profile_holds_every_launch_step_and_decision() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("c.toml"), "policy = 'adacache'\nblocks = [2]\ncodebook = [[1.0, 2]]").unwrap();
    let args = ["generate", PROMPT, "--steps", "6", "--cache", "c.toml", "--out", "x.safetensors"];
    succeeds(dir.path(), &[&args[..], &["--profile", "p.json", "--report", "r.json", "--quiet"]].concat());
    let json = |name: &str| serde_json::from_slice::<Value>(&fs::read(dir.path().join(name)).unwrap()).unwrap();
    let (profile, report) = (json("p.json"), json("r.json"));
    assert_eq!(profile["otherData"]["device"], report["device"]);
    let events = profile["traceEvents"].as_array().unwrap();
    let of = |phase: &str, cat: &str| -> Vec<&Value> {
        events.iter().filter(|e| e["ph"] == phase && (cat.is_empty() || e["cat"] == cat)).collect()
    };
    // What every viewer needs; and whose time it is.
    for event in events {
        assert!(event["name"].is_string() && event["pid"].is_u64(), "{event}");
        assert!(event["ph"] == "M" || event["ts"].as_f64().is_some_and(|ts| ts >= 0.0), "{event}");
        assert!(event["ph"] != "X" || event["dur"].as_f64().is_some_and(|dur| dur >= 0.0), "{event}");
    }
    let process = of("M", "").into_iter().find(|e| e["name"] == "process_name").unwrap();
    let clock =
        if common::device_is_vm() { "VM, wall-clock times of the CPU, not a GPU's" } else { "times by CUDA events" };
    assert!(process["args"]["name"].as_str().unwrap().contains(clock), "{process}");

    let kernels = of("X", "kernel");
    assert!(
        kernels.windows(2).all(|pair| pair[0]["ts"].as_f64() <= pair[1]["ts"].as_f64()),
        "in the order of the stream"
    );
    let flops = |prefix: &str| -> u64 {
        let named = kernels.iter().filter(|e| e["name"].as_str().unwrap().starts_with(prefix));
        named.map(|e| e["args"]["flops"].as_u64().unwrap()).sum()
    };
    // Beside the steps the caption's projections were launched, and nothing else that multiplies.
    let counted = report["flops"]["total"].as_u64().unwrap();
    let products = flops("linear") + flops("attention");
    assert!(products > counted && products < counted + counted / 20, "{products} {counted}");
    for event in &kernels {
        assert!(event["args"]["grid"][0].as_u64().unwrap() > 0 && event["args"]["block"][0].as_u64().unwrap() > 0);
        assert!(event["args"]["bytes_written"].as_u64().unwrap() > 0, "{event}");
    }
    let steps: Vec<&str> = of("X", "span").iter().map(|e| e["name"].as_str().unwrap()).collect();
    assert_eq!(
        steps,
        [
            "step 1 computed",
            "step 2 computed",
            "step 3 reused",
            "step 4 computed",
            "step 5 computed",
            "step 6 computed"
        ]
    );
    let markers = of("i", "marker");
    assert_eq!(markers.len(), report["decisions"].as_array().unwrap().len());
    for (marker, decision) in markers.iter().zip(report["decisions"].as_array().unwrap()) {
        assert_eq!(&marker["args"], decision);
        assert_eq!(marker["name"], format!("rate {}", decision["rate"]));
    }
}

#[test]
fn a_plan_counts_and_calls_its_seconds_modelled() {
    let dir = tempfile::tempdir().unwrap();
    let args = [
        "plan",
        "--model",
        "opensora-v1.2",
        "--resolution",
        "720p",
        "--frames",
        "51",
        "--steps",
        "100",
        "--gpu",
        "a100",
    ];
    let people = text(&succeeds(dir.path(), &args).stdout);
    for part in ["2 × 15 × 3600 tokens", "419.60 s published", "89.53 s published", "modelled", "assumed, not measured"]
    {
        assert!(people.contains(part), "`{part}` is missing in:\n{people}");
    }
    let json =
        succeeds(dir.path(), &[&args[..], &["--json", "--computed", "21", "--efficiency", "linear=0.5"]].concat());
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["tokens"], serde_json::json!([15, 3600]));
    assert_eq!(json["totals"][1]["computed_steps"], 21);
    assert_eq!(json["efficiency"]["linear"]["origin"], "given with --efficiency");
    assert!(json["memory"]["peak"].as_u64().unwrap() < 24 << 30);
    let json = succeeds(dir.path(), &[&args[..], &["--json", "--vram-budget", "3.5GiB"]].concat());
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    let (blocks, least) = (json["streamed_blocks"].as_u64().unwrap(), json["memory"]["least"].as_u64().unwrap());
    let needs = &json["memory"]["needs"];
    let block = needs["block"].as_u64().unwrap();
    assert!((1..=56).contains(&blocks) && json["streamed_weight_bytes"].as_u64() == Some(blocks * block), "{needs}");
    // Two slots for the streamed ones beside those that stay; one block more would not fit.
    let taken = least + (56 - blocks) * block;
    let budget = 7 << 29;
    assert!(taken <= budget && taken + block > budget, "{taken}");
    for (args, part) in [
        (&["--resolution", "9p"][..], "known are 240p"),
        (&["--aspect", "7:3"], "9:16"),
        (&["--frames", "0"], "1 to 408"),
        (&["--vram-budget", "1GiB"], "activations of a step"),
        (&["--size", "720"], "HEIGHTxWIDTH"),
        (&["--computed", "101"], "101 computed steps of 100"),
        (&["--efficiency", "linear=2"], "at most 1"),
        (&["--trace", "none.jsonl"], "none.jsonl"),
        (&["--dtype", "f32"], "reference mode"),
        (&["--model", "sprites", "--cache", "no.toml"], "no.toml"),
    ] {
        fails(dir.path(), &[&["plan"], args].concat(), 1, &[part]);
    }
    fails(dir.path(), &["plan", "--gpu", "gt730"], 2, &["a100"]);
}

/// A recorded trace gives the plan of the run that recorded it.
#[test]
fn a_plan_follows_a_recorded_trace() {
    let dir = tempfile::tempdir().unwrap();
    let run =
        ["generate", PROMPT, "--steps", "8", "--trace", "t.jsonl", "--report", "r.json", "--out", "x.safetensors"];
    succeeds(dir.path(), &run);
    let report: Value = serde_json::from_slice(&fs::read(dir.path().join("r.json")).unwrap()).unwrap();
    let plan = succeeds(dir.path(), &["plan", "--model", "sprites", "--steps", "8", "--trace", "t.jsonl", "--json"]);
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    assert_eq!(plan["totals"][1]["computed_steps"], report["computed_steps"].as_array().unwrap().len());
    assert_eq!(plan["memory"]["cache"], report["cache_bytes"]);
    assert_eq!(plan["memory"]["cache_unfolded"], report["cache_bytes_unfolded"]);
}

/// A run that computes every step records what every policy wants to know.
#[test]
fn a_trace_is_replayed_by_every_policy() {
    let dir = tempfile::tempdir().unwrap();
    let run = ["generate", PROMPT, "--steps", "8", "--cache", "none", "--trace", "t.jsonl", "--out", "x.safetensors"];
    succeeds(dir.path(), &run);
    let caches = "none,adacache-fast,teacache-slow,fbcache,easycache,magcache-slow,interval-3,pab,delta-dit,t-gate,interval-3+taylor2";
    let replayed = succeeds(dir.path(), &["replay", "t.jsonl", "--cache", caches, "--json"]);
    let replayed: Value = serde_json::from_slice(&replayed.stdout).unwrap();
    let computed: Vec<&Value> = replayed.as_array().unwrap().iter().map(|one| &one["computed_steps"]).collect();
    assert_eq!(computed.len(), 11);
    assert_eq!(computed[0], &serde_json::json!([1, 2, 3, 4, 5, 6, 7, 8]));
    assert_eq!(computed[6], &serde_json::json!([1, 4, 7]));
    assert_eq!(computed[10], computed[6], "extrapolation changes no decision");
    // Steps 1 to 4 of 8 are before the gate.
    assert_eq!(computed[9], &serde_json::json!([1, 2, 3, 4]));
    assert_eq!(replayed[9]["partial_steps"], serde_json::json!([5, 6, 7, 8]));
    let people = text(&succeeds(dir.path(), &["replay", "t.jsonl", "--moreg", "--decisions"]).stdout);
    assert!(people.contains("adacache-fast  █") && people.contains("motion factor"), "{people}");
    let ratios = text(&succeeds(dir.path(), &["replay", "t.jsonl", "--ratios"]).stdout);
    assert!(ratios.starts_with("ratios = [") && ratios.matches(',').count() == 6, "{ratios}");

    succeeds(dir.path(), &["generate", PROMPT, "--steps", "8", "--trace", "own.jsonl", "--out", "y.safetensors"]);
    fails(dir.path(), &["replay", "own.jsonl", "--cache", "teacache-fast"], 1, &["modulated", "--cache none"]);
    fails(dir.path(), &["replay", "t.jsonl", "--cache", "fewer-4"], 1, &["fewer-4", "another number of steps"]);
    fails(dir.path(), &["replay", "no.jsonl"], 1, &["no.jsonl"]);
    fs::write(dir.path().join("bad.jsonl"), "{}").unwrap();
    fails(dir.path(), &["replay", "bad.jsonl"], 1, &["bad.jsonl", "line 1", "steps"]);
}

#[test]
fn videos_and_latents_are_measured() {
    let dir = tempfile::tempdir().unwrap();
    for (name, cache) in [("a", "none"), ("b", "interval-4")] {
        for out in [format!("{name}/"), format!("{name}.safetensors")] {
            succeeds(dir.path(), &["generate", PROMPT, "--steps", "4", "--cache", cache, "--out", &out]);
        }
    }
    let json = |args: &[&str]| -> Value {
        serde_json::from_slice(&succeeds(dir.path(), &[&["measure", "--json"], args].concat()).stdout).unwrap()
    };
    let other = json(&["a", "b"]);
    let (psnr, ssim) = (other["compared"]["psnr"].as_f64().unwrap(), other["compared"]["ssim"].as_f64().unwrap());
    assert!(psnr > 5.0 && psnr < 60.0 && ssim > 0.0 && ssim < 1.0, "{psnr} {ssim}");
    assert_eq!(other["compared"]["ssim_frames"].as_array().unwrap().len(), 16);
    assert_eq!(other["a"], json(&["a"]));
    let same = json(&["a", "a"]);
    assert!(same["compared"]["psnr"].is_null() && same["compared"]["ssim"] == 1.0, "{same}");
    assert_eq!(json(&["a.safetensors", "a.safetensors"])["same_bits"], true);
    assert!(json(&["a.safetensors", "b.safetensors"])["relative_l2"].as_f64().unwrap() > 0.0);
    let people = text(&succeeds(dir.path(), &["measure", "a", "b", "--frames"]).stdout);
    assert!(people.contains("PSNR") && people.contains("frame   15"), "{people}");
    assert!(!people.contains("latency") && other.get("work").is_none(), "{people}");

    // With reports also what they cost: one of four steps computed.
    for (name, cache) in [("a", "none"), ("b", "interval-4")] {
        let (out, report) = (format!("{name}.safetensors"), format!("{name}.json"));
        let args = ["generate", PROMPT, "--steps", "4", "--cache", cache, "--out", &out, "--report", &report];
        succeeds(dir.path(), &args);
    }
    let reports = ["a", "b", "--reports", "a.json", "b.json"];
    let work = json(&reports)["work"].clone();
    let part = work["b"]["flops"].as_f64().unwrap() / work["a"]["flops"].as_f64().unwrap();
    assert!((0.25..0.3).contains(&part) && work["b"]["seconds"].as_f64().unwrap() > 0.0, "{work}");
    let people = text(&succeeds(dir.path(), &[&["measure"], &reports[..]].concat()).stdout);
    let report: Value = serde_json::from_slice(&fs::read(dir.path().join("a.json")).unwrap()).unwrap();
    let device = report["device"].as_str().unwrap();
    for told in [&*format!("({:.1} %, counted)", 100.0 * part), "latency  ", device] {
        assert!(people.contains(told), "{told}: {people}");
    }
    assert_eq!(json(&[&["a.safetensors", "b.safetensors"], &reports[2..]].concat())["work"], work);
    fails(dir.path(), &["measure", "a", "--reports", "a.json", "b.json"], 2, &["<B>"]);
    fails(dir.path(), &["measure", "a", "b", "--reports", "a.json", "no.json"], 1, &["no.json"]);
    fails(dir.path(), &["measure", "a", "b", "--reports", "a.json", "a.safetensors"], 1, &["a.safetensors"]);
    fs::write(dir.path().join("empty.json"), "[]").unwrap();
    fails(dir.path(), &["measure", "a", "b", "--reports", "a.json", "empty.json"], 1, &["empty.json", "one video"]);

    // The same video as an .mp4 and a .gif, both enlarged to be looked at: near each other.
    for out in ["a.mp4", "a.gif"] {
        succeeds(dir.path(), &["generate", PROMPT, "--steps", "4", "--cache", "none", "--out", out]);
    }
    let lossy = json(&["a.gif", "a.mp4"]);
    assert_eq!(lossy["compared"]["psnr_frames"].as_array().unwrap().len(), 16);
    assert!(lossy["compared"]["psnr"].as_f64().unwrap() > 30.0, "{lossy}");
    assert_eq!(json(&["a.mp4", "a.mp4"])["compared"]["ssim"], 1.0);
    fails(dir.path(), &["measure", "a", "a.mp4"], 1, &["64x64", "256x256"]);
    fails(dir.path(), &["measure", "a.mp4", "a.safetensors"], 1, &["two of a kind"]);
    fs::write(dir.path().join("cut.mp4"), &fs::read(dir.path().join("a.mp4")).unwrap()[..3000]).unwrap();
    fails(dir.path(), &["measure", "cut.mp4"], 1, &["cut.mp4", "ends within its box"]);

    fails(dir.path(), &["measure", "a", "b.safetensors"], 1, &["two of a kind"]);
    fails(dir.path(), &["measure", "a.safetensors"], 1, &["two files"]);
    fails(dir.path(), &["measure", "a", "c"], 1, &["no such file"]);
    fs::remove_file(dir.path().join("b/frame_0003.png")).unwrap();
    fails(dir.path(), &["measure", "a", "b"], 1, &["16 frames", "15 frames"]);
}

/// Small weights of ST-LPIPS by the published names: every value is small, and not the same everywhere.
fn small_networks(file: &Path) {
    let mut tensors: Vec<(String, Vec<usize>)> = vec![];
    let layers = [("1.0", 3, 11), ("2.5", 4, 5), ("3.9", 4, 3), ("4.11", 4, 3), ("5.13", 4, 3)];
    for (i, (name, before, side)) in layers.into_iter().enumerate() {
        tensors.push((format!("net.slice{name}.weight"), vec![4, before, side, side]));
        tensors.push((format!("net.slice{name}.bias"), vec![4]));
        tensors.push((format!("lin{i}.model.1.weight"), vec![1, 4, 1, 1]));
    }
    // Biases keep the features from being cut to nothing where the picture is dark.
    let value = |name: &str, i: usize| {
        if name.starts_with("net") && name.ends_with("weight") { (i * 5 % 13) as f32 / 48.0 - 0.125 } else { 0.5 }
    };
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(name, shape)| (0..shape.iter().product::<usize>()).flat_map(|i| value(name, i).to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape), bytes)| {
        (name, safetensors::tensor::TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    fs::write(file, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn perceptual_distances_are_told_where_their_weights_are() {
    let dir = tempfile::tempdir().unwrap();
    for (name, cache) in [("a", "none"), ("b", "interval-2")] {
        succeeds(dir.path(), &["generate", PROMPT, "--steps", "2", "--cache", cache, "--out", &format!("{name}/")]);
    }
    let home = dir.path().join("home");
    fs::create_dir(&home).unwrap();
    let run = |args: &[&str]| {
        let output = command(dir.path(), args).env("ADACACHE_HOME", &home).output().unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let json =
        |args: &[&str]| -> Value { serde_json::from_str(&run(&[&["measure", "--json"], args].concat()).1).unwrap() };

    // Nowhere: said to people, absent for programs; asked for by name: an error. Each with the command that makes them.
    assert!(run(&["measure", "a", "b"]).1.contains("tools/perceptual_weights.py stlpips"));
    assert_eq!(json(&["a", "b"])["perceived"], serde_json::json!({}));
    let (status, _, message) = run(&["measure", "a", "b", "--stlpips", "no.safetensors"]);
    assert!(status == Some(1) && message.contains("no.safetensors") && message.contains("pip install"), "{message}");

    small_networks(&dir.path().join("w.safetensors"));
    let named = json(&["a", "b", "--stlpips", "w.safetensors"])["perceived"].clone();
    let frames: Vec<f64> = named["stlpips"]["frames"].as_array().unwrap().iter().map(|d| d.as_f64().unwrap()).collect();
    assert!(frames.len() == 16 && frames.iter().all(|d| *d > 0.0), "{frames:?}");
    let mean = named["stlpips"]["mean"].as_f64().unwrap();
    assert!((mean - frames.iter().sum::<f64>() / 16.0).abs() < 1e-12 && named["lpips"].is_null());
    assert_eq!(json(&["a", "a", "--stlpips", "w.safetensors"])["perceived"]["stlpips"]["mean"], 0.0);

    // In the folder of models it is found, by `compare` too.
    fs::rename(dir.path().join("w.safetensors"), home.join("stlpips.safetensors")).unwrap();
    assert_eq!(json(&["a", "b"])["perceived"], named);
    let people = run(&["measure", "a", "b", "--frames"]).1;
    assert!(people.lines().filter(|line| line.contains("ST-LPIPS")).count() == 17, "{people}");
    fs::write(dir.path().join("p.txt"), PROMPT).unwrap();
    let compare = ["compare", "--prompts", "p.txt", "--cache", "interval-2", "--steps", "2", "--out", "o"];
    let (status, table, message) = run(&compare);
    assert!(status == Some(0) && table.contains("ST-LPIPS") && !table.contains(" LPIPS"), "{table}{message}");
    let results: Value = serde_json::from_slice(&fs::read(dir.path().join("o/results.json")).unwrap()).unwrap();
    assert_eq!((&results["runs"][0]["stlpips"], &results["runs"][0]["lpips"]), (&serde_json::json!(0.0), &Value::Null));
    assert!((results["runs"][1]["stlpips"].as_f64().unwrap() - mean).abs() < 1e-12, "the same two videos");
    assert_eq!(results["summaries"][1]["stlpips"]["mean"], results["runs"][1]["stlpips"]);
}

/// A stand-in for the command `vbench`, which writes its results as version 0.1 does, and like it ends well whatever happened.
const VBENCH: &str = r#"#!/bin/sh
printf '%s|' "$@" >arguments
case "$PRETEND" in
    nothing) exit 0 ;;
    failed) mkdir results; echo '{}' >results/results_now_eval_results.json; exit 3 ;;
esac
echo 'messages of its own'
mkdir results
echo '[]' >results/results_now_full_info.json
list= n=0
for video in videos/*.mp4; do
    n=$((n + 1))
    list="$list${list:+, }{\"video_path\": \"$video\", \"video_results\": ${n}0}"
done
moves=$(echo "$list" | sed 's/[0-9]*}/true}/')
echo "{\"imaging_quality\": [0.1, [$list]], \"dynamic_degree\": [0.5, [$moves]]}" >results/results_now_eval_results.json
"#;

#[cfg(unix)]
#[test]
fn vbench_is_called_on_what_was_laid_out() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let (bin, empty) = (dir.path().join("bin"), dir.path().join("empty"));
    fs::create_dir(&bin).unwrap();
    fs::create_dir(&empty).unwrap();
    fs::write(bin.join("vbench"), VBENCH).unwrap();
    fs::set_permissions(bin.join("vbench"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(dir.path().join("clips")).unwrap();
    for out in ["a b/", "clips/one.mp4", "clips/two.mp4"] {
        succeeds(dir.path(), &["generate", PROMPT, "--steps", "1", "--out", out]);
    }
    fs::write(dir.path().join("p.txt"), PROMPT).unwrap();
    let compare = ["compare", "--prompts", "p.txt", "--cache", "interval-2", "--steps", "2", "--out", "o"];
    succeeds(dir.path(), &compare);

    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let run = |args: &[&str], path: &str, pretend: &str| {
        let mut command = command(dir.path(), &[&["measure", "--vbench"], args].concat());
        let output = command.env("PATH", path).env("PRETEND", pretend).output().unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (status, out, message) = run(&["a b", "clips", "o", "--json"], &path, "");
    assert_eq!(status, Some(0), "{message}");
    assert_eq!(names(&dir.path().join("vbench/videos")).len(), 5);
    let prompts: Value = serde_json::from_slice(&fs::read(dir.path().join("vbench/prompts.json")).unwrap()).unwrap();
    assert_eq!(
        names(&dir.path().join("vbench/videos")),
        prompts.as_object().unwrap().keys().cloned().collect::<Vec<_>>()
    );
    assert_eq!(prompts["001-one.mp4"], "one");
    assert!(prompts.as_object().unwrap().values().filter(|prompt| *prompt == PROMPT).count() == 2, "{prompts}");
    let arguments = fs::read_to_string(dir.path().join("vbench/arguments")).unwrap();
    let expected = "evaluate|--videos_path|videos|--output_path|results|--mode|custom_input|--prompt_file|prompts.json|--dimension|\
                    subject_consistency background_consistency motion_smoothness dynamic_degree aesthetic_quality imaging_quality|";
    assert_eq!(arguments, expected);
    // Its messages go elsewhere; groups are the arguments and, of a comparison, the policies.
    let scores: Value = serde_json::from_str(&out).unwrap();
    let groups: Vec<(&str, u64, f64)> = scores["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|g| {
            (
                g["group"].as_str().unwrap(),
                g["videos"].as_u64().unwrap(),
                g["scores"]["imaging_quality"].as_f64().unwrap(),
            )
        })
        .collect();
    assert_eq!(groups, [("a b", 1, 0.1), ("clips", 2, 0.25), ("interval-2", 1, 0.4), ("none", 1, 0.5)]);
    assert_eq!(scores["videos"][0]["scores"]["dynamic_degree"], 1.0);

    let people = run(&["clips", "--frames", "--out", "v2", "--dimensions", "imaging_quality"], &path, "").1;
    assert!(people.contains("0.1500  clips (2 videos)") && people.contains("0.2000  001-two"), "{people}");
    for (args, path, pretend, parts) in [
        (&["clips"][..], &*path, "", ["vbench", "not empty"]),
        (&["bin", "--out", "v3"], &path, "", ["bin", "folder of .mp4"]),
        (&["clips", "--out", "v4"], &path, "nothing", ["left no results", "v4"]),
        (&["clips", "--out", "v5"], &path, "failed", ["left no results", "3"]),
        (&["clips", "--out", "v6"], &*empty.display().to_string(), "", ["pip install vbench", "v6"]),
        (&["clips", "--out", "v7", "--dimensions", "a;b"], &path, "", ["a;b", "dimension"]),
    ] {
        let (status, _, message) = run(args, path, pretend);
        assert_eq!(status, Some(1), "{args:?}: {message}");
        assert!(parts.iter().all(|part| message.contains(part)), "{args:?}: {message}");
    }
    assert!(!dir.path().join("v3").exists());
}

#[test]
fn policies_are_compared_and_a_stopped_comparison_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("p.txt"), format!("# two\n{PROMPT}\n\nsmall white circle still slowly black\n")).unwrap();
    fs::write(dir.path().join("mine.toml"), "policy = 'interval'\nevery = 4\n").unwrap();
    let args = [
        "compare",
        "--prompts",
        "p.txt",
        "--cache",
        "interval-2,mine.toml,fewer-2,t-gate",
        "--steps",
        "4",
        "--out",
        "o",
    ];
    let table = text(&succeeds(dir.path(), &args).stdout);
    assert!(table.contains("interval-2") && table.contains("PSNR"), "{table}");
    let results =
        || -> Value { serde_json::from_slice(&fs::read(dir.path().join("o/results.json")).unwrap()).unwrap() };
    let first = results();
    // A run of it brings its work to `measure`.
    let prompt = fs::read_dir(dir.path().join("o/runs")).unwrap().next().unwrap().unwrap().path();
    let run = |name: &str| prompt.join(name).to_string_lossy().into_owned();
    let people = text(&succeeds(dir.path(), &["measure", &run("none"), &run("interval-2")]).stdout);
    assert!(people.contains("operations  ") && people.contains("latency  "), "{people}");
    let runs = first["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 10);
    assert!(runs[0]["cache"] == "none" && runs[0]["psnr"].is_null() && runs[0]["compute"] == 1.0);
    assert_eq!(
        (&runs[1]["computed_steps"], &runs[2]["computed_steps"]),
        (&serde_json::json!([1, 3]), &serde_json::json!([1]))
    );
    let compute: Vec<f64> = runs.iter().map(|r| r["compute"].as_f64().unwrap()).collect();
    assert_eq!((&runs[4]["cache"], &runs[4]["partial_steps"]), (&"t-gate".into(), &serde_json::json!([3, 4])));
    // Behind the gate half of the batch runs, without cross-attention.
    assert!(compute[4] > 0.68 && compute[4] < 0.74, "{compute:?}");
    assert!((compute[3] - 0.5).abs() < 1e-9 && compute[1] > 0.5 && compute[2] < compute[1], "{compute:?}");
    assert!(runs[1]["psnr"].as_f64().unwrap() > 5.0 && runs[1]["latents_relative_l2"].as_f64().unwrap() > 0.0);
    assert_eq!(first["summaries"][1]["runs"], 2);
    let csv = fs::read_to_string(dir.path().join("o/results.csv")).unwrap();
    assert_eq!(csv.lines().count(), 11);
    assert!(csv.contains(",4,2,CCpp,"), "{csv}");
    let page = fs::read_to_string(dir.path().join("o/index.html")).unwrap();
    assert_eq!(page.matches("\"strip\":\"iVBORw0KGgo").count(), 10, "a PNG for each run");

    // One run is lost: only that one is made again, and everything comes out as it was.
    let lost = dir.path().join("o/runs").join(names(&dir.path().join("o/runs"))[0].clone()).join("mine");
    let kept = dir.path().join("o/runs").join(names(&dir.path().join("o/runs"))[0].clone()).join("none/report.json");
    let before = fs::metadata(&kept).unwrap().modified().unwrap();
    fs::remove_file(lost.join("report.json")).unwrap();
    succeeds(dir.path(), &args);
    assert_eq!(fs::metadata(&kept).unwrap().modified().unwrap(), before);
    let again = results();
    for (a, b) in again["runs"].as_array().unwrap().iter().zip(runs) {
        assert_eq!((&a["psnr"], &a["ssim"], &a["cache"]), (&b["psnr"], &b["ssim"], &b["cache"]));
    }
    fs::write(dir.path().join("mine.toml"), "policy = 'interval'\nevery = 3\n").unwrap();
    fails(dir.path(), &args, 1, &["mine", "other settings"]);
    fails(dir.path(), &["compare", "--prompts", "no.txt", "--out", "n"], 1, &["no.txt"]);
    fails(
        dir.path(),
        &["compare", "--prompts", "p.txt", "--cache", "mine.toml,./mine.toml", "--out", "n"],
        1,
        &["two policies"],
    );
}

/// Two prompts, 8 steps: killed on the way, gone on with, and the file serves `generate`.
#[test]
fn a_codebook_is_calibrated_and_a_killed_calibration_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let prompts =
        format!("{PROMPT}\nsmall white circle still slowly black\n# held out\nlarge blue ring left fast gray\n");
    fs::write(dir.path().join("p.txt"), prompts).unwrap();
    let args = [
        &["calibrate", "--prompts", "./p.txt", "--split", "0.67", "--target-speedup", "1.4", "--steps", "8"][..],
        &["--verify", "1", "--rounds", "4", "--out", "c.toml", "--work", "w"],
    ]
    .concat();
    let recorded = || {
        let folders = fs::read_dir(dir.path().join("w")).into_iter().flatten();
        folders.filter(|f| f.as_ref().unwrap().path().join("flops.json").is_file()).count()
    };
    let mut killed = command(dir.path(), &args).stderr(Stdio::null()).spawn().unwrap();
    while recorded() == 0 && killed.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!((1..3).contains(&recorded()), "{}", recorded());
    let first = fs::read_dir(dir.path().join("w")).unwrap().map(|f| f.unwrap().path().join("trace.jsonl"));
    let first = first.into_iter().find(|f| f.is_file()).unwrap();
    let before = fs::metadata(&first).unwrap().modified().unwrap();

    let output = succeeds(dir.path(), &args);
    let told = text(&output.stdout);
    for part in ["predicted  speed-up", "achieved   speed-up", "held out", "difference", "8 steps", "2 prompts"] {
        assert!(told.contains(part), "`{part}` is missing in {told}");
    }
    assert_eq!(fs::metadata(&first).unwrap().modified().unwrap(), before, "the recorded run was kept");
    assert_eq!(recorded(), 3);
    // Everything is there: the same again in no time, to the byte.
    let file = fs::read_to_string(dir.path().join("c.toml")).unwrap();
    succeeds(dir.path(), &args);
    assert_eq!(fs::read_to_string(dir.path().join("c.toml")).unwrap(), file);
    assert!(file.starts_with("# adacache calibrate --prompts p.txt --split 0.67"), "{file}");
    assert!(file.contains("\npolicy = \"adacache\"\n") && !file.contains(&*dir.path().to_string_lossy()), "{file}");
    // What the file says is what `generate` does with it: the speed-up is that of the runs.
    let mut speed_ups = vec![];
    for (seed, prompt) in ["0", "1"].into_iter().zip([PROMPT, "small white circle still slowly black"]) {
        let run = ["generate", prompt, "--steps", "8", "--seed", seed, "--cache", "c.toml", "--out", "x.safetensors"];
        succeeds(dir.path(), &[&run[..], &["--report", "r.json"]].concat());
        let report: Value = serde_json::from_slice(&fs::read(dir.path().join("r.json")).unwrap()).unwrap();
        speed_ups.push(report["flops"]["total"].as_f64().unwrap() / report["flops"]["all_computed"].as_f64().unwrap());
    }
    let achieved = format!("achieved   speed-up {:.3}", 2.0 / (speed_ups[0] + speed_ups[1]));
    assert!(told.contains(&achieved), "{achieved}: {told}");
}

#[test]
fn calibrations_that_cannot_be_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("p.txt"), format!("{PROMPT}\n")).unwrap();
    fs::write(dir.path().join("none.txt"), "# nothing\n\n").unwrap();
    let faster = ["--target-speedup", "2"];
    for (args, status, part) in [
        (&[][..], 2, "--target-speedup"),
        (&["--target-speedup", "2", "--target-psnr", "30"], 2, "cannot be used with"),
        (&["--target-speedup", "NaN"], 1, "NaN"),
        (&["--target-speedup", "-2"], 1, "above 1"),
        (&["--target-speedup", "8"], 1, "cannot be reached in 30 steps"),
        (&["--target-psnr", "inf"], 1, "inf"),
        (&["--target-psnr", "30", "--steps", "4"], 1, "nothing to reuse"),
        (&[&faster[..], &["--prompts", "none.txt"]].concat(), 1, "no prompts"),
        (&[&faster[..], &["--prompts", "gone.txt"]].concat(), 1, "gone.txt"),
        (&[&faster[..], &["--model", "gone"]].concat(), 1, "no model `gone`"),
        (&[&faster[..], &["--split", "0.5"]].concat(), 1, "nothing on one side"),
        (&[&faster[..], &["--split", "NaN"]].concat(), 1, "--split NaN"),
        (&[&faster[..], &["--blocks", "7"]].concat(), 1, "block 7 does not exist"),
        (&[&faster[..], &["--metric", "l7"]].concat(), 2, "l7"),
        (&[&faster[..], &["--rounds", "3"]].concat(), 1, "--rounds 3"),
        (&[&faster[..], &["--taylor", "3"]].concat(), 2, "3"),
        (&[&faster[..], &["--against", "interval-2"]].concat(), 1, "--against interval-2"),
        (&[&faster[..], &["--out", "c.json"]].concat(), 1, ".toml"),
    ] {
        let given = |flag: &str| args.contains(&flag);
        let mut all = vec!["calibrate"];
        all.extend(if given("--prompts") { &[][..] } else { &["--prompts", "p.txt"] });
        all.extend(if given("--out") { &[][..] } else { &["--out", "c.toml"] });
        all.extend(args);
        fails(dir.path(), &all, status, &[part]);
    }
}

#[test]
fn bench_prints_every_format_and_whose_times_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let shapes = "[[linear]]\nm = 65\nn = 48\nk = 32\n[[residual]]\nkind = 'probe'\nbatch = 2\nframes = 3\ntokens = 5\nchannels = 64\n";
    fs::write(dir.path().join("s.toml"), shapes).unwrap();
    let bench = |args: &[&str]| {
        text(&succeeds(dir.path(), &[&["bench", "--quick", "--shapes", "s.toml"], args].concat()).stdout)
    };
    let json: Value = serde_json::from_str(&bench(&["--json"])).unwrap();
    let vm = common::device_is_vm();
    assert_eq!(json["device"]["clock"].as_str().unwrap().contains("not a GPU's"), vm);
    let results = json["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    assert_eq!(results[0]["work"]["flops"], 2 * 65 * 48 * 32);
    if vm {
        assert!(results[0]["counted"]["tensor_flops"].as_u64().unwrap() >= 2 * 65 * 48 * 32);
        assert_eq!(results[0]["percent_of_peak"], Value::Null);
    }
    assert_eq!(results[1]["kernels"], serde_json::json!(["reduce_partials", "residual_probe_bf16"]));
    let csv = bench(&["--csv", "--ops", "residual"]);
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 3, "facts, head, one row: {csv}");
    assert_eq!(lines[0].contains("not a GPU's"), vm);
    assert_eq!(lines[1].split(',').count(), lines[2].split(',').count());
    assert!(bench(&["--markdown"]).contains("| linear | bias m=65 n=48 k=32 |"));
    assert!(bench(&[]).contains("probe batch=2 frames=3 tokens=5 channels=64"));
    fails(dir.path(), &["bench", "--shapes", "none.toml"], 1, &["none.toml"]);
    fails(dir.path(), &["bench", "--ops", "magic"], 2, &["known are linear"]);
}

/// What goes to a machine with a GPU, with small sizes on the device of the tests: one folder, without the repository and without cargo.
#[test]
fn the_first_contact_with_a_gpu_is_rehearsed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/gpu_first.sh");
    fs::create_dir(at("path")).unwrap();
    let path = format!("{}:{}", at("path").display(), std::env::var("PATH").unwrap());
    let bash = |script: &Path, args: &[&str]| {
        let mut command = Command::new("bash");
        command.arg(script).args(args).current_dir(dir.path()).env("PATH", &path);
        command.env("ADACACHE_DEVICE", common::device_name()).output().expect("bash runs")
    };
    let (kit, binary) = (at("kit"), env!("CARGO_BIN_EXE_adacache"));
    let output =
        bash(&script, &["prepare", "--quick", "--no-tests", "--binary", binary, "--out", kit.to_str().unwrap()]);
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));

    // From here on a cargo that leaves a trace.
    fs::write(at("path/cargo"), format!("#!/bin/sh\ntouch {}\nexit 1\n", at("asked").display())).unwrap();
    fs::set_permissions(at("path/cargo"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let script = kit.join("gpu_first.sh");
    let parts = "facts,jit,sprites,goldens,tests,bench,full,drills,extras";
    let output = bash(&script, &["run", "--quick", "--only", parts]);
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{said}");
    for check in ["bf16-graphs=vm", "f32-streamed=f32-graphs", "interval", "memory-runs-out", "SIGINT", "SIGTERM"] {
        assert!(said.contains(&format!("ok       {check}")), "{check}: {said}");
    }
    assert!(said.contains("prepared with --no-tests"), "{said}");

    let output = bash(&script, &["report", kit.join("results.tar.gz").to_str().unwrap()]);
    let (report, vm) = (text(&output.stdout), common::device_is_vm());
    assert!(output.status.success(), "{report}{}", text(&output.stderr));
    assert_eq!(report.contains("not a GPU's"), vm, "{report}");
    for row in ["| bench | linear bias m=512 n=384 k=128 bf16 |", "| **tests** |  | skipped |", "| full | interval: "] {
        assert!(report.contains(row), "{row}: {report}");
    }
    assert!(!report.contains("**FAILED**") && !report.contains("**ncu**"), "{report}");

    let output = bash(&script, &["run", "--device", "cuda:63", "--out", "none"]);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("no GPU cuda:63") && message.contains("--device vm"), "{message}");
    assert!(!at("none").exists() && !at("asked").exists());
    let damaged = bash(&script, &["run", "--archive", script.to_str().unwrap()]);
    assert_eq!(damaged.status.code(), Some(2), "{}", text(&damaged.stderr));
}
