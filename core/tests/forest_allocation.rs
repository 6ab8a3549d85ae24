//! What an op does to a warm forest allocates nothing: messages, slots, cuts, erasures, also while a checkpoint of the
//! interval before is written and pages have to be saved from it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use tigerchat_core::store::forest::{Forest, ForestShape, Standing};
use tigerchat_core::store::grid::GridShape;
use tigerchat_core::store::history::Key;
use tigerchat_core::store::history::record::{Record, State};
use tigerchat_core::store::pages::TableShape;
use tigerchat_core::wire::entry::Digest;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is handed to the system's allocator unchanged; the counter needs no memory of its own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ROOMS: u32 = 16;

#[test]
fn what_an_op_does_to_a_warm_forest_allocates_nothing() {
    let mut forest = Forest::new(ForestShape {
        grid: GridShape { offset: 0, block_sectors: 2, blocks_max: 5000, step: 8 },
        rooms: ROOMS,
        fan_out: 4,
        record_max: 2000,
        page_bytes: 500,
        tables: vec![TableShape { slot_bytes: 100, slots: 200 }],
        erasures_max: 100,
        erasures_per_work: 16,
        under_way: 8,
        interval_records: 400,
        interval_bytes: 400 * 200,
        interval_bytes_max: 400 * 200,
    });
    let (mut allocations, mut said) = (0, 0u64);
    for interval in 0..40 {
        for op in 0..400u64 {
            let before = ALLOCATIONS.get();
            said += 1;
            let (room, seq) = ((said % u64::from(ROOMS)) as u32, said / u64::from(ROOMS) + 1);
            let (chain, state) = (Digest::ZERO, State::Whole);
            let (meta, content) = (&[1; 40][..], &[2; 80][..]);
            let (seq, time, parent) = (seq - u64::from(room == 0), said, 0);
            forest.append(&Record { room, seq, time, parent, chain, state, meta, content });
            forest.slot_mut(0, (said * 7 % 200) as u32)[0] = said as u8;
            assert_eq!(forest.slot(0, (said * 7 % 200) as u32)[0], said as u8);
            if op.is_multiple_of(50) {
                forest.cut(room, seq.saturating_sub(20).max(1));
                forest.erase(Key { room, seq });
            }
            // Warm after two rounds of the two memtables.
            allocations += if interval < 4 { 0 } else { ALLOCATIONS.get() - before };
            if op > 200 {
                work(&mut forest);
            }
        }
        while !forest.is_complete() {
            work(&mut forest);
        }
        forest.freeze(said, &[]);
        forest.begin();
    }
    assert_eq!(allocations, 0);
}

/// A step of the work. Merges find their blocks nowhere but here.
fn work(forest: &mut Forest) {
    thread_local! {
        static BLOCKS: std::cell::RefCell<std::collections::BTreeMap<u64, Vec<u8>>> =
            const { std::cell::RefCell::new(std::collections::BTreeMap::new()) };
    }
    BLOCKS.with_borrow_mut(|blocks| {
        if forest.advance(1) == Ok(Standing::Reads) {
            let wanted: Vec<_> = forest.wanted().copied().collect();
            wanted
                .iter()
                .for_each(|block| forest.give(block, &blocks[&block.address]).expect("it is one of ours"));
        }
        while let Some((reference, payload)) = forest.writer().next_write() {
            blocks.insert(reference.address, payload.to_vec());
            forest.writer().written(reference.address);
        }
    });
}
