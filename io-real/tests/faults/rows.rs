//! The faults, one row of the table each: what is done, how often, and within what time service has to be back.

use std::thread::sleep;
use std::time::{Duration, Instant};

use tigerchat_core::store::grid::block::Kind;

use crate::cluster::REPLICAS;
use crate::stage::Stage;
use crate::traffic::wait_until;

/// Within what time a message that was sent after the fault is to be acknowledged.
#[derive(Clone, Copy)]
pub struct Bound {
    pub median: Option<Duration>,
    pub worst: Duration,
}

#[derive(Clone, Copy)]
pub struct Row {
    pub name: &'static str,
    /// In the full form; the short form has each once, the primary's kill three times.
    pub count: usize,
    pub bound: Bound,
    /// Whether links go through proxies.
    pub proxied: bool,
    /// One round: from the fault to a cluster that is whole again.
    pub round: fn(&mut Stage, usize) -> Instant,
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn row(name: &'static str, count: usize, worst: u64, round: fn(&mut Stage, usize) -> Instant) -> Row {
    Row { name, count, bound: Bound { median: None, worst: ms(worst) }, proxied: false, round }
}

const fn proxied(row: Row) -> Row {
    Row { proxied: true, ..row }
}

pub fn all() -> Vec<Row> {
    let kill = row("kill-primary", 50, 150, kill_primary);
    vec![
        Row { bound: Bound { median: Some(ms(50)), ..kill.bound }, ..kill },
        row("kill-primary-under-load", 12, 400, kill_under_load),
        row("stop-primary", 50, 400, stop_primary),
        row("kill-backup", 20, 300, kill_backup),
        proxied(row("cut-primary", 10, 400, |stage, _| cut(stage, true, true))),
        proxied(row("cut-primary-is-not-heard", 10, 400, |stage, _| cut(stage, true, false))),
        proxied(row("cut-primary-hears-nobody", 10, 1_500, |stage, _| cut(stage, false, true))),
        proxied(row("cut-one-link", 10, 300, cut_one_link)),
        proxied(row("cut-primary-from-edges", 10, 700, cut_edges)),
        proxied(row("links-reset", 10, 150, reset_links)),
        proxied(row("links-slow", 5, 400, slow_links)),
        row("disk-full-primary", 5, 1_500, |stage, _| fill_disk(stage, true)),
        row("disk-full-backup", 5, 300, |stage, _| fill_disk(stage, false)),
        row("disk-full-primary-killed", 5, 2_000, fill_disk_and_kill),
        row("flip-live-log", 6, 400, |stage, round| flip(stage, round, Area::Log, true)),
        row("flip-live-superblock", 8, 400, |stage, round| flip(stage, round, Area::Superblock, true)),
        row("flip-live-checkpoint", 6, 400, |stage, round| flip(stage, round, Area::Checkpoint, true)),
        row("flip-live-history", 4, 400, flip_history),
        row("flip-stopped-log", 6, 400, |stage, round| flip(stage, round, Area::Log, false)),
        row("flip-stopped-superblock", 8, 400, |stage, round| flip(stage, round, Area::Superblock, false)),
        row("flip-stopped-checkpoint", 6, 400, |stage, round| flip(stage, round, Area::Checkpoint, false)),
        row("file-deleted", 3, 400, delete_file),
    ]
}

fn kill_primary(stage: &mut Stage, _: usize) -> Instant {
    let primary = stage.primary();
    kill_and_restart(stage, primary, ms(100))
}

/// With a full window before the kill and until it was restarted; 20,000 messages in twelve rounds before the kills,
/// and what is said until the restarts: all together must stay in the history of a developer's cluster (8 MiB, some
/// 49,000 of these), or the oldest would be missed. Then it catches up under little load: a state transfer is slower
/// than checkpoints come while all disks are busy.
fn kill_under_load(stage: &mut Stage, _: usize) -> Instant {
    stage.load(1_700);
    let primary = stage.primary();
    let at = kill_and_restart(stage, primary, ms(20));
    stage.relieve();
    at
}

fn kill_backup(stage: &mut Stage, round: usize) -> Instant {
    let backup = stage.backup(round);
    kill_and_restart(stage, backup, ms(100))
}

fn kill_and_restart(stage: &mut Stage, replica: usize, away: Duration) -> Instant {
    let at = stage.fault(|cluster| cluster.kill(replica));
    stage.hold(at, away);
    stage.cluster.start_replica(replica);
    at
}

/// It comes back believing that it leads.
fn stop_primary(stage: &mut Stage, _: usize) -> Instant {
    let primary = stage.primary();
    let at = stage.fault(|cluster| cluster.freeze(primary));
    stage.hold(at, ms(200));
    stage.cluster.thaw(primary);
    at
}

/// Between the primary and both backups; edges reach all three.
fn cut(stage: &mut Stage, from_it: bool, to_it: bool) -> Instant {
    let primary = stage.primary();
    let others = (0..REPLICAS).filter(move |other| *other != primary);
    let set = move |stage: &Stage, cut: bool| {
        let links = stage.cluster.links.as_ref().expect("a row with proxies");
        for other in others.clone() {
            if from_it {
                links.cut(primary, other, cut);
            }
            if to_it {
                links.cut(other, primary, cut);
            }
        }
    };
    let at = stage.fault_by(|stage| set(stage, true));
    stage.hold(at, ms(300));
    set(stage, false);
    at
}

/// Between the primary and both edges, for 300 ms: the replicas hear each other as ever, so nobody takes over.
fn cut_edges(stage: &mut Stage, _: usize) -> Instant {
    let primary = stage.primary();
    let set = |stage: &Stage, cut| {
        let links = stage.cluster.links.as_ref().expect("a row with proxies");
        links.of_edges(primary).for_each(|link| {
            link.cut_there(cut);
            link.cut_back(cut);
        });
    };
    let at = stage.fault_by(|stage| set(stage, true));
    sleep(ms(300));
    set(stage, false);
    stage.hold(at, ms(100));
    at
}

/// Between the primary and one backup: a quorum is left.
fn cut_one_link(stage: &mut Stage, round: usize) -> Instant {
    let (primary, backup) = (stage.primary(), stage.backup(round));
    let set = |stage: &Stage, cut| {
        let links = stage.cluster.links.as_ref().expect("a row with proxies");
        links.cut(primary, backup, cut);
        links.cut(backup, primary, cut);
    };
    let at = stage.fault_by(|stage| set(stage, true));
    stage.hold(at, ms(500));
    set(stage, false);
    at
}

/// Every connection of the primary ends; its process lives, and so does the way to it.
fn reset_links(stage: &mut Stage, _: usize) -> Instant {
    let primary = stage.primary();
    let at = stage.fault_by(|stage| {
        let links = stage.cluster.links.as_ref().expect("a row with proxies");
        links.all_of(primary).chain(links.of_edges(primary)).for_each(crate::proxy::Proxy::reset);
    });
    stage.hold(at, ms(200));
    at
}

/// Each frame between the primary and the other replicas takes 20 ms longer, each way.
fn slow_links(stage: &mut Stage, _: usize) -> Instant {
    let primary = stage.primary();
    let set = |stage: &Stage, delay| {
        let links = stage.cluster.links.as_ref().expect("a row with proxies");
        links.all_of(primary).for_each(|link| link.delay(delay));
    };
    let at = stage.fault_by(|stage| set(stage, ms(20)));
    stage.hold(at, ms(1_000));
    set(stage, ms(0));
    at
}

/// Writes fail for a while; the replica goes on when there is room.
fn fill_disk(stage: &mut Stage, primary: bool) -> Instant {
    let replica = if primary { stage.primary() } else { stage.backup(0) };
    let at = stage.fault(|cluster| cluster.fill_disk(replica, true));
    stage.hold(at, ms(500));
    make_room(stage, replica);
    at
}

fn make_room(stage: &mut Stage, replica: usize) {
    assert!(!stage.cluster.has_ended(replica), "replica {replica} ended for its full disk");
    stage.cluster.fill_disk(replica, false);
}

/// A backup whose disk is full can't enter the next view: there is none before the primary is back.
fn fill_disk_and_kill(stage: &mut Stage, round: usize) -> Instant {
    let (primary, full) = (stage.primary(), stage.backup(round));
    let at = stage.fault(|cluster| {
        cluster.fill_disk(full, true);
        cluster.kill(primary);
    });
    sleep(ms(300));
    stage.cluster.start_replica(primary);
    stage.hold(at, ms(500));
    make_room(stage, full);
    at
}

#[derive(Clone, Copy)]
enum Area {
    Log,
    Superblock,
    /// One of the blocks without which a checkpoint can't be opened.
    Checkpoint,
}

/// What opening a checkpoint reads, each in its turn.
const OPENED: [Kind; 5] = [Kind::Root, Kind::Manifest, Kind::FreeSet, Kind::Index, Kind::Pages];

/// Bytes of a file that is in use, or of one whose replica was killed: then it has to start from what is left.
/// The primary's and a backup's in turn.
fn flip(stage: &mut Stage, round: usize, area: Area, live: bool) -> Instant {
    let replica = if round.is_multiple_of(2) { stage.backup(round / 2) } else { stage.primary() };
    if live {
        damage(stage, replica, round, area);
    }
    let at = stage.fault(|cluster| cluster.kill(replica));
    if !live {
        damage(stage, replica, round, area);
    }
    stage.hold(at, ms(100));
    stage.cluster.start_replica(replica);
    at
}

fn damage(stage: &Stage, replica: usize, round: usize, area: Area) {
    let layout = stage.cluster.layout(replica);
    // Somewhere in the middle of a sector's payload.
    let within = 100 + 16 * (round as u64 % 16);
    match area {
        Area::Log => {
            // Entries that the others have, and that lie behind no checkpoint yet.
            for op in stage.committed().saturating_sub(4)..stage.committed() {
                let slot = u32::try_from(op % u64::from(layout.wal_slots)).unwrap();
                stage.cluster.flip(replica, layout.slot_offset(slot) + within);
            }
        }
        Area::Superblock => stage.cluster.flip(replica, (round as u64 % 4) * 8192 + within),
        Area::Checkpoint => {
            let block = stage.cluster.block_of(replica, OPENED[round % OPENED.len()]);
            stage.cluster.flip(replica, layout.grid().offset_of(block) + within);
        }
    }
}

/// Messages that nobody asks for rot on a running replica: it finds them by itself, and has them from another.
fn flip_history(stage: &mut Stage, round: usize) -> Instant {
    let replica = if round.is_multiple_of(2) { stage.backup(round / 2) } else { stage.primary() };
    let grid = stage.cluster.layout(replica).grid();
    let at = stage.fault(|cluster| {
        // A merge may have written the block anew meanwhile: then another one.
        wait_until("a block of messages is damaged", || {
            let block = cluster.block_of(replica, Kind::Records);
            cluster.flip(replica, grid.offset_of(block) + 100);
            cluster.is_damaged(replica, Some(block)) == Some(true)
        });
    });
    wait_until("scrubbing has found it", || stage.cluster.is_damaged(replica, None) == Some(false));
    stage.hold(at, ms(100));
    at
}

/// The file of the primary or of a backup, in turn. Its process dies with it.
fn delete_file(stage: &mut Stage, round: usize) -> Instant {
    let lost = if round.is_multiple_of(2) { stage.primary() } else { stage.backup(0) };
    let at = stage.fault(|cluster| {
        std::fs::remove_file(cluster.file(lost)).unwrap();
        cluster.kill(lost);
    });
    stage.hold(at, ms(100));
    stage.cluster.replace(lost);
    at
}
