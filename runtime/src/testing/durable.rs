//! The part of the suite in which brokers have a store.

use super::{Adapter, Client, HeldStore, Over, Run, Running, builder, start};
use crate::Builder;
use culex_core::packet::*;
use culex_core::store::Durability;

/// A broker with this store.
fn serve<A: Adapter<Bound: Send + 'static>>(run: Run<A>, builder: Builder<A>, store: &HeldStore) -> Running {
    start(run, Over::Tcp, builder.store(store.clone(), Durability::Disk))
}

/// A client whose session outlives it, and whether it had one already.
fn connect(broker: &Running, client_id: &str) -> (Client, bool) {
    let mut client = Client::open(broker.place);
    let mut hello = Client::connect_packet(4, client_id);
    // Without Clean Session.
    hello[9] = 0;
    client.send(&hello);
    let connack = client.packet().unwrap();
    assert_eq!((connack[0], connack[3]), (0x20, 0));
    (client, connack[2] == 1)
}

fn send(client: &mut Client, packet: &Packet<'_>) {
    let mut bytes = Vec::new();
    packet.encode(Version::V311, &mut bytes).unwrap();
    client.send(&bytes);
}

/// Publishes at QoS 1, and waits for nothing.
fn publish(client: &mut Client, payload: &[u8]) {
    send(
        client,
        &Packet::Publish(Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: "t".into(),
            packet_id: Some(PacketId::MIN),
            properties: Properties::EMPTY,
            payload: payload.into(),
        }),
    );
}

/// A session that gets everything, later.
fn subscriber(broker: &Running) {
    let (mut client, _) = connect(broker, "subscriber");
    let mut filters = SubscribeFiltersBuf::new();
    filters.push("#", SubscriptionOptions::new(QoS::AtLeastOnce)).unwrap();
    let (packet_id, filters) = (PacketId::MIN, filters.as_filters());
    send(&mut client, &Packet::Subscribe(Subscribe { packet_id, properties: Properties::EMPTY, filters }));
    assert_eq!(client.packet().unwrap(), [0x90, 3, 0, 1, 1]);
    let (reason, properties) = (ReasonCode::Success, Properties::EMPTY);
    send(&mut client, &Packet::Disconnect(Disconnect { reason, properties }));
    assert!(client.packet().is_none());
}

const PUBACK: [u8; 4] = [0x40, 2, 0, 1];

/// Another broker with the same store goes on where the first one ended.
pub fn what_was_acknowledged_outlives_the_broker<A: Adapter<Bound: Send + 'static>>(run: Run<A>) {
    let store = HeldStore::default();
    let broker = serve(run, builder::<A>(), &store);
    subscriber(&broker);
    let (mut publisher, _) = connect(&broker, "publisher");
    publish(&mut publisher, b"in between");
    assert_eq!(publisher.packet().unwrap(), PUBACK);
    // What is there now is what a crash leaves.
    let after = store.killed();
    broker.stop();
    let broker = serve(run, builder::<A>(), &after);
    assert_eq!(broker.handle.restored().unwrap().sessions, 2);
    let (mut client, present) = connect(&broker, "subscriber");
    assert!(present);
    let message = client.packet().unwrap();
    assert!(message[0] == 0x32 && message.ends_with(b"in between"), "{message:?}");
    broker.stop();
}

/// The shard goes on while the disk takes its time, and acknowledges when it is done.
pub fn an_acknowledgement_waits_for_the_disk_and_nothing_else_does<A: Adapter<Bound: Send + 'static>>(
    run: Run<A>,
) {
    let store = HeldStore::default();
    let broker = serve(run, builder::<A>(), &store);
    subscriber(&broker);
    let (mut publisher, _) = connect(&broker, "publisher");
    store.hold();
    publish(&mut publisher, b"slow");
    store.until_held();
    publisher.ping();
    Client::connect(broker.place, "another").ping();
    store.release();
    assert_eq!(publisher.packet().unwrap(), PUBACK);
    broker.stop();
}

/// After a commit that failed nobody hears PUBACK, and what needs no disk goes on.
pub fn a_disk_that_fails_is_told_to_nobody_as_success<A: Adapter<Bound: Send + 'static>>(run: Run<A>) {
    let store = HeldStore::default();
    let broker = serve(run, builder::<A>(), &store);
    subscriber(&broker);
    let (mut publisher, _) = connect(&broker, "publisher");
    store.fail();
    publish(&mut publisher, b"lost");
    assert!(publisher.packet().is_none());
    let mut another = Client::connect(broker.place, "another");
    another.subscribe("quick");
    another.publish("quick", b"needs no disk");
    assert_eq!(another.message(), ("quick".into(), b"needs no disk".to_vec()));
    publish(&mut another, b"refused");
    assert!(another.packet().is_none());
    broker.stop();
}

/// The broker is not gone before everything is stored.
pub fn a_shutdown_waits_for_the_disk<A: Adapter<Bound: Send + 'static>>(run: Run<A>) {
    let store = HeldStore::default();
    let broker = serve(run, Builder::<A>::default(), &store);
    subscriber(&broker);
    let (mut publisher, _) = connect(&broker, "publisher");
    store.hold();
    publish(&mut publisher, b"last");
    store.until_held();
    broker.handle.shutdown();
    assert!(publisher.packet().is_none());
    drop(publisher);
    assert!(!broker.thread.is_finished());
    store.release();
    broker.stop();
    let broker = serve(run, builder::<A>(), &store);
    let (mut client, _) = connect(&broker, "subscriber");
    assert!(client.packet().unwrap().ends_with(b"last"));
    broker.stop();
}
