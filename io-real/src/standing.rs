//! Tells whoever started a replica how it stands, a line for each change: who leads, why a lead was given up, clocks
//! that disagree, how far the transfer of a state is.

use std::fmt::Display;
use std::io::Write as _;
use std::time::{Duration, Instant};

use tigerchat_core::node::Node;
use tigerchat_core::vsr::abdication::Abdication;
use tigerchat_core::vsr::replica::Status;
use tigerchat_core::vsr::scrub::Scrubbed;

/// A change is told so soon.
const LOOK: Duration = Duration::from_millis(200);

/// How far a transfer is, is told so often.
const PROGRESS: Duration = Duration::from_secs(5);

/// Where this goes may be as full as the disk: that is no reason to end, as it would be with `eprintln!`.
macro_rules! tell {
    ($($words:tt)*) => {{
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}

/// What was told last.
#[derive(Debug)]
pub struct Standing {
    looked: Instant,
    view: Option<u64>,
    clocks_agree: bool,
    abdications: [u64; Abdication::ALL.len()],
    scrubbed: Scrubbed,
    /// When a transfer's progress was told; none while there is no transfer.
    transfer: Option<Instant>,
}

impl Default for Standing {
    fn default() -> Self {
        Self {
            looked: Instant::now(),
            view: None,
            clocks_agree: false,
            abdications: Default::default(),
            scrubbed: Scrubbed::default(),
            transfer: None,
        }
    }
}

impl Standing {
    /// To be called after each turn.
    pub fn look(&mut self, node: &Node) {
        if self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        for (_, replica) in node.replicas() {
            let now = replica.observe();
            for (why, (known, count)) in
                Abdication::ALL.into_iter().zip(self.abdications.iter_mut().zip(replica.abdications()))
            {
                if *known < *count {
                    tell!("gave up the lead: {why}");
                }
                *known = *count;
            }
            if now.status == Status::Normal && self.view != Some(now.view) {
                self.view = Some(now.view);
                let leader = if now.is_primary {
                    "this replica leads".to_string()
                } else {
                    format!("replica {} leads", now.primary.0)
                };
                tell!("view {}: {leader}", now.view);
            }
            let agree = replica.clocks_agree();
            if agree != self.clocks_agree {
                self.clocks_agree = agree;
                let clocks = if agree { "agree" } else { "do not agree: look at the clocks of all replicas" };
                tell!("the replicas' clocks {clocks}");
            }
            self.look_at_disk(replica.scrubbed());
            if let Some(news) = self.transfer_news(replica.transfer(), now.checkpoint) {
                tell!("{news}");
            }
        }
    }

    /// What there is to say of a transfer.
    fn transfer_news(&mut self, transfer: Option<impl Display>, checkpoint: u64) -> Option<String> {
        match (transfer, self.transfer) {
            (Some(transfer), told) if told.is_none_or(|told| told.elapsed() >= PROGRESS) => {
                self.transfer = Some(Instant::now());
                Some(format!("takes over the state of another replica: {transfer}"))
            }
            (None, Some(_)) => {
                self.transfer = None;
                Some(format!("has the state of op {checkpoint} now, and reads what follows from the logs"))
            }
            _ => None,
        }
    }

    fn look_at_disk(&mut self, now: Scrubbed) {
        let before = std::mem::replace(&mut self.scrubbed, now);
        if now.rotten > before.rotten {
            tell!(
                "the disk lost or damaged {} of the blocks, entries and superblock copies that were read so far: other \
                 replicas repair them; replace the disk if this goes on",
                now.rotten
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_is_told_when_it_begins_now_and_then_and_when_it_ends() {
        let mut standing = Standing::default();
        assert_eq!(standing.transfer_news(None::<&str>, 8), None);
        let begun = standing.transfer_news(Some("op 9 from replica 1"), 0).expect("it began");
        assert!(begun.ends_with("op 9 from replica 1"), "{begun}");
        assert_eq!(standing.transfer_news(Some("op 9 from replica 1: block 1 of 2"), 0), None, "too soon");
        standing.transfer = Instant::now().checked_sub(PROGRESS);
        assert!(standing.transfer_news(Some("op 9"), 0).is_some());
        assert!(standing.transfer_news(None::<&str>, 9).expect("it ended").contains("op 9"));
        assert_eq!(standing.transfer_news(None::<&str>, 9), None);
    }
}
