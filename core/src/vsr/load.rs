//! How full the queues and tables of a replica are, for whoever watches: each has a limit with a name, and overload is
//! an error, never growth (I21).

use super::PIPELINE_MAX;
use super::blocks::{FETCHES_MAX, SERVED_MAX};
use super::feed::{FOLLOWERS, RING};
use super::machine::Machine;
use super::reads::{QUERIES_MAX, READS_MAX};
use super::repair::BUDGET;
use super::replica::Replica;

/// How full one of them is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub what: &'static str,
    pub holds: usize,
    pub limit: usize,
}

/// How many there are.
pub const LOADS: usize = 14;

impl<M: Machine> Replica<M> {
    /// Requests that may wait and be in flight, together: the windows of all sessions.
    pub(super) fn requests_max(&self) -> usize {
        usize::from(self.config.sessions) * usize::from(self.config.window)
    }

    /// All queues and tables that grow with what comes in, always in the same order.
    #[must_use]
    pub fn loads(&self) -> [Load; LOADS] {
        let sessions = usize::from(self.config.sessions);
        let requests = self.requests_max();
        let (followers, pieces) = self.feed.holds();
        let (asked, slots) = self.repair.holds();
        let (fetched, served) = self.blocks.holds();
        let load = |what, holds, limit| Load { what, holds, limit };
        [
            load("requests that wait", self.queue.len(), requests),
            load("requests in flight", self.in_flight.len(), requests),
            load("entries in flight", self.births.len(), PIPELINE_MAX),
            load("sessions", self.sessions.iter().count(), sessions),
            load("leases", self.heard.len(), sessions),
            load("early prepares", self.early.len(), usize::from(self.config.pipeline)),
            load("entries asked for", asked, BUDGET + 1),
            load("slots being read", slots, PIPELINE_MAX),
            load("blocks being fetched", fetched, FETCHES_MAX),
            load("blocks being read for peers", served, SERVED_MAX),
            load("queries that wait for blocks", self.queries.len(), QUERIES_MAX),
            load("reads that wait", self.reads.holds(), READS_MAX),
            load("followers", followers, FOLLOWERS),
            load("frames that the feed remembers", pieces, RING),
        ]
    }
}
