//! `adacache check`: a case that fails and one that cannot be read.

use std::fs;

use crate::{adacache, fails};

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
    // Of this project's cases, those of solvers are for tests: that is said, and alone they check nothing.
    let goldens = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/samplers");
    fails(dir.path(), &["check", goldens], 2, &["left out: 23 cases of solvers", "nothing was checked"]);
    fails(dir.path(), &["check"], 2, &["required", "adacache check tests/goldens"]);
}
