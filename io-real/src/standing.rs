//! Tells whoever started a replica how it stands, a line for each change: who leads, why a lead was given up, clocks
//! that disagree.

use std::io::Write as _;
use std::time::{Duration, Instant};

use tigerchat_core::node::Node;
use tigerchat_core::vsr::abdication::Abdication;
use tigerchat_core::vsr::replica::Status;
use tigerchat_core::vsr::scrub::Scrubbed;

/// A change is told so soon.
const LOOK: Duration = Duration::from_millis(200);

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
}

impl Default for Standing {
    fn default() -> Self {
        Self {
            looked: Instant::now(),
            view: None,
            clocks_agree: false,
            abdications: Default::default(),
            scrubbed: Scrubbed::default(),
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
