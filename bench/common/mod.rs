//! What the benchmarks of single operations share: the shapes, the device, and how launches are timed.
//!
//! `ADACACHE_DEVICE` names the device (default `auto`: a GPU when a driver answers, else the virtual GPU). Seconds belong to that device.

use std::fmt;
use std::sync::LazyLock;

use adacache::bench::{Case, Op, Shapes};
use adacache::device::Device;
use adacache::family::FAMILIES;
use adacache::profile::Tally;
use adacache::tensor::DType;
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};

/// The device of all benchmarks.
pub(crate) static DEVICE: LazyLock<Device> = LazyLock::new(|| {
    let spec = std::env::var("ADACACHE_DEVICE").unwrap_or_else(|_| "auto".into());
    let device = Device::open(&spec).unwrap_or_else(|error| panic!("{error}"));
    eprintln!("device: {}", device.info().label());
    device
});

/// An operation at the size of a model.
#[derive(Clone)]
pub(crate) struct Sized {
    model: String,
    case: Case,
}

impl fmt::Display for Sized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.model, self.case.name())
    }
}

/// The shapes of `op` in a step of `sprites` and a small autoencoder; on a GPU those of every family at its smallest published resolution and 51
/// frames too, which would take the VM minutes.
pub(crate) fn shapes(op: Op) -> Vec<Sized> {
    let mut models = vec![("sprites".to_owned(), Shapes::small().expect("built in"))];
    let published = FAMILIES.iter().filter(|_| !DEVICE.is_vm());
    models.extend(published.filter_map(|family| {
        let resolution = family.resolutions().first()?;
        let shapes = Shapes::published(family.name(), resolution).expect("published");
        Some((format!("{} {resolution}", family.name()), shapes))
    }));
    let of = |(model, shapes): (String, Shapes)| {
        shapes.only(&[op]).cases().into_iter().map(move |case| Sized { model: model.clone(), case })
    };
    models.into_iter().flat_map(of).collect()
}

/// Times the launches of one operation in bf16, with its FLOPs (as items) and the least bytes it moves.
pub(crate) fn launches(bencher: Bencher<'_, '_>, sized: &Sized) {
    let device = &*DEVICE;
    let prepared = sized.case.prepare(device, DType::Bf16).expect("room for the operation");
    // The first launch loads the kernel; what it launches is the operation's work.
    let tally = Tally::new();
    device.observe(Some(tally.clone()));
    let launched = prepared.run();
    device.observe(None);
    launched.expect("the operation runs");
    let work = tally.take().into_iter().fold((0, 0), |(flops, bytes), entry| {
        (flops + entry.launches * entry.work.flops, bytes + entry.launches * entry.work.bytes())
    });
    let bencher = bencher.counter(BytesCount::new(work.1));
    let run = || {
        prepared.run().expect("the operation runs");
        device.synchronize().expect("the operation ends");
    };
    match work.0 {
        0 => bencher.bench_local(run),
        flops => bencher.counter(ItemsCount::new(flops)).bench_local(run),
    }
}
