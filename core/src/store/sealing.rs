//! What at-rest sealing is to core: a trait. The ciphers are the world's (`docs/decisions/0010-sealing.md`).
//!
//! The one law: **a key belongs to one write**. Each write draws a salt that nobody drew before, its key follows from
//! that, and each of its sectors has a nonce of its own; so no key meets a nonce twice, whatever is truncated,
//! restored or cloned (H41).

use alloc::sync::Arc;
use core::fmt;

use super::layout::PAYLOAD;
use crate::wire::codec::{Malformed, Reader};

/// Bytes of a salt, and of a tag.
pub const SALT: usize = 16;
pub const TAG: usize = 16;
/// Bytes that a tag binds beside the payload: see [`super::sector`].
pub const BOUND: usize = 60;

/// Seals with the node key of one data file. Its `Debug` shows no secret.
pub trait Sealing: fmt::Debug + Send + Sync {
    /// The salt of one write: random, and never drawn before.
    fn draw_salt(&self) -> [u8; SALT];

    /// Derives the key of the write with this salt, for as long as `with` runs.
    fn with_key(&self, salt: &[u8; SALT], with: &mut dyn FnMut(&dyn SectorKey));

    /// Follows from the node key and tells nothing of it.
    fn check(&self) -> [u8; 8];

    /// The node key before this one, as long as sectors may be left that it sealed (`super::rotation`). It opens those,
    /// and seals nothing.
    fn before(&self) -> Option<&dyn Sealing> {
        None
    }
}

/// The key of one write.
pub trait SectorKey {
    /// Encrypts a payload where it is.
    fn seal(&self, nonce: u32, bound: &[u8; BOUND], payload: &mut [u8; PAYLOAD]) -> [u8; TAG];

    /// Decrypts a payload where it is; false when it is not what was sealed, and then the bytes mean nothing.
    #[must_use]
    fn open(&self, nonce: u32, bound: &[u8; BOUND], tag: &[u8; TAG], payload: &mut [u8; PAYLOAD]) -> bool;
}

/// How a data file is sealed, if it is.
pub type Sealer = Option<Arc<dyn Sealing>>;

/// What the superblock of a sealed file says of its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Which master key wraps the node key. Follows from that key and tells nothing of it.
    pub master: [u8; 8],
    /// The [check value](Sealing::check) of the node key.
    pub check: [u8; 8],
    /// The node key under the master key. Opaque to core.
    pub wrapped: [u8; WRAPPED],
    /// The node key before this one, as long as sectors may be left that it sealed: a file with two keys has a format
    /// version of its own.
    pub before: Option<NodeKeyBefore>,
}

/// A node key that is on its way out, under the same master key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeKeyBefore {
    pub check: [u8; 8],
    pub wrapped: [u8; WRAPPED],
}

/// Bytes of a wrapped node key: salt 16, key 32, tag 16.
pub const WRAPPED: usize = SALT + 32 + TAG;

impl Envelope {
    pub(super) fn encode(&self, out: &mut alloc::vec::Vec<u8>) {
        out.extend_from_slice(&self.master);
        out.extend_from_slice(&self.check);
        out.extend_from_slice(&self.wrapped);
        if let Some(before) = &self.before {
            out.extend_from_slice(&before.check);
            out.extend_from_slice(&before.wrapped);
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>, has_before: bool) -> Result<Self, Malformed> {
        let (master, check, wrapped) = (reader.array()?, reader.array()?, reader.array()?);
        let mut before = || Ok(NodeKeyBefore { check: reader.array()?, wrapped: reader.array()? });
        let before = if has_before { Some(before()?) } else { None };
        Ok(Self { master, check, wrapped, before })
    }
}

/// Why a key does not fit a data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrongKey {
    /// The file is sealed, and there is no key.
    Missing { master: [u8; 8] },
    /// The file is not sealed.
    NotSealed,
    /// The node key is another one.
    Another { master: [u8; 8] },
}

impl fmt::Display for WrongKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { master } => {
                write!(f, "the file is sealed: expected master key {}, found none", KeyId(master))
            }
            Self::NotSealed => {
                f.write_str("expected a sealed file for this key, found one that is not sealed")
            }
            Self::Another { master } => {
                write!(
                    f,
                    "expected the file's own key, wrapped by master key {}, found another",
                    KeyId(master)
                )
            }
        }
    }
}

/// The id of a master key, as people see it.
#[derive(Clone, Copy, Debug)]
pub struct KeyId<'a>(pub &'a [u8; 8]);

impl fmt::Display for KeyId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Whether a key and a file belong together.
pub(crate) fn must_fit(envelope: Option<&Envelope>, sealing: Option<&dyn Sealing>) -> Result<(), WrongKey> {
    match (envelope, sealing) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err(WrongKey::NotSealed),
        (Some(envelope), None) => Err(WrongKey::Missing { master: envelope.master }),
        (Some(envelope), Some(sealing))
            if sealing.check() == envelope.check
                && sealing.before().map(Sealing::check) == envelope.before.map(|before| before.check) =>
        {
            Ok(())
        }
        (Some(envelope), Some(_)) => Err(WrongKey::Another { master: envelope.master }),
    }
}

/// A cipher for tests of this crate: it keeps no secret, but each bit of key, nonce, payload and what is bound counts.
#[cfg(test)]
pub(crate) mod toy {
    use super::*;
    use core::sync::atomic::{AtomicU64, Ordering};
    use sha2::{Digest as _, Sha256};

    #[derive(Debug)]
    pub(crate) struct Toy {
        node: u64,
        drawn: AtomicU64,
        before: Option<alloc::boxed::Box<Self>>,
    }

    impl Toy {
        pub(crate) fn new(node: u64) -> Self {
            Self { node, drawn: AtomicU64::new(0), before: None }
        }

        /// The key that follows on this one, and opens what it sealed.
        pub(crate) fn after(before: Self) -> Self {
            let node = before.node + 1;
            Self { before: Some(alloc::boxed::Box::new(Self { before: None, ..before })), ..Self::new(node) }
        }
    }

    impl Sealing for Toy {
        fn draw_salt(&self) -> [u8; SALT] {
            (u128::from(self.drawn.fetch_add(1, Ordering::Relaxed)) | 1 << 100).to_le_bytes()
        }
        fn with_key(&self, salt: &[u8; SALT], with: &mut dyn FnMut(&dyn SectorKey)) {
            with(&ToyKey(Sha256::new().chain_update(self.node.to_le_bytes()).chain_update(salt)));
        }
        fn check(&self) -> [u8; 8] {
            (!self.node).to_le_bytes()
        }
        fn before(&self) -> Option<&dyn Sealing> {
            self.before.as_deref().map(|before| before as &dyn Sealing)
        }
    }

    struct ToyKey(Sha256);

    impl ToyKey {
        fn tag(&self, nonce: u32, bound: &[u8; BOUND], sealed: &[u8; PAYLOAD]) -> [u8; TAG] {
            let hash = self.0.clone().chain_update(nonce.to_le_bytes()).chain_update(bound);
            let digest: [u8; 32] = hash.chain_update(sealed).finalize().into();
            *digest.first_chunk().expect("32 bytes hold 16")
        }
        fn flip(&self, nonce: u32, payload: &mut [u8; PAYLOAD]) {
            let stream: [u8; 32] =
                self.0.clone().chain_update([0xFF]).chain_update(nonce.to_le_bytes()).finalize().into();
            payload.iter_mut().zip(stream.iter().cycle()).for_each(|(byte, other)| *byte ^= other);
        }
    }

    impl SectorKey for ToyKey {
        fn seal(&self, nonce: u32, bound: &[u8; BOUND], payload: &mut [u8; PAYLOAD]) -> [u8; TAG] {
            self.flip(nonce, payload);
            self.tag(nonce, bound, payload)
        }
        fn open(
            &self,
            nonce: u32,
            bound: &[u8; BOUND],
            tag: &[u8; TAG],
            payload: &mut [u8; PAYLOAD],
        ) -> bool {
            let whole = self.tag(nonce, bound, payload) == *tag;
            self.flip(nonce, payload);
            whole
        }
    }
}
