//! The hash chain of a room's log, by the formula of `docs/formats.md`, "Chain".
//!
//! The one law: **a body enters the chain only through its salted digest**, so that a body can be erased and every
//! chain value still be verified, and nobody can guess an erased body from what remains.

use sha2::{Digest as _, Sha256};

use crate::wire::chat::MessageEvent;
use crate::wire::entry::Digest;

const DOMAIN: &[u8; 20] = b"tigerchat.v1.message";

/// The chain value of `message` behind a message whose chain value is `previous` (zero before the first).
/// Whatever `message.chain` says is not looked at: comparing it with the result is how a history is verified.
#[must_use]
pub fn next(previous: Digest, message: &MessageEvent<'_>) -> Digest {
    let body = message.erased.unwrap_or_else(|| salted(&message.salt, message.body));
    link(previous, message, &body)
}

/// `SHA-256(salt ‖ body)`: what the chain knows of a body.
pub(super) fn salted(salt: &[u8; 16], body: &[u8]) -> Digest {
    Digest(Sha256::new().chain_update(salt).chain_update(body).finalize().into())
}

/// The chain value, when the body's salted digest is known already.
pub(super) fn link(previous: Digest, message: &MessageEvent<'_>, body: &Digest) -> Digest {
    let fields: [&[u8]; 12] = [
        &message.tenant.0.to_le_bytes(),
        message.room.as_bytes(),
        &message.epoch.to_le_bytes(),
        &message.seq.to_le_bytes(),
        &previous.0,
        message.author.as_bytes(),
        &message.time.to_le_bytes(),
        &message.key.0,
        &message.parent.to_le_bytes(),
        &[message.kind],
        message.content_type.as_bytes(),
        &body.0,
    ];
    let mut hash = Sha256::new().chain_update(DOMAIN);
    for field in fields {
        let len = u32::try_from(field.len()).expect("names are short");
        hash.update(len.to_le_bytes());
        hash.update(field);
    }
    Digest(hash.finalize().into())
}
