//! How to make one world: a plan and a seed, less what was taken away. `vopr --shrink` writes such files.
//!
//! ```text
//! world plan=swarm seed=733 dice=5
//! without partitions pauses frames.drop
//! users 1
//! only-aims 2
//! only-troubles 0 7
//! ```
//!
//! | line | |
//! |---|---|
//! | `world plan=NAME seed=S dice=D` | first of all; `dice` decides what happens by chance in the world that the seed drew, and is `seed` unless given |
//! | `without NAME ...` | knobs that are turned off: [`OFF`] |
//! | `users 1`, ... | knobs with another number: [`NUMBERS`] |
//! | `only-aims N ...` | of the aims that the seed drew, those (the first is 0) |
//! | `only-troubles N ...` | of the troubles that come by themselves, those; a trace shows their numbers |
//! | `# ...` | for people |
//!
//! The one law: **what a recipe makes is a function of its text and the build.**

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use tigerchat_core::vsr::quorum::Quorums;

use crate::faults::{Damage, Drawn, Plan};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    pub plan: Plan,
    pub seed: u64,
    pub dice: u64,
    /// By their place in [`OFF`].
    pub off: BTreeSet<usize>,
    /// One for each of [`NUMBERS`].
    pub numbers: [Option<u64>; NUMBERS.len()],
    /// `None`: all.
    pub aims: Option<BTreeSet<u32>>,
    /// `None`: all.
    pub troubles: Option<BTreeSet<u32>>,
}

/// Something that can be turned off.
#[derive(Clone, Copy, Debug)]
pub struct Switch {
    pub name: &'static str,
    off: fn(&mut Drawn),
}

/// Something that can be made smaller.
#[derive(Clone, Copy, Debug)]
pub struct Number {
    pub name: &'static str,
    pub least: u64,
    get: fn(&Drawn) -> u64,
    set: fn(&mut Drawn, u64),
}

macro_rules! switches {
    ($($name:literal $off:expr;)*) => { [$(Switch { name: $name, off: $off }),*] };
}

/// Groups come before their parts: what is turned off as a whole need not be tried in parts.
pub const OFF: [Switch; 45] = switches! {
    "frames" |drawn| drawn.frames = None;
    "partitions" |drawn| drawn.partitions = None;
    "bandwidth" |drawn| drawn.bandwidth = None;
    "slow-links" |drawn| drawn.slow_links = None;
    "resets" |drawn| drawn.resets = None;
    "crashes" |drawn| drawn.crashes = None;
    "ambushes" |drawn| drawn.ambushes = None;
    "aims" |drawn| drawn.aims.clear();
    "depositions" |drawn| drawn.depositions = None;
    "hand-overs" |drawn| drawn.hand_overs = None;
    "members" |drawn| drawn.members = None;
    "releases" |drawn| drawn.rolling = None;
    "slow-disk" |drawn| drawn.slow_disk = None;
    "damage" |drawn| drawn.damage = None;
    "disk-errors" |drawn| drawn.disk_errors = None;
    "full-disk" |drawn| drawn.full_disk = None;
    "pauses" |drawn| drawn.pauses = None;
    "outsider" |drawn| drawn.outsider = None;
    "clocks" |drawn| drawn.clocks = None;
    "breaks" |drawn| drawn.breaks = None;
    "sealed" |drawn| drawn.shape.sealed = false;
    "rotations" |drawn| drawn.shape.rotates = false;
    "ages" |drawn| drawn.shape.room_age_s = 0;
    "erasures" |drawn| drawn.erasures = None;
    "broken" |drawn| drawn.broken = false;
    "own-lines" |drawn| drawn.own_lines = false;
    "hostile" |drawn| drawn.work.hostile = false;
    "line" |drawn| drawn.work.line = false;
    "again" |drawn| drawn.work.again = 0;
    "latency.tail" |drawn| drawn.latency.tail_chance = 0;
    "latency.jitter" |drawn| drawn.latency.jitter = Duration::ZERO;
    "latency.uneven" |drawn| drawn.latency.uneven = 1;
    "frames.drop" |drawn| if let Some(frames) = &mut drawn.frames { frames.drop = 0 };
    "frames.duplicate" |drawn| if let Some(frames) = &mut drawn.frames { frames.duplicate = 0 };
    "frames.replay" |drawn| if let Some(frames) = &mut drawn.frames { frames.replay = 0 };
    "frames.corrupt" |drawn| if let Some(frames) = &mut drawn.frames { frames.corrupt = 0 };
    "frames.truncate" |drawn| if let Some(frames) = &mut drawn.frames { frames.truncate = 0 };
    "frames.reorder" |drawn| if let Some(frames) = &mut drawn.frames { frames.reorder = false };
    "members.lost-disk" |drawn| if let Some(members) = &mut drawn.members { members.lost_disk = 0 };
    "erasures.operator" |drawn| if let Some(erasures) = &mut drawn.erasures { erasures.operator = None };
    "crashes.power" |drawn| if let Some(crashes) = &mut drawn.crashes { crashes.power = 0 };
    "crashes.all" |drawn| if let Some(crashes) = &mut drawn.crashes { crashes.all = 0 };
    "crashes.edges" |drawn| if let Some(crashes) = &mut drawn.crashes { crashes.edges = 0 };
    "crashes.mid-turn" |drawn| if let Some(crashes) = &mut drawn.crashes { crashes.mid_turn = 0 };
    "crashes.aimed" |drawn| if let Some(crashes) = &mut drawn.crashes { crashes.aimed = 0 };
};

/// What makes a world small, most telling first.
pub const NUMBERS: [Number; 7] = [
    Number { name: "replicas", least: 1, get: |drawn| drawn.shape.replicas.into(), set: set_replicas },
    Number {
        name: "spares",
        least: 1,
        get: |drawn| drawn.members.as_ref().map_or(0, |members| members.spares.into()),
        set: |drawn, to| {
            if let Some(members) = &mut drawn.members {
                members.spares = small(to);
            }
        },
    },
    Number {
        name: "edges",
        least: 1,
        get: |drawn| drawn.shape.edges.into(),
        set: |drawn, to| drawn.shape.edges = small(to),
    },
    Number {
        name: "calls",
        least: 1,
        get: |drawn| drawn.work.operations.into(),
        set: |drawn, to| drawn.work.operations = u32::try_from(to).unwrap_or(u32::MAX),
    },
    Number {
        name: "users",
        least: 1,
        get: |drawn| drawn.work.users.into(),
        set: |drawn, to| drawn.work.users = small(to),
    },
    Number {
        name: "rooms",
        least: 1,
        get: |drawn| drawn.work.rooms.into(),
        set: |drawn, to| drawn.work.rooms = small(to),
    },
    Number {
        name: "faulty-ms",
        least: 50,
        get: |drawn| u64::try_from(drawn.faulty_for.as_millis()).unwrap_or(u64::MAX),
        set: |drawn, to| drawn.faulty_for = Duration::from_millis(to),
    },
];

fn small(number: u64) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

/// Fewer replicas: quorums and the fault atlas follow.
fn set_replicas(drawn: &mut Drawn, to: u64) {
    let shape = &mut drawn.shape;
    shape.replicas = small(to);
    if Quorums::of(shape.replicas, shape.replication_quorum).is_none() {
        shape.replication_quorum = shape.replicas / 2 + 1;
    }
    let (replicas, most) = (shape.replicas, Damage::victims_max(&shape.quorums()));
    if let Some(damage) = &mut drawn.damage {
        damage.victims.retain(|victim| *victim < replicas);
        damage.victims.truncate(most.into());
    }
    drawn.slow_disk = drawn.slow_disk.take().filter(|slow| slow.replica < replicas);
}

impl Recipe {
    /// The world of a seed, whole.
    #[must_use]
    pub fn of(plan: &Plan, seed: u64) -> Self {
        let (off, numbers) = (BTreeSet::new(), [None; NUMBERS.len()]);
        Self { plan: plan.clone(), seed, dice: seed, off, numbers, aims: None, troubles: None }
    }

    /// What is decided before the run begins.
    #[must_use]
    pub fn drawn(&self) -> Drawn {
        let mut drawn = self.plan.draw(self.seed);
        if let Some(kept) = &self.aims {
            let aims = drawn.aims.iter().zip(0_u32..).filter(|(_, number)| kept.contains(number));
            drawn.aims = aims.map(|(aim, _)| *aim).collect();
        }
        for (number, to) in NUMBERS.iter().zip(self.numbers) {
            // Nothing grows: a seed that draws less after a change of the build stays within its plan.
            if let Some(to) = to.filter(|to| *to < (number.get)(&drawn)) {
                (number.set)(&mut drawn, to);
            }
        }
        for switch in &self.off {
            (OFF[*switch].off)(&mut drawn);
        }
        drawn
    }

    /// A number of this world, by its place in [`NUMBERS`].
    #[must_use]
    pub fn number(&self, at: usize) -> u64 {
        (NUMBERS[at].get)(&self.drawn())
    }

    /// Whether a text is a recipe: its first line that says something begins with `world`.
    #[must_use]
    pub fn is_recipe(text: &str) -> bool {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.next().is_some_and(|line| line.split_whitespace().next() == Some("world"))
    }

    /// Errors name the line, what was found there, and what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut recipe = None;
        for (line, number) in text.lines().zip(1..) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let read = match (words.as_slice(), &mut recipe) {
                ([], _) => Ok(()),
                ([first, ..], _) if first.starts_with('#') => Ok(()),
                (["world", rest @ ..], None) => begin(rest).map(|begun| recipe = Some(begun)),
                (["world", ..], Some(_)) => Err("a second `world`; a file makes one".to_owned()),
                (_, None) => Err("a recipe begins with: world plan=NAME seed=S".to_owned()),
                (words, Some(recipe)) => recipe.change(words),
            };
            read.map_err(|why| format!("line {number}: {why}"))?;
        }
        recipe.ok_or_else(|| "a recipe begins with: world plan=NAME seed=S".to_owned())
    }

    fn change(&mut self, words: &[&str]) -> Result<(), String> {
        match words {
            ["without", names @ ..] => {
                for name in names {
                    let known = OFF.iter().position(|switch| switch.name == *name);
                    let names = OFF.map(|switch| switch.name).join(", ");
                    self.off.insert(known.ok_or(format!("there is no knob {name}; there are: {names}"))?);
                }
            }
            ["only-aims", kept @ ..] => self.aims = Some(numbers(kept)?),
            ["only-troubles", kept @ ..] => self.troubles = Some(numbers(kept)?),
            [name, value] => {
                let known = NUMBERS.iter().position(|number| number.name == *name);
                let at = known.ok_or_else(|| unknown(name))?;
                let value = digits(value)?;
                if value < NUMBERS[at].least {
                    return Err(format!("{name} is at least {}, not {value}", NUMBERS[at].least));
                }
                self.numbers[at] = Some(value);
            }
            [name, ..] => return Err(unknown(name)),
            [] => {}
        }
        Ok(())
    }
}

fn unknown(name: &str) -> String {
    let names = NUMBERS.map(|number| number.name).join(" N, ");
    format!("{name} is unknown; there are: without NAME ..., only-aims N ..., only-troubles N ..., {names} N")
}

fn begin(words: &[&str]) -> Result<Recipe, String> {
    let (mut plan, mut seed, mut dice) = (Plan::SWARM, None, None);
    for word in words {
        match word.split_once('=') {
            Some(("plan", name)) => {
                let known = Plan::ALL.map(|plan| plan.name).join(", ");
                plan = Plan::named(name).ok_or(format!("there is no plan {name}; there are: {known}"))?;
            }
            Some(("seed", value)) => seed = Some(digits(value)?),
            Some(("dice", value)) => dice = Some(digits(value)?),
            _ => return Err(format!("{word} is none of plan=NAME, seed=S, dice=D")),
        }
    }
    let seed = seed.ok_or("seed=S is missing")?;
    Ok(Recipe { dice: dice.unwrap_or(seed), ..Recipe::of(&plan, seed) })
}

fn digits(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("{word} is not a number"))
}

fn numbers(words: &[&str]) -> Result<BTreeSet<u32>, String> {
    words.iter().map(|word| word.parse().map_err(|_| format!("{word} is not a number"))).collect()
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "world plan={} seed={} dice={}", self.plan.name, self.seed, self.dice)?;
        for (number, to) in NUMBERS.iter().zip(self.numbers) {
            if let Some(to) = to {
                writeln!(f, "{} {to}", number.name)?;
            }
        }
        for off in &self.off {
            writeln!(f, "without {}", OFF[*off].name)?;
        }
        for (name, kept) in [("only-aims", &self.aims), ("only-troubles", &self.troubles)] {
            if let Some(kept) = kept {
                let kept: String = kept.iter().map(|number| format!(" {number}")).collect();
                writeln!(f, "{name}{kept}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut recipe = Recipe::of(&Plan::STORAGE, 733);
        assert_eq!(Recipe::parse(&recipe.to_string()), Ok(recipe.clone()));
        recipe.dice = 9;
        recipe.off = [1, 4].into();
        recipe.numbers[2] = Some(17);
        recipe.aims = Some([3].into());
        recipe.troubles = Some([5, 70].into());
        assert_eq!(Recipe::parse(&format!("# why\n\n{recipe}")), Ok(recipe));
    }

    #[test]
    fn nonsense_is_refused_with_its_line_and_what_there_is() {
        for (text, complaint) in [
            ("", "begins with: world"),
            ("users 3", "line 1: a recipe begins with"),
            ("world seed=1\nwithout luck", "line 2: there is no knob luck; there are: frames,"),
            ("world seed=1\n\nusers 0", "line 3: users is at least 1, not 0"),
            ("world seed=1\nfrogs 3", "frogs is unknown; there are: without"),
            ("world plan=none seed=1", "there is no plan none"),
            ("world plan=swarm", "seed=S is missing"),
            ("world seed=1\nworld seed=2", "a second"),
            ("world seed=1\nonly-troubles x", "x is not a number"),
        ] {
            let said = Recipe::parse(text).unwrap_err();
            assert!(said.contains(complaint), "{text}: {said}");
        }
    }

    #[test]
    fn every_switch_turns_something_off_and_nothing_grows() {
        let seeds = || (0..300).map(|seed| Recipe::of(&Plan::SWARM, seed));
        for (at, switch) in OFF.iter().enumerate() {
            let turned = seeds().any(|whole| {
                let less = Recipe { off: [at].into(), ..whole.clone() };
                less.drawn() != whole.drawn()
            });
            assert!(turned, "{} changes no seed", switch.name);
        }
        let mut recipe = Recipe::of(&Plan::SWARM, 1);
        let whole = recipe.drawn();
        recipe.numbers = [Some(u64::MAX); NUMBERS.len()];
        assert_eq!(recipe.drawn(), whole);
    }

    #[test]
    fn a_world_of_fewer_replicas_keeps_its_quorums_and_its_atlas_sound() {
        for seed in 0..100 {
            for replicas in 1..=3 {
                let mut recipe = Recipe::of(&Plan::SWARM, seed);
                recipe.numbers[0] = Some(replicas);
                let drawn = recipe.drawn();
                let most = usize::from(Damage::victims_max(&drawn.shape.quorums()));
                assert!(drawn.damage.is_none_or(|damage| damage.victims.len() <= most));
            }
        }
    }
}
