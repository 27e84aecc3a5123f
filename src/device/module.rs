//! The PTX modules compiled into this crate: one for each `kernels/*.cu`.

include!(concat!(env!("OUT_DIR"), "/ptx.rs"));

macro_rules! modules {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// An embedded PTX module, named as its source in `kernels/`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Module { $($(#[$doc])* $variant,)* }

        impl Module {
            /// Every module.
            pub const ALL: &[Module] = &[$(Module::$variant),*];

            /// The file name without extension: `kernels/NAME.cu`, `ptx/NAME.ptx`.
            pub const fn name(self) -> &'static str {
                match self { $(Module::$variant => $name,)* }
            }
        }
    };
}

modules! {
    /// GEMM with fused prologues and epilogues.
    Linear = "linear",
    /// The same for products of few tiles.
    LinearFew = "linear_few",
    /// Fused attention, one entry for each head dimension and dtype.
    Attention = "attention",
    /// LayerNorm statistics and modulation.
    Norm = "norm",
    /// AdaCache's probe, and the fold of residuals.
    Residual = "residual",
    /// Frame differences by themselves.
    Motion = "motion",
    /// Patches, positions, timesteps, captions.
    Embed = "embed",
    /// Guidance and the step update.
    Sampler = "sampler",
    /// The scalars of a step, and AdaCache's decision.
    Decide = "decide",
    /// Kept residuals in 8 bits.
    Pack = "pack",
    /// The decoder of the sprites model, and pixels to bytes.
    Decode = "decode",
    /// Convolution in time and space.
    Conv = "conv",
    /// GroupNorm with SiLU.
    GroupNorm = "group_norm",
    /// Softmax of long rows.
    Softmax = "softmax",
}

impl Module {
    /// The PTX text; `None` when this build embedded no such file.
    pub fn ptx(self) -> Option<&'static str> {
        EMBEDDED.iter().find(|(name, _)| *name == self.name()).map(|(_, ptx)| *ptx)
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
                "ptx/{}.ptx is missing",
                module.name()
            );
        }
        for (name, _) in EMBEDDED {
            assert!(Module::ALL.iter().any(|m| m.name() == *name), "ptx/{name}.ptx has no Module variant");
        }
    }
}
