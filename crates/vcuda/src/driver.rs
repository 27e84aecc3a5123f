//! A call under way: the world, locked, and who calls.

use crate::code::{Answer, Code};
use crate::made::{Id, Made};
use crate::world::{self, World};
use std::backtrace::Backtrace;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::MutexGuard;

/// One call: the world, locked, and who calls.
pub(crate) struct Driver {
    world: Option<MutexGuard<'static, World>>,
    pub(crate) call: &'static str,
    pub(crate) number: u64,
    /// The newest handle when the call began: operations above were queued since.
    pub(crate) before: Id,
    /// Whether null means the thread's own default stream.
    pub(crate) per_thread: bool,
}

impl Deref for Driver {
    type Target = World;
    fn deref(&self) -> &World {
        // `unlocked` alone takes it away, and puts it back before it returns.
        self.world.as_ref().expect("the lock is held")
    }
}

impl DerefMut for Driver {
    fn deref_mut(&mut self) -> &mut World {
        self.world.as_mut().expect("the lock is held")
    }
}

impl Driver {
    /// A call of this function, which may have a null stream of its own for each thread.
    pub(crate) fn new(call: &'static str, per_thread: bool) -> Driver {
        let world = world::lock();
        let before = world.newest();
        Driver { world: Some(world), call, number: 0, before, per_thread }
    }

    /// A call of the driver's own threads.
    pub(crate) fn internal() -> Driver {
        Driver { before: 0, ..Driver::new("driver", false) }
    }

    /// Runs `body` with the lock released.
    pub(crate) fn unlocked<T>(&mut self, body: impl FnOnce() -> T) -> T {
        self.world = None;
        let result = body();
        self.world = Some(world::lock());
        result
    }

    /// Waits until something has changed.
    pub(crate) fn wait(&mut self) {
        if let Some(guard) = self.world.take() {
            self.world = Some(world::CHANGED.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner));
        }
    }

    /// Who makes something now.
    pub(crate) fn made(&self) -> Made {
        let trace = self.settings.report.is_some().then(Backtrace::force_capture);
        Made { call: self.call, number: self.number, trace }
    }

    /// The stream of a handle, in the current context where work is submitted to it.
    pub(crate) fn own_stream(&mut self, handle: Id) -> Answer<Id> {
        let stream = self.any_stream(handle)?;
        if self.streams[&stream].context == self.current()? { Ok(stream) } else { Err(Code::INVALID_HANDLE) }
    }

    /// The stream of a handle, of any context.
    pub(crate) fn any_stream(&mut self, handle: Id) -> Answer<Id> {
        let (per_thread, call, number) = (self.per_thread, self.call, self.number);
        (**self).stream(handle, per_thread, || Made { call, number, trace: None })
    }

    /// Runs something that takes long with the lock released, alone. A panic of it is a fault of this library and ends as one of the context.
    pub(crate) fn alone<T>(&mut self, body: impl FnOnce() -> Result<T, (Code, String)>) -> Result<T, (Code, String)> {
        self.busy = true;
        let result = self.unlocked(|| catch_unwind(AssertUnwindSafe(body)));
        self.busy = false;
        world::CHANGED.notify_all();
        result.unwrap_or_else(|_| Err((Code::UNKNOWN, "a panic: this is a fault of vcuda".into())))
    }
}
