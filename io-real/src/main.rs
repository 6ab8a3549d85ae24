//! The `tigerchat` binary: real sockets, real disks, and nothing that decides.
//!
//! Rooms of this house: `cli` (what can be asked), `launch` (from files and addresses to loops), `reactor` (the
//! loop), `disk`, `peers`, `clients` (its three sides), `standing` (what a replica says of itself), `dev` (a cluster in one process), `inspect`, `export`, `verify`, `backup`, `restore`, `rotate` (keys), `bench`.

#![allow(unreachable_pub, reason = "a binary: `pub` says what other rooms of the house may use")]

mod backup;
mod bench;
mod cli;
mod clients;
#[cfg(test)]
mod corpus;
mod dev;
mod disk;
mod export;
mod inspect;
mod keys;
mod launch;
mod misplaced;
mod operator;
mod part;
mod peers;
mod reactor;
mod restore;
mod rotate;
mod signing;
mod standing;
mod texts;
mod verify;
mod workers;
mod working;

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use tigerchat_core::edge::TokenEntry;
use tigerchat_core::store::sealing::KeyId;
use tigerchat_core::store::superblock::{FORMAT_VERSION, ROTATING_FORMAT_VERSION, SEALED_FORMAT_VERSION};
use tigerchat_core::types::{ClusterId, RELEASE, ReplicaId};
use tigerchat_core::vsr::membership::{Change, Members};
use tigerchat_core::vsr::replica::Timeouts;
use tigerchat_core::wire::entry::Digest;

use crate::backup::{SEALED_VERSION as SEALED_BACKUP_VERSION, VERSION as BACKUP_VERSION};
use crate::cli::{Cli, Command, RetentionCommand};
use crate::clients::Site;
use crate::dev::Dev;
use crate::keys::MasterKey;
use crate::launch::{EdgePlan, ReplicaPlan};
use crate::standing::Standing;

/// The demo page, served by `dev` alone.
const PAGE: &str = include_str!("../page/index.html");

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Dev(args) => dev(&args),
        Command::Format(args) => format(&args),
        Command::Start(args) => start(&args),
        Command::Edge(args) => edge(args),
        Command::Members(args) => operator::members(&args),
        Command::Standby(args) => join(&args, |id, address| Change::Standby { id, address }),
        Command::Promote(args) => {
            operator::change(&args.shard, &Change::Promote { id: ReplicaId(args.replica) })
        }
        Command::Remove(args) => {
            operator::change(&args.shard, &Change::Remove { id: ReplicaId(args.replica) })
        }
        Command::ReplaceReplica(args) => {
            let lost = ReplicaId(args.lost);
            join(&args.join, |id, address| Change::Replace { lost, id, address })
        }
        Command::Erase(args) => operator::erase::run(&args),
        Command::Retention(args) => match args.what {
            RetentionCommand::Set(args) => operator::retention::set(&args),
            RetentionCommand::Show(args) => operator::retention::show(&args),
        },
        Command::Inspect(args) => inspect::run(&args),
        Command::Key(args) => rotate::key(&args),
        Command::Export(args) => export::run(&args),
        Command::Verify(args) => return verify::run(&args),
        Command::Backup(args) => backup::run(&args),
        Command::Restore(args) => restore::run(&args),
        Command::Token(args) => token(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Version => {
            println!(
                "tigerchat {}, release {RELEASE}, data file format {FORMAT_VERSION} (sealed {SEALED_FORMAT_VERSION}, while a key changes {ROTATING_FORMAT_VERSION}), \
                 backup {BACKUP_VERSION} (sealed {SEALED_BACKUP_VERSION})",
                env!("CARGO_PKG_VERSION")
            );
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tigerchat: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dev(args: &cli::Dev) -> Result<(), String> {
    let started = Instant::now();
    let temporary = args.ephemeral.then(TemporaryFolder::new).transpose()?;
    let folder = temporary.as_ref().map_or(args.dir.as_path(), |folder| folder.path.as_path());
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let dev = Dev::start(folder, at(args.port), at(args.line_port), args.io, PAGE)?;
    launch::stop_on_signals(dev.stoppers())?;
    let (ws, line) = (dev.ws, dev.line);
    let replicas: String = dev.lines.iter().map(|line| format!("  {line}\n")).collect();
    let ready = started.elapsed().as_millis();
    // Whoever reads this may be gone (`dev | head`): that is no reason to stop.
    let _ = write!(
        std::io::stdout(),
        "{replicas}\nTigerChat is ready after {ready} ms. Ctrl-C stops it.\n\n  open   http://{ws}/\n  curl   curl -H \
         'Authorization: Bearer demo:curl' http://{ws}/v1/rpc -d '{{\"id\":1,\"room_open\":{{\"room\":\"general\"}}}}'\n  \
         talk   nc {} {}      then: join general, send Hello, users, history, exit\n\n",
        line.ip(),
        line.port()
    );
    dev.join();
    let _ = writeln!(std::io::stdout(), "stopped; nothing acknowledged is lost");
    drop(temporary);
    Ok(())
}

fn join(args: &cli::Join, change: impl Fn(ReplicaId, Vec<u8>) -> Change) -> Result<(), String> {
    operator::change(&args.shard, &change(ReplicaId(args.replica), operator::address(args.address)?))
}

fn format(args: &cli::Format) -> Result<(), String> {
    let cluster = match args.cluster.as_str() {
        "new" => ClusterId(u128::from_le_bytes(launch::entropy())),
        text => texts::parse_cluster(text)?,
    };
    let members = if args.standby { Members::unknown() } else { first_members(args)? };
    let mut config = launch::shard_config(cluster, ReplicaId(args.replica), args.size);
    args.limits.apply(&mut config.limits);
    let key = launch::key_for(&config, args.key.as_deref(), args.unsealed)?;
    launch::format(&args.file, &config, members, key.as_ref())?;
    let of = if args.standby { "a shard to join".into() } else { args.replicas.to_string() };
    let sealed = match &key {
        Some(key) => format!("sealed with master key {}", KeyId(&key.id())),
        None => "not sealed".into(),
    };
    println!("{}: replica {} of {of} in cluster {cluster}, {sealed}", args.file.display(), args.replica);
    Ok(())
}

fn first_members(args: &cli::Format) -> Result<Members, String> {
    if !(1..=7).contains(&args.replicas) || args.replica >= u16::from(args.replicas) {
        return Err(format!(
            "expected 1 to 7 replicas and a replica below that, found replica {} of {}",
            args.replica, args.replicas
        ));
    }
    let quorum = args.replication_quorum.unwrap_or(args.replicas / 2 + 1);
    // One copy would be lost with one disk.
    let durable = quorum > 1 || args.replicas == 1;
    Members::first(args.replicas, quorum).filter(|_| durable).ok_or_else(|| {
        let least = args.replicas.min(2);
        format!("expected a replication quorum of {least} to {}, found {quorum}", args.replicas)
    })
}

fn start(args: &cli::Start) -> Result<(), String> {
    let peers = texts::numbered(&args.peers);
    peers.iter().map(|at| at.socket).chain(args.listen).try_for_each(launch::must_be_loopback)?;
    let mut zone = vec![0; tigerchat_core::store::layout::SUPERBLOCK_ZONE];
    let read = std::fs::File::open(&args.file)
        .and_then(|file| std::os::unix::fs::FileExt::read_exact_at(&file, &mut zone, 0));
    read.map_err(|error| {
        format!("{}: expected a data file: {error}: make one with `tigerchat format`", args.file.display())
    })?;
    let superblock = tigerchat_core::store::superblock::Superblock::open(&zone)
        .map_err(|error| format!("{}: {error}", args.file.display()))?;
    let me = superblock.config.replica.0;
    let among_peers = || peers.iter().find(|at| at.id == Some(me)).map(|at| at.socket);
    let listen = args.listen.or_else(among_peers).ok_or_else(|| {
        format!(
            "{}: this is replica {me}, but neither --listen nor --peers says where it listens",
            args.file.display()
        )
    })?;
    let listener = launch::bind(listen, "replicas and edges")?;
    let key = MasterKey::find(args.key.as_deref())?;
    let mut teller = working::Teller::new(args.tell_checkpoints.as_deref())?;
    let timeouts = Timeouts { scrub_cycle: args.scrub_cycle.0, ..Timeouts::default() };
    let (mode, hold) = (args.io, args.hold_release);
    let plan = ReplicaPlan { mode, peers: &peers, hold, key: key.as_ref(), timeouts };
    let (reactor, about) = launch::replica(&args.file, listener, &plan)?;
    launch::stop_on_signals(vec![reactor.stopper()])?;
    let _ = writeln!(std::io::stdout(), "{about}, listening on {listen}");
    let mut standing = Standing::default();
    let ended = reactor.run(|node| {
        standing.look(node);
        teller.look(node);
    });
    ended.map_err(|why| format!("{}: the replica can't go on: {why}", args.file.display()))
}

fn edge(args: cli::Edge) -> Result<(), String> {
    args.replicas.iter().try_for_each(|at| launch::must_be_loopback(at.socket))?;
    let cluster = texts::parse_cluster(&args.cluster)?;
    let config = launch::shard_config(cluster, ReplicaId(0), args.size);
    let ws = launch::bind(args.listen, "clients")?;
    let line = args.line.map(|line| launch::bind(line, "the line protocol")).transpose()?;
    let plan = EdgePlan {
        cluster,
        replicas: texts::numbered(&args.replicas),
        tokens: read_tokens(&args.tokens)?,
        demo: false,
        ws,
        line,
        site: Site::default(),
        entry_max: config.layout.entry_max(),
        window: config.window,
    };
    let reactor = launch::edge(plan)?;
    launch::stop_on_signals(vec![reactor.stopper()])?;
    let _ = writeln!(std::io::stdout(), "edge of cluster {cluster}, clients at {}", args.listen);
    reactor.run(|_| {}).map_err(|why| format!("the edge can't go on: {why:?}"))
}

fn read_tokens(path: &Path) -> Result<Vec<TokenEntry>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        format!(
            "{}: expected a tokens file: {error}: `tigerchat token USER` prints a line for it",
            path.display()
        )
    })?;
    texts::parse_tokens(&text).map_err(|(line, expected)| format!("{}:{line}: {expected}", path.display()))
}

fn token(args: &cli::Token) -> Result<(), String> {
    if !tigerchat_core::chat::is_user_name(&args.user) {
        return Err(format!(
            "expected a user name of 1 to 64 printable characters without spaces, found {:?}",
            args.user
        ));
    }
    let secret: [u8; 24] = launch::entropy();
    let token: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    println!("token  {token}");
    println!("line   {} {}", args.user, Digest::of(token.as_bytes()));
    println!();
    println!(
        "Give the token to the user, and add the line to the edge's tokens file. The token is not kept anywhere."
    );
    Ok(())
}

/// A folder that goes with its owner.
#[derive(Debug)]
struct TemporaryFolder {
    path: PathBuf,
}

impl TemporaryFolder {
    fn new() -> Result<Self, String> {
        let name = format!("tigerchat-{:016x}", u64::from_le_bytes(launch::entropy()));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path)
            .map_err(|error| format!("{}: can't be made: {error}", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
