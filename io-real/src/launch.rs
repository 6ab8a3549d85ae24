//! From files and addresses to running loops: what `start`, `edge`, `dev` and `bench` share.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use tigerchat_core::chat::{Chat, Limits, shape_is_sane};
use tigerchat_core::edge::{Edge, EdgeConfig, EdgeLimits, TokenEntry};
use tigerchat_core::io::FileId;
use tigerchat_core::pool::Pool;
use tigerchat_core::store::layout::{Layout, SUPERBLOCK_ZONE};
use tigerchat_core::store::sealing::Sealer;
use tigerchat_core::store::superblock::{ShardConfig, Superblock};
use tigerchat_core::types::{Address, ClusterId, EdgeId, ReplicaId, ShardId};
use tigerchat_core::vsr::membership::Members;
use tigerchat_core::vsr::release::Releases;
use tigerchat_core::vsr::replica::{Replica, Start, Timeouts, pool_classes};

use crate::clients::Site;
use crate::disk::{self, Disk, Mode};
use crate::keys::{self, MasterKey};
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

/// Sizes of a data file. What it takes at once is made by `format`; the rest as history grows, and is never given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Size {
    /// 16 MiB at once, then 4 MiB at a time, up to 4 GiB: for a developer's machine.
    Dev,
    /// 256 MiB at once, then 64 MiB at a time, up to 1 TiB: for production.
    Standard,
}

/// What `format` decides for a replica.
pub fn shard_config(cluster: ClusterId, replica: ReplicaId, size: Size) -> ShardConfig {
    let block_sectors = 16;
    let (limits, layout) = match size {
        Size::Dev => {
            let (wal_slots, slot_sectors) = (256, 16);
            let (blocks_max, grid_step) = (1 << 16, 64);
            (Limits::dev(), Layout { wal_slots, slot_sectors, block_sectors, blocks_max, grid_step })
        }
        Size::Standard => {
            let (wal_slots, slot_sectors) = (1024, 64);
            let (blocks_max, grid_step) = (1 << 24, 1024);
            (Limits::default(), Layout { wal_slots, slot_sectors, block_sectors, blocks_max, grid_step })
        }
    };
    ShardConfig { cluster, shard: SHARD, replica, pipeline: 8, sessions: 16, window: 8, layout, limits }
}

/// Whether a shard's state can be kept in such a file.
pub fn must_fit(path: &Path, config: &ShardConfig) -> Result<(), String> {
    let ShardConfig { limits, layout, .. } = config;
    if limits.is_sane() && shape_is_sane(limits, layout) {
        return Ok(());
    }
    Err(format!(
        "{}: expected sizes that fit each other (an even number of log entries, blocks no larger than entries, three \
         of the largest messages in a block, no more than 2^24 rooms and threads), found {layout:?} with bodies of up \
         to {} bytes, {} rooms and {} threads",
        path.display(),
        limits.body_max,
        limits.rooms,
        limits.threads
    ))
}

/// The master key that a new data file is sealed with. None if it is not to be: that has to be said, but of a developer's.
pub fn key_for(
    config: &ShardConfig,
    flag: Option<&Path>,
    is_unsealed: bool,
) -> Result<Option<MasterKey>, String> {
    if is_unsealed {
        return Ok(None);
    }
    match MasterKey::find(flag)? {
        None if !is_dev(config) => Err(keys::missing(
            &"expected a master key to seal the file with, found none (`tigerchat key make FILE` makes one; --unsealed \
              leaves the file as anybody can read it who has the disk)",
        )),
        key => Ok(key),
    }
}

/// Whether a file has the size of those that nobody minds to lose, or to show.
pub fn is_dev(config: &ShardConfig) -> bool {
    config.layout == shard_config(config.cluster, config.replica, Size::Dev).layout
}

/// Makes a replica's data file, sealed if there is a key.
pub fn format(
    path: &Path,
    config: &ShardConfig,
    members: Members,
    key: Option<&MasterKey>,
) -> Result<(), String> {
    must_fit(path, config)?;
    let envelope = key.map(|key| key.envelope(config));
    let zone = Superblock { envelope, ..Superblock::format(config.clone(), members) }.zone();
    disk::format(path, &zone, config.layout.hot_size())
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

/// How a replica is started.
#[derive(Debug)]
pub struct ReplicaPlan<'a> {
    pub mode: Mode,
    pub peers: &'a [At],
    pub hold: bool,
    pub key: Option<&'a MasterKey>,
    pub timeouts: Timeouts,
}

/// A loop with one replica, and a line about it.
pub fn replica(
    path: &Path,
    listener: TcpListener,
    plan: &ReplicaPlan<'_>,
) -> Result<(Reactor, String), String> {
    let ReplicaPlan { mode, peers, hold, key, ref timeouts } = *plan;
    let (file, direct) = disk::open(path, mode)?;
    let mut zone = vec![0; SUPERBLOCK_ZONE];
    let read = std::fs::File::open(path)
        .and_then(|file| std::os::unix::fs::FileExt::read_exact_at(&file, &mut zone, 0));
    read.map_err(|error| format!("{}: its superblock can't be read: {error}", path.display()))?;
    let fail = |error| format!("{}: {error}", path.display());
    let superblock = Superblock::open(&zone).map_err(fail)?;
    let sealing = keys::sealer(&superblock, key).map_err(|why| format!("{}: {why}", path.display()))?;
    let config = superblock.config.clone();
    must_fit(path, &config)?;
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
    // Blocks that are missing behind it are damaged ones, which peers repair.
    let expected = config.layout.hot_size();
    if size < expected {
        return Err(format!(
            "{}: expected at least {expected} bytes, found {size}: the file was cut short",
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
    let machine = Chat::with_seed(config.limits, &config.layout, u64::from_le_bytes(entropy()));
    let mut effects = Vec::new();
    let now = reactor.now();
    let binary = Releases { hold, ..Releases::OURS };
    let sealed = how_sealed(&sealing);
    let start = Start { timeouts: timeouts.clone(), binary, sealing, ..Start::with_seed(entropy()) };
    let opened = Replica::open(&zone, machine, pool, start, now, &mut effects).map_err(fail)?;
    let disk = Disk::start(file, config.layout.grid(), reactor.waker());
    reactor.add_replica(FILE, disk, opened, effects);
    let io = if direct { "direct IO" } else { "buffered IO" };
    let of = if replicas == 0 { "a shard to join".into() } else { replicas.to_string() };
    let line =
        format!("replica {me} of {of} in cluster {}, {sealed}{io}, {}", config.cluster, path.display());
    Ok((reactor, line))
}

fn how_sealed(sealing: &Sealer) -> &'static str {
    match sealing {
        None => "not sealed, ",
        Some(sealing) if sealing.before().is_none() => "sealed, ",
        Some(_) => "sealed, with two keys (`tigerchat key rotate` goes on when it is stopped), ",
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_that_is_offered_can_be_made_and_has_the_sizes_that_its_help_says() {
        for (size, fixed, step, most) in [(Size::Dev, 16, 4, 4 << 10), (Size::Standard, 256, 64, 1 << 20)] {
            let config = shard_config(ClusterId(1), ReplicaId(0), size);
            assert_eq!(must_fit(Path::new("file"), &config), Ok(()));
            let layout = config.layout;
            let mib = |bytes: u64| bytes >> 20;
            assert_eq!(mib(layout.hot_size()), fixed);
            assert_eq!(mib(layout.grid().file_size(1) - layout.hot_size()), step);
            assert_eq!(mib(layout.file_size_max() - layout.hot_size()), most);
        }
    }

    #[test]
    fn sizes_that_do_not_fit_each_other_are_refused_before_a_file_is_made() {
        let path = std::env::temp_dir().join(format!("tigerchat-test-sizes-{}", std::process::id()));
        let sound = shard_config(ClusterId(1), ReplicaId(0), Size::Dev);
        let odd = Layout { wal_slots: 255, ..sound.layout };
        let cramped = Layout { block_sectors: 1, ..sound.layout };
        for layout in [odd, cramped] {
            let config = ShardConfig { layout, ..sound.clone() };
            let error = format(&path, &config, Members::first(3, 2).expect("a majority"), None).unwrap_err();
            assert!(error.contains("expected sizes that fit each other"), "{error}");
            assert!(!path.exists());
        }
    }
}
