//! The forest that a shard's state is kept in.
//!
//! The one law: **its shape follows from limits and layout**, which all replicas of a shard have in common, and from
//! nothing else: what is written where follows from it (I34).

use super::history;
use super::limits::Limits;
use super::tables;
use crate::store::forest::ForestShape;
use crate::store::layout::Layout;

/// Logs up to this length are those of simulated worlds.
const SIMULATED_SLOTS: u32 = 64;
/// Runs that are merged into one.
const FAN_OUT: u32 = 8;
/// The same in simulated worlds: there merges happen all the time.
const FAN_OUT_SIMULATED: u32 = 2;
/// Bytes of a page: about a sector.
const PAGE_BYTES: usize = 4000;
/// Blocks that may be on their way to the disk.
const UNDER_WAY: u32 = 16;
/// Most bytes of an interval's messages for which memory is set aside. An interval that brings more takes more.
const INTERVAL_BYTES: u64 = 16 << 20;
/// Bytes by which the records of a message may exceed the command that brought it: what the command says once and
/// records say beside it, and the place in its thread.
const RECORD_BEYOND: u64 = 128;
/// Bytes of the shortest command that brings a message.
const COMMAND_LEAST: u64 = 68;
/// Bytes that a message is taken to have, when memory is set aside for places of messages.
const USUAL_RECORD: u64 = 256;

/// The shape of the forest for such limits in such a data file.
#[must_use]
pub fn forest_shape(limits: &Limits, layout: &Layout) -> ForestShape {
    let grid = layout.grid();
    let is_simulated = layout.wal_slots <= SIMULATED_SLOTS;
    let (erasures_max, erasures_per_work) = if is_simulated { (16, 4) } else { (256, 16) };
    let entry = layout.entry_max() as u64;
    let of_entry = entry + entry / COMMAND_LEAST * RECORD_BEYOND;
    let interval = layout.interval().saturating_mul(layout.entry_max() as u64).min(INTERVAL_BYTES);
    ForestShape {
        grid,
        rooms: limits.rooms + limits.threads,
        fan_out: if is_simulated { FAN_OUT_SIMULATED } else { FAN_OUT },
        record_max: history::record_max(limits),
        page_bytes: PAGE_BYTES.min(grid.body_max() / 2).max(tables::ROW_MAX) as u32,
        tables: tables::shapes(limits),
        erasures_max,
        erasures_per_work,
        under_way: UNDER_WAY,
        interval_records: (interval / USUAL_RECORD) as u32,
        interval_bytes: interval as u32,
        interval_bytes_max: layout.interval().saturating_mul(of_entry),
    }
}

/// Whether a shard with these limits can be kept in a data file with this layout.
#[must_use]
pub fn shape_is_sane(limits: &Limits, layout: &Layout) -> bool {
    layout.is_sane() && forest_shape(limits, layout).is_sane()
}
