//! Writes `include/adacache.h` from the C library's sources; with `--check` it compares instead.

use std::error::Error;
use std::fs;
use std::path::Path;

const INTRO: &str = "/* AdaCache for C: policies that decide which denoising steps are computed, and the kernels that measure and keep residuals.
 *
 * Every function that can fail returns an AdacacheStatus; adacache_last_error() has the message. Handles may be used by any thread.
 * docs/c.md explains the interface. Made by `cargo run -p adacache-header` in python/; do not edit. */";

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("no parent folder")?;
    let config = cbindgen::Config {
        language: cbindgen::Language::C,
        header: Some(INTRO.into()),
        include_guard: Some("ADACACHE_H".into()),
        cpp_compat: true,
        documentation_style: cbindgen::DocumentationStyle::Doxy,
        line_length: 120,
        style: cbindgen::Style::Both,
        enumeration: cbindgen::EnumConfig {
            rename_variants: cbindgen::RenameRule::QualifiedScreamingSnakeCase,
            ..cbindgen::EnumConfig::default()
        },
        export: cbindgen::ExportConfig { include: vec!["AdacacheBlocks".into()], ..cbindgen::ExportConfig::default() },
        ..cbindgen::Config::default()
    };
    let mut text = vec![];
    let builder = cbindgen::Builder::new().with_config(config);
    ["error", "kernels", "policy"]
        .iter()
        .fold(builder, |builder, name| builder.with_src(root.join(format!("capi/src/{name}.rs"))))
        .with_include_guard("ADACACHE_H")
        .generate()?
        .write(&mut text);
    let text = String::from_utf8(text)?;
    let path = root.join("include/adacache.h");
    if std::env::args().any(|argument| argument == "--check") {
        let stale = fs::read_to_string(&path).unwrap_or_default() != text;
        return if stale { Err("include/adacache.h is stale: cargo run -p adacache-header".into()) } else { Ok(()) };
    }
    Ok(fs::write(path, text)?)
}
