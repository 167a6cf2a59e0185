//! The Topic Aliases a client has set. They live as long as the connection [MQTT-3.3.2-7].

use crate::error::Violation;
use crate::packet::ReasonCode;
use crate::saved::{Malformed, Reader, Saved, Writer};
use crate::topic::is_topic_name;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Topic by alias; alias 1 stands first. Connections that use none own nothing.
// Most connections never have one, and an idle connection should cost a pointer.
#[allow(clippy::box_collection)]
#[derive(Debug, Default)]
pub(crate) struct Aliases(Option<Box<Vec<Box<str>>>>);

impl Aliases {
    /// The topic of a PUBLISH with a Topic Alias: sets the alias if the packet has a topic, else looks it up.
    pub(crate) fn resolve<'a>(
        &'a mut self,
        alias: u16,
        topic: &str,
        most: u16,
    ) -> Result<&'a str, Violation> {
        // [MQTT-3.3.2-9]
        if alias == 0 || alias > most {
            return Err(Violation::with("MQTT-3.3.2-9", ReasonCode::TopicAliasInvalid));
        }
        let index = alias as usize - 1;
        if !topic.is_empty() {
            let topics = self.0.get_or_insert_default();
            if index >= topics.len() {
                topics.resize_with(index + 1, Box::default);
            }
            if *topics[index] != *topic {
                topics[index] = topic.into();
            }
        }
        match self.0.as_ref().and_then(|topics| topics.get(index)) {
            Some(topic) if !topic.is_empty() => Ok(topic),
            // An alias that was never set.
            _ => Err(Violation::protocol("MQTT-3.3.2.3.4")),
        }
    }
}

impl Saved for Aliases {
    fn save(&self, to: &mut Writer<'_>) {
        let Self(topics) = self;
        let topics = topics.as_ref().map_or(&[][..], |topics| topics);
        to.number(topics.len() as u64);
        topics.iter().for_each(|topic| topic.save(to));
    }

    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let topics = Vec::<Box<str>>::load(from)?;
        from.ensure(topics.iter().all(|topic| topic.is_empty() || is_topic_name(topic)))?;
        Ok(Self((!topics.is_empty()).then(|| Box::new(topics))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_means_the_topic_it_was_last_sent_with() {
        let mut aliases = Aliases::default();
        assert_eq!(aliases.resolve(2, "a", 3), Ok("a"));
        assert_eq!(aliases.resolve(2, "", 3), Ok("a"));
        assert_eq!(aliases.resolve(2, "b", 3), Ok("b"));
        assert_eq!(aliases.resolve(2, "", 3), Ok("b"));
        assert_eq!(aliases.resolve(3, "c", 3), Ok("c"));
        assert_eq!(aliases.resolve(1, "", 3).unwrap_err().reason, ReasonCode::ProtocolError);
        assert_eq!(aliases.0.as_ref().map(|topics| topics.len()), Some(3), "no more places than aliases");
        for alias in [0, 4, 65_535] {
            // [MQTT-3.3.2-8], [MQTT-3.3.2-9]
            assert_eq!(aliases.resolve(alias, "a", 3).unwrap_err().reason, ReasonCode::TopicAliasInvalid);
        }
    }
}
