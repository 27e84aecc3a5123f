//! Evidence of the kernels' speed without a GPU: figures of their machine code, a model of the chip, and the VM's counters.
//!
//! Three layers, each usable on its own:
//! * [`figures`]: the compiler's figures of every entry for every GPU generation, recorded in `ptx/manifest.json` when ptx/ is generated;
//! * [`MainLoop::bound`] and [`Work::bound`]: how fast a chip whose pipes never wait for each other could run a main loop or a whole
//!   operation of Open-Sora or Wan. The equations and the sources of the constants: `docs/kernel-model.md`;
//! * [`count`]: the VM's counters for a few blocks of that operation.
//!
//! Nothing here is a measurement of a GPU.

mod counters;
mod model;
mod workload;

pub use counters::{Counted, count};
pub use model::{Bound, Occupancy, Pipe, WorkBound};
pub use workload::{Work, WorkKind, in_fp8, open_sora, wan};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// The figures of one entry for one target, from the compiler and the disassembler. Absent fields are 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    /// Registers per thread.
    pub registers: u64,
    /// Bytes per thread of spill stores to local memory.
    pub spill_stores: u64,
    /// Bytes per thread of spill loads.
    pub spill_loads: u64,
    /// Bytes of stack frame.
    pub stack: u64,
    /// Bytes of static shared memory.
    pub shared: u64,
    /// Threads per block and bytes of dynamic shared memory, if the source file has them; for this crate's kernels they are in a
    /// [`Choice`](crate::ops::Choice).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launch: Option<(usize, usize)>,
    /// The main loop; `None` for straight-line code.
    #[serde(rename = "loop")]
    pub main_loop: Option<MainLoop>,
}

/// One pass of one warp through a main loop, with instructions counted by pipe (`tools/sass.py`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MainLoop {
    /// Tensor-core instructions by name, such as `HMMA.16816.F32.BF16`.
    pub tensor: BTreeMap<String, u64>,
    /// All instructions: issue slots.
    pub issue: u64,
    /// Matrix loads from shared memory.
    pub ldsm: u64,
    /// Other loads from shared memory.
    pub lds: u64,
    /// Stores to shared memory.
    pub sts: u64,
    /// Asynchronous copies from global to shared memory.
    pub ldgsts: u64,
    /// Loads from global memory.
    pub ldg: u64,
    /// Stores to global memory.
    pub stg: u64,
    /// Exchanges between lanes.
    pub shfl: u64,
    /// Special functions.
    pub mufu: u64,
    /// Floating-point multiplications and additions, and integer ones on the same pipe.
    pub fma: u64,
    /// Integer, logic, comparison, minimum, conversion.
    pub alu: u64,
    /// Barriers.
    pub bar: u64,
    /// Branches, waits, the uniform datapath.
    pub other: u64,
    /// Accesses of local memory.
    pub local: u64,
    /// Bytes that go through the shared-memory pipe, without bank conflicts.
    pub shared_bytes: u64,
    /// Bytes requested from L2, if every lane is active.
    pub global_bytes: u64,
    /// Instructions in nested loops, which are not counted: the paths for odd shapes.
    pub nested: u64,
    /// The loop of the warps that copy by tensor maps for those that run this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copying: Option<Box<MainLoop>>,
}

/// Figures of every entry by target: entry → `sm_80` … → figures.
pub type Table = BTreeMap<String, BTreeMap<String, Figures>>;

/// The embedded figures of this build's kernels.
///
/// # Panics
/// `ptx/manifest.json` has no such record: a test reads it.
pub fn figures() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| parse(include_str!("../../ptx/manifest.json")).expect("tools/compile_ptx.sh wrote it"))
}

/// Parses figures of kernels: a manifest, or the output of `tools/compare_triton.py`.
///
/// # Errors
/// The text has another format.
pub fn parse(text: &str) -> Result<Table, serde_json::Error> {
    #[derive(Deserialize)]
    struct Manifest {
        files: BTreeMap<String, File>,
    }
    #[derive(Deserialize)]
    struct File {
        entries: Table,
    }
    let manifest: Manifest = serde_json::from_str(text)?;
    Ok(manifest.files.into_values().flat_map(|file| file.entries).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chips::{CHIPS, Chip, Multiprocessor};
    use crate::device::Module;
    use crate::ops::linear;
    use crate::tensor::DType;

    /// Spills indicate that a tile has grown too large.
    #[test]
    fn no_entry_spills_on_any_target() {
        for (entry, targets) in figures() {
            let known = |target: &String| Chip::of_target(target).is_some();
            assert!(targets.keys().all(known), "{entry}");
            // Kernels for Hopper alone have roles for their warps, but for those that make rows e4m3.
            let hopper = model::Roles::of(entry).is_some() || entry.starts_with("quantise");
            let runs = |chip: &&Chip| !hopper || chip.sm.compute_capability == (9, 0);
            assert!(CHIPS.iter().filter(runs).all(|chip| targets.contains_key(chip.sm.target)), "{entry}");
            assert!(!hopper || targets.len() == 1, "{entry}");
            for (target, figures) in targets {
                let spilled = figures.spill_stores + figures.spill_loads;
                assert_eq!(spilled, 0, "{entry} on {target} spills at {} registers", figures.registers);
            }
        }
    }

    /// Kernels for few tiles are chosen only if this model, which is more detailed than the table used for the choice, agrees.
    #[test]
    fn few_tiles_and_split_k_pay_where_they_are_chosen() {
        let mut split = 0;
        // GeForce has half the rate of its generation, by which alone the launchers know it.
        let known = |chip: &&Chip| chip.sm == Multiprocessor::of(chip.sm.compute_capability);
        for chip in CHIPS.iter().filter(known) {
            let seconds = |work: &Work| work.bound(chip, &figures()[&work.choice.entry][chip.sm.target]).seconds;
            for work in open_sora(chip).iter().filter(|work| work.choice.module == Module::LinearFew) {
                let WorkKind::Linear { shape, .. } = work.kind else { unreachable!("a product") };
                let kind = work.choice.entry.trim_start_matches("linear_").split("_bf16").next().unwrap();
                let whole = linear::choices(workload::target(chip), kind, DType::Bf16, shape).into_iter();
                let whole = whole.filter(|(_, choice)| choice.module == Module::Linear);
                let best = whole.map(|(_, choice)| seconds(&workload::product(String::new(), kind, shape, choice)));
                let (few, best) = (seconds(work), best.fold(f64::INFINITY, f64::min));
                assert!(
                    few < best,
                    "{} {}: {:?} takes {few:e} s, whole tiles {best:e}",
                    chip.id,
                    work.name,
                    work.choice
                );
                split += usize::from(work.choice.grid[1] > 1);
            }
        }
        assert!(split > 0);
    }

    /// Wan's heads of 128 and its decoder's channels: tensor cores are the busiest pipe of every main loop that matters.
    #[test]
    fn wan_is_bound_by_the_tensor_cores() {
        for target in ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"] {
            let chip = Chip::of_target(target).unwrap();
            for work in wan(chip) {
                let figures = &figures()[&work.choice.entry][target];
                let least = match (&work.kind, work.choice.entry.rsplit('_').next().unwrap()) {
                    (WorkKind::Linear { .. }, _) => continue, // as for Open-Sora
                    (_, "16") => continue,                    // the last convolution: 1 % of the operations
                    (_, "plain") => 1.0,
                    // An LDSM for two mma, as a warp has 16 queries: by capacity, all keys stay in shared memory.
                    (_, "cross") => 0.75,
                    _ => 0.95,
                };
                let bound = figures.main_loop.as_ref().unwrap().bound(chip, &work.choice.entry, work.choice.threads);
                let (name, limit) = (&work.name, bound.limit());
                assert!(
                    bound.fraction >= least,
                    "{target} {name}: {:.3} of the tensor peak, {limit:?}",
                    bound.fraction
                );
                if let WorkKind::Conv { .. } = work.kind {
                    assert!(work.useful > 0.99, "{target} {name}: {:.3} of the tiles is result", work.useful);
                }
            }
        }
    }

    /// The machine code of the loop over keys that Wan's self-attention spends its time in: a fragment of K or V serves four products, two
    /// blocks share a multiprocessor, and nothing is done to a key but copying and multiplying it.
    #[test]
    fn the_loop_over_keys_of_wan_does_nothing_twice() {
        for entry in ["attention_128_bf16_plain", "attention_128_f16_plain"] {
            for (target, figures) in &figures()[entry] {
                let chip = Chip::of_target(target).unwrap();
                let choice = wan(chip).into_iter().find(|work| work.choice.entry.ends_with("plain")).unwrap().choice;
                assert_eq!(figures.occupancy(chip, choice.threads, choice.shared).blocks, 2, "{target}");
                let body = figures.main_loop.as_ref().unwrap();
                // 32 queries, 32 keys: 2 · 4 · 8 products for the scores, as many for the values.
                assert_eq!((body.tensor_instructions(), body.ldsm, body.ldgsts), (128, 32, 8), "{target}");
                // The fragments of Q that have no registers; no other load, no store, no inner loop.
                assert_eq!(body.lds, 2 * crate::ops::params::ATTENTION_PLAIN_PARKED as u64, "{target}");
                assert_eq!([body.ldg, body.stg, body.sts, body.local, body.nested], [0; 5], "{target}");
                // An exponential of every score and one for every row's decay; a maximum of four rows by two exchanges.
                assert_eq!((body.mufu, body.shfl, body.bar), (36, 8, 1), "{target}");
                assert!(body.issue <= 4 * body.tensor_instructions(), "{target}: {} issue slots", body.issue);
            }
        }
    }

    /// Counted on the VM: shared memory without bank conflicts, and no operation that the results do not need.
    #[test]
    fn no_bank_conflicts_in_wan() {
        let mut seen = std::collections::BTreeSet::new();
        // Not the products: their tiles are those of Open-Sora.
        for target in ["sm_80", "sm_90"] {
            let works = wan(Chip::of_target(target).unwrap()).into_iter();
            for work in works.filter(|work| !matches!(work.kind, WorkKind::Linear { .. })) {
                if seen.insert(work.choice.entry.clone()) {
                    let counted = count(&work).unwrap();
                    assert_eq!(counted.loop_conflicts, 1.0, "{counted:?}");
                    assert!(counted.flop_ratio < if counted.entry.ends_with("16") { 2.1 } else { 1.1 }, "{counted:?}");
                }
            }
        }
        let convolutions = ["conv_bf16_192", "conv_bf16_row192", "conv_bf16_row96"];
        for entry in ["attention_128_bf16_plain", "attention_128_bf16_cross"].into_iter().chain(convolutions) {
            assert!(seen.contains(entry), "{entry} in {seen:?}");
        }
    }

    /// The frames of a token: no warp without queries, keys read and normed once, no bank conflict, no operation but those of tiles of 16
    /// frames, and less time than the copy of q, k, v and the result.
    #[test]
    fn temporal_attention_leaves_no_warp_idle() {
        for target in ["sm_80", "sm_90"] {
            let chip = Chip::of_target(target).unwrap();
            for frames in [15, 17, 24, 30, 32, 48, 51, 64] {
                let work = workload::temporal(chip, String::new(), 16, 1590, frames);
                let tiles = frames.div_ceil(16) * 16;
                let useful = frames as f64 / tiles as f64;
                assert!((work.useful - useful).abs() < 1e-9, "{target}, {frames} frames: {}", work.useful);
                let figures = &figures()[&work.choice.entry][target];
                let body = figures.main_loop.as_ref().unwrap();
                assert_eq!([body.ldg, body.stg, body.sts, body.ldgsts, body.local, body.nested], [0; 6], "{target}");
                assert_eq!(work.bound(chip, figures).of_bandwidth, 1.0, "{target}, {frames} frames");
                let counted = count(&work).unwrap();
                assert_eq!(counted.loop_conflicts, 1.0, "{counted:?}");
                assert!((counted.flop_ratio - 1.0 / (useful * useful)).abs() < 1e-9, "{frames} frames: {counted:?}");
                // q, k, v and the result once; and, of L1 or L2, twice as many bytes of angles as of q and k (a ninth of them once more, as 9
                // chunks of a row have two lanes), and the norms' weights.
                assert!((2.0..2.15).contains(&counted.bytes_ratio), "{frames} frames: {counted:?}");
            }
        }
    }

    /// Convolutions whose three taps of a row share what was copied: tensor cores are the busiest pipe on every chip, with a third of L2 and of the
    /// issue slots to spare on an H100, and the VM counts fewer bytes and no bank conflict, for 96 to 384 channels.
    #[test]
    fn convolutions_ask_for_a_row_once() {
        for (from, n) in [(96, 96), (128, 128), (192, 192), (256, 256), (384, 384)] {
            let convolve = |chip, row| workload::convolve(chip, [21, 480, 832], [from, n], [3, 3, 3], row);
            for target in ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"] {
                let chip = Chip::of_target(target).unwrap();
                let work = convolve(chip, true);
                if !work.choice.entry.contains("row") {
                    assert!(chip.sm.block_shared < 100 << 10, "{target}, {from} channels: {}", work.choice.entry);
                    continue;
                }
                let figures = &figures()[&work.choice.entry][target];
                let body = figures.main_loop.as_ref().unwrap();
                assert_eq!([body.ldg, body.stg, body.lds, body.sts, body.local, body.nested], [0; 6], "{target}");
                let bound = body.bound(chip, &work.choice.entry, work.choice.threads);
                assert_eq!((bound.fraction, bound.limit()), (1.0, Pipe::Tensor), "{target}: {bound:?}");
                if target == "sm_90" {
                    let busiest = bound.of(Pipe::L2).max(bound.of(Pipe::Issue));
                    assert!(busiest < 0.7 * bound.total(), "{bound:?}");
                }
            }
            let chip = Chip::of_target("sm_90").unwrap();
            let [rows, alone] = [true, false].map(|row| count(&convolve(chip, row)).unwrap());
            assert_eq!((rows.loop_conflicts, rows.flop_ratio), (1.0, 1.0), "{rows:?}");
            assert!(rows.bytes_ratio < 0.85 * alone.bytes_ratio, "{rows:?} {alone:?}");
        }
    }

    /// The goal for an H100: the products of Open-Sora at 720p and of Wan, with their epilogues and the load of the multiprocessors, but for the
    /// few rows of the caption.
    #[test]
    fn hopper_multiplies_at_four_fifths_of_its_peak() {
        let chip = Chip::of_target("sm_90").unwrap();
        let named = |work: &Work| {
            work.name.starts_with("1152 720p") || work.name.starts_with("1.3B") || work.name.starts_with("14B")
        };
        let works = open_sora(chip).into_iter().chain(wan(chip)).filter(named);
        let mut seen = 0;
        for work in
            works.filter(|work| matches!(work.kind, WorkKind::Linear { .. }) && !work.name.ends_with("cross kv"))
        {
            assert_eq!(work.choice.module, Module::LinearWgmma, "{}", work.name);
            let bound = work.bound(chip, &figures()[&work.choice.entry]["sm_90"]);
            assert!(bound.of_peak >= 0.8, "{}: {:.3} of the peak", work.name, bound.of_peak);
            seen += 1;
        }
        assert_eq!(seen, 5 + 3 * 5);
    }

    /// The machine code of the loops of the kernels for Hopper: nothing of memory, nothing that a warp spills, few instructions beside the
    /// products; and on the VM every operand is read without a bank conflict.
    #[test]
    fn the_loop_for_hopper_multiplies_and_waits() {
        let chip = Chip::of_target("sm_90").unwrap();
        for (entry, targets) in figures().iter().filter(|(entry, _)| entry.ends_with("_wgmma")) {
            let body = targets["sm_90"].main_loop.as_ref().unwrap();
            assert_eq!([body.ldg, body.stg, body.lds, body.sts, body.ldsm, body.local], [0; 6], "{entry}");
            let copying = body.copying.as_ref().unwrap();
            if entry.starts_with("attention") {
                // Scores and values of 64 queries and 128 keys; an exponential of each and of two rows' decay; a warpgroup's turn.
                let products = if entry.starts_with("attention_72") { 5 + 8 } else { 8 + 8 };
                let counted = (body.tensor_instructions(), body.mufu, body.shfl, body.bar);
                assert_eq!(counted, (products, 64 + 2, 4, 2), "{entry}");
                assert!(body.issue <= 480, "{entry}: {} issue slots", body.issue);
                // A key is read and written once, by the thread that norms it.
                let chunks = if entry.starts_with("attention_72") { 9 } else { 0 };
                assert_eq!([copying.lds, copying.sts, copying.local], [chunks, chunks, 0], "{entry}");
            } else {
                assert_eq!((body.tensor_instructions(), body.mufu, body.bar), (8, 0, 0), "{entry}");
                assert!(body.issue <= 120, "{entry}: {} issue slots", body.issue);
            }
        }
        let works = [open_sora(chip), wan(chip)].concat();
        let works = works.iter().cloned().chain(in_fp8(chip, &works));
        let mut seen = std::collections::BTreeSet::new();
        for work in works.filter(|work| model::Roles::of(&work.choice.entry).is_some()) {
            if seen.insert(work.choice.entry.clone()) {
                let counted = count(&work).unwrap();
                // Heads of 72 are multiplied as 80, the last tile of keys as a whole one.
                let most = match work.kind {
                    WorkKind::Attention { kv_len, head_dim, .. } => {
                        let keys = kv_len.min(1280);
                        (keys.next_multiple_of(128) * head_dim.next_multiple_of(16)) as f64 / (keys * head_dim) as f64
                    }
                    _ => 1.0,
                };
                assert_eq!(counted.loop_conflicts, 1.0, "{counted:?}");
                assert!(counted.flop_ratio <= 1.0001 * most, "{counted:?}");
            }
        }
        assert_eq!(seen.len(), 5 + 3);
    }

    /// Products of e4m3 at 720p of Open-Sora and of Wan on an H100: their main loop is bound by the tensor cores, of whose doubled peak the epilogues leave
    /// more than half where k is short, and nine tenths where it is long.
    #[test]
    fn products_of_e4m3_are_bound_by_the_tensor_cores() {
        let chip = Chip::of_target("sm_90").unwrap();
        let works = [open_sora(chip), wan(chip)].concat();
        let works = in_fp8(chip, &works);
        assert!(works.len() >= 5 + 3 * 5, "{}", works.len());
        for work in &works {
            let figures = &figures()[&work.choice.entry]["sm_90"];
            let body = figures.main_loop.as_ref().unwrap().bound(chip, &work.choice.entry, work.choice.threads);
            assert_eq!((body.limit(), body.of_peak), (Pipe::Tensor, 1.0), "{}", work.name);
            let WorkKind::Linear { shape: [m, _, k], .. } = work.kind else { unreachable!("a product") };
            let least = if m < 50_000 {
                0.0
            } else if k > 8000 {
                0.9
            } else {
                0.5
            };
            let of_peak = work.bound(chip, figures).of_peak;
            assert!(of_peak >= least, "{}: {of_peak:.3} of the peak", work.name);
        }
        assert!(in_fp8(Chip::of_target("sm_80").unwrap(), &open_sora(Chip::of_target("sm_80").unwrap())).is_empty());
    }

    /// The goal for an A100: the share of the tensor peak that the pipes allow.
    #[test]
    fn open_sora_is_bound_by_the_tensor_cores_on_sm_80() {
        let chip = Chip::of_target("sm_80").unwrap();
        for work in open_sora(chip) {
            let figures = &figures()[&work.choice.entry]["sm_80"];
            let least = match work.kind {
                WorkKind::Linear { .. } => 0.85,
                WorkKind::Attention { kv_len, .. } if kv_len > 16 => 0.65,
                _ => continue, // memory-bound at any speed
            };
            let bound = figures.main_loop.as_ref().unwrap().bound(chip, &work.choice.entry, work.choice.threads);
            assert!(
                bound.fraction >= least,
                "{}: {:.2} of the tensor peak, {:?}",
                work.name,
                bound.fraction,
                bound.limit()
            );
        }
    }
}
