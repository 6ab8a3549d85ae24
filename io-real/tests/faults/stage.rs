//! A row on its way: a cluster with its clients, rounds of a fault, and the judgement at the end.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, REPLICAS, Standing};
use crate::rows::Row;
use crate::traffic::{PATIENCE, ROOM, Told, Traffic, wait_until, words_of};

/// Messages before the first fault: so that there are checkpoints, and a log that has gone round.
const WARM_UP: usize = 400;
/// How long a cluster is watched after it is whole again.
const AFTERWARDS: Duration = Duration::from_millis(50);

pub struct Stage {
    pub cluster: Cluster,
    traffic: Traffic,
    standing: Standing,
    /// Messages in flight at each fault.
    in_flight: Vec<u64>,
}

/// What came of a row.
#[derive(Default)]
pub struct Outcome {
    pub rounds: usize,
    pub acknowledged: usize,
    pub lost: usize,
    pub doubled: usize,
    /// From each fault to the first acknowledgement of a message that was sent after it.
    pub without_service: Vec<Duration>,
    /// The longest time without an acknowledgement in all rounds, healing included.
    pub longest_pause: Duration,
    /// Messages in flight at each fault.
    pub in_flight: Vec<u64>,
    pub failed: Option<String>,
}

impl Stage {
    fn start(row: &Row) -> Self {
        let cluster = Cluster::start(row.name, row.proxied);
        let traffic = Traffic::start(&cluster);
        Self { cluster, traffic, standing: Standing::default(), in_flight: Vec::new() }
    }

    fn warm_up(&mut self) {
        for _ in 0..WARM_UP / 50 {
            self.traffic.fill_window();
        }
        wait_until("messages are acknowledged", || self.traffic.count() >= WARM_UP);
        self.settle();
    }

    pub fn primary(&self) -> usize {
        self.standing.members.iter().find(|(_, role, _)| role == "primary").expect("settled").0
    }

    /// One of those who do not lead.
    pub fn backup(&self, which: usize) -> usize {
        let primary = self.primary();
        let backups: Vec<usize> = self.cluster.alive().into_iter().filter(|one| *one != primary).collect();
        backups[which % backups.len()]
    }

    /// As of the last time that the cluster was whole.
    pub fn committed(&self) -> u64 {
        self.standing.committed
    }

    pub fn fault(&mut self, does: impl FnOnce(&mut Cluster)) -> Instant {
        self.fault_by(|stage| does(&mut stage.cluster))
    }

    /// Does it with a window of messages in flight. Returns when.
    pub fn fault_by(&mut self, does: impl FnOnce(&mut Self)) -> Instant {
        self.traffic.fill_window();
        self.in_flight.push(self.traffic.in_flight());
        let at = Instant::now();
        does(self);
        at
    }

    /// Publishes so many with a full window, which stays full until it is `relieved`.
    pub fn load(&self, messages: usize) {
        self.traffic.keep_full(true);
        let goal = self.traffic.count() + messages;
        wait_until("messages are acknowledged", || self.traffic.count() >= goal);
    }

    pub fn relieve(&self) {
        self.traffic.keep_full(false);
    }

    /// Waits until there is service again, and leaves everything as it is for a while.
    pub fn hold(&self, fault: Instant, time: Duration) {
        wait_until("service is back", || self.traffic.first_after(fault).is_some());
        sleep(time);
    }

    /// Waits until somebody leads, all vote, and each has what is committed now.
    fn settle(&mut self) {
        let began = Instant::now();
        let mut goal = None;
        loop {
            self.standing = self.cluster.standing();
            let members = &self.standing.members;
            let leads = members.iter().any(|(_, role, _)| role == "primary");
            let vote = members.iter().filter(|(_, role, _)| ["primary", "voter"].contains(&role.as_str()));
            if leads && vote.count() == REPLICAS {
                let goal = *goal.get_or_insert(self.standing.committed);
                if members.iter().all(|(_, _, acknowledged)| *acknowledged >= goal) {
                    return;
                }
            }
            assert!(began.elapsed() < PATIENCE, "not whole within {PATIENCE:?}: {:?}", self.standing);
            sleep(Duration::from_millis(20));
        }
    }
}

/// All rounds of a row, and what is left at the end.
pub fn play(row: &Row, rounds: usize) -> Outcome {
    let mut outcome = Outcome::default();
    let mut stage = Stage::start(row);
    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        stage.warm_up();
        for round in 0..rounds {
            let fault = (row.round)(&mut stage, round);
            stage.settle();
            sleep(AFTERWARDS);
            let until = Instant::now();
            outcome.without_service.push(stage.traffic.first_after(fault).expect("waited for"));
            outcome.longest_pause = outcome.longest_pause.max(stage.traffic.longest_pause(fault, until));
            outcome.rounds += 1;
        }
    }));
    outcome.in_flight.clone_from(&stage.in_flight);
    if let Err(panic) = played {
        outcome.failed = Some(format!("{}\n{}", words_of(&*panic), stage.cluster.said()));
        return outcome;
    }
    let Stage { mut cluster, traffic, .. } = stage;
    match traffic.finish() {
        Ok(told) => judge(&mut cluster, &told, &mut outcome),
        Err(why) => outcome.failed = Some(why),
    }
    if let Some(why) = &mut outcome.failed {
        *why = format!("{why}\n{}", cluster.said());
    }
    outcome
}

/// Every acknowledged message once, in its place, in the log of every replica and in what the subscriber saw.
fn judge(cluster: &mut Cluster, told: &Told, outcome: &mut Outcome) {
    outcome.acknowledged = told.acknowledged.len();
    cluster.stop_edges();
    let mut lost = BTreeSet::new();
    let mut doubled: BTreeSet<u64> = BTreeSet::new();
    let mut look = |log: &[u64]| {
        let mut once = BTreeSet::new();
        doubled.extend(log.iter().filter(|number| !once.insert(**number)));
        let place = |seq: u64| log.get(usize::try_from(seq - 1).unwrap());
        let gone = told.acknowledged.iter().filter(|one| place(one.seq) != Some(&one.number));
        lost.extend(gone.map(|one| one.number));
    };
    let in_order = told.seen.iter().zip(1..).all(|((seq, _), expected)| *seq == expected);
    let seen: Vec<u64> = told.seen.iter().map(|(_, number)| *number).collect();
    look(&seen);
    if !in_order {
        outcome.failed = Some("the subscriber missed an event, or saw one twice or out of order".into());
    }
    for replica in cluster.alive() {
        match final_log(cluster, replica, seen.len()) {
            Ok(log) => {
                look(&log);
                if log != seen {
                    outcome.failed =
                        Some(format!("the log of replica {replica} is not what the subscriber saw"));
                }
            }
            Err(why) => outcome.failed = Some(format!("replica {replica}: {why}")),
        }
    }
    (outcome.lost, outcome.doubled) = (lost.len(), doubled.len());
}

/// One that was started last may still be catching up: its file is looked at until it has everything.
fn final_log(cluster: &mut Cluster, replica: usize, len: usize) -> Result<Vec<u64>, String> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE && cluster.log_of(replica, ROOM).is_ok_and(|log| log.len() < len) {
        sleep(Duration::from_millis(50));
    }
    cluster.kill(replica);
    cluster.log_of(replica, ROOM)
}
