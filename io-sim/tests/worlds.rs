//! Whole runs: the same every time, busy enough to be worth something, and without a buffer lost.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::rc::Rc;

use io_sim::recipe::OFF;
use io_sim::spectator::Sight;
use io_sim::{Fate, Plan, Recipe, RunReport, run};
use tigerchat_core::wire::frame::Command;

fn ran(plan: &Plan, seed: u64) -> RunReport {
    run(plan, seed, &mut |_| ControlFlow::Continue(()))
}

#[test]
fn h60_one_seed_is_one_history_bit_for_bit() {
    for seed in 0..4 {
        assert_eq!(ran(&Plan::SWARM, seed), ran(&Plan::SWARM, seed), "seed {seed}");
    }
    assert_ne!(ran(&Plan::SWARM, 1).digest, ran(&Plan::SWARM, 2).digest);
}

#[test]
fn every_plan_ends_in_quiet_and_with_all_buffers_home() {
    for plan in Plan::ALL {
        for seed in 0..3 {
            let report = ran(&plan, seed);
            assert_eq!(report.leak, None, "plan {}, seed {seed}", plan.name);
            assert_eq!(report.harm, None, "plan {}, seed {seed}", plan.name);
            assert!(report.end.is_some(), "plan {}, seed {seed} never became quiet", plan.name);
            assert!(report.operations >= 200, "plan {}, seed {seed}: {}", plan.name, report.operations);
        }
    }
}

/// Views change when something is wrong, and nothing is (H17, H18, H19).
#[test]
fn calm_worlds_stay_in_their_first_view() {
    for seed in 0..30 {
        assert_eq!(ran(&Plan::CALM, seed).view_changes, 0, "seed {seed}");
    }
}

#[test]
fn an_outsider_is_heard_and_changes_nothing() {
    let reports: Vec<RunReport> = (0..8).map(|seed| ran(&Plan::NETWORK, seed)).collect();
    assert!(reports.iter().map(|report| report.intrusions).sum::<u64>() > 100);
    assert!(reports.iter().all(|report| report.harm.is_none()));
}

#[test]
fn an_observer_who_has_had_enough_ends_the_run() {
    let mut seen = 0;
    let report = run(&Plan::CALM, 1, &mut |_| {
        seen += 1;
        if seen < 10 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    assert_eq!(seen, 10);
    assert!(report.stopped && report.end.is_none());
}

/// A world's report, and everything that there was to see.
fn watched(recipe: &Recipe) -> (RunReport, Vec<Sight>) {
    let sights = Rc::new(RefCell::new(Vec::new()));
    let noted = Rc::clone(&sights);
    let tell = Box::new(move |_, sight| noted.borrow_mut().push(sight));
    let report = io_sim::run_recipe(recipe, &mut |_| ControlFlow::Continue(()), Some(tell));
    (report, sights.take())
}

#[test]
fn whoever_watches_changes_nothing_and_sees_every_frame_and_crash() {
    let recipe = Recipe::of(&Plan::SWARM, 3);
    let (report, sights) = watched(&recipe);
    assert_eq!(report, ran(&Plan::SWARM, 3));
    let sent: u64 = Command::ALL.iter().map(|command| report.frames.of(*command)[Fate::Sent as usize]).sum();
    let seen = sights.iter().filter(|sight| matches!(sight, Sight::Sent { .. })).count() as u64;
    assert!(sent > 1_000 && seen >= sent, "{seen} of {sent} frames");
    let falls = sights.iter().filter(|sight| matches!(sight, Sight::Stands { up: false, .. })).count() as u64;
    // One that falls while it starts was never seen up.
    assert!(falls > 0 && falls <= report.crashes, "{falls} of {} crashes", report.crashes);
}

#[test]
fn trouble_that_a_recipe_leaves_out_does_not_happen() {
    let of = |sights: &[Sight]| -> Vec<u32> {
        let numbers = sights.iter().filter_map(|sight| match sight {
            Sight::Trouble { number, .. } => Some(*number),
            _ => None,
        });
        numbers.collect()
    };
    let mut recipe = Recipe::of(&Plan::STORAGE, 3);
    assert!(of(&watched(&recipe).1).len() > 5);
    recipe.troubles = Some([2].into());
    assert_eq!(of(&watched(&recipe).1), [2]);
    recipe.troubles = Some([].into());
    assert!(of(&watched(&recipe).1).is_empty());
}

/// What lies on the disks is no part of what happens: a sealed world is the same world, but for what rotations write anew.
#[test]
fn sealing_changes_no_event_of_a_world() {
    let switch = |name| OFF.iter().position(|switch| switch.name == name).expect("a switch");
    let sealed =
        (0..60).map(|seed| Recipe { off: [switch("rotations")].into(), ..Recipe::of(&Plan::STORAGE, seed) });
    let sealed: Vec<Recipe> = sealed.filter(|recipe| recipe.drawn().shape.sealed).take(4).collect();
    assert_eq!(sealed.len(), 4, "a share of the worlds is sealed");
    for recipe in sealed {
        let plain = Recipe { off: [switch("rotations"), switch("sealed")].into(), ..recipe.clone() };
        assert!(!plain.drawn().shape.sealed);
        assert_eq!(watched(&recipe).0.digest, watched(&plain).0.digest, "{recipe}");
    }
}
