//! The wildcard filters as a tree of levels. A topic walks down every branch that it agrees with; what it does not
//! agree with costs nothing, however much of it there is.
//!
//! An edge is found by hashing the parent and the name of the level, in one table for the whole tree. `+` and `#`
//! are not edges: they are in the node, and so is an edge that has no brother.

use crate::hash::{HashState, Seed};
use crate::topic::keys::Keys;
use crate::topic::slab::{Key, Slab};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::hash::{BuildHasher, Hasher};

/// Wildcard filters, each known by a key of the caller.
#[derive(Debug)]
pub(super) struct Trie {
    nodes: Slab<Node>,
    root: Key,
    edges: Keys,
    hasher: HashState,
    filters: usize,
    /// Where the walk still has to go: node, and start of the next level in the topic. At any time at most two batches of
    /// branches per level; that much is reserved when a filter is added, so a walk does not allocate.
    stack: Vec<(Key, u32)>,
}

/// A prefix of filters. Kept as long as there is something in or below it.
#[derive(Debug)]
struct Node {
    /// The name of the level; empty if this is a `+`.
    level: Level,
    parent: Option<Key>,
    /// Where edges lead.
    children: Children,
    /// The child for any name.
    plus: Option<Key>,
    /// The filter that ends here.
    filter: Option<Key>,
    /// The filter that ends in a `#` below this.
    tail: Option<Key>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Children {
    None,
    /// This one. It is not in the table: who goes on to it reads one place of the memory less.
    One(Key),
    /// So many, which are in the table.
    Many(u32),
}

impl Node {
    fn new(parent: Option<Key>, level: Level) -> Self {
        Self { level, parent, children: Children::None, plus: None, filter: None, tail: None }
    }

    fn is_unused(&self) -> bool {
        self.children == Children::None && self.plus.is_none() && self.filter.is_none() && self.tail.is_none()
    }
}

impl Trie {
    pub(super) fn new(seed: Seed) -> Self {
        let mut nodes = Slab::new();
        let root = nodes.insert(Node::new(None, Level::new("")));
        let hasher = seed.hasher(PURPOSE);
        Self { nodes, root, edges: Keys::new(), hasher, filters: 0, stack: Vec::new() }
    }

    /// Whether there is no filter.
    pub(super) fn is_empty(&self) -> bool {
        self.filters == 0
    }

    /// Whether only the root is left.
    pub(super) fn is_bare(&self) -> bool {
        self.filters == 0 && self.nodes.len() == 1 && self.edges.is_empty()
    }

    /// Adds a well-formed filter that is not there and returns its node.
    pub(super) fn insert(&mut self, text: &str, filter: Key) -> Key {
        let mut node = self.root;
        let mut depth = 0;
        let mut tail = false;
        for level in text.split('/') {
            match level {
                "#" => tail = true,
                "+" => node = self.plus(node),
                _ => node = self.edge(node, level),
            }
            depth += 1;
        }
        if let Some(node) = self.nodes.get_mut(node) {
            *(if tail { &mut node.tail } else { &mut node.filter }) = Some(filter);
        }
        self.filters += 1;
        self.stack.clear();
        self.stack.reserve(2 * BATCH * (depth + 1));
        node
    }

    /// Removes a filter from its node, and every node that is left without a purpose.
    pub(super) fn remove(&mut self, text: &str, mut key: Key) {
        let Some(node) = self.nodes.get_mut(key) else { return };
        *(if text.ends_with('#') { &mut node.tail } else { &mut node.filter }) = None;
        self.filters -= 1;
        while let Some(node) = self.nodes.get(key)
            && node.is_unused()
            && let Some(parent) = node.parent
        {
            self.unlink(parent, key);
            self.nodes.remove(key);
            key = parent;
        }
    }

    /// Calls `each` with every filter that matches. The topic is a Topic Name. Returns how many nodes it visited: those
    /// whose levels match so many of the topic's.
    pub(super) fn walk(&mut self, topic: &str, mut each: impl FnMut(Key)) -> usize {
        self.walk_while(topic, |key| {
            each(key);
            true
        })
    }

    /// The same as long as `each` says so.
    ///
    /// Branches of one level are walked in batches: what a large tree costs is waiting for its memory, and this way the
    /// processor waits for several places at once.
    pub(super) fn walk_while(&mut self, topic: &str, mut each: impl FnMut(Key) -> bool) -> usize {
        if self.filters == 0 {
            return 0;
        }
        let mut visited = 0;
        let room = self.stack.capacity();
        let topic = topic.as_bytes();
        let hidden = topic.first() == Some(&b'$');
        self.stack.clear();
        self.stack.push((self.root, 0));
        'levels: while let Some(&(_, start)) = self.stack.last() {
            let mut batch = [self.root; BATCH];
            let mut count = 0;
            while count < BATCH
                && let Some((key, _)) = self.stack.pop_if(|(_, at)| *at == start)
            {
                batch[count] = key;
                count += 1;
            }
            visited += count;
            let wild = !(hidden && start == 0); // [MQTT-4.7.2-1]
            // Behind the last level there is none; a topic that ends in `/` has an empty one.
            let rest = topic.get(start as usize..);
            let length = rest.and_then(|rest| rest.iter().position(|byte| *byte == b'/'));
            let level = rest.map(|rest| &rest[..length.unwrap_or(rest.len())]);
            let next = start + level.map_or(0, <[u8]>::len) as u32 + 1;
            let mut named = [(self.root, Children::None); BATCH];
            for (key, named) in batch[..count].iter().zip(&mut named) {
                let Some(node) = self.nodes.get(*key) else { continue };
                if wild
                    && let Some(filter) = node.tail
                    && !each(filter)
                {
                    break 'levels;
                }
                if level.is_none() {
                    match node.filter {
                        Some(filter) if !each(filter) => break 'levels,
                        _ => continue,
                    }
                }
                if wild && let Some(plus) = node.plus {
                    self.stack.push((plus, next));
                }
                *named = (*key, node.children);
            }
            let Some(level) = level else { continue };
            for (parent, children) in &named[..count] {
                if let Some(child) = self.child(*parent, *children, level) {
                    self.stack.push((child, next));
                }
            }
        }
        debug_assert_eq!(self.stack.capacity(), room, "a walk allocated");
        visited
    }

    #[inline]
    fn child(&self, parent: Key, children: Children, level: &[u8]) -> Option<Key> {
        let is_named = |key: Key| self.nodes.get(key).filter(|node| node.level.as_bytes() == level);
        match children {
            Children::None => None,
            Children::One(child) => is_named(child).map(|_| child),
            Children::Many(_) => {
                let is_it = |key: Key| is_named(key).is_some_and(|node| node.parent == Some(parent));
                self.edges.find(hash(&self.hasher, parent, level), is_it)
            }
        }
    }

    /// The child of this name, made if there is none.
    fn edge(&mut self, parent: Key, level: &str) -> Key {
        let children = self.nodes.get(parent).map_or(Children::None, |parent| parent.children);
        if let Some(child) = self.child(parent, children, level.as_bytes()) {
            return child;
        }
        let child = self.nodes.insert(Node::new(Some(parent), Level::new(level)));
        let children = match children {
            Children::None => Children::One(child),
            Children::One(brother) => {
                self.link(brother);
                self.link(child);
                Children::Many(2)
            }
            Children::Many(count) => {
                self.link(child);
                Children::Many(count + 1)
            }
        };
        if let Some(parent) = self.nodes.get_mut(parent) {
            parent.children = children;
        }
        child
    }

    /// The child for any name, made if there is none.
    fn plus(&mut self, parent: Key) -> Key {
        if let Some(plus) = self.nodes.get(parent).and_then(|node| node.plus) {
            return plus;
        }
        let child = self.nodes.insert(Node::new(Some(parent), Level::new("")));
        if let Some(parent) = self.nodes.get_mut(parent) {
            parent.plus = Some(child);
        }
        child
    }

    fn link(&mut self, child: Key) {
        let Self { nodes, edges, hasher, .. } = self;
        edges.insert(rehash(nodes, hasher, child), child, |key| rehash(nodes, hasher, key));
    }

    fn unlink(&mut self, parent: Key, child: Key) {
        let Self { nodes, edges, hasher, .. } = self;
        let hash = rehash(nodes, hasher, child);
        let Some(node) = nodes.get_mut(parent) else { return };
        if node.plus == Some(child) {
            node.plus = None;
            return;
        }
        node.children = match node.children {
            Children::Many(count) if count > 1 => Children::Many(count - 1),
            _ => Children::None,
        };
        // One that is alone is not there.
        edges.remove(hash, child, |key| rehash(nodes, hasher, key));
    }
}

/// Branches that are walked at once.
const BATCH: usize = 8;
/// Separates the hashes of the tree from those of other tables.
const PURPOSE: u64 = 0x7472_6965;

#[inline]
fn hash(hasher: &HashState, parent: Key, level: &[u8]) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write_u32(parent.number());
    hasher.write(level);
    hasher.finish()
}

fn rehash(nodes: &Slab<Node>, hasher: &HashState, child: Key) -> u64 {
    match nodes.get(child) {
        Some(Node { parent: Some(parent), level, .. }) => hash(hasher, *parent, level.as_bytes()),
        _ => 0,
    }
}

/// The name of a level; most fit in without memory of their own.
#[derive(Debug)]
enum Level {
    Inline { length: u8, bytes: [u8; INLINE_MAX] },
    Boxed(Box<[u8]>),
}

/// What fits beside the tag of a [`Level`] into the space of the box.
const INLINE_MAX: usize = 22;

// A million wildcard filters have more nodes than that: every byte counts.
const _: () = assert!(size_of::<Level>() <= 24 && size_of::<Option<Node>>() <= 48);

impl Level {
    fn new(level: &str) -> Self {
        let level = level.as_bytes();
        if level.len() > INLINE_MAX {
            return Self::Boxed(level.into());
        }
        let mut bytes = [0; INLINE_MAX];
        bytes[..level.len()].copy_from_slice(level);
        Self::Inline { length: level.len() as u8, bytes }
    }

    #[inline]
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Inline { length, bytes } => &bytes[..usize::from(*length)],
            Self::Boxed(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;
    use std::string::String;

    /// A tree of these filters; the keys are for nobody.
    fn trie(filters: impl IntoIterator<Item = String>) -> (Trie, Vec<(String, Key)>) {
        let mut trie = Trie::new(Seed(1));
        let key = Slab::new().insert(());
        let nodes = filters.into_iter().map(|filter| {
            let node = trie.insert(&filter, key);
            (filter, node)
        });
        let nodes = nodes.collect();
        (trie, nodes)
    }

    #[test]
    fn a_walk_does_not_grow_with_what_does_not_match() {
        let visited = [10, 10_000].map(|n| {
            let filters = (0..n).flat_map(|n| [format!("a/{n}/+"), format!("+/{n}/b/#"), format!("{n}/#")]);
            trie(filters).0.walk("a/7/b", |_| {})
        });
        // The root, a, +, a/7, +/7, a/7/+, +/7/b.
        assert_eq!(visited, [7, 7]);
    }

    #[test]
    fn without_filters_a_walk_visits_nothing() {
        let (mut trie, nodes) = trie([String::from("+/a/#")]);
        assert_eq!(trie.walk("a/b", |_| {}), 2);
        trie.remove(&nodes[0].0, nodes[0].1);
        assert_eq!(trie.walk("a/b", |_| {}), 0);
        assert!(trie.is_bare());
    }

    #[test]
    fn the_stack_has_room_for_every_branch() {
        let filters = (0..1 << 10).map(|bits| {
            let levels: Vec<_> = (0..10).map(|n| if bits >> n & 1 == 0 { "a" } else { "+" }).collect();
            levels.join("/")
        });
        let (mut trie, nodes) = trie(filters);
        let topic = ["a"; 10].join("/");
        let mut found = 0;
        // The walk itself asserts that its stack did not grow.
        assert_eq!(trie.walk(&topic, |_| found += 1), (1 << 11) - 1);
        assert_eq!(found, 1 << 10);
        for (filter, node) in nodes {
            trie.remove(&filter, node);
        }
        assert!(trie.is_bare());
    }
}
