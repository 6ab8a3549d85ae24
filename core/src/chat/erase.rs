//! Erasing: a message stays where it is in the order, and what it said is gone.
//!
//! The one law: **from this op on no reader is shown the content, and the chain is verified as before.** That something
//! was erased, by whom and when, is an entry of the room of its own, with the next sequence: so whoever follows the room
//! hears of it, however late, and nothing is overwritten in silence. When the bytes are gone from disks:
//! `docs/storage.md`, "Erasure".

use alloc::vec::Vec;

use super::publish::repeated;
use super::{Chat, Done, Turn, check_names, tables};
use crate::errors::ErrorCode;
use crate::store::history::Key as HistoryKey;
use crate::wire::chat::{Erase, JSON, KIND_ERASURE, Outcome, Publish};

const BEGINS: &[u8] = b"{\"erased\":\"";
const ENDS: &[u8] = b"\"}";
const DIGITS: usize = 20;

/// The body of an erasure: which message it took the content of.
struct Body {
    bytes: [u8; BEGINS.len() + DIGITS + ENDS.len()],
    len: usize,
}

impl Body {
    fn new(mut seq: u64) -> Self {
        let (mut digits, mut first) = ([0; DIGITS], DIGITS);
        loop {
            first -= 1;
            digits[first] = b'0' + (seq % 10) as u8;
            seq /= 10;
            if seq == 0 {
                break;
            }
        }
        let mut body = Self { bytes: [0; _], len: 0 };
        for part in [BEGINS, &digits[first..], ENDS] {
            body.bytes[body.len..body.len + part.len()].copy_from_slice(part);
            body.len += part.len();
        }
        body
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The message that an erasure speaks of, by its body.
#[must_use]
pub fn erased_seq(body: &[u8]) -> Option<u64> {
    let digits = body.strip_prefix(BEGINS)?.strip_suffix(ENDS)?;
    core::str::from_utf8(digits).ok()?.parse().ok()
}

impl Chat {
    pub(super) fn erase(&mut self, turn: Turn, erase: &Erase<'_>, feed: &mut Vec<u8>) -> Done {
        check_names(turn, erase.room, erase.user)?;
        let id = self.find(turn, erase.tenant, erase.room)?;
        let room = *self.rooms.get(id);
        let refused = |error| Outcome { epoch: room.epoch, ..turn.refused(error) };
        let body = Body::new(erase.seq);
        let entry = Publish {
            tenant: erase.tenant,
            room: erase.room,
            user: erase.user,
            key: erase.key,
            kind: KIND_ERASURE,
            parent: 0,
            expect_seq: None,
            salt: erase.salt,
            content_type: JSON,
            body: body.bytes(),
        };
        if let Some(used) = self.dedup.find(id, erase.tenant, erase.user, erase.key) {
            return repeated(used, &entry, room.epoch, refused(ErrorCode::KeyConflict));
        }
        self.check_key(turn, &entry).map_err(refused)?;
        let first = self.first(id);
        if erase.seq < first {
            return Err(Outcome { seq: first, ..refused(ErrorCode::PositionGone) });
        }
        if erase.seq > room.head {
            return Err(Outcome { seq: room.head, ..refused(ErrorCode::PositionAhead) });
        }
        if erase.epoch != room.epoch {
            return Err(refused(ErrorCode::EpochMismatch));
        }
        if self.forest.is_full() {
            return Err(refused(ErrorCode::StorageFull));
        }
        if !self.forest.erase(HistoryKey { room: id, seq: erase.seq }) {
            return Err(refused(ErrorCode::TooManyErasures));
        }
        let author = (erase.tenant, erase.author);
        self.dedup.erase(&mut self.forest, (id, erase.seq), author, erase.of);
        if erase.now {
            let until = self.forest.hurry();
            tables::put_hurry(&mut self.forest, until);
        }
        Ok(self.append(turn, &entry, id, feed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_of_an_erasure_names_its_message_and_nothing_else_does() {
        for seq in [1, 7, 10, 431, u64::MAX] {
            assert_eq!(erased_seq(Body::new(seq).bytes()), Some(seq));
        }
        assert_eq!(Body::new(7).bytes(), br#"{"erased":"7"}"#);
        for other in [&b""[..], b"{}", br#"{"erased":7}"#, br#"{"erased":"x"}"#, br#"{"erased":"7"} "#] {
            assert_eq!(erased_seq(other), None);
        }
    }
}
