//! Recorded work: launches, copies, fills and fetches written down once and replayed many times. A GPU gets them as CUDA graphs, one submission
//! for hundreds of kernels; the virtual GPU, and any device that is being observed, replays the list.

use std::sync::atomic::Ordering;

use super::backend::{Handle, Result};
use super::core::Device;
use super::error::DeviceError;
use super::info::Launch;
use super::recording::{Command, RECORDING, Recording};

/// What [`Device::record_graphs`] wrote down: the launches with their arguments as they were.
///
/// It holds addresses, not device memory: whoever replays it keeps every tensor alive that it was recorded with.
pub struct Graph {
    /// The backend's own form, where it has one. Before the commands: it goes before the kernels and the host memory that it uses.
    native: Option<Handle>,
    commands: Vec<Command>,
    device: Device,
}

impl Graph {
    /// Launches and memory operations in it.
    pub fn len(&self) -> usize {
        self.commands.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Queues everything in it once more.
    ///
    /// # Errors
    /// As [`Device::launch`].
    pub fn replay(&self) -> Result<()> {
        let device = &self.device;
        device.not_recording("a replay")?;
        device.going()?;
        // An observer wants to see every launch.
        if let Some(native) = self.native.as_ref().filter(|_| device.uses_graphs() && device.observer().is_none()) {
            match device.0.backend.replay(native) {
                Err(error) if !error.is_final() => device.refused(&error),
                done => return done,
            }
        }
        self.commands.iter().try_for_each(|command| device.run(command))
    }
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Graph({} commands, {})", self.commands.len(), self.device.info().id)
    }
}

impl Device {
    /// Writes down what `body` launches, copies and fills on this device instead of doing it. [`Device::cut`] ends one graph and begins
    /// the next. Other threads are not recorded.
    ///
    /// Allocating, uploading and reading back are errors meanwhile: they are no part of a graph.
    ///
    /// # Errors
    /// What `body` says; a recording within a recording; a fault of earlier work.
    pub fn record_graphs<E: From<DeviceError>>(&self, body: impl FnOnce() -> Result<(), E>) -> Result<Vec<Graph>, E> {
        /// Ends the recording also when `body` panics.
        struct End;
        impl Drop for End {
            fn drop(&mut self) {
                RECORDING.take();
            }
        }
        if RECORDING.with_borrow(Option::is_some) {
            return Err(DeviceError::Recording { call: "a recording" }.into());
        }
        RECORDING.set(Some(Recording { device: self.identity(), parts: vec![vec![]] }));
        let end = End;
        body()?;
        let parts = RECORDING.take().map(|recording| recording.parts).unwrap_or_default();
        drop(end);
        let graph = |commands: Vec<Command>| -> Result<Graph> {
            let native = self.native(&commands)?;
            Ok(Graph { native, commands, device: self.clone() })
        };
        Ok(parts.into_iter().map(graph).collect::<Result<_>>()?)
    }

    /// The backend's own form of these commands; `None` where there is none, it is not wanted, or the driver refuses it: then they are queued one
    /// by one, which gives the same results.
    fn native(&self, commands: &[Command]) -> Result<Option<Handle>> {
        self.going()?;
        if !self.uses_graphs() {
            return Ok(None);
        }
        let backend = &*self.0.backend;
        match backend.instantiate(&|| commands.iter().try_for_each(|command| command.submit(backend))) {
            Err(error) if !error.is_final() => {
                self.refused(&error);
                Ok(None)
            }
            done => done,
        }
    }

    /// Whether recorded work goes to the driver as graphs (the default), or one launch after the other: to find out whether they are to blame
    /// for something. The results are the same. A driver that refuses a graph is given no more, and a warning says so.
    pub fn use_graphs(&self, on: bool) {
        self.0.graphs.store(on, Ordering::Relaxed);
    }

    /// Whether recorded work goes to the driver as graphs, where the device has any: see [`Device::use_graphs`].
    pub fn uses_graphs(&self) -> bool {
        self.0.graphs.load(Ordering::Relaxed)
    }

    /// Goes on without graphs. The first refusal is told.
    fn refused(&self, error: &DeviceError) {
        if self.0.graphs.swap(false, Ordering::Relaxed) {
            tracing::warn!(
                "{} goes on without graphs, one launch after the other, which may take longer: {error}",
                self.info().id
            );
        }
    }

    /// Does what a command says, seen by the observer if there is one.
    fn run(&self, command: &Command) -> Result<()> {
        self.going()?;
        match command {
            Command::Launch { kernel, grid, block, shared, work, params } => {
                let launch = Launch { kernel: kernel.name(), grid: *grid, block: *block, shared: *shared, work: *work };
                self.submit(kernel, &launch, params)
            }
            Command::Copy { bytes, .. } => self.observed("copy", *bytes, *bytes, || command.submit(&*self.0.backend)),
            Command::Fill { bytes, .. } => self.observed("fill", 0, *bytes, || command.submit(&*self.0.backend)),
            Command::Fetch { bytes, .. } => self.observed("fetch", *bytes, *bytes, || command.submit(&*self.0.backend)),
            Command::Fetched { .. } => command.submit(&*self.0.backend),
        }
    }
}
