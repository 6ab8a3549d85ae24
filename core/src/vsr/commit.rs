//! Executing committed entries, in order, each once.
//!
//! The one law: **an entry is executed only when the log from the last executed one up to the head is linked by
//! digest** (H15, I09), so a wrong entry can't slip in between.

use super::machine::{At, Machine};
use super::marks::Mark;
use super::replica::{Replica, Status};
use super::sessions::StoredReply;
use crate::io::Effects;
use crate::pool::Message;
use crate::types::EdgeId;
use crate::wire::entry::{ENTRY_HEADER, EntryHeader, RequestHeader, RequestKind, Requests};

/// Entries executed in a turn at most while those that follow are still being read.
const BEHIND_MAX: usize = 2;

impl<M: Machine> Replica<M> {
    /// Executes as far as possible; starts reading what is not in memory.
    pub(super) fn commit_what_can(&mut self, effects: &mut Effects) {
        let mut behind = 0;
        while self.status == Status::Normal && self.sync.is_none() && !self.state_lost {
            let next = self.commit_min() + 1;
            if next > self.commit_max.min(self.journal.head) || self.journal.low > next {
                return;
            }
            if !self.checkpoint_allows() {
                return;
            }
            let linked =
                self.journal.header(next).is_some_and(|header| header.parent == self.executed_digest);
            if !linked {
                return self.ignore(super::replica::Ignored::Unlinked);
            }
            match self.journal.get(next).and_then(|slot| slot.entry.clone()) {
                Some(entry) => {
                    self.execute(next, &entry, effects);
                    // A log that is read again after a start is no reason to be silent for long: the next read brings the
                    // next turn.
                    behind += usize::from(self.read_ahead(next, effects));
                    if behind >= BEHIND_MAX {
                        return;
                    }
                }
                None => {
                    self.mark(Mark::EntryRead);
                    return self.read_for_commit(next, effects);
                }
            }
        }
    }

    fn execute(&mut self, op: u64, entry: &Message, effects: &mut Effects) {
        let header = *self.journal.header(op).expect("linked");
        let mut at = At { op, index: 0, time: header.timestamp.get() };
        self.feed_scratch.clear();
        self.machine.set_release(header.release.get());
        for (request, commands) in Requests::new(&entry[ENTRY_HEADER..]) {
            let (client, session) = (request.client.get(), request.session.get());
            match RequestKind::from_code(request.kind.get()) {
                Some(RequestKind::Commands) => self.execute_commands(&mut at, &request, commands, effects),
                Some(RequestKind::Register) => self.execute_register(&mut at, client, effects),
                Some(RequestKind::Expire) => self.execute_expire(&mut at, client, session, 2, effects),
                Some(RequestKind::Reconfigure) => self.execute_reconfigure(commands),
                Some(RequestKind::Upgrade) => self.mark(Mark::UpgradeExecuted),
                None => {}
            }
        }
        self.reconfiguration.note_executed(header.view.get(), header.config.get());
        self.fitness.executed = self.now.mono;
        self.executed = header;
        self.executed_digest = self.journal.digest(op).expect("linked");
        self.forget_in_flight(op);
        self.publish(op, effects);
        self.drop_old_entry(op);
        self.checkpoint_due(op);
    }

    fn execute_commands(
        &mut self,
        at: &mut At,
        request: &RequestHeader,
        commands: &[u8],
        effects: &mut Effects,
    ) {
        let (client, number) = (request.client.get(), request.number.get());
        let session = request.session.get();
        let next =
            self.sessions.of_client(client).filter(|one| one.session == session && one.number + 1 == number);
        if next.is_none() {
            return;
        }
        self.reply_scratch.clear();
        at.index +=
            self.machine.apply(*at, session, commands, &mut self.reply_scratch, &mut self.feed_scratch);
        let stored = self.sessions.of_client_mut(client).expect("looked at");
        stored.executed(number, at.op, request.digest.get(), &self.reply_scratch);
        if self.is_primary() {
            let digest = request.digest.get();
            self.send_reply(client, session, number, at.op, digest, &self.reply_scratch, effects);
        }
    }

    fn execute_register(&mut self, at: &mut At, client: u64, effects: &mut Effects) {
        if self.sessions.of_client(client).is_none() {
            if self.sessions.iter().any(|other| other.session == at.op) {
                self.mark(Mark::RegisterTwins);
                // A session is known by its op: of two registers in one op the second is for the next try.
                return;
            }
            if let Some((old, session)) = self.sessions.to_evict().map(|one| (one.client, one.session)) {
                self.mark(Mark::SessionEvicted);
                self.execute_expire(at, old, session, 1, effects);
            }
            self.sessions.register(client, at.op);
        }
        let session = self.sessions.of_client(client).expect("registered").session;
        if self.is_primary() {
            let now = self.now.mono;
            self.heard.retain(|(of, _)| *of != client);
            self.heard.push((client, now));
            let empty = StoredReply::default();
            let digest = RequestHeader::digest_of(&[]);
            self.send_reply(client, session, empty.number, session, digest, &empty.outcomes, effects);
        }
    }

    fn execute_expire(&mut self, at: &mut At, client: u64, session: u64, why: u16, effects: &mut Effects) {
        if self.sessions.remove(client, session) {
            self.heard.retain(|(of, _)| *of != client);
            if why == 2 {
                self.mark(Mark::SessionExpired);
            }
            at.index += self.machine.session_closed(*at, session, &mut self.feed_scratch);
            if self.is_primary() {
                self.send_eviction(EdgeId(client), session, why, effects);
            }
        }
    }

    /// Primary: an entry is through; its requests are no longer in flight, its times are known.
    fn forget_in_flight(&mut self, op: u64) {
        while self.in_flight.front().is_some_and(|one| one.op <= op) {
            self.in_flight.pop_front();
        }
        while let Some((_, made, quorum)) = self.births.front().filter(|(of, _, _)| *of <= op).copied() {
            self.births.pop_front();
            let now = self.now.mono;
            let stages = self.stages_mut();
            stages.quorum += quorum.0.saturating_sub(made.0);
            stages.commit += now.0.saturating_sub(quorum.0);
        }
    }

    /// Lets go of an entry that has fallen behind the cache, once it is durable.
    fn drop_old_entry(&mut self, op: u64) {
        let keep = 2 * u64::from(self.config.pipeline);
        let Some(old) = op.checked_sub(keep) else { return };
        if let Some(slot) = self.journal.get_mut(old).filter(|slot| slot.durable == slot.digest) {
            slot.entry = None;
        }
    }

    /// Takes over the state that a checkpoint holds.
    pub(super) fn adopt(&mut self, header: EntryHeader) {
        self.executed = header;
        self.executed_digest = header.digest();
        self.commit_max = self.commit_max.max(header.op.get());
        self.feed.reset();
    }
}
