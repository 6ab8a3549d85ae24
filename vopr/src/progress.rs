//! How far the swarm is, for a person who waits: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::swarm::{Harvest, SeedResult};

/// Between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Told of every seed; writes to standard error.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    /// Known unless the swarm runs by the clock.
    total: Option<u64>,
    began: Instant,
    last_line: Instant,
    done: u64,
    crashes: u64,
    view_changes: u64,
    virtual_time: Duration,
}

impl Progress {
    #[must_use]
    pub fn new(total: Option<u64>) -> Self {
        let now = Instant::now();
        let bar = std::io::stderr().is_terminal().then(|| bar(total));
        let (began, last_line) = (now, now);
        let virtual_time = Duration::ZERO;
        Self { bar, total, began, last_line, done: 0, crashes: 0, view_changes: 0, virtual_time }
    }

    pub fn update(&mut self, harvest: &Harvest, result: Option<&SeedResult>) {
        if let Some(result) = result {
            self.done += 1;
            self.crashes += result.stats.crashes;
            self.view_changes += result.stats.view_changes;
            self.virtual_time += result.stats.virtual_time;
        }
        match &self.bar {
            Some(bar) => {
                bar.set_position(self.done);
                bar.set_message(self.told(harvest.failed));
            }
            None if self.last_line.elapsed() >= LINE_EVERY => {
                self.last_line = Instant::now();
                let of = self.total.map_or(String::new(), |total| format!(" of {total}"));
                eprintln!("{}{of} seeds, {:.1}/s, {}", self.done, self.rate(), self.told(harvest.failed));
            }
            None => {}
        }
    }

    /// Removes the bar; the report follows.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Since the swarm began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    fn told(&self, failed: u64) -> String {
        let minutes = self.virtual_time.as_secs() / 60;
        let failed = if failed == 0 { String::new() } else { format!(", {failed} FAILED") };
        let (crashes, views) = (self.crashes, self.view_changes);
        format!("{minutes} virtual minutes, {crashes} crashes, {views} view changes{failed}")
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for a person; no seed depends on it")]
    fn rate(&self) -> f64 {
        self.done as f64 / self.began.elapsed().as_secs_f64().max(0.001)
    }
}

fn bar(total: Option<u64>) -> ProgressBar {
    let (template, bar) = match total {
        Some(total) => ("{bar:30} {pos}/{len} seeds, {per_sec}, {msg}, {eta} left", ProgressBar::new(total)),
        None => ("{spinner} {pos} seeds, {per_sec}, {msg}, {elapsed}", ProgressBar::new_spinner()),
    };
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
    bar.set_style(ProgressStyle::with_template(template).expect("the template is correct"));
    bar
}
