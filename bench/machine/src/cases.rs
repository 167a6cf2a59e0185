//! What the machine is measured at.

use crate::world::{Level, World, publish, subscribe, unsubscribe};

/// One thing to measure.
#[derive(Debug)]
pub struct Case {
    /// Its name, on the command line and in the budgets.
    pub name: &'static str,
    /// What is counted.
    pub unit: &'static str,
    /// Makes what does a burst and says how many units that were.
    made_by: fn() -> Box<dyn FnMut() -> u64>,
    /// Bursts of a short run; a long one does three times as many.
    pub bursts: u32,
}

impl Case {
    /// Makes what does a burst and says how many units that were.
    #[must_use]
    pub fn set_up(&self) -> Box<dyn FnMut() -> u64> {
        (self.made_by)()
    }

    /// Does so many bursts, behind a few to warm up; returns how many units they were. `begin` is called in between.
    pub fn run(&self, bursts: u32, begin: impl FnOnce()) -> u64 {
        let mut burst = self.set_up();
        for _ in 0..WARM_UP {
            burst();
        }
        begin();
        (0..bursts).map(|_| burst()).sum()
    }
}

/// All of them.
pub const CASES: &[Case] = &[
    Case { name: "qos0-v4", unit: "message", made_by: || point_to_point(4, 0, 64), bursts: 50 },
    Case { name: "qos1-v4", unit: "message", made_by: || point_to_point(4, 1, 64), bursts: 50 },
    Case { name: "qos2-v4", unit: "message", made_by: || point_to_point(4, 2, 64), bursts: 50 },
    Case { name: "qos0-v5", unit: "message", made_by: || point_to_point(5, 0, 64), bursts: 50 },
    Case { name: "qos1-v5", unit: "message", made_by: || point_to_point(5, 1, 64), bursts: 50 },
    Case { name: "qos2-v5", unit: "message", made_by: || point_to_point(5, 2, 64), bursts: 50 },
    Case {
        name: "large-qos0",
        unit: "message of 16 KiB",
        made_by: || point_to_point(4, 0, 16 * 1024),
        bursts: 20,
    },
    Case { name: "fan-out-qos0", unit: "delivery", made_by: || fan_out(0), bursts: 5 },
    Case { name: "fan-out-qos1", unit: "delivery", made_by: || fan_out(1), bursts: 5 },
    Case { name: "fan-in-qos0", unit: "message", made_by: fan_in, bursts: 10 },
    Case { name: "wildcard-qos0", unit: "message", made_by: wildcard, bursts: 50 },
    Case { name: "ping", unit: "PINGREQ", made_by: ping, bursts: 50 },
    Case { name: "subscribe", unit: "SUBSCRIBE and UNSUBSCRIBE", made_by: subscriptions, bursts: 20 },
    Case { name: "connect", unit: "CONNECT and DISCONNECT", made_by: connections, bursts: 20 },
    Case { name: "retained-store", unit: "message", made_by: retained, bursts: 20 },
    Case { name: "offline-queue", unit: "message", made_by: offline, bursts: 20 },
];

/// One client sends messages that another gets.
fn point_to_point(level: Level, qos: u8, payload_bytes: usize) -> Box<dyn FnMut() -> u64> {
    let mut world = World::new();
    let alice = world.connect("alice", level, true, false);
    let bob = world.connect("bob", level, true, false);
    world.receive(alice, &subscribe("bench/0", level, qos));
    world.settle();
    let bytes = messages("bench/0", level, qos, payload_bytes);
    Box::new(move || burst(&mut world, |world| world.receive(bob, &bytes)))
}

/// One client sends messages that 500 others get.
fn fan_out(qos: u8) -> Box<dyn FnMut() -> u64> {
    let mut world = World::new();
    for number in 0..MANY {
        let id = world.connect(&format!("client-{number}"), 4, true, false);
        world.receive(id, &subscribe("bench/0", 4, qos));
    }
    let bob = world.connect("bob", 4, true, false);
    world.settle();
    let bytes = messages("bench/0", 4, qos, 64);
    Box::new(move || burst(&mut world, |world| world.receive(bob, &bytes)))
}

/// 500 clients send a message each, to topics of their own; one gets them all.
fn fan_in() -> Box<dyn FnMut() -> u64> {
    let mut world = World::new();
    let alice = world.connect("alice", 4, true, false);
    world.receive(alice, &subscribe("bench/#", 4, 0));
    let clients: Vec<_> = (0..MANY)
        .map(|number| {
            let id = world.connect(&format!("client-{number}"), 4, true, false);
            (id, publish(&format!("bench/{number}/temperature"), 4, 0, false, 0, &[b'x'; 64]))
        })
        .collect();
    world.settle();
    Box::new(move || {
        burst(&mut world, |world| {
            for (id, bytes) in &clients {
                world.receive(*id, bytes);
            }
        })
    })
}

/// As point to point, by a filter with wildcards and a topic of some levels.
fn wildcard() -> Box<dyn FnMut() -> u64> {
    let mut world = World::new();
    let alice = world.connect("alice", 4, true, false);
    let bob = world.connect("bob", 4, true, false);
    world.receive(alice, &subscribe("site/+/floor/+/temperature", 4, 0));
    world.settle();
    let bytes = messages("site/4711/floor/12/temperature", 4, 0, 64);
    Box::new(move || burst(&mut world, |world| world.receive(bob, &bytes)))
}

fn ping() -> Box<dyn FnMut() -> u64> {
    let mut world = World::new();
    let alice = world.connect("alice", 4, true, false);
    world.settle();
    Box::new(move || {
        world.pass_ms(1);
        world.receive(alice, &[0xC0, 0].repeat(BURST as usize));
        world.settle();
        BURST.into()
    })
}

fn subscriptions() -> Box<dyn FnMut() -> u64> {
    let mut world = World::new();
    let alice = world.connect("alice", 4, true, false);
    world.settle();
    let bytes: Vec<u8> = (0..BURST)
        .flat_map(|number| {
            let filter = format!("site/{number}/+/temperature");
            [subscribe(&filter, 4, 1), unsubscribe(&filter, 4)].concat()
        })
        .collect();
    Box::new(move || {
        world.pass_ms(1);
        world.receive(alice, &bytes);
        world.settle();
        BURST.into()
    })
}

fn connections() -> Box<dyn FnMut() -> u64> {
    let mut world = World::new();
    Box::new(move || {
        world.pass_ms(1);
        let ids: Vec<_> =
            (0..BURST).map(|number| world.connect(&format!("client-{number}"), 4, true, false)).collect();
        world.settle();
        for id in ids {
            world.receive(id, &[0xE0, 0]);
        }
        world.settle();
        BURST.into()
    })
}

/// Retained messages that replace others.
fn retained() -> Box<dyn FnMut() -> u64> {
    let mut world = World::new();
    let bob = world.connect("bob", 4, true, false);
    world.settle();
    let bytes: Vec<u8> = (0..BURST)
        .flat_map(|number| publish(&format!("site/{number}/temperature"), 4, 0, true, 0, &[b'x'; 64]))
        .collect();
    Box::new(move || {
        world.pass_ms(1);
        world.receive(bob, &bytes);
        world.settle();
        BURST.into()
    })
}

/// Messages for a client that is away, which then takes them.
fn offline() -> Box<dyn FnMut() -> u64> {
    let mut world = World::new();
    let alice = world.connect("alice", 4, true, true);
    let bob = world.connect("bob", 4, true, false);
    world.receive(alice, &subscribe("bench/0", 4, 1));
    world.settle();
    let bytes = messages("bench/0", 4, 1, 64).repeat(8);
    world.cut(alice);
    Box::new(move || {
        burst(&mut world, |world| {
            world.receive(bob, &bytes);
            world.settle();
            let alice = world.connect("alice", 4, true, true);
            world.settle();
            world.cut(alice);
        })
    })
}

/// How many messages were delivered by what `act` does.
fn burst(world: &mut World, act: impl FnOnce(&mut World)) -> u64 {
    world.pass_ms(1);
    let before = world.delivered;
    act(world);
    world.settle();
    world.delivered - before
}

/// All messages of a burst, as one read gives them; of large ones, as many as a read has.
fn messages(topic: &str, level: Level, qos: u8, payload_bytes: usize) -> Vec<u8> {
    let payload = vec![b'x'; payload_bytes];
    let count = BURST.min((128 * 1024 / payload_bytes) as u16);
    (1..=count).flat_map(|id| publish(topic, level, qos, false, id, &payload)).collect()
}

const BURST: u16 = 32;
const MANY: u16 = 500;
const WARM_UP: u32 = 4;
