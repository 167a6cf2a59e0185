//! The chain as a list of boxed middlewares, with one list of listeners per hook.

use super::{
    Authentication, Authorize, Connection, DurableBackend, Hooks, InboundManager, KeepAlive, LastWill,
    MemoryBackend, Middleware, OutboundManager, PacketEmitter, RetainManager, SessionManager, Shards,
    SubscriptionManager,
};
use crate::packet::PacketType;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

/// The ordered middlewares of a broker.
///
/// ```
/// use culex_core::{Stack, middleware::{Authentication, Decision}};
///
/// let stack = Stack::standard().replace(
///     "Authentication",
///     Authentication::new(|who: &culex_core::Credentials| match who.user_name.as_deref() {
///         Some("root") => Decision::Deny(culex_core::packet::ReasonCode::NotAuthorized),
///         _ => Decision::Allow,
///     }),
/// )?;
/// assert_eq!(stack.names().count(), 12);
/// # Ok::<(), culex_core::middleware::UnknownMiddleware>(())
/// ```
#[derive(Default)]
pub struct Stack {
    parts: Vec<Box<dyn Middleware>>,
    /// The listeners of all hooks, one list after the other; `END` ends each.
    listeners: Vec<u8>,
    /// Where the list of a hook begins.
    begins: Vec<u16>,
    /// Whether plain messages take the short way from PUBLISH on.
    short: bool,
    /// Whether nobody has to be told of every packet.
    told_once: bool,
    /// Whether somebody wants to see acknowledgements go.
    replies: bool,
    /// Whom to ask for their receivers, if they take the short way from their relay on.
    backend: Option<u8>,
    /// And who delivers to them.
    outbound: u8,
}

/// There is no middleware of this name in the stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownMiddleware(pub Box<str>);

impl fmt::Display for UnknownMiddleware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no middleware named {} in the stack", self.0)
    }
}

impl core::error::Error for UnknownMiddleware {}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl Stack {
    /// An empty chain: everything falls through.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// The twelve built-in middlewares: a complete in-memory broker that lets everybody do everything.
    #[must_use]
    pub fn standard() -> Self {
        Self::empty()
            .push(Connection::default())
            .push(KeepAlive::default())
            .push(Authentication::anonymous())
            .push(Authorize::everything())
            .push(LastWill::default())
            .push(SessionManager::default())
            .push(InboundManager::default())
            .push(SubscriptionManager::default())
            .push(RetainManager)
            .push(PacketEmitter::default())
            .push(OutboundManager::default())
            .push(MemoryBackend::default())
    }

    /// The same broker, durable: everything that must survive a crash leaves as [`Action::Store`](crate::Action::Store), and
    /// is acknowledged when it was reported `committed`.
    #[must_use]
    pub fn durable() -> Self {
        let mut stack = Self::standard();
        // The last one is the backend.
        stack.parts.pop();
        stack.push(DurableBackend::default())
    }

    /// The same chain as one of several machines that share the work of a broker, see [`Shards`]: that stands behind
    /// Authorize, so that whatever changes something waits for a SUBSCRIBE that waits for the others.
    #[must_use]
    pub fn shard(mut self, shards: Shards) -> Self {
        let before = ["Connection", "KeepAlive", "Authentication", "Authorize"];
        let behind = self.names().rposition(|name| before.contains(&name)).map_or(0, |last| last + 1);
        self.parts.insert(behind, Box::new(shards));
        self
    }

    /// Appends a middleware.
    #[must_use]
    pub fn push(mut self, part: impl Middleware + 'static) -> Self {
        self.parts.push(Box::new(part));
        self
    }

    /// Puts a middleware in front of another.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn insert_before(
        mut self,
        name: &str,
        part: impl Middleware + 'static,
    ) -> Result<Self, UnknownMiddleware> {
        let index = self.find(name)?;
        self.parts.insert(index, Box::new(part));
        Ok(self)
    }

    /// Puts a middleware behind another.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn insert_after(
        mut self,
        name: &str,
        part: impl Middleware + 'static,
    ) -> Result<Self, UnknownMiddleware> {
        let index = self.find(name)?;
        self.parts.insert(index + 1, Box::new(part));
        Ok(self)
    }

    /// Puts a middleware in the place of another.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn replace(mut self, name: &str, part: impl Middleware + 'static) -> Result<Self, UnknownMiddleware> {
        let index = self.find(name)?;
        self.parts[index] = Box::new(part);
        Ok(self)
    }

    /// Leaves a middleware out.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn remove(mut self, name: &str) -> Result<Self, UnknownMiddleware> {
        let index = self.find(name)?;
        self.parts.remove(index);
        Ok(self)
    }

    /// The names, in order.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &'static str> + ExactSizeIterator + '_ {
        self.parts.iter().map(|part| part.name())
    }

    fn find(&self, name: &str) -> Result<usize, UnknownMiddleware> {
        self.parts.iter().position(|part| part.name() == name).ok_or_else(|| UnknownMiddleware(name.into()))
    }

    /// Makes the lists of listeners: the order of the parts is final.
    pub(crate) fn seal(&mut self) {
        assert!(self.parts.len() < usize::from(u8::MAX), "a chain has at most 254 middlewares");
        let wants: Vec<Hooks> = self.parts.iter().map(|part| part.wants()).collect();
        (self.listeners, self.begins) = Default::default();
        for hook in 0..Hooks::COUNT {
            // At most 255 for each of some fifty hooks.
            self.begins.push(self.listeners.len() as u16);
            // Who wants all relays wants those with RETAIN, too.
            let also = if hook == Hooks::RETAINED_INDEX { Hooks::RELAY } else { Hooks::NONE };
            let wanted = (0..wants.len()).filter(|&part| wants[part].has(hook) || wants[part].any(also));
            self.listeners.extend(wanted.map(|part| part as u8).chain([END]));
        }
        // Nobody is left out who would miss it.
        let all =
            |hook: Hooks| self.parts.iter().all(|part| !part.wants().any(hook) || part.shortens().any(hook));
        let mut relays = (0..self.parts.len()).filter(|&part| wants[part].any(Hooks::RELAY));
        let backend = relays.next().filter(|_| relays.next().is_none()).map(|part| part as u8);
        let published = self.is_wanted(Hooks::of_packet(PacketType::Publish));
        let mut forwards = (0..self.parts.len()).filter(|&part| wants[part].any(Hooks::FORWARD));
        let outbound = forwards.next().filter(|_| forwards.next().is_none());
        self.backend = backend.filter(|backend| {
            all(Hooks::RELAY)
                && all(Hooks::FORWARD)
                && outbound.is_some_and(|part| part != usize::from(*backend))
        });
        self.outbound = outbound.unwrap_or_default() as u8;
        let told_once = all(Hooks::PACKET);
        self.short = self.backend.is_some() && published && told_once && all(Hooks::PUBLISH);
        self.told_once = told_once;
        self.replies = wants.iter().any(|wants| wants.any(Hooks::REPLY));
    }

    pub(crate) fn len(&self) -> usize {
        self.parts.len()
    }

    /// See [`Middleware::shortens`].
    #[inline]
    pub(crate) fn is_short(&self) -> bool {
        self.short
    }

    /// Whether it is enough to announce one packet of each input, while a client is connected.
    #[inline]
    pub(crate) fn is_told_once(&self) -> bool {
        self.told_once
    }

    /// Whether somebody wants to see acknowledgements go.
    #[inline]
    pub(crate) fn sees_replies(&self) -> bool {
        self.replies
    }

    /// The parts that know who gets a message, and that deliver it, if it may be passed on by the short way.
    #[inline]
    pub(crate) fn shortcut(&mut self) -> Option<(&mut dyn Middleware, &mut dyn Middleware, u8)> {
        let (backend, outbound) = (usize::from(self.backend?), usize::from(self.outbound));
        let (head, tail) = self.parts.split_at_mut_checked(backend.max(outbound))?;
        let (first, last) = (head.get_mut(backend.min(outbound))?, tail.first_mut()?);
        let (backend, outbound) = if backend < outbound { (first, last) } else { (last, first) };
        Some((&mut **backend, &mut **outbound, self.outbound))
    }

    /// The middlewares, in order.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &dyn Middleware> + '_ {
        self.parts.iter().map(|part| &**part)
    }

    /// The place of the first listener of a hook.
    #[inline]
    pub(crate) fn listeners(&self, hook: usize) -> usize {
        usize::from(self.begins[hook])
    }

    /// The place of the first listener behind a part.
    pub(crate) fn listeners_behind(&self, hook: usize, part: u8) -> usize {
        let mut place = self.listeners(hook);
        while self.listeners.get(place).is_some_and(|listener| *listener <= part) {
            place += 1;
        }
        place
    }

    /// Whether anybody listens to a hook.
    pub(crate) fn is_wanted(&self, hook: usize) -> bool {
        self.next(&mut self.listeners(hook)).is_some()
    }

    /// The listener at a place, which goes on to the next.
    #[inline]
    pub(crate) fn next(&self, place: &mut usize) -> Option<u8> {
        let part = self.listeners.get(*place).copied().filter(|part| *part != END)?;
        *place += 1;
        Some(part)
    }

    #[inline]
    pub(crate) fn part(&mut self, part: u8) -> &mut dyn Middleware {
        &mut *self.parts[part as usize]
    }
}

/// No part of a chain has this number.
const END: u8 = u8::MAX;
// The places of all listeners.
const _: () = assert!(Hooks::COUNT * 256 <= u16::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_inserted_replaced_and_removed_by_name() {
        let stack = Stack::standard()
            .remove("PacketEmitter")
            .and_then(|stack| stack.insert_before("Connection", PacketEmitter::default()))
            .and_then(|stack| stack.replace("KeepAlive", KeepAlive::default()))
            .unwrap();
        let names: Vec<_> = stack.names().collect();
        assert_eq!(names[..3], ["PacketEmitter", "Connection", "KeepAlive"]);
        assert_eq!(names.len(), 12);
        let unknown = Stack::standard().insert_after("Nobody", KeepAlive::default()).unwrap_err();
        assert_eq!(unknown, UnknownMiddleware("Nobody".into()));
    }
}
