//! From files and addresses to running loops: what `start`, `edge`, `dev` and `bench` share.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use tigerchat_core::chat::{Chat, Limits};
use tigerchat_core::edge::{Edge, EdgeConfig, EdgeLimits, TokenEntry};
use tigerchat_core::io::FileId;
use tigerchat_core::pool::Pool;
use tigerchat_core::store::layout::{Layout, PAYLOAD, SUPERBLOCK_ZONE};
use tigerchat_core::store::superblock::{ShardConfig, Superblock};
use tigerchat_core::types::{Address, ClusterId, EdgeId, ReplicaId, ShardId};
use tigerchat_core::vsr::machine::Machine as _;
use tigerchat_core::vsr::membership::Members;
use tigerchat_core::vsr::release::Releases;
use tigerchat_core::vsr::replica::{Replica, Start, pool_classes};

use crate::clients::Site;
use crate::disk::{self, Disk, Mode};
use crate::reactor::{Reactor, Wiring};
use crate::texts::At;

/// The only shard until there is a directory.
pub const SHARD: ShardId = ShardId(1);
const FILE: FileId = FileId(0);
/// Frames on their way in, of each size.
const INCOMING: usize = 64;

/// Random bytes from the operating system.
pub fn entropy<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has randomness");
    bytes
}

/// Sizes of a data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Size {
    /// Below 64 MiB, made at once: for a developer's machine.
    Dev,
    /// About 900 MiB: for production.
    Standard,
}

/// What `format` decides for a replica.
pub fn shard_config(cluster: ClusterId, replica: ReplicaId, size: Size) -> ShardConfig {
    let (limits, wal_slots, slot_sectors) = match size {
        Size::Dev => (Limits::dev(), 256, 16),
        Size::Standard => (Limits::default(), 1024, 64),
    };
    let (sessions, window) = (16, 8);
    let replies = usize::from(sessions) * (64 + usize::from(window) * (64 + 256 * 80));
    let state = Chat::new(limits).encoded_max() + replies + 4096;
    let checkpoint_sectors = u32::try_from(state.div_ceil(PAYLOAD)).expect("limits are below 16 TiB");
    let layout = Layout { wal_slots, slot_sectors, checkpoint_sectors };
    ShardConfig { cluster, shard: SHARD, replica, pipeline: 8, sessions, window, layout, limits }
}

/// Makes a replica's data file.
pub fn format(path: &Path, config: &ShardConfig, members: Members) -> Result<(), String> {
    let zone = Superblock::format(config.clone(), members).zone();
    disk::format(path, &zone, config.layout.hot_size(), config.layout.file_size())
}

pub fn replica_address(replica: u16) -> Address {
    Address::Replica { shard: SHARD, replica: ReplicaId(replica) }
}

/// Peers speak in the clear until they have certificates: only to themselves.
pub fn must_be_loopback(address: SocketAddr) -> Result<(), String> {
    if address.ip().is_loopback() {
        return Ok(());
    }
    Err(format!(
        "{address}: replicas and edges speak in the clear until mutual TLS comes, so only loopback addresses \
         (127.0.0.1, ::1) are allowed between them"
    ))
}

pub fn bind(address: SocketAddr, what: &str) -> Result<TcpListener, String> {
    TcpListener::bind(address).map_err(|error| {
        format!("{address}: can't listen for {what}: {error}: is another process using this port? choose another one")
    })
}

/// A loop with one replica, and a line about it.
pub fn replica(
    path: &Path,
    mode: Mode,
    listener: TcpListener,
    peers: &[At],
    hold: bool,
) -> Result<(Reactor, String), String> {
    let (file, direct) = disk::open(path, mode)?;
    let mut zone = vec![0; SUPERBLOCK_ZONE];
    let read = std::fs::File::open(path)
        .and_then(|file| std::os::unix::fs::FileExt::read_exact_at(&file, &mut zone, 0));
    read.map_err(|error| format!("{}: its superblock can't be read: {error}", path.display()))?;
    let fail = |error| format!("{}: {error}", path.display());
    let superblock = Superblock::open(&zone).map_err(fail)?;
    let config = superblock.config.clone();
    let replicas = superblock.members.list().len();
    // Later ones have their addresses in the members.
    if superblock.members.number == 0 && !superblock.members.is_unknown() && peers.len() != replicas {
        return Err(format!(
            "{}: expected the addresses of all {} replicas of this shard, in order, found {}",
            path.display(),
            replicas,
            peers.len()
        ));
    }
    let size = std::fs::metadata(path).map(|data| data.len()).unwrap_or(0);
    if size < config.layout.file_size() {
        let expected = config.layout.file_size();
        return Err(format!(
            "{}: expected {expected} bytes, found {size}: the file was cut short",
            path.display()
        ));
    }
    let pool = Pool::new(&pool_classes(&config, INCOMING));
    let me = config.replica.0;
    let known = peers.iter().filter_map(|at| Some((at.id?, at.socket))).filter(|(replica, _)| *replica != me);
    let known = known.map(|(replica, socket)| (replica_address(replica), socket, replica > me)).collect();
    let wiring = Wiring {
        me: replica_address(me),
        listener: Some(listener),
        known,
        payload_max: config.layout.entry_max(),
        ws: None,
        line: None,
        frame_max: 0,
        connections_max: 0,
        site: Site::default(),
    };
    let mut reactor =
        Reactor::new(wiring, &pool).map_err(|error| format!("the event loop can't start: {error}"))?;
    let machine = Chat::with_seed(config.limits, u64::from_le_bytes(entropy()));
    let mut effects = Vec::new();
    let now = reactor.now();
    let binary = Releases { hold, ..Releases::OURS };
    let start = Start { binary, ..Start::with_seed(entropy()) };
    let opened = Replica::open(&zone, machine, pool, start, now, &mut effects).map_err(fail)?;
    let disk = Disk::start(file, reactor.waker());
    reactor.add_replica(FILE, disk, opened, effects);
    let io = if direct { "direct IO" } else { "buffered IO" };
    let of = if replicas == 0 { "a shard to join".into() } else { replicas.to_string() };
    let line = format!("replica {me} of {of} in cluster {}, {io}, {}", config.cluster, path.display());
    Ok((reactor, line))
}

/// What an edge is started with.
#[derive(Debug)]
pub struct EdgePlan {
    pub cluster: ClusterId,
    pub replicas: Vec<At>,
    pub tokens: Vec<TokenEntry>,
    pub demo: bool,
    pub ws: TcpListener,
    pub line: Option<TcpListener>,
    pub site: Site,
    /// Largest entry of the shard, bytes, and the window of its sessions.
    pub entry_max: usize,
    pub window: u8,
}

/// A loop with an edge.
pub fn edge(plan: EdgePlan) -> Result<Reactor, String> {
    let EdgePlan { cluster, replicas, tokens, demo, ws, line, site, entry_max, window } = plan;
    let limits = EdgeLimits::for_shard(entry_max, window);
    let edge = EdgeId(u64::from_le_bytes(entropy()) | 1);
    let pool = Pool::new(&limits.pool_classes(INCOMING));
    let replicas: Vec<(u16, SocketAddr)> =
        replicas.iter().filter_map(|at| Some((at.id?, at.socket))).collect();
    let known = replicas.iter().map(|(id, socket)| (replica_address(*id), *socket, true)).collect();
    let replicas = replicas.iter().map(|(id, _)| ReplicaId(*id)).collect();
    let wiring = Wiring {
        me: Address::Edge(edge),
        listener: None,
        known,
        payload_max: entry_max.max(64 * 1024),
        ws: Some(ws),
        line,
        frame_max: limits.frame as usize,
        connections_max: limits.connections as usize,
        site,
    };
    let mut reactor =
        Reactor::new(wiring, &pool).map_err(|error| format!("the event loop can't start: {error}"))?;
    let config = EdgeConfig { cluster, edge, shard: SHARD, replicas, tokens, demo, limits };
    let now = reactor.now();
    reactor.set_edge(Edge::new(config, pool, entropy(), now));
    Ok(reactor)
}

/// Calls `stop` for each loop when the process is told to end (Ctrl-C, SIGTERM).
pub fn stop_on_signals(stoppers: Vec<crate::reactor::Stopper>) -> Result<(), String> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])
        .map_err(|error| format!("signals can't be listened to: {error}"))?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            stoppers.iter().for_each(crate::reactor::Stopper::stop);
        }
        // A second one means it.
        if signals.forever().next().is_some() {
            std::process::exit(130);
        }
    });
    Ok(())
}
