//! Peers whose word about others is believed: proxies.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

/// A list of addresses and networks: `127.0.0.1, 10.0.0.0/8, fd00::/8`. Cheap to clone. An IPv4 address is the same
/// when it is written as one of IPv6 (`::ffff:10.0.0.1`), which is how a socket for both sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trusted(Arc<[Network]>);

/// Addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    /// How many bits.
    prefix: u8,
}

impl Trusted {
    /// Whether the list is empty: nobody is trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an address is in the list.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(address))
    }
}

impl Network {
    fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && masked(address, self.prefix) == masked(self.address, self.prefix)
    }
}

/// The first bits of an address, as they stand in one of IPv6.
fn masked(address: IpAddr, prefix: u8) -> u128 {
    let (bits, width) = match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    bits.checked_shr(width - u32::from(prefix)).unwrap_or(0)
}

impl FromStr for Trusted {
    type Err = NotTrusted;

    fn from_str(text: &str) -> Result<Self, NotTrusted> {
        let words = text.split([',', ' ']).filter(|word| !word.is_empty());
        words.map(str::parse).collect::<Result<Vec<_>, _>>().map(|list| Self(list.into()))
    }
}

impl FromStr for Network {
    type Err = NotTrusted;

    fn from_str(text: &str) -> Result<Self, NotTrusted> {
        let wrong = |why| NotTrusted { found: text.into(), why };
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong(EXPECTED))?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => width,
            Some(prefix) if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) => {
                return Err(wrong(EXPECTED));
            }
            Some(prefix) => match prefix.parse() {
                Ok(prefix) if prefix <= width => prefix,
                _ if width == 32 => return Err(wrong("at most 32 bits behind the slash")),
                _ => return Err(wrong("at most 128 bits behind the slash")),
            },
        };
        let rest = u32::from(width - prefix);
        let bits = masked(address, prefix).checked_shl(rest).unwrap_or(0);
        let first = match address {
            IpAddr::V4(_) => IpAddr::V4((bits as u32).into()),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(bits)),
        };
        if first != address {
            return Err(wrong("no bits behind the network's own, as in 10.0.0.0/8"));
        }
        // ::ffff:10.0.0.0/104 are the addresses 10.0.0.0/8.
        match (address, address.to_canonical()) {
            (IpAddr::V6(_), canonical @ IpAddr::V4(_)) if prefix >= 96 => {
                Ok(Self { address: canonical, prefix: prefix - 96 })
            }
            _ => Ok(Self { address, prefix }),
        }
    }
}

impl fmt::Display for Trusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, network) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{network}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.prefix) {
            (IpAddr::V4(_), 32) | (IpAddr::V6(_), 128) => self.address.fmt(f),
            (address, prefix) => write!(f, "{address}/{prefix}"),
        }
    }
}

/// A list of trusted peers was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotTrusted {
    found: Box<str>,
    why: &'static str,
}

impl fmt::Display for NotTrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}, found {:?}", self.why, self.found)
    }
}

impl std::error::Error for NotTrusted {}

const EXPECTED: &str = "addresses or networks such as 127.0.0.1, 10.0.0.0/8, fd00::/8";

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(list: &str, address: &str) -> bool {
        list.parse::<Trusted>().unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn an_address_is_trusted_by_itself_or_by_its_network() {
        assert!(contains("127.0.0.1", "127.0.0.1") && !contains("127.0.0.1", "127.0.0.2"));
        assert!(contains("::1, 10.0.0.0/8", "10.255.0.1") && !contains("10.0.0.0/8", "11.0.0.0"));
        assert!(contains("10.0.0.128/25", "10.0.0.200") && !contains("10.0.0.128/25", "10.0.0.127"));
        assert!(contains("fd00::/8", "fdff::1") && !contains("fd00::/8", "fe00::1"));
        assert!(contains("0.0.0.0/0", "8.8.8.8") && !contains("0.0.0.0/0", "::1"));
        assert!(contains("::/0", "::1") && !contains("::/0", "8.8.8.8"));
        assert!(!contains("", "127.0.0.1"));
    }

    #[test]
    fn an_ipv4_address_is_the_same_by_a_socket_for_both() {
        assert!(contains("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(contains("::ffff:10.0.0.0/104", "10.1.2.3"));
        assert!(contains("::ffff:10.0.0.1", "10.0.0.1"));
    }

    #[test]
    fn a_list_is_shown_as_it_is_understood() {
        for (text, shown) in [
            ("", ""),
            ("127.0.0.1/32,::1/128", "127.0.0.1, ::1"),
            ("  10.0.0.0/8 fd00::/8,", "10.0.0.0/8, fd00::/8"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ] {
            let list: Trusted = text.parse().unwrap();
            assert_eq!(list.to_string(), shown);
            assert_eq!(shown.parse(), Ok(list));
        }
    }

    #[test]
    fn an_error_says_what_was_expected() {
        let error = |text: &str| text.parse::<Trusted>().unwrap_err().to_string();
        for wrong in ["localhost", "10.0.0", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/a", "/8", "::1%lo"] {
            assert_eq!(error(wrong), format!("expected {EXPECTED}, found {wrong:?}"));
        }
        assert_eq!(error("10.0.0.0/33"), "expected at most 32 bits behind the slash, found \"10.0.0.0/33\"");
        assert_eq!(error("fd00::/129"), "expected at most 128 bits behind the slash, found \"fd00::/129\"");
        assert_eq!(
            error("::1, 10.0.0.1/8"),
            "expected no bits behind the network's own, as in 10.0.0.0/8, found \"10.0.0.1/8\""
        );
    }
}
