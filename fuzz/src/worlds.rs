//! Texts that make a world: scripts and recipes.
//!
//! The one law: **a text is refused with a reason or played, and what was played plays the same once more.**

use io_sim::Recipe;
use io_sim::scenario::play;

/// What a target does with an input: it returns, or panics with what was broken.
type Target = fn(&[u8]);

/// The targets of this file, by the names of their corpora.
pub const WORLD_TARGETS: &[(&str, Target)] = &[("scenario", scenario), ("recipe", recipe)];

/// Commands, and seconds of virtual time, of one script: worlds cost time.
const COMMANDS_MAX: usize = 30;
const MILLISECONDS_MAX: u64 = 3_000;

/// A script.
pub fn scenario(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if text.lines().count() > COMMANDS_MAX || asked_for(text) > MILLISECONDS_MAX {
        return;
    }
    if let Ok(played) = play(text, &mut |_| {}) {
        let again = play(&played, &mut |_| {});
        assert_eq!(again.as_ref(), Ok(&played), "what was played plays the same once more");
    }
}

/// The time that a script lets pass, as far as it can be read; a time that is beyond all bounds is left to the script.
fn asked_for(text: &str) -> u64 {
    let times = text.lines().filter_map(|line| line.trim_start().strip_prefix("run")).map(str::trim);
    let read = |time: &str| {
        let (digits, unit) = time.strip_suffix("ms").map(|digits| (digits, 1)).or_else(|| {
            let digits = time.strip_suffix('s')?;
            Some((digits, 1000))
        })?;
        digits.parse::<u64>().ok()?.checked_mul(unit)
    };
    times.filter_map(read).fold(0, u64::saturating_add)
}

/// A recipe: written again it says the same, and its world can be drawn.
pub fn recipe(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(recipe) = Recipe::parse(text) else { return };
    assert!(Recipe::is_recipe(text), "what is read as a recipe is known as one");
    let again = recipe.to_string();
    let read = Recipe::parse(&again).map(|recipe| recipe.to_string());
    assert_eq!(read.as_ref(), Ok(&again), "a recipe is its text");
    let _ = recipe.drawn();
}
