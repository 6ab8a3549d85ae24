//! How full the queues and tables of an edge are (I21).

use super::Edge;
use super::reads::READS_MAX;
use crate::vsr::load::Load;

/// How many there are.
pub const LOADS: usize = 7;

impl Edge {
    /// Whether the shard was told all that it is to know.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.session.holds() == (0, 0)
    }

    /// All queues and tables that grow with what comes in, always in the same order. Of what each connection has, the
    /// fullest counts.
    #[must_use]
    pub fn loads(&self) -> [Load; LOADS] {
        let limits = &self.config.limits;
        let (mut in_flight, mut subscriptions, mut queued) = (0, 0, 0);
        for client in self.connections.values() {
            in_flight = in_flight.max(client.in_flight as usize);
            subscriptions = subscriptions.max(client.subscriptions.len());
            queued = queued.max(client.queued);
        }
        let (waiting, sent) = self.session.holds();
        let (waiting_max, sent_max) = self.session.limits();
        let load = |what, holds, limit| Load { what, holds, limit };
        [
            load("connections", self.connections.len(), limits.connections as usize),
            load("commands in flight of a connection", in_flight, limits.inflight as usize),
            load("subscriptions of a connection", subscriptions, limits.subscriptions as usize),
            load("bytes that wait for a connection", queued, limits.unread()),
            load("requests that wait for the window", waiting, waiting_max),
            load("requests in flight to the shard", sent, sent_max),
            load("questions to the shard", self.reads.holds(), READS_MAX),
        ]
    }
}
