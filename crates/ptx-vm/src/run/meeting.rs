//! The barrier of a cluster: `barrier.cluster`.
//!
//! Every thread arrives once in each phase, and waits for that phase before it arrives again. Threads that have exited count as arrived.

/// The threads of a warp, as masks of lanes.
#[derive(Clone, Copy, Default)]
struct Seat {
    /// Those that have not exited.
    alive: u32,
    /// Those that have arrived in this phase.
    arrived: u32,
    /// Those that have arrived in the last one, and have yet to wait.
    passing: u32,
}

#[derive(Default)]
pub(crate) struct Meeting {
    seats: Vec<Seat>,
    /// Somebody has arrived in this phase.
    any: bool,
}

impl Meeting {
    /// A cluster begins: of each block the lanes of its warps, on so many seats.
    pub(crate) fn start(&mut self, blocks: usize, seats: usize, lanes: &[u32]) {
        self.any = false;
        self.seats.clear();
        self.seats.resize(blocks * seats, Seat::default());
        for block in self.seats.chunks_mut(seats.max(1)) {
            block.iter_mut().zip(lanes).for_each(|(seat, lanes)| seat.alive = *lanes);
        }
    }

    /// Lanes arrive. Gives whether that opens the barrier, or lanes that may not.
    pub(crate) fn arrive(&mut self, seat: usize, lanes: u32) -> Result<bool, u32> {
        let seat = &mut self.seats[seat];
        let twice = (seat.arrived | seat.passing) & lanes;
        if twice != 0 {
            return Err(twice);
        }
        seat.arrived |= lanes;
        self.any = true;
        Ok(self.open())
    }

    /// Lanes wait. Gives whether they need not, or lanes that would wait for ever.
    pub(crate) fn wait(&mut self, seat: usize, lanes: u32) -> Result<bool, u32> {
        let seat = &mut self.seats[seat];
        let strangers = lanes & !(seat.arrived | seat.passing);
        if strangers != 0 {
            return Err(strangers);
        }
        let open = lanes & seat.arrived == 0;
        if open {
            seat.passing &= !lanes;
        }
        Ok(open)
    }

    /// These lanes of a warp are left. Gives whether that opens the barrier.
    pub(crate) fn left(&mut self, seat: usize, alive: u32) -> bool {
        self.seats[seat].alive = alive;
        self.open()
    }

    fn open(&mut self) -> bool {
        let here = |seat: &Seat| seat.alive & !seat.arrived == 0;
        if !self.any || !self.seats.iter().all(here) {
            return false;
        }
        self.any = false;
        for seat in &mut self.seats {
            seat.passing = seat.passing & seat.alive | seat.arrived;
            seat.arrived = 0;
        }
        true
    }

    /// How many threads of the cluster have yet to arrive.
    pub(crate) fn missing(&self) -> u32 {
        self.seats.iter().map(|seat| (seat.alive & !seat.arrived).count_ones()).sum()
    }
}
