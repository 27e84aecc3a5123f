//! The PTX modules compiled into this crate, one for each `kernels/*.cu`, and the GPUs they run on.

use std::io::Read as _;
use std::sync::OnceLock;

use flate2::read::ZlibDecoder;

/// The architecture a module was compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Architecture {
    /// Its folder in `ptx/`.
    pub name: &'static str,
    /// The oldest compute capability that runs it.
    pub oldest: (u32, u32),
    /// Whether it uses features that no other compute capability has, newer ones included.
    pub only: bool,
}

impl Architecture {
    /// Every GPU since Ampere.
    pub const SM_80: Architecture = Architecture { name: "sm_80", oldest: (8, 0), only: false };

    /// Hopper alone: tensor maps and `wgmma`.
    pub const SM_90A: Architecture = Architecture { name: "sm_90a", oldest: (9, 0), only: true };

    /// Whether a GPU of this compute capability runs it.
    pub const fn runs_on(&self, (major, minor): (u32, u32)) -> bool {
        let (oldest, least) = self.oldest;
        if self.only { major == oldest && minor == least } else { major > oldest || major == oldest && minor >= least }
    }
}

include!(concat!(env!("OUT_DIR"), "/ptx.rs"));

macro_rules! modules {
    ($($(#[$doc:meta])* $variant:ident = $architecture:ident $name:literal,)*) => {
        /// An embedded PTX module, named after its source in `kernels/`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Module { $($(#[$doc])* $variant,)* }

        impl Module {
            /// Every module.
            pub const ALL: &[Module] = &[$(Module::$variant),*];

            /// The file name without extension: `kernels/NAME.cu` (of sm_90a: `kernels/sm_90a/NAME.cu`), `ptx/ARCHITECTURE/NAME.ptx`.
            pub const fn name(self) -> &'static str {
                match self { $(Module::$variant => $name,)* }
            }

            /// The architecture it was compiled for.
            pub const fn architecture(self) -> Architecture {
                match self { $(Module::$variant => Architecture::$architecture,)* }
            }
        }
    };
}

modules! {
    /// GEMM with fused prologues and epilogues.
    Linear = SM_80 "linear",
    /// The same for Hopper: tensor maps and `wgmma`, 16-bit types.
    LinearWgmma = SM_90A "linear",
    /// The same with operands in e4m3, whose rows have scales.
    LinearFp8 = SM_90A "linear_fp8",
    /// Rows to e4m3 for these products, also with LayerNorm and adaLN.
    Quantise = SM_90A "quantise",
    /// The same for products with few tiles.
    LinearFew = SM_80 "linear_few",
    /// Fused attention, one entry for each head dimension and dtype.
    Attention = SM_80 "attention",
    /// The same for Hopper: tensor maps and `wgmma`, 16-bit types, heads of 72, and of 128 without norm.
    AttentionWgmma = SM_90A "attention",
    /// LayerNorm statistics and modulation.
    Norm = SM_80 "norm",
    /// AdaCache's probe, and the fold of residuals.
    Residual = SM_80 "residual",
    /// Frame differences alone.
    Motion = SM_80 "motion",
    /// Patches, positions, timesteps, captions.
    Embed = SM_80 "embed",
    /// Guidance and the step update.
    Sampler = SM_80 "sampler",
    /// The scalars of a step, and AdaCache's decision.
    Decide = SM_80 "decide",
    /// Kept residuals in 8 bits.
    Pack = SM_80 "pack",
    /// The decoder of the sprites model, and pixels to bytes.
    Decode = SM_80 "decode",
    /// Convolution in time and space.
    Conv = SM_80 "conv",
    /// GroupNorm with SiLU.
    GroupNorm = SM_80 "group_norm",
    /// Circular filters along an axis.
    Circulant = SM_80 "circulant",
    /// Softmax of long rows.
    Softmax = SM_80 "softmax",
    /// RMSNorm over the channels of every position, with SiLU.
    RmsNorm = SM_80 "rms_norm",
    /// Shortcuts without weights around a change of resolution.
    Resample = SM_80 "resample",
}

impl Module {
    /// The PTX text; `None` if this build did not embed it. It is unpacked once.
    pub fn ptx(self) -> Option<&'static str> {
        static TEXTS: [OnceLock<Option<String>>; Module::ALL.len()] = [const { OnceLock::new() }; Module::ALL.len()];
        TEXTS[self as usize].get_or_init(|| self.unpack()).as_deref()
    }

    fn unpack(self) -> Option<String> {
        let its =
            |(folder, name, _): &&(&str, &str, &[u8])| (*folder, *name) == (self.architecture().name, self.name());
        let (.., packed) = EMBEDDED.iter().find(its)?;
        let mut text = String::new();
        ZlibDecoder::new(*packed).read_to_string(&mut text).expect("the build script packed it");
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_is_embedded_and_every_embedded_file_is_a_module() {
        for module in Module::ALL {
            assert!(
                module.ptx().is_some_and(|ptx| ptx.contains(".visible .entry")),
                "ptx/{}/{}.ptx is missing",
                module.architecture().name,
                module.name()
            );
        }
        for (folder, name, _) in EMBEDDED {
            let known = |m: &Module| (m.architecture().name, m.name()) == (*folder, *name);
            assert!(Module::ALL.iter().any(known), "ptx/{folder}/{name}.ptx has no Module variant");
        }
    }

    #[test]
    fn architectures_run_on_newer_ones_or_on_one_alone() {
        for (capability, ampere, alone) in [
            ((7, 5), false, false),
            ((8, 0), true, false),
            ((8, 9), true, false),
            ((9, 0), true, true),
            ((10, 0), true, false),
        ] {
            assert_eq!(
                (Architecture::SM_80.runs_on(capability), Architecture::SM_90A.runs_on(capability)),
                (ampere, alone)
            );
        }
    }
}
