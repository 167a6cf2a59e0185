//! Streams that the program has itself, on smol.
#![allow(clippy::unwrap_used)] // as in tests

use culex_core::Peer;
use culex_smol::{Broker, stream};
use futures_lite::io::{AsyncReadExt, AsyncWriteExt, BufWriter, split};
use futures_lite::{AsyncRead, AsyncWrite};
use smol::net::unix::UnixStream;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A stream that the broker writes with a buffer: nothing is sent without a flush.
struct Buffered<R, W>(R, BufWriter<W>);

impl<R: AsyncRead + Unpin, W: Unpin> AsyncRead for Buffered<R, W> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<R: Unpin, W: AsyncWrite + Unpin> AsyncWrite for Buffered<R, W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.1).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.1).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.1).poll_close(cx)
    }
}

#[test]
fn a_stream_of_the_program_is_served() {
    let bound = Broker::builder().shutdown_ms(100).bind().unwrap();
    let handle = bound.handle();
    let running = std::thread::spawn(|| bound.run_blocking());
    smol::block_on(async {
        let (mut client, server) = UnixStream::pair().unwrap();
        let (reading, writing) = split(server);
        let own = stream(Buffered(reading, BufWriter::new(writing)));
        handle.accept(own, Peer::default()).unwrap();
        client.write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a\xc0\x00").await.unwrap();
        let mut answers = [0; 6];
        client.read_exact(&mut answers).await.unwrap();
        assert_eq!(answers, *b"\x20\x02\x00\x00\xd0\x00");
        client.write_all(b"\xe0\x00").await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    });
    handle.shutdown();
    running.join().unwrap().unwrap();
}

/// The pipe speaks the traits of `futures`.
#[test]
fn a_client_inside_the_program_is_served() {
    let bound = Broker::builder().shutdown_ms(100).bind().unwrap();
    let handle = bound.handle();
    let running = std::thread::spawn(|| bound.run_blocking());
    smol::block_on(async {
        let mut client = handle.connect().unwrap();
        AsyncWriteExt::write_all(&mut client, b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a")
            .await
            .unwrap();
        let mut connack = [0; 4];
        AsyncReadExt::read_exact(&mut client, &mut connack).await.unwrap();
        assert_eq!(connack, *b"\x20\x02\x00\x00");
    });
    handle.shutdown();
    running.join().unwrap().unwrap();
}
