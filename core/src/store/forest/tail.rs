//! A checkpoint that says something else in its tail: for a restored shard, whose cluster is another.
//!
//! The one law: **nothing but the tail changes**: the same blocks at the same addresses; of those that hold the manifest,
//! and of the root, which names them, the digests are others. So all replicas that do it get the same checkpoint.

use alloc::vec::Vec;

use super::manifest::{Manifest, Root, require};
use super::{Checkpoint, ForestShape};
use crate::store::grid::GridShape;
use crate::store::grid::block::{self, BlockRef, Kind};
use crate::wire::codec::Malformed;

/// Gives the payload of a block.
pub type GetBlock<'a> = dyn FnMut(&BlockRef) -> Option<Vec<u8>> + 'a;

/// A block and its payload.
pub type Made = (BlockRef, Vec<u8>);

/// The checkpoint as it is once `change` was done to its tail, and the blocks that have to be written anew at their
/// addresses.
pub fn with_tail(
    shape: &ForestShape,
    checkpoint: Checkpoint,
    get: &mut GetBlock<'_>,
    change: &mut dyn FnMut(&mut [u8]) -> Result<(), Malformed>,
) -> Result<(Checkpoint, Vec<Made>), Malformed> {
    let grid = &shape.grid;
    let mut root = Root::decode(&body_of(grid, &checkpoint.root, Kind::Root, get)?, grid)?;
    require((root.number, root.op) == (checkpoint.number, checkpoint.op))?;
    let mut bodies = Vec::new();
    for reference in &root.manifest {
        bodies.push(body_of(grid, reference, Kind::Manifest, get)?);
    }
    let mut stream = bodies.concat();
    let tail = Manifest::decode(&stream, shape)?.tail.len();
    // It is the last of the manifest.
    let from = stream.len().checked_sub(tail).ok_or(Malformed)?;
    change(&mut stream[from..])?;
    let (mut made, mut rest) = (Vec::new(), &stream[..]);
    for (reference, body) in root.manifest.iter_mut().zip(&bodies) {
        let (part, others) = rest.split_at(body.len());
        rest = others;
        *reference = make(grid, Kind::Manifest, reference.address, root.number, part, &mut made);
    }
    let mut body = Vec::new();
    root.encode(&mut body);
    let reference = make(grid, Kind::Root, checkpoint.root.address, root.number, &body, &mut made);
    Ok((Checkpoint { root: reference, ..checkpoint }, made))
}

fn body_of(
    grid: &GridShape,
    reference: &BlockRef,
    kind: Kind,
    get: &mut GetBlock<'_>,
) -> Result<Vec<u8>, Malformed> {
    let payload = get(reference).ok_or(Malformed)?;
    let block = block::check(grid, reference, &payload)?;
    require(block.kind == kind)?;
    Ok(block.body.to_vec())
}

fn make(
    grid: &GridShape,
    kind: Kind,
    address: u64,
    number: u64,
    body: &[u8],
    made: &mut Vec<Made>,
) -> BlockRef {
    let mut payload = Vec::new();
    block::begin(kind, address, number, &mut payload);
    payload.extend_from_slice(body);
    let reference = block::finish(grid, &mut payload);
    made.push((reference, payload));
    reference
}
