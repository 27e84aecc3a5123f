//! `adacache bench` in every format.

use std::fs;

use serde_json::Value;

use crate::common::{self, text};
use crate::{fails, succeeds};

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
    let output = succeeds(dir.path(), &["bench", "--quick", "--shapes", "s.toml", "--csv", "--ops", "residual"]);
    let csv = text(&output.stdout);
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 2, "head, one row: {csv}");
    assert!(lines[0].starts_with("op,shape,"), "{csv}");
    assert_eq!(lines[0].split(',').count(), lines[1].split(',').count());
    assert_eq!(text(&output.stderr).contains("not a GPU's"), vm, "whose times they are");
    assert!(bench(&["--markdown"]).contains("| linear | bias m=65 n=48 k=32 |"));
    assert!(bench(&[]).contains("probe batch=2 frames=3 tokens=5 channels=64"));
    fails(dir.path(), &["bench", "--shapes", "none.toml"], 1, &["none.toml"]);
    fails(dir.path(), &["bench", "--ops", "magic"], 2, &["known: linear"]);
    // Products of e4m3 are those of shapes that the kernel serves.
    if vm {
        fails(dir.path(), &["bench", "--fp8-weights", "--device", "vm"], 1, &["--fp8-weights needs a Hopper"]);
        let shapes = shapes.replace("n = 48", "n = 64") + "[[linear]]\nm = 65\nn = 48\nk = 32\nmodulate = true\n";
        fs::write(dir.path().join("s.toml"), shapes).unwrap();
        let timed = bench(&["--fp8-weights", "--device", "vm:sm_90", "--ops", "linear"]);
        assert!(timed.contains("bias+fp8 m=65 n=64 k=32") && timed.contains("bias+adaln m=65 n=48 k=32"), "{timed}");
    }
}
