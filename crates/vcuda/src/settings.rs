//! What environment variables say: devices, schedule, failures on demand.

use crate::code::Code;
use crate::spec::{self, Spec};
use std::path::PathBuf;

/// When queued work runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Schedule {
    /// As soon as it can.
    Eager,
    /// Not before somebody waits for it.
    Late,
    /// In any order that streams, events and dependencies allow.
    Random(u64),
}

/// A call that fails on demand: `cuMemAlloc_v2@17=OUT_OF_MEMORY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Name of the function; `*` stands for any characters.
    pub(crate) pattern: String,
    /// The how manieth call, from 1, of those that the pattern fits; `None`: every one.
    pub(crate) nth: Option<u64>,
    pub(crate) code: Code,
    /// Calls seen so far.
    pub(crate) seen: u64,
}

impl Failure {
    fn parse(text: &str) -> Result<Failure, String> {
        let form = || format!("VCUDA_FAIL: `{text}` is not FUNCTION@N=CODE (or FUNCTION=CODE for every call)");
        let (call, code) = text.split_once('=').ok_or_else(form)?;
        let (pattern, nth) = match call.split_once('@') {
            Some((pattern, n)) => (pattern, Some(n.parse().ok().filter(|n| *n > 0).ok_or_else(form)?)),
            None => (call, None),
        };
        let code = Code::parse(code)
            .ok_or_else(|| format!("VCUDA_FAIL: `{code}` is no CUresult: a name such as OUT_OF_MEMORY, or a number"))?;
        Ok(Failure { pattern: pattern.trim().to_owned(), nth, code, seen: 0 })
    }

    /// Whether this call of `name` is to fail.
    pub(crate) fn strikes(&mut self, name: &str) -> bool {
        if !fits(&self.pattern, name) {
            return false;
        }
        self.seen += 1;
        self.nth.is_none_or(|nth| nth == self.seen)
    }
}

/// Whether `name` has the form of `pattern`, in which `*` stands for any characters.
fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut last = None;
    for part in parts {
        if let Some(middle) = last.replace(part) {
            let Some(at) = rest.find(middle) else { return false };
            rest = &rest[at + middle.len()..];
        }
    }
    match last {
        Some(end) => rest.ends_with(end),
        None => rest.is_empty(),
    }
}

/// All settings.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) devices: Vec<Spec>,
    pub(crate) schedule: Schedule,
    pub(crate) failures: Vec<Failure>,
    /// The newest CUDA version that the driver knows, as 12080.
    pub(crate) version: u32,
    /// Where to tell what was called and what leaked.
    pub(crate) report: Option<PathBuf>,
    /// Whether kernels run in the virtual GPU's checked mode.
    pub(crate) checked: bool,
    /// Whether `cuMemFree` waits for the work of the device, as every driver does and no documentation promises.
    pub(crate) free_waits: bool,
    /// What is wrong with the variables: `cuInit` says so.
    pub(crate) error: Option<String>,
}

impl Settings {
    pub(crate) fn from_env() -> Settings {
        let var = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let mut error = None;
        let mut note = |message: String| {
            error.get_or_insert(message);
        };
        let (devices, version) = spec::from_environment().unwrap_or_else(|error| {
            note(error.to_string());
            (vec![], spec::DEFAULT_DRIVER)
        });
        let schedule = match var("VCUDA_SCHEDULE").as_deref() {
            None | Some("eager") => Schedule::Eager,
            Some("late") => Schedule::Late,
            Some(text) => match text.strip_prefix("random:").and_then(|seed| seed.parse().ok()) {
                Some(seed) => Schedule::Random(seed),
                None => {
                    note(format!("VCUDA_SCHEDULE: `{text}` is not eager, late or random:SEED"));
                    Schedule::Eager
                }
            },
        };
        let failures = var("VCUDA_FAIL").map_or_else(Vec::new, |list| {
            list.split(',')
                .filter(|text| !text.trim().is_empty())
                .filter_map(|text| Failure::parse(text).map_err(&mut note).ok())
                .collect()
        });
        Settings {
            devices,
            schedule,
            failures,
            version,
            report: var("VCUDA_REPORT").map(PathBuf::from),
            checked: var("VCUDA_CHECKED").is_some_and(|value| value != "0"),
            free_waits: var("VCUDA_FREE_WAITS").is_none_or(|value| value != "0"),
            error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_read_and_strike_once() {
        let mut failure = Failure::parse("cuMem*@2=OUT_OF_MEMORY").unwrap();
        assert!(!failure.strikes("cuMemAlloc_v2") && !failure.strikes("cuLaunchKernel"));
        assert!(failure.strikes("cuMemFree_v2") && !failure.strikes("cuMemFree_v2"));
        let mut always = Failure::parse("*=CUDA_ERROR_UNKNOWN").unwrap();
        assert!(always.strikes("cuInit") && always.strikes("cuInit"));
        assert_eq!(Failure::parse("cuInit@1=12345").unwrap().code, Code(12345));
        assert_eq!(Failure::parse("cuInit@1=SUCCESS").unwrap().code, Code::SUCCESS);
        for wrong in ["cuInit", "cuInit@0=UNKNOWN", "cuInit@x=UNKNOWN", "cuInit@1=NOPE"] {
            assert!(Failure::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("cuInit", "cuInit", true),
            ("cuInit", "cuInit2", false),
            ("*", "anything", true),
            ("cu*_v2", "cuMemAlloc_v2", true),
            ("cu*Alloc*", "cuMemAlloc_v2", true),
            ("cu*Alloc*Async", "cuMemAlloc_v2", false),
            ("*Async", "cuMemcpyAsync", true),
            ("ab*b", "ab", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }
}
