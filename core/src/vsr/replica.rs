//! One replica of one shard: its state, and where each event goes.
//!
//! Contract: call [`Replica::on_event`] for each event, [`Replica::turn_ended`] once the events of a turn are
//! through, and again with [`Event::Elapsed`] at [`Replica::deadline`]. Time never goes back. Effects are carried
//! out in order. The replica knows only what events tell it.

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::abdication::Fitness;
use super::blocks::Blocks;
use super::checkpoint::Checkpointing;
use super::clock::Clock;
use super::detector::Detector;
use super::feed::Feed;
use super::hand_over::{HandOver, HandOvers};
use super::journal::Journal;
use super::machine::Machine;
use super::marks::{Mark, Marks};
use super::membership::{ByMember, Members};
use super::normal::{Acked, Pending};
use super::reads::{ReadIndex, WaitingQuery};
use super::reconfigure::Reconfiguration;
use super::recovery::Recovery;
use super::release::{Release, Releases};
use super::repair::Repair;
use super::scrub::Scrub;
use super::sessions::Sessions;
use super::superblock::Writer;
use super::sync::Sync;
pub use super::timers::Timer;
use super::timers::Timers;
use super::tokens::Waits;
use super::view_change::ViewChange;
use crate::io::{DiskError, DiskOp, Effect, Effects, Event, Fatal};
use crate::pool::{Class, Message, Pool};
use crate::store::sealing::Sealer;
use crate::store::superblock::Superblock;
pub use crate::store::superblock::{OpenError, ShardConfig};
use crate::types::{Address, EdgeId, Instant, Now, ReplicaId};
use crate::wire::entry::{Digest, EntryHeader};
use crate::wire::frame::{Command, Frame, FrameHeader};

/// A timeout that follows what is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adaptive {
    /// Until something was measured.
    pub first: Duration,
    pub least: Duration,
    pub most: Duration,
}

/// What may differ from start to start.
#[derive(Clone, Debug)]
pub struct Start {
    pub timeouts: Timeouts,
    pub binary: Releases,
    /// With the node key of its data file, if that is sealed.
    pub sealing: Sealer,
    /// Fresh entropy (the run's in simulation).
    pub seed: [u8; 32],
}

impl Start {
    /// With the usual timeouts, as this build.
    #[must_use]
    pub fn with_seed(seed: [u8; 32]) -> Self {
        Self { timeouts: Timeouts::default(), binary: Releases::OURS, sealing: None, seed }
    }
}

/// Bounds of failure detection; safety depends on none of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A primary without work says that often that it is there.
    pub heartbeat: Duration,
    /// Silence of the primary after which a backup asks for a view change. Up to half as much again is added at
    /// random, so that two backups do not duel (H17).
    pub primary_silent: Adaptive,
    /// The same after the primary's connection was reset and reconnecting was refused.
    pub primary_reset: Duration,
    /// How long a view change may take before the next view is asked for.
    pub view_change: Adaptive,
    /// Unacknowledged prepares and unanswered repair requests are sent again after this.
    pub resend: Adaptive,
    /// A primary whose oldest entry finds no quorum for so long asks for another one.
    pub no_progress: Duration,
    /// A primary whose clock is off, or whose disk is much slower than the others', bears it for so long.
    pub unfit: Duration,
    /// Views and checkpoints are exchanged this often.
    pub ping: Duration,
    /// Everything on the disk is read within this, to see whether it is whole.
    pub scrub_cycle: Duration,
    /// A session whose edge was silent for so long is ended.
    pub session_lease: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let adaptive = |first, least, most| Adaptive {
            first: Duration::from_millis(first),
            least: Duration::from_millis(least),
            most: Duration::from_millis(most),
        };
        Self {
            heartbeat: Duration::from_millis(20),
            primary_silent: adaptive(150, 100, 600),
            primary_reset: Duration::from_millis(5),
            view_change: adaptive(200, 150, 1_000),
            resend: adaptive(40, 20, 200),
            no_progress: Duration::from_millis(750),
            unfit: Duration::from_secs(1),
            ping: Duration::from_millis(100),
            scrub_cycle: Duration::from_secs(86_400),
            session_lease: Duration::from_secs(5),
        }
    }
}

/// Where a replica stands. Transitions: `docs/protocol.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// Reading its disk.
    Recovering,
    /// It may have acknowledged entries that it can't read: it votes for nothing until a start_view tells it
    /// where the log ends (H24).
    RecoveringHead,
    Normal,
    ViewChange,
}

/// Why an event was dropped without effect. Each has a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Ignored {
    /// Not for this cluster, shard or replica, or not from one of its members.
    Stranger,
    /// Of a view that is over.
    OldView,
    /// Of a view that this replica is not (yet) in.
    NewerView,
    /// Only a primary, or only a backup, handles it; or only in another status.
    NotNow,
    /// The payload is not what its command says.
    Malformed,
    /// It does not link to the log, or is not what was asked for.
    Unlinked,
    /// It was here before.
    Duplicate,
    /// A queue, the pool or the log has no room.
    NoRoom,
    /// A vote or an acknowledgement by other members than ours.
    OtherMembers,
    /// A digest that does not match.
    Mismatch,
}

/// How many ways to be ignored there are.
pub const IGNORED: usize = 10;

/// What an observer (status page, simulator) may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    pub status: Status,
    pub view: u64,
    pub log_view: u64,
    /// Normal, and primary of its view.
    pub is_primary: bool,
    pub primary: ReplicaId,
    pub op: u64,
    /// Executed here.
    pub commit: u64,
    /// Known to be committed.
    pub commit_max: u64,
    pub checkpoint: u64,
    pub checkpoint_digest: Digest,
    pub incarnation: u64,
    /// The config number of the members by whom it acts.
    pub members: u32,
    /// Under which the last executed op was.
    pub release: u32,
    /// Its checkpoint is damaged: it votes, and does nothing else until a peer's has taken its place.
    pub state_lost: bool,
    /// Its superblock says that its checkpoint is worth nothing: a peer's is being written over it.
    pub transferring: bool,
}

/// Where the time of the entries that a primary made went, in nanoseconds, summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    pub entries: u64,
    pub requests: u64,
    /// From a request's arrival to its entry.
    pub batch_wait: u64,
    /// From the entry to its quorum.
    pub quorum: u64,
    /// From the quorum to the reply.
    pub commit: u64,
}

/// A request in an entry that is not executed yet.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) op: u64,
    pub(super) client: u64,
    pub(super) number: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Replica<M> {
    pub(super) config: ShardConfig,
    pub(super) sealing: Sealer,
    pub(super) me: ReplicaId,
    /// Those of the durable superblock.
    pub(super) members: Members,
    pub(super) reconfiguration: Reconfiguration,
    pub(super) release: Release,
    pub(super) timeouts: Timeouts,
    pub(super) pool: Pool,
    pub(super) random: ChaCha8Rng,
    pub(super) timers: Timers,

    pub(super) status: Status,
    pub(super) view: u64,
    /// Equal to the durable one whenever status is normal.
    pub(super) log_view: u64,
    pub(super) superblock: Writer,
    pub(super) journal: Journal,

    pub(super) machine: M,
    pub(super) sessions: Sessions,
    /// Header of the last executed entry.
    pub(super) executed: EntryHeader,
    pub(super) executed_digest: Digest,
    /// Our checkpoint can't be read: machine and sessions are not what `executed` says. See [`super::sync`].
    pub(super) state_lost: bool,
    pub(super) commit_max: u64,
    /// Up to here all of the log is durable at this replica.
    pub(super) durable_op: u64,
    /// What this backup last acknowledged in this view.
    pub(super) acknowledged: u64,
    /// Acknowledge again even if nothing is new: the primary seems not to know.
    pub(super) ok_due: bool,
    /// Backup: the room that it said last.
    pub(super) room_said: u64,

    /// Primary: what each replica acknowledged in this view.
    pub(super) acked: ByMember<Acked>,
    /// Primary: when the commit number last went up, or something to commit came.
    pub(super) progress: Instant,
    /// Primary: the head as this view began; requests are admitted once it is executed.
    pub(super) view_start: u64,
    pub(super) queue: VecDeque<Pending>,
    pub(super) queued_bytes: usize,
    /// Primary: requests in entries that are not executed yet, for admission in order.
    pub(super) in_flight: VecDeque<InFlight>,
    /// Some entry could not be written when it came; or the disk refused it, and it is tried again later.
    pub(super) unwritten: bool,
    pub(super) refused: bool,
    /// Primary: prepares whose time of birth is measured.
    pub(super) births: VecDeque<(u64, Instant, Instant)>,
    /// Primary: when each session's edge was last heard.
    pub(super) heard: Vec<(u64, Instant)>,
    /// Backup: when the primary of this view was last heard, and prepares that came before their turn.
    pub(super) primary_heard: Instant,
    /// How much longer its silence is borne in this view than need be, in 1024ths: drawn anew for each, so that two
    /// backups do not duel (H17).
    pub(super) leniency: u32,
    /// When each peer was last heard.
    pub(super) peer_heard: ByMember<Instant>,
    pub(super) clock: Clock,
    pub(super) detector: Detector,
    pub(super) fitness: Fitness,
    /// Primary: one that is under way.
    pub(super) hand_over: Option<HandOver>,
    pub(super) hand_overs: HandOvers,
    /// Primary: the edges were told that this view is ours.
    pub(super) announced: bool,
    pub(super) early: Vec<Message>,

    pub(super) view_change: ViewChange,
    pub(super) repair: Repair,
    pub(super) checkpointing: Checkpointing,
    pub(super) blocks: Blocks,
    pub(super) scrub: Scrub,
    pub(super) sync: Option<Sync>,
    pub(super) recovery: Option<Recovery>,
    pub(super) feed: Feed,
    pub(super) reads: ReadIndex,
    /// Reads whose answer waits for blocks.
    pub(super) queries: Vec<WaitingQuery>,
    pub(super) reply_scratch: Vec<u8>,
    pub(super) feed_scratch: Vec<u8>,
    pub(super) entry_scratch: Vec<u8>,
    pub(super) now: Now,
    ignored: [u64; IGNORED],
    marks: Marks,
    stages: Stages,
}

impl<M: Machine> Replica<M> {
    /// The state before recovery has read anything; see [`super::recovery`].
    pub(super) fn new(superblock: Writer, machine: M, pool: Pool, start: Start) -> Self {
        let Start { timeouts, binary, sealing, seed } = start;
        let config = superblock.durable().config.clone();
        let root = config.root();
        let members = superblock.durable().members.clone();
        Self {
            me: config.replica,
            sealing,
            random: ChaCha8Rng::from_seed(seed),
            timers: Timers::default(),
            status: Status::Recovering,
            view: superblock.durable().view,
            log_view: superblock.durable().log_view,
            journal: Journal::new(config.layout.wal_slots, &root),
            machine,
            sessions: Sessions::new(config.sessions, config.window),
            state_lost: false,
            executed: root,
            executed_digest: root.digest(),
            commit_max: 0,
            durable_op: 0,
            acknowledged: 0,
            ok_due: false,
            room_said: 0,
            acked: ByMember::new(members.ids(), &Acked::default()),
            progress: Instant::default(),
            view_start: 0,
            queue: VecDeque::with_capacity(usize::from(config.sessions) * usize::from(config.window)),
            queued_bytes: 0,
            in_flight: VecDeque::with_capacity(usize::from(config.sessions) * usize::from(config.window)),
            unwritten: false,
            refused: false,
            births: VecDeque::with_capacity(super::PIPELINE_MAX),
            heard: Vec::with_capacity(usize::from(config.sessions)),
            primary_heard: Instant::default(),
            leniency: 0,
            peer_heard: ByMember::new(members.ids(), &Instant::default()),
            release: Release::new(binary, members.ids()),
            clock: Clock::new(&members),
            detector: Detector::new(&members),
            fitness: Fitness::default(),
            hand_over: None,
            hand_overs: HandOvers::default(),
            announced: false,
            early: Vec::with_capacity(usize::from(config.pipeline)),
            view_change: ViewChange::new(&members),
            repair: Repair::default(),
            checkpointing: Checkpointing::default(),
            blocks: Blocks::new(&config.layout),
            scrub: Scrub::new(),
            sync: None,
            recovery: None,
            feed: Feed::new(),
            reads: ReadIndex::new(&members),
            queries: Vec::new(),
            reply_scratch: Vec::new(),
            feed_scratch: Vec::new(),
            entry_scratch: Vec::new(),
            now: Now::default(),
            ignored: [0; IGNORED],
            marks: Marks::default(),
            stages: Stages::default(),
            members,
            reconfiguration: Reconfiguration::default(),
            superblock,
            timeouts,
            config,
            pool,
        }
    }

    /// One event. Effects are appended.
    pub fn on_event(&mut self, now: Now, event: Event, effects: &mut Effects) {
        self.now = now;
        match event {
            Event::Received { from, frame } => self.on_frame(from, frame, effects),
            Event::Stored { token, result } => self.on_stored(Waits::of(token), result, effects),
            Event::PeerReset(peer) => self.on_peer_reset(peer),
            Event::Elapsed => {
                while let Some(timer) = self.timers.due(now.mono) {
                    self.on_timer(timer, effects);
                }
            }
        }
    }

    /// All events of a turn were seen: what waited for company (batches, acknowledgements) leaves now.
    pub fn turn_ended(&mut self, now: Now, effects: &mut Effects) {
        self.now = now;
        if self.ends_for_release(effects) {
            return;
        }
        if self.recovery.is_some() {
            return self.recovery_turn(effects);
        }
        self.superblock.pump(&self.pool, effects);
        self.write_what_waits(effects);
        self.advance_durable(effects);
        self.commit_what_can(effects);
        self.checkpoint_turn(effects);
        self.sync_turn(effects);
        if self.is_primary() {
            self.build_entries(effects);
            self.commit_what_can(effects);
            self.hand_over_turn(effects);
            self.announce(effects);
        }
        self.reads_turn(effects);
        self.queries_turn(effects);
        self.repair_turn(effects);
        self.continue_view_change(effects);
        self.scrub_turn(effects);
        self.blocks_turn_ended();
        self.superblock.pump(&self.pool, effects);
    }

    /// When to call again with [`Event::Elapsed`], and why.
    #[must_use]
    pub fn deadline(&self) -> Option<(Instant, Timer)> {
        self.timers.next()
    }

    fn on_timer(&mut self, timer: Timer, effects: &mut Effects) {
        match timer {
            Timer::Heartbeat => self.on_heartbeat(effects),
            Timer::PrimarySilent => self.on_primary_silent(effects),
            Timer::ViewChange => self.on_view_change_timer(effects),
            Timer::Resend => self.on_resend(effects),
            Timer::Repair => self.on_repair_timer(effects),
            Timer::Blocks => self.on_blocks_timer(effects),
            Timer::Scrub => self.on_scrub_timer(effects),
            Timer::Ping => self.on_ping_timer(effects),
            Timer::Lease => self.on_lease_timer(),
            Timer::HandOver => self.on_hand_over_timer(),
        }
    }

    fn on_frame(&mut self, from: Address, frame: Frame, effects: &mut Effects) {
        let header = &frame.header;
        let ours = header.cluster.get() == self.config.cluster.0
            && header.shard.get() == self.config.shard.0
            && header.from() == Some(from)
            && header.to() == Some(self.address());
        if !ours {
            return self.ignore(Ignored::Stranger);
        }
        match from {
            Address::Edge(edge) => self.on_edge_frame(edge, &frame, effects),
            Address::Replica { replica, .. } => {
                if self.status == Status::Recovering && !self.waits_for_members() {
                    return self.ignore(Ignored::NotNow);
                }
                if replica == self.me {
                    return self.ignore(Ignored::Stranger);
                }
                // Also of one that we don't know: it may be a member of an older configuration, or of a newer one.
                let same = self.compare_members(replica, header.config.get(), effects);
                if header.command() == Command::Members {
                    return self.on_members(&frame);
                }
                if self.peer_heard.get(replica).is_none() {
                    return self.ignore(Ignored::Stranger);
                }
                if !same && is_vote(header.command()) {
                    self.mark(Mark::MembersElsewhere);
                    return self.ignore(Ignored::OtherMembers);
                }
                if self.status == Status::Recovering {
                    return self.ignore(Ignored::NotNow);
                }
                self.peer_heard.set(replica, self.now.mono);
                self.note_release(replica, &frame.header);
                self.on_peer_frame(replica, frame, effects);
            }
        }
    }

    fn on_edge_frame(&mut self, edge: EdgeId, frame: &Frame, effects: &mut Effects) {
        match frame.header.command() {
            Command::PingClient => self.on_ping_client(edge, frame, effects),
            Command::Request => self.on_request(edge, frame, effects),
            Command::Follow => self.on_follow(edge, frame, effects),
            Command::Query => self.on_query(edge, frame, effects),
            Command::Reconfigure => self.on_reconfigure(edge, frame, effects),
            Command::HandOver => self.on_hand_over_request(edge, frame, effects),
            _ => self.ignore(Ignored::NotNow),
        }
    }

    fn on_peer_frame(&mut self, from: ReplicaId, frame: Frame, effects: &mut Effects) {
        match frame.header.command() {
            Command::Ping => self.on_ping(from, &frame, effects),
            Command::Pong => self.on_pong(from, &frame, effects),
            Command::Prepare => self.on_prepare(from, &frame, effects),
            Command::PrepareOk => self.on_prepare_ok(from, &frame, effects),
            Command::Commit => self.on_commit(from, &frame, effects),
            Command::StartViewChange => self.on_start_view_change(from, &frame, effects),
            Command::DoViewChange => self.on_do_view_change(from, &frame, effects),
            Command::StartView => self.on_start_view(from, &frame, effects),
            Command::RequestStartView => self.on_request_start_view(from, &frame, effects),
            Command::RequestHeaders => self.on_request_headers(from, &frame, effects),
            Command::Headers => self.on_headers(&frame, effects),
            Command::RequestPrepare => self.on_request_prepare(from, &frame, effects),
            Command::RequestBlocks => self.on_request_blocks(from, &frame, effects),
            Command::Block => self.on_block(from, &frame, effects),
            Command::HandOver => self.on_hand_over(from, &frame, effects),
            _ => self.ignore(Ignored::NotNow),
        }
    }

    fn on_stored(&mut self, waits: Waits, result: Result<Option<Message>, DiskError>, effects: &mut Effects) {
        if matches!(result, Err(DiskError::Fsync)) {
            self.mark(Mark::FlushFailed);
            // A failed flush says nothing of what was written before it (H31): this replica ends.
            return effects.push(Effect::Stop(Fatal::FsyncFailed));
        }
        match waits {
            Waits::SlotWritten { slot } => self.on_slot_written(slot, result.is_ok()),
            Waits::SlotScrubbed { slot } => {
                self.on_slot_scrubbed(slot, result.ok().flatten().as_ref(), effects);
            }
            Waits::SuperblockScrubbed { copy } => {
                self.on_superblock_scrubbed(copy, result.ok().flatten().as_ref());
            }
            Waits::SlotRead { slot } => self.on_slot_read(slot, result.ok().flatten(), effects),
            Waits::SuperblockWritten { .. } => {
                if result.is_err() {
                    self.mark(Mark::SuperblockRefused);
                }
                if self.superblock.written(result.is_ok(), &self.pool, effects) {
                    self.on_superblock_durable(effects);
                }
            }
            Waits::BlockWritten { address } => self.on_block_written(address, result.is_ok()),
            Waits::BlockRead { address } => self.on_block_read(address, result.ok().flatten(), effects),
            Waits::BlockServed { address } => self.on_block_served(address, result.ok().flatten(), effects),
            Waits::BlockRepaired { .. } => self.on_block_repaired(),
            Waits::BlockLooked { address } => self.on_part_read(address, result.ok().flatten(), effects),
            Waits::BlockTransferred { address } => self.on_part_ended(address, result.is_ok()),
            Waits::CheckpointFlushed => self.on_checkpoint_flushed(),
            Waits::TransferFlushed => self.on_transfer_flushed(),
            Waits::SlotRecovered { .. } | Waits::BlockRecovered { .. } | Waits::Synced => {
                self.on_recovered(waits, result.ok().flatten(), effects);
            }
        }
    }

    /// The superblock that was wanted is durable: what waited for it goes on.
    fn on_superblock_durable(&mut self, effects: &mut Effects) {
        self.checkpoint_settled();
        self.sync_settled(effects);
        self.view_change_settled(effects);
        self.members_settled(effects);
    }

    #[must_use]
    pub fn address(&self) -> Address {
        self.peer(self.me)
    }

    /// This process start, durable before its first frame.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.superblock.durable().incarnation
    }

    #[must_use]
    pub fn config(&self) -> &ShardConfig {
        &self.config
    }

    #[must_use]
    pub fn observe(&self) -> View {
        let checkpoint = self.superblock.durable().checkpoint;
        View {
            status: self.status,
            view: self.superblock.durable().view,
            log_view: self.superblock.durable().log_view,
            is_primary: self.is_primary(),
            primary: self.primary_of(self.view),
            op: self.journal.head,
            commit: self.commit_min(),
            commit_max: self.commit_max,
            checkpoint: checkpoint.op(),
            checkpoint_digest: checkpoint.root.digest,
            incarnation: self.incarnation(),
            members: self.members.number,
            release: self.release(),
            state_lost: self.state_lost,
            transferring: self.superblock.durable().transferring,
        }
    }

    /// The header of an executed op that the log still holds in memory.
    #[must_use]
    pub fn committed(&self, op: u64) -> Option<(EntryHeader, Digest)> {
        let slot = self.journal.get(op).filter(|_| op <= self.commit_min())?;
        Some((slot.header?, slot.digest?))
    }

    /// The header of any op of the linked part of the log, committed or not.
    #[must_use]
    pub fn header(&self, op: u64) -> Option<EntryHeader> {
        self.journal.header(op).copied()
    }

    pub fn machine(&self) -> &M {
        &self.machine
    }

    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    #[must_use]
    pub fn stages(&self) -> Stages {
        self.stages
    }

    pub(super) fn stages_mut(&mut self) -> &mut Stages {
        &mut self.stages
    }

    /// How often each [`Ignored`] happened, in the order of the enum.
    #[must_use]
    pub fn ignored(&self) -> &[u64; IGNORED] {
        &self.ignored
    }

    /// The rare branches that were reached since this replica was opened.
    #[must_use]
    pub fn marks(&self) -> Marks {
        self.marks
    }

    pub(super) fn mark(&mut self, mark: Mark) {
        self.marks.set(mark);
    }

    pub(super) fn ignore(&mut self, why: Ignored) {
        self.ignored[why as usize] += 1;
    }

    pub(super) fn commit_min(&self) -> u64 {
        self.executed.op.get()
    }

    /// Whether there is nobody else, not even a standby.
    pub(super) fn is_alone(&self) -> bool {
        self.members.list().len() == 1
    }

    /// Whether nobody else votes.
    pub(super) fn is_only_voter(&self) -> bool {
        self.members.quorums().replicas == 1 && self.members.is_voter(self.me)
    }

    #[must_use]
    pub fn members(&self) -> &Members {
        &self.members
    }

    pub(super) fn primary_of(&self, view: u64) -> ReplicaId {
        if self.members.is_unknown() { self.me } else { self.members.primary_of(view) }
    }

    pub(super) fn is_primary(&self) -> bool {
        self.status == Status::Normal && self.primary_of(self.view) == self.me
    }

    pub(super) fn is_backup(&self) -> bool {
        self.status == Status::Normal && self.primary_of(self.view) != self.me
    }

    /// Voters that were heard within a time, not counting us.
    pub(super) fn voters_heard(&self, within: Duration) -> usize {
        let now = self.now.mono;
        let heard = |id: &ReplicaId| self.peer_heard.get(*id).is_some_and(|at| now.since(*at) < within);
        self.members.voters().filter(|id| *id != self.me && heard(id)).count()
    }

    pub(super) fn peer(&self, replica: ReplicaId) -> Address {
        Address::Replica { shard: self.config.shard, replica }
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.members.ids().filter(|replica| *replica != self.me)
    }

    /// A frame with what all of ours say: the durable view, the commit number.
    pub(super) fn frame(&self, command: Command) -> Frame {
        let mut header = FrameHeader::new(command, self.config.cluster, self.config.shard);
        header.view = self.superblock.durable().view.into();
        header.config = self.members.number.into();
        header.commit = self.commit_max.into();
        header.release = self.release_to_say().into();
        Frame { header, payload: None }
    }

    pub(super) fn send(&self, to: ReplicaId, frame: Frame, effects: &mut Effects) {
        effects.push(Effect::Send { to: self.peer(to), frame });
    }

    pub(super) fn broadcast(&self, frame: &Frame, effects: &mut Effects) {
        for peer in self.peers() {
            self.send(peer, frame.clone(), effects);
        }
    }

    /// A duration with up to half of it added at random.
    pub(super) fn jittered(&mut self, base: Duration) -> Duration {
        let half = u64::try_from(base.as_nanos() / 2).unwrap_or(u64::MAX).max(1);
        base + Duration::from_nanos(self.random.next_u64() % half)
    }

    pub(super) fn in_a(&self, while_: Duration) -> Instant {
        self.now.mono.after(while_)
    }

    pub(super) fn submit(effects: &mut Effects, op: DiskOp) {
        effects.push(Effect::Disk(op));
    }
}

/// What counts only among replicas that act by the same members (I29).
fn is_vote(command: Command) -> bool {
    matches!(
        command,
        Command::PrepareOk
            | Command::StartViewChange
            | Command::DoViewChange
            | Command::StartView
            | Command::HandOver
    )
}

/// The pool that one replica needs: the sum of what each holder may hold. `incoming` buffers of each class are
/// for frames that are on their way in.
#[must_use]
pub fn pool_classes(config: &ShardConfig, incoming: usize) -> Vec<Class> {
    let pipeline = usize::from(config.pipeline);
    let requests = usize::from(config.sessions) * usize::from(config.window);
    let slot = config.layout.slot_sectors as usize * crate::store::layout::SECTOR;
    let block = config.layout.grid().block_bytes();
    // Entries: cached behind and ahead of the commit number (4 pipelines), being written, early ones, the feed's,
    // read for peers, reads that wait (for a quorum, or for blocks), answers; requests that wait; superblock copies.
    // Blocks: fetched, served, transferred, being written. Each class may have to serve all of them, because entries
    // come in all sizes; but no block needs a buffer that is larger than one.
    let blocks = 2 * super::blocks::FETCHES_MAX + super::blocks::SERVED_MAX + 2 * super::blocks::PARTS_MAX;
    let reads = super::reads::READS_MAX + super::reads::QUERIES_MAX;
    let entries = 6 * pipeline + super::feed::RING + reads + blocks + 24;
    let count = entries + requests + 8 + incoming;
    let mut sizes = vec![1024, Superblock::COPY, block, slot];
    sizes.sort_unstable();
    sizes.dedup();
    let of_size = |size| Class { size, count: if size > block { count - blocks } else { count } };
    sizes.into_iter().map(of_size).collect()
}
