//! PINGREQ and PINGRESP (sections 3.12 and 3.13).

use super::reader::Reader;
use super::writer::{Encode, Sink};
use super::{Frame, PacketType, Version};
use crate::error::{Misuse, Violation};
use alloc::vec::Vec;

macro_rules! ping {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name;

        impl $name {
            /// Decodes the packet: there is nothing in it.
            ///
            /// # Errors
            /// Flags or a body where none may be.
            #[inline]
            pub fn decode(frame: &Frame<'_>, _version: Version) -> Result<Self, Violation> {
                // [MQTT-2.1.3-1]
                frame.expect_flags(0, "MQTT-2.1.3-1")?;
                Reader::new(frame.body).finish()?;
                Ok(Self)
            }

            /// Appends the packet to `out`.
            ///
            /// # Errors
            /// Never: the signature is that of all packets.
            #[inline]
            pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), Misuse> {
                self.append(version, out)
            }
        }

        impl Encode for $name {
            #[inline]
            fn first_byte(&self) -> u8 {
                PacketType::$name.first_byte(0)
            }

            #[inline]
            fn body(&self, _version: Version, _sink: &mut impl Sink) {}
        }
    };
}

ping! {
    /// PING request, client to server.
    Pingreq
}
ping! {
    /// PING response, server to client.
    Pingresp
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_have_two_bytes() {
        for version in [Version::V31, Version::V311, Version::V5] {
            let mut out = Vec::new();
            Pingreq.encode(version, &mut out).unwrap();
            Pingresp.encode(version, &mut out).unwrap();
            assert_eq!(out, [0xC0, 0, 0xD0, 0]);
            assert_eq!(Pingreq::decode(&Frame { first: 0xC0, body: &[] }, version), Ok(Pingreq));
            assert_eq!(Pingresp::decode(&Frame { first: 0xD0, body: &[] }, version), Ok(Pingresp));
        }
    }

    #[test]
    fn a_ping_with_flags_or_a_body_is_malformed() {
        let flags = Frame { first: 0xC1, body: &[] };
        assert_eq!(Pingreq::decode(&flags, Version::V5), Err(Violation::malformed("MQTT-2.1.3-1")));
        let body = Frame { first: 0xD0, body: &[0] };
        assert_eq!(Pingresp::decode(&body, Version::V5), Err(Violation::malformed("MQTT-2.1.4")));
    }
}
