//! Runs AdaCache's policy alone, without a model or a device, on measurements recorded earlier.
//!
//! The recorded run computed every step, so its trace serves any codebook (its distances are between neighbouring steps). Record
//! your own with `adacache generate … --cache every.toml --trace FILE.jsonl`, where every.toml has `codebook = [[1.0, 1]]`.
//!
//! ```sh
//! cargo run --release --example replay_policy [FILE.jsonl]
//! ```

use std::error::Error;
use std::fs::File;
use std::io::BufReader;

use adacache::cache::trace::Trace;
use adacache::cache::{AdaCache, CacheConfig, Plan};
use adacache::pipeline::{ModelSource, schedule_strip};

fn main() -> Result<(), Box<dyn Error>> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/trace.jsonl");
    let path = std::env::args().nth(1).unwrap_or_else(|| default.into());
    let trace = Trace::read(BufReader::new(File::open(path)?))?;

    let source = ModelSource::sprites();
    let presets = source.presets(trace.steps)?;
    for (name, moreg) in [("adacache-fast", false), ("adacache-fast", true), ("adacache-slow", false)] {
        let CacheConfig::AdaCache(config) = presets.resolve(name, moreg, source.model_config()?.depth, trace.steps)?
        else {
            unreachable!("these presets are AdaCache's");
        };
        let (plans, decisions) = trace.replay(&mut AdaCache::new(config, trace.steps))?;
        let computed: Vec<usize> =
            (1..).zip(&plans).filter(|(_, plan)| **plan == Plan::Compute).map(|(step, _)| step).collect();
        println!("{name}{}", if moreg { " with motion regularization" } else { "" });
        println!("  {}  {} of {} steps computed", schedule_strip(trace.steps, &computed), computed.len(), trace.steps);
        for d in decisions {
            println!(
                "  after step {:>2}: rate of change {:.4} (motion factor {:.2}), next computed in {}",
                d.step, d.distance, d.motion, d.rate
            );
        }
    }
    Ok(())
}
