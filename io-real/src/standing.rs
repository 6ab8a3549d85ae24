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
            self.look_at_transfer(replica.transfer(), now.checkpoint);
        }
    }

    fn look_at_transfer(&mut self, transfer: Option<impl Display>, checkpoint: u64) {
        match (transfer, self.transfer) {
            (Some(transfer), told) if told.is_none_or(|told| told.elapsed() >= PROGRESS) => {
                self.transfer = Some(Instant::now());
                tell!("takes over the state of another replica: {transfer}");
            }
            (None, Some(_)) => {
                self.transfer = None;
                tell!("the state is that of op {checkpoint} now; what follows is read from the logs");
            }
            _ => {}
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
