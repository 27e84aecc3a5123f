//! Threads that encode parts of a video while others of it are still being made.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::model::Progress;

/// How often progress is told.
const TELLING: Duration = Duration::from_millis(50);

/// A worker's view of the pool: what it tells, and what it is told.
#[derive(Clone, Default)]
pub(super) struct Ticker {
    frames: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Ticker {
    /// Another frame is encoded. `None`: nobody wants more.
    pub(super) fn frame(&self) -> Option<()> {
        self.frames.fetch_add(1, Ordering::Relaxed);
        (!self.stop.load(Ordering::Relaxed)).then_some(())
    }
}

/// Why there is no result.
pub(super) enum Failure {
    /// The caller's callback asked to stop.
    Stopped,
    Encode(String),
}

/// A thread for each core, which encode parts in any order; the results come in the order of the parts. Dropping it stops them.
pub(super) struct Pool<T> {
    /// `None`: there are no more parts.
    parts: Option<Sender<(usize, Vec<u8>)>>,
    results: Receiver<(usize, Result<T, String>)>,
    ticker: Ticker,
    sent: usize,
}

impl<T: Send + 'static> Pool<T> {
    /// `work` encodes the raw frames of a part, and calls [`Ticker::frame`] for each.
    pub(super) fn new(work: impl Fn(&[u8], &Ticker) -> Result<T, String> + Send + Sync + 'static) -> Pool<T> {
        let (parts, todo) = channel::<(usize, Vec<u8>)>();
        let (made, results) = channel();
        let (todo, work, ticker) = (Arc::new(Mutex::new(todo)), Arc::new(work), Ticker::default());
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            let (todo, work, made, ticker) = (todo.clone(), work.clone(), made.clone(), ticker.clone());
            thread::spawn(move || {
                loop {
                    let next = todo.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((index, part)) = next else { break };
                    if ticker.stop.load(Ordering::Relaxed) || made.send((index, work(&part, &ticker))).is_err() {
                        break;
                    }
                }
            });
        }
        Pool { parts: Some(parts), results, ticker, sent: 0 }
    }

    /// Hands over the raw frames of the next part.
    pub(super) fn push(&mut self, part: Vec<u8>) {
        if let Some(parts) = &self.parts {
            // Without workers nobody takes it, and `finish` finds it missing.
            let _ = parts.send((self.sent, part));
            self.sent += 1;
        }
    }

    /// Waits for all parts. `progress` is called with the encoded frames and `all`, and may stop the work.
    pub(super) fn finish(mut self, all: usize, progress: Progress<'_>) -> Result<Vec<T>, Failure> {
        self.parts = None;
        let mut made: Vec<Option<T>> = (0..self.sent).map(|_| None).collect();
        let mut left = self.sent;
        while left > 0 {
            match self.results.recv_timeout(TELLING) {
                Ok((index, result)) => {
                    made[index] = Some(result.map_err(Failure::Encode)?);
                    left -= 1;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::Encode("a thread of the encoder ended before its work was done".into()));
                }
            }
            if let ControlFlow::Break(()) = progress(self.ticker.frames.load(Ordering::Relaxed), all) {
                return Err(Failure::Stopped);
            }
        }
        Ok(made.into_iter().flatten().collect())
    }
}

impl<T> Drop for Pool<T> {
    fn drop(&mut self) {
        self.ticker.stop.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_failures_are_told() {
        let pool = || {
            Pool::new(|part: &[u8], ticker: &Ticker| {
                ticker.frame().ok_or("stopped")?;
                // The first parts take longest.
                thread::sleep(Duration::from_millis(20 - u64::from(part[0]).min(20)));
                if part[0] == 99 { Err("bad".to_owned()) } else { Ok(part[0]) }
            })
        };
        let mut told = (0, 0);
        let mut go_on = |done: usize, all: usize| {
            told = (done, all);
            ControlFlow::Continue(())
        };
        let mut good = pool();
        (0..20).for_each(|i| good.push(vec![i]));
        assert_eq!(good.finish(20, &mut go_on).ok().unwrap(), (0..20).collect::<Vec<u8>>());
        assert_eq!(told, (20, 20));
        let mut bad = pool();
        [1, 99, 2].into_iter().for_each(|i| bad.push(vec![i]));
        assert!(
            matches!(bad.finish(3, &mut |_, _| ControlFlow::Continue(())), Err(Failure::Encode(why)) if why == "bad")
        );
        let mut stopped = pool();
        (0..20).for_each(|i| stopped.push(vec![i]));
        assert!(matches!(stopped.finish(20, &mut |_, _| ControlFlow::Break(())), Err(Failure::Stopped)));
        let mut panics = Pool::new(|_: &[u8], _: &Ticker| -> Result<u8, String> { panic!("expected in this test") });
        (0..64).for_each(|_| panics.push(vec![]));
        assert!(matches!(panics.finish(64, &mut |_, _| ControlFlow::Continue(())), Err(Failure::Encode(_))));
    }
}
