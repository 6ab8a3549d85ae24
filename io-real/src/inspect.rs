//! What a stopped replica's data file holds. Works on damaged, empty, foreign and truncated files: it says what it
//! found, and never panics. The file is opened for reading only.
//!
//! The one law: **what is not whole is said to be so, and ends the command with a failure**; what is whole is shown
//! all the same.

use std::fs::File;
use std::os::unix::fs::FileExt;

use serde_json::json;
use tigerchat_core::store::layout::SUPERBLOCK_ZONE;
use tigerchat_core::store::sealing::{KeyId, Sealing};
use tigerchat_core::store::superblock::Superblock;
use tigerchat_core::vsr::machine::{Machine as _, Unanswered};
use tigerchat_core::vsr::offline::{FileBlocks, ReadAt, ReadError, Stopped, verify_sealed};
use tigerchat_core::wire::chat::MessageEvent;

use crate::cli::Inspect;
use crate::keys::{self, MasterKey};
use crate::misplaced;

pub fn run(args: &Inspect) -> Result<(), String> {
    let name = args.file.display();
    let file = File::open(&args.file).map_err(|error| format!("{name}: can't be read: {error}"))?;
    let len = file.metadata().map_err(|error| format!("{name}: {error}"))?.len();
    let mut zone = vec![0; SUPERBLOCK_ZONE.min(usize::try_from(len).unwrap_or(usize::MAX))];
    file.read_exact_at(&mut zone, 0).map_err(|error| format!("{name}: can't be read: {error}"))?;
    show_copies(&zone, args.json);
    let superblock = Superblock::open(&zone).map_err(|error| format!("{name}: {error}"))?;
    show_file(&superblock, len, args.json);
    let mut read = |offset, into: &mut [u8]| file.read_exact_at(into, offset).is_ok();
    let key = MasterKey::find(args.key.as_deref())?;
    let sealing = keys::sealer(&superblock, key.as_ref()).map_err(|why| format!("{name}: {why}"))?;
    let mut damage = Vec::new();
    match Stopped::read_sealed(sealing.clone(), &mut read) {
        Ok(stopped) => {
            show(&stopped, args.json);
            if stopped.is_state_lost() {
                damage.push(lost(&stopped).into());
            }
            if args.log {
                show_log(&stopped, sealing.as_deref(), &mut read, args.json, &mut damage);
            }
        }
        Err(error @ ReadError::Open(_)) => return Err(format!("{name}: {error}")),
        Err(error) => damage.push(format!("{error}: this replica must be repaired from its peers")),
    }
    if args.verify {
        show_verified(sealing.as_deref(), &mut read, args.json, &mut damage)?;
        misplaced::look(&superblock.config, sealing.as_deref(), len, &mut read, args.json, &mut damage);
    }
    if damage.is_empty() { Ok(()) } else { Err(format!("{name}: {}", damage.join("; "))) }
}

/// Why there is no state to show.
fn lost(stopped: &Stopped) -> &'static str {
    if stopped.superblock.transferring {
        "a checkpoint of a peer was being taken over: what it holds is shown once that is done"
    } else {
        "the checkpoint that the superblock names is damaged: the replica takes one from its peers (--verify says more)"
    }
}

/// A row for each copy of the superblock, with what agrees.
fn show_copies(zone: &[u8], json: bool) {
    let copies = Superblock::read_copies(zone);
    let newest = Superblock::open(zone).ok();
    for (number, copy) in copies.iter().enumerate() {
        match copy {
            Ok(copy) => {
                let agrees = Some(copy) == newest.as_ref();
                if json {
                    println!(
                        "{}",
                        json!({"superblock": number, "sequence": copy.sequence, "view": copy.view,
                        "log_view": copy.log_view, "incarnation": copy.incarnation, "checkpoint": copy.checkpoint.op(),
                        "agrees": agrees})
                    );
                } else {
                    let mark = if agrees { "agrees" } else { "older" };
                    println!(
                        "superblock {number}: sequence {}, view {}, log view {}, incarnation {}, checkpoint {}: {mark}",
                        copy.sequence,
                        copy.view,
                        copy.log_view,
                        copy.incarnation,
                        copy.checkpoint.op()
                    );
                }
            }
            Err(error) if json => println!("{}", json!({"superblock": number, "error": error.to_string()})),
            Err(error) => println!("superblock {number}: {error}"),
        }
    }
}

/// How the file is laid out, how large it is, and what its newest superblock says of the checkpoint.
fn show_file(superblock: &Superblock, len: u64, json: bool) {
    let layout = &superblock.config.layout;
    let (checkpoint, transferring) = (&superblock.checkpoint, superblock.transferring);
    let grid = layout.grid();
    let here = len.saturating_sub(grid.offset) / grid.block_bytes() as u64;
    let (fixed, most) = (layout.hot_size(), layout.file_size_max());
    let is_short = len < fixed;
    let root = checkpoint.root;
    let master = superblock.envelope.map(|envelope| KeyId(&envelope.master).to_string());
    let is_rotating = superblock.envelope.is_some_and(|envelope| envelope.before.is_some());
    if json {
        println!(
            "{}",
            json!({"file_size": len, "fixed_size": fixed, "file_size_max": most, "cut_short": is_short,
            "wal_slots": layout.wal_slots, "entry_max": layout.entry_max(), "block_size": grid.block_bytes(),
            "blocks_here": here.min(grid.blocks_max), "blocks_max": grid.blocks_max, "grid_step": grid.step})
        );
        println!(
            "{}",
            json!({"checkpoint": checkpoint.number, "op": checkpoint.op(), "root": root.address,
            "digest": root.digest.to_string(), "transferring": transferring})
        );
        if let Some(master) = master {
            println!("{}", json!({"sealed_with": master, "rotating": is_rotating}));
        }
        return;
    }
    println!(
        "layout: log of {} entries of up to {} bytes, blocks of {} bytes",
        layout.wal_slots,
        layout.entry_max(),
        grid.block_bytes()
    );
    if let Some(master) = master {
        println!("file: sealed with master key {master}");
        if is_rotating {
            println!("file: its own key is being changed: `tigerchat key rotate` goes on");
        }
    }
    println!("file: {len} bytes, {fixed} of them fixed, at most {most}; it has room for {here} blocks");
    if is_short {
        println!("file: it was cut short");
    }
    match checkpoint.number {
        0 => println!("checkpoint: none yet"),
        number => {
            println!(
                "checkpoint {number}: op {}, root block {}, digest {}",
                checkpoint.op(),
                root.address,
                root.digest
            );
        }
    }
    if transferring {
        println!("checkpoint: one of a peer was being taken over, into the blocks of this one");
    }
}

fn show(stopped: &Stopped, json: bool) {
    let view = stopped.view();
    let (config, members) = (&stopped.superblock.config, &stopped.superblock.members);
    let missing: Vec<u64> =
        stopped.log().filter(|(_, _, whole)| !whole).map(|(header, _, _)| header.op.get()).collect();
    if json {
        println!(
            "{}",
            json!({"cluster": config.cluster.to_string(), "shard": config.shard.0, "replica": config.replica.0,
                "replicas": members.list().len(), "head": view.op, "executed": stopped.executed(),
                "known_commit": stopped.known_commit, "head_uncertain": stopped.head_uncertain, "missing": missing,
                "release": view.release, "state_lost": stopped.is_state_lost()})
        );
        for (client, session, number) in stopped.sessions() {
            println!("{}", json!({"session": session, "edge": format!("{client:x}"), "requests": number}));
        }
    } else {
        println!(
            "cluster {}, shard {}, replica {} of {}",
            config.cluster,
            config.shard.0,
            config.replica.0,
            members.list().len()
        );
        println!(
            "log: head {}, readable to {}, known to be committed to {}, release {}",
            view.op,
            stopped.executed(),
            stopped.known_commit,
            view.release
        );
        if stopped.head_uncertain {
            println!("log: a damaged slot may have held a later entry: the head is uncertain");
        }
        if !missing.is_empty() {
            println!("log: entries to be fetched from peers: {missing:?}");
        }
        for (client, session, number) in stopped.sessions() {
            println!("session {session} of edge {client:x}: {number} requests");
        }
    }
    if stopped.is_state_lost() {
        return;
    }
    show_state(stopped, json);
}

fn show_state(stopped: &Stopped, json: bool) {
    let (usage, free) = (stopped.chat().usage(), stopped.chat().forest().free_set());
    if json {
        println!(
            "{}",
            json!({"blocks_used": usage.blocks, "blocks_max": usage.blocks_max, "highest": free.highest()})
        );
    } else {
        println!(
            "blocks: {} used of at most {}, the highest is {}",
            usage.blocks,
            usage.blocks_max,
            free.highest()
        );
    }
    for room in stopped.chat().rooms() {
        if json {
            println!(
                "{}",
                json!({"room": room.name, "tenant": room.tenant.0, "epoch": room.epoch.to_string(),
                "first": room.first, "head": room.head, "chain": room.chain.to_string()})
            );
        } else {
            println!("room {}: messages {}..={}, chain {}", room.name, room.first, room.head, room.chain);
        }
    }
}

fn show_log<'a>(
    stopped: &Stopped,
    sealing: Option<&'a dyn Sealing>,
    read: &'a mut ReadAt<'a>,
    json: bool,
    damage: &mut Vec<String>,
) {
    let mut blocks = FileBlocks::new(&stopped.superblock.config, read).under(sealing);
    for room in stopped.chat().rooms() {
        let mut show = |message: MessageEvent<'_>| show_message(&message, json);
        let why = match stopped.chat().messages(room.tenant, room.name, &mut blocks, &mut show) {
            Ok(()) => continue,
            Err(Unanswered::Needs(reference)) => format!("block {} is damaged", reference.address),
            Err(Unanswered::Malformed) => "a block is not what the index says".into(),
        };
        if json {
            println!("{}", json!({"room": room.name, "tenant": room.tenant.0, "error": why}));
        } else {
            println!("room {}: no more of it can be read here: {why}", room.name);
        }
        damage.push(format!("room {}: {why}", room.name));
    }
}

/// What became of each block of the checkpoint.
fn show_verified(
    sealing: Option<&dyn Sealing>,
    read: &mut ReadAt<'_>,
    json: bool,
    damage: &mut Vec<String>,
) -> Result<(), String> {
    let verified = verify_sealed(sealing, read).map_err(|error| error.to_string())?;
    let addresses: Vec<u64> = verified.damaged.iter().map(|reference| reference.address).collect();
    if json {
        println!(
            "{}",
            json!({"verified": verified.whole, "damaged": addresses, "complete": verified.is_complete})
        );
    } else {
        let known = if verified.is_complete { "" } else { "; what these would name is not known" };
        println!("verified: {} blocks are whole, damaged are {addresses:?}{known}", verified.whole);
    }
    if !addresses.is_empty() {
        damage.push(format!("damaged blocks of the checkpoint: {addresses:?}"));
    } else if !verified.is_complete {
        damage.push("the checkpoint can't be opened".into());
    }
    Ok(())
}

fn show_message(message: &MessageEvent<'_>, json: bool) {
    let body = String::from_utf8_lossy(message.body);
    if json {
        let key: String = message.key.0.iter().map(|byte| format!("{byte:02x}")).collect();
        println!(
            "{}",
            json!({"room": message.room, "seq": message.seq, "op": message.op, "author": message.author,
            "key": key, "chain": message.chain.to_string(), "body": body})
        );
    } else {
        println!("[{} #{}] {}: {body}", message.room, message.seq, message.author);
    }
}
