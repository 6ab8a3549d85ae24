//! Replicas under arbitrary schedules: frames lost, doubled and overtaken, disk operations completed in any order,
//! crashes that leave any subset of the sectors that were not flushed. Small on purpose: it runs at every
//! `cargo test`, the worlds of `io-sim` go further.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cluster::{Cluster, say};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tigerchat_core::io::DiskOp;
use tigerchat_core::vsr::replica::Status;
use tigerchat_core::wire::chat::Outcome;
use tigerchat_core::wire::codec::Reader;
use tigerchat_core::wire::entry::{Digest, RequestKind};
use tigerchat_core::wire::frame::Command;

const SECTOR: usize = 4096;

struct Chaos {
    cluster: Cluster,
    random: ChaCha8Rng,
    /// What some replica executed at each op.
    log: BTreeMap<u64, Digest>,
    executed: Vec<u64>,
    /// Bodies that were acknowledged, with their place.
    acknowledged: BTreeMap<u64, Outcome>,
    asked: u64,
    commands: Vec<u8>,
    crashes: u32,
    views: u64,
    loss: u64,
}

impl Chaos {
    fn new(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let replicas = [3, 3, 3, 5, 1][usize::try_from(random.next_u64() % 5).unwrap()];
        let mut cluster = Cluster::new(replicas);
        cluster.pass(Duration::from_millis(50));
        cluster.register();
        cluster.open_room();
        let executed = vec![0; usize::from(replicas)];
        let loss = [0, 2, 10, 30][usize::try_from(random.next_u64() % 4).unwrap()];
        Self {
            cluster,
            random,
            log: BTreeMap::new(),
            executed,
            acknowledged: BTreeMap::new(),
            asked: 0,
            commands: Vec::new(),
            crashes: 0,
            views: 0,
            loss,
        }
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.random.next_u64() % 100 < percent
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random.next_u64() % bound.max(1) as u64).unwrap()
    }

    fn step(&mut self) {
        self.disks();
        self.frames();
        if self.chance(30) {
            let by = 1_000_000 * (1 + self.random.next_u64() % 10);
            self.cluster.now.mono.0 += by;
            self.cluster.now.wall.0 += by;
        }
        for at in 0..self.executed.len() {
            self.cluster.turn(at, None);
        }
        if self.random.next_u64().is_multiple_of(200) {
            let at = self.below(self.executed.len());
            self.crash(at);
        }
        if self.random.next_u64().is_multiple_of(1500) {
            (0..self.executed.len()).for_each(|at| self.crash(at));
        }
        if self.chance(3) {
            let at = self.below(self.executed.len());
            if self.cluster.nodes[at].is_none() {
                self.cluster.start(at);
                self.executed[at] = 0;
            }
        }
        self.client();
        self.observe();
    }

    fn disks(&mut self) {
        for at in 0..self.executed.len() {
            while !self.cluster.outside[at].submitted.is_empty() && self.chance(60) {
                let pending = self.cluster.outside[at].submitted.len();
                let which = self.below(pending);
                let op = self.cluster.outside[at].submitted.remove(which);
                let event = self.cluster.complete(at, op);
                self.cluster.turn(at, Some(event));
            }
        }
    }

    fn frames(&mut self) {
        for at in 0..self.executed.len() {
            let sent: Vec<_> = self.cluster.outside[at].sent.drain(..).collect();
            self.cluster.wire.extend(sent);
        }
        for _ in 0..self.cluster.wire.len() {
            let which = self.below(self.cluster.wire.len());
            if self.chance(40) {
                continue;
            }
            let (from, to, frame) = self.cluster.wire.swap_remove_back(which).unwrap();
            if self.chance(5) {
                self.cluster.wire.push_back((from, to, frame.clone()));
            }
            if !self.chance(self.loss) {
                self.cluster.deliver(from, to, frame);
            }
        }
    }

    /// A process ends; of what it had not flushed any subset of sectors is on the disk.
    fn crash(&mut self, at: usize) {
        if self.cluster.nodes[at].is_none() {
            return;
        }
        self.crashes += 1;
        for op in std::mem::take(&mut self.cluster.outside[at].submitted) {
            if let DiskOp::Write { offset, data, .. } = op {
                for (index, sector) in data.chunks_exact(SECTOR).enumerate() {
                    if self.chance(50) {
                        let start = usize::try_from(offset).unwrap() + index * SECTOR;
                        self.cluster.outside[at].disk[start..start + SECTOR].copy_from_slice(sector);
                    }
                }
            }
        }
        self.cluster.crash(at);
    }

    fn client(&mut self) {
        let replies: Vec<_> = self.cluster.to_edge.drain(..).collect();
        for frame in replies {
            let (number, session) = (frame.header.a.get(), frame.header.b.get());
            match frame.header.command() {
                Command::Reply if number == 0 && session != self.cluster.session => {
                    (self.cluster.session, self.cluster.number) = (session, 0);
                    self.next_request();
                }
                Command::Reply
                    if number == self.cluster.number && session == self.cluster.session && number > 0 =>
                {
                    let outcome = Outcome::decode(&mut Reader::new(frame.body())).unwrap();
                    assert_eq!(outcome.error, None);
                    let known = self.acknowledged.insert(self.asked, outcome);
                    assert!(known.is_none_or(|known| known.seq == outcome.seq), "doubled");
                    self.asked += 1;
                    self.commands = Vec::new();
                    self.next_request();
                }
                Command::Eviction if session == self.cluster.session => {
                    self.cluster.session = 0;
                }
                _ => {}
            }
        }
        if self.chance(10) {
            if self.cluster.session == 0 {
                self.cluster.post_request(RequestKind::Register, &[]);
            } else {
                if self.commands.is_empty() {
                    self.next_request();
                }
                let commands = self.commands.clone();
                self.cluster.post_request(RequestKind::Commands, &commands);
            }
        }
    }

    fn next_request(&mut self) {
        self.cluster.number += 1;
        if self.commands.is_empty() {
            let key = self.cluster.key(self.asked);
            let body = self.asked.to_string();
            say(key, &body).encode(&mut self.commands).unwrap();
        }
    }

    fn observe(&mut self) {
        for at in 0..self.executed.len() {
            if self.cluster.nodes[at].is_none() {
                continue;
            }
            assert_eq!(self.cluster.outside[at].stopped, None);
            let view = self.cluster.view(at);
            self.views = self.views.max(view.view);
            for op in self.executed[at] + 1..=view.commit {
                if let Some((_, digest)) = self.cluster.replica(at).committed(op) {
                    let agreed = self.log.entry(op).or_insert(digest);
                    assert_eq!(*agreed, digest, "op {op} of replica {at}");
                }
            }
            self.executed[at] = view.commit;
        }
    }

    fn finish(mut self, seed: u64) -> (u32, u64, u64) {
        for at in 0..self.executed.len() {
            if self.cluster.nodes[at].is_none() {
                self.cluster.start(at);
            }
        }
        self.cluster.settle();
        self.cluster.pass(Duration::from_secs(12));
        self.cluster.register();
        let key = self.cluster.key(1 << 40);
        let last = self.cluster.request(&[say(key, "last")]).unwrap_or_else(|| {
            panic!(
                "seed {seed}: no service: {:#?}",
                (0..self.executed.len()).map(|at| self.cluster.view(at)).collect::<Vec<_>>()
            )
        });
        assert!(last[0].seq >= self.acknowledged.len() as u64);
        self.cluster.pass(Duration::from_secs(2));
        let views: Vec<_> = (0..self.executed.len()).map(|at| self.cluster.view(at)).collect();
        for at in 0..self.executed.len() {
            assert_eq!(self.cluster.view(at).status, Status::Normal, "seed {seed}: {views:#?}");
            assert_eq!(self.cluster.view(at).commit, self.cluster.view(0).commit, "seed {seed} replica {at}");
            assert_eq!(self.cluster.state(at), self.cluster.state(0), "seed {seed} replica {at}");
        }
        (self.crashes, self.views, self.acknowledged.len() as u64)
    }
}

#[test]
fn nothing_acknowledged_is_lost_or_doubled_whatever_the_schedule() {
    let first: u64 = std::env::var("CHAOS_START").map_or(0, |start| start.parse().unwrap());
    let count: u64 = std::env::var("CHAOS_SEEDS").map_or(40, |count| count.parse().unwrap());
    let (mut crashes, mut views, mut acknowledged) = (0, 0, 0);
    for seed in first..first + count {
        let mut chaos = Chaos::new(seed);
        for _ in 0..3000 {
            chaos.step();
        }
        let (c, v, a) = chaos.finish(seed);
        (crashes, views, acknowledged) = (crashes + c, views + v, acknowledged + a);
        if count == 1 || std::env::var("CHAOS_VERBOSE").is_ok() {
            println!("seed {seed}: {c} crashes, {v} views, {a} acknowledged");
        }
    }
    assert!(crashes > 0 && views > 0 && acknowledged > 0);
    println!("{crashes} crashes, {views} views, {acknowledged} acknowledged");
}
