//! Of what a world consists at its beginning: processes, disks as `format` leaves them, and their configuration.
//!
//! The one law: **sizes and limits are small**, so that worlds meet them.

use std::sync::Arc;
use std::time::Duration;

use tigerchat_core::chat::Limits;
use tigerchat_core::edge::{EdgeConfig, EdgeLimits};
use tigerchat_core::pool::{Class, Pool};
use tigerchat_core::store::layout::{Layout, PAYLOAD};
use tigerchat_core::store::superblock::Superblock;
use tigerchat_core::types::{EdgeId, ReplicaId};
use tigerchat_core::vsr::membership::Members;
use tigerchat_core::vsr::replica::{ShardConfig, pool_classes};

use crate::clock::Skew;
use crate::disk::Disk;
use crate::faults::{DiskErrors, Drawn, Shape};
use crate::network::Place;
use crate::process::{Process, Role};
use crate::random::Random;
use crate::seal::{Ledger, StandIn};
use crate::world::{CLUSTER, SHARD};

pub(crate) fn replica_process(
    place: Place,
    config: &ShardConfig,
    drawn: &Drawn,
    skew: Skew,
    (seed, ledger): (u64, &Arc<Ledger>),
) -> Process {
    let id = ReplicaId(u16::try_from(place).expect("few replicas"));
    let config = ShardConfig { replica: id, ..config.clone() };
    let random = Random::new(seed, "disk", place as u64);
    let mut disk = Disk::new(config.layout.file_size_max(), drawn.disk.clone(), random);
    let quorums = drawn.shape.quorums();
    let first = Members::first(quorums.replicas, quorums.replication).expect("only safe quorums are drawn");
    let members = if first.get(id).is_some() { first } else { Members::unknown() };
    let sealing = drawn.shape.sealed.then(|| Arc::new(StandIn::new(place as u64, ledger)));
    let envelope = sealing.as_deref().map(StandIn::envelope);
    disk.format(&Superblock { envelope, ..Superblock::format(config.clone(), members) }.zone());
    disk.faults = drawn.disk_errors.clone().map(|errors| {
        let victim = drawn
            .damage
            .as_ref()
            .is_some_and(|damage| damage.victims.iter().any(|victim| usize::from(*victim) == place));
        // A sector that can't be read counts as damaged.
        if victim { errors } else { DiskErrors { read: 0, misdirected_read: 0, ..errors } }
    });
    let pool = Pool::lazy(&pool_classes(&config, INCOMING));
    Process::new(Role::Replica(id), pool, Some(disk), skew).sealed(sealing)
}

/// Buffers of each class for frames that are on their way in.
const INCOMING: usize = 32;

pub(crate) fn shard_config(shape: &Shape) -> ShardConfig {
    ShardConfig {
        cluster: CLUSTER,
        shard: SHARD,
        replica: ReplicaId(0),
        pipeline: shape.pipeline,
        sessions: shape.sessions,
        window: shape.window,
        layout: Layout {
            wal_slots: shape.wal_slots,
            slot_sectors: shape.slot_sectors,
            block_sectors: shape.block_sectors,
            blocks_max: BLOCKS_MAX,
            grid_step: 16,
        },
        limits: Limits {
            room_messages: shape.room_messages,
            room_age_s: shape.room_age_s,
            keys: shape.keys,
            ..Limits::tiny()
        },
    }
}

/// More than what the largest interval of a world might bring, three times: no world is full.
const BLOCKS_MAX: u32 = 4096;

/// Small limits, so that the worlds meet them.
pub(crate) fn edge_config(edge: EdgeId, shape: &Shape) -> EdgeConfig {
    let entry_max = shape.slot_sectors as usize * PAYLOAD;
    let limits = EdgeLimits {
        frame: 4096,
        body: 1024,
        inflight: 12,
        subscriptions: 8,
        send_queue: 8192,
        ping: Duration::from_secs(2),
        ..EdgeLimits::for_shard(entry_max, shape.window)
    };
    EdgeConfig {
        cluster: CLUSTER,
        edge,
        shard: SHARD,
        replicas: (0..u16::from(shape.replicas)).map(ReplicaId).collect(),
        tokens: Vec::new(),
        demo: true,
        limits,
    }
}

pub(crate) fn edge_classes() -> Vec<Class> {
    vec![Class { size: 512, count: 512 }, Class { size: 4096, count: 128 }, Class { size: 16384, count: 32 }]
}
