//! Bytes between processes and on disks: checked decoding with explicit sizes, little-endian, no padding that
//! is not covered by a digest. `docs/formats.md` draws every layout. Numbers are never reused.

pub mod chat;
pub mod codec;
pub mod entry;
pub mod frame;
pub mod page;
pub mod retention;
