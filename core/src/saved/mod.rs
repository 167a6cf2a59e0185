//! State as bytes: what [`Broker::snapshot`](crate::Broker::snapshot) and the recording of inputs are written in.
//!
//! The bytes are private to one version of the program: nothing in them says what it is, they are read in the order
//! in which they were written. A type lists its fields once, by `saved!`, which takes it apart: a field that is added
//! and not listed does not compile.
//!
//! Reading never panics, whatever the bytes: every length is checked against what is left, nothing is allocated for
//! what a length merely claims, and what other code relies on (a timer that is armed, a topic that is a Topic Name) is
//! checked where it is read.

mod containers;
mod values;

use crate::broker::{Owner, TimerId};
use crate::hash::{HashState, Seed};
use crate::message::Message;
use crate::redact::{Kind, Redaction};
use alloc::borrow::Cow;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;
use core::hash::{BuildHasher, Hasher};

/// A value that can be written and read again.
pub trait Saved: Sized {
    /// Appends it.
    fn save(&self, to: &mut Writer<'_>);

    /// Reads it.
    ///
    /// # Errors
    /// The bytes do not say such a value.
    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed>;
}

/// The bytes are not what this version of the program wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed {
    /// How many bytes could be read.
    pub at: usize,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {} makes no sense", self.at)
    }
}

impl core::error::Error for Malformed {}

/// Appends values to a buffer.
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// Messages that were written already, by address: whoever shares one says its number.
    messages: Option<BTreeMap<usize, u64>>,
}

impl fmt::Debug for Writer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("bytes", &self.out.len()).finish_non_exhaustive()
    }
}

impl<'a> Writer<'a> {
    /// A writer for single values.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, messages: None }
    }

    /// A writer that writes a message once, however many hold it. All of them must live as long as it does.
    pub(crate) fn sharing(out: &'a mut Vec<u8>) -> Self {
        Self { out, messages: Some(BTreeMap::new()) }
    }

    /// Appends one byte.
    pub fn byte(&mut self, value: u8) {
        self.out.push(value);
    }

    /// Appends a number, in as few bytes as it needs.
    pub fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    /// Appends bytes and their number.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.out.extend_from_slice(bytes);
    }

    /// Appends what `write` writes, as a section that is read as a whole.
    pub(crate) fn section(&mut self, write: impl FnOnce(&mut Self)) {
        let at = self.out.len();
        self.out.extend_from_slice(&[0; 8]);
        write(self);
        let length = (self.out.len() - at - 8) as u64;
        self.out[at..at + 8].copy_from_slice(&length.to_le_bytes());
    }

    /// The number of a message that was written before; otherwise it gets the next one.
    pub(crate) fn written_before(&mut self, message: &Message) -> Option<u64> {
        let messages = self.messages.as_mut()?;
        let next = messages.len() as u64;
        match messages.entry(message.address()) {
            alloc::collections::btree_map::Entry::Occupied(number) => Some(*number.get()),
            alloc::collections::btree_map::Entry::Vacant(free) => {
                free.insert(next);
                None
            }
        }
    }
}

/// Takes values from bytes.
pub struct Reader<'a> {
    bytes: &'a [u8],
    length: usize,
    /// The messages that were read, by number.
    messages: Vec<Message>,
    /// Whose part of the chain is being read.
    pub(crate) part: u8,
    /// How many parts the chain has.
    pub(crate) parts: u8,
    /// What the value being read belongs to: so a timer it holds must, too.
    pub(crate) owner: Option<Owner>,
    /// The armed timers nobody has claimed yet.
    pub(crate) armed: Vec<Option<(u8, Owner)>>,
    /// For the tables that are being read.
    hasher: HashState,
    /// What is put in the place of what nobody else may read.
    redaction: Option<&'a Redaction<'a>>,
}

impl fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl<'a> Reader<'a> {
    /// A reader of these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            length: bytes.len(),
            messages: Vec::new(),
            part: 0,
            parts: 0,
            owner: None,
            armed: Vec::new(),
            hasher: Seed(0).hasher(0),
            redaction: None,
        }
    }

    /// A reader that replaces payloads, passwords and the like in what it reads.
    #[must_use]
    pub fn redacting(bytes: &'a [u8], redaction: &'a Redaction<'a>) -> Self {
        Self { redaction: Some(redaction), ..Self::new(bytes) }
    }

    pub(crate) fn redaction(&self) -> Option<&'a Redaction<'a>> {
        self.redaction
    }

    /// The next bytes with their number before them, of which this is the kind: what stands for them, if this reader
    /// replaces what it reads.
    ///
    /// # Errors
    /// There are not as many.
    pub fn redacted(&mut self, kind: Kind) -> Result<Cow<'a, [u8]>, Malformed> {
        let mut bytes = Cow::Borrowed(self.bytes()?);
        if let Some(redaction) = self.redaction {
            redaction.replace(kind, bytes.to_mut());
        }
        Ok(bytes)
    }

    /// What was not read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// Something is.
    pub fn end(&self) -> Result<(), Malformed> {
        if self.bytes.is_empty() { Ok(()) } else { Err(self.malformed()) }
    }

    /// That what comes here makes no sense.
    #[must_use]
    pub fn malformed(&self) -> Malformed {
        Malformed { at: self.length - self.bytes.len() }
    }

    /// Fails unless something holds.
    pub(crate) fn ensure(&self, holds: bool) -> Result<(), Malformed> {
        if holds { Ok(()) } else { Err(self.malformed()) }
    }

    /// The next byte.
    ///
    /// # Errors
    /// There is none.
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        let (&first, rest) = self.bytes.split_first().ok_or(self.malformed())?;
        self.bytes = rest;
        Ok(first)
    }

    /// The next number.
    ///
    /// # Errors
    /// There is none, or it has more than 64 bits.
    pub fn number(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            self.ensure((bits << shift) >> shift == bits)?;
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.malformed())
    }

    /// How many values follow, each of at least a byte.
    pub(crate) fn count(&mut self) -> Result<usize, Malformed> {
        let count = self.number()?;
        self.ensure(count <= self.bytes.len() as u64)?;
        Ok(count as usize)
    }

    /// The next bytes with their number before them.
    ///
    /// # Errors
    /// There are not as many.
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let count = self.count()?;
        let (bytes, rest) = self.bytes.split_at(count);
        self.bytes = rest;
        Ok(bytes)
    }

    /// Lets `read` read a section, all of it.
    pub(crate) fn section<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<T, Malformed> {
        let (length, rest) = self.bytes.split_first_chunk::<8>().ok_or(self.malformed())?;
        let length = u64::from_le_bytes(*length);
        self.ensure(length <= rest.len() as u64)?;
        let (section, behind) = rest.split_at(length as usize);
        self.bytes = section;
        // Offsets stay those of the whole.
        let whole = self.length;
        self.length -= behind.len();
        let value = read(self)?;
        self.end()?;
        self.bytes = behind;
        self.length = whole;
        Ok(value)
    }

    /// Sets the keys of the hash tables that are read from here on.
    pub fn hash_with(&mut self, hasher: HashState) {
        self.hasher = hasher;
    }

    pub(crate) fn hasher(&self) -> HashState {
        self.hasher
    }

    /// A message that was read before.
    pub(crate) fn message(&self, number: u64) -> Option<Message> {
        self.messages.get(usize::try_from(number).ok()?).cloned()
    }

    pub(crate) fn note_message(&mut self, message: &Message) {
        self.messages.push(message.clone());
    }

    /// Lets the value that is being read hold a timer: it is armed, for this part, for this owner, and for nobody else.
    pub(crate) fn claim(&mut self, timer: TimerId) -> Result<TimerId, Malformed> {
        let claimed = self.armed.get_mut(timer.index()).and_then(Option::take);
        match (claimed, self.owner) {
            (Some((part, owner)), Some(wanted)) if part == self.part && owner == wanted => Ok(timer),
            _ => Err(self.malformed()),
        }
    }
}

/// A number for bytes, to tell whether they are what they were. It keeps nobody from forging them.
#[must_use]
pub fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = Seed(0).hasher(PURPOSE).build_hasher();
    hasher.write(bytes);
    hasher.finish()
}

const PURPOSE: u64 = 0x0064_6967_6573;

/// Implements [`Saved`] for types: every field, or every variant, is listed. What stands behind a `;` is not saved but
/// made anew.
macro_rules! saved {
    () => {};
    (struct $ty:ident { $($field:ident),* $(; $($made:ident = $value:expr),*)? } $($rest:tt)*) => {
        impl $crate::saved::Saved for $ty {
            fn save(&self, to: &mut $crate::saved::Writer<'_>) {
                let Self { $($field,)* $($($made: _),*)? } = self;
                $($crate::saved::Saved::save($field, to);)*
            }
            fn load(
                from: &mut $crate::saved::Reader<'_>,
            ) -> Result<Self, $crate::saved::Malformed> {
                $(let $field = $crate::saved::Saved::load(from)?;)*
                $($(let $made = $value;)*)?
                Ok(Self { $($field,)* $($($made),*)? })
            }
        }
        $crate::saved::saved! { $($rest)* }
    };
    (tuple $ty:ident $($rest:tt)*) => {
        impl $crate::saved::Saved for $ty {
            fn save(&self, to: &mut $crate::saved::Writer<'_>) {
                let Self(value) = self;
                $crate::saved::Saved::save(value, to);
            }
            fn load(
                from: &mut $crate::saved::Reader<'_>,
            ) -> Result<Self, $crate::saved::Malformed> {
                Ok(Self($crate::saved::Saved::load(from)?))
            }
        }
        $crate::saved::saved! { $($rest)* }
    };
    (
        enum $ty:ident {
            $($tag:literal $variant:ident $(($($item:ident),*))? $({ $($field:ident),* })?,)*
        }
        $($rest:tt)*
    ) => {
        impl $crate::saved::Saved for $ty {
            fn save(&self, to: &mut $crate::saved::Writer<'_>) {
                match self {
                    $(Self::$variant $(($($item),*))? $({ $($field),* })? => {
                        to.byte($tag);
                        $($($crate::saved::Saved::save($item, to);)*)?
                        $($($crate::saved::Saved::save($field, to);)*)?
                    })*
                }
            }
            fn load(
                from: &mut $crate::saved::Reader<'_>,
            ) -> Result<Self, $crate::saved::Malformed> {
                Ok(match from.byte()? {
                    $($tag => {
                        $($(let $item = $crate::saved::Saved::load(from)?;)*)?
                        $($(let $field = $crate::saved::Saved::load(from)?;)*)?
                        Self::$variant $(($($item),*))? $({ $($field),* })?
                    })*
                    _ => return Err(from.malformed()),
                })
            }
        }
        $crate::saved::saved! { $($rest)* }
    };
}

/// Writes [`Middleware::save`](crate::Middleware::save) and [`Middleware::load`](crate::Middleware::load): every field
/// is listed. What stands behind the first `;` comes with the chain or is needed only while an input is worked off. A
/// hash table has its `PURPOSE` behind a second `;`.
macro_rules! saved_part {
    ($($field:ident),* ; $($other:ident),* $(; $purpose:expr)?) => {
        fn save(&self, to: &mut $crate::saved::Writer<'_>) {
            let Self { $($field,)* $($other: _,)* } = self;
            let _ = &to;
            $($crate::saved::Saved::save($field, to);)*
        }

        fn load(
            &mut self,
            cx: &mut $crate::broker::Cx<'_>,
            from: &mut $crate::saved::Reader<'_>,
        ) -> Result<(), $crate::saved::Malformed> {
            let _ = (&cx, &from);
            $(from.hash_with(cx.seed().hasher($purpose));)?
            $(self.$field = $crate::saved::Saved::load(from)?;)*
            Ok(())
        }
    };
}

pub(crate) use {saved, saved_part};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_takes_as_few_bytes_as_it_needs_and_no_more_bits_than_there_are() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            Writer::new(&mut bytes).number(value);
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.number(), Ok(value));
            assert_eq!(reader.end(), Ok(()));
            assert_eq!(bytes.len(), (64 - (value | 1).leading_zeros() as usize).div_ceil(7));
        }
        assert!(Reader::new(&[0xFF; 20]).number().is_err());
        assert!(Reader::new(&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 2]).number().is_err());
    }

    #[test]
    fn a_length_that_claims_more_than_there_is_allocates_nothing() {
        let mut bytes = Vec::new();
        Writer::new(&mut bytes).number(u64::MAX);
        assert!(Reader::new(&bytes).bytes().is_err());
        assert!(Vec::<u64>::load(&mut Reader::new(&bytes)).is_err());
    }
}
