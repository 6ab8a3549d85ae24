//! One run: trouble, healing, quiet.

use std::time::Duration;

use tigerchat_core::types::Instant;

use crate::faults::Plan;
use crate::history::What;
use crate::report::RunReport;
use crate::spectator::Tell;
use crate::world::World;
use crate::{Observer, Recipe};

/// How long after the healing all outstanding work may take.
const BOUND: Duration = Duration::from_secs(60);
/// How long the last commits (of leases that ran out) may take to reach everybody.
const LAST_COMMITS: Duration = Duration::from_secs(5);
/// How long edges may take to learn that clients are gone.
const LAST_NEWS: Duration = Duration::from_secs(5);
/// How long nothing may be left to do before a run is over: longer than an edge waits before it sends again.
const SETTLED: Duration = Duration::from_millis(600);
/// How often the run looks whether its users are done.
const LOOK: Duration = Duration::from_millis(50);

/// Runs one seed of a plan. A panic in the system under test unwinds through here; nothing is shared with other
/// runs, so that catching it is sound.
pub fn run(plan: &Plan, seed: u64, observer: &mut Observer<'_>) -> RunReport {
    run_recipe(&Recipe::of(plan, seed), observer, None)
}

/// Runs the world of a recipe; perhaps somebody watches.
pub fn run_recipe<'a>(recipe: &Recipe, observer: &'a mut Observer<'a>, tell: Option<Tell<'a>>) -> RunReport {
    let drawn = recipe.drawn();
    let (faulty_for, lease) = (drawn.faulty_for, drawn.shape.session_lease);
    // A replayed ping of an edge that is gone renews its lease: the last of them must be through.
    let echo = drawn.frames.as_ref().map_or(Duration::ZERO, |frames| *frames.replay_after.end());
    let mut world = World::new(drawn, recipe.dice, observer);
    world.only_troubles.clone_from(&recipe.troubles);
    if let Some(tell) = tell {
        world.show(tell);
    }
    world.begin_users();
    world.begin_trouble();
    let end = Instant(0).after(faulty_for);
    while !world.stopped && world.now < end && !world.users.are_done() {
        world.run_until(world.now.after(LOOK).min(end));
    }
    world.heal();
    let healed = world.now;
    let quiet = become_quiet(&mut world, healed);
    if !quiet {
        world.tell_what_all_wait_for();
    }
    if quiet {
        world.observe(What::Quiet);
        settle(&mut world, healed, echo + 2 * lease + Duration::from_millis(300));
        world.clear_disks();
    }
    let end = (quiet && !world.stopped).then(|| world.end(&world.core_members()));
    let virtual_time = world.now.since(Instant(0));
    world.close();
    RunReport {
        operations: world.users.operations,
        crashes: world.crashes,
        view_changes: world.views.iter().filter(|view| **view > 0).count() as u64,
        frames: world.network.counts().clone(),
        struck: std::mem::take(&mut world.struck),
        marks: world.marks,
        disks: world.disk_counts(),
        rotated: world.rotated(),
        intrusions: world.outsider.intrusions,
        harm: world.outsider.harm.take(),
        starved: world.starved(),
        virtual_time,
        events: world.events,
        digest: world.digest(),
        leak: world.leak.take(),
        end,
        stopped: world.stopped,
    }
}

/// Leases of edges that died run out within `grace`, and the last commits reach everybody.
fn settle(world: &mut World<'_>, healed: Instant, grace: Duration) {
    let patience = world.now.after(LAST_NEWS);
    while !world.stopped && world.now < patience && world.connections.has_ghosts() {
        world.run_until(world.now.after(LOOK));
    }
    let mut patience = world.now.after(grace);
    let mut settled = world.now;
    while !world.stopped && world.now < patience && world.now < settled.after(SETTLED) {
        world.run_until(world.now.after(LOOK));
        if !world.has_settled() {
            settled = world.now;
        }
        if !world.has_sound_primary() && world.now < healed.after(BOUND) {
            // Leases begin anew with each primary.
            patience = world.now.after(grace);
        }
    }
    let patience = world.now.after(LAST_COMMITS);
    while !world.stopped && world.now < patience && !world.has_converged() {
        world.run_until(world.now.after(LOOK));
    }
}

/// Whether everybody got everything within the bound.
fn become_quiet(world: &mut World<'_>, healed: Instant) -> bool {
    while !world.stopped && world.now <= healed.after(BOUND) {
        world.run_until(world.now.after(LOOK));
        if world.users.are_done() && world.has_converged() {
            return true;
        }
    }
    false
}
