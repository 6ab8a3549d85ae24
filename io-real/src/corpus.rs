//! Replays the corpora of the fuzz targets for what comes from outside by way of this program.

use crate::clients::http;
use crate::texts;

#[path = "../../fuzz/src/corpus.rs"]
mod corpora;
#[path = "../../fuzz/src/outside.rs"]
mod outside;

/// Each input as it is, cut short, and with a flipped bit.
#[test]
fn every_input_of_every_corpus_keeps_the_promise_of_its_target() {
    for (name, target) in outside::OUTSIDE_TARGETS {
        for input in corpora::inputs(name) {
            target(&input);
            for end in 0..input.len() {
                target(&input[..end]);
                let mut flipped = input.clone();
                flipped[end] ^= 1 << (end % 8);
                target(&flipped);
            }
        }
    }
}
