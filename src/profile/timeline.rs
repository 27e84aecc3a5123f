//! A timeline of all work of a device, as a Chrome trace: open the file in <https://ui.perfetto.dev> or `chrome://tracing`.
//!
//! Viewers demand that the slices of a track nest: two of them are apart, or one lies within the other, to the nanosecond. So the time of an
//! event is read once and serves as the end of one slice and the start of the next, and it is a whole number of [`Ticks`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::nvml::{Sample, Sampler};
use crate::device::{Device, DeviceError, DeviceKind, Event, Launch, LaunchObserver, LaunchStats, Work};

// Tracks of the trace.
const DEVICE: u32 = 1;
const LAUNCHES: u32 = 1;
const SPANS: u32 = 2;
const MARKERS: u32 = 3;

/// Observes a device from [`Profile::start`] to [`Profile::finish`].
pub struct Profile {
    device: Device,
    recorder: Arc<Recorder>,
    /// The start by the device's clock and by the host's.
    origin: (Event, Instant),
    points: Mutex<Vec<Event>>,
    sampler: Option<Sampler>,
}

/// A moment by the device's clock; see [`Profile::point`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point(usize);

/// A span of time shown above the launches, such as a step.
#[derive(Debug, Clone)]
pub struct Span {
    /// Its label.
    pub name: String,
    /// Its end.
    pub end: Point,
    /// Its duration in seconds.
    pub seconds: f64,
    /// Further facts to show.
    pub facts: Value,
}

/// A moment to show, such as a decision.
#[derive(Debug, Clone)]
pub struct Marker {
    /// Its label.
    pub name: String,
    /// Its time.
    pub at: Point,
    /// Further facts to show.
    pub facts: Value,
}

#[derive(Default)]
struct Recorder(Mutex<Vec<Record>>);

struct Record {
    kernel: String,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    work: Work,
    start: Event,
    end: Event,
    stats: Option<LaunchStats>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LaunchObserver for Recorder {
    fn launched(&self, launch: &Launch<'_>, start: Event, end: Event, stats: Option<LaunchStats>) {
        let Launch { kernel, grid, block, shared, work } = *launch;
        lock(&self.0).push(Record { kernel: kernel.into(), grid, block, shared, work, start, end, stats });
    }
}

impl Profile {
    /// Starts observing `device`. On a GPU, power, clocks and memory are sampled too if NVML is available.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn start(device: &Device) -> Result<Profile, DeviceError> {
        device.synchronize()?;
        let origin = (device.record()?, Instant::now());
        let recorder = Arc::new(Recorder::default());
        device.observe(Some(recorder.clone()));
        let sampler = device.info().pci.as_deref().and_then(Sampler::start);
        Ok(Profile { device: device.clone(), recorder, origin, points: Mutex::default(), sampler })
    }

    /// Records a moment of the device's stream, such as the end of a step.
    pub fn point(&self, event: &Event) -> Point {
        let mut points = lock(&self.points);
        points.push(event.clone());
        Point(points.len() - 1)
    }

    /// Stops observing, waits for the device, and returns the trace.
    ///
    /// # Errors
    /// Faults of kernels that ran in the meantime.
    pub fn finish(mut self, spans: &[Span], markers: &[Marker]) -> Result<Trace, DeviceError> {
        self.device.observe(None);
        self.device.synchronize()?;
        let mut events = self.names();
        let mut clock = Clock::new(&self.origin.0);
        for record in std::mem::take(&mut *lock(&self.recorder.0)) {
            let (start, end) = (clock.at(&record.start)?, clock.at(&record.end)?);
            let cat = if record.grid == [0; 3] { "memory" } else { "kernel" };
            let args = facts(&record, record.end.seconds_since(&record.start)?);
            events.push(slice(LAUNCHES, cat, &record.kernel, (start, end), json!(args)));
        }
        let points = std::mem::take(&mut *lock(&self.points));
        let mut clock = Clock::new(&self.origin.0);
        let points = points.iter().map(|event| clock.at(event)).collect::<Result<Vec<Ticks>, _>>()?;
        // A span begins where the one before ends, if its duration says so too.
        let mut before = Ticks(0);
        for Span { name, end, seconds, facts } in spans {
            let end = points[end.0].max(before);
            let start = Ticks(end.0.saturating_sub(Ticks::of(*seconds).0)).max(before);
            events.push(slice(SPANS, "span", name, (start, end), facts.clone()));
            before = end;
        }
        for Marker { name, at, facts } in markers {
            let ts = points[at.0].microseconds();
            events.push(json!({
                "ph": "i", "s": "p", "cat": "marker", "name": name, "pid": DEVICE, "tid": MARKERS, "ts": ts, "args": facts,
            }));
        }
        for sample in self.sampler.take().map(Sampler::stop).unwrap_or_default() {
            let Sample { at, values } = sample;
            let ts = at.saturating_duration_since(self.origin.1).as_secs_f64() * 1e6;
            for (name, value) in values {
                events.push(json!({ "ph": "C", "name": name, "pid": DEVICE, "ts": ts, "args": { "value": value } }));
            }
        }
        let other = json!({ "device": self.device.info().label(), "clock": whose(self.device.info().kind) });
        Ok(Trace { trace_events: events, display_time_unit: "ms", other_data: other })
    }

    /// Names of the tracks. The device's name states on which device the times were measured.
    fn names(&self) -> Vec<Value> {
        let info = self.device.info();
        let process = format!("{}: {}", info.label(), whose(info.kind));
        let name = |what: &str, tid: u32, name: &str| json!({ "ph": "M", "name": what, "pid": DEVICE, "tid": tid, "args": { "name": name } });
        vec![
            name("process_name", 0, &process),
            name("thread_name", LAUNCHES, "launches"),
            name("thread_name", SPANS, "steps"),
            name("thread_name", MARKERS, "decisions"),
        ]
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.device.observe(None);
    }
}

/// Time since the start in eighths of a microsecond. Their number of microseconds is exact in f64, and so is a thousand times that: what a
/// viewer makes nanoseconds of it does not move slices against each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ticks(u64);

impl Ticks {
    fn of(seconds: f64) -> Ticks {
        Ticks((seconds * 8e6).max(0.0) as u64)
    }

    fn microseconds(self) -> f64 {
        self.0 as f64 / 8.0
    }
}

/// Tells the times of events in the order of the stream. Each is measured from the one before: drivers measure in f32, which is exact to
/// microseconds over seconds alone.
struct Clock {
    last: Event,
    seconds: f64,
}

impl Clock {
    fn new(origin: &Event) -> Clock {
        Clock { last: origin.clone(), seconds: 0.0 }
    }

    fn at(&mut self, event: &Event) -> Result<Ticks, DeviceError> {
        self.seconds += event.seconds_since(&self.last)?.max(0.0);
        self.last = event.clone();
        Ok(Ticks::of(self.seconds))
    }
}

/// A slice of a track.
fn slice(track: u32, cat: &str, name: &str, (start, end): (Ticks, Ticks), facts: Value) -> Value {
    let (ts, dur) = (start.microseconds(), Ticks(end.0 - start.0).microseconds());
    json!({ "ph": "X", "cat": cat, "name": name, "pid": DEVICE, "tid": track, "ts": ts, "dur": dur, "args": facts })
}

fn whose(kind: DeviceKind) -> &'static str {
    match kind {
        DeviceKind::Cuda => "times by CUDA events",
        DeviceKind::Vm => "VM, wall-clock times of the CPU, not a GPU's",
        DeviceKind::Dry => "no times, nothing ran",
    }
}

fn facts(record: &Record, seconds: f64) -> Map<String, Value> {
    let mut facts = Map::new();
    let mut add = |name: &str, value: Value| facts.insert(name.into(), value);
    if record.grid != [0; 3] {
        add("grid", json!(record.grid));
        add("block", json!(record.block));
        add("shared_bytes", json!(record.shared));
        add("flops", json!(record.work.flops));
    }
    add("bytes_read", json!(record.work.bytes_read));
    add("bytes_written", json!(record.work.bytes_written));
    if seconds > 0.0 {
        add("gigabytes_per_second", json!(record.work.bytes() as f64 / seconds / 1e9));
        if record.work.flops > 0 {
            add("gigaflops_per_second", json!(record.work.flops as f64 / seconds / 1e9));
        }
    }
    if let Some(counters) = record.stats.as_ref().and_then(|s| s.counters.as_ref()) {
        add("vm_counters", json!(counters));
    }
    facts
}

/// A finished trace; its JSON is the format of trace viewers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trace {
    #[serde(rename = "traceEvents")]
    trace_events: Vec<Value>,
    #[serde(rename = "displayTimeUnit")]
    display_time_unit: &'static str,
    #[serde(rename = "otherData")]
    other_data: Value,
}
