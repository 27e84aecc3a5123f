//! A timeline of all work of a device, as a Chrome trace: open the file in <https://ui.perfetto.dev> or `chrome://tracing`.

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
        let microseconds = |event: &Event| Ok::<f64, DeviceError>(event.seconds_since(&self.origin.0)? * 1e6);
        let mut events = self.names();
        for record in std::mem::take(&mut *lock(&self.recorder.0)) {
            let (ts, seconds) = (microseconds(&record.start)?, record.end.seconds_since(&record.start)?);
            let cat = if record.grid == [0; 3] { "memory" } else { "kernel" };
            let (dur, args) = (seconds * 1e6, facts(&record, seconds));
            events.push(json!({
                "ph": "X", "cat": cat, "name": record.kernel, "pid": DEVICE, "tid": LAUNCHES, "ts": ts, "dur": dur, "args": args,
            }));
        }
        let points = std::mem::take(&mut *lock(&self.points));
        let at = |point: Point| microseconds(&points[point.0]);
        for Span { name, end, seconds, facts } in spans {
            let dur = seconds * 1e6;
            let ts = (at(*end)? - dur).max(0.0);
            events.push(json!({
                "ph": "X", "cat": "span", "name": name, "pid": DEVICE, "tid": SPANS, "ts": ts, "dur": dur, "args": facts,
            }));
        }
        for Marker { name, at: point, facts } in markers {
            events.push(json!({
                "ph": "i", "s": "p", "cat": "marker", "name": name, "pid": DEVICE, "tid": MARKERS, "ts": at(*point)?, "args": facts,
            }));
        }
        for sample in self.sampler.take().map(Sampler::stop).unwrap_or_default() {
            let Sample { at, values } = sample;
            let ts = at.saturating_duration_since(self.origin.1).as_secs_f64() * 1e6;
            for (name, value) in values {
                events.push(json!({ "ph": "C", "name": name, "pid": DEVICE, "ts": ts, "args": { "value": value } }));
            }
        }
        let other = json!({ "device": self.device.info().label(), "clock": clock(self.device.info().kind) });
        Ok(Trace { trace_events: events, display_time_unit: "ms", other_data: other })
    }

    /// Names of the tracks. The device's name states on which device the times were measured.
    fn names(&self) -> Vec<Value> {
        let info = self.device.info();
        let process = format!("{}: {}", info.label(), clock(info.kind));
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

fn clock(kind: DeviceKind) -> &'static str {
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
