//! Every chain verifies from its first link (I09): the shard's log by parent and entry, each room's messages by
//! the formula of `docs/formats.md`, which is written down here a second time, apart from the code under test.

use std::collections::BTreeMap;

use io_sim::history::{Final, FinalRoom, Observation, SeenMessage, Violation, What};
use sha2::{Digest as _, Sha256};
use tigerchat_core::types::TenantId;
use tigerchat_core::wire::entry::Digest;

use super::{Checker, Setup, violated};

const NAME: &str = "chain";

/// Separates the digests of messages from all others.
const DOMAIN: &[u8; 20] = b"tigerchat.v1.message";

#[derive(Debug)]
pub struct Chain {
    tenant: TenantId,
    /// By op: the entry that was executed, its parent, and the view in which it was made.
    log: BTreeMap<u64, Link>,
    /// By room, then by epoch and sequence: the messages whose chain values verified.
    rooms: BTreeMap<String, BTreeMap<(u64, u64), Verified>>,
}

#[derive(Debug)]
struct Verified {
    /// The chain value before it; none: the message before it was not known.
    before: Option<Digest>,
    message: SeenMessage,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    entry: Digest,
    parent: Digest,
    view: u64,
}

impl Chain {
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        Self { tenant: setup.tenant, log: BTreeMap::new(), rooms: BTreeMap::new() }
    }
}

impl Checker for Chain {
    fn name(&self) -> &'static str {
        NAME
    }

    fn observe(&mut self, seen: &Observation) -> Result<(), Violation> {
        match &seen.what {
            What::Executed { op, entry, parent, entry_view, .. } => {
                self.executed(*op, Link { entry: *entry, parent: *parent, view: *entry_view })
            }
            What::Delivered { message, .. } => self.message(message),
            What::HistoryRead { messages, .. } => {
                messages.iter().try_for_each(|message| self.message(message))
            }
            _ => Ok(()),
        }
    }

    fn finish(&mut self, end: &Final) -> Result<(), Violation> {
        for replica in &end.replicas {
            for room in &replica.rooms {
                self.whole_room(replica.replica.0, room)?;
            }
        }
        Ok(())
    }
}

impl Chain {
    fn executed(&mut self, op: u64, link: Link) -> Result<(), Violation> {
        if let Some(before) = op.checked_sub(1).and_then(|before| self.log.get(&before)) {
            linked(op, before, &link)?;
        }
        if let Some(after) = self.log.get(&(op + 1)) {
            linked(op + 1, &link, after)?;
        }
        self.log.insert(op, link);
        Ok(())
    }

    /// Verifies one message against the one before it, when that one is known.
    fn message(&mut self, message: &SeenMessage) -> Result<(), Violation> {
        if !self.rooms.contains_key(&message.room) {
            self.rooms.insert(message.room.clone(), BTreeMap::new());
        }
        let known = self.rooms.get_mut(&message.room).expect("it was just put there");
        let before = match message.seq {
            0 => return violated(NAME, format!("a message of room {} has sequence 0", message.room)),
            1 => Some(Digest::ZERO),
            seq => known.get(&(message.epoch, seq - 1)).map(|before| before.message.chain),
        };
        let place = (message.epoch, message.seq);
        if known.get(&place).is_some_and(|known| known.before == before && known.message == *message) {
            return Ok(());
        }
        if let Some(before) = before {
            let expected = link(self.tenant, before, message);
            if expected != message.chain {
                let (room, seq, chain) = (&message.room, message.seq, message.chain);
                return violated(
                    NAME,
                    format!(
                        "message {seq} of room {room} has chain {chain:?}, but its content gives {expected:?}"
                    ),
                );
            }
        }
        known.insert(place, Verified { before, message: message.clone() });
        Ok(())
    }

    /// A replica's whole room: nothing between the first held and the head may be absent.
    fn whole_room(&mut self, replica: u16, room: &FinalRoom) -> Result<(), Violation> {
        let expected = room.first..=room.head;
        if !room.messages.iter().map(|message| message.seq).eq(expected.clone()) {
            let name = &room.room;
            return violated(
                NAME,
                format!("replica {replica} does not hold messages {expected:?} of room {name} one by one"),
            );
        }
        room.messages.iter().try_for_each(|message| self.message(message))
    }
}

fn linked(op: u64, before: &Link, link: &Link) -> Result<(), Violation> {
    if link.parent != before.entry {
        let (parent, entry, before_op) = (link.parent, before.entry, op - 1);
        return violated(
            NAME,
            format!("op {op} names {parent:?} as its parent, but op {before_op} is {entry:?}"),
        );
    }
    if link.view < before.view {
        let (view, before) = (link.view, before.view);
        return violated(NAME, format!("op {op} was made in view {view}, the op before it in view {before}"));
    }
    Ok(())
}

/// The chain value of a message after `before`, by the formula of `docs/formats.md`.
pub(super) fn link(tenant: TenantId, before: Digest, message: &SeenMessage) -> Digest {
    let content: [u8; 32] = match message.erased {
        Some(digest) => digest.0,
        None => Sha256::new().chain_update(message.salt).chain_update(&message.body).finalize().into(),
    };
    let fields: [&[u8]; 12] = [
        &tenant.0.to_le_bytes(),
        message.room.as_bytes(),
        &message.epoch.to_le_bytes(),
        &message.seq.to_le_bytes(),
        &before.0,
        message.author.as_bytes(),
        &message.time.to_le_bytes(),
        &message.key.0,
        &message.parent.to_le_bytes(),
        &[message.kind],
        message.content_type.as_bytes(),
        &content,
    ];
    let mut hash = Sha256::new().chain_update(DOMAIN);
    for field in fields {
        let length = u32::try_from(field.len()).expect("a field is short");
        hash.update(length.to_le_bytes());
        hash.update(field);
    }
    Digest(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use tigerchat_core::types::ReplicaId;
    use tigerchat_core::wire::chat::Key;

    use super::*;
    use crate::checkers::testing::Story;

    /// Computed by hand with Python's `hashlib` from the formula of `docs/formats.md`.
    const BY_HAND: &str = "127b038ac8e3cdc44821c719521dadec78ed0ae9ee5666a76488a8b1ec26b9f7";

    #[test]
    fn the_formula_gives_the_value_computed_by_hand() {
        let message = SeenMessage {
            room: "general".into(),
            epoch: 3,
            seq: 1,
            time: 1_700_000_000_000_000_001,
            author: "alice".into(),
            key: Key([7; 16]),
            kind: 1,
            parent: 0,
            thread_seq: 0,
            content_type: "text/plain".into(),
            salt: [5; 16],
            chain: Digest::ZERO,
            erased: None,
            body: b"Hello".to_vec(),
        };
        assert_eq!(link(TenantId(1), Digest::ZERO, &message).to_string(), BY_HAND);
    }

    #[test]
    fn an_entry_that_names_another_parent_is_found() {
        let mut story = Story::good();
        story.change(|what| {
            if let What::Executed { op: 4, parent, .. } = what {
                *parent = Digest([9; 32]);
            }
        });
        story.violates::<Chain>("op 4 names 0909090909090909 as its parent");
    }

    #[test]
    fn an_entry_of_an_older_view_above_a_newer_one_is_found() {
        let mut story = Story::good();
        story.change(|what| {
            if let What::Executed { op: 3, entry_view, .. } = what {
                *entry_view = 9;
            }
        });
        story.violates::<Chain>("op 4 was made in view 0, the op before it in view 9");
    }

    #[test]
    fn a_delivered_body_that_the_chain_does_not_cover_is_found() {
        let mut story = Story::good();
        story.change(|what| {
            if let What::Delivered { message, .. } = what
                && message.seq == 2
            {
                message.body = b"forged".to_vec();
            }
        });
        story.violates::<Chain>("but its content gives");
    }

    #[test]
    fn a_hole_in_a_replicas_room_is_found() {
        let mut story = Story::good();
        story.end.replicas[0].rooms[0].messages.remove(1);
        story.violates::<Chain>("replica 0 does not hold messages 1..=3 of room general one by one");
    }

    #[test]
    fn a_damaged_message_in_a_replicas_room_is_found() {
        let mut story = Story::good();
        story.end.replicas[1].rooms[0].messages[2].time += 1;
        assert_eq!(story.end.replicas[1].replica, ReplicaId(1));
        story.violates::<Chain>("message 3 of room general has chain");
    }
}
