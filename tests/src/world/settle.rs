//! The end of the story: faults stop, everybody who has a session comes back, what was on its way arrives. Then the
//! accounts are closed.

use super::{Event, World};
use crate::client::{Client, Letter, Wishes};
use crate::model::{Broken, Promise, TOLERANCE};
use crate::script::{Plan, Profile, Wish};
use culex_core::Record;
use culex_core::packet::{QoS, Version};

/// The topics of all scripts, which a newcomer looks at in the end.
const TOPICS: [&str; 6] = ["a", "a/b", "a/b/c", "b", "b/c", "c"];

impl World<'_> {
    pub(super) fn settle(&mut self, part: u8) {
        self.within_limits();
        match part {
            0 => self.calm_down(),
            1 => self.come_back(),
            2 => self.close_accounts(),
            3 => self.look_around(),
            4 => self.leave(),
            5 => self.come_to_end_sessions(),
            6 => self.clear_up(),
            _ => self.nothing_is_left(),
        }
    }

    fn calm_down(&mut self) {
        self.settling = true;
        self.frozen_until = 0;
        self.sync_us = 1_000;
        self.sync_fails = false;
        for client in &mut self.clients {
            client.stalled_until = 0;
            client.plan.latency_ms = 0;
            client.plan.socket_bytes = client.plan.socket_bytes.max(1 << 16);
        }
        for link in &mut self.links {
            link.up.hurry();
            link.down.hurry();
        }
        let patience = u64::from(self.config.ask_timeout_ms) * 1_000 + TOLERANCE;
        if let Some((number, question)) =
            self.tickets.iter().find(|(_, question)| question.asked_at + patience < self.now)
        {
            let what =
                format!("question {number} ({:?}) got no answer, and was not withdrawn", question.ticket);
            return self.breaks(Broken { promise: Promise::TicketsResolved, what });
        }
        let numbers: Vec<u64> = self.tickets.keys().copied().collect();
        for number in numbers {
            self.schedule(self.now, Event::Answer(number));
        }
        if self.model.is_failed() {
            // A store that failed stays so until the broker is started anew.
            self.schedule(self.now + 1_000_000, Event::Kill(100_000));
        }
        self.schedule(self.now + 10_000_000, Event::Settle(1));
    }

    fn come_back(&mut self) {
        for (client, wishes) in self.persistent() {
            if !self.clients[client].connected {
                self.connect(client, wishes);
            }
        }
        self.schedule(self.now + 60_000_000, Event::Settle(2));
    }

    fn close_accounts(&mut self) {
        let calm = self.script.profile == Profile::Calm;
        let check = self.model.settles(calm, &self.clients.iter().filter_map(|client| client.link).collect());
        self.check(check);
        self.model.tested(Promise::NotStuck);
        for ((shard, id), link) in &self.by_id {
            let broker = self.shards[*shard].broker.as_ref();
            let credit = broker.map_or(1, |broker| broker.read_credit(*id));
            if credit == 0 {
                let what = format!("connection {link} is still not read");
                return self.breaks(Broken { promise: Promise::NotStuck, what });
            }
        }
        for link in self.by_id.values() {
            if self.links[*link].up.waits_since().is_some_and(|due| due + 1_000_000 < self.now) {
                let what = format!("what arrived on connection {link} was never read");
                return self.breaks(Broken { promise: Promise::NotStuck, what });
            }
        }
        if let Some((number, question)) = self.tickets.first_key_value() {
            let ticket = question.ticket;
            let what = format!("question {number} ({ticket:?}) was neither answered nor withdrawn");
            return self.breaks(Broken { promise: Promise::TicketsResolved, what });
        }
        let observer = Plan {
            version: Version::V5,
            keep_alive_s: 0,
            receive_maximum: 65_535,
            topic_alias_maximum: 0,
            ack_ms: 0,
            latency_ms: 0,
            socket_bytes: 1 << 20,
            packet_bytes_max: 0,
            packet_ids: 60_000,
        };
        let index = self.clients.len();
        self.clients.push(Client::new(observer, "observer".into()));
        if let Some(trace) = &mut self.trace {
            trace.clients.push("observer".into());
        }
        self.connect(index, Wishes { clean: true, expiry_s: 0, will: None });
        self.schedule(self.now + 1_000_000, Event::Settle(3));
    }

    fn look_around(&mut self) {
        let index = self.clients.len() - 1;
        let everything = Wish {
            filter: "#",
            qos: QoS::ExactlyOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: 0,
        };
        let bytes = self.clients[index].subscribe(&[everything], 0);
        self.client_writes(index, &bytes);
        self.schedule(self.now + 5_000_000, Event::Settle(4));
    }

    fn leave(&mut self) {
        if !self.model.has_dropped() {
            let check = self.model.finds(&TOPICS, &self.found.clone());
            self.check(check);
        }
        self.all_retain_the_same();
        for client in 0..self.clients.len() {
            self.say_goodbye(client, false);
        }
        self.schedule(self.now + 30_000_000, Event::Settle(5));
    }

    /// Whoever asks another machine must not find another message.
    fn all_retain_the_same(&mut self) {
        let brokers = self.shards.iter_mut().filter_map(|shard| shard.broker.as_mut());
        let retained = brokers.map(|broker| {
            let records = broker.records().into_iter();
            let retained = records.filter(|record| matches!(record, Record::Retained(_)));
            retained.map(|record| format!("{record:?}")).collect::<Vec<_>>()
        });
        let retained: Vec<_> = retained.collect();
        if retained.windows(2).any(|pair| pair[0] != pair[1]) {
            let what = format!("machines retain different messages: {retained:?}");
            self.breaks(Broken { promise: Promise::RetainedIsLastWrite, what });
        }
    }

    /// Everybody comes once more, to sessions that end with the connection.
    fn come_to_end_sessions(&mut self) {
        self.no_connection_is_left();
        for client in 0..self.clients.len() {
            self.connect(client, Wishes { clean: true, expiry_s: 0, will: None });
        }
        self.schedule(self.now + 10_000_000, Event::Settle(6));
    }

    fn clear_up(&mut self) {
        let observer = self.clients.len() - 1;
        for topic in TOPICS {
            let letter = Letter { retain: true, ..Letter::new(topic, QoS::AtMostOnce) };
            let bytes = self.clients[observer].publish(letter);
            self.client_writes(observer, &bytes);
        }
        for client in 0..self.clients.len() {
            self.say_goodbye(client, false);
        }
        // Who looks for what expired does that now and then.
        self.schedule(self.now + 120_000_000, Event::Settle(7));
    }

    fn no_connection_is_left(&mut self) {
        let brokers = self.shards.iter().filter_map(|shard| shard.broker.as_ref());
        let connections: usize = brokers.map(culex_core::Broker::connections).sum();
        let vanished = self.by_id.len();
        if connections != vanished {
            let what = format!("{connections} connections, {vanished} were never reported as gone");
            self.breaks(Broken { promise: Promise::NothingLeft, what });
        }
    }

    fn nothing_is_left(&mut self) {
        self.model.tested(Promise::NothingLeft);
        self.no_connection_is_left();
        if self.by_id.is_empty() {
            self.nothing_is_kept();
        }
        // What is still to come is timers of the future: the story ends here.
        self.events.clear();
    }
}
