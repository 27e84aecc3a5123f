//! Generates a video from six words with the embedded model, AdaCache on.
//!
//! ```sh
//! cargo run --release --example generate_video
//! ```

use std::ops::ControlFlow;

use adacache::device::Device;
use adacache::family;
use adacache::media::Output;
use adacache::pipeline::{Pipeline, PipelineError, Request};
use adacache::tensor::DType;

fn main() -> Result<(), PipelineError> {
    let device = Device::open("auto")?; // a GPU when a driver answers, else the virtual GPU
    let pipeline = Pipeline::load(&family::sprites(), &device, DType::Bf16)?;

    // Everything about a request can be changed: steps, guidance, seed, cache policy.
    let request = Request { seed: 7, ..Request::new(&pipeline, "small yellow ring orbiting fast navy")? };
    let generation = pipeline.generate(&request, &mut |step| {
        eprintln!("step {:>2} of {}: {:?} in {:.0} ms", step.step, step.steps, step.plan, step.seconds * 1e3);
        ControlFlow::Continue(())
    })?;

    let output = Output::new("small-yellow-ring.mp4")?;
    generation.write(&output)?;
    println!("{output}\n{}", generation.report.summary());
    Ok(())
}
