//! A primary that is cut off goes on making entries that nobody hears of; its successor commits a few others and
//! falls; the deposed one comes back, with more entries than anybody and none of those that count.
//!
//! This is what tells the canonical log from the longest (H01), and what a new view took over from what it did not.

use std::time::Duration;

use tigerchat_core::types::Instant;

use crate::network::Place;
use crate::process::TrapAt;
use crate::trouble::Trouble;
use crate::world::{Event, World};

/// A primary that its peers don't reach, until its successor has answered so many requests.
#[derive(Clone, Debug)]
pub(crate) struct Deposed {
    links: Vec<(Place, Place)>,
    since: Instant,
    place: Place,
    view: u64,
    replies: u64,
}

/// No successor after so long: it comes back anyway.
const PATIENCE: Duration = Duration::from_millis(700);

impl World<'_> {
    /// Cuts the primary off from its peers. Edges still reach it.
    pub(crate) fn depose(&mut self) {
        let Some(every) = self.drawn.depositions else { return };
        self.trouble_after(every, Trouble::Depose);
        let Some(place) = self.primary().filter(|_| self.deposed.is_none() && self.replicas() > 2) else {
            return;
        };
        let others = (0..self.replicas()).filter(|other| *other != place);
        let links: Vec<_> = others.flat_map(|other| [(place, other), (other, place)]).collect();
        self.set_cut(&links, true);
        let view = self.view_of(place).map_or(0, |view| view.view);
        let replies = self.random.within(1..=3);
        self.deposed = Some(Deposed { links, since: self.now, place, view, replies });
        self.schedule(self.now.after(PATIENCE), Event::Trouble(Trouble::Redeem(self.now)));
    }

    /// A replica answers a request. The successor of a deposed primary falls as it has answered a few.
    pub(crate) fn answered(&mut self, place: Place) {
        let Some(view) = self.view_of(place).map(|view| view.view) else { return };
        let Some(deposed) = self.deposed.as_mut().filter(|deposed| deposed.view < view) else { return };
        if deposed.place == place {
            return;
        }
        deposed.replies = deposed.replies.saturating_sub(1);
        if deposed.replies == 0 {
            self.mend_deposed();
            if self.healed {
                return;
            }
            if self.random.chance(500_000) {
                self.set_trap(place, TrapAt::Effects(0), false);
            } else {
                self.isolate(place);
            }
        }
    }

    /// Nobody succeeded the one who was cut off then.
    pub(crate) fn redeem(&mut self, since: Instant) {
        if self.deposed.as_ref().is_some_and(|deposed| deposed.since == since) {
            self.mend_deposed();
        }
    }

    fn mend_deposed(&mut self) {
        if let Some(deposed) = self.deposed.take() {
            self.set_cut(&deposed.links, false);
        }
    }
}
