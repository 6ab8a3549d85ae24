//! After warm-up, commits through `Node::turn` allocate nothing: decode, batch, log, flush, acknowledge, execute,
//! reply, feed. Whatever the world around does (this harness, sockets, disks) is not counted.

mod cluster;
mod gateway;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use cluster::Cluster;
use gateway::{World, seqs};
use tigerchat_core::io::EdgeEvent;

struct Counting;

thread_local! {
    static IN_TURN: Cell<bool> = const { Cell::new(false) };
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is handed to the system's allocator unchanged; the counters need no memory of their own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if IN_TURN.get() {
            ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        }
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

#[test]
fn ten_thousand_commits_of_three_replicas_allocate_nothing() {
    // The log is long enough that no checkpoint falls into the measured part: making one is not the steady state.
    let mut cluster = Cluster::with_slots(3, 65_536);
    cluster.pass(std::time::Duration::from_millis(50));
    cluster.register();
    cluster.open_room();
    let tick = |cluster: &mut Cluster| {
        cluster.now.mono.0 += 1_000_000;
        cluster.now.wall.0 += 1_000_000;
        cluster.ping();
    };
    for number in 1..=6_000 {
        tick(&mut cluster);
        cluster.publish(number).expect("acknowledged");
    }
    cluster.around_turn = |inside| IN_TURN.set(inside);
    for number in 6_001..=16_000 {
        tick(&mut cluster);
        let outcome = cluster.publish(number).expect("acknowledged");
        assert_eq!((outcome.error, outcome.seq), (None, number));
    }
    cluster.around_turn = |_| {};
    assert_eq!(cluster.view(0).checkpoint, 0);
    assert_eq!(ALLOCATIONS.get(), 0);
}

/// The whole way: a JSON frame into the edge, a request to the primary, entries, flushes, execution on three
/// replicas, the reply, the feed, and the acknowledgement and the event out to the client as encoded frames.
#[test]
fn ten_thousand_publishes_through_edge_and_replicas_allocate_nothing() {
    let mut world = World::with_slots(65_536);
    let ada = world.client(0, 1, "ada");
    let publish = |world: &mut World, number: u32| {
        let key = world.key(number);
        let text = format!(
            r#"{{"id":9,"publish":{{"room":"general","key":"{key}","body":{{"text":"{number}"}}}}}}"#
        );
        world.turn(0, Some(EdgeEvent::Frame { connection: ada, bytes: text.as_bytes() }));
        world.settle();
        if number.is_multiple_of(4) {
            world.pass(1);
        }
        assert_eq!(seqs(&world.frames(ada)), [u64::from(number)], "acknowledged and delivered");
    };
    for number in 1..=6_000 {
        publish(&mut world, number);
    }
    world.around_turn = |inside| IN_TURN.set(inside);
    world.cluster.around_turn = |inside| IN_TURN.set(inside);
    for number in 6_001..=16_000 {
        publish(&mut world, number);
    }
    world.around_turn = |_| {};
    world.cluster.around_turn = |_| {};
    assert_eq!(world.cluster.view(0).checkpoint, 0);
    assert_eq!(ALLOCATIONS.get(), 0);
}
