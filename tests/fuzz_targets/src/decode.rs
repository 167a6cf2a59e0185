//! Arbitrary bytes as packets, in every version: nothing panics, and what was understood is written such that it is
//! understood as the same again.

use culex_core::packet::{Framed, Packet, Version, frame};

const PACKET_SIZE_MAX: u32 = 1 << 20;

/// Target `decode`: see the table in `fuzz/README.md`.
///
/// # Panics
/// If something that must hold does not.
pub fn decode(bytes: &[u8]) {
    for version in [Version::V31, Version::V311, Version::V5] {
        walk(bytes, version);
    }
}

/// Decodes packet after packet, as a connection would.
fn walk(mut bytes: &[u8], version: Version) {
    while let Ok(Framed::Whole { frame, length }) = frame(bytes, PACKET_SIZE_MAX) {
        assert!((2..=bytes.len()).contains(&length), "a packet of {length} of {} bytes", bytes.len());
        if let Ok(packet) = Packet::decode(&frame, version) {
            again(&packet, version);
        }
        bytes = &bytes[length..];
    }
}

/// Encodes a packet and decodes it again.
fn again(packet: &Packet<'_>, version: Version) {
    let mut written = Vec::new();
    packet.encode(version, &mut written).expect("what was decoded fits into a packet");
    let Ok(Framed::Whole { frame, length }) = frame(&written, u32::MAX) else {
        panic!("{packet:?} was written as something that is no packet: {written:02X?}");
    };
    assert_eq!(length, written.len());
    match Packet::decode(&frame, version) {
        Ok(read) => assert_eq!(&read, packet, "{version:?}"),
        Err(violation) => panic!("{packet:?} was written as something refused: {violation}"),
    }
}
