//! Numbers, texts and containers.

use super::{Malformed, Reader, Saved, Writer};
use crate::hash::HashMap;
use crate::redact::Kind;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use core::hash::Hash;
use core::num::{NonZeroU16, NonZeroU32};

impl Saved for u8 {
    fn save(&self, to: &mut Writer<'_>) {
        to.byte(*self);
    }
    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        from.byte()
    }
}

impl Saved for bool {
    fn save(&self, to: &mut Writer<'_>) {
        to.byte(u8::from(*self));
    }
    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match from.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(from.malformed()),
        }
    }
}

macro_rules! numbers {
    ($($ty:ty),*) => {$(
        impl Saved for $ty {
            fn save(&self, to: &mut Writer<'_>) {
                to.number(u64::from(*self));
            }
            fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
                let value = from.number()?;
                Self::try_from(value).map_err(|_| from.malformed())
            }
        }
    )*};
}

numbers!(u16, u32, u64);

macro_rules! non_zero {
    ($($ty:ty: $number:ty),*) => {$(
        impl Saved for $ty {
            fn save(&self, to: &mut Writer<'_>) {
                self.get().save(to);
            }
            fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
                Self::new(<$number>::load(from)?).ok_or(from.malformed())
            }
        }
    )*};
}

non_zero!(NonZeroU16: u16, NonZeroU32: u32);

impl Saved for Box<str> {
    fn save(&self, to: &mut Writer<'_>) {
        to.bytes(self.as_bytes());
    }
    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let bytes = from.bytes()?;
        core::str::from_utf8(bytes).map(Into::into).map_err(|_| from.malformed())
    }
}

impl Saved for String {
    fn save(&self, to: &mut Writer<'_>) {
        to.bytes(self.as_bytes());
    }
    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Box::<str>::load(from).map(Into::into)
    }
}

/// Passwords and what else is said to convince somebody.
impl Saved for Bytes {
    fn save(&self, to: &mut Writer<'_>) {
        to.bytes(self);
    }
    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        from.redacted(Kind::Secret).map(|bytes| Self::from(bytes.into_owned()))
    }
}

impl<T: Saved> Saved for Box<T> {
    fn save(&self, to: &mut Writer<'_>) {
        (**self).save(to);
    }
    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        T::load(from).map(Box::new)
    }
}

impl<T: Saved> Saved for Option<T> {
    fn save(&self, to: &mut Writer<'_>) {
        self.is_some().save(to);
        if let Some(value) = self {
            value.save(to);
        }
    }
    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(if bool::load(from)? { Some(T::load(from)?) } else { None })
    }
}

impl<A: Saved, B: Saved> Saved for (A, B) {
    fn save(&self, to: &mut Writer<'_>) {
        self.0.save(to);
        self.1.save(to);
    }
    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok((A::load(from)?, B::load(from)?))
    }
}

/// Every value in turn, without room made beforehand for what a number claims.
fn load_all<T: Saved>(from: &mut Reader<'_>, mut each: impl FnMut(T) -> bool) -> Result<(), Malformed> {
    for _ in 0..from.count()? {
        let value = T::load(from)?;
        let fits = each(value);
        from.ensure(fits)?;
    }
    Ok(())
}

impl<T: Saved> Saved for Vec<T> {
    fn save(&self, to: &mut Writer<'_>) {
        to.number(self.len() as u64);
        self.iter().for_each(|value| value.save(to));
    }
    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut values = Self::new();
        load_all(from, |value| {
            values.push(value);
            true
        })?;
        Ok(values)
    }
}

impl<T: Saved> Saved for Box<[T]> {
    fn save(&self, to: &mut Writer<'_>) {
        to.number(self.len() as u64);
        self.iter().for_each(|value| value.save(to));
    }
    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Vec::load(from).map(Into::into)
    }
}

impl<T: Saved> Saved for VecDeque<T> {
    fn save(&self, to: &mut Writer<'_>) {
        to.number(self.len() as u64);
        self.iter().for_each(|value| value.save(to));
    }
    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Vec::load(from).map(Into::into)
    }
}

impl<T: Saved + Ord> Saved for BTreeSet<T> {
    fn save(&self, to: &mut Writer<'_>) {
        to.number(self.len() as u64);
        self.iter().for_each(|value| value.save(to));
    }
    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut values = Self::new();
        load_all(from, |value| values.insert(value))?;
        Ok(values)
    }
}

impl<K: Saved + Ord, V: Saved> Saved for BTreeMap<K, V> {
    fn save(&self, to: &mut Writer<'_>) {
        to.number(self.len() as u64);
        for (key, value) in self {
            key.save(to);
            value.save(to);
        }
    }
    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut values = Self::new();
        load_all(from, |(key, value)| values.insert(key, value).is_none())?;
        Ok(values)
    }
}

/// In the order of its keys: that of the table depends on its history.
impl<K: Saved + Ord + Hash, V: Saved> Saved for HashMap<K, V> {
    fn save(&self, to: &mut Writer<'_>) {
        let mut entries: Vec<(&K, &V)> = self.iter().collect();
        entries.sort_unstable_by(|a, b| a.0.cmp(b.0));
        to.number(entries.len() as u64);
        for (key, value) in entries {
            key.save(to);
            value.save(to);
        }
    }
    fn load(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut values = Self::with_hasher(from.hasher());
        load_all(from, |(key, value)| values.insert(key, value).is_none())?;
        Ok(values)
    }
}
