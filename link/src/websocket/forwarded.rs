//! For whom a proxy sends a request: `X-Forwarded-For`, or `X-Real-IP` where that is missing.

use crate::Trusted;
use std::net::{IpAddr, SocketAddr};

/// Each proxy appends whom it got the request from, so the list is true from the right up to the first who is not
/// trusted: that one is the client; left of it may stand anything. The port is not known. `None`: nothing is said, or
/// nothing that can be read.
pub(super) fn source<'r, V: DoubleEndedIterator<Item = &'r [u8]>>(
    values: impl Fn(&'static str) -> V,
    trusted: &Trusted,
) -> Option<SocketAddr> {
    let mut source = None;
    let mut listed = false;
    for entry in values("X-Forwarded-For").rev().flat_map(|value| value.rsplit(|byte| *byte == b',')) {
        listed = true;
        let Some(address) = address(entry) else { break };
        source = Some(address);
        if !trusted.contains(address) {
            break;
        }
    }
    if !listed {
        source = values("X-Real-IP").next_back().and_then(address);
    }
    source.map(|address| SocketAddr::new(address.to_canonical(), 0))
}

/// An address, which some write with a port or in brackets.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let entry = std::str::from_utf8(entry).ok()?.trim();
    entry
        .parse()
        .ok()
        .or_else(|| entry.parse().ok().map(|address: SocketAddr| address.ip()))
        .or_else(|| entry.strip_prefix('[')?.strip_suffix(']')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str], real: Option<&str>) -> Option<String> {
        let trusted = "10.0.0.0/8, ::1".parse().unwrap();
        let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        let real: Vec<&[u8]> = real.iter().map(|line| line.as_bytes()).collect();
        let values = |name| if name == "X-Real-IP" { real.iter().copied() } else { lines.iter().copied() };
        source(values, &trusted).map(|address| address.to_string())
    }

    #[test]
    fn the_client_is_the_rightmost_that_is_not_a_proxy() {
        let some = |address: &str| Some(address.to_owned());
        assert_eq!(of(&["192.0.2.1"], None), some("192.0.2.1:0"));
        assert_eq!(of(&["6.6.6.6, 192.0.2.1, 10.0.0.2, ::1"], None), some("192.0.2.1:0"));
        assert_eq!(of(&["6.6.6.6", "192.0.2.1,10.0.0.2"], None), some("192.0.2.1:0"));
        assert_eq!(of(&["10.0.0.9, 10.0.0.2"], None), some("10.0.0.9:0"), "a client among the proxies");
        assert_eq!(of(&["[2001:db8::1]:4711, 10.0.0.2:80"], None), some("[2001:db8::1]:0"));
        assert_eq!(of(&["::ffff:192.0.2.1"], None), some("192.0.2.1:0"));
    }

    #[test]
    fn what_cannot_be_read_ends_the_list() {
        assert_eq!(of(&["192.0.2.1, unknown, 10.0.0.2"], None), Some("10.0.0.2:0".into()));
        assert_eq!(of(&["unknown"], Some("192.0.2.7")), None);
        assert_eq!(of(&[""], None), None);
        assert_eq!(of(&[], None), None);
    }

    #[test]
    fn x_real_ip_counts_where_there_is_no_list() {
        assert_eq!(of(&[], Some("192.0.2.7")), Some("192.0.2.7:0".into()));
        assert_eq!(of(&["192.0.2.1"], Some("192.0.2.7")), Some("192.0.2.1:0".into()));
    }
}
