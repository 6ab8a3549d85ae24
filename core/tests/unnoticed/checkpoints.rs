//! Checkpoints as one replica makes, scrubs and takes them over: what goes to its disk, when, and what it says in them.

use std::time::Duration;

use crate::cluster::{CLUSTER, Cluster, EDGE, SCRUB_CYCLE, SHARD, replica, say};
use tigerchat_core::io::DiskOp;
use tigerchat_core::store::grid::block::{BlockRef, Kind};
use tigerchat_core::store::layout::SUPERBLOCK_ZONE;
use tigerchat_core::store::superblock::Superblock;
use tigerchat_core::types::{Address, TenantId};
use tigerchat_core::vsr::machine::Machine as _;
use tigerchat_core::vsr::marks::Mark;
use tigerchat_core::vsr::membership::{Change, Members};
use tigerchat_core::wire::chat::{AnswerHead, Query};
use tigerchat_core::wire::codec::Reader;
use tigerchat_core::wire::entry::{ENTRY_HEADER, RequestKind};
use tigerchat_core::wire::frame::{Command, Frame, FrameHeader};

const MOMENT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_millis(600);
/// Blocks of a checkpoint that a turn makes when nothing else is to be done: two steps of one or two.
const IN_A_QUIET_TURN: usize = 4;
/// Nothing else is to be done: longer than a replica waits for the next op.
const QUIET: Duration = Duration::from_millis(30);
/// Long messages that an entry has room for.
const BATCH: u64 = 6;
/// Questions for a block that nobody has, after which another checkpoint is asked for.
const IN_VAIN: usize = 8;
/// In a `request_blocks`: a checkpoint is asked for.
const OFFER: u16 = 2;

fn ready(replicas: u8, messages: u64) -> Cluster {
    let mut cluster = Cluster::with_slots(replicas, 16);
    cluster.pass(Duration::from_millis(50));
    cluster.register();
    cluster.open_room();
    publish(&mut cluster, 1..=messages);
    cluster.pass(LONG);
    cluster
}

fn publish(cluster: &mut Cluster, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        cluster.publish(number).expect("acknowledged");
    }
}

/// Puts a message on the wire.
fn post(cluster: &mut Cluster, number: u64) {
    let (mut bytes, body) = (Vec::new(), number.to_string());
    say(cluster.key(number), &body).encode(&mut bytes).unwrap();
    cluster.number += 1;
    cluster.post_request(RequestKind::Commands, &bytes);
}

fn superblock(cluster: &Cluster, at: usize) -> Superblock {
    Superblock::open(&cluster.outside[at].disk).expect("whole")
}

fn references(cluster: &Cluster, at: usize) -> Vec<BlockRef> {
    cluster.replica(at).machine().forest().references().copied().collect()
}

/// Damages a block in a file, or undoes that.
fn flip(cluster: &mut Cluster, at: usize, block: &BlockRef) {
    let offset = usize::try_from(cluster.config.layout.grid().offset_of(block.address)).unwrap();
    cluster.outside[at].disk[offset + 40] ^= 4;
}

fn is_block_write(cluster: &Cluster, op: &DiskOp) -> bool {
    let grid = cluster.config.layout.grid();
    matches!(op, DiskOp::Write { offset, .. } if *offset >= grid.offset_of(1))
}

fn blocks_on_their_way(cluster: &Cluster, at: usize) -> usize {
    cluster.outside[at].submitted.iter().filter(|op| is_block_write(cluster, op)).count()
}

/// The superblock that names a checkpoint also says how far the log is known to be committed: a replica that comes back
/// alone executes so far without asking anybody.
#[test]
fn who_names_a_checkpoint_says_what_is_committed_above_it() {
    let mut cluster = ready(3, 60);
    for at in 0..3 {
        let superblock = superblock(&cluster, at);
        assert!(superblock.checkpoint.op() > 0);
        // It froze that state before it executed another op.
        assert!(superblock.commit > superblock.checkpoint.op(), "{} {}", superblock.commit, at);
    }
    let known = superblock(&cluster, 1).commit;
    (0..3).for_each(|at| cluster.crash(at));
    cluster.start(1);
    cluster.pass(MOMENT);
    assert!(cluster.view(1).commit >= known, "{:?}", cluster.view(1));
}

/// A checkpoint is made in small pieces, also one of many blocks: between any two of them commits go on. While ops come
/// a turn makes no more than an op's share, if all is to be made in three quarters of the interval; while none come, a few.
#[test]
fn no_turn_makes_more_of_a_checkpoint_than_a_commit_can_wait_for() {
    let mut cluster = ready(1, 20);
    let ops = usize::try_from(cluster.config.layout.interval() * 3 / 4).unwrap();
    let body = "long ".repeat(190);
    let (mut paced, mut quiet) = (0, 0);
    let (mut checkpoint, mut expected) = (0, 0);
    for number in 0..80 {
        let mut bytes = Vec::new();
        for one in 0..BATCH {
            say(cluster.key(1_000 + number * BATCH + one), &body).encode(&mut bytes).unwrap();
        }
        cluster.number += 1;
        cluster.post_request(RequestKind::Commands, &bytes);
        let (from, to, frame) = cluster.wire.pop_back().expect("just put there");
        let mut before = blocks_on_their_way(&cluster, 0);
        cluster.deliver(from, to, frame);
        let mut is_quiet = false;
        loop {
            let forest = cluster.replica(0).machine().forest();
            let begun = cluster.view(0).commit / cluster.config.layout.interval();
            expected = if begun == checkpoint { expected } else { 0 }.max(forest.work_expected());
            checkpoint = begun;
            let now = blocks_on_their_way(&cluster, 0);
            let made = now.saturating_sub(before);
            // What an op brings, begun; and the step that gets there may make one more.
            let share = usize::try_from(expected).unwrap() / ops + 2;
            let most = if is_quiet { IN_A_QUIET_TURN } else { share };
            assert!(made <= most, "{made} blocks in one turn, quiet {is_quiet}, {expected} expected");
            *if is_quiet { &mut quiet } else { &mut paced } += made;
            let Some(next) = cluster.outside[0].submitted.first() else { break };
            if number % 2 == 1 && !is_quiet && is_block_write(&cluster, next) {
                // The op is executed, and no other one comes.
                before = now;
                cluster.only_time(QUIET);
                is_quiet = true;
                continue;
            }
            before = now - usize::from(is_block_write(&cluster, next));
            cluster.complete_one(0);
        }
    }
    let made = cluster.view(0).checkpoint / cluster.config.layout.interval();
    assert!(made >= 9, "{made} checkpoints");
    assert!(paced > 30 && quiet > 30, "{paced} blocks in the measure of ops, {quiet} while none came");
}

/// What a checkpoint has beside the machine: the members as the log below it says, which is no more.
#[test]
fn a_checkpoint_says_who_the_members_are() {
    let mut cluster = ready(3, 1);
    let id = cluster.join();
    assert_eq!(cluster.change(&Change::Standby { id, address: Vec::new() }), None);
    publish(&mut cluster, 2..=60);
    cluster.pass(LONG);
    for at in 0..3 {
        let forest = cluster.replica(at).machine().forest();
        let mut tail = Reader::new(&forest.tail()[ENTRY_HEADER..]);
        let sessions = usize::try_from(tail.u64().unwrap()).unwrap();
        tail.take(sessions).unwrap();
        let members = Members::decode(&mut Reader::new(tail.long().unwrap())).expect("members");
        assert_eq!(&members, cluster.replica(at).members());
        assert_eq!(members.list().len(), 4);
    }
}

/// A cycle reads each block of the checkpoint once, and counts it once.
#[test]
fn h30_scrubbing_reads_each_block_once_in_a_cycle_and_all_of_them_in_the_time_of_one() {
    let mut cluster = ready(3, 120);
    cluster.crash(1);
    cluster.start(1);
    let all = references(&cluster, 0).len() as u64;
    let mut cycles = 0;
    for _ in 0..2 * SCRUB_CYCLE.as_millis() {
        cluster.pass(Duration::from_millis(1));
        let done = cluster.replica(1).scrubbed();
        if done.cycles > cycles {
            cycles = done.cycles;
            assert_eq!(done.blocks, cycles * all);
        }
    }
    let done = cluster.replica(1).scrubbed();
    assert!((2..20).contains(&done.cycles) && (2..20).contains(&done.logs), "{done:?} of {all}");
    assert_eq!(done.rotten, 0);
}

/// Asks a replica for the oldest messages, and gives it time; whether it answers.
fn answers(cluster: &mut Cluster, at: usize) -> bool {
    let mut query = Vec::new();
    Query::History { tenant: TenantId(1), room: "general", from: 1, limit: 9 }.encode(&mut query).unwrap();
    let mut frame = Frame { header: FrameHeader::new(Command::Query, CLUSTER, SHARD), payload: None };
    let mut draft = cluster.outside[at].pool.draft(query.len()).expect("pool");
    draft.extend(&query).unwrap();
    frame.payload = Some(draft.seal());
    let edge = Address::Edge(EDGE);
    frame.seal(edge, replica(at), 1, cluster.now.mono.0);
    cluster.to_edge.clear();
    cluster.wire.push_back((edge, replica(at), frame));
    cluster.pass(LONG);
    let Some(answer) = cluster.to_edge.iter().find(|frame| frame.header.command() == Command::Answer) else {
        return false;
    };
    AnswerHead::decode(&mut Reader::new(answer.body())).unwrap().count == 9
}

fn is_message(cluster: &Cluster, block: &BlockRef) -> bool {
    let offset = usize::try_from(cluster.config.layout.grid().offset_of(block.address)).unwrap();
    cluster.outside[0].disk[offset + 4] == Kind::Records as u8
}

/// Nobody had a block whole, and so nobody got it. A disk that reads again what it could not read ends that.
#[test]
fn a_block_that_nobody_had_is_asked_for_again_by_who_wants_it_later() {
    let mut cluster = ready(3, 120);
    let messages: Vec<BlockRef> =
        references(&cluster, 0).into_iter().filter(|block| is_message(&cluster, block)).collect();
    for at in 0..3 {
        cluster.crash(at);
        messages.iter().for_each(|block| flip(&mut cluster, at, block));
    }
    (0..3).for_each(|at| cluster.start(at));
    cluster.pass(LONG);
    assert!(!answers(&mut cluster, 0), "nobody has them");
    cluster.pass(LONG * 2);
    messages.iter().for_each(|block| flip(&mut cluster, 1, block));
    assert!(answers(&mut cluster, 0), "one has them");
}

/// The only block that a transfer lacks is damaged at all peers too: after so many questions, no fewer and no more, it
/// asks which checkpoint there is, and takes one as soon as somebody has all of it.
#[test]
fn a_checkpoint_of_which_nobody_has_a_block_is_given_up() {
    let mut cluster = ready(3, 120);
    cluster.crash(2);
    let root = superblock(&cluster, 2).checkpoint.root;
    for at in 0..3 {
        assert_eq!(superblock(&cluster, at).checkpoint.root, root);
        flip(&mut cluster, at, &root);
    }
    cluster.start(2);
    let mut questions = Vec::new();
    for _ in 0..20_000 {
        cluster.only_time(Duration::from_millis(1));
        for (from, to, frame) in cluster.collect() {
            if from == replica(2) && frame.header.command() == Command::RequestBlocks {
                questions.push(frame.header.flags.get() & OFFER != 0);
            }
            cluster.deliver(from, to, frame);
        }
        while (0..3).any(|at| cluster.complete_one(at)) {}
        if questions.iter().filter(|offer| **offer).count() == 4 {
            break;
        }
    }
    let attempts: Vec<usize> = questions.split(|offer| *offer).skip(1).map(<[bool]>::len).collect();
    assert_eq!(attempts[..3], [IN_VAIN; 3], "{attempts:?}");
    assert!(cluster.view(2).state_lost);
    flip(&mut cluster, 1, &root);
    cluster.pass(LONG * 3);
    assert!(!cluster.view(2).state_lost);
    assert_eq!(cluster.state(2), cluster.state(0));
}

/// Blocks of its own checkpoint are on their way to a slow disk when a replica is to take over a peer's: until they are
/// there they may still overwrite what is taken (H37), so its own is not given up before.
#[test]
fn h37_a_transfer_waits_for_blocks_that_are_on_their_way_to_the_disk() {
    let mut cluster = ready(3, 20);
    let mut last = 20;
    while blocks_on_their_way(&cluster, 2) == 0 {
        last += 1;
        assert!(last < 100, "a checkpoint is due some time");
        post(&mut cluster, last);
        // Until nothing is left to do, or its disk has a block to write.
        loop {
            let frames = cluster.collect();
            let none = frames.is_empty();
            frames.into_iter().for_each(|(from, to, frame)| cluster.deliver(from, to, frame));
            if blocks_on_their_way(&cluster, 2) > 0 {
                break;
            }
            if !(0..3).any(|at| cluster.complete_one(at)) && none {
                break;
            }
        }
    }
    cluster.stalled = vec![2];
    for other in [0, 1] {
        cluster.cut.push((replica(2), replica(other)));
        cluster.cut.push((replica(other), replica(2)));
    }
    cluster.pass(MOMENT);
    publish(&mut cluster, last + 1..=last + 60);
    cluster.cut.clear();
    cluster.pass(LONG);
    assert!(cluster.replica(2).marks().has(Mark::TransferBusy), "it was offered one");
    let names_it =
        |op: &DiskOp| matches!(op, DiskOp::Write { offset, .. } if *offset < SUPERBLOCK_ZONE as u64);
    assert!(blocks_on_their_way(&cluster, 2) > 0);
    assert!(!cluster.outside[2].submitted.iter().any(names_it), "its own checkpoint is given up too early");
    cluster.stalled.clear();
    cluster.pass(LONG * 2);
    assert!(cluster.replica(2).marks().has(Mark::TransferDone));
    assert_eq!(cluster.state(2), cluster.state(0));
}

/// Scrubbing finds a block that has rotted and asks for it; before it comes, a checkpoint is made, after which the place may
/// be another block's: it is not repaired now, but when scrubbing comes by again and it still is referred to.
#[test]
fn h34_a_rotten_block_that_comes_after_another_checkpoint_is_not_written() {
    let mut cluster = ready(3, 120);
    // No merge needs it for now.
    let mut later = ready(3, 120);
    publish(&mut later, 121..=160);
    later.pass(LONG);
    let stays = references(&later, 1);
    let block = *references(&cluster, 1).iter().find(|block| stays.contains(block)).expect("most stay");
    flip(&mut cluster, 1, &block);
    cluster.lost.push(Command::Block);
    let waits_for = |cluster: &mut Cluster, what: Mark| {
        for _ in 0..3_000 {
            if cluster.replica(1).marks().has(what) {
                return true;
            }
            cluster.pass(Duration::from_millis(1));
        }
        false
    };
    assert!(waits_for(&mut cluster, Mark::BlockRotten));
    let generation = cluster.replica(1).machine().forest().generation();
    let mut number = 120;
    while cluster.replica(1).machine().forest().generation() == generation {
        number += 1;
        cluster.publish(number).expect("acknowledged");
        assert!(number < 160, "checkpoints are made");
    }
    assert!(!cluster.replica(1).marks().has(Mark::ScrubOvertaken));
    cluster.lost.clear();
    assert!(waits_for(&mut cluster, Mark::ScrubOvertaken), "it came");
    assert!(!cluster.replica(1).marks().has(Mark::BlockRepaired));
}
