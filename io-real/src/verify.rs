//! Checks an exported room or a data file, offline.
//!
//! The one law: **the answer is one of three**: all is whole (0), something is not and it is said where (1), or this is
//! nothing that can be checked (2). Nothing that was not looked at is said to be whole.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

use serde_json::json;
use tigerchat_core::chat::export::{EXPORT_BEGINS, Verified, Verifier, Wrong};
use tigerchat_core::store::layout::SUPERBLOCK_ZONE;
use tigerchat_core::store::superblock::{OpenError, Superblock};
use tigerchat_core::vsr::offline::{FileBlocks, Stopped};

use crate::cli::{Inspect, Verify};
use crate::export::write_room;
use crate::inspect;
use crate::keys;
use crate::texts::Chain;

/// Longest line that is read: more than the largest body needs, whatever is in it.
const LINE_MAX: u64 = 64 << 20;

const NOT_WHOLE: u8 = 1;
const NOT_OURS: u8 = 2;

/// Why it does not end well, and what it ends with.
type Failed = (u8, String);

pub fn run(args: &Verify) -> ExitCode {
    match look(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, error)) => {
            eprintln!("tigerchat: {}: {error}", args.file.display());
            ExitCode::from(code)
        }
    }
}

fn look(args: &Verify) -> Result<(), Failed> {
    let unreadable = |error| (NOT_OURS, format!("can't be read: {error}"));
    let mut file = File::open(&args.file).map_err(unreadable)?;
    let mut start = Vec::new();
    (&mut file).take(SUPERBLOCK_ZONE as u64).read_to_end(&mut start).map_err(unreadable)?;
    if start.starts_with(EXPORT_BEGINS) {
        return export(args);
    }
    match Superblock::open(&start) {
        Ok(_) => data_file(args),
        Err(error @ OpenError::Damaged) => Err((NOT_WHOLE, error.to_string())),
        Err(error @ (OpenError::Version { .. } | OpenError::Release(_) | OpenError::Key(_))) => {
            Err((NOT_OURS, error.to_string()))
        }
        Err(OpenError::TooShort | OpenError::NotTigerChat) => Err((
            NOT_OURS,
            "expected what `tigerchat export` wrote, or a replica's data file; found something else".into(),
        )),
    }
}

fn export(args: &Verify) -> Result<(), Failed> {
    let found = File::open(&args.file).map_err(|error| (NOT_OURS, format!("can't be read: {error}")))?;
    let verified = lines(&mut BufReader::new(found))?;
    match &verified {
        Ok(verified) => show(verified, args.json),
        Err(Wrong { line, what, expected, found }) if args.json => {
            let row =
                json!({"whole": false, "line": line, "what": what, "expected": expected, "found": found});
            println!("{row}");
        }
        Err(_) => {}
    }
    let verified = verified.map_err(|wrong| (NOT_WHOLE, wrong.to_string()))?;
    match args.chain {
        Some(Chain(expected)) if expected != verified.chain => {
            let found = verified.chain;
            Err((NOT_WHOLE, format!("expected chain value {expected} at the head, found {found}")))
        }
        _ => Ok(()),
    }
}

fn lines(file: &mut dyn BufRead) -> Result<Result<Verified, Wrong>, Failed> {
    let (mut verifier, mut line) = (Verifier::default(), Vec::new());
    loop {
        line.clear();
        let read = file.take(LINE_MAX).read_until(b'\n', &mut line);
        let number = verifier.line_number();
        match read.map_err(|error| (NOT_WHOLE, format!("line {number}: can't be read: {error}")))? {
            0 => return Ok(verifier.finish()),
            _ if line.len() as u64 == LINE_MAX && line.last() != Some(&b'\n') => {
                return Err((
                    NOT_WHOLE,
                    format!("line {number}: expected at most {LINE_MAX} bytes, found more"),
                ));
            }
            _ => {}
        }
        if let Err(wrong) = verifier.line(&line) {
            return Ok(Err(wrong));
        }
    }
}

fn show(verified: &Verified, json: bool) {
    let Verified { head, count, erased, chain, unproven } = verified;
    if json {
        let row = json!({"whole": true, "cluster": head.cluster.to_string(), "shard": head.shard.0,
            "tenant": head.tenant.0, "room": head.room, "epoch": head.epoch.to_string(), "first": head.first,
            "head": head.head, "count": count, "erased": erased, "unproven": unproven, "op": head.op,
            "anchor": head.anchor.to_string(), "chain": chain.to_string()});
        println!("{row}");
        return;
    }
    println!(
        "whole: room {} of cluster {}, messages {}..={}, {count} of them, {erased} erased",
        head.room, head.cluster, head.first, head.head
    );
    println!("chain {chain}; it is not signed: compare it with what a client, an edge or `inspect` shows");
    if *unproven > 0 {
        println!("the last {unproven} were not known to be committed where they were exported");
    }
}

/// What `inspect --verify` looks at, and then the chain of every room.
fn data_file(args: &Verify) -> Result<(), Failed> {
    let not_whole = |error| (NOT_WHOLE, error);
    if args.chain.is_some() {
        return Err((NOT_OURS, "--chain is for exports: a data file has many rooms".into()));
    }
    let inspected =
        Inspect { file: args.file.clone(), log: false, verify: true, key: args.key.clone(), json: args.json };
    // It names the file itself.
    let of_file = format!("{}: ", args.file.display());
    inspect::run(&inspected)
        .map_err(|error| not_whole(error.strip_prefix(&of_file).unwrap_or(&error).into()))?;
    let file = File::open(&args.file).map_err(|error| (NOT_OURS, format!("can't be read: {error}")))?;
    let mut read = |offset, into: &mut [u8]| file.read_exact_at(into, offset).is_ok();
    let sealing = keys::of_file(&file, args.key.as_deref()).map_err(not_whole)?;
    let stopped =
        Stopped::read_sealed(sealing.clone(), &mut read).map_err(|error| not_whole(error.to_string()))?;
    let mut blocks = FileBlocks::new(&stopped.superblock.config, &mut read).under(sealing.as_deref());
    let (mut rooms, mut broken) = (0, Vec::new());
    for room in stopped.chat().rooms() {
        match write_room(&stopped, &room, &mut blocks, &mut std::io::sink()) {
            Ok(_) => rooms += 1,
            Err(why) => broken.push(format!("room {}: {why}", room.name)),
        }
    }
    if args.json {
        println!("{}", json!({"chains": rooms, "broken": broken}));
    } else {
        println!("verified: the chains of {rooms} rooms are whole");
    }
    if broken.is_empty() { Ok(()) } else { Err(not_whole(broken.join("; "))) }
}
