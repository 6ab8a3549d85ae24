//! A warm chat state machine allocates nothing, also when its tables are full and everything old leaves.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use tigerchat_core::chat::{Chat, Limits};
use tigerchat_core::store::layout;
use tigerchat_core::types::TenantId;
use tigerchat_core::vsr::machine::{At, Machine};
use tigerchat_core::wire::chat::{Command, KIND_MESSAGE, Key, OUTCOME, Outcome, Publish};
use tigerchat_core::wire::codec::Reader;

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

const NOW_MS: u64 = 1_800_000_000_000;
const BODY: [u8; 200] = [7; 200];

/// A batch as an edge would send it: publishes of several users, one opening, one coming and going.
fn batch(op: u64, commands: &mut Vec<u8>) {
    commands.clear();
    let tenant = TenantId(1);
    let (user, room) = (["ann", "bob", "cy"][op as usize % 3], ["lobby", "ops"][op as usize % 2]);
    let publish = |number: u8| {
        Command::Publish(Publish {
            tenant,
            room,
            user,
            key: Key::new(NOW_MS + op, [number; 10]),
            kind: KIND_MESSAGE,
            parent: 0,
            expect_seq: None,
            salt: [number; 16],
            content_type: "text/plain",
            body: &BODY,
        })
    };
    let first = [Command::RoomOpen { tenant, room, user }, Command::Enter { tenant, room, user }];
    let last = [publish(0), Command::Leave { tenant, room, user }];
    for command in first.into_iter().chain((0..8).map(publish)).chain(last) {
        command.encode(commands).expect("a Vec is never full");
    }
}

#[test]
fn a_warm_machine_allocates_nothing() {
    let limits = Limits { room_messages: 200, keys: 1000, ..Limits::tiny() };
    // One interval brings all of it.
    let layout = layout::Layout {
        wal_slots: 10_000,
        slot_sectors: 16,
        block_sectors: 16,
        blocks_max: 1000,
        grid_step: 16,
    };
    let mut chat = Chat::new(limits, &layout);
    let (mut commands, mut reply, mut feed) =
        (Vec::with_capacity(1 << 16), Vec::with_capacity(1 << 16), Vec::with_capacity(1 << 16));
    let mut allocations = 0;
    for op in 1..5_000 {
        batch(op, &mut commands);
        reply.clear();
        feed.clear();
        let before = ALLOCATIONS.get();
        let at = At { op, index: 0, time: (NOW_MS + op) * 1_000_000 };
        assert!(chat.check(&commands));
        let count = chat.apply(at, op % 5, &commands, &mut reply, &mut feed);
        allocations += ALLOCATIONS.get() - before;
        let outcomes = reply.chunks_exact(OUTCOME).map(|bytes| Outcome::decode(&mut Reader::new(bytes)));
        assert_eq!((count, outcomes.filter(|outcome| outcome.unwrap().error.is_none()).count()), (12, 12));
    }
    assert_eq!(allocations, 0);
    assert_eq!(chat.usage().keys, 375, "the tables were full all the time");
    assert!(chat.rooms().all(|room| room.head - room.first + 1 == 200), "rooms were full all the time");
}
