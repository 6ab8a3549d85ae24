//! The smallest world that fails like a given one.
//!
//! What is taken away changes what happens by chance, so that a fault may go unnoticed although it still is there:
//! each smaller world is tried with several dice before it counts as sound. The one law: **a smaller world counts
//! only if it breaks the same promise**; of panics, in the same place of the code.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use io_sim::Recipe;
use io_sim::recipe::{NUMBERS, OFF};
use io_sim::spectator::Sight;

use crate::run::tell_recipe;

/// Dice that a smaller world is tried with besides those of the world before.
const DICE: u64 = 6;
/// The same where a single trouble is left out.
const DICE_OF_TROUBLE: u64 = 1;
/// Dice of the smallest world, of which the shortest story is kept.
const DICE_AT_LAST: u64 = 40;

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub runs: u32,
    pub time: Duration,
}

impl Limits {
    pub const USUAL: Self = Self { runs: 3_000, time: Duration::from_secs(300) };
}

/// How a world failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    pub checker: String,
    pub what: String,
    /// Troubles that came by themselves and happened.
    pub troubles: BTreeSet<u32>,
    /// What there was to see, as the length of the story.
    pub sights: u64,
}

impl Broken {
    /// A panic is another one when it comes from elsewhere.
    fn is_like(&self, other: &Self) -> bool {
        let place = |broken: &Self| broken.what.rsplit_once(" (").map(|(_, place)| place.to_owned());
        self.checker == other.checker && (self.checker != "panic" || place(self) == place(other))
    }
}

/// What shrinking came to.
#[derive(Clone, Debug)]
pub struct Shrunk {
    pub recipe: Recipe,
    pub before: Broken,
    pub after: Broken,
    pub runs: u32,
    /// Everything was tried within the limits.
    pub finished: bool,
}

/// Runs a world and says how it failed, if it did.
#[must_use]
pub fn judge(recipe: &Recipe) -> Option<Broken> {
    let seen = Rc::new(RefCell::new((BTreeSet::new(), 0)));
    let noted = Rc::clone(&seen);
    let watch = Box::new(move |_, sight| {
        let (troubles, sights) = &mut *noted.borrow_mut();
        *sights += 1;
        if let Sight::Trouble { number, .. } = sight {
            troubles.insert(number);
        }
    });
    let failure = tell_recipe(recipe, &mut |_| {}, Some(watch)).0.failure?;
    let (troubles, sights) = seen.take();
    Some(Broken { checker: failure.checker, what: failure.what, troubles, sights })
}

/// Makes a failing world as small as it gets. `None`: it does not fail. `progress` hears of every run.
#[must_use]
pub fn shrink(
    whole: &Recipe,
    limits: Limits,
    judge: &mut dyn FnMut(&Recipe) -> Option<Broken>,
    progress: &mut dyn FnMut(u32, &Recipe, &Broken),
) -> Option<Shrunk> {
    let before = judge(whole)?;
    let until = Instant::now() + limits.time;
    let (best, after) = (whole.clone(), before.clone());
    let mut search = Search { best, after, runs: 1, limits, until, judge, progress };
    loop {
        let last = search.best.clone();
        search.turn_off();
        search.make_fewer();
        search.keep_few_aims();
        search.keep_few_troubles();
        if search.best == last || search.is_over() {
            break;
        }
    }
    search.find_short_story();
    let Search { best, after, runs, .. } = search;
    let finished = runs < limits.runs && Instant::now() < until;
    Some(Shrunk { recipe: best, before, after, runs, finished })
}

struct Search<'a> {
    best: Recipe,
    after: Broken,
    runs: u32,
    limits: Limits,
    until: Instant,
    judge: &'a mut dyn FnMut(&Recipe) -> Option<Broken>,
    progress: &'a mut dyn FnMut(u32, &Recipe, &Broken),
}

impl Search<'_> {
    fn is_over(&self) -> bool {
        self.runs >= self.limits.runs || Instant::now() >= self.until
    }

    /// Runs a world; how it fails, if it does so like the first.
    fn run(&mut self, recipe: &Recipe) -> Option<Broken> {
        if self.is_over() {
            return None;
        }
        self.runs += 1;
        (self.progress)(self.runs, &self.best, &self.after);
        (self.judge)(recipe).filter(|broken| broken.is_like(&self.after))
    }

    /// Takes a smaller world if it fails with some dice.
    fn take(&mut self, smaller: &Recipe, dice: u64) -> bool {
        for dice in std::iter::once(smaller.dice).chain(0..dice) {
            let candidate = Recipe { dice, ..smaller.clone() };
            if let Some(after) = self.run(&candidate) {
                (self.best, self.after) = (candidate, after);
                return true;
            }
        }
        false
    }

    fn turn_off(&mut self) {
        for at in 0..OFF.len() {
            let mut smaller = self.best.clone();
            if smaller.off.insert(at) && smaller.drawn() != self.best.drawn() {
                self.take(&smaller, DICE);
            }
        }
    }

    fn make_fewer(&mut self) {
        for (at, number) in NUMBERS.iter().enumerate() {
            // Too few to fail, and enough.
            let (mut few, mut enough) = (number.least - 1, self.best.number(at));
            let mut next = number.least;
            while few + 1 < enough && !self.is_over() {
                let mut smaller = self.best.clone();
                smaller.numbers[at] = Some(next);
                if self.take(&smaller, DICE) {
                    enough = next;
                } else {
                    few = next;
                }
                next = few + (enough - few) / 2;
            }
        }
    }

    fn keep_few_aims(&mut self) {
        let drawn = self.best.plan.draw(self.best.seed).aims.len();
        let all = (0..u32::try_from(drawn).unwrap_or(u32::MAX)).collect();
        let kept = self.best.aims.clone().unwrap_or(all);
        // Where all aims are off, none is left to name.
        if !self.best.drawn().aims.is_empty() {
            self.keep_few(kept, DICE, |recipe, kept| recipe.aims = Some(kept));
        }
    }

    fn keep_few_troubles(&mut self) {
        let kept = self.after.troubles.clone();
        if !kept.is_empty() {
            self.keep_few(kept, DICE_OF_TROUBLE, |recipe, kept| recipe.troubles = Some(kept));
        }
    }

    /// Leaves out pieces of a set: all of it, halves, quarters, ... single ones.
    fn keep_few(&mut self, mut kept: BTreeSet<u32>, dice: u64, set: fn(&mut Recipe, BTreeSet<u32>)) {
        let mut piece = kept.len();
        while piece > 0 && !self.is_over() {
            let mut at = 0;
            while at < kept.len() {
                let rest: BTreeSet<u32> = kept
                    .iter()
                    .enumerate()
                    .filter(|(i, _)| !(at..at + piece).contains(i))
                    .map(|(_, it)| *it)
                    .collect();
                let mut smaller = self.best.clone();
                set(&mut smaller, rest.clone());
                if self.take(&smaller, dice) {
                    kept = rest;
                } else {
                    at += piece;
                }
            }
            piece /= 2;
        }
    }

    fn find_short_story(&mut self) {
        for dice in 0..DICE_AT_LAST {
            let candidate = Recipe { dice, ..self.best.clone() };
            if let Some(broken) = self.run(&candidate)
                && broken.sights < self.after.sights
            {
                (self.best, self.after) = (candidate, broken);
            }
        }
    }
}

impl Shrunk {
    /// A file that replays it, and says what it is.
    #[must_use]
    pub fn file(&self, from: &str) -> String {
        let what = self.after.what.replace('\n', " ");
        format!(
            "# Shrunk from: {from}\n# In the build that failed, it broke {}: {what}\n\n{}",
            self.after.checker, self.recipe
        )
    }
}

#[cfg(test)]
mod tests {
    use io_sim::Plan;

    use super::*;

    const FEW: Limits = Limits { runs: 2_000, time: Duration::from_secs(60) };

    fn broken(checker: &str, recipe: &Recipe) -> Broken {
        let all: BTreeSet<u32> = (0..40).collect();
        let troubles = recipe.troubles.clone().unwrap_or(all);
        Broken { checker: checker.into(), what: "made up".into(), troubles, sights: 100 + recipe.dice }
    }

    /// A seed of the swarm that draws crashes and more than one user.
    fn busy() -> Recipe {
        let seeds = (0..).map(|seed| Recipe::of(&Plan::SWARM, seed));
        let fits = |recipe: &Recipe| {
            let drawn = recipe.drawn();
            drawn.crashes.is_some()
                && drawn.frames.is_some()
                && drawn.shape.replicas == 5
                && drawn.work.users > 2
        };
        seeds.into_iter().find(fits).unwrap()
    }

    #[test]
    fn what_a_failure_does_not_need_is_taken_away() {
        let mut judge = |recipe: &Recipe| {
            let drawn = recipe.drawn();
            // Without frames that break it fails in another way, which must not be mistaken for this one.
            drawn.frames.as_ref().map_or(Some(broken("other", recipe)), |_| {
                let troubles =
                    recipe.troubles.as_ref().is_none_or(|kept| kept.contains(&7) && kept.contains(&30));
                let fails = drawn.crashes.is_some()
                    && drawn.shape.replicas >= 3
                    && drawn.work.users >= 2
                    && drawn.work.operations >= 33
                    && troubles;
                fails.then(|| broken("made-up", recipe))
            })
        };
        let mut heard = 0;
        let shrunk = shrink(&busy(), FEW, &mut judge, &mut |_, _, _| heard += 1).unwrap();
        let drawn = shrunk.recipe.drawn();
        assert!(shrunk.finished, "{} runs", shrunk.runs);
        assert_eq!(shrunk.after.checker, "made-up");
        assert_eq!(heard + 1, shrunk.runs);
        assert_eq!((drawn.shape.replicas, drawn.work.users, drawn.work.operations), (3, 2, 33));
        assert_eq!(shrunk.recipe.troubles, Some([7, 30].into()));
        assert!(drawn.crashes.is_some() && drawn.frames.is_some());
        assert!(drawn.partitions.is_none() && drawn.aims.is_empty() && drawn.damage.is_none());
        assert_eq!(shrunk.recipe.dice, 0, "the shortest story");
    }

    #[test]
    fn other_dice_show_what_these_hide() {
        // It takes crashes, and luck once something was changed.
        let whole = busy();
        let mut judge = |recipe: &Recipe| {
            let luck = *recipe == whole || recipe.dice % 3 == 2;
            (luck && recipe.drawn().crashes.is_some()).then(|| broken("made-up", recipe))
        };
        let shrunk = shrink(&whole, FEW, &mut judge, &mut |_, _, _| {}).unwrap();
        assert_eq!(shrunk.recipe.drawn().shape.replicas, 1);
        assert!(shrunk.recipe.drawn().frames.is_none());
    }

    #[test]
    fn runs_are_bounded_and_a_sound_world_is_none() {
        assert!(shrink(&busy(), FEW, &mut |_| None, &mut |_, _, _| {}).is_none());
        let limits = Limits { runs: 10, ..FEW };
        let mut judge = |recipe: &Recipe| Some(broken("made-up", recipe));
        let shrunk = shrink(&busy(), limits, &mut judge, &mut |_, _, _| {}).unwrap();
        assert_eq!((shrunk.runs, shrunk.finished), (10, false));
    }

    #[test]
    fn panics_in_other_places_are_other_failures() {
        let panic = |what: &str| Broken { what: what.into(), ..broken("panic", &busy()) };
        assert!(panic("op 7 (core/src/a.rs:3)").is_like(&panic("op 9 (core/src/a.rs:3)")));
        assert!(!panic("op 7 (core/src/a.rs:3)").is_like(&panic("op 7 (core/src/b.rs:3)")));
    }

    #[test]
    fn a_file_tells_where_it_comes_from_and_is_read_again() {
        let shrunk =
            shrink(&busy(), Limits { runs: 1, ..FEW }, &mut |it| Some(broken("x", it)), &mut |_, _, _| {});
        let file = shrunk.unwrap().file("vopr --seed 1");
        assert!(
            file.starts_with(
                "# Shrunk from: vopr --seed 1\n# In the build that failed, it broke x: made up\n"
            )
        );
        assert!(Recipe::is_recipe(&file));
        assert_eq!(Recipe::parse(&file), Ok(busy()));
    }
}
