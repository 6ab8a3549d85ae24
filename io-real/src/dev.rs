//! A whole cluster in one process, on loopback: three replicas and an edge, each on a loop of its own, talking over
//! real sockets, so that what it shows is honest.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tigerchat_core::node::Node;
use tigerchat_core::store::layout::SUPERBLOCK_ZONE;
use tigerchat_core::store::superblock::Superblock;
use tigerchat_core::types::{ClusterId, ReplicaId};
use tigerchat_core::vsr::membership::Members;
use tigerchat_core::vsr::replica::{Stages, Timeouts};

use crate::clients::Site;
use crate::disk::Mode;
use crate::launch::{self, EdgePlan, ReplicaPlan, Size};
use crate::reactor::Stopper;
use crate::texts::{At, numbered};

/// Replicas of a development cluster.
pub const REPLICAS: u16 = 3;
const READY: Duration = Duration::from_secs(10);

/// A running development cluster.
#[derive(Debug)]
pub struct Dev {
    pub ws: SocketAddr,
    pub line: SocketAddr,
    pub lines: Vec<String>,
    /// Where the time of each replica's entries went, while it led.
    stages: Arc<Mutex<[Stages; REPLICAS as usize]>>,
    stoppers: Vec<Stopper>,
    threads: Vec<JoinHandle<()>>,
}

fn any_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

impl Dev {
    /// Starts on what lies in `folder`, or formats it first.
    pub fn start(
        folder: &Path,
        ws: SocketAddr,
        line: SocketAddr,
        mode: Mode,
        page: &'static str,
    ) -> Result<Self, String> {
        let (ws, line) = (launch::bind(ws, "clients")?, launch::bind(line, "the line protocol")?);
        let address = |listener: &TcpListener| listener.local_addr().map_err(|error| error.to_string());
        let (ws_address, line_address) = (address(&ws)?, address(&line)?);
        let cluster = find_or_format(folder)?;
        let listeners =
            (0..REPLICAS).map(|_| launch::bind(any_port(), "replicas")).collect::<Result<Vec<_>, _>>()?;
        let peers = listeners.iter().map(|listener| Ok(At { id: None, socket: address(listener)? }));
        let peers = numbered(&peers.collect::<Result<Vec<_>, String>>()?);
        let (mut stoppers, mut threads, mut lines) = (Vec::new(), Vec::new(), Vec::new());
        let stages = Arc::new(Mutex::new([Stages::default(); REPLICAS as usize]));
        let plan = ReplicaPlan { mode, peers: &peers, hold: false, key: None, timeouts: Timeouts::default() };
        for (replica, listener) in (0..REPLICAS).zip(listeners) {
            let path = folder.join(format!("replica-{replica}.tigerchat"));
            let (reactor, about) = launch::replica(&path, listener, &plan)?;
            lines.push(about);
            stoppers.push(reactor.stopper());
            let stages = Arc::clone(&stages);
            let note = move |node: &Node| {
                if let Some((_, replica_now)) = node.replicas().next() {
                    stages.lock().expect("nobody panics with it")[usize::from(replica)] =
                        replica_now.stages();
                }
            };
            threads.push(spawn(&format!("replica-{replica}"), move || {
                if let Err(why) = reactor.run(note) {
                    eprintln!("replica {replica} stopped: {why}; the others go on");
                }
            }));
        }
        let config = launch::shard_config(cluster, ReplicaId(0), Size::Dev);
        let site = Site { page: Some(page), checked_port: Some(ws_address.port()) };
        let plan = EdgePlan {
            cluster,
            replicas: peers,
            tokens: Vec::new(),
            demo: true,
            ws,
            line: Some(line),
            site,
            entry_max: config.layout.entry_max(),
            window: config.window,
        };
        let reactor = launch::edge(plan)?;
        stoppers.push(reactor.stopper());
        let (ready, is_ready) = std::sync::mpsc::channel();
        threads.push(spawn("edge", move || {
            let mut told = false;
            let ended = reactor.run(|node| {
                if !told && node.edge().is_some_and(tigerchat_core::edge::Edge::is_ready) {
                    told = ready.send(()).is_ok();
                }
            });
            if let Err(why) = ended {
                eprintln!("the edge stopped: {why:?}");
            }
        }));
        let dev = Self { ws: ws_address, line: line_address, lines, stages, stoppers, threads };
        let late = |_| format!("the cluster did not become ready within {} s: see above", READY.as_secs());
        is_ready.recv_timeout(READY).map_err(late)?;
        Ok(dev)
    }

    /// The sum over the replicas.
    pub fn stages(&self) -> Stages {
        let stages = self.stages.lock().expect("nobody panics with it");
        stages.iter().fold(Stages::default(), |sum, one| Stages {
            entries: sum.entries + one.entries,
            requests: sum.requests + one.requests,
            batch_wait: sum.batch_wait + one.batch_wait,
            quorum: sum.quorum + one.quorum,
            commit: sum.commit + one.commit,
        })
    }

    pub fn stoppers(&self) -> Vec<Stopper> {
        self.stoppers.clone()
    }

    /// Waits until all loops have ended.
    pub fn join(self) {
        for thread in self.threads {
            let _ = thread.join();
        }
    }

    /// Stops everything: clients hear of it, disks finish.
    pub fn stop(self) {
        // The edge first, so that its clients hear of it while the shard still answers.
        self.stoppers.iter().rev().for_each(Stopper::stop);
        self.join();
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().name(name.into()).spawn(run).expect("a thread can be started")
}

/// The cluster whose files lie in a folder; new ones when there are none.
fn find_or_format(folder: &Path) -> Result<ClusterId, String> {
    std::fs::create_dir_all(folder)
        .map_err(|error| format!("{}: can't be made: {error}", folder.display()))?;
    let path = |replica: u16| folder.join(format!("replica-{replica}.tigerchat"));
    if (0..REPLICAS).all(|replica| !path(replica).exists()) {
        let cluster = ClusterId(u128::from_le_bytes(launch::entropy()));
        for replica in 0..REPLICAS {
            let config = launch::shard_config(cluster, ReplicaId(replica), Size::Dev);
            launch::format(&path(replica), &config, Members::first(3, 2).expect("a majority"), None)?;
        }
        return Ok(cluster);
    }
    let mut zone = vec![0; SUPERBLOCK_ZONE];
    let first = path(0);
    let fail = |error: &dyn std::fmt::Display| {
        format!(
            "{}: {error}. The folder holds part of a development cluster: remove it, or name another one with --dir",
            first.display()
        )
    };
    let file = std::fs::File::open(&first).map_err(|error| fail(&error))?;
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut zone, 0).map_err(|error| fail(&error))?;
    Ok(Superblock::open(&zone).map_err(|error| fail(&error))?.config.cluster)
}
