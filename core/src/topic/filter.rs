//! The words of section 4.7: Topic Names and Topic Filters, and what it means that one matches the other. This is the
//! definition; the [subscription index](crate::topic::SubscriptionIndex) and the
//! [retained messages](crate::topic::Retained) are tested against it.

use crate::error::Clause;

/// The longest Topic Name or Topic Filter in bytes [MQTT-4.7.3-3].
const BYTES_MAX: usize = u16::MAX as usize;

/// Whether this is a Topic Name: 1 to 65,535 bytes [MQTT-4.7.3-1] [MQTT-4.7.3-3], no wildcard [MQTT-4.7.0-1], no
/// U+0000 [MQTT-4.7.3-2].
#[must_use]
pub fn is_topic_name(topic: &str) -> bool {
    let bytes = topic.as_bytes();
    (1..=BYTES_MAX).contains(&bytes.len()) && !bytes.iter().any(|byte| matches!(byte, b'+' | b'#' | 0))
}

/// A Topic Filter that is well-formed, in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter<'a> {
    /// The ShareName of a Shared Subscription.
    pub share: Option<&'a str>,
    /// The Topic Filter, without `$share/{ShareName}/`.
    pub filter: &'a str,
    /// Whether the filter holds a wildcard.
    pub wildcard: bool,
}

impl<'a> Filter<'a> {
    /// Checks a Topic Filter and takes a Shared Subscription apart.
    ///
    /// # Errors
    /// The statement that is broken.
    pub fn parse(text: &'a str) -> Result<Self, Clause> {
        if text.is_empty() {
            return Err(Clause("MQTT-4.7.3-1"));
        }
        if text.len() > BYTES_MAX {
            return Err(Clause("MQTT-4.7.3-3"));
        }
        if text.as_bytes().contains(&0) {
            return Err(Clause("MQTT-4.7.3-2"));
        }
        let (share, filter) = match text.strip_prefix("$share/") {
            None => (None, text),
            Some(shared) => {
                let (name, filter) = shared.split_once('/').ok_or(Clause("MQTT-4.8.2-2"))?;
                if name.is_empty() {
                    return Err(Clause("MQTT-4.8.2-1"));
                }
                if name.contains(['+', '#']) || filter.is_empty() {
                    return Err(Clause("MQTT-4.8.2-2"));
                }
                (Some(name), filter)
            }
        };
        let wildcard = check_wildcards(filter)?;
        Ok(Self { share, filter, wildcard })
    }
}

/// Whether this is a Topic Filter without `$share/…/`.
pub(crate) fn is_filter(text: &str) -> bool {
    (1..=BYTES_MAX).contains(&text.len()) && !text.contains('\0') && check_wildcards(text).is_ok()
}

/// Whether there are wildcards, if all stand where they may.
pub(super) fn check_wildcards(filter: &str) -> Result<bool, Clause> {
    if !is_wildcard(filter) {
        return Ok(false);
    }
    let mut levels = filter.split('/');
    while let Some(level) = levels.next() {
        if level.contains('#') && (level.len() > 1 || levels.next().is_some()) {
            return Err(Clause("MQTT-4.7.1-1"));
        }
        if level.contains('+') && level.len() > 1 {
            return Err(Clause("MQTT-4.7.1-2"));
        }
    }
    Ok(true)
}

/// Whether a well-formed filter holds a wildcard: only then can it match more than the topic that is spelled like it.
pub(super) fn is_wildcard(filter: &str) -> bool {
    filter.bytes().any(|byte| matches!(byte, b'+' | b'#'))
}

/// How many levels a Topic Name or Topic Filter has. Every level of a wildcard filter costs memory, an empty one
/// too: who takes filters from strangers limits this.
#[must_use]
pub fn levels(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'/').count() + 1
}

/// Whether a Topic Filter matches a Topic Name. Both are well-formed, and the filter is without `$share/…/`.
///
/// Levels are compared byte by byte, without any normalization [MQTT-4.7.3-4]; an empty level is a level. `+` stands
/// for exactly one level [MQTT-4.7.1-2], `#` for the parent level and any number below it [MQTT-4.7.1-1].
/// A topic that begins with `$` is not matched by a filter that begins with a wildcard [MQTT-4.7.2-1].
#[must_use]
pub fn matches(filter: &str, topic: &str) -> bool {
    if filter.starts_with(['+', '#']) && topic.starts_with('$') {
        return false;
    }
    let mut topic = topic.split('/');
    for level in filter.split('/') {
        match (level, topic.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (level, Some(name)) if level == name => {}
            _ => return false,
        }
    }
    topic.next().is_none()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Topics that meet often: few levels of few names, among them the empty one and such as sort before `/`.
    pub(in crate::topic) fn topic() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "", "a-", "a0", "$x", "ä"]), 1..5)
            .prop_map(|levels| if levels == [""] { "/".into() } else { levels.join("/") })
    }

    /// Filters for these topics.
    pub(in crate::topic) fn filter() -> impl Strategy<Value = String> {
        let level = prop::sample::select(vec!["a", "b", "", "a-", "a0", "$x", "ä", "+", "+", "+"]);
        (prop::collection::vec(level, 0..5), any::<bool>()).prop_map(|(mut levels, tail)| {
            levels.extend(tail.then_some("#"));
            if levels.is_empty() || levels == [""] { "/".into() } else { levels.join("/") }
        })
    }

    #[test]
    fn a_topic_name_has_a_byte_and_no_wildcard() {
        for good in ["a", "/", "a/b", "$SYS/x", "ä b", &"a".repeat(65_535)] {
            assert!(is_topic_name(good));
        }
        for bad in ["", "+", "a/#", "a+b", "a#", "a\0b", &"a".repeat(65_536)] {
            assert!(!is_topic_name(bad), "[MQTT-4.7.3-1] [MQTT-4.7.0-1] {bad:.10}");
        }
    }

    #[test]
    fn a_malformed_filter_names_the_statement_it_breaks() {
        for (text, clause) in [
            ("", "MQTT-4.7.3-1"),
            ("a\0", "MQTT-4.7.3-2"),
            ("#/a", "MQTT-4.7.1-1"),
            ("a/b#", "MQTT-4.7.1-1"),
            ("##", "MQTT-4.7.1-1"),
            ("a/#/b", "MQTT-4.7.1-1"),
            ("a/#/", "MQTT-4.7.1-1"),
            ("a+", "MQTT-4.7.1-2"),
            ("++", "MQTT-4.7.1-2"),
            ("a/+b/c", "MQTT-4.7.1-2"),
            ("$share//a", "MQTT-4.8.2-1"),
            ("$share/", "MQTT-4.8.2-2"),
            ("$share/x", "MQTT-4.8.2-2"),
            ("$share/x/", "MQTT-4.8.2-2"),
            ("$share/+/a", "MQTT-4.8.2-2"),
            ("$share/x#/a", "MQTT-4.8.2-2"),
            ("$share/x/a#", "MQTT-4.7.1-1"),
            (&"a".repeat(65_536), "MQTT-4.7.3-3"),
        ] {
            assert_eq!(Filter::parse(text), Err(Clause(clause)), "{text:.20}");
        }
    }

    #[test]
    fn a_filter_is_taken_apart() {
        for (text, share, filter, wildcard) in [
            ("a/b", None, "a/b", false),
            ("#", None, "#", true),
            ("+/a/+", None, "+/a/+", true),
            ("$share", None, "$share", false),
            ("$shared/a", None, "$shared/a", false),
            ("$share/x//", Some("x"), "/", false),
            ("$share/x/$share/y/+", Some("x"), "$share/y/+", true),
        ] {
            assert_eq!(Filter::parse(text), Ok(Filter { share, filter, wildcard }));
        }
    }

    #[test]
    fn the_examples_of_the_standard_hold() {
        for (filter, yes, no) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", "sport/tennis/player10"),
            ("sport/#", "sport", "sports"),
            ("sport/tennis/+", "sport/tennis/player1", "sport/tennis/player1/ranking"),
            ("sport/+", "sport/", "sport"),
            ("+/+", "/finance", "finance"),
            ("/+", "/finance", "//finance"),
            ("#", "/", "$SYS/monitor"),
            ("$SYS/#", "$SYS", "$SYSTEM"),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", "$SYS/monitor"),
            ("ACCOUNTS", "ACCOUNTS", "Accounts"),
        ] {
            assert!(matches(filter, yes), "{filter} {yes}");
            assert!(!matches(filter, no), "{filter} {no}");
        }
        assert!(!matches("+/monitor/Clients", "$SYS/monitor/Clients"), "[MQTT-4.7.2-1]");
    }

    proptest! {
        #[test]
        fn what_is_generated_is_well_formed(filter in filter(), topic in topic()) {
            prop_assert!(is_topic_name(&topic));
            let parsed = Filter::parse(&filter);
            prop_assert_eq!(parsed.map(|parsed| parsed.wildcard), Ok(filter.contains(['+', '#'])));
        }

        #[test]
        fn a_topic_matches_itself_and_as_a_filter_nothing_else(one in topic(), other in topic()) {
            prop_assert!(matches(&one, &one));
            prop_assert_eq!(matches(&one, &other), one == other);
        }

        #[test]
        fn a_hash_matches_every_topic_without_a_dollar(topic in topic()) {
            prop_assert_eq!(matches("#", &topic), !topic.starts_with('$'));
        }

        #[test]
        fn a_hash_below_a_filter_adds_the_levels_below(filter in filter(), topic in topic()) {
            let filter = filter.replace('#', "+");
            let below = std::format!("{filter}/#");
            let parents = topic.match_indices('/').map(|(at, _)| &topic[..at]);
            // The parent of `/a` is an empty level and no topic, but for this it counts.
            let any = parents.chain([&topic[..]]).any(|parent| matches(&filter, parent));
            prop_assert_eq!(matches(&below, &topic), any);
        }

        #[test]
        fn a_plus_for_any_level_matches_at_least_as_much(
            filter in filter(),
            topic in topic(),
            at in any::<prop::sample::Index>(),
        ) {
            let mut wider: Vec<_> = filter.split('/').collect();
            let at = at.index(wider.len());
            if wider[at] != "#" {
                wider[at] = "+";
            }
            let hidden = at == 0 && topic.starts_with('$');
            prop_assert!(!matches(&filter, &topic) || hidden || matches(&wider.join("/"), &topic));
        }

        #[test]
        fn without_a_hash_the_levels_are_as_many(filter in filter(), topic in topic()) {
            if matches(&filter, &topic) && !filter.ends_with('#') {
                prop_assert_eq!(levels(&filter), levels(&topic));
            }
        }

        #[test]
        fn below_the_same_level_nothing_changes(filter in filter(), topic in topic(), level in "[a$ä]{0,3}") {
            let (deeper, below) = (std::format!("{level}/{filter}"), std::format!("{level}/{topic}"));
            // A $ is special only at the beginning of a topic.
            let shown = topic.strip_prefix('$').map_or(topic.clone(), |rest| std::format!("D{rest}"));
            let spelled = filter.strip_prefix('$').map_or(filter.clone(), |rest| std::format!("D{rest}"));
            prop_assert_eq!(matches(&deeper, &below), matches(&spelled, &shown), "{} {}", deeper, below);
        }

        #[test]
        fn a_filter_is_well_formed_as_its_levels_are(
            levels in prop::collection::vec(
                prop::sample::select(vec!["a", "", "$x", "+", "+", "#", "#", "a+", "#+", "a#", "+a", "\0"]),
                1..4,
            ),
        ) {
            let text = levels.join("/");
            let levels: Vec<_> = text.split('/').collect();
            let good = |(at, level): (usize, &&str)| match *level {
                "+" => true,
                "#" => at + 1 == levels.len(),
                level => !level.contains(['+', '#', '\0']),
            };
            let expected = !text.is_empty() && levels.iter().enumerate().all(good);
            prop_assert_eq!(Filter::parse(&text).is_ok(), expected);
            if let Ok(parsed) = Filter::parse(&text) {
                prop_assert_eq!((parsed.share, parsed.filter), (None, &*text));
                prop_assert_eq!(parsed.wildcard, text.contains(['+', '#']));
            }
        }

        #[test]
        fn a_shared_filter_is_put_together_again(name in "[a+#/$ä]{0,3}", filter in "[a+#/]{0,4}") {
            let text = std::format!("$share/{name}/{filter}");
            // [MQTT-4.8.2-1], [MQTT-4.8.2-2]: the first / ends the name.
            let (first, rest) = text["$share/".len()..].split_once('/').unwrap();
            let named = !first.is_empty() && !first.contains(['+', '#']);
            let alone = Filter::parse(rest);
            match Filter::parse(&text) {
                Ok(parsed) => {
                    prop_assert!(named, "{}", first);
                    let expected = Filter { share: Some(first), ..alone.unwrap() };
                    prop_assert_eq!(parsed, expected);
                    prop_assert_eq!(std::format!("$share/{}/{}", first, parsed.filter), text);
                }
                Err(_) => prop_assert!(!named || alone.is_err(), "{}", text),
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let _ = Filter::parse(&text);
        }
    }
}
