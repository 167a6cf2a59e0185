//! The middleware `DurableBackend`.

use super::{Flow, Hooks, MemoryBackend, Middleware};
use crate::broker::{Action, Cx, Inspection, Owner, Record};
use crate::id::SessionId;
use crate::saved::{Malformed, Reader, Writer};
use crate::topic::Subscription;

/// The durable twin of [`MemoryBackend`]: the same working set in memory, and everything that must survive leaves as a
/// record besides.
///
/// * **listens**: what MemoryBackend listens to
/// * **emits**: what MemoryBackend emits, and store (records)
/// * **owns**: what MemoryBackend owns
///
/// That it is in the chain is what makes a broker durable: it wants [`Hooks::STORE`], and so every part journals what it
/// owns.
#[derive(Debug, Default)]
pub struct DurableBackend(MemoryBackend);

impl Middleware for DurableBackend {
    fn name(&self) -> &'static str {
        "DurableBackend"
    }

    fn shortens(&self) -> Hooks {
        Hooks::RELAY
    }

    fn subscribers(&mut self, topic: &[u8]) -> Option<&[Subscription]> {
        self.0.subscribers(topic)
    }

    fn wants(&self) -> Hooks {
        self.0.wants() | Hooks::STORE
    }

    fn install(&mut self, cx: &mut Cx<'_>) {
        self.0.install(cx);
    }

    fn action(&mut self, cx: &mut Cx<'_>, action: &mut Action) -> Flow {
        self.0.action(cx, action)
    }

    fn timer(&mut self, cx: &mut Cx<'_>, owner: Owner) {
        self.0.timer(cx, owner);
    }

    fn inspect(&self, session: SessionId, found: &mut Inspection) {
        self.0.inspect(session, found);
    }

    fn save(&self, to: &mut Writer<'_>) {
        self.0.save(to);
    }

    fn load(&mut self, cx: &mut Cx<'_>, from: &mut Reader<'_>) -> Result<(), Malformed> {
        self.0.load(cx, from)
    }

    fn records(&self, cx: &Cx<'_>, session: Option<SessionId>, each: &mut dyn FnMut(Record)) {
        self.0.records(cx, session, each);
    }
}
