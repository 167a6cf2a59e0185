//! Arbitrary sequences of inputs for the machine, with arbitrary bytes. Whatever comes in, in whatever order: nothing
//! panics, output always drains, what is sent can be read by the client, and when all connections are gone the machine
//! has let go of them.
//!
//! How a sequence is written is described in `fuzz/README.md`.

use crate::script::Script;
use crate::world::{PEERS, World};
use culex_core::Disconnect;

/// Target `broker`: see the table in `fuzz/README.md`.
///
/// # Panics
/// If something that must hold does not.
pub fn broker(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let mut world = World::new(script.byte());
    while let Some(op) = script.next() {
        perform(&mut world, op & 0x0F, usize::from(op >> 4) % PEERS, &mut script);
    }
    world.end();
}

fn perform(world: &mut World, op: u8, at: usize, script: &mut Script<'_>) {
    match op {
        0 => world.accept(at),
        1 => world.receive(at, script.short()),
        2 => {
            let count = usize::from(script.byte()) * 16;
            world.receive(at, script.take(count));
        }
        4 => world.write(at, script.byte().into()),
        5 => world.writable(at),
        6 => {
            let broken = script.byte() & 1 != 0;
            world.disconnect(at, if broken { Disconnect::Error } else { Disconnect::Eof });
        }
        7 => world.pass_ms(1 << (script.byte() % 24)),
        8 => world.answer(script.byte()),
        9 => world.publish(script),
        10 => world.subscribe(script.text()),
        11 => world.unsubscribe(),
        12 => world.touch_what_is_gone(),
        13 => world.shutdown(),
        14 => world.commit(script.byte()),
        15 if world.is_durable() => world.commit_failed(),
        _ => world.drain(),
    }
}
