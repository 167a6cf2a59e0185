//! The runtime suite on tokio.

use culex_runtime::testing::Client;

culex_runtime::runtime_suite!(culex_tokio::Broker, culex_tokio::Bound::run_blocking);

/// Dropping the future ends the broker as a whole, at any moment.
#[tokio::test]
async fn dropping_the_future_closes_every_connection() {
    let bound = culex_tokio::Broker::builder().listen("mqtt://127.0.0.1:0").bind().unwrap();
    let (address, handle) = (bound.local_addrs()[0], bound.handle());
    let client = tokio::task::spawn_blocking(move || Client::connect(address, "client"));
    let mut client = tokio::select! {
        client = client => client.unwrap(),
        _ = bound.run() => panic!("nobody stopped it"),
    };
    assert!(client.packet().is_none());
    assert!(handle.subscribe("x").is_err());
}
