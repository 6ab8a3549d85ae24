//! Somebody on the network who holds no key: it hears frames, and says others to anybody.
//!
//! The one law: **what an outsider says changes nothing**: the process that hears it wants nothing done and stands
//! where it stood. As long as frames are not signed, an outsider who knows everything can still pretend to be a member
//! towards the one whom a frame is for; the tricks here are those that are refused without signatures.

use std::collections::VecDeque;

use tigerchat_core::io::DiskOp;
use tigerchat_core::store::layout::Layout;
use tigerchat_core::wire::entry::Digest;
use tigerchat_core::wire::frame::{Command, FRAME_HEADER, FrameHeader};
use zerocopy::FromBytes;
use zerocopy::little_endian::{U32, U64, U128};

use crate::network::Place;
use crate::process::{Act, Bytes, Inbound, Role};
use crate::random::Random;
use crate::trouble::Trouble;
use crate::world::World;

/// What an outsider does with a true frame that it heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trick {
    /// Says it to somebody else.
    OtherReceiver,
    /// Says it to its own sender.
    Reflection,
    OtherCluster,
    OtherShard,
    /// In the name of a replica that there is not.
    UnknownMember,
    /// In the name of the receiver.
    OwnName,
    FlippedBit,
    CutShort,
}

const TRICKS: [Trick; 8] = [
    Trick::OtherReceiver,
    Trick::Reflection,
    Trick::OtherCluster,
    Trick::OtherShard,
    Trick::UnknownMember,
    Trick::OwnName,
    Trick::FlippedBit,
    Trick::CutShort,
];

/// A frame that was on its way from one to another.
#[derive(Clone, Debug)]
pub(crate) struct Overheard {
    from: Place,
    to: Place,
    bytes: Bytes,
}

/// Frames that it remembers.
const REMEMBERED: usize = 64;
/// What the header's digest covers.
const COVERED: std::ops::Range<usize> = 32..192;

/// What an outsider heard, and what it did.
#[derive(Debug, Default)]
pub(crate) struct Outsider {
    heard: VecDeque<Overheard>,
    pub(crate) intrusions: u64,
    /// Something that a forged frame changed: an error.
    pub(crate) harm: Option<String>,
}

impl Outsider {
    pub(crate) fn hear(&mut self, from: Place, to: Place, bytes: &Bytes) {
        if self.heard.len() == REMEMBERED {
            self.heard.pop_front();
        }
        self.heard.push_back(Overheard { from, to, bytes: bytes.clone() });
    }
}

impl World<'_> {
    /// The outsider says something, to a process that has nothing else to do.
    pub(crate) fn intrude(&mut self) {
        let Some(every) = self.drawn.outsider else { return };
        self.trouble_after(every, Trouble::Intrusion);
        if self.outsider.heard.is_empty() {
            return;
        }
        let heard = self.outsider.heard[self.random.index(self.outsider.heard.len())].clone();
        let trick = *self.random.pick(&TRICKS);
        let place = match trick {
            Trick::OtherReceiver => {
                (heard.to + 1 + self.random.index(self.processes.len() - 1)) % self.processes.len()
            }
            Trick::Reflection => heard.from,
            _ => heard.to,
        };
        let Some(bytes) = forged(trick, &heard.bytes, place, &self.processes[place].role, &mut self.random)
        else {
            return;
        };
        // Whatever it would do by itself it does first: the work of a checkpoint goes on in each turn, and what one turn
        // gives up may let the next one begin something.
        let mut calm_turns = 0;
        while calm_turns < CALM_TURNS {
            let acted = self.turn_now(place);
            calm_turns = if acted && self.is_calm(place) { 0 } else { calm_turns + 1 };
        }
        if self.is_calm(place) {
            self.say_forged(place, trick, bytes);
        }
    }

    fn is_calm(&self, place: Place) -> bool {
        let process = &self.processes[place];
        let waits = process.deadline().is_none_or(|deadline| deadline > self.now);
        process.is_up() && process.paused_until <= self.now && process.inbox.is_empty() && waits
    }

    fn say_forged(&mut self, place: Place, trick: Trick, bytes: Bytes) {
        let before = self.view_of(place);
        let command = FrameHeader::ref_from_prefix(&bytes).map(|(header, _)| header.command);
        let of_blocks = [Command::RequestBlocks, Command::Block, Command::Query].map(|command| command as u8);
        let of_blocks = command.is_ok_and(|command| of_blocks.contains(&command));
        self.processes[place].inbox.push(Inbound::Frame { from: place, bytes });
        let acts = self.processes[place].turn(self.now);
        self.processes[place].refused.clear();
        // The work of a checkpoint, and what reads the grid, may go on in any turn; but not because of such a frame.
        let layout = self.layout();
        let is_own = |act: &Act| !of_blocks && matches!(act, Act::Submit(op) if is_of_the_grid(&layout, op));
        let wants = acts.iter().any(|act| !is_harmless(trick, act) && !is_own(act));
        let goes_on = acts.iter().any(is_own);
        if wants || before != self.view_of(place) {
            let what = format!(
                "{trick:?} at process {place}: {acts:?}, {before:?} became {:?}",
                self.view_of(place)
            );
            self.outsider.harm.get_or_insert(what);
        }
        if goes_on {
            self.after_turn(place, acts);
        } else {
            self.processes[place].recycle(acts);
        }
        self.outsider.intrusions += 1;
    }
}

fn is_of_the_grid(layout: &Layout, op: &DiskOp) -> bool {
    match op {
        DiskOp::Read { offset, .. } | DiskOp::Write { offset, .. } => *offset >= layout.hot_size(),
        DiskOp::Sync { .. } => true,
    }
}

/// Somebody unknown whose config number differs may be a member of another configuration (H57): who the members are is
/// told and asked. That is one frame for one.
fn is_harmless(trick: Trick, act: &Act) -> bool {
    let members = matches!(act, Act::Send { command: Command::Members, .. });
    matches!(act, Act::Flush) || (trick == Trick::UnknownMember && members)
}

/// The frame as the outsider says it; `None` where the trick is none.
fn forged(trick: Trick, frame: &Bytes, to: Place, role: &Role, random: &mut Random) -> Option<Bytes> {
    let mut bytes = frame.to_vec();
    let header = FrameHeader::mut_from_prefix(&mut bytes).ok()?.0;
    match (trick, role) {
        // True news of the members are true whoever brings them.
        (Trick::UnknownMember, _) if header.command() == Command::Members => return None,
        (Trick::OtherReceiver | Trick::Reflection, _) => return Some(frame.clone()),
        (Trick::FlippedBit, _) => {
            // Not in the place of the signature, which means nothing yet; nor in an entry, which has a digest of its own
            // and is asked for again.
            let end = if header.command().carries_entry() { FRAME_HEADER } else { frame.len() };
            let covered = (0..COVERED.end).chain(FRAME_HEADER..end);
            let at = covered.clone().nth(random.index(covered.count()))?;
            bytes[at] ^= 1 << random.below(8);
            return Some(bytes.into());
        }
        (Trick::CutShort, _) => return Some(bytes[..random.index(bytes.len())].into()),
        (Trick::OtherCluster, _) => header.cluster = U128::new(header.cluster.get() ^ 1 << random.below(128)),
        (Trick::OtherShard, _) => header.shard = U32::new(header.shard.get() ^ 1 << random.below(32)),
        (Trick::UnknownMember, Role::Replica(_)) => {
            (header.sender_kind, header.sender) = (REPLICA, U64::new(random.within(8..=u64::from(u16::MAX))));
        }
        (Trick::OwnName, Role::Replica(_)) => {
            (header.sender_kind, header.sender) = (REPLICA, U64::new(to as u64));
        }
        (Trick::UnknownMember | Trick::OwnName, Role::Edge(_)) => return None,
    }
    let digest = Digest::of(&bytes[COVERED]);
    bytes[..digest.0.len()].copy_from_slice(&digest.0);
    Some(bytes.into())
}

/// Turns in a row in which a process does nothing by itself, before something is said to it: the work of a checkpoint
/// pauses for a turn or two.
const CALM_TURNS: u32 = 4;

/// The kind of an address that is a replica's.
const REPLICA: u8 = 1;
