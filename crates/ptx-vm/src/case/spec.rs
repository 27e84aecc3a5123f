//! What `case.json` says. Whatever it says that nobody would look at is refused: a check that is misspelt must not be one that holds.

use super::value::{Dtype, Tolerance, special};
use super::{CaseError, Failure};
use crate::{FaultKind, TensorMap, TensorSwizzle};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spec {
    pub(super) ptx: String,
    /// For people.
    #[serde(default, rename = "note")]
    _note: Option<String>,
    #[serde(default, deserialize_with = "given")]
    entry: Option<String>,
    #[serde(default, deserialize_with = "given")]
    grid: Option<[u32; 3]>,
    #[serde(default, deserialize_with = "given")]
    block: Option<[u32; 3]>,
    #[serde(default, deserialize_with = "given")]
    dynamic_shared: Option<u32>,
    #[serde(default, deserialize_with = "given")]
    cluster: Option<[u32; 3]>,
    #[serde(default, deserialize_with = "given")]
    args: Option<Vec<Arg>>,
    #[serde(default)]
    expect_fault: Option<String>,
    #[serde(default)]
    pub(super) buffers: Named<Arg>,
    #[serde(default)]
    pub(super) symbols: Named<Arg>,
    #[serde(default, deserialize_with = "given")]
    steps: Option<Vec<RawStep>>,
}

/// An argument, a buffer or a symbol: which fields it may have is a matter of its kind.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Arg {
    #[serde(default, deserialize_with = "given")]
    pub(super) kind: Option<String>,
    #[serde(default, deserialize_with = "given")]
    pub(super) dtype: Option<String>,
    #[serde(default, deserialize_with = "given")]
    pub(super) len: Option<usize>,
    #[serde(default, deserialize_with = "given")]
    pub(super) init: Option<Content>,
    #[serde(default, deserialize_with = "given")]
    pub(super) expect: Option<Content>,
    #[serde(default, deserialize_with = "given")]
    rtol: Option<f64>,
    #[serde(default, deserialize_with = "given")]
    atol: Option<f64>,
    #[serde(default, deserialize_with = "given")]
    pub(super) value: Option<Value>,
    #[serde(default, deserialize_with = "given")]
    pub(super) hex: Option<String>,
    #[serde(default, deserialize_with = "given")]
    pub(super) pointers: Option<Vec<PointerAt>>,
    #[serde(default, deserialize_with = "given")]
    pub(super) to: Option<String>,
    #[serde(default, deserialize_with = "given")]
    pub(super) offset: Option<i64>,
    #[serde(default, deserialize_with = "given")]
    pub(super) tensor: Option<TensorSpec>,
}

/// What a tensor map says besides address and type. Axes are innermost first.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TensorSpec {
    sizes: Vec<u64>,
    /// Bytes, of all axes but the innermost; without them the elements stand side by side.
    #[serde(default, deserialize_with = "given")]
    strides: Option<Vec<u64>>,
    #[serde(rename = "box")]
    box_sizes: Vec<u32>,
    #[serde(default, deserialize_with = "given")]
    steps: Option<Vec<u32>>,
    /// The bytes within which pieces change places.
    #[serde(default, deserialize_with = "given")]
    swizzle: Option<usize>,
    #[serde(default)]
    nan: bool,
}

impl TensorSpec {
    /// The map of a tensor at `address`, as a parameter.
    pub(super) fn encode(&self, dtype: Dtype, address: u64) -> Result<Vec<u8>, String> {
        let ty = dtype.tensor();
        let dense = || {
            let sizes = self.sizes.iter().take(self.sizes.len().saturating_sub(1));
            let mut bytes = ty.bytes() as u64;
            sizes
                .map(|size| {
                    bytes = bytes.saturating_mul(*size);
                    bytes
                })
                .collect()
        };
        let strides = self.strides.clone().unwrap_or_else(dense);
        let mut map = TensorMap::new(ty, address, &self.sizes, &strides, &self.box_sizes);
        if let Some(bytes) = self.swizzle {
            let modes = [TensorSwizzle::B32, TensorSwizzle::B64, TensorSwizzle::B128];
            let mode = modes.into_iter().find(|mode| mode.span() == Some(bytes));
            map = map.with_swizzle(mode.ok_or_else(|| format!("a swizzle of {bytes} bytes, expected 32, 64 or 128"))?);
        }
        map.steps = self.steps.clone().unwrap_or(map.steps);
        map.nan = self.nan;
        map.encode().map(Vec::from).map_err(|error| error.to_string())
    }
}

/// A pointer inside a struct, a buffer or a symbol.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PointerAt {
    /// Byte offset of the pointer itself.
    pub(super) at: usize,
    /// The buffer or symbol it points to.
    pub(super) to: String,
    /// How many bytes into that.
    #[serde(default)]
    pub(super) offset: i64,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawStep {
    #[serde(default, deserialize_with = "given")]
    launch: Option<String>,
    #[serde(default, deserialize_with = "given")]
    grid: Option<[u32; 3]>,
    #[serde(default, deserialize_with = "given")]
    block: Option<[u32; 3]>,
    #[serde(default, deserialize_with = "given")]
    dynamic_shared: Option<u32>,
    #[serde(default, deserialize_with = "given")]
    cluster: Option<[u32; 3]>,
    #[serde(default, deserialize_with = "given")]
    args: Option<Vec<Arg>>,
    #[serde(default)]
    expect_fault: Option<String>,
    #[serde(default, deserialize_with = "given")]
    fill: Option<String>,
    #[serde(default, deserialize_with = "given")]
    with: Option<Content>,
    #[serde(default, deserialize_with = "given")]
    check: Option<String>,
    #[serde(default, deserialize_with = "given")]
    expect: Option<Content>,
    #[serde(default, deserialize_with = "given")]
    rtol: Option<f64>,
    #[serde(default, deserialize_with = "given")]
    atol: Option<f64>,
}

/// One step of a case.
pub(super) enum Step {
    Launch(LaunchStep),
    /// Gives a buffer or symbol another content.
    Fill {
        name: String,
        with: Content,
    },
    /// Compares a buffer or symbol between launches.
    Check {
        name: String,
        expect: Content,
        tolerance: Tolerance,
    },
}

pub(super) struct LaunchStep {
    pub(super) entry: String,
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) dynamic_shared: u32,
    pub(super) cluster: Option<[u32; 3]>,
    pub(super) args: Vec<Arg>,
    pub(super) expect_fault: Option<Failure>,
}

/// The elements of a buffer.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Content {
    /// A file beside the case.
    File(String),
    /// One after the other.
    Each(Vec<Value>),
    /// All the same.
    All(Value),
}

impl Content {
    /// The bytes of `len` elements. Messages do not say which buffer it is.
    pub(super) fn bytes(&self, dir: &Path, dtype: Dtype, len: usize) -> Result<Vec<u8>, String> {
        let numbers = |values: &[Value]| -> Result<Vec<u8>, String> {
            let encoded: Result<Vec<_>, _> = values.iter().map(|value| dtype.encode(value)).collect();
            Ok(encoded?.concat())
        };
        let (from, data) = match self {
            Content::File(name) if dtype.float() && special(name).is_some() => {
                (String::new(), numbers(&[name.clone().into()])?.repeat(len))
            }
            Content::File(name) => {
                let path = dir.join(name);
                let data = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
                (format!("{}: ", path.display()), data)
            }
            Content::Each(values) => (String::new(), numbers(values)?),
            Content::All(value) => (String::new(), numbers(std::slice::from_ref(value))?.repeat(len)),
        };
        let size = len * dtype.bytes();
        if data.len() == size {
            return Ok(data);
        }
        Err(format!("{from}{} bytes, {size} expected: {len} elements of {}", data.len(), dtype.name()))
    }
}

/// Values by name, in order; no name twice.
pub(super) struct Named<T>(pub(super) Vec<(String, T)>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Named(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Named<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
                let mut out: Vec<(String, T)> = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if out.iter().any(|(known, _)| *known == name) {
                        return Err(A::Error::custom(format!("`{name}` stands there twice")));
                    }
                    out.push((name, map.next_value()?));
                }
                Ok(Named(out))
            }
        }
        from.deserialize_map(Entries(PhantomData))
    }
}

/// A field that is there has a value: `null` is not the same as leaving it out.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// Refuses the fields of an object that mean nothing there.
fn only(present: &[(&str, bool)], allowed: &[&str], of: &str) -> Result<(), String> {
    match present.iter().find(|(name, there)| *there && !allowed.contains(name)) {
        None => Ok(()),
        Some((name, _)) => Err(format!("`{name}` means nothing for {of}")),
    }
}

fn tolerance(rtol: Option<f64>, atol: Option<f64>, expected: bool) -> Result<Tolerance, String> {
    if !expected && (rtol.is_some() || atol.is_some()) {
        return Err("`rtol` and `atol` mean nothing without `expect`".to_owned());
    }
    Tolerance { rtol: rtol.unwrap_or(0.0), atol: atol.unwrap_or(0.0) }.check()
}

impl Arg {
    /// What it is, as an argument.
    pub(super) fn kind(&self) -> &str {
        self.kind.as_deref().unwrap_or_default()
    }

    /// How far its elements may be from what is expected.
    pub(super) fn tolerance(&self) -> Result<Tolerance, String> {
        tolerance(self.rtol, self.atol, self.expect.is_some())
    }

    /// Checks that it has no field that is not looked at. `kind` is what it is, where it need not say so.
    fn check(&self, kind: Option<&str>) -> Result<(), String> {
        let present = [
            ("kind", self.kind.is_some()),
            ("dtype", self.dtype.is_some()),
            ("len", self.len.is_some()),
            ("init", self.init.is_some()),
            ("expect", self.expect.is_some()),
            ("rtol", self.rtol.is_some()),
            ("atol", self.atol.is_some()),
            ("value", self.value.is_some()),
            ("hex", self.hex.is_some()),
            ("pointers", self.pointers.is_some()),
            ("to", self.to.is_some()),
            ("offset", self.offset.is_some()),
            ("tensor", self.tensor.is_some()),
        ];
        const CONTENT: [&str; 7] = ["dtype", "len", "init", "expect", "rtol", "atol", "pointers"];
        let kind = match (kind, self.kind.as_deref()) {
            (Some(kind), _) => {
                only(&present, &CONTENT, kind)?;
                kind
            }
            (None, None) => return Err("an argument has a `kind`".to_owned()),
            (None, Some(kind)) => kind,
        };
        let of = format!("`{kind}`");
        let rest: &[&str] = match kind {
            "a buffer" | "a symbol" => &CONTENT,
            "buffer" => &["kind", "dtype", "len", "init", "expect", "rtol", "atol", "pointers"],
            "null" => &["kind"],
            "pointer" => &["kind", "to", "offset"],
            "tensor_map" => &["kind", "dtype", "to", "offset", "tensor"],
            "bytes" => &["kind", "hex", "pointers"],
            scalar if Dtype::parse(scalar).is_some() => &["kind", "value"],
            other => return Err(format!("unknown kind `{other}`")),
        };
        only(&present, rest, &of)?;
        self.tolerance().map(|_| ())
    }

    /// What the elements of a buffer or symbol are.
    pub(super) fn dtype(&self) -> Result<Dtype, String> {
        let name = self.dtype.as_deref().ok_or("a `dtype` is missing")?;
        Dtype::parse(name).ok_or_else(|| format!("unknown dtype `{name}`"))
    }
}

impl Failure {
    fn expected(name: &str) -> Result<Failure, String> {
        match name {
            "unknown_opcode" => Ok(Failure::UnknownOpcode),
            _ => FaultKind::parse(name).map(Failure::Fault).ok_or_else(|| {
                let known: Vec<String> = FaultKind::ALL.iter().map(ToString::to_string).collect();
                format!("unknown fault `{name}`; there are: {}, unknown_opcode", known.join(", "))
            }),
        }
    }
}

impl Spec {
    /// Reads and checks a `case.json`; the steps are those of its `steps`, or its one launch.
    pub(super) fn read(path: &Path) -> Result<(Spec, Vec<Step>), CaseError> {
        let text = std::fs::read_to_string(path).map_err(|e| CaseError::new(path, e))?;
        let mut spec: Spec = serde_json::from_str(&text).map_err(|e| CaseError::new(path, e))?;
        let steps = spec.steps().map_err(|message| CaseError::new(path, message))?;
        Ok((spec, steps))
    }

    fn steps(&mut self) -> Result<Vec<Step>, String> {
        for (what, named) in [("a buffer", &self.buffers), ("a symbol", &self.symbols)] {
            for (name, content) in &named.0 {
                content.check(Some(what)).map_err(|message| format!("`{name}`: {message}"))?;
            }
        }
        if let Some((name, _)) = self.symbols.0.iter().find(|(name, _)| self.buffers.0.iter().any(|(n, _)| n == name)) {
            return Err(format!("`{name}` is both a buffer and a symbol"));
        }
        let steps = match self.steps.take() {
            None => {
                let whole = RawStep {
                    launch: Some(self.entry.take().ok_or("`entry` is missing, or `steps`")?),
                    grid: self.grid,
                    block: self.block,
                    dynamic_shared: self.dynamic_shared,
                    cluster: self.cluster,
                    args: self.args.take(),
                    expect_fault: self.expect_fault.take(),
                    ..RawStep::default()
                };
                vec![whole.step()?]
            }
            Some(steps) => {
                let present = [
                    ("entry", self.entry.is_some()),
                    ("grid", self.grid.is_some()),
                    ("block", self.block.is_some()),
                    ("dynamic_shared", self.dynamic_shared.is_some()),
                    ("cluster", self.cluster.is_some()),
                    ("args", self.args.is_some()),
                    ("expect_fault", self.expect_fault.is_some()),
                ];
                only(&present, &[], "a case of `steps`: it belongs into one of them")?;
                let numbered = steps.into_iter().enumerate();
                let steps: Result<Vec<_>, _> =
                    numbered.map(|(i, step)| step.step().map_err(|m| format!("step {i}: {m}"))).collect();
                steps?
            }
        };
        if !steps.iter().any(|step| matches!(step, Step::Launch(_))) {
            return Err("no step is a launch".to_owned());
        }
        let faulty = |step: &Step| matches!(step, Step::Launch(launch) if launch.expect_fault.is_some());
        if let Some(at) = steps.iter().position(faulty) {
            if at + 1 < steps.len() {
                return Err(format!("step {at}: a step that is to end with a fault is the last"));
            }
            let inline = steps.iter().flat_map(|step| if let Step::Launch(l) = step { l.args.as_slice() } else { &[] });
            let named = self.buffers.0.iter().chain(&self.symbols.0).map(|(_, content)| content);
            if inline.chain(named).any(|content| content.expect.is_some()) {
                let message = "a launch that ends with a fault leaves nothing to compare: `expect` and `expect_fault` do not go together";
                return Err(message.to_owned());
            }
        }
        Ok(steps)
    }
}

impl RawStep {
    fn step(self) -> Result<Step, String> {
        let present = [
            ("launch", self.launch.is_some()),
            ("grid", self.grid.is_some()),
            ("block", self.block.is_some()),
            ("dynamic_shared", self.dynamic_shared.is_some()),
            ("cluster", self.cluster.is_some()),
            ("args", self.args.is_some()),
            ("expect_fault", self.expect_fault.is_some()),
            ("fill", self.fill.is_some()),
            ("with", self.with.is_some()),
            ("check", self.check.is_some()),
            ("expect", self.expect.is_some()),
            ("rtol", self.rtol.is_some()),
            ("atol", self.atol.is_some()),
        ];
        match (self.launch, self.fill, self.check) {
            (Some(entry), None, None) => {
                let fields = ["launch", "grid", "block", "dynamic_shared", "cluster", "args", "expect_fault"];
                only(&present, &fields, "a launch")?;
                let args = self.args.ok_or("`args` is missing")?;
                for (i, arg) in args.iter().enumerate() {
                    arg.check(None).map_err(|message| format!("argument {i}: {message}"))?;
                }
                Ok(Step::Launch(LaunchStep {
                    entry,
                    grid: self.grid.ok_or("`grid` is missing")?,
                    block: self.block.ok_or("`block` is missing")?,
                    dynamic_shared: self.dynamic_shared.unwrap_or(0),
                    cluster: self.cluster,
                    args,
                    expect_fault: self.expect_fault.map(|name| Failure::expected(&name)).transpose()?,
                }))
            }
            (None, Some(name), None) => {
                only(&present, &["fill", "with"], "a fill")?;
                Ok(Step::Fill { name, with: self.with.ok_or("`with` is missing: what to fill it with")? })
            }
            (None, None, Some(name)) => {
                only(&present, &["check", "expect", "rtol", "atol"], "a check")?;
                let tolerance = tolerance(self.rtol, self.atol, true)?;
                Ok(Step::Check { name, expect: self.expect.ok_or("`expect` is missing")?, tolerance })
            }
            _ => Err("a step is a `launch`, a `fill` or a `check`".to_owned()),
        }
    }
}
