//! Queued work and when it runs. An operation waits for others; the schedule says which of those that could run does, and when: at once, not
//! before somebody waits, or in random order. One runs at a time, with the lock released; host functions run on threads of their own.

use crate::code::{Answer, Code};
use crate::enter::Driver;
use crate::memory::{Copy, Fill};
use crate::settings::Schedule;
use crate::world::{self, EventState, Id, THREAD, World};
use ptx_vm::{Fault, FaultKind, Kernel, Vm};
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::sync::Arc;

/// A launch as it will run: everything in it was copied when it was queued.
#[derive(Clone)]
pub(crate) struct Launch {
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) function: Id,
    pub(crate) shape: ptx_vm::Launch,
    pub(crate) params: Vec<u8>,
}

pub(crate) type HostFn = unsafe extern "C" fn(*mut c_void);

/// What an operation does.
#[derive(Clone)]
pub(crate) enum Work {
    /// Only ties others together.
    Nothing,
    Record(Id),
    /// In graphs: waits for an event as it is when the graph is launched.
    Await(Id),
    Launch(Launch),
    Copy(Copy),
    Fill(Fill),
    Host(HostFn, usize),
    /// A graph within a graph.
    Child(Box<crate::graph::Nodes>),
    /// Gives memory of a pool back.
    Free(u64),
}

pub(crate) struct Op {
    pub(crate) context: Id,
    /// What has to be done before; what is not queued any more is done.
    pub(crate) waits: Vec<Id>,
    pub(crate) work: Work,
    pub(crate) running: bool,
}

impl World {
    /// What the next operation on a stream has to wait for.
    pub(crate) fn stream_waits(&self, stream: Id) -> Vec<Id> {
        let own = &self.streams[&stream];
        let context = &self.contexts[&own.context];
        let mut waits = own.tail.clone();
        if stream == context.legacy {
            let others = self.streams.values().filter(|s| s.context == own.context && s.blocks());
            waits.extend(others.flat_map(|s| &s.tail));
        } else if own.blocks() {
            waits.extend(&self.streams[&context.legacy].tail);
        }
        waits.retain(|id| self.ops.contains_key(id));
        waits.sort_unstable();
        waits.dedup();
        waits
    }

    /// Queues an operation behind others, on no stream.
    pub(crate) fn add_op(&mut self, context: Id, waits: Vec<Id>, work: Work) -> Id {
        let id = self.id();
        self.ops.insert(id, Op { context, waits, work, running: false });
        id
    }

    fn is_ready(&self, op: &Op) -> bool {
        !op.running && op.waits.iter().all(|id| !self.ops.contains_key(id))
    }

    /// These and all that they wait for, oldest first.
    fn ancestors(&self, targets: &[Id]) -> BTreeSet<Id> {
        let mut found = BTreeSet::new();
        let mut open: Vec<Id> = targets.to_vec();
        while let Some(id) = open.pop() {
            if let Some(op) = self.ops.get(&id)
                && found.insert(id)
            {
                open.extend(&op.waits);
            }
        }
        found
    }

    /// What runs next, on the way to `targets`.
    fn next_op(&mut self, targets: &[Id]) -> Option<Id> {
        if let Schedule::Random(_) = self.schedule() {
            let ready: Vec<Id> = self.ops.iter().filter(|(_, op)| self.is_ready(op)).map(|(id, _)| *id).collect();
            let pick = self.below(ready.len() as u64) as usize;
            ready.get(pick).copied()
        } else {
            self.ancestors(targets).into_iter().find(|id| self.is_ready(&self.ops[id]))
        }
    }

    fn done(&mut self, id: Id) {
        self.ops.remove(&id);
        world::CHANGED.notify_all();
    }
}

impl Driver {
    /// Queues `work` on a stream that is not being captured, behind `more` too.
    pub(crate) fn enqueue(&mut self, stream: Id, work: Work, more: Vec<Id>) -> Answer<Id> {
        let context = self.streams[&stream].context;
        let mut waits = self.stream_waits(stream);
        waits.extend(more);
        let op = self.add_op(context, waits, work);
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.tail = vec![op];
        }
        self.started(&[op])?;
        Ok(op)
    }

    /// Lets an eager driver begin with what was just queued.
    pub(crate) fn started(&mut self, ops: &[Id]) -> Answer {
        // Faults show at a later call, as on a GPU: kernels run after their launch has returned.
        if self.schedule() == Schedule::Eager { self.run_until(ops, false) } else { Ok(()) }
    }

    /// Some of what can run does.
    pub(crate) fn progress(&mut self) {
        let mut ops = self.below(4);
        while ops > 0 && !self.busy {
            match self.next_op(&[]) {
                Some(op) => self.run_op(op),
                None => return,
            }
            ops -= 1;
        }
    }

    /// Waits until these are done. The context's fault, if it has one.
    pub(crate) fn finish(&mut self, context: Id, targets: &[Id]) -> Answer {
        self.run_until(targets, true)?;
        match self.contexts.get(&context) {
            Some(context) => context.error.map_or(Ok(()), Err),
            None => Err(Code::CONTEXT_IS_DESTROYED),
        }
    }

    fn run_until(&mut self, targets: &[Id], wait: bool) -> Answer {
        while targets.iter().any(|id| self.ops.contains_key(id)) {
            let next = if self.busy { None } else { self.next_op(targets) };
            match next {
                Some(op) => self.run_op(op),
                // Another thread runs something, or a host function does.
                None if wait => self.wait(),
                None => break,
            }
        }
        Ok(())
    }

    /// One operation that somebody polls for.
    pub(crate) fn nudge(&mut self, targets: &[Id]) {
        if !self.busy
            && let Some(op) = self.next_op(targets)
        {
            self.run_op(op);
        }
    }

    fn run_op(&mut self, id: Id) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.running = true;
        let context = op.context;
        let work = std::mem::replace(&mut op.work, Work::Nothing);
        let outcome: Result<(), (Code, String)> = match work {
            Work::Nothing | Work::Await(_) | Work::Child(_) => Ok(()),
            Work::Record(event) => {
                let now = self.began.elapsed().as_secs_f64();
                if let Some(event) = self.events.get_mut(&event)
                    && matches!(event.state, EventState::Recorded { op } if op == id)
                {
                    event.time = Some(now);
                }
                Ok(())
            }
            Work::Host(function, data) => {
                let started = std::thread::Builder::new().name("vcuda host function".into()).spawn(move || {
                    THREAD.with(|thread| thread.in_callback.set(true));
                    // SAFETY: the program gave the function and its argument, for one call.
                    unsafe { function(data as *mut c_void) };
                    let mut driver = Driver::internal();
                    driver.done(id);
                    let queued: Vec<Id> = driver.ops.keys().copied().collect();
                    let _ = driver.started(&queued);
                });
                match started {
                    Ok(_) => return,
                    Err(error) => Err((Code::OPERATING_SYSTEM, format!("no thread for a host function: {error}"))),
                }
            }
            Work::Free(address) => {
                self.release(address);
                Ok(())
            }
            Work::Launch(launch) => self.launch_now(context, launch),
            Work::Copy(copy) => self.copy_now(&copy).map_err(|text| (Code::ILLEGAL_ADDRESS, text)),
            Work::Fill(fill) => self.fill_now(&fill).map_err(|text| (Code::ILLEGAL_ADDRESS, text)),
        };
        self.done(id);
        if let Err((code, text)) = outcome {
            self.fault(context, code, text);
        }
    }

    /// Runs something that takes long with the lock released, alone.
    pub(crate) fn alone<T>(&mut self, body: impl FnOnce() -> T) -> T {
        self.busy = true;
        let result = self.unlocked(body);
        self.busy = false;
        world::CHANGED.notify_all();
        result
    }

    fn launch_now(&mut self, context: Id, launch: Launch) -> Result<(), (Code, String)> {
        let Some(device) = self.contexts.get(&context).map(|context| context.device) else { return Ok(()) };
        if !self.functions.contains_key(&launch.function) {
            let name = launch.kernel.name();
            return Err((Code::ILLEGAL_ADDRESS, format!("the module of {name} was unloaded before its launch ran")));
        }
        let vm = self.vm(device);
        let result = self.alone(|| {
            let result = vm.launch(&launch.kernel, &launch.shape, &launch.params);
            print_from(&vm);
            result
        });
        result.map(drop).map_err(|fault| (code_of(&fault), fault.to_string()))
    }
}

/// What kernels have printed goes to stdout.
fn print_from(vm: &Vm) {
    let text = vm.take_printed();
    if !text.is_empty() {
        use std::io::Write;
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

/// What a GPU says of such a fault.
fn code_of(fault: &Fault) -> Code {
    match fault.kind {
        FaultKind::OutOfBounds | FaultKind::Uninitialised => Code::ILLEGAL_ADDRESS,
        FaultKind::Misaligned => Code::MISALIGNED_ADDRESS,
        FaultKind::Budget | FaultKind::Interrupted => Code::LAUNCH_TIMEOUT,
        FaultKind::StackOverflow => Code::HARDWARE_STACK_ERROR,
        FaultKind::Trap if fault.message.contains("assert") => Code::ASSERT,
        FaultKind::Launch => Code::INVALID_VALUE,
        FaultKind::Trap | FaultKind::Race | FaultKind::Barrier => Code::LAUNCH_FAILED,
    }
}
