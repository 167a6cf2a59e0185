//! UTF-8 Encoded Strings (section 1.5.4) and Topic Names (section 4.7).
//!
//! The bytes are walked twice: by the standard library, whose ASCII path takes two words at a time, and by a
//! search for forbidden characters that takes one word at a time.

use crate::error::Violation;

/// The longest text or binary data: its length has two bytes.
pub(super) const LENGTH_MAX: usize = u16::MAX as usize;

const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);
/// `#` is 0x23 and `+` is 0x2B: with this bit set, both are `+`.
const HASH_TO_PLUS: u8 = b'#' ^ b'+';

/// Checks the bytes of a UTF-8 Encoded String.
#[inline]
pub(super) fn text(bytes: &[u8]) -> Result<&str, Violation> {
    // [MQTT-1.5.4-1] and, as nothing is stripped, [MQTT-1.5.4-3].
    let text = core::str::from_utf8(bytes).map_err(|_| Violation::malformed("MQTT-1.5.4-1"))?;
    // [MQTT-1.5.4-2]
    if has_null(text) { Err(Violation::malformed("MQTT-1.5.4-2")) } else { Ok(text) }
}

/// Checks the bytes of a Topic Name, which may still be empty; `clause` forbids wildcards in it.
#[inline]
pub(super) fn topic_name<'a>(bytes: &'a [u8], clause: &'static str) -> Result<&'a str, Violation> {
    let text = core::str::from_utf8(bytes).map_err(|_| Violation::malformed("MQTT-1.5.4-1"))?;
    if !any_byte(bytes, |b| b == 0 || b | HASH_TO_PLUS == b'+', |word| null(word) | wildcard(word)) {
        return Ok(text);
    }
    Err(Violation::malformed(if has_null(text) { "MQTT-1.5.4-2" } else { clause }))
}

/// The Topic Name that these bytes are, if they are one.
pub(crate) fn checked_topic_name(bytes: &[u8]) -> Option<&str> {
    topic_name(bytes, "MQTT-3.3.2-2").ok().filter(|topic| !topic.is_empty())
}

/// Whether the text holds U+0000.
#[inline]
pub(super) fn has_null(text: &str) -> bool {
    any_byte(text.as_bytes(), |b| b == 0, null)
}

/// Whether the text holds `+` or `#`.
pub(super) fn has_wildcard(text: &str) -> bool {
    any_byte(text.as_bytes(), |b| b | HASH_TO_PLUS == b'+', wildcard)
}

/// Whether a byte is found, by a test of one byte and the same test of eight at once (not 0 if found).
#[inline]
fn any_byte(bytes: &[u8], byte: impl Fn(u8) -> bool, word: impl Fn(u64) -> u64) -> bool {
    let Some(last) = bytes.last_chunk::<8>() else {
        return match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
            // Two halves of a word, which may overlap.
            (Some(head), Some(tail)) => {
                let (head, tail) = (u32::from_ne_bytes(*head), u32::from_ne_bytes(*tail));
                word(u64::from(head) << 32 | u64::from(tail)) != 0
            }
            _ => bytes.iter().any(|&b| byte(b)),
        };
    };
    // The last word may overlap the one before it: that is cheaper than a tail of single bytes.
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().chain([last]).any(|chunk| word(u64::from_ne_bytes(*chunk)) != 0)
}

#[inline]
fn null(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGHS
}

#[inline]
fn wildcard(word: u64) -> u64 {
    null((word | (ONES * HASH_TO_PLUS as u64)) ^ (ONES * b'+' as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forbidden_character_is_found_at_every_place() {
        for length in 1..40 {
            for at in 0..length {
                let mut bytes = vec![b'*'; length];
                assert!(topic_name(&bytes, "W").is_ok());
                bytes[at] = 0;
                assert_eq!(text(&bytes), Err(Violation::malformed("MQTT-1.5.4-2")));
                assert_eq!(topic_name(&bytes, "W"), Err(Violation::malformed("MQTT-1.5.4-2")));
                for wildcard in *b"#+" {
                    bytes[at] = wildcard;
                    assert_eq!(topic_name(&bytes, "W"), Err(Violation::malformed("W")));
                    assert!(text(&bytes).is_ok_and(has_wildcard));
                }
            }
        }
    }

    #[test]
    fn no_other_byte_is_taken_for_a_forbidden_one() {
        for byte in (1..=0x7F).filter(|b| !b"#+".contains(b)) {
            assert!(topic_name(&[byte; 9], "W").is_ok(), "{byte:#x}");
            assert!(topic_name(&[byte; 3], "W").is_ok(), "{byte:#x}");
        }
        assert!(topic_name("żółć/ﬀ/🦟/\u{10FFFF}".as_bytes(), "W").is_ok());
    }

    #[test]
    fn surrogates_overlong_forms_and_stray_bytes_are_malformed() {
        for bytes in
            [&[0xED, 0xA0, 0x80][..], &[0xC0, 0x80], &[0x80], &[0xF4, 0x90, 0x80, 0x80], &[0xE2, 0x82]]
        {
            assert_eq!(text(bytes), Err(Violation::malformed("MQTT-1.5.4-1")));
        }
    }

    #[test]
    fn a_byte_order_mark_is_kept() {
        // [MQTT-1.5.4-3]
        assert_eq!(text(&[0xEF, 0xBB, 0xBF, b'a']), Ok("\u{FEFF}a"));
    }
}
