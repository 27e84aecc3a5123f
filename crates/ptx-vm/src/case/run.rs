//! Running a case: memory, steps, comparisons.

use super::spec::{Arg, Content, LaunchStep, PointerAt, Spec, Step};
use super::value::{Dtype, Tolerance, compare};
use super::{CaseError, Failure, Launched, Outcome};
use crate::{Counters, DevicePtr, Fault, FaultKind, Kernel, Launch, LoadError, LoadErrorKind, Module, Vm, VmConfig};
use std::path::Path;
use std::sync::Arc;

/// Runs the case in `dir` on a device of its own.
///
/// # Errors
/// When the case is not one: files that are missing, fields that mean nothing, numbers that do not fit, a kernel that is not there.
pub fn run_case(dir: &Path, config: &VmConfig) -> Result<Outcome, CaseError> {
    let spec_path = dir.join("case.json");
    let (spec, steps) = Spec::read(&spec_path)?;
    let ptx_path = dir.join(&spec.ptx);
    let ptx = std::fs::read_to_string(&ptx_path).map_err(|e| CaseError::new(&ptx_path, e))?;
    let mut outcome = Outcome {
        case: dir.display().to_string(),
        ok: false,
        compared: 0,
        max_abs_err: 0.0,
        max_rel_err: 0.0,
        fault: None,
        fault_kind: None,
        seconds: 0.0,
        counters: None,
        launches: Vec::new(),
        message: None,
        printed: String::new(),
    };
    let module = match Module::parse(&spec.ptx, &ptx) {
        Ok(module) => module,
        Err(error) => {
            outcome.end(Failure::of(&error), error.to_string(), None);
            return Ok(outcome);
        }
    };
    // Without checked mode these faults go unseen.
    let hidden = |step: &Step| {
        let Step::Launch(launch) = step else { return false };
        let kinds = [FaultKind::Uninitialised, FaultKind::Race, FaultKind::Barrier];
        kinds.into_iter().any(|kind| launch.expect_fault == Some(Failure::Fault(kind)))
    };
    let checked = config.checked || steps.iter().any(hidden);
    let memory_limit = config.memory_limit.or_else(|| machine_memory().map(|all| if checked { all / 2 } else { all }));
    let vm = Vm::new(VmConfig { checked, memory_limit, ..config.clone() });
    let mut case = Case { dir, module: &module, vm: &vm, places: Vec::new() };
    let judged = case.judge(&spec, &steps, &mut outcome);
    outcome.printed = vm.take_printed();
    let broken = |e: crate::MemoryError| CaseError::new(&spec_path, e);
    for place in case.places.iter().filter(|place| place.allocated) {
        vm.free(place.ptr).map_err(broken)?;
    }
    vm.close().map_err(broken)?;
    judged.map_err(|message| CaseError::new(&spec_path, message))?;
    Ok(outcome)
}

/// Bytes of memory this machine has, so that an absurd length is an error and not the end of the process.
fn machine_memory() -> Option<usize> {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: these calls have no other effect than to give a number.
        let (pages, size) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
        usize::try_from(pages).ok()?.checked_mul(usize::try_from(size).ok()?)
    }
    #[cfg(not(target_os = "linux"))]
    Some(64 << 30)
}

impl Outcome {
    /// Ends the case with a failure, which may be the one that is expected.
    fn end(&mut self, kind: Failure, text: String, expected: Option<Failure>) {
        // A check before it may have failed.
        self.ok = expected == Some(kind) && self.message.is_none();
        self.fault = Some(text);
        self.fault_kind = Some(kind.to_string());
        if let Some(expected) = expected.filter(|expected| *expected != kind) {
            self.tell(&format!("the fault is `{kind}`, not the expected `{expected}`"));
        }
    }

    /// Adds a line to what is wrong.
    fn tell(&mut self, line: &str) {
        match &mut self.message {
            Some(message) => *message += &format!("\n{line}"),
            none => *none = Some(line.to_owned()),
        }
    }
}

/// A range of device memory the case speaks of: a buffer, or a variable of the module.
struct Place {
    /// What reports call it.
    name: String,
    ptr: DevicePtr,
    dtype: Dtype,
    len: usize,
    allocated: bool,
    /// What it was filled with so that everybody sees what nobody writes.
    poison: Option<Vec<u8>>,
    /// What it must hold in the end.
    expect: Option<(Vec<u8>, Tolerance)>,
}

impl Place {
    fn bytes(&self) -> usize {
        self.len * self.dtype.bytes()
    }
}

struct Case<'a> {
    dir: &'a Path,
    module: &'a Module,
    vm: &'a Vm,
    /// Buffers and symbols by name first, then those of arguments.
    places: Vec<Place>,
}

type R<T> = Result<T, String>;

/// A step with all that it needs.
enum Act<'a> {
    /// A kernel and its parameter bytes, or why there is none.
    Launch(&'a LaunchStep, Result<(Arc<Kernel>, Vec<u8>), LoadError>),
    /// A place and its new bytes.
    Fill(usize, Vec<u8>),
    /// A place and what it must hold.
    Check(usize, Vec<u8>, Tolerance),
}

impl Case<'_> {
    /// Fills the buffers, launches, and compares. An error says that the case is none.
    fn judge(&mut self, spec: &Spec, steps: &[Step], outcome: &mut Outcome) -> R<()> {
        for (name, buffer) in &spec.buffers.0 {
            self.buffer(name, quoted(name), buffer).map_err(|m| format!("`{name}`: {m}"))?;
        }
        for (name, symbol) in &spec.symbols.0 {
            self.symbol(name, symbol).map_err(|m| format!("`{name}`: {m}"))?;
        }
        for (place, (name, content)) in spec.buffers.0.iter().chain(&spec.symbols.0).enumerate() {
            self.insert_pointers(place, content.pointers.as_deref()).map_err(|m| format!("`{name}`: {m}"))?;
        }
        let mut acts = Vec::new();
        for (i, step) in steps.iter().enumerate() {
            let at = if steps.len() > 1 { format!("step {i}: ") } else { String::new() };
            acts.push(self.prepare(&at, step).map_err(|message| at + &message)?);
        }
        self.poison(&acts)?;
        for (i, act) in acts.iter().enumerate() {
            match act {
                Act::Fill(place, bytes) => {
                    self.vm.write(self.places[*place].ptr, bytes).map_err(|e| e.to_string())?;
                }
                Act::Check(place, want, tolerance) => {
                    let checked = &self.places[*place];
                    if let Some(fault) = self.vm.leak(checked.ptr, checked.bytes()) {
                        outcome.end(Failure::Fault(fault.kind), fault.to_string(), None);
                        return Ok(());
                    }
                    self.compare(&format!("step {i}: "), &self.places[*place], want, *tolerance, outcome)?;
                }
                Act::Launch(step, kernel) => {
                    let goes_on = match kernel {
                        Ok((kernel, params)) => self.launch(step, kernel, params, outcome),
                        Err(error) => self.not_loaded(step, error, outcome),
                    };
                    if !goes_on {
                        return Ok(());
                    }
                }
            }
        }
        if let Some(fault) = self.leak() {
            outcome.end(Failure::Fault(fault.kind), fault.to_string(), None);
            return Ok(());
        }
        for place in &self.places {
            if let Some((want, tolerance)) = &place.expect {
                self.compare("", place, want, *tolerance, outcome)?;
            }
        }
        outcome.ok = outcome.message.is_none();
        Ok(())
    }

    /// Finds what a step speaks of. `at` is how reports about it begin.
    fn prepare<'s>(&mut self, at: &str, step: &'s Step) -> R<Act<'s>> {
        let find = |case: &Self, name: &str, content: &Content| -> R<(usize, Dtype, Vec<u8>)> {
            let place = case.places.iter().position(|place| place.name == quoted(name));
            let place = place.ok_or("is not one of `buffers` or `symbols`")?;
            let Place { dtype, len, .. } = case.places[place];
            Ok((place, dtype, content.bytes(case.dir, dtype, len)?))
        };
        match step {
            Step::Fill { name, with } => {
                let (place, _, bytes) = find(self, name, with).map_err(|m| format!("`{name}`: {m}"))?;
                Ok(Act::Fill(place, bytes))
            }
            Step::Check { name, expect, tolerance } => {
                let (place, dtype, want) = find(self, name, expect).map_err(|m| format!("`{name}`: {m}"))?;
                sound(dtype, &want, *tolerance).map_err(|m| format!("`{name}`: {m}"))?;
                Ok(Act::Check(place, want, *tolerance))
            }
            Step::Launch(launch) => match self.module.kernel(&launch.entry) {
                Ok(kernel) => {
                    let params = self.arguments(at, launch, &kernel)?;
                    Ok(Act::Launch(launch, Ok((kernel, params))))
                }
                Err(error) if error.kind == LoadErrorKind::NoEntry => Err(error.message),
                Err(error) => Ok(Act::Launch(launch, Err(error))),
            },
        }
    }

    /// Ends the case at a kernel that cannot be decoded.
    fn not_loaded(&self, step: &LaunchStep, error: &LoadError, outcome: &mut Outcome) -> bool {
        let gaps = self.module.gaps(&step.entry);
        // Any of them may be what is expected.
        let told = gaps.iter().find(|gap| step.expect_fault == Some(Failure::of(gap))).unwrap_or(error);
        outcome.end(Failure::of(told), told.to_string(), step.expect_fault);
        if gaps.len() > 1 && !outcome.ok {
            outcome.tell(&format!("`ptx-vm load` lists all {} gaps of the kernel", gaps.len()));
        }
        false
    }

    /// Allocates a buffer and fills it.
    fn buffer(&mut self, label: &str, name: String, content: &Arg) -> R<DevicePtr> {
        let dtype = content.dtype()?;
        let len = content.len.ok_or("a buffer has a `len`")?;
        let size = len.checked_mul(dtype.bytes()).ok_or("`len` is too large")?;
        let ptr = self.vm.alloc_labelled(size, label).map_err(|e| e.to_string())?;
        self.place(Place { name, ptr, dtype, len, allocated: true, poison: None, expect: None }, content)
    }

    /// Finds a variable of the module and fills it.
    fn symbol(&mut self, name: &str, content: &Arg) -> R<()> {
        let dtype = content.dtype()?;
        let region = self.module.variable(name).ok_or_else(|| {
            let known: Vec<&str> = self.module.variables().map(|(name, _)| name).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            format!("the module has no .global or .const variable of that name; there are: {known}")
        })?;
        let (size, len) = (region.bytes(), content.len.unwrap_or(region.bytes() / dtype.bytes()));
        if len.checked_mul(dtype.bytes()) != Some(size) {
            return Err(format!("the variable has {size} bytes, which is not {len} elements of {}", dtype.name()));
        }
        self.vm.map(&region).map_err(|e| e.to_string())?;
        let name = quoted(name);
        let place = Place { name, ptr: region.ptr(), dtype, len, allocated: false, poison: None, expect: None };
        self.place(place, content).map(|_| ())
    }

    /// Fills a place, and notes what is expected of it.
    fn place(&mut self, mut place: Place, content: &Arg) -> R<DevicePtr> {
        let Place { ptr, dtype, len, .. } = place;
        let bytes = |content: &Content| content.bytes(self.dir, dtype, len);
        let filled = content.init.as_ref().map(bytes).transpose();
        let expected = content.expect.as_ref().map(bytes).transpose();
        let poisoned = place.allocated && content.init.is_none() && content.pointers.is_none();
        place.poison = poisoned.then(Vec::new);
        let tolerance = content.tolerance()?;
        if let Ok(Some(want)) = &expected {
            place.expect = Some((want.clone(), tolerance));
        }
        // It is given back with the others, also where the rest is wrong.
        self.places.push(place);
        if let Some(bytes) = filled? {
            self.vm.write(ptr, &bytes).map_err(|e| e.to_string())?;
        }
        if let Some(want) = expected? {
            sound(dtype, &want, tolerance)?;
        }
        Ok(ptr)
    }

    /// Where a buffer or a variable of the module begins.
    fn address(&self, to: &str, offset: i64) -> R<u64> {
        let named = self.places.iter().find(|place| place.name == quoted(to)).map(|place| place.ptr);
        let base = named.or_else(|| self.module.variable(to).map(|region| region.ptr()));
        match base {
            Some(base) => Ok(base.wrapping_add(offset as u64)),
            None => Err(format!("`{to}` is neither one of `buffers` nor a variable of the module")),
        }
    }

    /// Writes addresses into bytes.
    fn pointers(&self, bytes: &mut [u8], pointers: Option<&[PointerAt]>) -> R<()> {
        let mut taken: Vec<usize> = Vec::new();
        for PointerAt { at, to, offset } in pointers.unwrap_or_default() {
            let address = self.address(to, *offset)?;
            let room = bytes.len();
            let slot = at.checked_add(8).and_then(|end| bytes.get_mut(*at..end));
            let slot = slot.ok_or_else(|| format!("a pointer at byte {at} does not fit {room} bytes"))?;
            if taken.iter().any(|other| at.abs_diff(*other) < 8) {
                return Err(format!("the pointer at byte {at} overlaps another"));
            }
            taken.push(*at);
            slot.copy_from_slice(&address.to_le_bytes());
        }
        Ok(())
    }

    /// The same for a place.
    fn insert_pointers(&mut self, place: usize, pointers: Option<&[PointerAt]>) -> R<()> {
        if pointers.is_none() {
            return Ok(());
        }
        let place = &self.places[place];
        let mut bytes = vec![0; place.bytes()];
        self.pointers(&mut bytes, pointers)?;
        for PointerAt { at, .. } in pointers.unwrap_or_default() {
            self.vm.write(place.ptr + *at as u64, &bytes[*at..at + 8]).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// The parameter bytes of a launch; its buffers are allocated.
    fn arguments(&mut self, at: &str, launch: &LaunchStep, kernel: &Kernel) -> R<Vec<u8>> {
        let mut params = vec![0u8; kernel.param_bytes()];
        if launch.args.len() > kernel.params().len() {
            return Err(format!("{} arguments, the kernel takes {}", launch.args.len(), kernel.params().len()));
        }
        // Triton's kernels take scratch pointers a case may leave out.
        let left_out = &kernel.params()[launch.args.len()..];
        if let Some(param) = left_out.iter().find(|param| param.size != 8 || !matches!(param.ty, "u64" | "b64")) {
            let (given, taken) = (launch.args.len(), kernel.params().len());
            let message = format!("{given} arguments, the kernel takes {taken}: only pointers may be left out, not");
            return Err(format!("{message} `{}`", param.name));
        }
        for (i, (arg, param)) in launch.args.iter().zip(kernel.params()).enumerate() {
            let bad = |message: String| format!("argument {i}: {message}");
            let bytes = match arg.kind() {
                "null" => vec![0u8; 8],
                "buffer" => {
                    let ptr = self.buffer(&param.name, format!("{at}argument {i}"), arg).map_err(bad)?;
                    self.insert_pointers(self.places.len() - 1, arg.pointers.as_deref()).map_err(bad)?;
                    ptr.to_le_bytes().to_vec()
                }
                "pointer" => {
                    let to = arg.to.as_deref().ok_or_else(|| bad("a pointer has a `to`".to_owned()))?;
                    self.address(to, arg.offset.unwrap_or(0)).map_err(bad)?.to_le_bytes().to_vec()
                }
                "tensor_map" => {
                    let to = arg.to.as_deref().ok_or_else(|| bad("a tensor map has a `to`".to_owned()))?;
                    let tensor = arg.tensor.as_ref().ok_or_else(|| bad("a tensor map has a `tensor`".to_owned()))?;
                    let address = self.address(to, arg.offset.unwrap_or(0)).map_err(bad)?;
                    tensor.encode(arg.dtype().map_err(bad)?, address).map_err(bad)?
                }
                "bytes" => {
                    let hex = arg.hex.as_deref().ok_or_else(|| bad("`bytes` has `hex`".to_owned()))?;
                    let mut bytes = unhex(hex).ok_or_else(|| bad("`hex` is not hexadecimal".to_owned()))?;
                    self.pointers(&mut bytes, arg.pointers.as_deref()).map_err(bad)?;
                    bytes
                }
                scalar => {
                    let value = arg.value.as_ref().ok_or_else(|| bad("a scalar has a `value`".to_owned()))?;
                    let dtype = Dtype::parse(scalar).ok_or_else(|| bad(format!("unknown kind `{scalar}`")))?;
                    dtype.encode(value).map_err(bad)?
                }
            };
            if bytes.len() != param.size {
                let message = format!("{} bytes, parameter `{}` takes {}", bytes.len(), param.name, param.size);
                return Err(bad(message));
            }
            params[param.offset..param.offset + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(params)
    }

    /// Fills buffers without `init` so that what nobody writes is not taken for what is expected. Checked mode keeps account of that, and
    /// must see them as they are.
    fn poison(&mut self, acts: &[Act<'_>]) -> R<()> {
        for (index, place) in self.places.iter_mut().enumerate() {
            let n = place.dtype.bytes();
            let last = place.expect.iter().map(|(want, tolerance)| (want, *tolerance));
            let between = acts.iter().filter_map(|act| match act {
                Act::Check(at, want, tolerance) if *at == index => Some((want, *tolerance)),
                _ => None,
            });
            let wants: Vec<(&Vec<u8>, Tolerance)> = last.chain(between).collect();
            if place.poison.is_none() || wants.is_empty() || self.vm.written(place.ptr, 0).is_some() {
                place.poison = None;
                continue;
            }
            let mut fill = Vec::with_capacity(place.len * n);
            let mut of: Vec<(&[u8], Tolerance)> = Vec::new();
            for e in 0..place.len {
                of.clear();
                of.extend(wants.iter().map(|(want, tolerance)| (&want[e * n..][..n], *tolerance)));
                // Where everything is expected by somebody nothing stands out.
                fill.extend_from_slice(&place.dtype.poison(&of).unwrap_or_default()[..n]);
            }
            self.vm.write(place.ptr, &fill).map_err(|e| e.to_string())?;
            place.poison = Some(fill);
        }
        Ok(())
    }

    /// Launches. False when that ends the case.
    fn launch(&self, step: &LaunchStep, kernel: &Kernel, params: &[u8], outcome: &mut Outcome) -> bool {
        let mut launch = Launch::new(step.grid, step.block).dynamic_shared(step.dynamic_shared);
        launch.cluster = step.cluster;
        let start = std::time::Instant::now();
        let result = self.vm.launch(kernel, &launch, params);
        let seconds = start.elapsed().as_secs_f64();
        outcome.seconds += seconds;
        match result {
            Err(fault) => {
                outcome.end(Failure::Fault(fault.kind), fault.to_string(), step.expect_fault);
                false
            }
            Ok(stats) => {
                if let Some(counters) = &stats.counters {
                    outcome.counters.get_or_insert_with(Counters::default).add(counters);
                }
                let entry = step.entry.clone();
                let (counters, profile) = (stats.counters, stats.profile);
                outcome.launches.push(Launched { entry, seconds, counters, profile });
                if step.expect_fault == Some(Failure::Fault(FaultKind::Uninitialised))
                    && let Some(fault) = self.leak()
                {
                    outcome.end(Failure::Fault(fault.kind), fault.to_string(), step.expect_fault);
                    return false;
                }
                if let Some(expected) = step.expect_fault {
                    outcome.tell(&format!("the launch ended without the expected fault `{expected}`"));
                }
                step.expect_fault.is_none()
            }
        }
    }

    /// The store of an undefined value that somebody asks for: in what is expected, or in any place when nothing is.
    fn leak(&self) -> Option<Box<Fault>> {
        let asked = self.places.iter().any(|place| place.expect.is_some());
        let places = self.places.iter().filter(|place| place.expect.is_some() || !asked);
        places.into_iter().find_map(|place| self.vm.leak(place.ptr, place.bytes()))
    }

    /// Compares a place with what it must hold.
    fn compare(&self, at: &str, place: &Place, want: &[u8], tolerance: Tolerance, outcome: &mut Outcome) -> R<()> {
        let (ptr, n) = (place.ptr, place.dtype.bytes());
        let mut got = vec![0u8; want.len()];
        self.vm.read_anyway(ptr, &mut got).map_err(|e| e.to_string())?;
        let written = self.vm.written(ptr, got.len());
        let unwritten = |e: usize| {
            let range = e * n..(e + 1) * n;
            match (&written, &place.poison) {
                (Some(written), _) => written[range].contains(&false),
                (None, Some(poison)) => {
                    let (got, want) = (&got[range.clone()], &want[range.clone()]);
                    got == &poison[range] && !place.dtype.near(got, want, tolerance)
                }
                (None, None) => false,
            }
        };
        let found = compare(place.dtype, &got, want, tolerance, unwritten);
        outcome.compared += found.elements;
        outcome.max_abs_err = outcome.max_abs_err.max(found.max_abs);
        outcome.max_rel_err = outcome.max_rel_err.max(found.max_rel);
        if let Some(verdict) = found.verdict() {
            outcome.tell(&format!("{at}{}: {verdict}", place.name));
        }
        Ok(())
    }
}

/// Refuses expectations that hold whatever comes out.
fn sound(dtype: Dtype, want: &[u8], tolerance: Tolerance) -> R<()> {
    if want.is_empty() {
        return Err("`expect` of no elements is no check".to_owned());
    }
    match want.chunks_exact(dtype.bytes()).find_map(|element| dtype.vacuous(element, tolerance)) {
        None => Ok(()),
        Some(message) => Err(message),
    }
}

/// How reports call what has a name.
fn quoted(name: &str) -> String {
    format!("`{name}`")
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    digits.chunks(2).map(|c| u8::from_str_radix(std::str::from_utf8(c).ok()?, 16).ok()).collect()
}
