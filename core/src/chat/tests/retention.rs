//! What is gone by rules of retention: never too early, late within the stated bound, and never there again.

use proptest::prelude::*;

use super::*;
use crate::wire::retention::{FOREVER, INHERITED, Policy, RETAINED, Retain, Retained};

const LIMITS: Limits = Limits {
    rooms: 3,
    keys: 64,
    key_horizon_ms: 1 << 40,
    present: 4,
    body_max: 300,
    room_messages: 0,
    threads: 3,
    room_age_s: 0,
    tenants: 2,
    marks: 6,
};

const ROOMS: [&str; 3] = ["r", "s", "t"];

fn retain(room: &str, messages: Option<u32>, age_s: Option<u32>) -> Command<'_> {
    Command::Retain(Retain { tenant: TENANT, room, user: "operator", messages, age_s })
}

impl World {
    fn open_all(&mut self) {
        for room in ROOMS {
            self.open(room);
        }
    }

    /// So many seconds pass.
    fn wait(&mut self, seconds: u64) {
        self.op += seconds;
    }

    fn say(&mut self, room: &str, number: u64) -> Outcome {
        let mut random = [0; 10];
        random[..8].copy_from_slice(&number.to_le_bytes());
        // Later ones have later keys: none leaves for them that is still used.
        let key = Key::new(NOW_MS + number, random);
        let outcome = self.one(publish(Publish { room, ..message(key, b"hi") }));
        assert_eq!(outcome.error, None);
        outcome
    }

    /// Somebody comes into another room and leaves: the clock goes on.
    fn tick(&mut self) {
        let (tenant, room, user) = (TENANT, ROOMS[2], "ann");
        self.open(room);
        self.one(Command::Leave { tenant, room, user });
    }

    fn first(&self, room: &str) -> u64 {
        self.chat.room(TENANT, room).unwrap().first
    }

    fn shown(&mut self, room: &str) -> (AnswerHead, Retained) {
        let mut query = vec![];
        Query::Retention { tenant: TENANT, room }.encode(&mut query).unwrap();
        let mut bytes = vec![];
        self.chat.query(&query, &mut NoBlocks, &mut bytes).unwrap();
        let mut reader = Reader::new(&bytes);
        let head = AnswerHead::decode(&mut reader).unwrap();
        let retained =
            if head.count == 1 { Retained::decode(&mut reader).unwrap() } else { Retained::default() };
        reader.finish().unwrap();
        (head, retained)
    }
}

#[test]
fn what_is_older_than_allowed_is_gone_and_a_silent_room_too() {
    let mut world = World::new(Limits { room_age_s: 40, ..LIMITS });
    world.open_all();
    let chains: Vec<Digest> = (0..10)
        .map(|number| {
            world.wait(9);
            world.say("r", number).chain
        })
        .collect();
    // Said 10 s apart; marks are 10 s wide, so of each message it is known to the second when it was said.
    assert_eq!(world.first("r"), 6, "from 50 s on");
    assert_eq!(world.chat.anchor(TENANT, "r", &mut world.disk), Ok(chains[4]));
    assert_eq!(world.messages().len(), 5);
    let asked = |chat: &Chat, from| {
        let mut query = vec![];
        Query::History { tenant: TENANT, room: "r", from, limit: 9 }.encode(&mut query).unwrap();
        let mut bytes = vec![];
        chat.query(&query, &mut NoBlocks, &mut bytes).unwrap();
        AnswerHead::decode(&mut Reader::new(&bytes)).unwrap()
    };
    let gone = asked(&world.chat, 5);
    assert_eq!((gone.error, gone.first, gone.head), (Some(ErrorCode::PositionGone), 6, 10));
    assert_eq!(asked(&world.chat, 6).count, 5);
    world.wait(100);
    world.tick();
    assert_eq!((world.first("r"), world.messages().len()), (11, 0), "nobody said anything there");
    let empty = asked(&world.chat, 0);
    assert_eq!((empty.error, empty.first, empty.head, empty.count), (None, 11, 10, 0));
    world.restart();
    assert_eq!((world.first("r"), world.chat.anchor(TENANT, "r", &mut world.disk)), (11, Ok(chains[9])));
    let next = world.say("r", 99);
    assert_eq!((next.seq, world.first("r")), (11, 11));
    assert_eq!(world.messages().len(), 1);
    let parent = world.one(publish(Publish { parent: 10, ..message(key(500, 77), b"hi") }));
    assert_eq!(error(parent), ErrorCode::ParentUnknown);
}

#[test]
fn rules_of_a_room_go_before_those_of_its_tenant_and_these_before_those_of_format() {
    let mut world = World::new(Limits { room_messages: 8, ..LIMITS });
    world.open("r");
    world.open("s");
    for number in 0..20 {
        world.say("r", 2 * number);
        world.say("s", 2 * number + 1);
    }
    assert_eq!((world.first("r"), world.first("s")), (13, 13));
    world.one(retain("", Some(5), None));
    assert_eq!((world.first("r"), world.first("s")), (16, 16), "from that op on");
    world.one(retain("r", Some(3), None));
    assert_eq!((world.first("r"), world.first("s")), (18, 16));
    world.one(retain("r", Some(FOREVER), None));
    for number in 20..40 {
        world.say("r", 2 * number);
        world.say("s", 2 * number + 1);
    }
    assert_eq!((world.first("r"), world.first("s")), (18, 36), "what is gone stays gone");
    world.restart();
    assert_eq!((world.first("r"), world.first("s")), (18, 36));
    let (head, shown) = world.shown("r");
    assert_eq!((head.first, head.head), (18, 40));
    let of = |messages| Policy { messages, age_s: 0 };
    assert_eq!((shown.room, shown.tenant, shown.shard), (of(FOREVER), of(5), of(8)));
    world.one(retain("r", Some(INHERITED), None));
    assert_eq!(world.first("r"), 36);
    world.one(retain("", Some(INHERITED), None));
    assert_eq!(world.shown("").1.tenant, Policy::default());
    world.say("r", 100);
    assert_eq!(world.first("r"), 36, "up to eight again");
}

#[test]
fn a_longer_rule_brings_nothing_back_that_nobody_has_cut_off_yet() {
    let mut world = World::new(LIMITS);
    world.open("r");
    for number in 0..6 {
        world.say("r", number);
    }
    world.one(retain("r", None, Some(20)));
    world.wait(100);
    world.tick();
    assert_eq!(world.first("r"), 7);
    for rule in
        [retain("r", None, Some(FOREVER)), retain("", None, Some(1_000_000)), retain("r", None, Some(0))]
    {
        world.one(rule);
        assert_eq!(world.first("r"), 7);
    }
}

#[test]
fn what_cannot_be_a_rule_is_refused_and_changes_nothing() {
    let mut world = World::new(LIMITS);
    world.open("r");
    world.say("r", 1);
    let before = world.encoded();
    for (room, expected) in [("nowhere", ErrorCode::RoomUnknown), ("no name", ErrorCode::RoomNameInvalid)] {
        assert_eq!(error(world.one(retain(room, Some(1), None))), expected);
    }
    let of = |tenant, messages| {
        let (room, user) = ("", "operator");
        Command::Retain(Retain {
            tenant: TenantId(tenant),
            room,
            user,
            messages: Some(messages),
            age_s: None,
        })
    };
    let nobody = Retain { tenant: TENANT, room: "r", user: "no name", messages: None, age_s: None };
    assert_eq!(error(world.one(Command::Retain(nobody))), ErrorCode::UserNameInvalid);
    assert_eq!(world.encoded(), before);
    for tenant in [9, 2] {
        assert_eq!(world.one(of(tenant, 5)).error, None);
    }
    let before = world.encoded();
    assert_eq!(error(world.one(of(3, 5))), ErrorCode::TooManyPolicies);
    assert_eq!(world.encoded(), before);
    assert_eq!(world.one(of(9, 6)).error, None, "it has a place");
    assert_eq!(world.one(of(9, INHERITED)).error, None);
    assert_eq!(world.one(of(3, 5)).error, None, "there is room again");
    world.restart();
    assert_eq!(error(world.one(of(9, 5))), ErrorCode::TooManyPolicies);
}

#[test]
fn a_shard_of_before_keeps_the_rule_that_it_was_formatted_with() {
    let mut world = World::new(Limits { room_messages: 3, tenants: 0, marks: 0, ..LIMITS });
    world.open("r");
    for number in 0..9 {
        world.say("r", number);
    }
    assert_eq!(world.first("r"), 7);
    for room in ["r", ""] {
        assert_eq!(error(world.one(retain(room, Some(1), None))), ErrorCode::RetentionFixed);
    }
    assert_eq!(world.shown("r").1.effective(), Policy { messages: 3, age_s: 0 });
    world.restart();
    assert_eq!(world.first("r"), 7);
    assert_eq!(RETAINED, 32);
}

/// What happens in a room.
#[derive(Clone, Copy, Debug)]
enum Step {
    Say { room: usize },
    Retain { room: Option<usize>, messages: Option<u32>, age_s: Option<u32> },
    Nothing,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let messages =
        prop_oneof![3 => Just(None), 1 => prop_oneof![Just(0), Just(FOREVER), 1u32..9].prop_map(Some)];
    let age_s =
        prop_oneof![1 => Just(None), 4 => prop_oneof![Just(0), Just(FOREVER), 1u32..200].prop_map(Some)];
    prop_oneof![
        20 => (0usize..2).prop_map(|room| Step::Say { room }),
        2 => (prop::option::of(0usize..2), messages, age_s)
            .prop_map(|(room, messages, age_s)| Step::Retain { room, messages, age_s }),
        2 => Just(Step::Nothing),
        1 => Just(Step::Restart),
    ]
}

/// When each message of a room was said, and the rules of the room.
#[derive(Default)]
struct ModelRoom {
    said: Vec<u64>,
    rules: Policy,
    first: u64,
    /// The widest that a mark of it may be: of all that were allowed, and of its life where nothing was.
    widest: u64,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// The shard's clock is the time of the last command that did something, so ages are those of that command.
    #[test]
    fn nothing_is_gone_too_early_or_stays_too_long(
        steps in prop::collection::vec((0u64..30, step()), 1..200),
        room_age_s in prop_oneof![Just(0u32), 1u32..100],
    ) {
        let limits = Limits { room_age_s, ..LIMITS };
        let mut world = World::new(limits);
        let mut rooms = [ModelRoom::default(), ModelRoom::default()];
        let mut tenant = Policy::default();
        world.open_all();
        let born = world.at().time / SECOND;
        let (mut number, mut clock) = (0, born);
        for (pause, step) in steps {
            world.wait(pause);
            match step {
                Step::Say { room } => {
                    number += 1;
                    world.say(ROOMS[room], number);
                    rooms[room].said.push(world.at().time / SECOND);
                }
                Step::Retain { room: Some(room), messages, age_s } => {
                    world.one(retain(ROOMS[room], messages, age_s));
                    let rule = Retain { tenant: TENANT, room: "", user: "", messages, age_s };
                    rooms[room].rules = rule.change(rooms[room].rules);
                }
                Step::Retain { room: None, messages, age_s } => {
                    world.one(retain("", messages, age_s));
                    let rule = Retain { tenant: TENANT, room: "", user: "", messages, age_s };
                    tenant = rule.change(tenant);
                }
                Step::Nothing => world.tick(),
                Step::Restart => {
                    world.restart();
                    // Nothing was done, so no time has passed.
                    prop_assert!(rooms.iter().zip(ROOMS).all(|(room, name)| world.first(name) == room.first.max(1)));
                    continue;
                }
            }
            let shard_any = limits.retention().is_limited() || !tenant.is_empty();
            let any = shard_any || rooms.iter().any(|room| !room.rules.is_empty());
            if any {
                clock = world.at().time / SECOND;
            }
            for (room, name) in rooms.iter_mut().zip(ROOMS) {
                let policy = room.rules.or(tenant).or(limits.retention());
                let (first, head) = (world.first(name), room.said.len() as u64);
                prop_assert!((room.first..=head + 1).contains(&first), "it never moves back");
                let by_count = policy.most().map_or(1, |most| (head + 1).saturating_sub(most.into()).max(1));
                prop_assert!(first >= by_count);
                let width = policy.oldest_s().map_or(clock - born, u64::from).div_ceil(u64::from(LIMITS.marks - 2));
                room.widest = room.widest.max(width).max(1);
                let gone = &room.said[room.first.max(1) as usize - 1..first as usize - 1];
                for time in &gone[by_count.max(room.first.max(1)).min(first) as usize - room.first.max(1) as usize..] {
                    let age = policy.oldest_s();
                    prop_assert!(age.is_some_and(|age| time + u64::from(age) < clock + 1), "too early");
                }
                if let (Some(age), Some(time)) = (policy.oldest_s(), room.said.get(first as usize - 1)) {
                    // Two marks that became one are as wide as both, and life is what neither is wider than.
                    let late = room.widest.max((clock - born).div_ceil(2)) + 1;
                    prop_assert!(clock - time <= u64::from(age) + late, "too late");
                }
                room.first = first;
            }
            assert_written(&world.chat);
        }
    }

    /// With one rule all the time the bound is the one that operators are told.
    #[test]
    fn under_one_rule_a_message_is_late_by_a_part_of_its_age_at_most(
        pauses in prop::collection::vec(prop_oneof![4 => 0u64..5, 1 => 0u64..60], 1..300),
        room_age_s in 1u32..120,
    ) {
        let mut world = World::new(Limits { room_age_s, ..LIMITS });
        world.open_all();
        let mut said = vec![];
        let late = u64::from(world.shown("r").1.late_s);
        prop_assert_eq!(late, u64::from(room_age_s.div_ceil(4)) + 1);
        for (number, pause) in pauses.into_iter().enumerate() {
            world.wait(pause);
            world.say("r", number as u64);
            let now = world.at().time / SECOND;
            said.push(now);
            let first = world.first("r") as usize;
            prop_assert!(said[..first - 1].iter().all(|time| now - time >= room_age_s.into()), "too early");
            prop_assert!(now - said[first - 1] <= u64::from(room_age_s) + late, "too late");
        }
    }
}
