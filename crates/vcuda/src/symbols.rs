//! The functions that a `libcuda.so.1` exports, each with the name that `cuGetProcAddress` is asked for, and which of them it answers with.

use std::collections::HashMap;
use std::sync::LazyLock;

/// The list: one line an exported name; its first lines say what it is.
const LIST: &str = include_str!("../symbols.txt");

/// An exported function, as one base name knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Symbol {
    /// Name that is exported, such as `cuMemcpyHtoD_v2_ptds`.
    pub exported: &'static str,
    /// Name that `cuGetProcAddress` is asked for, such as `cuMemcpyHtoD`.
    pub base: &'static str,
    /// CUDA version that introduced it: 1000 times the major, 10 times the minor version.
    pub version: u32,
    /// Whether its default stream is the calling thread's own. Functions without a stream have no such form.
    pub per_thread: bool,
}

/// What [`find`] finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// The exported name of the function to answer with.
    Symbol(&'static str),
    /// There is such a function, but no form of it as old as the version asked for (`CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT`).
    NewerOnly,
    /// There is no such function (`CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND`).
    Unknown,
}

/// Every function, in the order of the list: by base name, the legacy forms first, the oldest first. An exported name stands twice where two
/// base names lead to it.
pub(crate) static SYMBOLS: LazyLock<Vec<Symbol>> = LazyLock::new(|| parse(LIST));

/// Every exported name once, sorted.
#[cfg(test)]
pub(crate) static ALL: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let mut names: Vec<_> = SYMBOLS.iter().map(|symbol| symbol.exported).collect();
    names.sort_unstable();
    names.dedup();
    names
});

static BY_BASE: LazyLock<HashMap<&'static str, Vec<Symbol>>> = LazyLock::new(|| {
    let mut by_base: HashMap<_, Vec<_>> = HashMap::new();
    for symbol in SYMBOLS.iter() {
        by_base.entry(symbol.base).or_default().push(*symbol);
    }
    by_base
});

fn parse(list: &'static str) -> Vec<Symbol> {
    list.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let mut words = line.split(' ');
            let mut word = || words.next().unwrap_or_else(|| panic!("symbols.txt: '{line}' has not four words"));
            let (exported, base) = (word(), word());
            let version = word().parse().unwrap_or_else(|_| panic!("symbols.txt: '{line}' has no version"));
            Symbol { exported, base, version, per_thread: word() == "per-thread" }
        })
        .collect()
}

/// The function to answer with when `name` is asked for as of `cuda_version`: the newest form that is not newer than that. With `per_thread`, the
/// form for the per-thread default stream where there is one by then, else the legacy form. What came after the CUDA version of the driver does
/// not exist for it, whatever is asked for.
///
/// `name` is a base name: as the documentation of `cuGetProcAddress` has it, an exported name such as `cuMemAlloc_v2` is not known. A
/// `cuda_version` above `driver` finds what `driver` finds; `CUDA_ERROR_INVALID_VALUE`, the documented answer, is for the caller to give.
pub(crate) fn find(name: &str, cuda_version: u32, per_thread: bool, driver: u32) -> Found {
    let forms = BY_BASE.get(name).map(Vec::as_slice).unwrap_or_default();
    let known = || forms.iter().filter(|form| form.version <= driver);
    let newest = |threaded| {
        known()
            .filter(|form| form.per_thread == threaded && form.version <= cuda_version)
            .max_by_key(|form| form.version)
    };
    match per_thread.then(|| newest(true)).flatten().or_else(|| newest(false)) {
        Some(form) => Found::Symbol(form.exported),
        None if known().next().is_some() => Found::NewerOnly,
        None => Found::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A driver that has all of the list.
    const NEWEST: u32 = 13050;

    fn found(name: &str, version: u32, per_thread: bool) -> Found {
        find(name, version, per_thread, NEWEST)
    }

    #[test]
    fn the_list_is_whole_and_without_repetition() {
        assert!(ALL.len() > 700, "{}", ALL.len());
        for pair in ALL.windows(2) {
            assert!(pair[0] < pair[1]);
        }
        let mut keys: Vec<_> = SYMBOLS.iter().map(|symbol| (symbol.base, symbol.version, symbol.per_thread)).collect();
        keys.sort_unstable();
        for pair in keys.windows(2) {
            assert_ne!(pair[0], pair[1], "two forms of one version");
        }
        for line in LIST.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<_> = line.split(' ').collect();
            assert!(words.len() == 4 && ["legacy", "per-thread"].contains(&words[3]), "{line}");
        }
        for name in
            ["cuInit", "cuGetProcAddress_v2", "cuLaunchKernel_ptsz", "cuProfilerStart", "cuGraphInstantiateWithFlags"]
        {
            assert!(ALL.binary_search(&name).is_ok(), "{name}");
        }
    }

    #[test]
    fn the_newest_form_that_is_old_enough_is_found() {
        assert_eq!(found("cuMemAlloc", 2000, false), Found::Symbol("cuMemAlloc"));
        assert_eq!(found("cuMemAlloc", 3010, false), Found::Symbol("cuMemAlloc"));
        assert_eq!(found("cuMemAlloc", 3020, false), Found::Symbol("cuMemAlloc_v2"));
        assert_eq!(found("cuMemAlloc", 13000, true), Found::Symbol("cuMemAlloc_v2"));
        assert_eq!(found("cuStreamGetCaptureInfo", 11020, false), Found::Symbol("cuStreamGetCaptureInfo"));
        assert_eq!(found("cuStreamGetCaptureInfo", 12020, true), Found::Symbol("cuStreamGetCaptureInfo_v2_ptsz"));
        assert_eq!(found("cuStreamGetCaptureInfo", 12030, false), Found::Symbol("cuStreamGetCaptureInfo_v3"));
        assert_eq!(found("cuTexRefSetAddress2D", 4010, false), Found::Symbol("cuTexRefSetAddress2D_v3"));
    }

    #[test]
    fn changes_of_a_signature_are_by_version() {
        assert_eq!(found("cuGetProcAddress", 11080, false), Found::Symbol("cuGetProcAddress"));
        assert_eq!(found("cuGetProcAddress", 12000, false), Found::Symbol("cuGetProcAddress_v2"));
        assert_eq!(found("cuGraphInstantiate", 10000, false), Found::Symbol("cuGraphInstantiate"));
        assert_eq!(found("cuGraphInstantiate", 11080, false), Found::Symbol("cuGraphInstantiate_v2"));
        assert_eq!(found("cuGraphInstantiate", 12000, false), Found::Symbol("cuGraphInstantiateWithFlags"));
        assert_eq!(found("cuGraphInstantiateWithFlags", 11040, false), Found::Symbol("cuGraphInstantiateWithFlags"));
        assert_eq!(found("cuCtxCreate", 11030, false), Found::Symbol("cuCtxCreate_v2"));
        assert_eq!(found("cuCtxCreate", 12050, false), Found::Symbol("cuCtxCreate_v4"));
    }

    #[test]
    fn the_per_thread_form_is_found_where_there_is_one() {
        assert_eq!(found("cuMemcpyHtoD", 7000, true), Found::Symbol("cuMemcpyHtoD_v2_ptds"));
        assert_eq!(found("cuMemcpyHtoD", 7000, false), Found::Symbol("cuMemcpyHtoD_v2"));
        // None yet: the legacy form, as documented.
        assert_eq!(found("cuLaunchKernel", 4000, true), Found::Symbol("cuLaunchKernel"));
        assert_eq!(found("cuLaunchKernel", 7000, true), Found::Symbol("cuLaunchKernel_ptsz"));
        assert_eq!(found("cuCtxSynchronize", 12000, true), Found::Symbol("cuCtxSynchronize"));
    }

    /// For every function and every version: with and without the per-thread default stream, the signature is the same.
    #[test]
    fn a_per_thread_form_has_the_signature_of_the_legacy_form() {
        for symbol in SYMBOLS.iter() {
            let (own, legacy) = (found(symbol.base, symbol.version, true), found(symbol.base, symbol.version, false));
            let (Found::Symbol(own), Found::Symbol(legacy)) = (own, legacy) else {
                panic!("{symbol:?}: {own:?} {legacy:?}")
            };
            let rest = own.strip_prefix(legacy);
            assert!(matches!(rest, Some("" | "_ptsz" | "_ptds")), "{symbol:?}: {own} {legacy}");
        }
    }

    #[test]
    fn what_is_newer_and_what_is_not_there_are_told_apart() {
        assert_eq!(found("cuMemAllocAsync", 11010, false), Found::NewerOnly);
        assert_eq!(found("cuMemAllocAsync", 0, true), Found::NewerOnly);
        for name in ["cuNoSuchThing", "", "cuMemAlloc_v2", "cuLaunchKernel_ptsz", "cumemalloc"] {
            assert_eq!(found(name, NEWEST, false), Found::Unknown, "{name}");
        }
    }

    #[test]
    fn an_old_driver_has_only_what_was_there_in_its_time() {
        assert_eq!(find("cuGraphInstantiate", 11080, false, 11080), Found::Symbol("cuGraphInstantiate_v2"));
        assert_eq!(find("cuGraphInstantiate", 13000, false, 11080), Found::Symbol("cuGraphInstantiate_v2"));
        assert_eq!(find("cuKernelGetFunction", 12000, false, 11080), Found::Unknown);
        assert_eq!(find("cuKernelGetFunction", 11080, false, 12000), Found::NewerOnly);
        assert_eq!(find("cuGetProcAddress", 11030, false, 11020), Found::Unknown);
    }
}
