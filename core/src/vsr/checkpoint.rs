//! Checkpoints of the whole state: made at fixed ops, written beside the running log, two copies in turn.
//!
//! The one law: **the log below a checkpoint may be overwritten only when the superblock that names the checkpoint
//! is durable** (H36, H37): `journal.base` moves then and not before. All replicas make the checkpoint of an op
//! from the same bytes (I12).
//!
//! Image: header of the op's entry (128), length of the sessions (u64), sessions, length of the
//! members (u32), members as the log says last (none: those of format), state of the machine.

use alloc::vec::Vec;

use sha2::{Digest as _, Sha256};
use zerocopy::{FromBytes, IntoBytes};

use super::machine::Machine;
use super::marks::Mark;
use super::replica::{Replica, Status};
use super::tokens::Waits;
use crate::io::{DiskOp, Effects};
use crate::store::layout::{PAYLOAD, SECTOR};
use crate::store::sector::{self, Stamp, Zone};
use crate::store::superblock::CheckpointRef;
use crate::wire::codec::{Malformed, Reader};
use crate::wire::entry::{Digest, ENTRY_HEADER, EntryHeader};

/// Parts of a checkpoint that are written at a time.
const IN_FLIGHT: u32 = 4;

#[derive(Debug, Default)]
pub(super) struct Checkpointing {
    /// The state as it is now must be checkpointed before anything else is executed.
    due: Option<u64>,
    image: Option<Image>,
    /// The buffer of the last image, for the next one.
    spare: Vec<u8>,
}

/// A checkpoint on its way to the disk.
#[derive(Debug)]
struct Image {
    op: u64,
    copy: u32,
    bytes: Vec<u8>,
    /// Bytes of the whole: one that comes from a peer grows to it.
    size: u64,
    /// What a peer's must turn out to be: the first half of its digest.
    promised: Option<u128>,
    /// Parts at the front that lie on the disk already, from a transfer that a crash ended.
    kept: u32,
    /// Nobody wants it any more; its last writes have to end before another may begin.
    abandoned: bool,
    /// Parts submitted, parts that are not durable yet.
    submitted: u32,
    in_flight: u32,
    failed: bool,
    hash: Sha256,
    /// All parts are durable and a superblock that names it so was asked for.
    named: Option<CheckpointRef>,
}

impl<M: Machine> Replica<M> {
    /// Ops between checkpoints: half the log, so that the other half is there while a checkpoint is written.
    pub(super) fn checkpoint_interval(&self) -> u64 {
        (self.journal.slots() / 2).max(1)
    }

    /// Bytes of a checkpoint that one disk operation carries.
    pub(super) fn chunk_bytes(&self) -> usize {
        self.config.layout.slot_sectors as usize * PAYLOAD
    }

    pub(super) fn checkpoint_due(&mut self, op: u64) {
        if op.is_multiple_of(self.checkpoint_interval()) {
            self.checkpointing.due = Some(op);
        }
    }

    /// Takes the image that is due, unless one is still being written; says whether execution may go on.
    pub(super) fn checkpoint_allows(&mut self, effects: &mut Effects) -> bool {
        if self.state_lost {
            return false;
        }
        let Some(op) = self.checkpointing.due else { return true };
        if self.checkpointing.image.is_some() || self.sync.is_some() {
            self.mark(Mark::CheckpointAwaited);
            return false;
        }
        self.checkpointing.due = None;
        let mut bytes = core::mem::take(&mut self.checkpointing.spare);
        bytes.clear();
        bytes.extend_from_slice(self.executed.as_bytes());
        bytes.extend_from_slice(&[0; 8]);
        self.sessions.encode(&mut bytes);
        let sessions = (bytes.len() - ENTRY_HEADER - 8) as u64;
        bytes[ENTRY_HEADER..ENTRY_HEADER + 8].copy_from_slice(&sessions.to_le_bytes());
        let at = bytes.len() + 4;
        bytes.extend_from_slice(&[0; 4]);
        self.reconfiguration.encode(&mut bytes);
        let members = u32::try_from(bytes.len() - at).expect("few members");
        bytes[at - 4..at].copy_from_slice(&members.to_le_bytes());
        self.machine.encode(&mut bytes);
        self.write_image(op, bytes, effects);
        true
    }

    /// Starts writing an image of our own to the copy that is not in use.
    fn write_image(&mut self, op: u64, bytes: Vec<u8>, effects: &mut Effects) {
        let size = bytes.len() as u64;
        assert!(
            size <= self.config.layout.checkpoint_max() as u64,
            "format leaves room for the largest state"
        );
        self.begin_image(op, size, bytes, None);
        self.checkpoint_turn(effects);
    }

    fn begin_image(&mut self, op: u64, size: u64, bytes: Vec<u8>, promised: Option<u128>) {
        self.checkpointing.image = Some(Image {
            op,
            copy: 1 - self.superblock.durable().checkpoint.copy,
            bytes,
            size,
            promised,
            kept: 0,
            abandoned: false,
            submitted: 0,
            in_flight: 0,
            failed: false,
            hash: Sha256::new(),
            named: None,
        });
    }

    /// An image that comes from a peer, part by part: each goes to the disk as it comes, so that a crash does not
    /// lose what was transferred.
    pub(super) fn begin_foreign_image(&mut self, op: u64, size: u64, promised: u128) {
        let mut bytes = core::mem::take(&mut self.checkpointing.spare);
        bytes.clear();
        self.begin_image(op, size, bytes, Some(promised));
    }

    /// The next part of an image that comes from a peer; `kept`: it was read from our own disk.
    pub(super) fn extend_image(&mut self, part: &[u8], kept: bool) {
        let image = self.checkpointing.image.as_mut().expect("an image was begun");
        image.bytes.extend_from_slice(part);
        image.kept += u32::from(kept);
    }

    /// Bytes of the foreign image that are here.
    pub(super) fn image_received(&self) -> u64 {
        self.checkpointing.image.as_ref().map_or(0, |image| image.bytes.len() as u64)
    }

    /// Gives up an image; its copy may be written anew once its last writes have ended.
    pub(super) fn abandon_image(&mut self) {
        if let Some(image) = &mut self.checkpointing.image {
            image.abandoned = true;
        }
        self.drop_abandoned_image();
    }

    fn drop_abandoned_image(&mut self) {
        let ended = |image: &mut Image| image.abandoned && image.in_flight == 0;
        if let Some(image) = self.checkpointing.image.take_if(ended) {
            self.checkpointing.spare = image.bytes;
        }
    }

    /// Submits the next parts. One digest over all is made along the way.
    pub(super) fn checkpoint_turn(&mut self, effects: &mut Effects) {
        self.checkpoint_allows(effects);
        let chunk = self.chunk_bytes();
        let place = self.config.place(Zone::Checkpoint);
        let Some(image) = &mut self.checkpointing.image else { return };
        while image.in_flight < IN_FLIGHT && !image.failed && !image.abandoned {
            let start = image.submitted as usize * chunk;
            let left = image.size.saturating_sub(start as u64);
            let len = usize::try_from(left).unwrap_or(chunk).min(chunk);
            if len == 0 || image.bytes.len() < start + len {
                break;
            }
            let part = &image.bytes[start..start + len];
            if image.submitted < image.kept {
                image.hash.update(part);
                image.submitted += 1;
                continue;
            }
            let size = sector::sectors_for(part.len()) * SECTOR;
            let Some(mut draft) = self.pool.draft(size) else { return };
            draft.resize_to_overwrite(size);
            let from = self.config.layout.checkpoint_offset(image.copy);
            let offset = from + u64::from(image.submitted) * (chunk / PAYLOAD * SECTOR) as u64;
            let stamp = Stamp { op: image.op, view: 0, witness: 0, index: 0 };
            sector::seal(place, offset, stamp, part, draft.bytes_mut());
            image.hash.update(part);
            let token = Waits::CheckpointWritten { chunk: image.submitted }.token();
            Self::submit(effects, DiskOp::Write { token, offset, data: draft.seal(), durable: true });
            image.submitted += 1;
            image.in_flight += 1;
        }
        self.name_image();
    }

    pub(super) fn on_checkpoint_written(&mut self, _chunk: u32, written: bool) {
        if let Some(image) = &mut self.checkpointing.image {
            image.in_flight -= 1;
            image.failed |= !written;
        }
        self.drop_abandoned_image();
    }

    /// After a while: writes an image again of which the disk refused a part.
    pub(super) fn retry_image(&mut self) {
        if let Some(image) = self.checkpointing.image.as_mut().filter(|image| image.in_flight == 0)
            && image.failed
        {
            (image.failed, image.submitted, image.hash) = (false, 0, Sha256::new());
            self.mark(Mark::CheckpointRefused);
        }
    }

    /// Once all parts are durable the superblock may name the image.
    fn name_image(&mut self) {
        let chunk = self.chunk_bytes() as u64;
        let Some(image) = &mut self.checkpointing.image else { return };
        let all = u64::from(image.submitted) * chunk >= image.size;
        if !all || image.in_flight > 0 || image.failed || image.abandoned || image.named.is_some() {
            return;
        }
        let digest = Digest(image.hash.clone().finalize().into());
        let header = EntryHeader::read_from_prefix(&image.bytes).map(|(header, _)| header);
        let header = header.ok().filter(|header| header.op.get() == image.op);
        let (Some(header), true) = (header, image.promised.is_none_or(|half| half == digest.half())) else {
            // Not what the peer promised, or not what was kept: from the beginning.
            return self.transfer_was_wrong();
        };
        let checkpoint = CheckpointRef { header, digest, size: image.size, copy: image.copy };
        if header.release.get() > self.release.binary.newest {
            // A peer's, of a state that this binary can't run.
            return self.end_for(&header);
        }
        image.named = Some(checkpoint);
        let commit = self.commit_max;
        // While a view changes, the log that the superblock speaks of is not the one in memory.
        let witness = if self.status == Status::Normal { self.durable_op } else { 0 };
        self.superblock.change(|superblock| {
            superblock.checkpoint = checkpoint;
            superblock.commit = superblock.commit.max(commit);
            superblock.witness = superblock.witness.max(witness);
            if superblock.suffix_head() < checkpoint.op() {
                superblock.suffix.clear();
                superblock.suffix.push(header);
            }
        });
    }

    /// The superblock is durable: if it names our image, the log below may go.
    pub(super) fn checkpoint_settled(&mut self) {
        let durable = self.superblock.durable().checkpoint;
        if self.sync.is_none()
            && self.checkpointing.image.as_ref().is_some_and(|image| image.named == Some(durable))
        {
            self.checkpointing.spare = self.checkpointing.image.take().expect("looked at").bytes;
            self.journal.base = durable.op();
            self.durable_op = self.durable_op.max(durable.op());
        }
    }

    /// The image that sync wrote is named by the durable superblock: hand it back.
    pub(super) fn take_named_image(&mut self) -> Option<Vec<u8>> {
        let durable = self.superblock.durable().checkpoint;
        let image = self.checkpointing.image.take_if(|image| image.named == Some(durable))?;
        self.checkpointing.due = None;
        Some(image.bytes)
    }

    pub(super) fn keep_spare(&mut self, bytes: Vec<u8>) {
        self.checkpointing.spare = bytes;
    }

    pub(super) fn is_writing_image(&self) -> bool {
        self.checkpointing.image.is_some()
    }

    /// Replaces sessions, members and machine by those of an image whose digest was checked.
    pub(super) fn load_image(&mut self, bytes: &[u8]) -> Result<EntryHeader, Malformed> {
        let (header, rest) = EntryHeader::read_from_prefix(bytes).map_err(|_| Malformed)?;
        let mut reader = Reader::new(rest);
        let sessions = usize::try_from(reader.u64()?).map_err(|_| Malformed)?;
        let mut sessions = Reader::new(reader.take(sessions)?);
        self.sessions.decode(&mut sessions)?;
        sessions.finish()?;
        self.load_members(reader.long()?)?;
        self.machine.decode(reader.rest())?;
        Ok(header)
    }
}
