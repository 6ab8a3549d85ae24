//! Which mutant this process runs: none, or the one whose number the environment names.

extern crate std;

use core::ops::Add;
use core::sync::atomic::{AtomicU32, Ordering};

const NONE: u32 = u32::MAX;
const UNREAD: u32 = u32::MAX - 1;

static ACTIVE: AtomicU32 = AtomicU32::new(UNREAD);

#[inline]
pub fn active() -> u32 {
    match ACTIVE.load(Ordering::Relaxed) {
        UNREAD => read(),
        number => number,
    }
}

#[cold]
fn read() -> u32 {
    let number = std::env::var("MUTANT").map_or(NONE, |number| number.parse().expect("a number"));
    ACTIVE.store(number, Ordering::Relaxed);
    number
}

#[inline]
pub fn is(number: u32) -> bool {
    active() == number
}

#[inline]
pub fn literal<T: Copy + From<bool> + Add<Output = T>>(number: u32, value: T) -> T {
    if is(number) { value + T::from(true) } else { value }
}
