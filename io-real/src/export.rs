//! A room of a data file, written down as a text that verifies itself (`docs/formats.md`, "Export").
//!
//! The one law: **what is written was verified, and a text that could not be finished is not left behind as if it
//! were one**: each message is followed along the chain before its line is written, the last line comes after all of
//! them, and a file gets its name when it is whole and on the disk.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tigerchat_core::chat::RoomView;
use tigerchat_core::chat::export::{Head, Verified, Writer};
use tigerchat_core::store::grid::block::BlockRef;
use tigerchat_core::store::history::reader::Blocks;
use tigerchat_core::types::TenantId;
use tigerchat_core::vsr::machine::Unanswered;
use tigerchat_core::vsr::offline::{FileBlocks, Stopped};

use crate::cli::Export;
use crate::keys;

/// Rooms that an error names.
const NAMED: usize = 20;

pub fn run(args: &Export) -> Result<(), String> {
    let name = args.file.display();
    if let Some(out) = args.out.as_ref().filter(|out| out.exists()) {
        return Err(format!(
            "{}: exists already; export never overwrites: choose another name",
            out.display()
        ));
    }
    let file = File::open(&args.file).map_err(|error| format!("{name}: can't be read: {error}"))?;
    let mut read = |offset, into: &mut [u8]| file.read_exact_at(into, offset).is_ok();
    let sealing = keys::of_file(&file, args.key.as_deref()).map_err(|why| format!("{name}: {why}"))?;
    let stopped =
        Stopped::read_sealed(sealing.clone(), &mut read).map_err(|error| format!("{name}: {error}"))?;
    let room = room(&stopped, args)?;
    let mut blocks = FileBlocks::new(&stopped.superblock.config, &mut read).under(sealing.as_deref());
    let written = match &args.out {
        None => write_room(&stopped, &room, &mut blocks, &mut BufWriter::new(std::io::stdout().lock())),
        Some(out) => into_file(out, |to| write_room(&stopped, &room, &mut blocks, to)),
    };
    let written = written.map_err(|error| format!("{name}: room {}: {error}", room.name))?;
    tell(&stopped, &written);
    Ok(())
}

fn room<'a>(stopped: &'a Stopped, args: &Export) -> Result<RoomView<'a>, String> {
    let name = args.file.display();
    if stopped.is_state_lost() {
        return Err(format!(
            "{name}: its checkpoint is not whole, so no room is known: take the file of another replica \
             (`tigerchat inspect --verify` says more)"
        ));
    }
    let tenant = TenantId(args.tenant);
    stopped.chat().room(tenant, &args.room).ok_or_else(|| {
        let rooms = stopped.chat().rooms().filter(|room| room.tenant == tenant);
        let mut names: Vec<&str> = rooms.map(|room| room.name).take(NAMED + 1).collect();
        if names.len() > NAMED {
            names[NAMED] = "...";
        }
        format!(
            "{name}: tenant {} has no room {:?} here; it has {names:?}: `tigerchat inspect` shows all",
            tenant.0, args.room
        )
    })
}

/// What is not in the text itself: for whoever ran the command.
fn tell(stopped: &Stopped, written: &Verified) {
    let Verified { head, count, erased, chain, unproven } = written;
    eprintln!(
        "room {}: messages {}..={}, {count} of them, {erased} erased, chain {chain}",
        head.room, head.first, head.head
    );
    if *unproven > 0 {
        eprintln!(
            "the last {unproven} of them are in this replica's log, but this file alone does not prove that they were \
             committed; a replica that runs, or the files of the others, can tell"
        );
    }
    if stopped.executed() < stopped.view().op || stopped.head_uncertain {
        eprintln!(
            "the log of this file is damaged behind op {}: what was said later is not here",
            stopped.executed()
        );
    }
}

/// The last op that this file alone proves to be committed. No primary makes an entry before all but a pipeline of those
/// below it are committed.
fn proven(stopped: &Stopped) -> u64 {
    let pipeline = u64::from(stopped.superblock.config.pipeline);
    stopped.known_commit.max(stopped.executed().saturating_sub(pipeline))
}

/// Writes a room, verifying it on the way.
pub fn write_room(
    stopped: &Stopped,
    room: &RoomView<'_>,
    blocks: &mut dyn Blocks,
    to: &mut dyn Write,
) -> Result<Verified, String> {
    let fail = |error: std::io::Error| format!("can't be written: {error}");
    let (chat, config, proven) = (stopped.chat(), &stopped.superblock.config, proven(stopped));
    let anchor = chat.anchor(room.tenant, room.name, blocks).map_err(why)?;
    let head = Head {
        cluster: config.cluster,
        shard: config.shard,
        tenant: room.tenant,
        room: room.name.into(),
        epoch: room.epoch,
        first: room.first,
        head: room.head,
        anchor,
        op: stopped.executed(),
    };
    let not_whole = |wrong| format!("its chain is broken: {wrong}");
    let (mut writer, line) = Writer::begin(head).map_err(not_whole)?;
    to.write_all(&line).map_err(fail)?;
    let (mut unproven, mut failed) = (0, None);
    let seen = chat.linked_messages(room.tenant, room.name, blocks, &mut |message, erased| {
        if failed.is_some() {
            return;
        }
        unproven += u64::from(message.op > proven);
        let line = writer.message(&message, erased).map_err(not_whole);
        failed = line.and_then(|line| to.write_all(&line).map_err(fail)).err();
    });
    if let Some(failed) = failed {
        return Err(failed);
    }
    seen.map_err(why)?;
    let (line, written) = writer.end(unproven).map_err(not_whole)?;
    if written.chain != room.chain {
        return Err(format!("expected chain value {} at its head, found {}", room.chain, written.chain));
    }
    to.write_all(&line).and_then(|()| to.flush()).map_err(fail)?;
    Ok(written)
}

fn why(error: Unanswered) -> String {
    match error {
        Unanswered::Needs(BlockRef { address, .. }) => {
            format!(
                "block {address} is damaged: take the file of another replica, or repair this one by its peers"
            )
        }
        Unanswered::Malformed => "a block is not what the index says".into(),
    }
}

/// Writes a file that has its name only when it is whole.
fn into_file<T>(out: &Path, write: impl FnOnce(&mut dyn Write) -> Result<T, String>) -> Result<T, String> {
    let mut draft = out.as_os_str().to_owned();
    draft.push(".part");
    let draft = PathBuf::from(draft);
    let fail = |error: std::io::Error| format!("{}: {error}", draft.display());
    let file = File::create_new(&draft).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => format!(
            "{}: exists already: if it is left of an export that was interrupted, remove it",
            draft.display()
        ),
        _ => fail(error),
    })?;
    let mut to = BufWriter::new(file);
    let done = write(&mut to).and_then(|done| {
        let file = to.into_inner().map_err(|error| fail(error.into_error()))?;
        file.sync_all().map_err(fail)?;
        // Unlike a rename, this does not overwrite what appeared meanwhile.
        std::fs::hard_link(&draft, out).map_err(|error| format!("{}: {error}", out.display()))?;
        Ok(done)
    });
    let _ = std::fs::remove_file(&draft);
    done
}
