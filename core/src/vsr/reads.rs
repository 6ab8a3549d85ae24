//! Reads of committed state.
//!
//! *Local*: any replica answers from what it has executed, never below the caller's floor (a client that moves
//! between edges never goes back). *Linearizable*: a read index. The primary notes the commit number, asks the others
//! whether this is still their view, and answers once enough have said so and that op is executed here. No leases,
//! no clocks.
//!
//! The one law: **whoever confirms was in our view after the read came**, and no view change can do without one of
//! the confirming replicas; so no newer view had committed anything when the read came (H48).
//!
//! ```text
//! edge ─ query(linearizable) → primary ─ ping(nonce of the round) → all
//!                              primary ← pong(the same nonce, our view, normal) ─ enough of them
//!                              executed through the read's op ─ answer → edge
//! ```

use alloc::vec::Vec;

use super::machine::{Machine, Unanswered};
use super::marks::Mark;
use super::membership::{ByMember, Members};
use super::replica::{Ignored, Replica, Status};
use crate::errors::ErrorCode;
use crate::io::{Effect, Effects, Fatal};
use crate::store::forest::Forest;
use crate::store::grid::block::BlockRef;
use crate::store::history::reader::Blocks as GridBlocks;
use crate::types::{Address, EdgeId, Instant, ReplicaId};
use crate::wire::chat::AnswerHead;
use crate::wire::frame::{Command, Frame};

/// Linearizable reads that wait at a time; more are for the edge to ask again.
pub(super) const READS_MAX: usize = 32;
/// Queries that wait for blocks at a time; more are for the edge to ask again.
pub(super) const QUERIES_MAX: usize = 32;
/// Of these so many read at a time: they hold the blocks that they have.
const QUERIES_READING: usize = 8;
/// Blocks that a query waits for at a time.
const WANTED_MAX: usize = 24;
/// In a query's flags.
/// The flag of a query whose answer is to show all that anybody had seen.
pub const LINEARIZABLE: u16 = 1;
/// Tells the nonce of a round from that of a ping.
const ROUND: u128 = 1 << 127;

/// Linearizable reads under way.
#[derive(Debug)]
pub(super) struct ReadIndex {
    /// Counts rounds of asking; the current one's number.
    round: u64,
    /// The last round that each voter confirmed.
    confirmed: ByMember<u64>,
    /// When the round was last asked for; `None`: nothing is being asked.
    asked: Option<Instant>,
    waiting: Vec<Waiting>,
}

/// A read whose answer needs blocks that are not in memory. What it got so far is its own, so that others can't drive it
/// out of the cache before the last one is here.
#[derive(Debug)]
pub(super) struct WaitingQuery {
    edge: EdgeId,
    query: Frame,
    blocks: Vec<(BlockRef, Vec<u8>)>,
    /// What it needs next, and that among others which it is known to need then.
    needs: BlockRef,
    wants: Vec<BlockRef>,
}

/// What a query finds: its own blocks, those on their way to the disk. It names those that it wants beside them.
struct Found<'a> {
    own: &'a [(BlockRef, Vec<u8>)],
    forest: &'a Forest,
    wants: &'a mut Vec<BlockRef>,
}

impl GridBlocks for Found<'_> {
    fn get(&mut self, reference: &BlockRef) -> Option<&[u8]> {
        let own = self.own.iter().find(|(one, _)| one == reference).map(|(_, payload)| &payload[..]);
        own.or_else(|| self.forest.under_way(reference))
    }

    fn expect(&mut self, reference: &BlockRef) {
        let is_here = self.own.iter().any(|(one, _)| one == reference);
        let is_known =
            is_here || self.wants.contains(reference) || self.forest.under_way(reference).is_some();
        if !is_known && self.wants.len() < WANTED_MAX {
            self.wants.push(*reference);
        }
    }
}

#[derive(Debug)]
struct Waiting {
    edge: EdgeId,
    query: Frame,
    /// The commit number as it came.
    op: u64,
    /// The first round that began after it came: once that is confirmed, we were primary then.
    round: u64,
}

impl ReadIndex {
    pub(super) fn new(members: &Members) -> Self {
        let confirmed = ByMember::new(members.voters(), &0);
        Self { round: 0, confirmed, asked: None, waiting: Vec::new() }
    }

    pub(super) fn reshape(&mut self, members: &Members) {
        self.confirmed.reshape(members.voters());
    }

    /// Reads that wait.
    pub(super) fn holds(&self) -> usize {
        self.waiting.len()
    }

    /// The view is over: whoever waits asks the next primary.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.asked = None;
    }
}

impl<M: Machine> Replica<M> {
    pub(super) fn on_query(&mut self, edge: EdgeId, frame: &Frame, effects: &mut Effects) {
        if self.status == Status::Recovering || self.state_lost {
            return self.ignore(Ignored::NotNow);
        }
        if frame.header.flags.get() & LINEARIZABLE == 0 {
            return self.answer(edge, frame, effects);
        }
        if !self.is_primary() {
            return self.send_pong_client(edge, frame, effects);
        }
        if self.commit_min() < self.view_start {
            // What earlier views left is executed first; the edge asks again.
            return self.ignore(Ignored::NotNow);
        }
        let again = |read: &Waiting| read.edge == edge && read.query.header.nonce == frame.header.nonce;
        if self.reads.waiting.iter().any(again) {
            return self.ignore(Ignored::Duplicate);
        }
        if self.reads.waiting.len() >= READS_MAX {
            return self.ignore(Ignored::NoRoom);
        }
        let round = self.reads.round + 1;
        self.reads.waiting.push(Waiting { edge, query: frame.clone(), op: self.commit_max, round });
    }

    /// Begins a round for the reads that came since the last one began, and answers those that are confirmed.
    pub(super) fn reads_turn(&mut self, effects: &mut Effects) {
        if self.reads.waiting.is_empty() || !self.is_primary() {
            return;
        }
        // Before the next round begins: where reads come all the time there always is a next one to begin.
        self.answer_confirmed(effects);
        let under_way = self.reads.asked.is_some() && !self.round_is_confirmed();
        let wanted = self.reads.waiting.iter().any(|read| read.round > self.reads.round);
        if wanted && !under_way {
            self.reads.round += 1;
            self.ask_round(effects);
        }
        self.answer_confirmed(effects);
    }

    fn ask_round(&mut self, effects: &mut Effects) {
        self.reads.asked = Some(self.now.mono);
        let mut frame = self.position_frame(Command::Ping);
        frame.header.nonce = (ROUND | u128::from(self.reads.round)).into();
        self.broadcast(&frame, effects);
    }

    /// With the heartbeat: a round whose pings were lost is asked for again.
    pub(super) fn ask_round_again(&mut self, effects: &mut Effects) {
        let late =
            self.reads.asked.is_some_and(|asked| self.now.mono.since(asked) >= self.timeouts.heartbeat);
        if late && !self.round_is_confirmed() {
            self.mark(Mark::ReadRoundAgain);
            self.ask_round(effects);
        }
    }

    pub(super) fn confirm_round(&mut self, from: ReplicaId, frame: &Frame) {
        let normal = frame.header.flags.get() & 1 == 1;
        let ours = frame.header.view.get() == self.view && normal && self.is_primary();
        if ours && frame.header.nonce.get() == ROUND | u128::from(self.reads.round) {
            self.reads.confirmed.set(from, self.reads.round);
        }
    }

    /// So many, ourselves among them, that every view-change quorum has one of them.
    fn round_is_confirmed(&self) -> bool {
        let quorums = self.members.quorums();
        let needed = usize::from(quorums.replicas - quorums.view_change + 1);
        let confirmed = self.reads.confirmed.values().filter(|round| **round == self.reads.round);
        confirmed.count() + 1 >= needed
    }

    fn answer_confirmed(&mut self, effects: &mut Effects) {
        if !self.round_is_confirmed() {
            return;
        }
        self.reads.asked = None;
        let (round, commit) = (self.reads.round, self.commit_min());
        let ready = |read: &Waiting| read.round <= round && read.op <= commit;
        while let Some(at) = self.reads.waiting.iter().position(ready) {
            let Waiting { edge, query, .. } = self.reads.waiting.swap_remove(at);
            self.answer(edge, &query, effects);
        }
    }

    fn answer(&mut self, edge: EdgeId, query: &Frame, effects: &mut Effects) {
        let again = |one: &WaitingQuery| one.edge == edge && one.query.header.nonce == query.header.nonce;
        if self.queries.iter().any(again) {
            return self.ignore(Ignored::Duplicate);
        }
        let mut wants = Vec::new();
        match self.try_answer(edge, query, (&[], &mut wants), effects) {
            Ok(()) => {}
            Err(Unanswered::Malformed) => effects.push(Effect::Stop(Fatal::CheckpointLost)),
            Err(Unanswered::Needs(_)) if self.queries.len() >= QUERIES_MAX => self.ignore(Ignored::NoRoom),
            Err(Unanswered::Needs(needs)) => {
                self.mark(Mark::QueryWaits);
                let (query, blocks) = (query.clone(), Vec::new());
                self.queries.push(WaitingQuery { edge, query, blocks, needs, wants });
            }
        }
    }

    /// Answers, unless a block is missing: then `wants` are that one and others that will be.
    fn try_answer(
        &mut self,
        edge: EdgeId,
        query: &Frame,
        (own, wants): (&[(BlockRef, Vec<u8>)], &mut Vec<BlockRef>),
        effects: &mut Effects,
    ) -> Result<(), Unanswered> {
        wants.clear();
        let Some(mut draft) = self.pool.draft(self.config.layout.entry_max()) else {
            self.ignore(Ignored::NoRoom);
            return Ok(());
        };
        if query.header.op.get() > self.commit_min() {
            let head = AnswerHead::bare(Some(ErrorCode::Behind));
            head.encode(&mut draft).expect("an entry holds an answer's head");
            self.mark(Mark::ReadBehind);
        } else {
            let mut found = Found { own, forest: self.machine.forest(), wants };
            if let Err(why) = self.machine.query(query.body(), &mut found, &mut draft) {
                if let Unanswered::Needs(reference) = why {
                    found.expect(&reference);
                }
                return Err(why);
            }
        }
        let mut answer = self.frame(Command::Answer);
        answer.header.nonce = query.header.nonce;
        answer.header.op = self.commit_min().into();
        answer.header.commit = self.commit_min().into();
        answer.payload = Some(draft.seal());
        effects.push(Effect::Send { to: Address::Edge(edge), frame: answer });
        Ok(())
    }

    /// Goes on with the reads that wait for blocks, the oldest first. Without a state there is no answer: the edge asks
    /// somebody else.
    pub(super) fn queries_turn(&mut self, effects: &mut Effects) {
        if self.state_lost {
            return self.queries.clear();
        }
        let mut queries = core::mem::take(&mut self.queries);
        let mut reading = 0;
        queries.retain_mut(|query| {
            reading += 1;
            reading > QUERIES_READING || self.goes_on_waiting(query, effects)
        });
        self.queries = queries;
    }

    fn goes_on_waiting(&mut self, query: &mut WaitingQuery, effects: &mut Effects) -> bool {
        loop {
            let mut wants = core::mem::take(&mut query.wants);
            wants.retain(|reference| match self.take_block(reference, effects) {
                Some(payload) => {
                    query.blocks.push((*reference, payload));
                    false
                }
                // Without one that it may turn out not to need, it is asked first.
                None => *reference == query.needs || !self.blocks.is_lost(reference),
            });
            query.wants = wants;
            if self.blocks.is_lost(&query.needs) {
                // Nobody has it: the edge asks again, and then the block may have another name.
                return false;
            }
            if !query.wants.is_empty() {
                return true;
            }
            match self.try_answer(query.edge, &query.query, (&query.blocks, &mut query.wants), effects) {
                Err(Unanswered::Needs(needs)) => query.needs = needs,
                Err(Unanswered::Malformed) => {
                    effects.push(Effect::Stop(Fatal::CheckpointLost));
                    return false;
                }
                Ok(()) => {
                    query.blocks.drain(..).for_each(|(_, payload)| self.blocks.recycle(payload));
                    return false;
                }
            }
        }
    }
}
