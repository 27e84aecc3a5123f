//! Runs cache policies alone, without a model or a device, on measurements recorded earlier.
//!
//! The recorded run computed every step and measured what the presets used here measure. Record your own with
//! `adacache generate … --cache none --trace FILE.jsonl`; `adacache replay FILE.jsonl` does this from the command line.
//!
//! ```sh
//! cargo run --release --example replay_policy [FILE.jsonl]
//! ```

use std::error::Error;
use std::fs::File;
use std::io::BufReader;

use adacache::cache::computed_steps;
use adacache::cache::trace::Trace;
use adacache::family;
use adacache::pipeline::schedule_strip;

fn main() -> Result<(), Box<dyn Error>> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/trace.jsonl");
    let path = std::env::args().nth(1).unwrap_or_else(|| default.into());
    let trace = Trace::read(BufReader::new(File::open(path)?))?;

    let source = family::sprites();
    let (presets, anatomy) = (source.presets(trace.steps)?, source.anatomy());
    for (name, moreg) in
        [("adacache-fast", false), ("adacache-fast", true), ("teacache-fast", false), ("fbcache", false)]
    {
        let config = presets.resolve(name, moreg, anatomy, trace.steps)?;
        let (plans, decisions) = trace.replay(&mut *trace.policy(&config, anatomy)?)?;
        let computed = computed_steps(&plans);
        println!("{name}{}", if moreg { " with motion regularization" } else { "" });
        let strip = schedule_strip(trace.steps, &computed, &[]);
        println!("  {strip}  {} of {} steps computed", computed.len(), trace.steps);
        for d in decisions {
            let rate = d.rate.map_or_else(String::new, |rate| format!(", next computed in {rate}"));
            println!("  step {:>2}: rate of change {:.4} (motion factor {:.2}){rate}", d.step, d.distance, d.motion);
        }
    }
    Ok(())
}
