//! Launch cases: a folder with a kernel, its arguments, and what must come out. The format is described in `ptx-vm`'s README.

use crate::{Counters, DevicePtr, Fault, FaultKind, Kernel, Launch, LaunchStats, Module, Profile, Vm, VmConfig};
use half::{bf16, f16};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a case could not be run at all.
#[derive(Debug, Error)]
#[error("{path}: {message}")]
pub struct CaseError {
    path: String,
    message: String,
}

impl CaseError {
    fn new(path: &Path, message: impl ToString) -> CaseError {
        CaseError { path: path.display().to_string(), message: message.to_string() }
    }
}

#[derive(Deserialize)]
struct Spec {
    ptx: String,
    entry: String,
    grid: [u32; 3],
    block: [u32; 3],
    #[serde(default)]
    dynamic_shared: u32,
    args: Vec<Arg>,
    #[serde(default)]
    expect_fault: Option<String>,
}

#[derive(Deserialize)]
struct Arg {
    kind: String,
    #[serde(default)]
    dtype: Option<String>,
    #[serde(default)]
    len: Option<usize>,
    #[serde(default)]
    init: Option<Content>,
    #[serde(default)]
    expect: Option<Content>,
    #[serde(default)]
    rtol: f64,
    #[serde(default)]
    atol: f64,
    #[serde(default)]
    value: Option<serde_json::Value>,
    #[serde(default)]
    hex: Option<String>,
}

/// The elements of a buffer.
#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    /// A file beside the case.
    File(String),
    /// One after the other.
    Each(Vec<serde_json::Value>),
    /// All the same.
    All(serde_json::Value),
}

impl Content {
    /// The bytes of `len` elements.
    fn bytes(&self, dir: &Path, dtype: &str, len: usize, size: usize) -> Result<Vec<u8>, CaseError> {
        let (path, data) = match self {
            Content::File(name) => {
                let path = dir.join(name);
                let data = std::fs::read(&path).map_err(|e| CaseError::new(&path, e))?;
                (path, data)
            }
            Content::Each(values) => (dir.join("case.json"), numbers(dir, dtype, values)?),
            Content::All(value) => {
                (dir.join("case.json"), numbers(dir, dtype, std::slice::from_ref(value))?.repeat(len))
            }
        };
        if data.len() == size {
            return Ok(data);
        }
        Err(CaseError::new(&path, format!("{} bytes, {size} expected: {len} elements of {dtype}", data.len())))
    }
}

fn numbers(dir: &Path, dtype: &str, values: &[serde_json::Value]) -> Result<Vec<u8>, CaseError> {
    let mut out = Vec::new();
    for value in values {
        let bytes = scalar_bytes(dtype, value)
            .ok_or_else(|| CaseError::new(&dir.join("case.json"), format!("{value} is not a {dtype}")))?;
        out.extend(bytes);
    }
    Ok(out)
}

/// What a case came to.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Outcome {
    /// The folder.
    pub case: String,
    /// All expectations hold, or the expected fault occurred.
    pub ok: bool,
    /// Greatest absolute error over all expected buffers.
    pub max_abs_err: f64,
    /// Greatest relative error over all expected buffers.
    pub max_rel_err: f64,
    /// The fault that ended the launch.
    pub fault: Option<String>,
    /// Its kind, as case files name it.
    pub fault_kind: Option<String>,
    /// Wall-clock seconds of the launch.
    pub seconds: f64,
    /// Counters, when asked for.
    pub counters: Option<Counters>,
    /// Counters by PTX line, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// Why the case failed, in words.
    pub message: Option<String>,
    /// What the kernel has written with `printf`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub printed: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Dtype {
    F32,
    F64,
    F16,
    Bf16,
    I(usize),
    U(usize),
}

impl Dtype {
    fn parse(name: &str) -> Option<Dtype> {
        Some(match name {
            "f32" => Dtype::F32,
            "f64" => Dtype::F64,
            "f16" => Dtype::F16,
            "bf16" => Dtype::Bf16,
            "i8" => Dtype::I(1),
            "i16" => Dtype::I(2),
            "i32" => Dtype::I(4),
            "i64" => Dtype::I(8),
            "u8" => Dtype::U(1),
            "u16" => Dtype::U(2),
            "u32" => Dtype::U(4),
            "u64" => Dtype::U(8),
            _ => return None,
        })
    }

    fn bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F64 => 8,
            Dtype::F16 | Dtype::Bf16 => 2,
            Dtype::I(n) | Dtype::U(n) => n,
        }
    }

    /// One element as a number.
    fn value(self, bytes: &[u8]) -> f64 {
        let mut raw = [0u8; 8];
        raw[..bytes.len()].copy_from_slice(bytes);
        let bits = u64::from_le_bytes(raw);
        match self {
            Dtype::F32 => f64::from(f32::from_bits(bits as u32)),
            Dtype::F64 => f64::from_bits(bits),
            Dtype::F16 => f16::from_bits(bits as u16).to_f64(),
            Dtype::Bf16 => bf16::from_bits(bits as u16).to_f64(),
            Dtype::U(_) => bits as f64,
            Dtype::I(n) => {
                let shift = 64 - 8 * n as u32;
                ((bits << shift) as i64 >> shift) as f64
            }
        }
    }
}

/// Runs the case in `dir` on a device of its own.
pub fn run_case(dir: &Path, config: &VmConfig) -> Result<Outcome, CaseError> {
    let spec_path = dir.join("case.json");
    let text = std::fs::read_to_string(&spec_path).map_err(|e| CaseError::new(&spec_path, e))?;
    let spec: Spec = serde_json::from_str(&text).map_err(|e| CaseError::new(&spec_path, e))?;
    let ptx_path = dir.join(&spec.ptx);
    let ptx = std::fs::read_to_string(&ptx_path).map_err(|e| CaseError::new(&ptx_path, e))?;
    let mut outcome = Outcome {
        case: dir.display().to_string(),
        ok: false,
        max_abs_err: 0.0,
        max_rel_err: 0.0,
        fault: None,
        fault_kind: None,
        seconds: 0.0,
        counters: None,
        profile: None,
        message: None,
        printed: String::new(),
    };
    let loaded = Module::parse(&spec.ptx, &ptx).and_then(|m| m.kernel(&spec.entry));
    let kernel = match loaded {
        Ok(kernel) => kernel,
        Err(error) => {
            outcome.ok = spec.expect_fault.as_deref() == Some("unknown_opcode");
            outcome.fault = Some(error.to_string());
            outcome.fault_kind = Some("unknown_opcode".to_owned());
            return Ok(outcome);
        }
    };
    // Without checked mode these faults go unseen.
    let checked = config.checked || matches!(spec.expect_fault.as_deref(), Some("uninitialised" | "race" | "barrier"));
    let vm = Vm::new(VmConfig { checked, ..config.clone() });
    let mut buffers = Vec::new();
    let judged = judge(dir, &spec, &kernel, &vm, &mut buffers, &mut outcome);
    for ptr in buffers {
        vm.free(ptr).map_err(|e| CaseError::new(&spec_path, e))?;
    }
    vm.close().map_err(|e| CaseError::new(&spec_path, e))?;
    judged.map(|()| outcome)
}

/// Fills the buffers, launches, and compares.
fn judge(
    dir: &Path,
    spec: &Spec,
    kernel: &Kernel,
    vm: &Vm,
    buffers: &mut Vec<DevicePtr>,
    outcome: &mut Outcome,
) -> Result<(), CaseError> {
    let spec_path = dir.join("case.json");
    let mut params = vec![0u8; kernel.param_bytes()];
    let mut checks = Vec::new();
    // Triton's kernels take scratch pointers a case may leave out.
    if spec.args.len() > kernel.params().len() {
        let message = format!("{} arguments, the kernel takes {}", spec.args.len(), kernel.params().len());
        return Err(CaseError::new(&spec_path, message));
    }
    for (i, (arg, param)) in spec.args.iter().zip(kernel.params()).enumerate() {
        let bad = |message: &str| CaseError::new(&spec_path, format!("argument {i}: {message}"));
        let bytes = match arg.kind.as_str() {
            "null" => vec![0u8; 8],
            "buffer" => {
                let name = arg.dtype.as_deref().unwrap_or_default();
                let dtype = Dtype::parse(name).ok_or_else(|| bad("unknown dtype"))?;
                let len = arg.len.ok_or_else(|| bad("a buffer has a `len`"))?;
                let size = len.checked_mul(dtype.bytes()).ok_or_else(|| bad("`len` is too large"))?;
                let ptr = vm.alloc_labelled(size, &param.name).map_err(|e| bad(&e.to_string()))?;
                buffers.push(ptr);
                if let Some(content) = &arg.init {
                    vm.write(ptr, &content.bytes(dir, name, len, size)?).map_err(|e| bad(&e.to_string()))?;
                }
                if let Some(content) = &arg.expect {
                    checks.push((i, ptr, dtype, content.bytes(dir, name, len, size)?, arg.rtol, arg.atol));
                }
                ptr.to_le_bytes().to_vec()
            }
            "bytes" => {
                let hex = arg.hex.as_deref().ok_or_else(|| bad("`bytes` has `hex`"))?;
                unhex(hex).ok_or_else(|| bad("`hex` is not hexadecimal"))?
            }
            scalar => {
                let value = arg.value.as_ref().ok_or_else(|| bad("a scalar has a `value`"))?;
                scalar_bytes(scalar, value).ok_or_else(|| bad("the value does not fit the kind"))?
            }
        };
        if bytes.len() != param.size {
            return Err(bad(&format!("{} bytes, parameter `{}` takes {}", bytes.len(), param.name, param.size)));
        }
        params[param.offset..param.offset + bytes.len()].copy_from_slice(&bytes);
    }
    let launch = Launch { grid: spec.grid, block: spec.block, dynamic_shared: spec.dynamic_shared };
    let start = std::time::Instant::now();
    let result: Result<LaunchStats, Fault> = vm.launch(kernel, &launch, &params);
    outcome.seconds = start.elapsed().as_secs_f64();
    outcome.printed = vm.take_printed();
    match result {
        Err(fault) => {
            let kind: FaultKind = fault.kind;
            outcome.ok = spec.expect_fault.as_deref() == Some(kind.to_string().as_str());
            outcome.fault = Some(fault.to_string());
            outcome.fault_kind = Some(kind.to_string());
            return Ok(());
        }
        Ok(stats) => {
            (outcome.counters, outcome.profile) = (stats.counters, stats.profile);
        }
    }
    if let Some(expected) = &spec.expect_fault {
        outcome.message = Some(format!("the launch ended without the expected fault `{expected}`"));
        return Ok(());
    }
    outcome.ok = true;
    for (i, ptr, dtype, want, rtol, atol) in checks {
        let mut got = vec![0u8; want.len()];
        vm.read(ptr, &mut got).map_err(|e| CaseError::new(&spec_path, e))?;
        let n = dtype.bytes();
        let mut wrong = Vec::new();
        for (e, (g, w)) in got.chunks_exact(n).zip(want.chunks_exact(n)).enumerate() {
            if g == w {
                continue;
            }
            let (g, w) = (dtype.value(g), dtype.value(w));
            let err = (g - w).abs();
            let same = g == w || g.is_nan() && w.is_nan();
            if !same && err.is_finite() {
                outcome.max_abs_err = outcome.max_abs_err.max(err);
                outcome.max_rel_err = outcome.max_rel_err.max(err / w.abs().max(f64::MIN_POSITIVE));
            }
            // 64-bit integers may differ where f64 does not: their bytes were compared above.
            let holds = same && !matches!(dtype, Dtype::I(8) | Dtype::U(8)) || err <= atol + rtol * w.abs();
            if !holds {
                wrong.push(format!("[{e}] {g} instead of {w}"));
            }
        }
        if !wrong.is_empty() {
            outcome.ok = false;
            let shown: Vec<_> = wrong.iter().take(10).cloned().collect();
            outcome.message = Some(format!("argument {i}: {} elements differ: {}", wrong.len(), shown.join(", ")));
        }
    }
    Ok(())
}

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

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks(2).map(|c| u8::from_str_radix(std::str::from_utf8(c).ok()?, 16).ok()).collect()
}

fn scalar_bytes(kind: &str, value: &serde_json::Value) -> Option<Vec<u8>> {
    let float = || {
        value.as_f64().or_else(|| match value.as_str()? {
            "nan" | "NaN" => Some(f64::NAN),
            "inf" | "Infinity" => Some(f64::INFINITY),
            "-inf" | "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        })
    };
    Some(match kind {
        "i8" => i8::try_from(value.as_i64()?).ok()?.to_le_bytes().to_vec(),
        "u8" => u8::try_from(value.as_u64()?).ok()?.to_le_bytes().to_vec(),
        "i16" => i16::try_from(value.as_i64()?).ok()?.to_le_bytes().to_vec(),
        "u16" => u16::try_from(value.as_u64()?).ok()?.to_le_bytes().to_vec(),
        "i32" => i32::try_from(value.as_i64()?).ok()?.to_le_bytes().to_vec(),
        "u32" => u32::try_from(value.as_u64()?).ok()?.to_le_bytes().to_vec(),
        "i64" => value.as_i64()?.to_le_bytes().to_vec(),
        "u64" => value.as_u64()?.to_le_bytes().to_vec(),
        "f32" => (float()? as f32).to_le_bytes().to_vec(),
        "f64" => float()?.to_le_bytes().to_vec(),
        "f16" => f16::from_f64(float()?).to_le_bytes().to_vec(),
        "bf16" => bf16::from_f64(float()?).to_le_bytes().to_vec(),
        _ => return None,
    })
}
