//! Opening a checkpoint: from the root that the superblock names to a forest that goes on from there.
//!
//! The one law: **what a checkpoint names and what its free set says are one and the same**: a block that is named
//! twice, or named and free, or neither named nor free, makes it no checkpoint of ours (H38). Nothing is deleted, and
//! nothing is taken for empty, because something could not be read.
//!
//! Blocks may come from this replica's disk or from a peer: whoever opens does not care. So this is state transfer too:
//! first what is opened here, then the blocks of messages, which [`Forest::references`] lists.

use alloc::vec::Vec;

use super::manifest::{Manifest, Root, require};
use super::{Checkpoint, Forest, ForestShape};
use crate::store::grid::block::{self, BlockRef, Kind};
use crate::store::grid::free_set::FreeSet;
use crate::wire::codec::Malformed;

/// See the module.
#[derive(Debug)]
pub struct Opening {
    forest: Forest,
    checkpoint: Checkpoint,
    stage: Stage,
    /// The blocks of this stage, and how many of them are here.
    blocks: Vec<BlockRef>,
    here: usize,
    root: Option<Root>,
    stream: Vec<u8>,
    /// Whose index each block of the stage belongs to: the run, and entries.
    index: Vec<(usize, u32)>,
    pages: Vec<BlockRef>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Root,
    Manifest,
    FreeSet,
    Index,
    Pages,
    Done,
}

impl Opening {
    /// # Panics
    /// When the shape is not sane.
    #[must_use]
    pub fn new(shape: ForestShape, checkpoint: Checkpoint) -> Self {
        Self {
            forest: Forest::new(shape),
            checkpoint,
            stage: Stage::Root,
            blocks: [checkpoint.root].into(),
            here: 0,
            root: None,
            stream: Vec::new(),
            index: Vec::new(),
            pages: Vec::new(),
        }
    }

    /// The blocks that are needed next, in this order. They may be read ahead, and are [given](Self::give) in order.
    #[must_use]
    pub fn wanted(&self) -> &[BlockRef] {
        &self.blocks[self.here..]
    }

    /// The first of the [wanted](Self::wanted) blocks. It is checked here.
    pub fn give(&mut self, payload: &[u8]) -> Result<(), Malformed> {
        let reference = *self.wanted().first().ok_or(Malformed)?;
        let shape = self.forest.shape.grid;
        let block = block::check(&shape, &reference, payload)?;
        let kind = match self.stage {
            Stage::Root => Kind::Root,
            Stage::Manifest => Kind::Manifest,
            Stage::FreeSet => Kind::FreeSet,
            Stage::Index => Kind::Index,
            Stage::Pages => Kind::Pages,
            Stage::Done => return Err(Malformed),
        };
        require(block.kind == kind)?;
        self.here += 1;
        match self.stage {
            Stage::Root => self.take_root(block.body)?,
            Stage::Index => {
                let (run, entries) = self.index[self.here - 1];
                let run = self.forest.tree.runs_mut().nth(run).ok_or(Malformed)?;
                run.extend(&shape, block.body, entries)?;
            }
            Stage::Pages => {
                let Forest { log, pages, .. } = &mut self.forest;
                log.load(reference, block.body, pages)?;
            }
            _ => self.stream.extend_from_slice(block.body),
        }
        self.next_stage()
    }

    /// Goes on to the next stage that needs blocks.
    fn next_stage(&mut self) -> Result<(), Malformed> {
        while self.here == self.blocks.len() && self.stage != Stage::Done {
            let root = self.root.as_ref().ok_or(Malformed)?;
            (self.here, self.stage) = (
                0,
                match self.stage {
                    Stage::Root => Stage::Manifest,
                    Stage::Manifest => {
                        require(self.stream.len() as u64 == root.manifest_size)?;
                        self.blocks.clone_from(&root.free_set);
                        self.take_manifest()?;
                        self.stream.clear();
                        Stage::FreeSet
                    }
                    Stage::FreeSet => {
                        require(self.stream.len() as u64 == root.free_set_size)?;
                        let blocks_max = self.forest.shape.grid.blocks_max;
                        self.forest.writer.free = FreeSet::decode(&self.stream, blocks_max)?;
                        self.plan_index();
                        Stage::Index
                    }
                    Stage::Index => {
                        self.forest.tree.resume()?;
                        self.blocks = core::mem::take(&mut self.pages);
                        Stage::Pages
                    }
                    Stage::Pages | Stage::Done => {
                        self.blocks.clear();
                        self.finish()?;
                        Stage::Done
                    }
                },
            );
        }
        Ok(())
    }

    fn take_root(&mut self, body: &[u8]) -> Result<(), Malformed> {
        let root = Root::decode(body, &self.forest.shape.grid)?;
        require(root.number == self.checkpoint.number && root.op == self.checkpoint.op)?;
        self.blocks.clone_from(&root.manifest);
        (self.here, self.stage) = (0, Stage::Manifest);
        self.root = Some(root);
        Ok(())
    }

    fn take_manifest(&mut self) -> Result<(), Malformed> {
        let manifest = Manifest::decode(&self.stream, &self.forest.shape)?;
        let forest = &mut self.forest;
        (forest.tree, forest.tail) = (manifest.tree, manifest.tail);
        (forest.erasures.pending, forest.erasures.done) = (manifest.pending, manifest.done);
        (forest.number, forest.op) = (self.checkpoint.number, self.checkpoint.op);
        (forest.wipe, forest.wipe_again) = (manifest.wipe, manifest.wipe_again);
        (forest.high_water, forest.full) = (manifest.high_water, manifest.full);
        self.pages = manifest.pages;
        Ok(())
    }

    fn plan_index(&mut self) {
        self.blocks.clear();
        for (at, run) in self.forest.tree.runs_mut().enumerate() {
            for index in &run.index {
                self.blocks.push(index.reference);
                self.index.push((at, index.entries));
            }
        }
    }

    /// All is here: see the one law.
    fn finish(&mut self) -> Result<(), Malformed> {
        let root = self.root.take().ok_or(Malformed)?;
        let forest = &mut self.forest;
        for reference in root.free_set.iter().chain([&self.checkpoint.root]) {
            require(forest.writer.free.take_at(reference.address))?;
        }
        forest.trailer.extend(root.manifest.iter().chain(&root.free_set).chain([&self.checkpoint.root]));
        let mut named = FreeSet::new(forest.shape.grid.blocks_max);
        for reference in forest.references() {
            let is_once = named.take_at(reference.address);
            require(is_once && forest.writer.free.is_referenced(reference.address))?;
        }
        require(named.used() == forest.writer.free.used())?;
        for room in 0..forest.shape.rooms {
            forest.cuts.first[room as usize] = forest.first(room);
        }
        forest.newest = Some(self.checkpoint);
        Ok(())
    }

    /// The forest, once nothing is wanted any more.
    #[must_use]
    pub fn done(self) -> Option<Forest> {
        (self.stage == Stage::Done).then_some(self.forest)
    }
}
