//! `adacache measure`: pictures, latents, perceptual distances, and VBench as far as a stand-in for it goes.

use std::fs;
use std::path::Path;

use safetensors::Dtype;
use serde_json::Value;

use crate::common::{command, names, text};
use crate::{PROMPT, fails, succeeds};

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
    let compared = &same["compared"];
    assert!(compared["psnr"] == 60.0 && compared["psnr_mean"] == 60.0 && compared["ssim"] == 1.0, "{same}");
    assert_eq!((&compared["equal_frames"], &compared["frames"]), (&16.into(), &16.into()));
    // One equal frame is a number like the others, in both forms.
    succeeds(dir.path(), &["generate", PROMPT, "--steps", "4", "--cache", "interval-4", "--out", "mixed/"]);
    fs::copy(dir.path().join("a/frame_0007.png"), dir.path().join("mixed/frame_0007.png")).unwrap();
    let one = json(&["a", "mixed"])["compared"].clone();
    let frames: Vec<f64> = one["psnr_frames"].as_array().unwrap().iter().map(|f| f.as_f64().unwrap()).collect();
    let mean = one["psnr_mean"].as_f64().unwrap();
    assert!(one["equal_frames"] == 1 && frames[7] == 60.0 && (mean - frames.iter().sum::<f64>() / 16.0).abs() < 1e-9);
    let people = text(&succeeds(dir.path(), &["measure", "a", "mixed"]).stdout);
    assert!(people.contains(&format!("mean of the frames {mean:.2}; at most 60")), "{people}");
    assert!(people.contains("equal frames         1 of 16"), "{people}");
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

/// Pictures and videos of other programs: what has to be said of them is said, and the numbers are those of what is shown.
#[test]
fn what_a_viewer_shows_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let media = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/media");
    let golden = |name: &str| media.join(name).display().to_string();
    let measured = |a: &str, b: &str| {
        let output = succeeds(dir.path(), &["measure", "--json", a, b]);
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        (json["compared"]["equal_frames"].clone(), text(&output.stderr))
    };
    assert_eq!(measured(&golden("turned.png"), &golden("turned.png.png")), (1.into(), String::new()));
    let (equal, told) = measured(&golden("clear.png"), &golden("clear.png"));
    assert_eq!(equal, 1);
    assert!(told.contains("warning: ") && told.contains("clear.png: it is transparent in places: read over white"));

    // Twice as many ticks in a second.
    let mut bytes = fs::read(golden("main.mp4")).unwrap();
    let at = bytes.windows(4).position(|name| name == b"mdhd").unwrap() + 16;
    let ticks = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    bytes[at..at + 4].copy_from_slice(&(2 * ticks).to_be_bytes());
    fs::write(dir.path().join("fast.mp4"), bytes).unwrap();
    let (equal, told) = measured(&golden("main.mp4"), "fast.mp4");
    assert_eq!(equal, 12);
    assert!(
        told.contains("main.mp4 has 24.00 frames a second, fast.mp4 48.00: they are compared frame by frame"),
        "{told}"
    );

    // Folders in natural order: the same pictures by other names.
    for (folder, name) in [("a", "deep.png"), ("b", "deep.png")] {
        fs::create_dir(dir.path().join(folder)).unwrap();
        for i in 8..12 {
            let picture = if i % 2 == 0 { name } else { "interlaced.png" };
            let number = if folder == "a" { format!("{i:04}") } else { i.to_string() };
            fs::copy(golden(picture), dir.path().join(format!("{folder}/{number}.png"))).unwrap();
        }
    }
    let (equal, told) = measured("a", "b");
    assert!(equal == 4 && told.matches("16 bits").count() == 2, "{equal}: {told}");
    fs::copy(golden("deep.png"), dir.path().join("b/cover.png")).unwrap();
    fails(dir.path(), &["measure", "a", "b"], 1, &["2 series", "cover.png"]);
    // A name that a shell would take apart.
    fs::write(dir.path().join("-my clip.mp4"), "x").unwrap();
    fails(dir.path(), &["measure", "--", "-my clip.mp4"], 1, &["ffmpeg -i './-my clip.mp4'", "'./-my clip-h264.mp4'"]);
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
    let (status, _, message) = run(&["measure", "a", "b", "--stlpips", "w.safetensors", "--device", "gpu"]);
    assert!(status == Some(1) && message.contains("gpu"), "{message}");
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
pub(crate) const VBENCH: &str = r#"#!/bin/sh
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
