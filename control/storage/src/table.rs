//! Tables, and the bytes of their keys and values.

use std::fmt;
use std::marker::PhantomData;

use crate::redb_file::Typed;

/// A type that rows are found by. Its bytes order as it does, byte by byte.
///
/// | type | bytes |
/// |---|---|
/// | `String` | UTF-8 |
/// | `[u8; N]` | themselves |
/// | `u64` | big-endian |
/// | `([u8; 16], u32)`, `([u8; 16], u64)`, `(u8, u64)` | one after the other, numbers big-endian |
pub trait Key: Sized + 'static {
    /// What a key is given as: `str` for `String`, else itself.
    type View: ?Sized;
    /// The type of the redb file.
    #[doc(hidden)]
    type Redb: redb::Key + 'static;
    /// Which of its last bytes are a number: the file has them the other way round.
    #[doc(hidden)]
    const NUMBER_BYTES: usize;

    /// The bytes.
    fn to_bytes(view: &Self::View) -> Vec<u8>;

    /// `None` when the bytes are no key of this type.
    fn parse(bytes: &[u8]) -> Option<Self>;
}

/// A type of values. Numbers are little-endian.
pub trait Value: Sized + 'static {
    /// What a value is given as: `[u8]` for `Vec<u8>`, else itself.
    type View: ?Sized;
    /// The type of the redb file.
    #[doc(hidden)]
    type Redb: redb::Value + 'static;

    /// The bytes.
    fn to_bytes(view: &Self::View) -> Vec<u8>;

    /// `None` when the bytes are no value of this type.
    fn parse(bytes: Vec<u8>) -> Option<Self>;
}

impl Key for String {
    type View = str;
    type Redb = &'static str;
    const NUMBER_BYTES: usize = 0;

    fn to_bytes(view: &str) -> Vec<u8> {
        view.as_bytes().to_vec()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        String::from_utf8(bytes.to_vec()).ok()
    }
}

impl<const N: usize> Key for [u8; N] {
    type View = [u8; N];
    type Redb = &'static [u8; N];
    const NUMBER_BYTES: usize = 0;

    fn to_bytes(view: &[u8; N]) -> Vec<u8> {
        view.to_vec()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok()
    }
}

impl Key for u64 {
    type View = u64;
    type Redb = u64;
    const NUMBER_BYTES: usize = 8;

    fn to_bytes(view: &u64) -> Vec<u8> {
        view.to_be_bytes().to_vec()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self::from_be_bytes)
    }
}

impl Key for ([u8; 16], u32) {
    type View = Self;
    type Redb = (&'static [u8; 16], u32);
    const NUMBER_BYTES: usize = 4;

    fn to_bytes((id, number): &Self) -> Vec<u8> {
        [&id[..], &number.to_be_bytes()].concat()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (id, number) = bytes.split_first_chunk()?;
        Some((*id, u32::from_be_bytes(number.try_into().ok()?)))
    }
}

impl Key for ([u8; 16], u64) {
    type View = Self;
    type Redb = (&'static [u8; 16], u64);
    const NUMBER_BYTES: usize = 8;

    fn to_bytes((id, number): &Self) -> Vec<u8> {
        [&id[..], &number.to_be_bytes()].concat()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (id, number) = bytes.split_first_chunk()?;
        Some((*id, u64::from_be_bytes(number.try_into().ok()?)))
    }
}

impl Key for (u8, u64) {
    type View = Self;
    type Redb = (u8, u64);
    const NUMBER_BYTES: usize = 8;

    fn to_bytes((level, number): &Self) -> Vec<u8> {
        [&[*level][..], &number.to_be_bytes()].concat()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (level, number) = bytes.split_first()?;
        Some((*level, u64::from_be_bytes(number.try_into().ok()?)))
    }
}

impl Value for Vec<u8> {
    type View = [u8];
    type Redb = &'static [u8];

    fn to_bytes(view: &[u8]) -> Vec<u8> {
        view.to_vec()
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        Some(bytes)
    }
}

impl<const N: usize> Value for [u8; N] {
    type View = [u8; N];
    type Redb = &'static [u8; N];

    fn to_bytes(view: &[u8; N]) -> Vec<u8> {
        view.to_vec()
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        bytes.try_into().ok()
    }
}

impl Value for u64 {
    type View = u64;
    type Redb = u64;

    fn to_bytes(view: &u64) -> Vec<u8> {
        view.to_le_bytes().to_vec()
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        bytes.as_slice().try_into().ok().map(Self::from_le_bytes)
    }
}

/// A table: its name, and the types of its keys and values.
pub struct Table<K, V> {
    name: &'static str,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Key, V: Value> Table<K, V> {
    /// The table of this name: letters from a to z and `_`, at most 48 of them, which both back ends take as it is.
    ///
    /// # Panics
    /// When the name is another, while it is compiled if the table is a constant.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        let bytes = name.as_bytes();
        assert!(
            !bytes.is_empty() && bytes.len() <= 48 && bytes[0] != b'_',
            "a table has a short name that begins with a letter"
        );
        let mut at = 0;
        while at < bytes.len() {
            assert!(
                bytes[at].is_ascii_lowercase() || bytes[at] == b'_',
                "the name of a table has letters from a to z and _"
            );
            at += 1;
        }
        Self { name, types: PhantomData }
    }

    /// The same without its types, as back ends see it.
    #[must_use]
    pub const fn erased(self) -> TableRef {
        TableRef { name: self.name, typed: &Typed::<K, V>(PhantomData) }
    }
}

impl<K, V> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, V> Copy for Table<K, V> {}

impl<K, V> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A table as a back end sees it.
#[derive(Clone, Copy)]
pub struct TableRef {
    pub(crate) name: &'static str,
    pub(crate) typed: &'static dyn crate::redb_file::TypedTable,
}

impl TableRef {
    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

impl fmt::Debug for TableRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check<K: Key<View = K> + Ord + fmt::Debug>(keys: &mut [K]) {
        keys.sort();
        let bytes: Vec<_> = keys.iter().map(K::to_bytes).collect();
        assert!(bytes.is_sorted(), "{keys:?}");
        for (key, bytes) in keys.iter().zip(&bytes) {
            assert_eq!(K::parse(bytes).as_ref(), Some(key));
            assert!(K::parse(&bytes[1..]).is_none());
        }
    }

    proptest! {
        #[test]
        fn keys_order_as_their_bytes_do_and_come_back_from_them(
            mut numbers in prop::collection::vec(any::<u64>(), 2..20),
            mut versions in prop::collection::vec((any::<[u8; 16]>(), any::<u32>()), 2..20),
            mut places in prop::collection::vec((any::<[u8; 16]>(), any::<u64>()), 2..20),
            mut levels in prop::collection::vec((any::<u8>(), any::<u64>()), 2..20),
            mut ids in prop::collection::vec(any::<[u8; 16]>(), 2..20),
            mut texts in prop::collection::vec(any::<String>(), 2..20),
        ) {
            check(&mut numbers);
            check(&mut versions);
            check(&mut places);
            check(&mut levels);
            check(&mut ids);
            texts.sort();
            prop_assert!(texts.iter().map(|text| <String as Key>::to_bytes(text)).is_sorted());
        }
    }
}
