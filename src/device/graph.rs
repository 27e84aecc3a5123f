//! Recorded work: launches, copies, fills, fetches and exchanges recorded once and replayed many times. A GPU receives them as CUDA graphs, one
//! submission for hundreds of kernels; the virtual GPU, and any observed device, replays the list.

use std::sync::atomic::Ordering;

use super::backend::{Handle, Result};
use super::core::Device;
use super::error::DeviceError;
use super::info::Launch;
use super::recording::{Command, RECORDING, Recording};

/// A recording of [`Device::record_graphs`]: the launches with their arguments at that time.
///
/// It holds addresses, not device memory: the caller must keep every tensor alive that it was recorded with.
pub struct Graph {
    parts: Vec<Part>,
    device: Device,
}

/// What is between two exchanges of ranks, or an exchange alone.
struct Part {
    /// The backend's native form, if it has one. Declared before the commands: it is dropped before the kernels and host memory that it
    /// uses.
    native: Option<Handle>,
    commands: Vec<Command>,
}

impl Graph {
    /// The number of launches and memory operations.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.commands.len()).sum()
    }

    /// Whether it has no operations.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Queues the whole recording once more.
    ///
    /// # Errors
    /// As [`Device::launch`].
    pub fn replay(&self) -> Result<()> {
        let device = &self.device;
        device.not_recording("a replay")?;
        device.going()?;
        self.parts.iter().try_for_each(|part| part.replay(device))
    }
}

impl Part {
    fn replay(&self, device: &Device) -> Result<()> {
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
        write!(f, "Graph({} commands, {})", self.len(), self.device.info().id)
    }
}

/// Commands with every exchange by itself.
fn apart(commands: Vec<Command>) -> Vec<Vec<Command>> {
    let mut parts: Vec<Vec<Command>> = vec![];
    for command in commands {
        match parts.last_mut() {
            Some(part)
                if !matches!((&command, &part[0]), (Command::Gather { .. }, _) | (_, Command::Gather { .. })) =>
            {
                part.push(command);
            }
            _ => parts.push(vec![command]),
        }
    }
    parts
}

impl Device {
    /// Records the launches, copies and fills of `body` on this device instead of executing them. [`Device::cut`] ends one graph and begins
    /// the next. Other threads are not recorded.
    ///
    /// Meanwhile allocations, uploads and read-backs are errors: they cannot be part of a graph.
    ///
    /// # Errors
    /// The errors of `body`; a recording within a recording; a fault of earlier work.
    pub fn record_graphs<E: From<DeviceError>>(&self, body: impl FnOnce() -> Result<(), E>) -> Result<Vec<Graph>, E> {
        /// Ends the recording even if `body` panics.
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
            let parts = apart(commands).into_iter().map(|commands| {
                let native = self.native(&commands)?;
                Ok(Part { native, commands })
            });
            Ok(Graph { parts: parts.collect::<Result<_>>()?, device: self.clone() })
        };
        Ok(parts.into_iter().map(graph).collect::<Result<_>>()?)
    }

    /// The backend's native form of these commands; `None` if there is none, graphs are off, or the driver refuses it: the commands are
    /// then queued one by one, with the same results.
    fn native(&self, commands: &[Command]) -> Result<Option<Handle>> {
        self.going()?;
        if !self.uses_graphs() || matches!(commands, [Command::Gather { .. }]) {
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

    /// Whether recorded work is submitted to the driver as graphs (the default), or as single launches, for example to rule out graphs as
    /// the cause of a problem. The results are the same. After a driver refuses a graph, no more are submitted, and a warning says so.
    pub fn use_graphs(&self, on: bool) {
        self.0.graphs.store(on, Ordering::Relaxed);
    }

    /// Whether recorded work is submitted to the driver as graphs, if the device supports them: see [`Device::use_graphs`].
    pub fn uses_graphs(&self) -> bool {
        self.0.graphs.load(Ordering::Relaxed)
    }

    /// Continues without graphs. Only the first refusal is reported.
    fn refused(&self, error: &DeviceError) {
        if self.0.graphs.swap(false, Ordering::Relaxed) {
            tracing::warn!(
                "{} goes on without graphs, one launch after the other, which may take longer: {error}",
                self.info().id
            );
        }
    }

    /// Executes a command, reported to the observer if there is one.
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
            Command::Gather { at, bytes, rank } => self.gather(rank, *at, *bytes),
        }
    }
}
