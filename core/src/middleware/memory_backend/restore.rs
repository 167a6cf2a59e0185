//! What the backend takes up from a log, and what a log says of it.

use super::queue::note_length;
use super::*;

impl MemoryBackend {
    /// Takes up what a record says that an earlier machine stored. Limits are not asked: what was dropped is recorded too.
    pub(super) fn restore(&mut self, cx: &mut Cx<'_>, session: SessionId, record: &Record) {
        match record {
            Record::Subscription { filter, options, identifier, .. } => {
                let Ok(parsed) = Filter::parse(filter) else { return };
                let options = SubscriptionOptions::from_byte(*options, Version::V5).unwrap_or_default();
                let identifier = NonZeroU32::new(*identifier);
                self.index.subscribe(parsed.filter, parsed.share, session, options, identifier);
                self.note_subscriptions(cx, session);
            }
            Record::Unsubscription { filter, .. } => {
                if let Ok(parsed) = Filter::parse(filter) {
                    self.remove(cx, session, parsed.share, parsed.filter);
                }
            }
            Record::Page { .. } => self.restore_page(cx, session, record),
            Record::PageEnded { filter, .. } => self.restore_page_ended(cx, session, filter),
            Record::Queued { message, qos, retain, identifiers, .. } => {
                let (message, identifiers, source) = (message.clone(), identifiers.clone(), Source::Relay);
                let queued = Queued { message, qos: *qos, retain: *retain, identifiers, source };
                let queue = self.queues.get_or_insert_with(session, Box::default);
                queue.restore(cx, queued);
                note_length(cx, session, queue);
            }
            Record::Dropped { .. } => drop(self.restore_head(cx, session)),
            Record::Sent { packet_id, .. } => {
                // With QoS 0 nothing is in flight, whatever a foreign log says.
                let head = self.restore_head(cx, session).filter(|head| head.qos > QoS::AtMostOnce);
                let client_id = cx.session(session).map(|state| state.client_id.clone());
                if let (Some(head), Some(client_id)) = (head, client_id) {
                    let Queued { message, qos, retain, identifiers, .. } = head;
                    let (packet_id, paged) = (*packet_id, false);
                    let record =
                        Record::InFlight { client_id, packet_id, message, qos, retain, identifiers, paged };
                    cx.emit(Action::Restore { session: Some(session), record: Box::new(record) });
                }
            }
            Record::InFlight { message, paged: true, .. } => {
                let page = self.pages.get_mut(&session).and_then(VecDeque::front_mut);
                if let Some(page) = page {
                    page.after = Some(message.topic().into());
                }
            }
            _ => {}
        }
    }

    fn restore_head(&mut self, cx: &mut Cx<'_>, session: SessionId) -> Option<Queued> {
        let queue = self.queues.get_mut(session)?;
        let head = queue.pop_here();
        if head.is_none() {
            queue.drop_outside();
        }
        note_length(cx, session, queue);
        if queue.is_empty() {
            self.queues.remove(session);
        }
        head
    }

    /// Of several pages of a filter, whose subscriptions followed each other quickly, the first one ended.
    fn restore_page_ended(&mut self, cx: &mut Cx<'_>, session: SessionId, filter: &str) {
        let Some(pages) = self.pages.get_mut(&session) else { return };
        if let Some(first) = pages.iter().position(|page| *page.filter == *filter) {
            pages.remove(first);
        }
        if pages.is_empty() {
            self.no_pages(cx, session);
        }
    }

    fn restore_page(&mut self, cx: &mut Cx<'_>, session: SessionId, record: &Record) {
        let Record::Page { filter, options, identifier, after, .. } = record else { return };
        let options = SubscriptionOptions::from_byte(*options, Version::V5).unwrap_or_default();
        let is_it = |(share, text, ..): (Option<&str>, &str, _, _)| share.is_none() && *text == **filter;
        // Those with QoS 0 are not stored, whatever a foreign log says.
        if options.qos == QoS::AtMostOnce || !self.index.filters(session).any(is_it) {
            return;
        }
        let (filter, identifiers) = (filter.clone(), NonZeroU32::new(*identifier).into());
        let page = Page { filter, options, identifiers, after: after.clone(), restored: true };
        self.pages.entry(session).or_default().push_back(page);
        if let Some(state) = cx.session_mut(session) {
            state.paging = true;
        }
    }

    pub(super) fn session_records(&self, cx: &Cx<'_>, session: SessionId, each: &mut dyn FnMut(Record)) {
        let Some(state) = cx.session(session) else { return };
        let client_id = || state.client_id.clone();
        let mut subscriptions: Vec<_> = self.index.filters(session).collect();
        subscriptions.sort_unstable_by_key(|&(share, filter, ..)| (share, filter));
        for (share, filter, options, identifier) in subscriptions {
            let (filter, identifier) = (with_share(share, filter), identifier.map_or(0, NonZeroU32::get));
            let options = options.to_byte();
            each(Record::Subscription { client_id: client_id(), filter, options, identifier });
        }
        for page in self.pages.get(&session).into_iter().flatten() {
            if page.options.qos > QoS::AtMostOnce {
                let (filter, after) = (page.filter.clone(), page.after.clone());
                let identifier = page.identifiers.as_slice().first().map_or(0, |id| id.get());
                let options = page.options.to_byte();
                each(Record::Page { client_id: client_id(), filter, options, identifier, after });
            }
        }
        let queued = self.queues.get(session).into_iter().flat_map(|queue| queue.messages());
        for queued in queued.filter(|queued| queued.qos > QoS::AtMostOnce) {
            let (message, identifiers) = (queued.message.clone(), queued.identifiers.clone());
            let (qos, retain) = (queued.qos, queued.retain);
            each(Record::Queued { client_id: client_id(), message, qos, retain, identifiers });
        }
    }
}
