//! What the fuzz targets call. `core/tests/corpus.rs` compiles the same functions and replays the corpora with them,
//! so that `cargo test` needs no fuzzer.

mod clients;
mod replica;
mod targets;

pub use clients::*;
pub use replica::*;
pub use targets::*;
