//! Interruption of a device by another thread, such as that of a signal handler or a timer.

use super::backend::lock;
use ptx_vm::Vm;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// Devices that are interrupted together.
#[derive(Default)]
pub(super) struct Interruption {
    asked: AtomicBool,
    /// The virtual GPUs, whose launches are cut short.
    vms: Mutex<Vec<Weak<Vm>>>,
}

impl Interruption {
    /// Whether an interruption was requested.
    pub(super) fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Adds the device's virtual GPU, if it has one.
    pub(super) fn includes(&self, vm: Weak<Vm>) {
        let mut vms = lock(&self.vms);
        vms.retain(|vm| vm.strong_count() > 0);
        if let Some(vm) = vm.upgrade() {
            if self.asked.load(Ordering::SeqCst) {
                vm.interrupt();
            }
            vms.push(Arc::downgrade(&vm));
        }
    }
}

/// Interrupts a device. It does not keep the device alive, and may outlive it.
#[derive(Clone)]
pub struct Interrupter(pub(super) Arc<Interruption>);

impl Interrupter {
    /// From now on the device starts no work: every call that would start any fails with
    /// [`DeviceError::Interrupted`](super::DeviceError::Interrupted), in any thread. A launch that runs on the virtual GPU ends within
    /// milliseconds, with undefined results. A GPU finishes its queued work, which cannot be cancelled; freeing memory waits for that.
    pub fn interrupt(&self) {
        self.0.asked.store(true, Ordering::SeqCst);
        lock(&self.0.vms).iter().filter_map(Weak::upgrade).for_each(|vm| vm.interrupt());
    }

    /// Ends the interruption: the device works again.
    pub fn resume(&self) {
        lock(&self.0.vms).iter().filter_map(Weak::upgrade).for_each(|vm| vm.resume());
        self.0.asked.store(false, Ordering::SeqCst);
    }

    /// Whether the device is interrupted.
    pub fn is_interrupted(&self) -> bool {
        self.0.asked.load(Ordering::SeqCst)
    }
}

impl std::fmt::Debug for Interrupter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Interrupter({})", if self.is_interrupted() { "interrupted" } else { "not interrupted" })
    }
}
