//! Marks at the rare branches of replication, for the swarm: which of them did a run reach?
//!
//! A mark is one bit of a replica, set and never read here: it costs an instruction, decides nothing, and is in every
//! build, so that what the swarm tests is what production runs. (A feature or a type parameter would make two builds
//! of one replica; a static would be shared by all replicas of a process.) An observer takes the bits after each
//! turn; what a restart begins is a new replica without marks, so whoever wants to know all of a run adds them up.

macro_rules! marks {
    ($($name:ident = $told:literal,)*) => {
        /// A branch that only trouble reaches.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Mark {
            $(#[doc = $told] $name,)*
        }

        impl Mark {
            /// All of them, in the order of their bits.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Where it is, and what happened there.
            #[must_use]
            pub fn told(self) -> &'static str {
                match self {
                    $(Self::$name => $told,)*
                }
            }
        }
    };
}

marks! {
    RecoverOld = "recovery: a slot holds an entry below the checkpoint",
    RecoverLinked = "recovery: an entry of the superblock's suffix is clean",
    RecoverAbove = "recovery: an entry above the suffix links on and is clean",
    RecoverTruncated = "recovery: an entry of a log that was truncated stays out",
    RecoverLostWrite = "recovery: an entry that a witness saw is not there: faulty",
    RecoverDirty = "recovery: a known entry is not there and nobody saw it: dirty",
    RecoverFaulty = "recovery: a known entry is corrupt: faulty",
    RecoverCorruptNext = "recovery: what may follow the head is corrupt: uncertain",
    RecoverWitnessPastHead = "recovery: a witness saw more than was found: uncertain",
    RecoverStateLost = "recovery: the own checkpoint can't be read",
    RecoverAsBackup = "recovery: goes on as a backup of its view",
    RecoverWasPrimary = "recovery: was primary of its view and asks for the next",
    RecoverBetweenViews = "recovery: was between two views and asks for the next",
    HeadTold = "uncertain head: its primary said where the log ends",
    HeadToldUnasked = "uncertain head: a start_view that answers no question is ignored",
    HeadToldByOther = "uncertain head: a start_view of a backup is ignored",
    HeadAsksBeyond = "uncertain head: between two views, the others are asked to come beyond",
    AskPrimarySilent = "view change: a silent primary",
    AskPrimaryReset = "view change: a reset connection makes the silence short",
    AskedToo = "view change: a replica that is normal joins those who ask",
    EnterByLog = "view change: a do_view_change leads into the view",
    EnterByStart = "view change: a start_view leads into the view",
    SpokeBefore = "view change: a restarted replica does not speak for its view again",
    NackSaid = "view change: an entry is nacked",
    FaultySaid = "view change: a faulty entry is neither claimed nor nacked",
    LogTwice = "view change: a do_view_change came twice",
    StartMissed = "view change: a do_view_change in its normal view: the start_view was lost",
    ChoseOther = "view change: the chosen log is not the primary's own",
    ChoseHigherLogView = "view change: a longer log of an older view loses",
    KeptUncommitted = "view change: an op that may be committed stays",
    Truncated = "view change: an op that a nack quorum never had goes",
    ChoiceWaits = "view change: an op neither had nor nacked makes the choice wait",
    CantLead = "view change: the chosen log can't be held: somebody else leads",
    LogRepaired = "view change: the new primary repairs its log first",
    StartRelayed = "view change: a backup says how the view began",
    StartWithoutRoom = "view change: a log without room: state first",
    StartAsItWas = "view change: the superblock says already what is adopted",
    TriedInVain = "view change: the fourth attempt in a row",
    RequestTooEarly = "normal: a request before what earlier views left is executed",
    RegisterAgain = "sessions: a reply to a register was lost",
    RegisterTwins = "sessions: two registers in one op",
    ReplyAgain = "sessions: a request comes again and gets its reply again",
    ReplyForgotten = "sessions: a request comes again when its reply is forgotten",
    SessionUnknown = "sessions: a request of a session that is gone",
    SessionEvicted = "sessions: the oldest goes for a new one",
    SessionExpired = "sessions: a lease ran out",
    QueueFull = "normal: the queue of requests is full",
    PipelineHeld = "normal: commits wait for a backup that falls behind",
    EntriesHeld = "normal: entries wait for the work of checkpoints",
    PrepareEarly = "normal: a prepare that overtook another waits",
    PrepareWithoutRoom = "normal: a prepare for which the log has no room",
    PrepareOfAnotherLog = "normal: an entry beyond the head of somebody who is between views is not appended",
    PrepareUnlinked = "normal: a prepare that does not link to the head",
    PrepareAgain = "normal: a prepare that is durable comes again and is acknowledged again",
    WriteRefused = "disk: a write to the log is refused and tried again",
    WriteOvertaken = "disk: a slot changed while it was written",
    SuperblockRefused = "disk: a write to the superblock is refused and tried again",
    CheckpointRefused = "disk: a write to a checkpoint is refused and tried again",
    FlushFailed = "disk: a flush failed: the replica ends",
    EntryRead = "repair: an entry is read from the disk to be executed",
    EntryServed = "repair: an entry is read from the disk for a peer",
    EntryRotten = "repair: an entry that was durable is not what it was",
    HeadersAsked = "repair: headers are missing below",
    AskedBeyond = "repair: asks for what the primary has beyond the head",
    PrimaryBehind = "repair: a primary that can't execute asks for the next view",
    TransferBehind = "transfer: the logs of the others no longer hold what is missing",
    TransferGivenUp = "transfer: nobody could give an entry, so a checkpoint past it",
    TransferLost = "transfer: the own state is lost",
    TransferGone = "transfer: the peer made a newer checkpoint meanwhile",
    TransferOther = "transfer: the peer does not answer, another is asked",
    TransferOlder = "transfer: the peer's checkpoint is older than what is executed",
    TransferBusy = "transfer: waits until the own checkpoint is written",
    TransferKept = "transfer: a block that is on the own disk is taken",
    TransferWrong = "transfer: the whole is not what was promised",
    TransferDone = "transfer: a peer's state is installed",
    TransferInViewChange = "transfer: ends while a view changes",
    BlockRotten = "blocks: one on the own disk is not what it must be",
    BlockRepaired = "blocks: a damaged one is had from a peer and written again",
    SuperblockRotten = "scrub: a copy of the superblock is not what it must be",
    ScrubOvertaken = "scrub: a block is of no use any more when it comes",
    QueryWaits = "reads: an answer waits for a block",
    CheckpointStuck = "checkpoint: nobody has a block that the work needs: a peer's checkpoint instead",
    CheckpointAwaited = "checkpoint: commits wait until the last one is written",
    ReadRoundAgain = "reads: a round is asked for again",
    ReadBehind = "reads: below the reader's floor",
    AbdicateHearsNobody = "abdication: no quorum is heard",
    AbdicateHeardByNobody = "abdication: no quorum answers",
    AbdicateNoProgress = "abdication: nothing is committed or executed any more",
    AbdicateSlowDisk = "abdication: the disk is much slower than the others'",
    AbdicateClock = "abdication: the clock is off",
    AbdicationPassed = "abdication: what spoke against a primary has passed before anybody took over",
    HandOverTaken = "hand-over: the target has all of the log and asks for its view",
    HandOverDeclined = "hand-over: the target is not fit to lead and says so",
    HandOverRefused = "hand-over: the target declined: the lead stays",
    HandOverTimedOut = "hand-over: the target took too long: the lead stays",
    HandOverDone = "hand-over: the view of the target began",
    HandOverOther = "hand-over: another view began meanwhile",
    ChangeRefused = "members: a change without a healthy quorum is refused",
    ChangeTooEarly = "members: a change waits for an entry of this view and these members",
    MembersLearned = "members: newer members are learned from a peer",
    MembersElsewhere = "members: a vote of a replica with other members is ignored",
    MembersStay = "members: a replica that is normal goes on in its view",
    MembersLeave = "members: a replica that may have spoken leaves its view",
    MembersWait = "members: a standby between two views goes on waiting",
    MembersGone = "members: a replica that is no member any more ends",
    SuccessorPromoted = "members: a successor has caught up and becomes a voter",
    UpgradeWaits = "release: a member does not run the next one yet, or was not heard",
    UpgradeProposed = "release: all members run the next one",
    UpgradeExecuted = "release: the next one is in force",
    ReleaseBeyond = "release: an entry beyond the binary is not let into the log",
    ReleaseEnds = "release: a replica whose binary is too old ends",
}

/// The marks that a replica reached since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks(u128);

const _: () = assert!(Mark::ALL.len() <= 128);

impl Marks {
    pub fn set(&mut self, mark: Mark) {
        self.0 |= 1 << mark as u8;
    }

    /// Adds those of another.
    pub fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    #[must_use]
    pub fn has(self, mark: Mark) -> bool {
        self.0 >> mark as u8 & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mark_has_a_bit_and_a_name_of_its_own() {
        for mark in Mark::ALL {
            let mut marks = Marks::default();
            marks.set(*mark);
            let set: alloc::vec::Vec<_> = Mark::ALL.iter().filter(|one| marks.has(**one)).collect();
            assert_eq!(set, [mark]);
            assert_eq!(Mark::ALL.iter().filter(|one| one.told() == mark.told()).count(), 1, "{mark:?}");
        }
    }

    #[test]
    fn marks_add_up() {
        let (mut one, mut other) = (Marks::default(), Marks::default());
        one.set(Mark::Truncated);
        other.set(Mark::RecoverOld);
        one.add(other);
        assert!(one.has(Mark::Truncated) && one.has(Mark::RecoverOld) && !one.has(Mark::NackSaid));
    }
}
