//! What a checkpoint consists of, as bytes: the root names the blocks of the manifest and of the free set; the manifest
//! names all others.
//!
//! The one law: **equal states give equal bytes, and whatever is read is checked before it is relied on**: counts
//! against what is left, addresses against the grid, and all references together against the free set. Layouts:
//! `docs/formats.md`, "Checkpoint".

use alloc::vec::Vec;

use super::{Forest, ForestShape};
use crate::store::grid::GridShape;
use crate::store::grid::block::{BLOCK_REF, BlockRef};
use crate::store::history::Key;
use crate::store::history::tree::Tree;
use crate::store::pages::PageLog;
use crate::wire::codec::{Malformed, Reader};

/// The format of roots and manifests that this release writes.
const VERSION: u32 = 1;

/// The first block of a checkpoint to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Root {
    pub(super) number: u64,
    pub(super) op: u64,
    pub(super) manifest_size: u64,
    pub(super) manifest: Vec<BlockRef>,
    pub(super) free_set_size: u64,
    pub(super) free_set: Vec<BlockRef>,
}

impl Root {
    pub(super) fn size(&self) -> usize {
        4 + 4 * 8 + 2 * 4 + (self.manifest.len() + self.free_set.len()) * BLOCK_REF
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&VERSION.to_le_bytes());
        for number in [self.number, self.op, self.manifest_size, self.free_set_size] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for references in [&self.manifest, &self.free_set] {
            out.extend_from_slice(&(references.len() as u32).to_le_bytes());
            references.iter().for_each(|reference| reference.encode(out));
        }
    }

    pub(super) fn decode(body: &[u8], shape: &GridShape) -> Result<Self, Malformed> {
        let mut fields = Reader::new(body);
        require(fields.u32()? == VERSION)?;
        let (number, op) = (fields.u64()?, fields.u64()?);
        let (manifest_size, free_set_size) = (fields.u64()?, fields.u64()?);
        let manifest = references(&mut fields, shape, manifest_size)?;
        let free_set = references(&mut fields, shape, free_set_size)?;
        fields.finish()?;
        Ok(Self { number, op, manifest_size, manifest, free_set_size, free_set })
    }
}

/// As many blocks as so many bytes are cut into.
fn references(fields: &mut Reader<'_>, shape: &GridShape, size: u64) -> Result<Vec<BlockRef>, Malformed> {
    let count = fields.u32()?;
    require(u64::from(count) == size.div_ceil(shape.body_max() as u64))?;
    require(count as usize <= fields.rest().len() / BLOCK_REF)?;
    (0..count).map(|_| BlockRef::decode(fields, shape)).collect()
}

impl Forest {
    pub(super) fn encode_manifest(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&VERSION.to_le_bytes());
        for keys in [&self.erasures.pending, &self.erasures.done] {
            out.extend_from_slice(&(keys.len() as u32).to_le_bytes());
            for key in keys {
                out.extend_from_slice(&key.room.to_le_bytes());
                out.extend_from_slice(&key.seq.to_le_bytes());
            }
        }
        out.extend_from_slice(&self.wipe.to_le_bytes());
        out.push(u8::from(self.wipe_again));
        out.push(u8::from(self.full));
        out.extend_from_slice(&self.high_water.to_le_bytes());
        self.tree.encode(out);
        self.log.encode(out);
        out.extend_from_slice(&(self.tail.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.tail);
    }

    /// Bytes of the largest manifest after so many more blocks were made.
    pub(super) fn manifest_size_max(&self, blocks: u64) -> u64 {
        let keys = 2 * 12 * u64::from(self.shape.erasures_max) + 8;
        let runs = self.tree.runs().count() as u64 + u64::from(self.shape.fan_out) + 4;
        let index: u64 = self.tree.runs().map(|run| run.index.len() as u64).sum();
        let references = index + self.log.blocks() as u64 + blocks;
        80 + keys + runs * 96 + references * (BLOCK_REF as u64 + 4) + self.tail.len() as u64
    }
}

/// A manifest whose runs and pages are still to be read from the blocks that it names.
#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) pending: Vec<Key>,
    pub(super) done: Vec<Key>,
    pub(super) wipe: u64,
    pub(super) wipe_again: bool,
    pub(super) full: bool,
    pub(super) high_water: u64,
    pub(super) tree: Tree,
    pub(super) pages: Vec<BlockRef>,
    pub(super) tail: Vec<u8>,
}

impl Manifest {
    pub(super) fn decode(bytes: &[u8], shape: &ForestShape) -> Result<Self, Malformed> {
        let mut fields = Reader::new(bytes);
        require(fields.u32()? == VERSION)?;
        let pending = keys(&mut fields, shape)?;
        require(pending.is_sorted_by(|one, next| one < next))?;
        let done = keys(&mut fields, shape)?;
        let (wipe, wipe_again, full, high_water) =
            (fields.u64()?, fields.u8()?, fields.u8()?, fields.u64()?);
        require(wipe_again <= 1 && full <= 1 && high_water <= shape.grid.blocks_max)?;
        let tree = Tree::decode(&mut fields, &shape.grid)?;
        let pages = PageLog::decode(&mut fields, &shape.grid)?;
        let tail = fields.long()?.to_vec();
        fields.finish()?;
        Ok(Self { pending, done, wipe, wipe_again: wipe_again == 1, full: full == 1, high_water, tree, pages, tail })
    }
}

fn keys(fields: &mut Reader<'_>, shape: &ForestShape) -> Result<Vec<Key>, Malformed> {
    let count = fields.u32()?;
    require(count <= shape.erasures_max)?;
    let mut keys = Vec::new();
    for _ in 0..count {
        let key = Key { room: fields.u32()?, seq: fields.u64()? };
        require(key.room < shape.rooms)?;
        keys.push(key);
    }
    Ok(keys)
}

pub(super) fn require(holds: bool) -> Result<(), Malformed> {
    if holds { Ok(()) } else { Err(Malformed) }
}
