//! What a run came to: the part that is counted. What was seen is in [`crate::history`].

use std::time::Duration;

use tigerchat_core::vsr::marks::Marks;
use tigerchat_core::wire::entry::Digest;
use tigerchat_core::wire::frame::Command;

use crate::aim::Struck;
use crate::disk::DiskCounts;
use crate::history::Final;
use crate::seal::Rotated;

/// What may happen to a frame on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    Sent,
    Dropped,
    Duplicated,
    /// Far more than its link's usual latency.
    Delayed,
    /// Recorded, and delivered again much later.
    Replayed,
    /// A bit flipped.
    Corrupted,
    /// The end was lost.
    Truncated,
    /// Too much waited before a narrow link.
    Overflowed,
}

impl Fate {
    pub const ALL: [Self; 8] = [
        Self::Sent,
        Self::Dropped,
        Self::Duplicated,
        Self::Delayed,
        Self::Replayed,
        Self::Corrupted,
        Self::Truncated,
        Self::Overflowed,
    ];
}

/// How often each fate met each command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameCounts([[u64; Fate::ALL.len()]; Command::ALL.len()]);

impl Default for FrameCounts {
    fn default() -> Self {
        Self([[0; Fate::ALL.len()]; Command::ALL.len()])
    }
}

impl FrameCounts {
    pub fn count(&mut self, command: Command, fate: Fate) {
        self.0[command as usize - 1][fate as usize] += 1;
    }

    /// The counts of a command, in the order of [`Fate::ALL`].
    #[must_use]
    pub fn of(&self, command: Command) -> [u64; Fate::ALL.len()] {
        self.0[command as usize - 1]
    }
}

/// What one run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunReport {
    /// Calls of users that were answered.
    pub operations: u64,
    /// Processes that crashed, edges included.
    pub crashes: u64,
    /// Views after the first in which some replica reached normal status.
    pub view_changes: u64,
    pub frames: FrameCounts,
    /// Processes struck where they were aimed at.
    pub struck: Struck,
    /// The rare branches that some replica reached, also in a life that ended.
    pub marks: Marks,
    pub disks: DiskCounts,
    /// Changes of keys of sealed disks.
    pub rotated: Rotated,
    /// Frames that an outsider said, and what they changed: an error.
    pub intrusions: u64,
    pub harm: Option<String>,
    /// Frames that a receiver had no buffer for.
    pub starved: u64,
    pub virtual_time: Duration,
    /// Everything that happened in the world.
    pub events: u64,
    /// A digest over all events in their order: equal for equal plans and seeds, on every machine.
    pub digest: Digest,
    /// A buffer that did not come home, in one sentence: an error.
    pub leak: Option<String>,
    /// What the healed replicas held when all was quiet; `None` when the run never became quiet, or was stopped.
    pub end: Option<Final>,
    /// The observer had enough.
    pub stopped: bool,
}
