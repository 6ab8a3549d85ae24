//! Aimed faults: a process is struck just before or just after it passes a point of the protocol.
//!
//! The one law: **which pairs of point and strike a seed tries follows from its number**, so that the seeds of a
//! swarm together try them all. When a pair's turn came but its point was never passed, it was not tried: the counts
//! say so.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tigerchat_core::store::layout::{Layout, SUPERBLOCK_ZONE};
use tigerchat_core::vsr::replica::Status;
use tigerchat_core::wire::frame::Command;

use crate::network::Place;
use crate::process::{Act, TrapAt};
use crate::random::{Ppm, Random};
use crate::trouble::Trouble;
use crate::world::{Event, World, zone_of};

/// Part of a data file that a write goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Zone {
    Superblock,
    Log,
    Grid,
}

impl Zone {
    #[must_use]
    pub fn of(layout: &Layout, offset: u64) -> Self {
        match offset {
            offset if offset < SUPERBLOCK_ZONE as u64 => Self::Superblock,
            offset if offset < layout.hot_size() => Self::Log,
            _ => Self::Grid,
        }
    }
}

/// A point that a process passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// The disk is given a write.
    Write(Zone),
    /// A write is durable. Before: its process was not told. After: the turn that was told is over.
    Durable(Zone),
    Send(Command),
    /// A frame comes. After: the turn that handled it is over.
    Receive(Command),
    /// A turn changes the status of a replica. Before: nothing of what it wants was done. After: all of it.
    Become(Status),
    /// The same: it leads a view from this turn on.
    Lead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Before,
    After,
}

/// What happens to the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strike {
    Crash,
    /// What was not durable survives in part.
    PowerCut,
    /// Nobody reaches it for a while, and it reaches nobody.
    Isolation,
}

impl Strike {
    pub const ALL: [Self; 3] = [Self::Crash, Self::PowerCut, Self::Isolation];
}

/// A point, a side of it, and a strike: what must have happened for the swarm to know how it ends.
pub type Pair = (Point, Side, Strike);

/// Commands whose sending and receiving is aimed at. The others are so rare, or so far from any promise, that few
/// seeds would meet them.
const COMMANDS: [Command; 20] = [
    Command::Ping,
    Command::Pong,
    Command::PingClient,
    Command::PongClient,
    Command::Request,
    Command::Reply,
    Command::Prepare,
    Command::PrepareOk,
    Command::Commit,
    Command::StartViewChange,
    Command::DoViewChange,
    Command::StartView,
    Command::RequestStartView,
    Command::RequestPrepare,
    Command::RequestBlocks,
    Command::Block,
    Command::Follow,
    Command::Committed,
    Command::Query,
    Command::Answer,
];

/// All pairs that a swarm must try.
#[must_use]
pub fn pairs() -> Vec<Pair> {
    let zones = [Zone::Superblock, Zone::Log, Zone::Grid];
    let writes = zones.into_iter().flat_map(|zone| [Point::Write(zone), Point::Durable(zone)]);
    let frames = COMMANDS.into_iter().flat_map(|command| [Point::Send(command), Point::Receive(command)]);
    let statuses = [Status::Normal, Status::ViewChange, Status::RecoveringHead].map(Point::Become);
    let points = writes.chain(frames).chain(statuses).chain([Point::Lead]);
    let sides = |point| [(point, Side::Before), (point, Side::After)];
    let strikes = |(point, side)| Strike::ALL.map(|strike| (point, side, strike));
    points.flat_map(sides).flat_map(strikes).collect()
}

impl Point {
    /// How often it may be passed before the strike.
    fn passed_most(self) -> u64 {
        match self {
            Self::Write(Zone::Log) | Self::Durable(Zone::Log) => 200,
            Self::Send(command) | Self::Receive(command) => match command {
                Command::Prepare | Command::PrepareOk | Command::Request | Command::Reply => 200,
                Command::Ping | Command::Pong | Command::PingClient | Command::PongClient => 200,
                Command::Commit | Command::Committed | Command::Follow => 200,
                Command::StartViewChange | Command::Query | Command::Answer => 20,
                Command::Block | Command::RequestBlocks => 1,
                _ => 4,
            },
            Self::Write(_) | Self::Durable(_) => 10,
            Self::Become(Status::RecoveringHead) => 1,
            Self::Become(_) | Self::Lead => 6,
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(zone) => write!(f, "write {zone:?}"),
            Self::Durable(zone) => write!(f, "durable {zone:?}"),
            Self::Send(command) => write!(f, "send {command:?}"),
            Self::Receive(command) => write!(f, "receive {command:?}"),
            Self::Become(status) => write!(f, "become {status:?}"),
            Self::Lead => write!(f, "lead a view"),
        }
    }
}

/// A pair whose turn it is, and how often its point may still be passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aim {
    pub pair: Pair,
    pub left: u64,
}

/// Aims of one seed.
const AIMS: u64 = 6;
/// Aims whose point is not let pass even once: the first time is often the only one.
const AT_ONCE: Ppm = 400_000;

/// The pairs that a seed tries: the next few after those of the seed before.
#[must_use]
pub fn draw(seed: u64, random: &mut Random) -> Vec<Aim> {
    let pairs = pairs();
    let turns = (0..AIMS).map(|turn| seed.wrapping_mul(AIMS).wrapping_add(turn));
    let aim = |turn: u64| {
        // A step that has no divisor in common with their number visits all, and neighbours differ.
        let at = turn % pairs.len() as u64 * STEP % pairs.len() as u64;
        let pair = pairs[usize::try_from(at).expect("an index")];
        let most = if random.chance(AT_ONCE) { 1 } else { pair.0.passed_most() };
        Aim { pair, left: random.within(1..=most) }
    };
    turns.map(aim).collect()
}

const STEP: u64 = 101;

/// How often each pair happened in a run.
pub type Struck = BTreeMap<Pair, u64>;

impl World<'_> {
    /// A process is about to pass a point in its turn, or has passed it: it may be struck, and ends then as its trap
    /// says.
    pub(crate) fn meet(&mut self, place: Place, point: Point, side: Side) {
        match self.pass(point, side) {
            Some(Strike::Isolation) => self.isolate(place),
            Some(strike) => self.set_trap(place, TrapAt::Effects(0), strike == Strike::PowerCut),
            None => {}
        }
    }

    /// Something comes to a process between its turns. Says whether nobody is there any more to hear it.
    pub(crate) fn arrives_at(&mut self, place: Place, point: Point) -> bool {
        if self.aims.is_empty() {
            return false;
        }
        match self.pass(point, Side::Before) {
            Some(Strike::Isolation) => {
                self.isolate(place);
                return matches!(point, Point::Receive(_));
            }
            Some(strike) => {
                self.fall(place, strike == Strike::PowerCut);
                return true;
            }
            None => {}
        }
        self.processes[place].handled.push(point);
        false
    }

    /// The point that carrying out an effect passes.
    pub(crate) fn point_of(&self, act: &Act) -> Option<Point> {
        match act {
            Act::Send { command, .. } => Some(Point::Send(*command)),
            Act::Submit(op) => zone_of(&self.layout(), op).map(Point::Write),
            _ => None,
        }
    }

    /// The strike whose turn it is.
    fn pass(&mut self, point: Point, side: Side) -> Option<Strike> {
        if self.healed {
            return None;
        }
        let hit = self.aims.iter_mut().position(|aim| {
            let (wanted, at, _) = aim.pair;
            if wanted != point || at != side {
                return false;
            }
            aim.left -= 1;
            aim.left == 0
        })?;
        let pair = self.aims.swap_remove(hit).pair;
        *self.struck.entry(pair).or_default() += 1;
        Some(pair.2)
    }

    /// Cuts a process off for a while.
    pub(crate) fn isolate(&mut self, place: Place) {
        let others = (0..self.processes.len()).filter(|other| *other != place);
        let links: Vec<_> = others.flat_map(|other| [(place, other), (other, place)]).collect();
        self.set_cut(&links, true);
        let lasting = self.random.duration(&(ISOLATED_LEAST..=ISOLATED_MOST));
        self.schedule(self.now.after(lasting), Event::Trouble(Trouble::Mend(links, 0)));
    }
}

/// Shorter and longer than the time that makes a silent primary suspect.
const ISOLATED_LEAST: Duration = Duration::from_millis(10);
const ISOLATED_MOST: Duration = Duration::from_millis(400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_seeds_try_every_pair() {
        let pairs = pairs();
        let seeds = (pairs.len() as u64).div_ceil(AIMS);
        let mut random = Random::new(1, "test", 0);
        let mut tried: Vec<Pair> =
            (500..500 + seeds).flat_map(|seed| draw(seed, &mut random)).map(|aim| aim.pair).collect();
        tried.sort_unstable();
        tried.dedup();
        assert_eq!(tried.len(), pairs.len());
    }
}
