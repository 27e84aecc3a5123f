//! Embeds the kernels: every `ptx/ARCHITECTURE/NAME.ptx` becomes an entry of a table that `src/device/module.rs` includes, compressed, since
//! PTX is a fifth as long then. And it compresses the weights of the built-in models for `src/family/sprites/files.rs`.
//!
//! The build never needs CUDA: PTX is checked in, and `ptx/manifest.json` holds a hash of the sources it was made from. A
//! hash that differs fails the build, because a kernel and the struct that Rust hands it would silently disagree.
//!
//! Environment:
//! * `ADACACHE_COMPILE_PTX=1` runs `tools/compile_ptx.sh` (Python, NVIDIA's compiler wheels) before embedding;
//! * `ADACACHE_STALE_PTX=warn` turns the staleness error into a warning, for the minutes between an edit and a compile;
//! * `ADACACHE_BINDGEN=FILE` (with `--features bindgen`) writes the parameter structs there; see `tools/bindgen.sh`.
//!
//! Nothing here looks for a GPU, a driver or nvidia-smi.

use flate2::{Compression, write::ZlibEncoder};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::{env, fs};

type Result<T> = std::result::Result<T, String>;

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    if let Err(message) = run(&root, &out) {
        // A panic would bury the message under a backtrace.
        eprintln!("\nerror: {message}\n");
        exit(1);
    }
}

fn run(root: &Path, out: &Path) -> Result<()> {
    for name in ["ADACACHE_COMPILE_PTX", "ADACACHE_STALE_PTX", "ADACACHE_BINDGEN"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    bindgen_params(root)?;

    let (kernels, ptx) = (root.join("kernels"), root.join("ptx"));
    // The folders are watched too, so that an added or removed file is seen.
    println!("cargo::rerun-if-changed={}", kernels.display());
    println!("cargo::rerun-if-changed={}", ptx.display());
    let mut sources = files(&kernels, &["cu", "cuh", "h"])?;
    for folder in folders(&kernels)? {
        println!("cargo::rerun-if-changed={}", folder.display());
        sources.extend(files(&folder, &["cu", "cuh", "h"])?);
    }
    for path in &sources {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    if env::var("ADACACHE_COMPILE_PTX").is_ok_and(|value| value == "1") {
        compile(root)?;
    }
    check_fresh(&kernels, &mut sources, &ptx.join("manifest.json"))?;
    let mut modules = vec![];
    for folder in folders(&ptx)? {
        println!("cargo::rerun-if-changed={}", folder.display());
        modules.extend(files(&folder, &["ptx"])?);
    }
    embed(&ptx, &mut modules, &out.join("ptx.rs"))?;
    for model in ["sprites", "sprites-wan"] {
        let path = root.join("models").join(model).join("model.gguf");
        println!("cargo::rerun-if-changed={}", path.display());
        pack(&read(&path)?, &out.join(format!("{model}.zlib")))?;
    }
    Ok(())
}

/// The files of a folder with one of the extensions, sorted by name.
fn files(folder: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|e| format!("cannot list {}: {e}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().and_then(|e| e.to_str()).is_some_and(|e| extensions.contains(&e)))
        .collect();
    paths.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    Ok(paths)
}

/// The folders in a folder, sorted by name.
fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|e| format!("cannot list {}: {e}", folder.display()))?;
    let mut paths: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect();
    paths.sort();
    Ok(paths)
}

fn compile(root: &Path) -> Result<()> {
    let script = root.join("tools/compile_ptx.sh");
    println!("cargo::rerun-if-changed={}", script.display());
    let status = Command::new("sh")
        .arg(&script)
        .current_dir(root)
        .status()
        .map_err(|e| format!("ADACACHE_COMPILE_PTX=1, but {} could not be started: {e}", script.display()))?;
    if status.success() { Ok(()) } else { Err(format!("{} failed: {status}", script.display())) }
}

/// SHA-256 over every file, in order of the bytes of their paths in `folder`: path, NUL, length in decimal, NUL, content. `tools/compile_ptx.py`
/// writes the same of the sources.
fn hash(folder: &Path, files: &mut [PathBuf]) -> Result<String> {
    files.sort_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
    let mut hasher = Sha256::new();
    for path in files {
        let content = read(path)?;
        hasher.update(path.strip_prefix(folder).expect("a file of the folder").as_os_str().as_encoded_bytes());
        hasher.update([0]);
        hasher.update(content.len().to_string());
        hasher.update([0]);
        hasher.update(&content);
    }
    Ok(hasher.finalize().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    }))
}

fn check_fresh(kernels: &Path, sources: &mut [PathBuf], manifest: &Path) -> Result<()> {
    let actual = hash(kernels, sources)?;
    let recorded = fs::read_to_string(manifest).map_err(|e| e.to_string()).and_then(|text| {
        let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        json["source_hash"].as_str().map(str::to_owned).ok_or_else(|| "it has no \"source_hash\"".into())
    });
    let problem = match recorded {
        Ok(recorded) if recorded == actual => return Ok(()),
        Ok(recorded) => {
            format!("ptx/ is stale: it was compiled from sources with hash {recorded}, kernels/ now hashes to {actual}")
        }
        Err(e) => format!("{} cannot be used: {e}", manifest.display()),
    };
    let advice = "run tools/compile_ptx.sh (it needs Python, not CUDA), or build once with ADACACHE_COMPILE_PTX=1";
    if env::var("ADACACHE_STALE_PTX").is_ok_and(|value| value == "warn") {
        println!("cargo::warning={problem}; {advice}");
        return Ok(());
    }
    Err(format!("{problem}\n  {advice}"))
}

/// Writes `KERNELS`, a hash of all modules, and `EMBEDDED`: (architecture, module name, PTX text as zlib), sorted; each text beside `to`.
fn embed(ptx: &Path, modules: &mut [PathBuf], to: &Path) -> Result<()> {
    let mut text =
        format!("/// SHA-256 of all embedded PTX modules.\npub const KERNELS: &str = {:?};\n", hash(ptx, modules)?);
    text += "/// Every module of ptx/: architecture, name and PTX text as zlib.\npub(crate) static EMBEDDED: &[(&str, &str, &[u8])] = &[\n";
    for path in modules {
        let utf8 = |part: Option<&std::ffi::OsStr>| {
            part.and_then(|s| s.to_str()).map(str::to_owned).ok_or_else(|| format!("{} is not UTF-8", path.display()))
        };
        let (folder, name) = (utf8(path.parent().and_then(Path::file_name))?, utf8(path.file_stem())?);
        let packed = to.with_file_name(format!("{folder}-{name}.zlib"));
        pack(&read(path)?, &packed)?;
        let _ = writeln!(text, "    ({folder:?}, {name:?}, include_bytes!({:?})),", packed.display().to_string());
    }
    text.push_str("];\n");
    fs::write(to, text).map_err(|e| format!("cannot write {}: {e}", to.display()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

/// Compresses into a file. (Cargo.toml has the compressor optimised.)
fn pack(content: &[u8], to: &Path) -> Result<()> {
    let cannot = |e| format!("cannot write {}: {e}", to.display());
    let mut packed = ZlibEncoder::new(fs::File::create(to).map_err(cannot)?, Compression::best());
    packed.write_all(content).and_then(|()| packed.finish()).map(|_| ()).map_err(cannot)
}

#[cfg(not(feature = "bindgen"))]
fn bindgen_params(_root: &Path) -> Result<()> {
    match env::var_os("ADACACHE_BINDGEN") {
        None => Ok(()),
        Some(_) => Err("ADACACHE_BINDGEN is set, but the feature is off: add --features bindgen".into()),
    }
}

/// The structs of `kernels/params.h` as Rust, with device pointers as `u64`, and the sizes in `kernels/launch*.h`.
#[cfg(feature = "bindgen")]
fn bindgen_params(root: &Path) -> Result<()> {
    use bindgen::callbacks::{DeriveInfo, DeriveTrait, ImplementsTrait, IntKind, ParseCallbacks};

    /// Launch parameters travel as bytes: `Pod` also proves that no struct has hidden padding.
    #[derive(Debug)]
    struct Derives;
    impl ParseCallbacks for Derives {
        fn add_derives(&self, _info: &DeriveInfo<'_>) -> Vec<String> {
            ["bytemuck::Pod", "bytemuck::Zeroable", "PartialEq"].map(str::to_owned).into()
        }
        /// `TensorMap` is `EncodedTensorMap`.
        fn blocklisted_type_implements_trait(&self, _name: &str, _: DeriveTrait) -> Option<ImplementsTrait> {
            Some(ImplementsTrait::Yes)
        }
        fn int_macro(&self, _name: &str, _value: i64) -> Option<IntKind> {
            Some(IntKind::Custom { name: "usize", is_signed: false })
        }
    }

    let Some(target) = env::var_os("ADACACHE_BINDGEN") else {
        return Ok(());
    };
    let mut builder = bindgen::Builder::default();
    for header in ["params.h", "launch.h", "launch_tiles.h"] {
        builder = builder.header(root.join("kernels").join(header).display().to_string());
    }
    let bindings = builder
        .clang_args([
            "-x",
            "c++",
            "-std=c++17",
            "-target",
            "x86_64-unknown-linux-gnu",
            "-DADACACHE_BINDGEN",
            "-fparse-all-comments",
        ])
        .raw_line("// Made by tools/bindgen.sh from kernels/{params,launch,launch_tiles}.h; do not edit.")
        .raw_line("")
        .raw_line("use crate::device::EncodedTensorMap as TensorMap;")
        .raw_line("")
        .disable_header_comment()
        .blocklist_type("TensorMap")
        .no_default(".*(Wgmma|Fp8)Params")
        .allowlist_type(".*Params")
        .allowlist_type("SequenceLayout|DecideState")
        .allowlist_var("[A-Z][A-Z0-9_]*_(STRIDES|SUMS|BYTES|WARPS|THREADS|BLOCKS|COLUMNS|PARTS|POSITIONS|CHANNELS|M|N|SHARED|QUERIES|METRIC|HISTORY|TERMS|WORDS|LATENTS|SLOT|KEPT|ELEMENTS|LENGTH|PARKED|KEYS|ROWS|RESERVED)")
        .allowlist_var("CONV_STAGES")
        .parse_callbacks(Box::new(Derives))
        .derive_copy(true)
        .derive_default(true)
        .layout_tests(true)
        .merge_extern_blocks(true)
        .formatter(bindgen::Formatter::Prettyplease)
        .generate()
        .map_err(|e| format!("bindgen on kernels/*.h: {e}"))?;
    // The plain names of these types on every platform that CUDA knows.
    let text = [("c_ulonglong", "u64"), ("c_longlong", "i64"), ("c_int", "i32")]
        .iter()
        .fold(bindings.to_string(), |text, (c, rust)| text.replace(&format!("::std::os::raw::{c}"), rust));
    fs::write(&target, text).map_err(|e| format!("cannot write {}: {e}", Path::new(&target).display()))
}
