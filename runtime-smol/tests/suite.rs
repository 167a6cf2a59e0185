//! The runtime suite on smol.

use culex_runtime::testing::Client;

culex_runtime::runtime_suite!(culex_smol::Broker, culex_smol::Bound::run_blocking);

/// Dropping the future ends the broker as a whole, at any moment.
#[test]
fn dropping_the_future_closes_every_connection() {
    let bound = culex_smol::Broker::builder().listen("mqtt://127.0.0.1:0").bind().unwrap();
    let (address, handle) = (bound.local_addrs()[0], bound.handle());
    let (sender, connected) = async_channel::bounded(1);
    std::thread::spawn(move || sender.send_blocking(Client::connect(address, "client")));
    let client = async { connected.recv().await.ok() };
    let run = async { bound.run().await.map_or(None, |()| None) };
    let mut client = async_io::block_on(futures_lite::future::or(client, run)).expect("nobody stopped it");
    assert!(client.packet().is_none());
    assert!(handle.subscribe("x").is_err());
}
