//! Topic Names, Topic Filters, and the two structures that match them: subscriptions by topic, retained messages by
//! filter.

pub mod filter;
pub mod index;
mod keys;
pub mod retained;
mod slab;
mod subscribers;
mod trie;

pub use filter::{Filter, is_topic_name};
pub use index::{Subscription, SubscriptionIndex};
pub use retained::Retained;
