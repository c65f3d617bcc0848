//! Hashes as bytes in memory and hex digits in text: half the memory, and no place for anything but a hash.

use std::fmt::{self, Write};
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::error::{Error, ErrorKind};

/// A hash of `N` bytes, written as 2 `N` lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest<const N: usize>(pub [u8; N]);

/// The hash of what changes a row's pixels ([`crate::job::ImageTask::row_hash`]).
pub type RowHash = Digest<16>;

/// The BLAKE3 hash of a file.
pub type Blake3 = Digest<32>;

impl<const N: usize> fmt::Display for Digest<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        digits.into_iter().try_for_each(|digit| f.write_char(char::from(b"0123456789abcdef"[usize::from(digit)])))
    }
}

impl<const N: usize> fmt::Debug for Digest<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl<const N: usize> FromStr for Digest<N> {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Digest::parse(text.as_bytes()).ok_or_else(|| {
            let message = format!("`{text}` is not a hash of {} hex digits", 2 * N);
            Error::new(ErrorKind::Unexpected, "digest", message)
        })
    }
}

impl<const N: usize> Digest<N> {
    /// Returns the hash that `text` writes, or `None` if it is not one.
    pub(super) fn parse(text: &[u8]) -> Option<Digest<N>> {
        if text.len() != 2 * N {
            return None;
        }
        let mut bytes = [0; N];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Digest(bytes))
    }
}

fn digit(text: u8) -> Option<u8> {
    match text {
        b'0'..=b'9' => Some(text - b'0'),
        b'a'..=b'f' => Some(text - b'a' + 10),
        _ => None,
    }
}

impl<const N: usize> Serialize for Digest<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Digest<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Hex<const N: usize>;
        impl<const N: usize> Visitor<'_> for Hex<N> {
            type Value = Digest<N>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} lower-case hex digits", 2 * N)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Digest<N>, E> {
                Digest::parse(text.as_bytes()).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Hex)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn digests_are_lower_case_hex_of_one_length() {
        let digest: Digest<2> = "0aff".parse().unwrap();
        assert_eq!((digest.0, digest.to_string()), ([10, 255], "0aff".to_string()));
        assert_eq!(serde_json::to_string(&digest).unwrap(), "\"0aff\"");
        assert_eq!(serde_json::from_str::<Digest<2>>("\"0aff\"").unwrap(), digest);
        for bad in ["0af", "0aff0", "0AFF", "0ag0", "éa"] {
            assert!(bad.parse::<Digest<2>>().is_err(), "{bad}");
        }
    }
}
