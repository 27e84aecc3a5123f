//! What the command looks like: helps, presets, completions, manual pages, and errors.

use std::fs;

use serde_json::Value;

use crate::common::{command, names, text};
use crate::{PROMPT, adacache, fails, succeeds};

/// On a terminal of 80 columns.
fn help(args: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let output = command(dir.path(), args).env("COLUMNS", "80").output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_short_help_fits_one_screen_and_a_long_one_has_everything() {
    let short = help(&["generate", "-h"]);
    assert!(short.lines().count() <= 40, "{} lines\n{short}", short.lines().count());
    for part in ["Model and size:", "Steps and caching:", "Output:", "--cache", "--out", "--help"] {
        assert!(short.contains(part), "`{part}` is missing in:\n{short}");
    }
    let long = help(&["generate", "--help"]);
    let headings = [
        "Model and size:",
        "Steps and caching:",
        "Output:",
        "Many prompts:",
        "Prompt (Open-Sora, Wan):",
        "Given frames (Open-Sora; Wan 2.2 TI2V: one --image):",
        "Device and memory:",
    ];
    for heading in headings {
        assert_eq!(long.lines().filter(|line| *line == heading).count(), 1, "{heading}\n{long}");
    }
    // Defaults are numbers, of each model where they differ.
    let flat = long.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "Denoising steps [default: 30 for sprites, opensora-v1.2, 40 for wan2.2-t2v-a14b, 150 for open-sora-plan-v1.1, else 50]",
        "[default: 3 for sprites, 4,3 for wan2.2-t2v-a14b, 7.5 for latte-1, open-sora-plan-v1.1, 7 for opensora-v1.2, else 5]",
        "[default: 16 for sprites, latte-1, 121 for wan2.2-ti2v-5b, 65 for open-sora-plan-v1.1, 51 for opensora-v1.2, else 81]",
        "[default: adacache-fast]",
        "calibrated-2.2x",
        "interval-N, fewer-N",
        "--no-graphs",
        "--mask-strategy",
    ] {
        assert!(flat.contains(part), "`{part}` is missing in:\n{long}");
    }
}

#[test]
fn presets_are_listed_from_the_table() {
    let dir = tempfile::tempdir().unwrap();
    let sprites = text(&succeeds(dir.path(), &["presets"]).stdout);
    for part in ["presets of sprites for 30 steps", "adacache-fast", "calibrated-2.2x", "fewer-N", "+taylor"] {
        assert!(sprites.contains(part), "`{part}` is missing in:\n{sprites}");
    }
    // A published model needs none of its files; its own presets are not those of sprites.
    let opensora = text(&succeeds(dir.path(), &["presets", "--model", "opensora-v1.2"]).stdout);
    assert!(opensora.contains("magcache-fast") && !opensora.contains("calibrated-2.2x"), "{opensora}");
    // What is listed can be asked for, and what is printed can be read.
    let json: Value = serde_json::from_slice(&succeeds(dir.path(), &["presets", "--json"]).stdout).unwrap();
    for preset in json["presets"].as_array().unwrap() {
        let name = preset["name"].as_str().unwrap().replace("-N", "-3");
        assert!(!preset["about"].as_str().unwrap().is_empty(), "{name}");
        assert_eq!(preset["problem"], Value::Null, "{name}");
        succeeds(dir.path(), &["plan", "--cache", &name, "--json"]);
    }
    let toml = text(&succeeds(dir.path(), &["presets", "--toml"]).stdout);
    let own = toml.split("  calibrated-2.2x").nth(1).unwrap().lines().skip(1);
    let own: Vec<&str> = own.take_while(|line| line.starts_with("    ")).map(str::trim).collect();
    fs::write(dir.path().join("own.toml"), own.join("\n")).unwrap();
    let plan = |cache: &str| succeeds(dir.path(), &["plan", "--cache", cache, "--json"]).stdout;
    assert_eq!(plan("own.toml"), plan("calibrated-2.2x"));
    fails(dir.path(), &["presets", "--model", "none"], 1, &["no model `none`"]);
    // A model's folder has presets of its own.
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models/sprites");
    assert!(text(&succeeds(dir.path(), &["presets", "--model", folder]).stdout).contains("calibrated-2.2x"));
    let fast = ["generate", PROMPT, "--cache", "adacache-fsat"];
    fails(dir.path(), &fast, 1, &["did you mean `adacache-fast`?", "calibrated-2.2x", "adacache presets"]);
}

#[test]
fn shells_and_readers_of_manuals_are_served() {
    let dir = tempfile::tempdir().unwrap();
    for (shell, part) in
        [("bash", "complete -F _adacache"), ("zsh", "#compdef adacache"), ("fish", "complete -c adacache")]
    {
        let script = text(&succeeds(dir.path(), &["completions", shell]).stdout);
        for part in [part, "generate", "cfg-scale", "calibrate"] {
            assert!(script.contains(part), "{shell}: `{part}` is missing");
        }
    }
    fails(dir.path(), &["completions", "csh"], 2, &["bash", "zsh", "fish"]);
    succeeds(dir.path(), &["man", "new/man"]);
    let pages = names(&dir.path().join("new/man"));
    for page in ["adacache.1", "adacache-generate.1", "adacache-compare.1", "adacache-presets.1"] {
        assert!(pages.iter().any(|name| name == page), "{pages:?}");
    }
    let page = fs::read_to_string(dir.path().join("new/man/adacache-generate.1")).unwrap();
    assert!(page.starts_with(".ie") && page.contains(".TH") && page.contains("cfg\\-scale"), "{page:.300}");
    // The release brings both.
    let release = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/.github/workflows/release.yml")).unwrap();
    for part in ["adacache\" man", "completions bash", "completions zsh", "completions fish"] {
        assert!(release.contains(part), "{part}");
    }
}

/// clap's errors and ours: `error: `, and what to do below it behind `tip: `.
#[test]
fn errors_look_alike() {
    let dir = tempfile::tempdir().unwrap();
    let message = |args: &[&str]| {
        let output = adacache(dir.path(), args);
        assert!(!output.status.success() && output.stdout.is_empty());
        text(&output.stderr)
    };
    let theirs = message(&["generate", PROMPT, "--stepps", "3"]);
    let ours = message(&["generate", "a cat on the moon"]);
    for (whose, message) in [("clap's", theirs), ("ours", ours)] {
        assert!(message.starts_with("error: "), "{whose}: {message}");
        assert!(message.contains("\n\n  tip: "), "{whose}: {message}");
        assert!(!message.contains('\x1b'), "{whose}: no colours where nobody sees them");
    }
    // What libraries say stays what they say, also where backtraces are asked for.
    let mut command = command(dir.path(), &["generate", PROMPT, "--cache", "none.toml"]);
    let output = command.env("RUST_BACKTRACE", "1").output().unwrap();
    assert!(!text(&output.stderr).contains("   0: "), "{}", text(&output.stderr));
}
