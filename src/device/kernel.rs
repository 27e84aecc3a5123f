//! Entries of PTX modules, and the information parsed from their text.

use std::fmt;
use std::sync::Arc;

use super::backend::Handle;

/// A loaded entry of a module. Cheap to clone.
#[derive(Clone)]
pub struct Kernel(pub(super) Arc<KernelInner>);

pub(super) struct KernelInner {
    pub(super) name: String,
    pub(super) param_bytes: usize,
    pub(super) handle: Handle,
}

impl Kernel {
    /// The entry's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Size of the parameter block.
    pub fn param_bytes(&self) -> usize {
        self.0.param_bytes
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kernel({})", self.0.name)
    }
}

/// `MAJOR.MINOR` of a module's `.version` directive.
pub(super) fn ptx_version(ptx: &str) -> Option<(u32, u32)> {
    let line = ptx.lines().map(str::trim_start).find_map(|line| line.strip_prefix(".version"))?;
    let (major, minor) = line.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?))
}

/// Size of an entry's parameter block from its `.param` declarations; `None` if there is no such entry.
///
/// The driver reads that many bytes from the parameters of a launch, so the size must be known before.
pub(super) fn param_bytes(ptx: &str, entry: &str) -> Option<usize> {
    let list = ptx.match_indices(".entry").find_map(|(at, keyword)| {
        let rest = ptx[at + keyword.len()..].trim_start().strip_prefix(entry)?.trim_start();
        match rest.as_bytes().first()? {
            b'(' => rest[1..].split_once(')').map(|(list, _)| list),
            b'{' | b'.' => Some(""),
            _ => None, // A longer name that begins with this one.
        }
    })?;
    let mut end = 0usize;
    for declaration in list.split(',').filter(|d| d.contains(".param")) {
        let mut words = declaration.split_whitespace().peekable();
        let (mut align, mut size) = (None, 1usize);
        while let Some(word) = words.next() {
            match word {
                ".align" => align = words.next()?.parse().ok(),
                ".ptr" => {
                    // `.ptr .global .align 16` is about the pointee.
                    while words.peek().is_some_and(|w| w.starts_with('.')) {
                        if words.next() == Some(".align") {
                            words.next();
                        }
                    }
                }
                _ if word.starts_with('.') && word.ends_with(|c: char| c.is_ascii_digit()) => {
                    let digits = word.trim_start_matches(|c: char| !c.is_ascii_digit());
                    size = digits.parse::<usize>().ok()? / 8;
                }
                _ => {
                    if let Some((_, count)) = word.split_once('[') {
                        align = align.or(Some(size));
                        size *= count.trim_end_matches(']').parse::<usize>().ok()?;
                    }
                }
            }
        }
        end = end.next_multiple_of(align.unwrap_or(size).max(1)) + size;
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_directive() {
        assert_eq!(ptx_version("//\n.version 8.0\n.target sm_80\n"), Some((8, 0)));
        assert_eq!(ptx_version(".version 7.8 // x"), Some((7, 8)));
        assert_eq!(ptx_version(".target sm_80"), None);
    }

    #[test]
    fn parameter_block_sizes() {
        let ptx = "
.visible .entry foo_long(
\t.param .align 8 .b8 foo_long_param_0[112]
)
{ }
.visible .entry foo(
\t.param .u32 a,
\t.param .u64 b,
\t.param .u64 .ptr .global .align 16 c,
\t.param .u8 d
)
.maxntid 1, 1, 1
{ }
.entry none()
{ }";
        assert_eq!(param_bytes(ptx, "foo_long"), Some(112));
        assert_eq!(param_bytes(ptx, "foo"), Some(25));
        assert_eq!(param_bytes(ptx, "none"), Some(0));
        assert_eq!(param_bytes(ptx, "fo"), None);
    }
}
