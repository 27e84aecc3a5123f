//! `adacache generate`: what it writes, what it refuses, how it stops.

use std::fs;
use std::process::{Command, Stdio};

use safetensors::SafeTensors;
use serde_json::Value;

use crate::common::{self, command, names, text};
use crate::{PROMPT, adacache, fails, succeeds};

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
        ("large rde circle bouncing fast navy", vec!["`rde`; did you mean `red`?"]),
        // What it can draw, an example, and how to get a model that takes any words.
        (
            "a cat on the moon",
            vec![
                "`a`, `cat`, `on`, `the`, `moon`",
                "one moving shape, from six words",
                "for example: large red circle bouncing fast navy",
                "tip: for any words: `adacache pull wan2.1-t2v-1.3b`, then `adacache generate --model wan2.1-t2v-1.3b \"",
            ],
        ),
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
        (&["--device", "tpu"], "auto, vm, vm:checked, vm:truncate, vm:adverse:SEED, vm:sm_90, cuda"),
        (&["--cache", "adacache-fastest"], "none, adacache-fast, adacache-slow"),
        (&["--cache", "none", "--moreg"], "drop one"),
        (&["--fp8-weights", "--dtype", "f32"], "--fp8-weights needs a Hopper"),
    ] {
        let output = adacache(dir.path(), &[&["generate", PROMPT], args].concat());
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {message}");
        assert!(message.contains(part), "{args:?}: {message}");
    }
    for args in [&["--steps", "-1"][..], &["--steps", "many"], &["--seed", "-1"], &["--dtype", "f8"], &["--frames"]] {
        fails(dir.path(), &[&["generate", PROMPT], args].concat(), 2, &["error"]);
    }
    let examples = ["required", "tip: ", "adacache generate \"large red circle bouncing fast navy\"", "--prompts FILE"];
    fails(dir.path(), &["generate"], 2, &examples);
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
        ("taken.mp4", "it is a folder"),
        ("full/", "other files"),
        ("file/", "in the way"),
        ("file/movie.mp4", "cannot write"),
        ("file/new/movie.mp4", "cannot write"),
        ("/proc/movie.mp4", "cannot write"),
    ] {
        // A model that does not exist on the device would fail later: the output has to be looked at first.
        fails(dir.path(), &["generate", PROMPT, "--out", out, "--steps", "5000"], 1, &[part]);
    }
    fails(dir.path(), &["generate", PROMPT, "--out", "a.mp4", "--report", "no/such/r.json"], 1, &["no/such"]);
    // A folder that is made for a video goes again if there is none.
    fails(dir.path(), &["generate", PROMPT, "--out", "new/er/a.mp4", "--trace", "no/such/t.jsonl"], 1, &["no/such"]);
    assert_eq!(fs::read_to_string(dir.path().join("full/thesis.txt")).unwrap(), "precious");
}

#[test]
fn outputs_of_one_name_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    let run =
        |out, options: &[&'static str]| [&["generate", PROMPT, "--steps", "2", "--out", out][..], options].concat();
    for (out, options, part) in [
        ("a.gif", &["--report", "a.gif"][..], "--report a.gif is the place of the video too"),
        ("a.gif", &["--report", "d/../r.json", "--trace", "r.json"], "--trace r.json is the place of --report too"),
        ("a.gif", &["--trace", "x", "--profile", "./x"], "--profile ./x is the place of --trace too"),
    ] {
        fails(dir.path(), &run(out, options), 1, &[part]);
    }
    // A device takes them all, and stays what it is.
    succeeds(dir.path(), &run("a.gif", &["--report", "/dev/null", "--trace", "/dev/null"]));
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
    // The video is finished and stays.
    let output = adacache(dir.path(), &run("b.gif", &["--report", "/dev/full"]));
    assert!(output.status.code() == Some(1) && text(&output.stderr).contains("/dev/full"), "{output:?}");
    assert_eq!(names(dir.path()), ["a.gif", "b.gif", "d"]);
}

/// What the model or the run does not read is an error, not silence.
#[test]
fn options_of_other_runs_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let run = |options: &[&'static str]| [&["generate", PROMPT, "--out", "x.gif"][..], options].concat();
    for (options, status, part) in [
        (&["--aesthetic", "5"][..], 1, "opensora-v1.2, not for sprites"),
        (&["--motion", "3"], 1, "--motion"),
        (&["--camera", "pan left"], 1, "--camera"),
        (&["--motion", "nan"], 2, "give a number, or none"),
        (&["--aesthetic=-inf"], 2, "give a number, or none"),
        (&["--batch", "4"], 2, "--batch"),
        (&["--per-sample"], 2, "--per-sample"),
        (&["--shift", "-5"], 1, "--shift is for"),
    ] {
        fails(dir.path(), &run(options), status, &[part]);
    }
}

#[test]
fn folders_are_made() {
    let dir = tempfile::tempdir().unwrap();
    let args =
        ["generate", PROMPT, "--steps", "1", "--out", "nodir/deep/x.safetensors", "--report", "nodir/deep/r.json"];
    succeeds(dir.path(), &args);
    assert_eq!(names(&dir.path().join("nodir/deep")), ["r.json", "x.safetensors"]);
    succeeds(dir.path(), &["generate", PROMPT, "--steps", "1", "--out", "frames/of/it/"]);
    assert_eq!(names(&dir.path().join("frames/of/it")).len(), 16);
}

/// The same words give the same video, whatever stands between them; what is behind them is cut, and said.
#[test]
fn prompts_are_read_as_people_write_them() {
    let dir = tempfile::tempdir().unwrap();
    let run = |out: &str, prompt: &[&str]| {
        let output = succeeds(dir.path(), &[&["generate", "--steps", "1", "--out", out][..], prompt].concat());
        (fs::read(dir.path().join(out)).unwrap(), text(&output.stdout), text(&output.stderr))
    };
    let (plain, ..) = run("a.safetensors", &[PROMPT]);
    let (marked, stdout, stderr) = run("b.safetensors", &["\u{feff}Large, RED circle: bouncing fast; navy."]);
    assert!(marked == plain && stdout.starts_with("large red circle bouncing fast navy -> b.safetensors"), "{stdout}");
    assert!(!stderr.contains("warning"), "{stderr}");
    let (longer, _, stderr) = run("c.safetensors", &[PROMPT, "over the deep sea"]);
    assert!(longer == plain && stderr.contains("warning: the prompt is longer than the six words"), "{stderr}");
    assert!(stderr.contains("`over the deep sea` is cut"), "{stderr}");

    // A byte-order mark at the beginning of a file belongs to no word, and to no comment.
    for (i, (first, count)) in [(PROMPT, 2), ("# a comment", 1)].into_iter().enumerate() {
        let prompts = format!("\u{feff}{first}\nsmall blue ring left slowly black\n");
        fs::write(dir.path().join("p.txt"), prompts).unwrap();
        let out = format!("{i}/{{}}.safetensors");
        succeeds(dir.path(), &["generate", "--prompts", "p.txt", "--steps", "1", "--out", &out]);
        assert_eq!(names(&dir.path().join(i.to_string())).len(), count, "{first}");
    }
    fs::write(dir.path().join("p.txt"), [0xff, 0xfe, b'l', 0]).unwrap();
    fails(dir.path(), &["generate", "--prompts", "p.txt"], 1, &["p.txt", "UTF-16", "UTF-8"]);
    fs::write(dir.path().join("p.txt"), [b'l', 0xe4]).unwrap();
    fails(dir.path(), &["generate", "--prompts", "p.txt"], 1, &["p.txt", "UTF-8"]);
    fs::write(dir.path().join("marked.toml"), format!("\u{feff}{EVERY_OTHER}")).unwrap();
    run("d.safetensors", &[PROMPT, "--cache", "marked.toml"]);
}

/// Without the other half: what is planned is what is reported.
#[test]
fn guidance_of_one_is_half_the_work() {
    let dir = tempfile::tempdir().unwrap();
    let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
    let facts = |scale: &str| {
        let shared = ["--cfg-scale", scale, "--steps", "4", "--cache", "none"];
        let run = ["generate", PROMPT, "--out", "x.safetensors", "--overwrite", "--report", "r.json"];
        succeeds(dir.path(), &[&run[..], &shared].concat());
        let report = json(&fs::read(dir.path().join("r.json")).unwrap());
        let plan = json(&succeeds(dir.path(), &[&["plan", "--json"][..], &shared].concat()).stdout);
        let families = plan["computed_step"]["families"].as_array().unwrap();
        let products = families.iter().filter(|f| f["family"] != "memory").map(|f| f["flops"].as_u64().unwrap());
        assert_eq!(Some(products.sum::<u64>()), report["flops"]["computed_step"].as_u64(), "{scale}");
        (plan, report)
    };
    let ((whole, two), (half, one)) = (facts("3"), facts("1"));
    let ratio = |a: &Value, b: &Value, field: &str| a[field].as_f64().unwrap() / b[field].as_f64().unwrap();
    assert_eq!((whole["batch"].as_u64(), half["batch"].as_u64()), (Some(2), Some(1)));
    let flops = ratio(&one["flops"], &two["flops"], "total");
    assert!((0.49..0.51).contains(&flops), "{flops}");
    let seconds = ratio(&half["computed_step"], &whole["computed_step"], "roofline_seconds");
    assert!((0.4..0.8).contains(&seconds), "{seconds}");
    assert!(ratio(&one, &two, "activation_bytes") < 0.7);
    let seconds = |plan: &Value| plan["totals"][0]["modelled_seconds"].as_f64().unwrap();
    assert!(seconds(&half) < seconds(&whole));
}

#[test]
fn a_batch_says_how_far_it_is_in_a_line_a_video() {
    let dir = tempfile::tempdir().unwrap();
    let lines = ["small blue ring left slowly black", PROMPT, "large green square up fast gray"];
    fs::write(dir.path().join("p.txt"), lines.join("\n")).unwrap();
    for batch in ["1", "2"] {
        let out = format!("{batch}/{{}}.safetensors");
        let args = ["generate", "--prompts", "p.txt", "--steps", "1", "--batch", batch, "--out", &out];
        let told = text(&succeeds(dir.path(), &args).stdout);
        let told: Vec<&str> = told.lines().collect();
        assert_eq!(told.len(), 3, "{told:?}");
        for (i, line) in told.iter().enumerate() {
            assert!(line.starts_with(&format!("{} of 3  {} -> ", i + 1, lines[i])), "{line}");
            assert!(line.contains("1 of 1 steps computed, "), "{line}");
        }
    }
}

/// What is asked of a variable is asked of it only if it says something.
#[test]
fn an_empty_device_variable_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let run = |device: &str, program: &str| {
        let mut command = command(dir.path(), &["generate", PROMPT, "--steps", "1", "--out", program]);
        command.env("ADACACHE_DEVICE", device).output().unwrap()
    };
    let output = run("", "x.safetensors");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let output = run("tpu", "y.safetensors");
    assert!(!output.status.success() && text(&output.stderr).contains("tpu"));
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
    let made = fs::metadata(videos.join(first)).unwrap().modified().unwrap();
    let output = succeeds(dir.path(), &args);
    assert!(text(&output.stderr).contains("1 of 2 videos are finished already"));
    assert_eq!(fs::read(videos.join(second)).unwrap(), bytes);
    assert_eq!(fs::metadata(videos.join(first)).unwrap().modified().unwrap(), made);
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
fn a_profile_holds_every_launch_step_and_decision() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("c.toml"), "policy = 'adacache'\nblocks = [2]\ncodebook = [[1.0, 2]]").unwrap();
    let args = ["generate", PROMPT, "--steps", "6", "--cache", "c.toml", "--out", "x.safetensors"];
    succeeds(dir.path(), &[&args[..], &["--profile", "p.json", "--report", "r.json", "--quiet"]].concat());
    let json = |name: &str| serde_json::from_slice::<Value>(&fs::read(dir.path().join(name)).unwrap()).unwrap();
    let (profile, report) = (json("p.json"), json("r.json"));
    assert_eq!(profile["otherData"]["device"], report["device"]);
    common::assert_nests(&profile);
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

/// Slices nest in the profile of whatever a step can be: replayed, split, in part, streamed.
#[test]
fn slices_of_every_profile_nest() {
    let dir = tempfile::tempdir().unwrap();
    for more in [
        &["--cache", "none"][..],
        &["--cache", "none", "--no-graphs"],
        &["--cache", "fbcache"],
        &["--cache", "teacache-fast", "--no-graphs"],
        &["--cache", "pab"],
        &["--cache", "adacache-fast+taylor", "--moreg"],
        &["--cache", "adacache-fast", "--vram-budget", "12MiB"],
        &["--cache", "interval-2", "--trace", "t.jsonl", "--device", "vm:checked", "--size", "16x16", "--frames", "4"],
    ] {
        let args = ["generate", PROMPT, "--steps", "5", "--out", "x.gif", "--overwrite", "--profile", "p.json"];
        succeeds(dir.path(), &[&args[..], more].concat());
        let profile: Value = serde_json::from_slice(&fs::read(dir.path().join("p.json")).unwrap()).unwrap();
        common::assert_nests(&profile);
    }
}

/// What is not nested is found.
#[test]
#[should_panic(expected = "overlaps")]
fn slices_that_overlap_are_found() {
    let slice = |tid: u64, ts: f64, dur: f64| serde_json::json!({ "ph": "X", "name": "s", "pid": 1, "tid": tid, "ts": ts, "dur": dur });
    let nested =
        [slice(1, 0.0, 10.0), slice(1, 0.0, 5.0), slice(1, 5.0, 5.0), slice(1, 10.0, 0.125), slice(2, 3.0, 50.0)];
    common::assert_nests(&serde_json::json!({ "traceEvents": nested }));
    let overlapping = [slice(1, 0.0, 10.0), slice(1, 9.999, 5.0), slice(2, 0.0, 1.0)];
    common::assert_nests(&serde_json::json!({ "traceEvents": overlapping }));
}
