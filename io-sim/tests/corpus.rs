//! Replays the corpora of the fuzz targets for scripts and recipes.

#[expect(unreachable_pub, reason = "written for whoever compiles it")]
#[path = "../../fuzz/src/corpus.rs"]
mod corpus;
#[expect(unreachable_pub, reason = "the crate of the fuzz targets exports these functions")]
#[path = "../../fuzz/src/worlds.rs"]
mod worlds;

#[test]
fn every_input_of_every_corpus_keeps_the_promise_of_its_target() {
    for (name, target) in worlds::WORLD_TARGETS {
        corpus::inputs(name).iter().for_each(|input| target(input));
    }
}
