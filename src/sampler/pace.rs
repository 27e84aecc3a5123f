//! How far the host may run ahead of the device, and when a step is reported.

use crate::cache::Plan;
use crate::device::{Device, DeviceError, Event};

/// A computed step longer than this is waited for before the next one is queued: the resulting pause is negligible for such a step, and
/// stopping the run does not have to wait for a second one.
const LONG_SECONDS: f64 = 0.5;

/// Limits how far the host runs ahead of the device, and tracks the reported steps.
///
/// At most two steps are queued, so that the device has the next one when it finishes one; of long steps, only one. The length is unknown
/// until a computed step has been measured (the first, which loads the kernels, does not count); until then the limit is also one.
pub(super) struct Pace {
    /// The start, then the end of each queued step.
    pub(super) ends: Vec<Event>,
    /// The plans of the queued steps, by member.
    plans: Vec<Vec<Plan>>,
    /// The number of reported steps.
    told: usize,
    /// Seconds of the longest computed step, not counting the first.
    longest: Option<f64>,
}

impl Pace {
    pub(super) fn new(device: &Device) -> Result<Pace, DeviceError> {
        Ok(Pace { ends: vec![device.record()?], plans: vec![], told: 0, longest: None })
    }

    /// Registers a step with these plans that has been queued.
    pub(super) fn queued(&mut self, device: &Device, plans: Vec<Plan>) -> Result<(), DeviceError> {
        self.ends.push(device.record()?);
        self.plans.push(plans);
        Ok(())
    }

    /// The next step to report, if it is finished; `steps` is the total. Waits for it if too much is queued or nothing more will be queued.
    pub(super) fn finished(&mut self, steps: usize) -> Result<Option<usize>, DeviceError> {
        let (queued, step) = (self.plans.len(), self.told + 1);
        if step > queued {
            return Ok(None);
        }
        if queued == steps || queued - self.told > self.ahead() {
            self.ends[step].wait()?;
        } else if !self.ends[step].ready()? {
            return Ok(None);
        }
        self.told = step;
        if step > 1 && self.plans(step).iter().any(|plan| *plan != Plan::Reuse) {
            let seconds = self.seconds(step)?;
            self.longest = Some(self.longest.map_or(seconds, |longest| longest.max(seconds)));
        }
        Ok(Some(step))
    }

    /// The number of steps that may be unfinished while the next one is being queued.
    fn ahead(&self) -> usize {
        usize::from(self.longest.is_some_and(|seconds| seconds < LONG_SECONDS))
    }

    pub(super) fn plans(&self, step: usize) -> &[Plan] {
        &self.plans[step - 1]
    }

    /// Seconds of a queued step; waits until it is finished.
    pub(super) fn seconds(&self, step: usize) -> Result<f64, DeviceError> {
        self.ends[step].seconds_since(&self.ends[step - 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DryConfig;

    #[test]
    fn the_host_runs_ahead_where_steps_are_short() {
        let gpu = DryConfig { name: "any".into(), memory: 1 << 20, units: 1, compute_capability: (8, 0) };
        let device = Device::dry(gpu);
        let mut pace = Pace::new(&device).unwrap();
        assert_eq!(pace.finished(3).unwrap(), None, "nothing is queued");
        let mut told = vec![];
        for step in 1..=3 {
            let plan = if step == 2 { Plan::Reuse } else { Plan::Compute };
            pace.queued(&device, vec![plan]).unwrap();
            while let Some(step) = pace.finished(3).unwrap() {
                told.push(step);
            }
            // The first step loads kernels, the second is reused: only the third tells how long a step takes.
            assert_eq!((pace.longest.is_some(), pace.ahead()), (step == 3, usize::from(step == 3)), "{step}");
        }
        assert_eq!(told, [1, 2, 3]);
        pace.longest = Some(LONG_SECONDS);
        assert_eq!(pace.ahead(), 0, "a long step is waited for");
    }
}
