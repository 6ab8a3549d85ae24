//! The summary: a row for each fault, a verdict for each row.

use std::time::Duration;

use serde_json::json;

use crate::rows::Row;
use crate::stage::Outcome;

pub struct Table {
    /// Whether a row that misses its bound fails.
    judges_time: bool,
    rows: Vec<(Row, Outcome)>,
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn worst(times: &[Duration]) -> Duration {
    times.iter().max().copied().unwrap_or_default()
}

impl Table {
    pub fn new(judges_time: bool) -> Self {
        Self { judges_time, rows: Vec::new() }
    }

    pub fn add(&mut self, row: Row, outcome: Outcome) {
        if let Some(why) = &outcome.failed {
            eprintln!("{}: {why}", row.name);
        }
        self.rows.push((row, outcome));
    }

    fn is_safe(outcome: &Outcome) -> bool {
        outcome.failed.is_none() && outcome.lost == 0 && outcome.doubled == 0
    }

    fn is_quick(row: &Row, outcome: &Outcome) -> bool {
        let times = &outcome.without_service;
        worst(times) < row.bound.worst && row.bound.median.is_none_or(|bound| median(times) < bound)
    }

    fn verdict(row: &Row, outcome: &Outcome) -> &'static str {
        match (Self::is_safe(outcome), Self::is_quick(row, outcome)) {
            (false, _) => "FAILED",
            (true, false) => "late",
            (true, true) => "good",
        }
    }

    pub fn is_good(&self) -> bool {
        let good =
            |row, outcome| Self::is_safe(outcome) && (!self.judges_time || Self::is_quick(row, outcome));
        self.rows.iter().all(|(row, outcome)| good(row, outcome))
    }

    pub fn print(&self, as_json: bool) {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let build = if cfg!(debug_assertions) { "debug" } else { "release" };
        if as_json {
            let rows: Vec<_> = self.rows.iter().map(|(row, outcome)| Self::json(row, outcome)).collect();
            println!("{}", json!({"cores": cores, "build": build, "rows": rows}));
            return;
        }
        println!(
            "{:<26} {:>5} {:>9} {:>12} {:>5} {:>7} {:>9} {:>9} {:>9} {:>11}  verdict",
            "fault",
            "count",
            "in flight",
            "acknowledged",
            "lost",
            "doubled",
            "median ms",
            "worst ms",
            "pause ms",
            "bound ms"
        );
        for (row, outcome) in &self.rows {
            let times = &outcome.without_service;
            let bound = match row.bound.median {
                Some(median) => format!("{} / {}", median.as_millis(), row.bound.worst.as_millis()),
                None => row.bound.worst.as_millis().to_string(),
            };
            println!(
                "{:<26} {:>5} {:>9} {:>12} {:>5} {:>7} {:>9} {:>9} {:>9} {:>11}  {}",
                row.name,
                outcome.rounds,
                outcome.in_flight.iter().min().unwrap_or(&0),
                outcome.acknowledged,
                outcome.lost,
                outcome.doubled,
                ms(median(times)),
                ms(worst(times)),
                ms(outcome.longest_pause),
                bound,
                Self::verdict(row, outcome)
            );
        }
        println!(
            "\n{build} build, {cores} cores. in flight: messages not yet acknowledged at a fault, the least. median, worst: from the fault to the first acknowledgement of a message sent \
             after it (bound: worst, or median / worst). pause: the longest time without any acknowledgement, healing \
             included."
        );
    }

    fn json(row: &Row, outcome: &Outcome) -> serde_json::Value {
        let times = &outcome.without_service;
        json!({
            "fault": row.name,
            "count": outcome.rounds,
            "in_flight": outcome.in_flight,
            "acknowledged": outcome.acknowledged,
            "lost": outcome.lost,
            "doubled": outcome.doubled,
            "median_ms": ms(median(times)),
            "worst_ms": ms(worst(times)),
            "times_ms": times.iter().copied().map(ms).collect::<Vec<_>>(),
            "longest_pause_ms": ms(outcome.longest_pause),
            "bound_median_ms": row.bound.median.map(ms),
            "bound_worst_ms": ms(row.bound.worst),
            "verdict": Self::verdict(row, outcome),
            "why": outcome.failed,
        })
    }
}
