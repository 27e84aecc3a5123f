//! Gives the library its SONAME, and finds which functions of symbols.txt the sources export: the others become stubs.

use std::collections::BTreeSet;
use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=symbols.txt");
    println!("cargo:rerun-if-changed=src/api");
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so.1");
    }
    let mut here = BTreeSet::new();
    for file in std::fs::read_dir("src/api").expect("src/api").map(|entry| entry.expect("an entry of src/api").path()) {
        let text = std::fs::read_to_string(&file).expect("a source file");
        for line in text.lines().map(str::trim) {
            // `Context fn cuName / cuName_ptsz (d, …`, as the macro `api!` has it.
            let starts = ["Bare fn ", "Init fn ", "Context fn ", "Unsafe fn "];
            let Some(rest) = starts.iter().find_map(|start| line.strip_prefix(start)) else {
                continue;
            };
            let names = rest.split('(').next().unwrap_or_default();
            here.extend(names.split('/').map(|name| name.trim().to_owned()));
        }
    }
    let list = std::fs::read_to_string("symbols.txt").expect("symbols.txt");
    let known = list.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(' ').next());
    let all: BTreeSet<String> = known.map(str::to_owned).chain(here.iter().cloned()).collect();
    let missing: Vec<&String> = all.iter().filter(|name| !here.contains(*name)).collect();
    let names = |list: &[&String]| list.iter().map(|name| format!("    {name}\n")).collect::<String>();
    let text = format!(
        "stubs! {{\n{}}}\naddresses! {{\n{}}}\n#[cfg(test)]\nconst IMPLEMENTED: usize = {};\n",
        names(&missing),
        names(&all.iter().collect::<Vec<_>>()),
        here.len()
    );
    let target = Path::new(&std::env::var("OUT_DIR").expect("OUT_DIR")).join("stubs.rs");
    std::fs::write(target, text).expect("OUT_DIR can be written");
}
