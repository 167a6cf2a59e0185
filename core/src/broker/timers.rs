//! Timers: an indexed binary heap, so that every armed timer has exactly one entry and can be cancelled or moved.
//!
//! A heap, not a wheel: keep alives are re-armed lazily, so at a million connections with a keep alive of 60 s it sees
//! about 11,000 operations a second, and the exact next deadline costs nothing.

use crate::id::{ConnectionId, SessionId, Ticket, load_free};
use crate::saved::{Malformed, Reader, Saved, Writer};
use crate::time::Mono;
use alloc::vec::Vec;
use core::num::NonZeroU32;

/// What a timer belongs to, and what its middleware is called with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A connection.
    Connection(ConnectionId),
    /// A session.
    Session(SessionId),
    /// A question.
    Ticket(Ticket),
    /// The middleware itself.
    Part,
}

/// An armed timer, to cancel or move it. The holder forgets it when it fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerId(NonZeroU32);

#[derive(Debug)]
struct Slot {
    at: Mono,
    /// Breaks ties in arming order, so that equal seeds give equal outputs.
    order: u64,
    position: u32,
    part: u8,
    owner: Owner,
}

impl TimerId {
    fn new(index: u32) -> Self {
        Self(NonZeroU32::MIN.saturating_add(index))
    }

    pub(crate) fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// Whoever reads one holds it.
impl Saved for TimerId {
    fn save(&self, to: &mut Writer<'_>) {
        self.0.save(to);
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let timer = Self(Saved::load(from)?);
        from.claim(timer)
    }
}

/// All armed timers of a machine.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: Vec<u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    armed: u64,
}

impl Timers {
    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Mono> {
        self.heap.first().map(|&slot| self.slots[slot as usize].at)
    }

    /// Arms a timer for a part of the chain.
    pub(crate) fn arm(&mut self, at: Mono, part: u8, owner: Owner) -> TimerId {
        self.armed += 1;
        let position = self.heap.len() as u32;
        let slot = Slot { at, order: self.armed, position, part, owner };
        let index = if let Some(index) = self.free.pop() {
            self.slots[index as usize] = slot;
            index
        } else {
            self.slots.push(slot);
            self.slots.len() as u32 - 1
        };
        self.heap.push(index);
        self.up(position as usize);
        TimerId::new(index)
    }

    /// Takes out the earliest timer that is due.
    pub(crate) fn pop(&mut self, now: Mono) -> Option<(u8, Owner)> {
        let index = *self.heap.first()?;
        let slot = &self.slots[index as usize];
        if slot.at > now {
            return None;
        }
        let due = (slot.part, slot.owner);
        self.cancel(TimerId::new(index));
        Some(due)
    }

    /// Disarms a timer.
    pub(crate) fn cancel(&mut self, timer: TimerId) {
        let index = timer.index();
        let position = self.slots[index].position as usize;
        let armed = self.heap.get(position) == Some(&(index as u32));
        debug_assert!(armed, "a timer is cancelled once");
        if !armed {
            return;
        }
        self.heap.swap_remove(position);
        self.free.push(index as u32);
        if let Some(&moved) = self.heap.get(position) {
            self.slots[moved as usize].position = position as u32;
            self.up(position);
            self.down(position);
        }
    }

    /// What is armed, by [`TimerId::index`].
    pub(crate) fn armed(&self) -> Vec<Option<(u8, Owner)>> {
        let armed = |index: usize| {
            let slot = self.slots.get(index)?;
            (self.heap.get(slot.position as usize) == Some(&(index as u32)))
                .then_some((slot.part, slot.owner))
        };
        (0..self.slots.len()).map(armed).collect()
    }

    fn key(&self, position: usize) -> (Mono, u64) {
        let slot = &self.slots[self.heap[position] as usize];
        (slot.at, slot.order)
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.slots[self.heap[a] as usize].position = a as u32;
        self.slots[self.heap[b] as usize].position = b as u32;
    }

    fn up(&mut self, mut position: usize) {
        while position > 0 {
            let parent = (position - 1) / 2;
            if self.key(parent) <= self.key(position) {
                return;
            }
            self.swap(parent, position);
            position = parent;
        }
    }

    fn down(&mut self, mut position: usize) {
        loop {
            let (left, right) = (2 * position + 1, 2 * position + 2);
            let mut least = position;
            for child in [left, right] {
                if child < self.heap.len() && self.key(child) < self.key(least) {
                    least = child;
                }
            }
            if least == position {
                return;
            }
            self.swap(least, position);
            position = least;
        }
    }
}

/// A timer as it is saved: when, breaking ties, for which part, what it belongs to.
type Armed = ((Mono, u64), (u8, Owner));

/// The slots, for their numbers are known outside. How the heap lies is nobody's business.
impl Saved for Timers {
    fn save(&self, to: &mut Writer<'_>) {
        let Self { heap, slots, free, armed } = self;
        to.number(slots.len() as u64);
        for (index, Slot { at, order, position, part, owner }) in slots.iter().enumerate() {
            let is_armed = heap.get(*position as usize) == Some(&(index as u32));
            is_armed.then_some(((*at, *order), (*part, *owner))).save(to);
        }
        free.save(to);
        armed.save(to);
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let saved = Vec::<Option<Armed>>::load(from)?;
        let free = load_free(from, saved.iter().map(Option::is_none))?;
        let armed = u64::load(from)?;
        from.ensure(armed < u64::MAX / 2)?;
        let mut heap: Vec<u32> =
            (0..saved.len() as u32).filter(|&slot| saved[slot as usize].is_some()).collect();
        // What is sorted is a heap.
        heap.sort_unstable_by_key(|&slot| saved[slot as usize].map(|(key, _)| key));
        let unused = || ((Mono(0), 0), (0, Owner::Part));
        let mut slots: Vec<Slot> = saved
            .iter()
            .map(|armed| {
                let ((at, order), (part, owner)) = armed.unwrap_or_else(unused);
                // The place of a free slot is none: it must not be taken for an armed one.
                Slot { at, order, position: u32::MAX, part, owner }
            })
            .collect();
        for (position, &slot) in heap.iter().enumerate() {
            slots[slot as usize].position = position as u32;
        }
        let known = |slot: &Slot| slot.part == super::state::MACHINE || slot.part < from.parts;
        from.ensure(slots.iter().all(known))?;
        let timers = Self { heap, slots, free, armed };
        from.armed = timers.armed();
        Ok(timers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{Random, Seed};
    use crate::id::Id;
    use proptest::prelude::*;
    use proptest::sample::Index;

    #[test]
    fn timers_fire_in_order_of_time_and_arming_whatever_is_cancelled() {
        let mut random = Random::new(Seed(7));
        let mut timers = Timers::default();
        let mut expected = Vec::new();
        let mut live = Vec::new();
        for n in 0..2_000u32 {
            let at = Mono(random.next() % 500);
            let owner = Owner::Session(SessionId::new(n, 0));
            live.push((timers.arm(at, 3, owner), at, n));
            if random.next().is_multiple_of(3) {
                let index = random.next() as usize % live.len();
                let (timer, ..) = live.remove(index);
                timers.cancel(timer);
            }
        }
        for &(_, at, n) in &live {
            expected.push((at, n));
        }
        expected.sort();
        let mut fired = Vec::new();
        while let Some(at) = timers.next() {
            if at.0 > 0 {
                assert_eq!(timers.pop(Mono(at.0 - 1)), None, "not before its time");
            }
            if let Some((3, Owner::Session(id))) = timers.pop(at) {
                fired.push((at, id.index()));
            }
        }
        assert_eq!(fired, expected);
    }

    /// What can be done with timers.
    #[derive(Debug, Clone)]
    enum Op {
        Arm(u64),
        Cancel(Index),
        /// Everything that is due by then.
        Fire(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            // Few times, so that many timers are due at once.
            5 => (0u64..40).prop_map(Op::Arm),
            2 => any::<Index>().prop_map(Op::Cancel),
            2 => (0u64..40).prop_map(Op::Fire),
        ]
    }

    proptest! {
        #[test]
        fn the_heap_is_a_sorted_list(ops in prop::collection::vec(op(), 1..200)) {
            let mut timers = Timers::default();
            let mut list: Vec<(Mono, u32, TimerId)> = Vec::new();
            for (n, op) in ops.into_iter().enumerate() {
                match op {
                    Op::Arm(at) => {
                        let owner = Owner::Session(SessionId::new(n as u32, 0));
                        list.push((Mono(at), n as u32, timers.arm(Mono(at), (n % 12) as u8, owner)));
                        list.sort_by_key(|(at, n, _)| (*at, *n));
                    }
                    Op::Cancel(_) if list.is_empty() => {}
                    Op::Cancel(at) => timers.cancel(list.remove(at.index(list.len())).2),
                    Op::Fire(now) => {
                        while let Some((part, owner)) = timers.pop(Mono(now)) {
                            let (at, n, _) = list.remove(0);
                            prop_assert!(at <= Mono(now), "before its time");
                            let expected = Owner::Session(SessionId::new(n, 0));
                            prop_assert_eq!((part, owner), ((n % 12) as u8, expected));
                        }
                        prop_assert!(list.first().is_none_or(|(at, ..)| *at > Mono(now)), "late");
                    }
                }
                prop_assert_eq!(timers.next(), list.first().map(|(at, ..)| *at));
            }
        }
    }
}
