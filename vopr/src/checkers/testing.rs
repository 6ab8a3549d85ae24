//! A good history to break: three replicas, two users, one room, a crash, a view change, and quiet at the end.

use std::time::Duration;

use io_sim::clock::BEGINNING;
use io_sim::history::{
    Asked, CallId, Ends, Final, FinalReplica, FinalRoom, Observation, SeenMessage, UserId, Violation, Way,
    What,
};
use tigerchat_core::types::{Address, Instant, ReplicaId, ShardId, TenantId};
use tigerchat_core::vsr::load::Load;
use tigerchat_core::vsr::membership::Members;
use tigerchat_core::wire::chat::Key;
use tigerchat_core::wire::entry::Digest;

use super::agreement::Agreement;
use super::bounds::Bounds;
use super::chain::{Chain, link};
use super::checkpoint::Checkpoint;
use super::convergence::Convergence;
use super::delivery::Delivery;
use super::durability::Durability;
use super::erasing::Erasing;
use super::exactly_once::ExactlyOnce;
use super::linearizability::Linearizability;
use super::liveness::Liveness;
use super::membership::Membership;
use super::pages::Pages;
use super::presence::Presence;
use super::release::Release;
use super::retention::Retention;
use super::storage::Storage;
use super::time::Time;
use super::view::View;
use super::view_change::ViewChange;
use super::{Checker, Setup, Suite};

const SETUP: Setup = Setup { tenant: TenantId(1), room_messages: 0, room_age_s: 2 };
const ROOM: &str = "general";
const USERS: [&str; 2] = ["alice", "bob"];

/// A history under construction, and the end that it comes to.
#[derive(Clone, Debug, Default)]
pub(super) struct Story {
    seen: Vec<Observation>,
    pub(super) end: Final,
}

/// A checker that a test can make.
pub(super) trait Fresh: Checker + Sized {
    fn fresh() -> Self;
}

macro_rules! fresh {
    ($($checker:ident)*) => { $(impl Fresh for $checker {
        fn fresh() -> Self { Self::default() }
    })* };
}

fresh!(Agreement Bounds Checkpoint Convergence Delivery Durability Erasing ExactlyOnce Linearizability Liveness Membership);
fresh!(Pages Presence Release Storage Time View ViewChange);

impl Fresh for Chain {
    fn fresh() -> Self {
        Self::new(SETUP)
    }
}

impl Fresh for Retention {
    fn fresh() -> Self {
        Self::new(SETUP)
    }
}

impl Story {
    /// Ops 1 and 2 open a session and a room; op 3 holds message 1, op 4 message 2, op 5 message 3; op 6 ends it.
    pub(super) fn good() -> Self {
        let mut story = Self::default();
        for replica in 0..3 {
            let replica = ReplicaId(replica);
            story.push(What::Started { replica });
            story.push(What::Clock { replica, ahead: 0 });
            story.push(What::Members { replica, members: Members::first(3, 2).expect("a majority") });
            let at = Address::Replica { shard: ShardId(1), replica };
            story.push(What::Fuller { at, load: Load { what: "sessions", holds: 8, limit: 8 } });
        }
        for user in 0..2 {
            story.push(What::Entered { user: UserId(user), room: ROOM.into() });
            story.push(What::Subscribed { user: UserId(user), room: ROOM.into(), epoch: 1, next: 1 });
        }
        story.commit(1);
        story.commit(2);
        let messages = messages();
        for (message, call) in messages.iter().zip(1..) {
            story.say(message, call);
            if message.seq == 2 {
                story.crash_and_checkpoint();
            }
        }
        story.commit(6);
        story.push(What::HistoryCalled {
            user: UserId(1),
            call: CallId(50),
            room: ROOM.into(),
            asked: Asked { thread: 0, way: Way::From(1), limit: 8 },
            linearizable: false,
        });
        story.push(What::HistoryRead {
            user: UserId(1),
            call: CallId(50),
            room: ROOM.into(),
            first: 1,
            head: 3,
            ends: Ends::default(),
            messages: messages.clone(),
        });
        story.push(What::Healed { core: (0..3).map(ReplicaId).collect() });
        story.push(What::Quiet);
        story.end = end(&messages);
        story
    }

    /// A publish, its op, its acknowledgement, its deliveries.
    fn say(&mut self, message: &SeenMessage, call: u64) {
        let user = UserId(u32::from(message.author == USERS[1]));
        let (call, op) = (CallId(call), message.seq + 2);
        self.publish(user, call, ROOM, &message.author, message.key, &message.body);
        self.commit(op);
        self.push(What::Acknowledged {
            user,
            call,
            seq: message.seq,
            op,
            index: 0,
            time: message.time,
            chain: message.chain,
            epoch: 1,
            duplicate: false,
        });
        for user in 0..2 {
            self.push(What::Delivered { user: UserId(user), message: message.clone() });
        }
    }

    fn commit(&mut self, op: u64) {
        for replica in 0..3 {
            let replica = ReplicaId(replica);
            self.push(What::Executed {
                replica,
                op,
                entry: entry(op),
                parent: entry(op - 1),
                entry_view: 0,
                config: 0,
                release: 1,
                time: BEGINNING.0 + op,
            });
            let (view, log_view, checkpoint) = (0, 0, if op > 4 { 4 } else { 0 });
            self.push(What::Position { replica, incarnation: 1, view, log_view, op, commit: op, checkpoint });
        }
    }

    fn crash_and_checkpoint(&mut self) {
        for replica in 0..3 {
            let replica = ReplicaId(replica);
            self.push(What::Checkpointed { replica, op: 4, state: Digest([4; 32]) });
        }
        self.push(What::Crashed { replica: ReplicaId(2), power: true });
        self.push(What::Started { replica: ReplicaId(2) });
        self.push(What::StateLost { replica: ReplicaId(2), sound_disk: false });
    }

    pub(super) fn publish(
        &mut self,
        user: UserId,
        call: CallId,
        room: &str,
        author: &str,
        key: Key,
        body: &[u8],
    ) {
        let (room, author, body) = (room.into(), author.into(), body.to_vec());
        self.push(What::Published { user, call, room, author, key, parent: 0, body });
    }

    pub(super) fn push(&mut self, what: What) {
        let at = self.seen.last().map_or(Instant(0), |last| last.at).after(Duration::from_millis(1));
        self.seen.push(Observation { at, what });
    }

    pub(super) fn extend(&mut self, whats: Vec<What>) {
        whats.into_iter().for_each(|what| self.push(what));
    }

    pub(super) fn change(&mut self, mut change: impl FnMut(&mut What)) {
        self.seen.iter_mut().for_each(|seen| change(&mut seen.what));
    }

    /// Changes each message wherever it is seen, and all chain values with it.
    pub(super) fn change_with_chain(&mut self, change: impl Fn(&mut SeenMessage)) {
        let mut chain = Digest::ZERO;
        let mut changed = messages();
        for message in &mut changed {
            change(message);
            chain = link(SETUP.tenant, chain, message);
            message.chain = chain;
        }
        let again = |message: &mut SeenMessage| {
            *message = changed[usize::try_from(message.seq - 1).expect("few")].clone();
        };
        self.change(|what| match what {
            What::Delivered { message, .. } => again(message),
            What::HistoryRead { messages, .. } => messages.iter_mut().for_each(again),
            What::Acknowledged { seq, chain, .. } => {
                *chain = changed[usize::try_from(*seq - 1).expect("few")].chain;
            }
            _ => {}
        });
        for replica in &mut self.end.replicas {
            replica.rooms[0].messages.iter_mut().for_each(again);
        }
    }

    pub(super) fn insert_before(&mut self, which: impl Fn(&What) -> bool, what: What) {
        let position = self.position(which);
        let at = self.seen[position].at;
        self.seen.insert(position, Observation { at, what });
    }

    pub(super) fn insert_after(&mut self, which: impl Fn(&What) -> bool, what: What) {
        let position = self.position(which);
        let at = self.seen[position].at;
        self.seen.insert(position + 1, Observation { at, what });
    }

    pub(super) fn remove(&mut self, which: impl Fn(&What) -> bool) {
        self.take(which);
    }

    /// Takes observations out of the history; there must be some.
    pub(super) fn take(&mut self, which: impl Fn(&What) -> bool) -> Vec<What> {
        let taken: Vec<_> =
            self.seen.extract_if(.., |seen| which(&seen.what)).map(|seen| seen.what).collect();
        assert!(!taken.is_empty(), "the story holds no such observation");
        taken
    }

    pub(super) fn copy(&self, which: impl Fn(&What) -> bool) -> What {
        self.seen[self.position(which)].what.clone()
    }

    /// Lets the first such observation happen twice in a row.
    pub(super) fn repeat(&mut self, which: impl Fn(&What) -> bool) {
        let at = self.position(which);
        self.seen.insert(at, self.seen[at].clone());
    }

    pub(super) fn at(&self, which: impl Fn(&What) -> bool) -> Instant {
        self.seen[self.position(which)].at
    }

    pub(super) fn delay(&mut self, which: impl Fn(&What) -> bool, until: Instant) {
        let position = self.position(which);
        self.seen[position].at = until;
    }

    fn position(&self, which: impl Fn(&What) -> bool) -> usize {
        self.seen.iter().position(|seen| which(&seen.what)).expect("the story holds such an observation")
    }

    /// What one checker says.
    pub(super) fn judge<C: Fresh>(&self) -> Result<(), Violation> {
        let mut checker = C::fresh();
        self.seen.iter().try_for_each(|seen| checker.observe(seen))?;
        checker.finish(&self.end)
    }

    /// One checker must say so, and the whole suite must notice.
    pub(super) fn violates<C: Fresh>(&self, sentence: &str) {
        let violation = self.judge::<C>().expect_err("this history breaks a promise");
        assert_eq!(violation.checker, C::fresh().name());
        assert!(violation.what.contains(sentence), "it says: {}", violation.what);
        assert!(!self.broken_promises().is_empty());
    }

    /// The first broken promise that the whole suite finds, if any.
    pub(super) fn broken_promises(&self) -> Vec<String> {
        let mut suite = Suite::new(SETUP);
        let verdict = self
            .seen
            .iter()
            .try_for_each(|seen| suite.observe(seen))
            .and_then(|()| suite.finish(Some(&self.end)));
        verdict.err().map(|violation| violation.what).into_iter().collect()
    }
}

fn entry(op: u64) -> Digest {
    Digest::of(&op.to_le_bytes())
}

fn messages() -> Vec<SeenMessage> {
    let mut chain = Digest::ZERO;
    let mut message = |seq: u64| {
        let mut message = SeenMessage {
            room: ROOM.into(),
            epoch: 1,
            seq,
            time: 1_000 * seq,
            author: USERS[usize::from(seq == 2)].into(),
            key: Key::new(seq, [1; 10]),
            kind: 1,
            parent: 0,
            thread_seq: 0,
            content_type: "text/plain".into(),
            salt: [3; 16],
            chain: Digest::ZERO,
            erased: None,
            body: format!("message {seq}").into_bytes(),
        };
        chain = link(SETUP.tenant, chain, &message);
        message.chain = chain;
        message
    };
    (1..=3).map(&mut message).collect()
}

fn end(messages: &[SeenMessage]) -> Final {
    let replica = |replica| FinalReplica {
        replica: ReplicaId(replica),
        commit: 6,
        state: Digest([6; 32]),
        rooms: vec![FinalRoom {
            room: ROOM.into(),
            epoch: 1,
            first: 1,
            head: 3,
            messages: messages.to_vec(),
            present: USERS.map(String::from).to_vec(),
        }],
    };
    let connected = vec![(ROOM.into(), USERS.map(String::from).to_vec())];
    Final { replicas: (0..3).map(replica).collect(), connected }
}
