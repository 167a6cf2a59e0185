//! The life of a connection, as data: which packet a client may send in which phase.

use crate::error::Violation;
use crate::packet::PacketType;

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Accepted; the first packet must be CONNECT.
    Opened,
    /// CONNECT came and is being decided; AUTH packets may be exchanged.
    Connecting,
    /// CONNACK was sent.
    Connected,
    /// Ended by either side; the last packets are being written.
    Closing,
    /// Everything was written and the adapter was asked to close.
    Closed,
}

/// What the table says of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may come now.
    Allowed,
    /// The connection is over: it is not looked at.
    Ignored,
    /// It breaks a rule.
    Forbidden(Violation),
}

/// Whether a client may send a packet of this type in this phase.
#[inline]
#[must_use]
pub fn verdict(phase: Phase, packet: PacketType) -> Verdict {
    use PacketType as P;
    use Verdict::{Allowed, Forbidden, Ignored};
    if phase == Phase::Connected && packet == P::Publish {
        // The frequent one, which the table below would allow too.
        return Allowed;
    }
    match (phase, packet) {
        (Phase::Closing | Phase::Closed, _) => Ignored,
        (Phase::Opened, P::Connect) => Allowed,
        (Phase::Opened, _) => Forbidden(Violation::protocol("MQTT-3.1.0-1")),
        (_, P::Connect) => Forbidden(Violation::protocol("MQTT-3.1.0-2")),
        (_, P::Connack | P::Suback | P::Unsuback | P::Pingresp) => {
            Forbidden(Violation::protocol("MQTT-4.13.1-1"))
        }
        (Phase::Connecting, P::Auth | P::Disconnect) => Allowed,
        // Only an enhanced authentication may be going on between CONNECT and CONNACK.
        (Phase::Connecting, _) => Forbidden(Violation::protocol("MQTT-3.1.2-30")),
        (Phase::Connected, _) => Allowed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_packet_is_connect_and_there_is_only_one() {
        for bits in 1..=15 {
            let packet = PacketType::from_bits(bits).unwrap();
            let first = verdict(Phase::Opened, packet);
            // [MQTT-3.1.0-1]
            assert_eq!(first == Verdict::Allowed, packet == PacketType::Connect, "{packet:?}");
            assert_eq!(verdict(Phase::Closing, packet), Verdict::Ignored);
        }
        let again = Verdict::Forbidden(Violation::protocol("MQTT-3.1.0-2"));
        assert_eq!(verdict(Phase::Connected, PacketType::Connect), again);
        assert_eq!(verdict(Phase::Connecting, PacketType::Connect), again);
    }
}
