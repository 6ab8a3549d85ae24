//! Says of a data file which of its sectors lie where others belong: swapped, or written to the wrong place.
//!
//! The one law: **every sector of log and grid is looked at**, also those that no checkpoint names.

use serde_json::json;
use tigerchat_core::errors::ErrorCode;
use tigerchat_core::store::layout::{SECTOR, SUPERBLOCK_ZONE};
use tigerchat_core::store::misplaced::home;
use tigerchat_core::store::sealing::Sealing;
use tigerchat_core::store::superblock::ShardConfig;
use tigerchat_core::vsr::offline::ReadAt;

use crate::keys::numbered;

/// Sectors that are read together.
const CHUNK: usize = 64;
/// Sectors that are named.
const NAMED: usize = 8;

pub fn look(
    config: &ShardConfig,
    sealing: Option<&dyn Sealing>,
    len: u64,
    read: &mut ReadAt<'_>,
    json: bool,
    damage: &mut Vec<String>,
) {
    let (mut found, mut scratch, mut image) = (Vec::new(), Vec::new(), vec![0; CHUNK * SECTOR]);
    let mut at = SUPERBLOCK_ZONE as u64;
    while at + SECTOR as u64 <= len {
        let sectors = usize::try_from((len - at) / SECTOR as u64).unwrap_or(CHUNK).min(CHUNK);
        let image = &mut image[..sectors * SECTOR];
        if read(at, image) {
            for (sector, offset) in image.chunks(SECTOR).zip((at..).step_by(SECTOR)) {
                found.extend(home(config, sealing, offset, sector, &mut scratch).map(|home| (offset, home)));
            }
        }
        at += image.len() as u64;
    }
    if json {
        println!("{}", json!({"misplaced": found}));
    }
    if found.is_empty() {
        return;
    }
    let named = found.iter().take(NAMED).map(|(offset, home)| format!("at {offset} lies that of {home}"));
    let named = named.collect::<Vec<_>>().join(", ");
    let more = if found.len() > NAMED { ", ..." } else { "" };
    damage.push(numbered(
        ErrorCode::SectorsMoved,
        format!("{} sectors lie where others belong: {named}{more}", found.len()),
    ));
}
