//! Identities and time, the words that every other module speaks.
//!
//! Names follow the glossary of `docs/ARCHITECTURE.md`: *config number*, *incarnation*, *lineage*,
//! *room incarnation* (a cursor's `epoch`), *owner term*. Nothing else is called an epoch.

use core::fmt;
use core::time::Duration;

/// Monotonic time in nanoseconds since an arbitrary start of this process (or of the simulated world).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(pub u64);

impl Instant {
    /// The moment `after` later.
    #[must_use]
    pub fn after(self, after: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` to `self`; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Wall-clock time in nanoseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixNanos(pub u64);

/// Both clocks, read once per turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    pub mono: Instant,
    pub wall: UnixNanos,
}

/// A cluster. Drawn at `format`; every frame and every sector carries it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClusterId(pub u128);

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A shard: one replication group. Shard numbers are never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u32);

/// A replica within its shard. A replaced disk is a new id; ids are never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u16);

/// An edge: one process start of one gateway, drawn at random, so that no two ever share one (H46).
/// It is also the client id of the edge's replication session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EdgeId(pub u64);

/// A client's connection to an edge. Unique within the edge's process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Owner of rooms, users, keys and quotas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(pub u32);

/// Who speaks, who is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    Replica { shard: ShardId, replica: ReplicaId },
    Edge(EdgeId),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replica { shard, replica } => write!(f, "s{}r{}", shard.0, replica.0),
            Self::Edge(EdgeId(id)) => write!(f, "e{id:x}"),
        }
    }
}

/// The newest semantic version of the state machine that this build runs: see `vsr::release`.
pub const RELEASE: u32 = 1;

/// The release with which every log begins, and the oldest that this build runs.
pub const FIRST_RELEASE: u32 = 1;
