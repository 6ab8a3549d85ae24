//! The world: one queue of events, and the processes, links, disks and users that they happen to.
//!
//! The one law: **events happen in the order of (virtual time, sequence number), and nothing happens outside of
//! one.** Nothing ticks while nothing happens: an idle minute costs nothing.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Duration;

use tigerchat_core::chat::{Chat, Limits};
use tigerchat_core::edge::Edge;
use tigerchat_core::io::{DiskOp, Fatal};
use tigerchat_core::node::Node;
use tigerchat_core::pool::Pool;
use tigerchat_core::store::layout::Layout;
use tigerchat_core::types::{Address, ClusterId, EdgeId, Instant, ShardId};
use tigerchat_core::vsr::marks::Marks;
use tigerchat_core::vsr::replica::{Replica, ShardConfig, Status, View};
use tigerchat_core::wire::entry::Digest;
use tigerchat_core::wire::frame::{Command, FRAME_HEADER};

use crate::Observer;
use crate::aim::{Aim, Point, Side, Struck, Zone};
use crate::clearing::Clearing;
use crate::clock::{Skew, wall};
use crate::connections::{Connections, Crossing};
use crate::deposed::Deposed;
use crate::disk::{Disk, DiskCounts, Done, Step, Ticket};
use crate::faults::Drawn;
use crate::history::{Final, Observation, What};
use crate::making::{edge_classes, edge_config, replica_process, shard_config};
use crate::network::{Arriving, Network, Place};
use crate::observer::{DiskBlocks, EdgeWatch, Watch, final_of};
use crate::outsider::Outsider;
use crate::process::{self, Act, Bytes, Inbound, Process, Role, Trap, TrapAt};
use crate::queue::Queue;
use crate::random::Random;
use crate::seal::Ledger;
use crate::spectator::{Sight, Spectator, Tell};
use crate::trouble::Trouble;
use crate::users::Users;

pub const CLUSTER: ClusterId = ClusterId(0x7167_6572_c4a7);
pub const SHARD: ShardId = ShardId(1);
/// A process whose disk failed is started again after so long.
const AGAIN: Duration = Duration::from_millis(5);

/// What happens.
#[derive(Debug)]
pub enum Event {
    /// A process handles what came in, and its deadlines.
    Turn(Place),
    /// A frame reaches its receiver.
    Arrival {
        from: Place,
        to: Place,
        command: Command,
        bytes: Bytes,
        connection: Option<u32>,
        /// For who watches.
        number: u64,
    },
    Disk {
        place: Place,
        ticket: Ticket,
        /// Where it becomes durable, if it is a write that does.
        write: Option<Zone>,
    },
    /// A process learns that another is gone.
    Reset {
        place: Place,
        peer: Place,
        address: Address,
    },
    Start {
        place: Place,
        life: u64,
    },
    /// Something arrives over a user's connection.
    Crossing(Crossing),
    /// A user wanted to be woken.
    User(usize),
    Trouble(Trouble),
}

/// See the module.
pub struct World<'a> {
    pub now: Instant,
    pub drawn: Drawn,
    pub processes: Vec<Process>,
    pub network: Network,
    pub users: Users,
    pub(crate) connections: Connections,
    /// For everything that goes wrong over time.
    pub(crate) random: Random,
    /// Faults have ended for these processes, for good.
    pub(crate) core: BTreeSet<Place>,
    pub(crate) healed: bool,
    /// Replicas whose disks are gone.
    pub(crate) lost: BTreeSet<Place>,
    pub crashes: u64,
    /// Aims that have not struck, and how often each did.
    pub(crate) aims: Vec<Aim>,
    pub struck: Struck,
    /// What all replicas reached, in all their lives.
    pub marks: Marks,
    pub(crate) deposed: Option<Deposed>,
    pub(crate) outsider: Outsider,
    pub(crate) clearing: Clearing,
    /// Views in which some replica was normal.
    pub views: BTreeSet<u64>,
    /// How many of them there were when last looked at.
    pub(crate) views_seen: usize,
    /// Some log has an entry of the next release.
    pub(crate) upgrade_met: bool,
    pub leak: Option<String>,
    /// The observer had enough.
    pub stopped: bool,
    pub events: u64,
    /// Chained over all events; made a digest at the end.
    trace: u64,
    config: ShardConfig,
    watches: Vec<Watch>,
    edge_watches: Vec<EdgeWatch>,
    queue: Queue,
    arrivals: Vec<Arriving>,
    pub(crate) spectator: Option<Spectator<'a>>,
    /// Troubles that came by themselves, and those of them that happen; `None`: all.
    pub(crate) troubles: u32,
    pub(crate) only_troubles: Option<BTreeSet<u32>>,
    observer: &'a mut Observer<'a>,
}

impl std::fmt::Debug for World<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "World(at {:?}, {} events)", self.now, self.events)
    }
}

impl<'a> World<'a> {
    /// A world in which every process is about to start.
    #[must_use]
    pub fn new(drawn: Drawn, seed: u64, observer: &'a mut Observer<'a>) -> Self {
        let config = shard_config(&drawn.shape);
        let mut random = Random::new(seed, "world", 0);
        let ledger = Ledger::new(seed);
        let replicas = drawn.replicas();
        let places = replicas + usize::from(drawn.shape.edges);
        let processes = (0..places)
            .map(|place| {
                let skew = Skew::draw(drawn.clocks.as_ref(), &mut random);
                match place.checked_sub(replicas) {
                    None => replica_process(place, &config, &drawn, skew, (seed, &ledger)),
                    Some(edge) => Process::new(Role::Edge(edge), Pool::lazy(&edge_classes()), None, skew),
                }
            })
            .collect();
        let network = Network::new(places, &drawn, Random::new(seed, "network", 0));
        let binary = Self::first_binary(drawn.rolling.as_ref());
        let mut world = Self {
            now: Instant(0),
            users: Users::new(&drawn, seed),
            aims: drawn.aims.clone(),
            connections: Connections::new(drawn.own_lines.then(|| Random::new(seed, "connections", 0))),
            drawn,
            processes,
            network,
            random,
            core: BTreeSet::new(),
            healed: false,
            lost: BTreeSet::new(),
            crashes: 0,
            struck: Struck::default(),
            marks: Marks::default(),
            deposed: None,
            outsider: Outsider::default(),
            clearing: Clearing::default(),
            views: BTreeSet::new(),
            views_seen: 1,
            upgrade_met: false,
            leak: None,
            stopped: false,
            events: 0,
            trace: seed,
            config,
            watches: std::iter::repeat_with(Watch::default).take(replicas).collect(),
            edge_watches: std::iter::repeat_with(EdgeWatch::default).take(places - replicas).collect(),
            queue: Queue::new(places),
            arrivals: Vec::new(),
            spectator: None,
            troubles: 0,
            only_troubles: None,
            observer,
        };
        for place in 0..places {
            if place < replicas {
                world.processes[place].binary = binary;
            }
            let at = world.soon(Duration::from_millis(3));
            world.schedule(at, Event::Start { place, life: 0 });
        }
        world
    }

    /// Lets somebody watch.
    pub fn show(&mut self, tell: Tell<'a>) {
        self.spectator = Some(Spectator::new(tell, self.processes.len()));
    }

    /// Lets everything happen until then, or until the observer has had enough.
    pub fn run_until(&mut self, end: Instant) {
        while !self.stopped
            && let Some((at, event)) = self.queue.next_until(end)
        {
            self.now = at;
            self.happen(event);
            self.look_around();
        }
        self.now = self.now.max(end);
    }

    pub fn schedule(&mut self, at: Instant, event: Event) {
        self.queue.push(at.max(self.now), event);
    }

    /// Some time from now on, within `most`.
    pub fn soon(&mut self, most: Duration) -> Instant {
        self.now.after(self.random.duration(&(Duration::ZERO..=most)))
    }

    /// Tells the observer.
    pub fn observe(&mut self, what: What) {
        if self.stopped {
            return;
        }
        let seen = Observation { at: self.now, what };
        self.stopped = (self.observer)(&seen) == ControlFlow::Break(());
    }

    #[must_use]
    pub fn replicas(&self) -> usize {
        self.drawn.replicas()
    }

    #[must_use]
    pub fn edges(&self) -> usize {
        usize::from(self.drawn.shape.edges)
    }

    /// Where a replica stands, if it is up.
    #[must_use]
    pub fn view_of(&self, place: Place) -> Option<View> {
        Some(self.replica(place)?.observe())
    }

    pub(crate) fn replica(&self, place: Place) -> Option<&Replica<Chat>> {
        self.processes[place].node.as_ref()?.replica(process::FILE)
    }

    /// Whether the healed replicas stand at the same op.
    #[must_use]
    pub fn has_converged(&self) -> bool {
        let mut commits = self
            .core_members()
            .into_iter()
            .map(|place| self.view_of(place).map(|view| (view.op, view.commit)));
        let first = commits.next().flatten();
        first.is_some_and(|(op, commit)| op == commit)
            && commits.all(|other| other == first)
            && self.has_moved_on()
    }

    /// Whether the healed replicas stand at the same op in a view that goes on, edges have nothing left to tell them, and
    /// no session of an edge that is gone is left: while a view changes, nobody ends one.
    #[must_use]
    pub(crate) fn has_settled(&self) -> bool {
        let is_there =
            |client| self.processes.iter().any(|one| one.address == Some(Address::Edge(EdgeId(client))));
        let mut members = self.core_members().into_iter().filter_map(|place| self.replica(place));
        let mut edges = self.processes.iter().filter_map(|one| one.node.as_ref()?.edge());
        self.has_converged()
            && self.has_sound_primary()
            && edges.all(|edge| edge.is_idle())
            && members.all(|one| one.sessions().iter().all(|session| is_there(session.client)))
    }

    /// Whether the primary is one of those that are healed: another one may serve nobody, until the others notice.
    pub(crate) fn has_sound_primary(&self) -> bool {
        self.primary().is_some_and(|place| self.core.contains(&place))
    }

    /// The primary of the highest view, if it is up.
    #[must_use]
    pub fn primary(&self) -> Option<Place> {
        let views = (0..self.replicas()).filter_map(|place| Some((self.view_of(place)?, place)));
        views.filter(|(view, _)| view.is_primary).max_by_key(|(view, _)| view.view).map(|(_, place)| place)
    }

    /// What the given replicas hold, and who is connected where.
    #[must_use]
    pub fn end(&self, places: &BTreeSet<Place>) -> Final {
        let replicas = places.iter().filter_map(|place| match self.processes[*place].role {
            Role::Replica(id) => Some(final_of(id, self.replica(*place)?, &mut self.blocks_of(*place))),
            Role::Edge(_) => None,
        });
        Final { replicas: replicas.collect(), connected: self.users.connected(&self.connections) }
    }

    /// What a replica's history is read from: its own disk, and where that is damaged the others'.
    fn blocks_of(&self, place: Place) -> DiskBlocks<'_> {
        let own_first = [place].into_iter().chain((0..self.replicas()).filter(move |other| *other != place));
        let disk = |place: Place| {
            let process = &self.processes[place];
            Some((process.disk.as_ref()?, process.sealing()))
        };
        let disks = own_first.filter_map(disk).collect();
        DiskBlocks::new(self.layout(), disks)
    }

    /// For the report of a standstill.
    pub(crate) fn tell_what_all_wait_for(&mut self) {
        for place in 0..self.replicas() {
            let Role::Replica(replica) = self.processes[place].role else { continue };
            let what = self.replica(place).map_or_else(|| "down".to_owned(), Replica::waits_for);
            self.observe(What::Waits { replica, what });
        }
    }

    /// A digest over all events so far.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.trace.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.events.to_le_bytes());
        bytes[16..].copy_from_slice(&self.now.0.to_le_bytes());
        Digest::of(&bytes)
    }

    /// Frames that found no buffer at their receiver.
    #[must_use]
    pub fn starved(&self) -> u64 {
        self.processes.iter().map(|process| process.starved).sum()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Turn(place) => {
                self.count(1, place as u64, self.processes[place].inbox.len() as u64);
                self.turn(place);
            }
            Event::Arrival { from, to, command, bytes, connection, number } => {
                self.count(2, (from as u64) << 32 | to as u64, beginning(&bytes));
                let heard = self.network.carries(from, to, connection) && self.processes[to].is_up();
                if heard && !self.arrives_at(to, Point::Receive(command)) {
                    self.inform(to, Inbound::Frame { from, bytes });
                } else {
                    self.network.lost(command);
                    self.see(|| Sight::Unheard { number });
                }
            }
            Event::Disk { place, ticket, write } => self.on_disk(place, ticket, write),
            Event::Reset { place, peer, address } => {
                self.count(4, place as u64, peer as u64);
                if !self.processes[peer].is_up() && self.network.is_up(peer, place) {
                    self.inform(place, Inbound::Reset(address));
                }
            }
            Event::Start { place, life } => {
                if !self.processes[place].is_up() && self.processes[place].life == life {
                    self.count(5, place as u64, life);
                    self.start_in_trouble(place);
                }
            }
            Event::Crossing(crossing) => {
                self.count(6, crossing.connection.0, 0);
                self.cross(crossing);
            }
            Event::User(user) => {
                self.count(7, user as u64, 0);
                self.wake_user(user);
            }
            Event::Trouble(trouble) => {
                self.count(8, 0, 0);
                self.make_trouble(trouble);
            }
        }
    }

    /// Chains an event into the trace.
    fn count(&mut self, kind: u64, one: u64, two: u64) {
        self.events += 1;
        for word in [self.now.0, kind, one, two] {
            // The finisher of SplitMix64 over the chain and the next word.
            let mut mixed = (self.trace ^ word).wrapping_add(0x9E37_79B9_7F4A_7C15);
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            self.trace = mixed ^ (mixed >> 31);
        }
    }

    fn on_disk(&mut self, place: Place, ticket: Ticket, write: Option<Zone>) {
        self.count(3, place as u64, 0);
        let disk = self.processes[place].disk.as_mut().expect("only replicas have disks");
        match disk.step(self.now, ticket) {
            Some(Step::Wait(at)) => self.schedule(at, Event::Disk { place, ticket, write }),
            Some(Step::Done(Done { token, result })) => {
                let durable = write.filter(|_| result.is_ok());
                if durable.is_none_or(|zone| !self.arrives_at(place, Point::Durable(zone))) {
                    self.inform(place, Inbound::Stored { token, result });
                }
            }
            None => {}
        }
    }

    /// Puts something into a process's inbox. Things that come close together share a turn.
    pub(crate) fn inform(&mut self, place: Place, inbound: Inbound) {
        if self.processes[place].is_up() {
            self.processes[place].inbox.push(inbound);
            let at = self.soon(self.drawn.turn);
            self.plan_turn(place, at);
        }
    }

    fn plan_turn(&mut self, place: Place, at: Instant) {
        self.queue.plan_turn(place, at.max(self.processes[place].paused_until).max(self.now));
    }

    /// Runs a turn that is not due, if the process is up and does not stand still. Says whether it did anything.
    pub(crate) fn turn_now(&mut self, place: Place) -> bool {
        let awake = self.processes[place].is_up() && self.processes[place].paused_until <= self.now;
        awake && self.turn(place)
    }

    fn turn(&mut self, place: Place) -> bool {
        let process = &mut self.processes[place];
        if process.paused_until > self.now {
            self.plan_turn(place, self.now);
            return false;
        }
        let acts = process.turn(self.now);
        let acted = acts.iter().any(|act| !matches!(act, Act::Flush));
        for from in std::mem::take(&mut self.processes[place].refused) {
            self.network.reset(from, place);
        }
        self.after_turn(place, acts);
        acted
    }

    pub(crate) fn after_turn(&mut self, place: Place, acts: Vec<Act>) {
        let became = self.watch(place);
        became.iter().for_each(|point| self.meet(place, *point, Side::Before));
        self.carry_out(place, acts);
        became.iter().for_each(|point| self.meet(place, *point, Side::After));
        self.turn_is_over(place);
        if let Some(deadline) = self.processes[place].deadline() {
            // A deadline that stays in the past must not stop time.
            self.plan_turn(place, deadline.max(Instant(self.now.0 + 1_000)));
        }
    }

    /// Looks at what a turn did to a replica. Returns what it became by it.
    fn watch(&mut self, place: Place) -> Vec<Point> {
        let Role::Replica(id) = self.processes[place].role else {
            self.watch_edge(place);
            return Vec::new();
        };
        let mut seen = Vec::new();
        let before = self.watches[place].stance();
        let sound = self.processes[place].disk.as_ref().is_some_and(Disk::is_sound);
        if let Some(replica) =
            self.processes[place].node.as_ref().and_then(|node| node.replica(process::FILE))
        {
            self.marks.add(replica.marks());
            self.watches[place].look(id, replica, sound, &mut self.views, |what| seen.push(what));
        }
        seen.into_iter().for_each(|what| self.observe(what));
        self.perhaps_ambush_new_view();
        self.meet_upgrade(place);
        became(before, self.watches[place].stance())
    }

    fn watch_edge(&mut self, place: Place) {
        let process = &self.processes[place];
        let edge = process.node.as_ref().and_then(|node| node.edge());
        let (Some(edge), Some(Address::Edge(id))) = (edge, process.address) else { return };
        let mut seen = Vec::new();
        let at = place - self.watches.len();
        self.edge_watches[at].look(id, edge, |what| seen.push(what));
        seen.into_iter().for_each(|what| self.observe(what));
    }

    /// Carries out what a turn wanted, until the process crashes.
    fn carry_out(&mut self, place: Place, mut acts: Vec<Act>) {
        for act in acts.drain(..) {
            if let Some(trap) = self.processes[place].trap
                && trap.at == TrapAt::Effects(0)
            {
                // What is left of the turn never happens; it goes before the process does, with its buffers.
                break;
            }
            let point = self.point_of(&act);
            if point.is_some_and(|point| self.springs_at(place, point, Side::Before)) {
                break;
            }
            let sprung = self.spring(place, &act);
            self.carry_out_one(place, act);
            if sprung || point.is_some_and(|point| self.springs_at(place, point, Side::After)) {
                break;
            }
        }
        self.processes[place].recycle(acts);
    }

    /// Whether the process ends at this point.
    fn springs_at(&mut self, place: Place, point: Point, side: Side) -> bool {
        self.meet(place, point, side);
        self.processes[place].trap.is_some_and(|trap| trap.at == TrapAt::Effects(0))
    }

    /// A process whose trap went off ends; the others have handled what came in.
    fn turn_is_over(&mut self, place: Place) {
        for point in std::mem::take(&mut self.processes[place].handled) {
            self.meet(place, point, Side::After);
        }
        if let Some(trap) = self.processes[place].trap.filter(|trap| trap.at == TrapAt::Effects(0)) {
            self.fall(place, trap.power);
        }
    }

    /// Moves a trap on; says whether it goes off after this effect.
    fn spring(&mut self, place: Place, act: &Act) -> bool {
        let Some(trap) = &mut self.processes[place].trap else { return false };
        let is_write = matches!(act, Act::Submit(DiskOp::Write { .. }));
        let left = match &mut trap.at {
            TrapAt::Effects(left) => left,
            TrapAt::Sent(wanted, left) if matches!(act, Act::Send { command, .. } if command == wanted) => {
                left
            }
            TrapAt::Written(left) if is_write => left,
            TrapAt::Sent(..) | TrapAt::Written(_) => return false,
        };
        *left = left.saturating_sub(1);
        if *left > 0 {
            return false;
        }
        trap.at = TrapAt::Effects(0);
        true
    }

    fn carry_out_one(&mut self, place: Place, act: Act) {
        match act {
            Act::Send { to, command, bytes } => {
                self.send(place, to, command, bytes);
                if command == Command::Reply {
                    self.answered(place);
                }
            }
            Act::Submit(op) => {
                let write = zone_of(&self.config.layout, &op);
                self.processes[place].must_seal(&op, write);
                let disk = self.processes[place].disk.as_mut().expect("only replicas have disks");
                let (ticket, at) = disk.submit(self.now, op);
                self.schedule(at, Event::Disk { place, ticket, write });
            }
            // Flushes begin as their writes are through.
            Act::Flush => {}
            Act::Client { to, bytes } => self.say_to_user(place, to, bytes),
            Act::Close { to } => self.close_from_edge(place, to),
            Act::Stop(why) => self.stop(place, why),
        }
    }

    pub(crate) fn send(&mut self, from: Place, to: Address, command: Command, bytes: Bytes) {
        debug_assert!(bytes.len() >= FRAME_HEADER);
        let Some(to) = self.place_of(to) else {
            return self.network.lost(command);
        };
        if self.drawn.outsider.is_some() {
            self.outsider.hear(from, to, &bytes);
        }
        let mut arrivals = std::mem::take(&mut self.arrivals);
        let len = bytes.len();
        if let Some(fate) = self.network.send(self.now, (from, to), command, bytes, &mut arrivals) {
            self.see_sent((from, to), command, len, (fate, None));
        }
        for Arriving { at, bytes, connection, fate } in arrivals.drain(..) {
            let number = self.see_sent((from, to), command, bytes.len(), (fate, Some(at)));
            self.schedule(at, Event::Arrival { from, to, command, bytes, connection, number });
        }
        self.arrivals = arrivals;
    }

    /// Who has this address. Replicas keep theirs; an edge's dies with it.
    fn place_of(&self, address: Address) -> Option<Place> {
        match address {
            Address::Replica { replica, .. } => {
                Some(usize::from(replica.0)).filter(|place| *place < self.replicas())
            }
            Address::Edge(_) => self.processes.iter().position(|process| process.address == Some(address)),
        }
    }

    /// A replica gives up: after a flush that failed, or alone with a damaged disk.
    fn stop(&mut self, place: Place, why: Fatal) {
        if matches!(why, Fatal::Release(_)) {
            self.end_of_old_binary(place);
            return self.set_trap(place, TrapAt::Effects(0), false);
        }
        let failed = self.processes[place].disk.as_ref().is_some_and(Disk::flush_failed);
        let expected = why == Fatal::Removed || (why == Fatal::FsyncFailed && failed);
        assert!(expected, "replica {place} stopped: {why:?}");
        if failed && self.healed && self.core.contains(&place) {
            // Its disk failed just before it was healed, and nothing else would start it any more. (Seed 4004509.)
            self.start_after(place, AGAIN);
        }
        // What was not flushed may be there or not.
        self.set_trap(place, TrapAt::Effects(0), true);
    }

    pub(crate) fn limits(&self) -> Limits {
        self.config.limits
    }

    pub(crate) fn layout(&self) -> Layout {
        self.config.layout
    }

    /// Sectors damaged, repaired, and operations that failed, of all disks.
    #[must_use]
    pub fn disk_counts(&self) -> DiskCounts {
        let disks = self.processes.iter().filter_map(|process| process.disk.as_ref());
        disks.fold(DiskCounts::default(), |sum, disk| DiskCounts {
            damaged: sum.damaged + disk.counts.damaged,
            repaired: sum.repaired + disk.counts.repaired,
            errors: sum.errors + disk.counts.errors,
        })
    }

    /// Starts a process that is down.
    pub fn start(&mut self, place: Place) {
        if self.lost.contains(&place) {
            return;
        }
        let now = self.processes[place].skew.read(self.now);
        let seed: [u8; 32] = self.random.bytes();
        let edge = EdgeId(self.random.u64() | 1);
        self.processes[place].life += 1;
        let mut node = Node::new();
        let acts = match self.processes[place].role {
            Role::Replica(id) => {
                self.rotate_key(place);
                let (replica, effects) = self.open(place, seed, now);
                self.processes[place].address = Some(Address::Replica { shard: SHARD, replica: id });
                process::add_replica(&mut node, replica, effects, now)
            }
            Role::Edge(_) => {
                let process = &mut self.processes[place];
                let config = edge_config(edge, &self.drawn.shape);
                node.set_edge(Edge::new(config, process.pool.clone(), seed, now));
                process.address = Some(Address::Edge(edge));
                Vec::new()
            }
        };
        self.processes[place].node = Some(node);
        if let Role::Replica(replica) = self.processes[place].role {
            self.watches[place].restarted();
            self.observe(What::Started { replica });
            self.tell_clock(place);
        }
        self.after_turn(place, acts);
        self.plan_turn(place, self.now);
    }

    /// Tells by how much a replica's wall clock is off.
    pub(crate) fn tell_clock(&mut self, place: Place) {
        if let Role::Replica(replica) = self.processes[place].role {
            let shown = self.processes[place].skew.read(self.now).wall;
            let ahead = i128::from(shown.0) - i128::from(wall(self.now).0);
            self.observe(What::Clock { replica, ahead: i64::try_from(ahead).expect("hours at most") });
        }
    }

    /// Ends a process without a word.
    pub fn crash(&mut self, place: Place, power: bool) {
        let Some(address) = self.processes[place].address else { return };
        self.crashes += 1;
        self.queue.forget_turn(place);
        if let Some(leak) = self.processes[place].end(power) {
            self.leak.get_or_insert(leak);
        }
        match self.processes[place].role {
            Role::Replica(replica) => self.observe(What::Crashed { replica, power }),
            Role::Edge(_) => self.edge_gone(place),
        }
        for other in 0..self.processes.len() {
            // A machine without power resets nobody's connections.
            if other != place && !power && self.processes[other].is_up() && self.network.is_up(place, other) {
                let at = self.soon(Duration::from_millis(2));
                self.schedule(at, Event::Reset { place: other, peer: place, address });
            }
        }
    }

    /// Lets a crash happen at a point of a process's coming turns.
    pub fn set_trap(&mut self, place: Place, at: TrapAt, power: bool) {
        if self.processes[place].is_up() {
            self.processes[place].trap = Some(Trap { at, power });
        }
    }

    /// Starts a process after a while, unless somebody else does before.
    pub fn start_after(&mut self, place: Place, delay: Duration) {
        let life = self.processes[place].life;
        self.schedule(self.now.after(delay), Event::Start { place, life });
    }

    /// Ends all processes and says whether every buffer came home.
    pub fn close(&mut self) {
        for process in &mut self.processes {
            if let Some(leak) = process.end(false) {
                self.leak.get_or_insert(leak);
            }
        }
    }
}

/// Where a write becomes durable.
pub(crate) fn zone_of(layout: &Layout, op: &DiskOp) -> Option<Zone> {
    match op {
        DiskOp::Write { offset, .. } => Some(Zone::of(layout, *offset)),
        DiskOp::Read { .. } | DiskOp::Sync { .. } => None,
    }
}

/// What a replica is now, and was not before.
fn became(before: Option<(Status, bool)>, now: Option<(Status, bool)>) -> Vec<Point> {
    let Some((status, leads)) = now.filter(|now| Some(*now) != before) else { return Vec::new() };
    let new = before.is_none_or(|(before, _)| before != status);
    let status = new.then_some(Point::Become(status));
    status.into_iter().chain(leads.then_some(Point::Lead)).collect()
}

/// The first bytes of a frame: of its digest, unless there is less.
fn beginning(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(bytes.len() as u64, |digest| u64::from_le_bytes(*digest))
}
