//! Device memory by purpose, and how a generation fits into less: the weights of some transformer blocks stay in host memory.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::report::bytes;
use crate::model::SLOTS;

const MIB: usize = 1 << 20;

/// A memory size in common notation: `8GiB`, `6000MiB`, `7.5GB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySize(pub usize);

/// Why a text is not a [`MemorySize`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a size: write a number above 0 and its unit (MiB, GiB, MB or GB), as in 8GiB or 6000MiB")]
pub struct SizeError(String);

impl FromStr for MemorySize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<MemorySize, SizeError> {
        let parse = || {
            let text = text.trim();
            let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic())?);
            let unit = match unit.to_ascii_lowercase().as_str() {
                "mib" => MIB as f64,
                "gib" => (MIB << 10) as f64,
                "mb" => 1e6,
                "gb" => 1e9,
                _ => return None,
            };
            let number = number.trim();
            // Digits only: Rust would also read `inf`, `+1` and `1e9`.
            let digits = number.chars().all(|c| c.is_ascii_digit() || c == '.');
            let size = number.parse::<f64>().ok().filter(|_| digits)? * unit;
            // 2^53: beyond it, numbers of bytes are not exact, and there is no such memory.
            (1.0..9e15).contains(&size).then_some(MemorySize(size.round() as usize))
        };
        parse().ok_or_else(|| SizeError(text.into()))
    }
}

/// Bytes of device memory, by purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Needs {
    /// The transformer's weights outside its blocks.
    pub ends: usize,
    /// Scratch memory for the split-k partial sums of matrix products with few tiles, if there are any.
    pub scratch: usize,
    /// The weights of one block; if they differ, of the largest.
    pub block: usize,
    /// The number of blocks.
    pub blocks: usize,
    /// The weights of all blocks.
    pub all_blocks: usize,
    /// The number of experts that take turns; the weights above are of one.
    pub experts: usize,
    /// The weights of decoder and encoder; they are on the device only while in use.
    pub decoder: usize,
    /// The captions' keys and values for every block.
    pub caption: usize,
    /// Encoding the captions, before the steps begin.
    pub encoding: usize,
    /// One step while it runs, latents and prediction included.
    pub activations: usize,
    /// Memory kept from step to step: the fold and the probed residuals.
    pub cache: usize,
    /// The minimum for decoding besides the decoder's weights, after the steps.
    pub decoding: usize,
    /// The minimum for encoding given pixels besides those weights, before there are captions.
    pub reading: usize,
}

impl Needs {
    /// The needs of each phase, with its name; the largest counts.
    fn phases(&self) -> [(usize, &'static str); 4] {
        let with_decoder = |bytes: usize| if bytes > 0 { self.decoder + bytes } else { 0 };
        [
            (with_decoder(self.reading), "encoding what is given"),
            (self.caption + self.encoding, "encoding captions"),
            (self.caption + self.activations + self.cache, "denoising"),
            (self.caption + with_decoder(self.decoding), "decoding"),
        ]
    }

    fn with_blocks(&self, blocks: usize) -> usize {
        let most = self.phases().iter().map(|(bytes, _)| *bytes).max().unwrap_or(0);
        self.ends + self.scratch + (blocks * self.block).min(self.all_blocks) + most
    }

    /// With all weights on the device; of several experts those of the one at work.
    pub fn resident(&self) -> usize {
        self.with_blocks(self.blocks)
    }

    /// With the weights of all experts on the device, so that none is loaded again.
    pub fn together(&self) -> usize {
        self.resident() + self.experts.saturating_sub(1) * (self.ends + self.all_blocks)
    }

    /// The larger of each: what two stages need, of which one runs at a time.
    pub(super) fn or(self, other: Needs) -> Needs {
        Needs {
            ends: self.ends.max(other.ends),
            scratch: self.scratch.max(other.scratch),
            block: self.block.max(other.block),
            blocks: self.blocks.max(other.blocks),
            all_blocks: self.all_blocks.max(other.all_blocks),
            experts: self.experts.max(other.experts),
            decoder: self.decoder.max(other.decoder),
            caption: self.caption.max(other.caption),
            encoding: self.encoding.max(other.encoding),
            activations: self.activations.max(other.activations),
            cache: self.cache.max(other.cache),
            decoding: self.decoding.max(other.decoding),
            reading: self.reading.max(other.reading),
        }
    }

    /// With the weights of every block in host memory: the smallest possible budget.
    pub fn least(&self) -> usize {
        self.with_blocks(self.blocks.min(SLOTS))
    }

    /// The number of blocks that must be streamed so that everything fits into `budget` bytes.
    ///
    /// # Errors
    /// When streaming all of them is not enough.
    pub fn streamed(&self, budget: usize) -> Result<usize, BudgetError> {
        if budget < self.least() {
            return Err(BudgetError { budget, needs: *self });
        }
        if budget >= self.resident() {
            return Ok(0);
        }
        // Less than all fit, and some of the room is for those that come and go.
        let fit = (budget - self.with_blocks(0)) / self.block;
        Ok(self.blocks - (fit - SLOTS))
    }

    /// The weights of `streamed` blocks, which are evenly spread: if blocks differ, those of as many average ones.
    pub fn streamed_bytes(&self, streamed: usize) -> usize {
        self.all_blocks * streamed / self.blocks.max(1)
    }
}

/// A memory budget that is too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetError {
    /// The available bytes.
    pub budget: usize,
    /// The required bytes.
    pub needs: Needs,
}

impl std::error::Error for BudgetError {}

impl fmt::Display for BudgetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = &self.needs;
        writeln!(
            f,
            "{} of device memory are not enough: with the weights of all {} blocks in the host's memory it takes {}",
            bytes(self.budget),
            n.blocks,
            bytes(n.least())
        )?;
        let mut line = |bytes_of: usize, what: &str| writeln!(f, "  {:>10}  {what}", bytes(bytes_of));
        line(n.ends, "weights outside the blocks")?;
        if n.scratch > 0 {
            line(n.scratch, "sums of matrix products of few tiles")?;
        }
        line(n.blocks.min(SLOTS) * n.block, "room for two blocks, one computing and one arriving")?;
        let phases = n.phases();
        let most = phases.iter().max_by_key(|(bytes, _)| *bytes).map_or("", |(_, name)| *name);
        line(phases.iter().map(|(bytes, _)| *bytes).max().unwrap_or(0), &format!("the most of what follows: {most}"))?;
        for (bytes_of, what) in [
            (n.caption, "keys and values of the captions, and with them either"),
            (n.encoding, "  encoding the captions, or"),
            (n.activations, "  activations of a step and latents, and"),
            (n.cache, "  residuals kept from step to step, or"),
            (n.decoder, "  weights of the decoder, and"),
            (n.decoding, "  decoding at the least"),
            (n.reading, "encoding given pixels, with the decoder's weights alone"),
        ] {
            if bytes_of > 0 {
                line(bytes_of, &format!("  {what}"))?;
            }
        }
        write!(
            f,
            "give at least --vram-budget {}MiB (all weights stay on the device from {}MiB on), or make less at once: a smaller --size or \
             --resolution, fewer --frames, --batch 1",
            n.least().div_ceil(MIB),
            n.resident().div_ceil(MIB)
        )?;
        if n.cache > 0 {
            write!(f, ", --fp8-cache, --cache none")?;
        }
        if most == "decoding" {
            write!(f, ", --out FILE.safetensors (latents need no decoder)")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_unit() {
        let size = |text: &str| text.parse::<MemorySize>().map(|size| size.0);
        assert_eq!(size("8GiB"), Ok(8 << 30));
        assert_eq!(size(" 6000 MiB "), Ok(6000 << 20));
        assert_eq!(size("7.5gb"), Ok(7_500_000_000));
        assert_eq!(size(".5GiB"), Ok(1 << 29));
        for bad in [
            "",
            "8",
            "GiB",
            "0GiB",
            "-1GiB",
            "8TiB",
            "8 G",
            "1e3MB",
            "infGB",
            "nanGB",
            "1.2.3GB",
            "99999999999GiB",
            "8GiBs",
            "8é",
        ] {
            let error = size(bad).unwrap_err().to_string();
            assert!(error.contains("as in 8GiB") && error.starts_with(&format!("`{bad}`")), "{error}");
        }
    }

    fn needs() -> Needs {
        let (caption, encoding, activations, cache) = (30, 10, 300, 50);
        let (decoder, decoding, reading) = (20, 200, 0);
        let (ends, scratch, block, blocks, all_blocks, experts) = (1000, 0, 100, 8, 800, 1);
        Needs {
            ends,
            scratch,
            block,
            blocks,
            all_blocks,
            experts,
            decoder,
            caption,
            encoding,
            activations,
            cache,
            decoding,
            reading,
        }
    }

    #[test]
    fn the_largest_phase_counts() {
        let n = needs();
        assert_eq!(n.least(), 1000 + 200 + 30 + 300 + 50);
        assert_eq!(Needs { encoding: 400, ..n }.least(), 1200 + 30 + 400);
        assert_eq!(Needs { decoding: 400, ..n }.least(), 1200 + 30 + 20 + 400);
        // Before there are captions.
        assert_eq!(Needs { reading: 400, ..n }.least(), 1200 + 20 + 400);
    }

    #[test]
    fn as_few_blocks_are_streamed_as_the_budget_allows() {
        let n = needs();
        // 1000 + 30 + 300 + 50
        assert_eq!((n.least(), n.resident()), (1380 + 200, 1380 + 800));
        assert_eq!((n.streamed(2180), n.streamed(usize::MAX)), (Ok(0), Ok(0)));
        // Two experts: the weights of the second come on top if they are to stay.
        let two = Needs { experts: 2, ..n };
        assert_eq!((n.together(), two.resident(), two.together()), (2180, 2180, 2180 + 1000 + 800));
        for budget in 1580..2180 {
            let streamed = n.streamed(budget).unwrap();
            let used = |streamed: usize| 1380 + (8 - streamed + SLOTS) * 100;
            assert!(used(streamed) <= budget && used(streamed - 1) > budget, "{budget}: {streamed}");
        }
        assert_eq!(n.streamed(1580), Ok(8));
        assert!(n.streamed(1579).is_err());
        // Blocks of 100 and of 75 in turn: what is left on the device may all be of the larger ones.
        let uneven = Needs { all_blocks: 700, ..n };
        assert_eq!((uneven.least(), uneven.resident(), uneven.streamed_bytes(4)), (1580, 2080, 350));
        assert_eq!((uneven.streamed(2080), uneven.streamed(2079)), (Ok(0), Ok(4)));
    }

    #[test]
    fn a_budget_too_small_is_told_in_summands() {
        let n = Needs { decoding: 5 << 30, decoder: 3 << 20, ends: 7 << 20, ..needs() };
        let text = n.streamed(1 << 20).unwrap_err().to_string();
        for part in [
            "1.0 MiB of device memory",
            "all 8 blocks",
            "7.0 MiB  weights outside",
            "200 B  room for two",
            "the most of what follows: decoding",
            "30 B    keys",
            "300 B      activations",
            "50 B      residuals",
            "3.0 MiB      weights of the decoder",
            "5.0 GiB      decoding",
            "--vram-budget 5131MiB",
            "--fp8-cache",
            "--out",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let text = Needs { cache: 0, ..needs() }.streamed(0).unwrap_err().to_string();
        assert!(
            text.contains("follows: denoising") && !text.contains("--fp8-cache") && !text.contains("--out"),
            "{text}"
        );
    }
}
