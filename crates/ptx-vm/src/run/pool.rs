//! Worker threads that stay: a launch wakes them, takes part itself, and waits until all have left.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

type Job = &'static (dyn Fn() + Sync);

#[derive(Default)]
struct State {
    job: Option<Job>,
    /// Workers that may still take up the job.
    open: usize,
    /// Workers inside the job.
    busy: usize,
    end: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    idle: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A fixed set of threads.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// One launch at a time; another runs on its caller alone.
    turn: Mutex<()>,
}

impl Pool {
    /// `helpers` threads beside the caller.
    pub(crate) fn new(helpers: usize) -> Pool {
        let shared = Arc::new(Shared::default());
        let threads = (0..helpers)
            .filter_map(|i| {
                let shared = shared.clone();
                std::thread::Builder::new().name(format!("ptx-vm-{i}")).spawn(move || work(&shared)).ok()
            })
            .collect();
        Pool { shared, threads, turn: Mutex::new(()) }
    }

    /// Runs `job` on the caller and on up to `helpers` workers at the same time; returns when all are through.
    pub(crate) fn run(&self, helpers: usize, job: &(dyn Fn() + Sync)) {
        let turn = if helpers.min(self.threads.len()) > 0 { self.turn.try_lock().ok() } else { None };
        if turn.is_none() {
            job();
            return;
        }
        // SAFETY: the job is withdrawn and all workers have left it before this function returns, even when it panics.
        let shared_job = unsafe { std::mem::transmute::<&(dyn Fn() + Sync), Job>(job) };
        {
            let mut state = self.shared.lock();
            state.job = Some(shared_job);
            state.open = helpers.min(self.threads.len());
        }
        self.shared.wake.notify_all();
        let _leave = Leave(&self.shared);
        job();
    }
}

/// Withdraws the job and waits for the workers.
struct Leave<'a>(&'a Shared);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.job = None;
        state.open = 0;
        while state.busy > 0 {
            state = self.0.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn work(shared: &Shared) {
    let mut state = shared.lock();
    loop {
        if state.end {
            return;
        }
        if let Some(job) = state.job
            && state.open > 0
        {
            state.open -= 1;
            state.busy += 1;
            drop(state);
            // A panic must not leave the launch waiting; the caller meets the same panic or the missing blocks.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            state = shared.lock();
            state.busy -= 1;
            if state.busy == 0 {
                shared.idle.notify_all();
            }
            continue;
        }
        state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().end = true;
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
