//! Queued work and when it runs. An operation waits for others; the schedule says which of those that could run does, and when: at once, not
//! before somebody waits, or in random order. One runs at a time, with the lock released; host functions run on threads of their own.

use crate::code::{Answer, Code};
use crate::driver::Driver;
use crate::made::Id;
use crate::object::EventState;
use crate::settings::Schedule;
use crate::thread::call_back;
use crate::work::{Launch, Op, Work};
use crate::world::{self, World};
use ptx_vm::{Fault, FaultKind, Vm};
use std::collections::BTreeSet;
use std::ffi::c_void;

impl World {
    /// What the next operation on a stream has to wait for.
    pub(crate) fn stream_waits(&self, stream: Id) -> Vec<Id> {
        let own = &self.streams[&stream];
        let context = &self.contexts[&own.context];
        let mut waits = own.tail.clone();
        if stream == context.legacy {
            let others = self.streams.values().filter(|s| s.context == own.context && s.blocks());
            waits.extend(others.flat_map(|s| &s.tail));
            waits.extend(&context.orphans);
        } else if own.blocks() {
            waits.extend(&self.streams[&context.legacy].tail);
        }
        waits.retain(|id| self.ops.contains_key(id));
        waits.sort_unstable();
        waits.dedup();
        waits
    }

    /// Queues an operation behind others, on no stream.
    pub(crate) fn add_op(&mut self, context: Id, mut waits: Vec<Id>, work: Work) -> Id {
        let id = self.id();
        waits.retain(|wait| self.ops.contains_key(wait));
        waits.sort_unstable();
        waits.dedup();
        for wait in &waits {
            if let Some(op) = self.ops.get_mut(wait) {
                op.followers.push(id);
            }
        }
        let unmet = waits.len();
        if unmet == 0 {
            self.ready.insert(id);
        }
        self.ops.insert(id, Op { context, waits, work, running: false, unmet, followers: vec![] });
        id
    }

    /// An operation is done, or will never be.
    fn remove_op(&mut self, id: Id) -> Option<Op> {
        let op = self.ops.remove(&id)?;
        self.ready.remove(&id);
        for follower in &op.followers {
            if let Some(other) = self.ops.get_mut(follower) {
                other.unmet -= 1;
                if other.unmet == 0 {
                    self.ready.insert(*follower);
                }
            }
        }
        Some(op)
    }

    /// Nothing that is queued in a context and does not run yet will. Stream callbacks are told why, and called all the same.
    pub(crate) fn drop_ops(&mut self, context: Id, why: Code) {
        let of = |(id, op): (&Id, &Op)| (op.context == context && !op.running).then_some(*id);
        let dropped: Vec<Id> = self.ops.iter().filter_map(of).collect();
        for id in dropped {
            if let Some(Op { work: Work::Callback(call), .. }) = self.remove_op(id) {
                let _ = on_thread(None, move || call.run(why));
            }
        }
        world::CHANGED.notify_all();
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

    /// What runs next; `wanted` is what somebody waits for.
    fn next_op(&mut self, wanted: &mut BTreeSet<Id>) -> Option<Id> {
        match self.schedule() {
            Schedule::Eager => self.ready.first().copied(),
            Schedule::Late => {
                while wanted.first().is_some_and(|id| !self.ops.contains_key(id)) {
                    wanted.pop_first();
                }
                self.ready.iter().find(|id| wanted.contains(id)).copied()
            }
            Schedule::Random(_) => {
                let pick = self.below(self.ready.len() as u64) as usize;
                self.ready.iter().nth(pick).copied()
            }
        }
    }

    /// What has to be known before [`World::next_op`] can be asked.
    fn wanted(&self, targets: &[Id]) -> BTreeSet<Id> {
        if self.schedule() == Schedule::Late { self.ancestors(targets) } else { BTreeSet::new() }
    }

    fn done(&mut self, id: Id) {
        self.remove_op(id);
        world::CHANGED.notify_all();
    }
}

impl Driver {
    /// Queues `work` on a stream that is not being captured, behind `more` too.
    pub(crate) fn enqueue(&mut self, stream: Id, work: Work, more: Vec<Id>) -> Id {
        let context = self.streams[&stream].context;
        let mut waits = self.stream_waits(stream);
        waits.extend(more);
        let op = self.add_op(context, waits, work);
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.tail = vec![op];
        }
        op
    }

    /// Streams run by themselves: at the end of every call all that can runs, or some of it, or nothing. A fault shows at a later call.
    pub(crate) fn progress(&mut self) {
        match self.schedule() {
            Schedule::Late => {}
            Schedule::Eager => {
                // Not what others queue meanwhile: they would never stop.
                let last = self.newest();
                let queued = self.ops.range(self.before + 1..).next().is_some();
                while let Some(op) = self.ready.first().copied().filter(|op| *op <= last) {
                    match self.busy {
                        false => self.run_op(op),
                        // Who queues more waits for its turn.
                        true if queued => self.wait(),
                        true => return,
                    }
                }
            }
            Schedule::Random(_) => {
                // In bursts: work that is behind shows more than work that follows closely.
                let burst = if self.below(4) == 0 { 1 + self.below(8) } else { 0 };
                for _ in 0..burst {
                    match if self.busy { None } else { self.next_op(&mut BTreeSet::new()) } {
                        Some(op) => self.run_op(op),
                        None => return,
                    }
                }
            }
        }
    }

    /// Waits until these are done. The context's fault, if it has one.
    pub(crate) fn finish(&mut self, context: Id, targets: &[Id]) -> Answer {
        let mut wanted = self.wanted(targets);
        let mut left = targets.to_vec();
        left.sort_unstable_by(|a, b| b.cmp(a));
        loop {
            while left.last().is_some_and(|id| !self.ops.contains_key(id)) {
                left.pop();
            }
            if left.is_empty() {
                break;
            }
            match if self.busy { None } else { self.next_op(&mut wanted) } {
                Some(op) => self.run_op(op),
                // Another thread runs something, or a host function does.
                None => self.wait(),
            }
        }
        match self.contexts.get(&context) {
            Some(context) => context.error.map_or(Ok(()), Err),
            None => Err(Code::CONTEXT_IS_DESTROYED),
        }
    }

    /// Waits until nothing of a context is queued. Its fault, if it has one.
    pub(crate) fn drain(&mut self, context: Id) -> Answer {
        let of = |(id, op): (&Id, &Op)| (op.context == context).then_some(*id);
        let ops: Vec<Id> = self.ops.iter().filter_map(of).collect();
        self.finish(context, &ops)
    }

    /// Waits until no kernel and no copy is under way: then host memory can go.
    pub(crate) fn pause(&mut self) {
        while self.busy {
            self.wait();
        }
    }

    /// One operation that somebody polls for; of a long queue more, so that polling ends.
    pub(crate) fn nudge(&mut self, targets: &[Id]) {
        let mut wanted = self.wanted(targets);
        for _ in 0..=wanted.len() / 256 {
            match if self.busy { None } else { self.next_op(&mut wanted) } {
                Some(op) => self.run_op(op),
                None => return,
            }
        }
    }

    fn run_op(&mut self, id: Id) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        op.running = true;
        let context = op.context;
        let work = std::mem::replace(&mut op.work, Work::Nothing);
        self.ready.remove(&id);
        let outcome: Result<(), (Code, String)> = match work {
            Work::Nothing | Work::Keep(_) | Work::Await(_) | Work::Child(_) => Ok(()),
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
                // SAFETY: the program gave the function and its argument, for one call.
                match on_thread(Some(id), move || unsafe { function(data as *mut c_void) }) {
                    Ok(()) => return,
                    Err(text) => Err((Code::UNKNOWN, text)),
                }
            }
            Work::Callback(call) => match on_thread(Some(id), move || call.run(Code::SUCCESS)) {
                Ok(()) => return,
                Err(text) => Err((Code::UNKNOWN, text)),
            },
            Work::Free(address) => {
                self.release(address);
                Ok(())
            }
            Work::Launch(launch) => self.launch_now(context, launch),
            Work::Copy(copy) => self.copy_now(&copy),
            Work::Fill(fill) => self.fill_now(&fill),
        };
        self.done(id);
        if let Err((code, text)) = outcome {
            self.fault(context, code, text);
        }
    }

    fn launch_now(&mut self, context: Id, launch: Launch) -> Result<(), (Code, String)> {
        let Some(device) = self.contexts.get(&context).map(|context| context.device) else { return Ok(()) };
        if !self.functions.contains_key(&launch.function) {
            let name = launch.kernel.name();
            return Err((Code::ILLEGAL_ADDRESS, format!("the module of {name} was unloaded before its launch ran")));
        }
        let vm = self.vm(device);
        self.alone(|| {
            let result = vm.launch(&launch.kernel, &launch.shape, &launch.params);
            print_from(&vm);
            result.map(drop).map_err(|fault| (code_of(&fault), fault.to_string()))
        })
    }
}

/// Calls a function of the program on a thread of its own; then the operation is done.
fn on_thread(op: Option<Id>, body: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let run = move || {
        body();
        if let Some(op) = op {
            let mut driver = Driver::internal();
            driver.done(op);
            driver.progress();
        }
    };
    call_back("vcuda host function", run).map_err(|error| format!("no thread for a host function: {error}"))
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
        FaultKind::Budget | FaultKind::Timeout | FaultKind::Interrupted => Code::LAUNCH_TIMEOUT,
        FaultKind::StackOverflow => Code::HARDWARE_STACK_ERROR,
        FaultKind::Trap if fault.message.contains("assert") => Code::ASSERT,
        _ => Code::LAUNCH_FAILED,
    }
}
