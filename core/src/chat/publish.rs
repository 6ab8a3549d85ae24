//! Publishing: exactly once, at the next sequence, chained to the message before.
//!
//! The one law: **a key that is remembered yields its first result**, before its age, the parent or the expectation
//! is looked at: a retry must not fail because the room went on, or because its message left history.

use alloc::vec::Vec;

use sha2::{Digest as _, Sha256};

use super::dedup::Used;
use super::limits::Limits;
use super::rooms::RoomId;
use super::{Chat, Done, KEY_AHEAD_MS, NEVER_FULL, Turn, chain, check_names, tables};
use crate::errors::ErrorCode;
use crate::wire::chat::{CONTENT_TYPE_MAX, KIND_MESSAGE, MessageEvent, Outcome, Publish, RoomEvent, Thread};
use crate::wire::entry::Digest;

impl Chat {
    pub(super) fn publish(&mut self, turn: Turn, publish: &Publish<'_>, feed: &mut Vec<u8>) -> Done {
        check_names(turn, publish.room, publish.user)?;
        check_content(turn, publish, &self.limits)?;
        let id = self.find(turn, publish.tenant, publish.room)?;
        let room = *self.rooms.get(id);
        let refused = |error| Outcome { epoch: room.epoch, ..turn.refused(error) };
        if let Some(used) = self.dedup.find(id, publish.tenant, publish.user, publish.key) {
            return repeated(used, publish, room.epoch, refused(ErrorCode::KeyConflict));
        }
        self.check_key(turn, publish).map_err(refused)?;
        self.check_parent(id, room.head, publish.parent).map_err(refused)?;
        if publish.expect_seq.is_some_and(|seq| seq != room.head) {
            return Err(Outcome { seq: room.head, ..refused(ErrorCode::ExpectationFailed) });
        }
        if self.forest.is_full() {
            return Err(refused(ErrorCode::StorageFull));
        }
        Ok(self.append(turn, publish, id, feed))
    }

    /// Executes a publish about which there is no more doubt.
    pub(super) fn append(
        &mut self,
        turn: Turn,
        publish: &Publish<'_>,
        id: RoomId,
        feed: &mut Vec<u8>,
    ) -> Outcome {
        self.cut_off(id);
        let room = self.rooms.get(id);
        let mut message = MessageEvent {
            tenant: publish.tenant,
            room: publish.room,
            epoch: room.epoch,
            seq: room.head + 1,
            op: turn.op,
            index: turn.index,
            time: turn.time,
            author: publish.user,
            key: publish.key,
            kind: publish.kind,
            parent: publish.parent,
            chain: Digest::ZERO,
            salt: publish.salt,
            content_type: publish.content_type,
            body: publish.body,
            thread: Thread::default(),
            erased: None,
        };
        let body = chain::salted(&publish.salt, publish.body);
        message.chain = chain::link(room.chain, &message, &body);
        message.thread.seq = self.reply(turn, id, &message);
        let room = self.rooms.get_mut(id);
        room.head = message.seq;
        room.chain = message.chain;

        RoomEvent::Message(message).encode(feed).expect(NEVER_FULL);
        self.forest.append(&self.scratch.record(id, &message));
        tables::put_room(&mut self.forest, id, &self.rooms.row(id));
        self.mark(id, message.seq, turn.time);
        self.cut_off(id);
        self.tidy_threads();

        let used = Used {
            key: publish.key.0,
            salt: publish.salt,
            content: content(publish, &body),
            chain: message.chain,
            op: turn.op.into(),
            time: turn.time.into(),
            seq: message.seq.into(),
            index: turn.index.into(),
            room: id.into(),
            author: 0.into(),
        };
        self.dedup.insert(&mut self.forest, publish.tenant, publish.user, used);
        Outcome { seq: message.seq, epoch: message.epoch, chain: message.chain, ..turn.outcome() }
    }

    /// Whether a key that is not remembered may be used.
    pub(super) fn check_key(&self, turn: Turn, publish: &Publish<'_>) -> Result<(), ErrorCode> {
        let (now, made) = (turn.time / 1_000_000, publish.key.unix_ms());
        let horizon = now.saturating_sub(self.limits.key_horizon_ms);
        if made < horizon.max(self.dedup.author_horizon(publish.tenant, publish.user)) {
            return Err(ErrorCode::KeyTooOld);
        }
        if made > now.saturating_add(KEY_AHEAD_MS) {
            return Err(ErrorCode::KeyFromFuture);
        }
        Ok(())
    }
}

fn check_content(turn: Turn, publish: &Publish<'_>, limits: &Limits) -> Result<(), Outcome> {
    if publish.kind != KIND_MESSAGE {
        return Err(turn.refused(ErrorCode::KindUnknown));
    }
    if publish.content_type.len() > CONTENT_TYPE_MAX {
        return Err(turn.refused(ErrorCode::ContentTypeInvalid));
    }
    if publish.body.len() > limits.body_max as usize {
        return Err(turn.refused(ErrorCode::BodyTooLarge));
    }
    Ok(())
}

/// The result of a key that was used before: the first one again, or a conflict that names it.
/// The retry may carry another salt, having come through another edge, so it is hashed under the first one's.
/// Of a message that was erased nothing is left to compare with: its key alone says that it is the same.
pub(super) fn repeated(used: &Used, publish: &Publish<'_>, epoch: u64, conflict: Outcome) -> Done {
    let seq = used.seq.get();
    if !used.is_erased() && content(publish, &chain::salted(&used.salt, publish.body)) != used.content {
        return Err(Outcome { seq, ..conflict });
    }
    Ok(Outcome {
        error: None,
        duplicate: true,
        index: used.index.get(),
        op: used.op.get(),
        seq,
        time: used.time.get(),
        epoch,
        chain: used.chain,
    })
}

/// What must be equal for two publishes with one key to be the same; `body` is the salted digest.
/// Not `expect_seq`: it says when to publish, not what.
fn content(publish: &Publish<'_>, body: &Digest) -> Digest {
    let hash = Sha256::new()
        .chain_update(body.0)
        .chain_update([publish.kind])
        .chain_update(publish.parent.to_le_bytes())
        .chain_update(publish.content_type.as_bytes());
    Digest(hash.finalize().into())
}
