//! Functions of the driver API that are not there: each answers `CUDA_ERROR_NOT_SUPPORTED` and says so once. And the addresses of all exported
//! functions. Which are which is found by build.rs.

use std::ffi::c_void;

macro_rules! stubs {
    ($($name:ident)*) => {
        $(
            #[unsafe(no_mangle)]
            extern "C" fn $name() -> u32 {
                crate::enter::unsupported(stringify!($name))
            }
        )*
    };
}

/// Declared again without arguments: addresses are all that is asked of them here.
macro_rules! addresses {
    ($($name:ident)*) => {
        #[allow(clashing_extern_declarations)]
        mod exported {
            unsafe extern "C" {
                $(pub(super) fn $name();)*
            }
        }
        /// Every exported function, sorted by name.
        static ADDRESSES: &[(&str, unsafe extern "C" fn())] = &[$((stringify!($name), exported::$name)),*];
    };
}

include!(concat!(env!("OUT_DIR"), "/stubs.rs"));

/// The address of an exported function.
pub(crate) fn address(name: &str) -> Option<*mut c_void> {
    let at = ADDRESSES.binary_search_by_key(&name, |(known, _)| *known).ok()?;
    Some(ADDRESSES[at].1 as *mut c_void)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_symbol_has_an_address() {
        for symbol in crate::symbols::ALL.iter() {
            assert!(address(symbol).is_some(), "{symbol}");
        }
        const { assert!(IMPLEMENTED > 300) };
        assert_eq!(address("cuNothing"), None);
    }
}
