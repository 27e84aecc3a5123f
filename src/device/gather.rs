//! What ranks exchange: every rank's part of a memory. The content goes through host memory, so that any two devices can exchange it. An exchange is ordered
//! like every other work of a device, and can be recorded.

use super::backend::Result;
use super::core::{Device, Memory};
use super::error::DeviceError;
use super::group::Rank;
use super::recording::Command;

impl Device {
    /// Every rank has written its part of `memory[offset..]`, the parts of `bytes` side by side in order of the ranks; afterwards each has all.
    ///
    /// # Errors
    /// [`DeviceError::Rank`] if another rank failed; a part of another length than its own; as [`Device::download`] and [`Device::upload`].
    pub fn all_gather(&self, rank: &Rank, memory: &Memory, offset: usize, bytes: usize) -> Result<()> {
        let at = self.address(memory, offset, bytes * rank.ranks())?;
        if bytes == 0 || self.recorded(|| Command::Gather { at, bytes, rank: rank.clone() }) {
            return Ok(());
        }
        self.gather(rank, at, bytes)
    }

    /// An exchange, now.
    pub(super) fn gather(&self, rank: &Rank, at: u64, bytes: usize) -> Result<()> {
        self.going()?;
        let all = bytes * rank.ranks();
        self.observed("exchange", all, all - bytes, || {
            let backend = &*self.0.backend;
            let mut own = vec![0; bytes];
            backend.download(at + (rank.index() * bytes) as u64, &mut own)?;
            for (i, part) in rank.exchange(own.into(), &|| self.going())?.iter().enumerate() {
                if part.len() != bytes {
                    let reason = format!("it gave {} bytes where rank {} gave {bytes}", part.len(), rank.index());
                    return Err(DeviceError::Rank { rank: i, reason });
                }
                if i != rank.index() {
                    backend.upload(at + (i * bytes) as u64, part)?;
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::device::VmConfig;

    /// Runs `body` on every rank, each with a device and a memory of a byte for each rank.
    fn each(ranks: usize, body: impl Fn(Rank, Device, Memory) -> Result<Vec<u8>> + Sync) -> Vec<Result<Vec<u8>>> {
        let run = |rank: Rank| {
            let device = Device::vm(VmConfig::default());
            let memory = device.alloc(ranks).unwrap();
            body(rank, device, memory)
        };
        std::thread::scope(|scope| {
            let run = &run;
            let threads: Vec<_> = Rank::group(ranks).into_iter().map(|rank| scope.spawn(move || run(rank))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn every_rank_gets_every_part() {
        for ranks in [1, 2, 3, 8] {
            let all = each(ranks, |rank, device, memory| {
                let mut sums = vec![0; ranks];
                for round in 0..20u8 {
                    let own = round * 10 + rank.index() as u8;
                    device.upload(&memory, rank.index(), &[own])?;
                    device.all_gather(&rank, &memory, 0, 1)?;
                    let mut now = vec![0; ranks];
                    device.download(&memory, 0, &mut now)?;
                    let expected: Vec<u8> = (0..ranks as u8).map(|i| round * 10 + i).collect();
                    assert_eq!(now, expected, "round {round} of rank {}", rank.index());
                    sums = now;
                }
                assert_eq!(rank.sent_bytes(), 20 * (ranks as u64 - 1));
                Ok(sums)
            });
            assert!(all.iter().all(|result| result.as_ref().unwrap() == all[0].as_ref().unwrap()));
        }
    }

    #[test]
    fn an_exchange_is_recorded_between_other_work() {
        let all = each(2, |rank, device, memory| {
            let (mine, other) = (rank.index(), 1 - rank.index());
            let graphs = device.record_graphs::<DeviceError>(|| {
                device.fill(&memory, mine..mine + 1, 40 + mine as u8)?;
                device.all_gather(&rank, &memory, 0, 1)?;
                // Seen only if the exchange came between.
                device.copy(&memory, mine, &memory, other, 1)
            })?;
            assert_eq!((graphs.len(), graphs[0].len()), (1, 3));
            let mut now = vec![0; 2];
            for _ in 0..3 {
                graphs[0].replay()?;
                device.download(&memory, 0, &mut now)?;
            }
            Ok(now)
        });
        assert_eq!(all.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [vec![41, 41], vec![40, 40]]);
    }

    #[test]
    fn a_failed_rank_ends_the_others() {
        let all = each(3, |rank, device, memory| {
            if rank.index() == 1 {
                rank.fail("out of luck");
                return Ok(vec![]);
            }
            device.all_gather(&rank, &memory, 0, 1)?;
            Ok(vec![])
        });
        for i in [0, 2] {
            assert_eq!(all[i].as_ref().unwrap_err().to_string(), "rank 1 failed: out of luck");
        }
    }

    #[test]
    fn an_interrupted_rank_waits_no_longer() {
        let all = each(2, |rank, device, memory| {
            if rank.index() == 1 {
                return Ok(vec![]); // never comes
            }
            let interrupter = device.interrupter();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(50));
                interrupter.interrupt();
            });
            device.all_gather(&rank, &memory, 0, 1)?;
            Ok(vec![])
        });
        assert!(all[0].as_ref().unwrap_err().is_stop());
    }

    #[test]
    fn parts_of_different_lengths_are_refused() {
        let all = each(2, |rank, device, _| {
            let memory = device.alloc(8)?;
            device.all_gather(&rank, &memory, 0, 1 + rank.index())?;
            Ok(vec![])
        });
        assert!(
            all[0].as_ref().unwrap_err().to_string().contains("rank 1 failed: it gave 2 bytes where rank 0 gave 1")
        );
    }
}
