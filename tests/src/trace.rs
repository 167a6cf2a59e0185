//! What happened, as a list that can be read, or drawn.

use std::fmt::Write;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Virtual time in microseconds.
    pub at: u64,
    /// Whom it concerns; `None`: the broker itself, or everybody.
    pub client: Option<usize>,
    /// What kind of thing.
    pub kind: Kind,
    /// In words.
    pub text: String,
}

/// A kind of entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A packet reached the broker.
    In,
    /// A packet left the broker.
    Out,
    /// A client did something.
    Step,
    /// Something went wrong on purpose.
    Fault,
    /// Something the broker, its disk or its program did.
    Note,
    /// A promise was broken.
    Broken,
}

/// What happened, in order.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// The names of the clients.
    pub clients: Vec<String>,
    /// The entries.
    pub entries: Vec<Entry>,
}

impl Trace {
    /// One line per entry.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for Entry { at, client, kind, text: what } in &self.entries {
            let who = client.map_or("broker", |client| self.clients.get(client).map_or("?", String::as_str));
            let arrow = match kind {
                Kind::In => "->",
                Kind::Out => "<-",
                Kind::Step => " .",
                Kind::Fault => " !",
                Kind::Note => " *",
                Kind::Broken => "##",
            };
            // Writing to a String cannot fail.
            writeln!(text, "{:>12.3} ms  {who:<8} {arrow} {what}", *at as f64 / 1_000.0).ok();
        }
        text
    }
}
