//! The runtime suite on tokio.

use culex_runtime::testing::Client;

culex_runtime::runtime_suite!(culex_tokio::Broker, culex_tokio::Bound::run_blocking);

/// Dropping the future ends the broker as a whole, at any moment.
#[tokio::test]
async fn dropping_the_future_closes_every_connection() {
    for shards in [1, 3] {
        let builder = culex_tokio::Broker::builder().listen("mqtt://127.0.0.1:0").shards(shards);
        let bound = builder.bind().unwrap();
        let (address, handle) = (bound.local_addrs()[0], bound.handle());
        let connect = move || ["a", "b", "c", "d"].map(|name| Client::connect(address, name));
        let clients = tokio::task::spawn_blocking(connect);
        let mut clients = tokio::select! {
            clients = clients => clients.unwrap(),
            _ = bound.run() => panic!("nobody stopped it"),
        };
        assert!(clients.iter_mut().all(|client| client.packet().is_none()));
        assert!(handle.subscribe("x").is_err());
    }
}
