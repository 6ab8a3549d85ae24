//! Texts that make a world: recipes.
//!
//! The one law: **a text is refused with a reason or read, and what was read is written and read the same.**

use io_sim::Recipe;

/// What a target does with an input: it returns, or panics with what was broken.
type Target = fn(&[u8]);

/// The targets of this file, by the names of their corpora.
pub const WORLD_TARGETS: &[(&str, Target)] = &[("recipe", recipe)];

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
