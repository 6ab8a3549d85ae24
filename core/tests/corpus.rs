//! Replays the corpora of the fuzz targets: what a fuzzer once found stays found.

#[expect(unreachable_pub, reason = "the crate of the fuzz targets exports these functions")]
#[path = "../../fuzz/src/clients.rs"]
mod clients;
#[expect(unreachable_pub, reason = "written for whoever compiles it")]
#[path = "../../fuzz/src/corpus.rs"]
mod corpora;
#[expect(unreachable_pub, reason = "the crate of the fuzz targets exports these functions")]
#[path = "../../fuzz/src/disks.rs"]
mod disks;
#[expect(unreachable_pub, reason = "the crate of the fuzz targets exports these functions")]
#[path = "../../fuzz/src/replica.rs"]
mod replica;
#[expect(unreachable_pub, reason = "the crate of the fuzz targets exports these functions")]
#[path = "../../fuzz/src/targets.rs"]
mod targets;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use self::clients::CLIENT_TARGETS;
use self::corpora::inputs;
use self::disks::DISK_TARGETS;
use self::replica::REPLICA_TARGETS;
use self::targets::{TARGETS, Target};

fn targets() -> impl Iterator<Item = &'static (&'static str, Target)> {
    TARGETS.iter().chain(CLIENT_TARGETS).chain(DISK_TARGETS).chain(REPLICA_TARGETS)
}

#[test]
fn every_input_of_every_corpus_keeps_the_promise_of_its_target() {
    for (name, target) in targets() {
        inputs(name).iter().for_each(|input| target(input));
    }
}

/// The corpora are where a fuzzer begins: each holds something that is accepted.
#[test]
fn truncated_and_flipped_inputs_keep_it_too() {
    for (name, target) in targets() {
        for input in inputs(name) {
            for end in (0..input.len()).step_by(input.len() / 32 + 1) {
                target(&input[..end]);
                let mut flipped = input.clone();
                flipped[end] ^= 1 << (end % 8);
                target(&flipped);
            }
        }
    }
}

/// Some of a client's corpus with bytes changed, removed and put in, or nothing but bytes.
fn said() -> impl Strategy<Value = Vec<u8>> {
    let corpora: Vec<Vec<u8>> = CLIENT_TARGETS.iter().flat_map(|(name, _)| inputs(name)).collect();
    let edits = prop::collection::vec((any::<prop::sample::Index>(), 0..4_u8, any::<u8>()), 0..12);
    let edited = (prop::sample::select(corpora), edits).prop_map(|(mut bytes, edits)| {
        for (at, what, byte) in edits {
            let at = at.index(bytes.len().max(1));
            match what {
                0 if at < bytes.len() => bytes[at] = byte,
                1 if at < bytes.len() => drop(bytes.remove(at)),
                2 => bytes.truncate(at),
                _ => bytes.insert(at.min(bytes.len()), byte),
            }
        }
        bytes
    });
    prop_oneof![3 => edited, 1 => prop::collection::vec(any::<u8>(), 0..600)]
}

/// The same cases at every run: what a test says must not depend on the day. Fuzzers look for new ones.
fn bounded() -> ProptestConfig {
    let rng_seed = RngSeed::Fixed(1);
    ProptestConfig { cases: 128, failure_persistence: None, rng_seed, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(bounded())]

    /// Each target holds a second client, who must not notice.
    #[test]
    fn whatever_a_client_says_over_whatever_transport_the_others_are_served(bytes in said()) {
        for (_, target) in CLIENT_TARGETS {
            target(&bytes);
        }
    }

    #[test]
    fn a_replica_bears_any_sequence_of_events(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        replica::replica(&bytes);
    }
}
