//! Which web pages may connect (RFC 6455, 10.2). A browser lets every page open a WebSocket to every address it reaches,
//! and says in the header `Origin` which page it is; other clients send none.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The origins that are let in: `same`, `*`, or a list of `https://shop.example`, `http://localhost:8080`; nothing: no
/// page at all. By default `same`. Cheap to clone. A request without `Origin` is not from a page and always let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origins(Arc<[Allowed]>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Allowed {
    /// Every page.
    Any,
    /// Pages that come from where the request goes: host and port of `Origin` are those of `Host`.
    Same,
    /// This one, in lower case and without the port that its scheme has anyway.
    Listed(Box<str>),
}

impl Origins {
    /// Whether a page of `origin` may send a request to `host`.
    pub(super) fn admit(&self, origin: &[u8], host: &[u8]) -> bool {
        let (Ok(origin), Ok(host)) = (std::str::from_utf8(origin), std::str::from_utf8(host)) else {
            return self.0.contains(&Allowed::Any);
        };
        let origin = normal(origin);
        self.0.iter().any(|allowed| match allowed {
            Allowed::Any => true,
            Allowed::Same => is_same(origin.as_deref(), host),
            Allowed::Listed(listed) => origin.as_deref() == Some(listed),
        })
    }
}

/// `Host` knows no scheme: a port that it does not name is the one of the page's scheme, as a browser leaves it out.
fn is_same(origin: Option<&str>, host: &str) -> bool {
    let Some((scheme, _)) = origin.and_then(|origin| origin.split_once("://")) else { return false };
    normal(&format!("{scheme}://{host}")).as_deref() == origin
}

/// An origin as browsers write it (RFC 6454, 6.2): in lower case and without the port of its scheme; `None`: it is none.
fn normal(origin: &str) -> Option<String> {
    let origin = origin.to_ascii_lowercase();
    let (scheme, place) = origin.split_once("://")?;
    let is_name =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let odd =
        |byte: u8| byte.is_ascii_whitespace() || byte.is_ascii_control() || b"/?#@,*\\\"".contains(&byte);
    if scheme.is_empty() || !is_name(scheme) || place.is_empty() || place.bytes().any(odd) {
        return None;
    }
    let (host, port) = match place.rsplit_once(':') {
        // The colons of an IPv6 address stand in brackets.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (place, None),
    };
    let usual = match scheme {
        "http" | "ws" => Some("80"),
        "https" | "wss" => Some("443"),
        _ => None,
    };
    if host.is_empty()
        || port.is_some_and(|port| port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()))
    {
        return None;
    }
    Some(match port {
        Some(port) if Some(port) != usual => format!("{scheme}://{host}:{port}"),
        _ => format!("{scheme}://{host}"),
    })
}

impl Default for Origins {
    fn default() -> Self {
        Self([Allowed::Same].into())
    }
}

impl FromStr for Origins {
    type Err = NotOrigins;

    fn from_str(text: &str) -> Result<Self, NotOrigins> {
        let words = text.split([',', ' ']).filter(|word| !word.is_empty());
        let allowed = words.map(|word| match word {
            "*" => Ok(Allowed::Any),
            "same" => Ok(Allowed::Same),
            _ => normal(word)
                .map(|origin| Allowed::Listed(origin.into()))
                .ok_or_else(|| NotOrigins(word.into())),
        });
        allowed.collect::<Result<Vec<_>, _>>().map(|list| Self(list.into()))
    }
}

impl fmt::Display for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, allowed) in self.0.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { ", " })?;
            f.write_str(match allowed {
                Allowed::Any => "*",
                Allowed::Same => "same",
                Allowed::Listed(origin) => origin,
            })?;
        }
        Ok(())
    }
}

/// A list of origins was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotOrigins(Box<str>);

impl fmt::Display for NotOrigins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected *, same or origins such as https://shop.example, found {:?}", self.0)
    }
}

impl std::error::Error for NotOrigins {}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(list: &str, origin: &str, host: &str) -> bool {
        list.parse::<Origins>().unwrap().admit(origin.as_bytes(), host.as_bytes())
    }

    #[test]
    fn a_page_from_where_the_request_goes_is_let_in() {
        for (origin, host) in [
            ("http://broker:8083", "broker:8083"),
            ("http://Broker", "broker:80"),
            ("https://broker", "broker"),
            ("https://broker:443", "BROKER"),
            ("http://[::1]:8083", "[::1]:8083"),
            ("http://[::1]", "[::1]"),
        ] {
            assert!(admits("same", origin, host), "{origin} {host}");
            assert!(Origins::default().admit(origin.as_bytes(), host.as_bytes()), "{origin} {host}");
        }
        for (origin, host) in [
            ("http://evil.example", "broker"),
            ("http://broker:8080", "broker:8083"),
            ("https://broker:80", "broker"),
            ("http://broker.evil.example", "broker"),
            ("null", "null"),
            ("http://broker@evil", "broker"),
            ("", ""),
            ("://", ""),
        ] {
            assert!(!admits("same", origin, host), "{origin} {host}");
        }
    }

    #[test]
    fn a_list_says_who_else_or_nobody_or_everybody() {
        let list = "https://shop.example, HTTP://localhost:8080";
        assert!(
            admits(list, "https://shop.example:443", "broker")
                && admits(list, "http://localhost:8080", "broker")
        );
        assert!(!admits(list, "http://shop.example", "broker") && !admits(list, "http://broker", "broker"));
        assert!(admits("same https://shop.example", "http://broker", "broker"));
        assert!(!admits("", "http://broker", "broker"));
        assert!(admits("*", "null", "broker") && "*".parse::<Origins>().unwrap().admit(b"\xFF", b"x"));
    }

    #[test]
    fn a_list_is_shown_as_it_is_understood_and_an_error_says_what_was_expected() {
        let list: Origins = "same,https://Shop.example:443".parse().unwrap();
        assert_eq!(list.to_string(), "same, https://shop.example");
        assert_eq!(Origins::default().to_string(), "same");
        for wrong in ["shop.example", "https://", "https://a/b", "https://*.example", "http://a:b"] {
            assert_eq!(
                wrong.parse::<Origins>().unwrap_err().to_string(),
                format!("expected *, same or origins such as https://shop.example, found {wrong:?}")
            );
        }
    }
}
