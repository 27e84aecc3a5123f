//! Power, clocks, temperature and memory of a GPU during a run, from NVML. The library is looked up at run time; if it is missing, there
//! are no samples.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};

const INTERVAL: Duration = Duration::from_millis(20);

/// Values at one moment, each with its display name.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) values: Vec<(&'static str, f64)>,
}

/// A thread that samples a GPU until it is stopped.
pub(super) struct Sampler {
    stop: Arc<AtomicBool>,
    /// Taken when stopped.
    thread: Option<JoinHandle<Vec<Sample>>>,
}

impl Sampler {
    /// Starts sampling the GPU at this PCI bus id; `None` if NVML, the GPU or the thread is unavailable.
    pub(super) fn start(pci: &str) -> Option<Sampler> {
        let nvml = Nvml::init().inspect_err(|error| tracing::info!("no NVML samples: {error}")).ok()?;
        if let Err(error) = nvml.device_by_pci_bus_id(pci) {
            tracing::info!("no NVML samples of {pci}: {error}");
            return None;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, pci) = (stop.clone(), pci.to_owned());
        let sampling = move || {
            let mut samples = vec![];
            while !stopped.load(Ordering::Relaxed) {
                samples.extend(sample(&nvml, &pci));
                std::thread::sleep(INTERVAL);
            }
            samples
        };
        let thread = std::thread::Builder::new().name("nvml".into()).spawn(sampling).ok()?;
        Some(Sampler { stop, thread: Some(thread) })
    }

    /// Ends sampling.
    pub(super) fn stop(mut self) -> Vec<Sample> {
        self.join()
    }

    fn join(&mut self) -> Vec<Sample> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.join();
    }
}

/// The GPU's current values; unsupported ones are left out.
fn sample(nvml: &Nvml, pci: &str) -> Option<Sample> {
    let gpu = nvml.device_by_pci_bus_id(pci).ok()?;
    let values = [
        ("power (W)", gpu.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1e3)),
        ("SM clock (MHz)", gpu.clock_info(Clock::SM).ok().map(f64::from)),
        ("memory clock (MHz)", gpu.clock_info(Clock::Memory).ok().map(f64::from)),
        ("temperature (°C)", gpu.temperature(TemperatureSensor::Gpu).ok().map(f64::from)),
        ("memory used (MiB)", gpu.memory_info().ok().map(|memory| memory.used as f64 / (1 << 20) as f64)),
    ];
    let values = values.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    Some(Sample { at: Instant::now(), values })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_is_not_there_has_no_samples_and_no_error() {
        assert!(Sampler::start("0000:ff:1f.7").is_none());
    }
}
