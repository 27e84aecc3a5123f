//! Beginning a case.

use super::CaseError;
use crate::Module;
use std::path::{Path, PathBuf};

/// Begins a case in `dir`: a copy of the PTX, and a `case.json` with an argument for each parameter of the kernel, which is decoded on
/// the way. Pointers become buffers of 1024 floats set to 1, numbers 0: what they should be only the author knows. Without `entry` the
/// module must have one kernel only. Gives the path of the `case.json`, of which there must be none yet.
pub fn new_case(dir: &Path, ptx: &Path, entry: Option<&str>) -> Result<PathBuf, CaseError> {
    let text = std::fs::read_to_string(ptx).map_err(|e| CaseError::new(ptx, e))?;
    let module = Module::parse(&ptx.display().to_string(), &text).map_err(|e| CaseError::new(ptx, e))?;
    let names: Vec<&str> = module.entries().collect();
    let entry = match (entry, names.as_slice()) {
        (Some(entry), _) => entry,
        (None, [one]) => one,
        (None, _) => {
            let message = format!("{} kernels, name one with --entry: {}", names.len(), names.join(", "));
            return Err(CaseError::new(ptx, message));
        }
    };
    let kernel = module.kernel(entry).map_err(|e| CaseError::new(ptx, e))?;
    let args = kernel.params().iter().map(|p| match (p.ty, p.size) {
        ("u64" | "b64", 8) => r#"{"kind": "buffer", "dtype": "f32", "len": 1024, "init": 1.0}"#.to_owned(),
        ("f16" | "bf16" | "f32" | "f64", 2..=8) => format!(r#"{{"kind": "{}", "value": 0.0}}"#, p.ty),
        ("u8" | "u16" | "b8" | "b16", 1 | 2) => format!(r#"{{"kind": "u{}", "value": 0}}"#, 8 * p.size),
        (_, 1 | 2 | 4 | 8) => format!(r#"{{"kind": "i{}", "value": 0}}"#, 8 * p.size),
        _ => format!(r#"{{"kind": "bytes", "hex": "{}"}}"#, "00".repeat(p.size)),
    });
    let args: Vec<String> = args.map(|arg| format!("    {arg}")).collect();
    let [x, y, z] = kernel.required_block().unwrap_or([128, 1, 1]);
    let spec = format!(
        "{{\n  \"ptx\": \"kernel.ptx\",\n  \"entry\": \"{entry}\",\n  \"grid\": [1, 1, 1],\n  \"block\": [{x}, {y}, {z}],\n  \"dynamic_shared\": 0,\n  \"args\": [\n{}\n  ]\n}}\n",
        args.join(",\n")
    );
    let path = dir.join("case.json");
    if path.exists() {
        return Err(CaseError::new(&path, "exists already"));
    }
    std::fs::create_dir_all(dir).map_err(|e| CaseError::new(dir, e))?;
    let copy = dir.join("kernel.ptx");
    std::fs::write(&copy, &text).map_err(|e| CaseError::new(&copy, e))?;
    std::fs::write(&path, spec).map_err(|e| CaseError::new(&path, e))?;
    Ok(path)
}
