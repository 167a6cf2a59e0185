//! Wills: published when they are owed, once, and otherwise not.

use super::{Announced, Micros, Model, Promise, Seq, TOLERANCE};

impl Model {
    /// A will that a client is about to leave; its number names it.
    pub fn announce_will(&mut self, announced: Announced) -> usize {
        let message = self.announce(announced);
        self.publications[message].is_will = true;
        message
    }

    /// The connection of a session ended without a word, between `from` and `to`.
    pub(crate) fn will_owed(&mut self, index: usize, from: Micros, to: Micros) {
        let life = &mut self.lives[index];
        let Some(will) = &mut life.will else { return };
        let wait = u64::from(will.delay_s.min(life.expiry_s)) * 1_000_000;
        // What survives a restart is kept in milliseconds.
        let early = if wait > 0 { 1_000 } else { 0 };
        will.due = Some((from + wait - early, to + wait + TOLERANCE));
        if wait == 0 {
            let message = will.message;
            self.may_be_published(message, self.seq);
        }
    }

    /// The broker came back: a will that waited may begin to wait anew.
    pub(crate) fn will_postponed(&mut self, index: usize, now: Micros) {
        let life = &mut self.lives[index];
        let Some(will) = &mut life.will else { return };
        let wait = u64::from(will.delay_s.min(life.expiry_s)) * 1_000_000;
        if let Some((_, to)) = &mut will.due {
            *to = now + wait + TOLERANCE;
        }
    }

    /// The session of a will ends: nothing is left to wait for.
    pub(crate) fn hasten_will(&mut self, index: usize) {
        let (seq, now) = (self.seq, self.now);
        let Some(will) = &mut self.lives[index].will else { return };
        if let Some((from, to)) = &mut will.due {
            *from = (*from).min(now);
            *to = (*to).min(now + TOLERANCE);
            let message = will.message;
            self.may_be_published(message, seq);
        }
    }

    /// The client said goodbye: its will is not published. That is not acknowledged: a crash may undo it.
    pub(crate) fn will_dropped(&mut self, index: usize) {
        if let Some(will) = self.lives[index].will.take()
            && self.rules.durable
        {
            self.undone.push((will.message, self.seq));
        }
    }

    /// The client is back: a will that waits is not published. One whose time may have come may be on its way.
    pub(crate) fn will_replaced(&mut self, index: usize) {
        let now = self.now;
        let Some(will) = self.lives[index].will.take() else { return };
        if let Some((from, _)) = will.due
            && from <= now
        {
            self.may_be_published(will.message, self.seq);
        } else if self.rules.durable {
            self.undone.push((will.message, self.seq));
        }
    }

    /// From now on it is no wonder if this message comes out.
    pub(crate) fn may_be_published(&mut self, message: usize, seq: Seq) {
        let publication = &mut self.publications[message];
        if publication.start.is_none() {
            publication.start = Some(seq);
            publication.start_at = self.now;
            publication.receipts = 1;
            if publication.retain {
                self.write(message, seq);
            }
        }
    }

    /// Time passed: wills come due.
    pub fn advance(&mut self, now: Micros) {
        self.now = self.now.max(now);
        self.all_know();
        if self.down {
            return;
        }
        for index in 0..self.lives.len() {
            let Some(will) = &self.lives[index].will else { continue };
            let Some((from, to)) = will.due else { continue };
            let message = will.message;
            if from <= now {
                self.may_be_published(message, self.seq);
            }
            let client = self.lives[index].client;
            let back = self.links.values().any(|state| {
                let connecting = state.connect.as_ref().is_some_and(|connecting| !connecting.acknowledged);
                state.client == client && !state.gone && connecting
            });
            // Its client is at the door: whether it came in time will be seen.
            if to <= now && !back {
                self.lives[index].will = None;
                self.owed_now(message, self.lives[index].sure);
            }
        }
    }

    /// The broker worked off all that went in: a will that is due without delay is on its way.
    pub fn turn_ended(&mut self) {
        self.turn = self.seq;
        if self.rules.asks || self.down {
            return;
        }
        for index in 0..self.lives.len() {
            let Some(will) = &self.lives[index].will else { continue };
            let at_once = self.lives[index]
                .left
                .is_some_and(|(left, _)| will.due.is_some_and(|(from, _)| from == left));
            if at_once {
                let message = will.message;
                self.lives[index].will = None;
                self.owed_now(message, self.lives[index].sure);
            }
        }
    }

    fn owed_now(&mut self, message: usize, sure: bool) {
        self.seen.insert(Promise::Will);
        // Later than anything that is on the disk.
        let seq = self.step(self.now);
        // When the disk fails, what it was to keep may go with it.
        let sure = sure && !self.failed;
        self.may_be_published(message, seq);
        let publication = &mut self.publications[message];
        if sure {
            publication.end.get_or_insert(seq);
            // Not later than now: from here on it expires.
            publication.start_at = self.now;
        }
        self.write_is_sure(message, seq, sure);
    }
}
