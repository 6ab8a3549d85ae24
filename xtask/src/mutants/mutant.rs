//! Which mutant this process runs: none, or the one whose number the environment names (`MUTANT`). Or else it writes
//! down at which points it could have run one (`MUTANT_REACH` names the file): four bytes for each point, once.

extern crate std;

use core::ops::Add;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::fs::File;
use std::io::Write as _;
use std::sync::OnceLock;

const NONE: u32 = u32::MAX;
const UNREAD: u32 = u32::MAX - 1;
const RECORDS: u32 = u32::MAX - 2;

static STATE: AtomicU32 = AtomicU32::new(UNREAD);
static REACHED: OnceLock<File> = OnceLock::new();
static SEEN: [AtomicBool; 1 << 16] = [const { AtomicBool::new(false) }; 1 << 16];

/// The mutant that this process runs, asked at the point whose first mutant is `point`.
#[inline]
pub fn active(point: u32) -> u32 {
    match STATE.load(Ordering::Relaxed) {
        number if number < RECORDS => number,
        _ => unusual(point),
    }
}

#[cold]
fn unusual(point: u32) -> u32 {
    if STATE.load(Ordering::Relaxed) == UNREAD {
        read();
    }
    match STATE.load(Ordering::Relaxed) {
        RECORDS => {
            record(point);
            NONE
        }
        number => number,
    }
}

fn read() {
    let number = if let Ok(number) = std::env::var("MUTANT") {
        number.parse().expect("a number")
    } else if let Some(path) = std::env::var_os("MUTANT_REACH") {
        let file = File::options().create(true).append(true).open(path).expect("a file for what is reached");
        REACHED.get_or_init(|| file);
        RECORDS
    } else {
        NONE
    };
    STATE.store(number, Ordering::Relaxed);
}

/// Allocates nothing: some tests look.
fn record(point: u32) {
    if !SEEN[point as usize].swap(true, Ordering::Relaxed) {
        let mut file = REACHED.get().expect("opened before");
        file.write_all(&point.to_le_bytes()).expect("what is reached can be written");
    }
}

#[inline]
pub fn is(number: u32) -> bool {
    active(number) == number
}

#[inline]
pub fn literal<T: Copy + From<bool> + Add<Output = T>>(number: u32, value: T) -> T {
    if is(number) { value + T::from(true) } else { value }
}
