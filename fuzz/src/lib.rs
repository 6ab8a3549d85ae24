//! What the fuzz targets call. Tests compile the same functions and replay the corpora with them, so that `cargo test`
//! needs no fuzzer: `core/tests/corpus.rs`, `io-sim/tests/corpus.rs`, `io-real/src/corpus.rs`.

mod clients;
mod disks;
#[allow(dead_code, reason = "io-real uses the rest")]
#[path = "../../io-real/src/clients/http.rs"]
mod http;
mod outside;
mod replica;
mod targets;
#[allow(dead_code, reason = "io-real uses the rest")]
#[path = "../../io-real/src/texts.rs"]
mod texts;
mod worlds;

pub use clients::*;
pub use disks::*;
pub use outside::*;
pub use replica::*;
pub use targets::*;
pub use worlds::*;
