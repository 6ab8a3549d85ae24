//! What a stopped replica's data file holds. Works on damaged, empty, foreign and truncated files: it says what it
//! found, and never panics. The file is opened for reading only.

use std::fs::File;
use std::os::unix::fs::FileExt;

use serde_json::json;
use tigerchat_core::store::layout::SUPERBLOCK_ZONE;
use tigerchat_core::store::superblock::Superblock;
use tigerchat_core::vsr::offline::{ReadError, Stopped};
use tigerchat_core::wire::chat::MessageEvent;

use crate::cli::Inspect;

pub fn run(args: &Inspect) -> Result<(), String> {
    let name = args.file.display();
    let file = File::open(&args.file).map_err(|error| format!("{name}: can't be read: {error}"))?;
    let len = file.metadata().map_err(|error| format!("{name}: {error}"))?.len();
    let mut zone = vec![0; SUPERBLOCK_ZONE.min(usize::try_from(len).unwrap_or(usize::MAX))];
    file.read_exact_at(&mut zone, 0).map_err(|error| format!("{name}: can't be read: {error}"))?;
    show_copies(&zone, args.json);
    let mut read = |offset, into: &mut [u8]| file.read_exact_at(into, offset).is_ok();
    match Stopped::read(&mut read) {
        Ok(stopped) => {
            show(&stopped, args.json);
            if args.log {
                show_log(&stopped, args.json);
            }
            Ok(())
        }
        Err(error @ ReadError::Open(_)) => Err(format!("{name}: {error}")),
        Err(error) => Err(format!("{name}: {error}: this replica must be repaired from its peers")),
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
                "release": view.release})
        );
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

fn show_log(stopped: &Stopped, json: bool) {
    for room in stopped.chat().rooms() {
        for message in stopped.chat().messages(room.tenant, room.name) {
            show_message(&message, json);
        }
    }
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
