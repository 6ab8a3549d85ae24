//! An operator who erases messages with `--now`, while everything goes wrong and once more at the end, and then looks
//! whether their bytes are gone: on the disks, byte by byte.
//!
//! He has a session like an edge, asks the primary over the lines of some edge, and learns what came of it from what
//! the primary has executed. The one law: **he looks when every replica that is healed says that its disk is clean, or
//! had as many ops for it as is documented.**

use tigerchat_core::pool::{Class, Pool};
use tigerchat_core::types::{Address, EdgeId, Instant, ReplicaId};
use tigerchat_core::wire::chat::{Command as ChatCommand, Erase, Key, Outcome};
use tigerchat_core::wire::codec::Reader;
use tigerchat_core::wire::entry::{RequestHeader, RequestKind};
use tigerchat_core::wire::frame::{Command, Frame, FrameHeader};
use zerocopy::IntoBytes;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::TENANT;
use crate::clock::wall;
use crate::erasing::{Erasure, Known};
use crate::history::{CallId, UserId, What};
use crate::network::Place;
use crate::random::Ppm;
use crate::world::{CLUSTER, SHARD, World};

const CLIENT: EdgeId = EdgeId(3);
/// Whose entries his erasures are.
const NAME: &str = "operator";
const USER: UserId = UserId(u32::MAX);
/// Of his steps in which nothing is left to do those that erase something.
const ERASES: Ppm = 300_000;
/// Checkpoints after which all disks are clean (`docs/storage.md`): 19 that hurry, the one of the erasure's interval
/// and its end.
const INTERVALS: u64 = 21;
/// How often he looks, and how long he waits for a shard that does nothing.
const LOOK: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the last of it may take to reach everybody.
const LAST_NEWS: Duration = Duration::from_secs(5);
/// Of so many of the newest messages he erases one at last.
const NEWEST: usize = 8;
/// Bodies of users begin so; then come the number of the user and that of the call.
const BEGINS: &[u8] = b"{\"text\":\"user";

/// What he is at.
#[derive(Debug, Default)]
pub(crate) struct Clearing {
    /// What he wants executed, until it is: an erasure with its command, or nothing, which moves the log on.
    wanted: Option<(Option<Erasure>, Vec<u8>)>,
    /// In which session and under which number it was asked for last.
    asked: Option<(u64, u64)>,
    /// The same of the last one that was executed: a primary may not know of it yet.
    done: Option<(u64, u64)>,
    /// The op of his last erasure.
    erased: u64,
}

impl World<'_> {
    /// He takes a step, in the time of trouble.
    pub(crate) fn clear_something(&mut self) {
        let Some(every) = self.drawn.erasures.and_then(|erasures| erasures.operator) else { return };
        self.trouble_after(every, crate::trouble::Trouble::Clear);
        if self.clearing.wanted.is_none() && self.users.erasers.random.chance(ERASES) {
            self.want_erasure(usize::MAX);
        }
        self.step_of_clearing();
    }

    /// Chooses a message of anybody, one of so many new ones.
    fn want_erasure(&mut self, newest: usize) {
        let erasers = &mut self.users.erasers;
        let old = erasers.known.len().saturating_sub(newest);
        let choice = &erasers.known[old..];
        if choice.is_empty() {
            return;
        }
        let Known { user, room, epoch, seq, key: of, .. } = erasers.random.pick(choice).clone();
        let key = Key::new(wall(self.now).0 / 1_000_000, erasers.random.bytes());
        let salt = erasers.random.bytes();
        let call = CallId(self.users.next_call);
        self.users.next_call += 1;
        let author = self.users.users[user].name.clone();
        let (tenant, now) = (TENANT, true);
        let erase =
            Erase { tenant, room: &room, user: NAME, key, epoch, seq, author: &author, of, salt, now };
        let mut command = Vec::new();
        ChatCommand::Erase(erase).encode(&mut command).expect("a Vec is never full");
        let erasure = Erasure { call, room: room.clone(), key, seq };
        let (author, body) = (NAME.to_owned(), erasure.body());
        self.observe(What::Published { user: USER, call, room: room.clone(), author, key, parent: 0, body });
        self.observe(What::Erases { user: USER, call, room, seq });
        self.clearing.wanted = Some((Some(erasure), command));
    }

    /// Looks what became of his last request, and asks for what he wants now.
    fn step_of_clearing(&mut self) {
        if self.clearing.wanted.is_none() {
            return;
        }
        let Some(primary) = self.primary() else { return };
        let Some(replica) = self.replica(primary) else { return };
        let session = replica.sessions().of_client(CLIENT.0);
        let known = session.map(|session| (session.session, session.number));
        let Some((session, executed)) = known else {
            return self.say_as_operator(primary, RequestKind::Register, (0, 0), &[]);
        };
        let of_this =
            |one: Option<(u64, u64)>| one.filter(|(of, _)| *of == session).map(|(_, number)| number);
        let (asked, done) = (of_this(self.clearing.asked), of_this(self.clearing.done));
        let number = asked.unwrap_or_else(|| done.unwrap_or(executed) + 1);
        if number <= executed {
            let reply = self
                .replica(primary)
                .and_then(|replica| replica.sessions().of_client(CLIENT.0)?.reply(number))
                .map(|reply| reply.outcomes.clone());
            (self.clearing.asked, self.clearing.done) = (None, Some((session, number)));
            return self.was_executed(&reply.unwrap_or_default());
        }
        let Some((_, command)) = self.clearing.wanted.clone() else { return };
        self.clearing.asked = Some((session, number));
        self.say_as_operator(primary, RequestKind::Commands, (session, number), &command);
    }

    fn was_executed(&mut self, outcomes: &[u8]) {
        let Some((Some(erasure), command)) = self.clearing.wanted.take() else { return };
        let Ok(outcome) = Outcome::decode(&mut Reader::new(outcomes)) else { return };
        let Outcome { seq, op, index, time, chain, epoch, duplicate, error } = outcome;
        let call = erasure.call;
        match error {
            None => {
                self.users.saw_head(&erasure.room, seq);
                self.clearing.erased = op;
                let user = USER;
                self.observe(What::Acknowledged {
                    user,
                    call,
                    seq,
                    op,
                    index,
                    time,
                    chain,
                    epoch,
                    duplicate,
                });
            }
            Some(error) if error.entry().temporary => {
                self.clearing.wanted = Some((Some(erasure), command));
            }
            Some(error) => self.observe(What::Refused { user: USER, call, error }),
        }
    }

    fn say_as_operator(
        &mut self,
        primary: Place,
        kind: RequestKind,
        (session, number): (u64, u64),
        commands: &[u8],
    ) {
        let header = RequestHeader {
            client: CLIENT.0.into(),
            session: session.into(),
            number: number.into(),
            size: u32::try_from(commands.len()).expect("one command").into(),
            kind: (kind as u32).into(),
            digest: RequestHeader::digest_of(commands).into(),
        };
        let payload = [header.as_bytes(), commands].concat();
        let pool = Pool::new(&[Class { size: 512, count: 1 }]);
        let mut draft = pool.draft(payload.len()).expect("its only buffer");
        draft.extend(&payload).expect("a command is short");
        let header = FrameHeader::new(Command::Request, CLUSTER, SHARD);
        let mut frame = Frame { header, payload: Some(draft.seal()) };
        let to = Address::Replica { shard: SHARD, replica: id_of(primary) };
        frame.seal(Address::Edge(CLIENT), to, 1, self.events);
        let bytes = [frame.header.as_bytes(), frame.body()].concat();
        let beside = self.replicas() + self.users.erasers.random.index(self.edges());
        self.send(beside, to, Command::Request, bytes.into());
    }

    fn finish_request(&mut self, patience: Instant) {
        while !self.stopped && self.clearing.wanted.is_some() && self.now < patience {
            self.step_of_clearing();
            self.run_until(self.now.after(LOOK));
        }
    }

    /// All is quiet: he erases one more message, moves the log on until all say that they are clean, and looks.
    pub(crate) fn clear_disks(&mut self) {
        if self.stopped || self.drawn.erasures.is_none_or(|erasures| erasures.operator.is_none()) {
            return;
        }
        self.clear_all();
        // All hear of it.
        let patience = self.now.after(LAST_NEWS);
        let is_over = |world: &Self| world.users.are_done() && world.has_converged();
        while !self.stopped && self.now < patience && !is_over(self) {
            self.run_until(self.now.after(LOOK));
        }
    }

    fn clear_all(&mut self) {
        let patience = self.now.after(PATIENCE);
        self.finish_request(patience);
        let before = self.clearing.erased;
        // Not one that retention removed.
        self.want_erasure(NEWEST);
        self.finish_request(patience);
        let due = self.clearing.erased;
        if due == before {
            return;
        }
        let most = due + INTERVALS * u64::from(self.drawn.shape.wal_slots / 2);
        while !self.stopped && self.now < patience && !self.are_clean(due) && self.highest_commit() < most {
            let empty = || (None, Vec::new());
            self.clearing.wanted.get_or_insert_with(empty);
            self.step_of_clearing();
            self.run_until(self.now.after(LOOK));
        }
        for place in self.core_members() {
            let Some(op) = self.replica(place).map(|replica| replica.cleared()) else { continue };
            let (replica, holds) = (id_of(place), self.bodies_on(place));
            self.observe(What::Cleared { replica, due, op, holds });
        }
    }

    fn are_clean(&self, op: u64) -> bool {
        let is_clean = |place| self.replica(place).is_some_and(|replica| replica.cleared() >= op);
        self.core_members().into_iter().all(is_clean)
    }

    fn highest_commit(&self) -> u64 {
        (0..self.replicas()).filter_map(|place| Some(self.view_of(place)?.commit)).max().unwrap_or(0)
    }

    /// The messages of which a disk has the beginning of the body, in any version of any sector.
    fn bodies_on(&self, place: Place) -> Vec<(String, u64)> {
        let Some(disk) = &self.processes[place].disk else { return Vec::new() };
        let known: BTreeMap<u64, &Known> =
            self.users.erasers.known.iter().map(|known| (known.call.0, known)).collect();
        let mut found: Vec<(String, u64)> = disk
            .versions()
            .flat_map(|sector| calls_in(&sector))
            .filter_map(|call| known.get(&call))
            .map(|known| (known.room.clone(), known.seq))
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// The numbers of the calls whose bodies begin in these bytes.
fn calls_in(bytes: &[u8]) -> Vec<u64> {
    let mut calls = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == BEGINS[0]) {
        rest = &rest[at..];
        if let Some(said) = rest.strip_prefix(BEGINS) {
            let mut numbers = said.split(|byte| *byte == b'/').map(number);
            if numbers.next().flatten().is_some() {
                calls.extend(numbers.next().flatten());
            }
        }
        rest = &rest[1..];
    }
    calls
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn id_of(place: Place) -> ReplicaId {
    ReplicaId(u16::try_from(place).expect("few replicas"))
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::history::Observation;
    use crate::users::json_body;
    use crate::{Plan, Recipe};

    /// What he does while a world goes on and at its end, in a few worlds. That nothing is left, a checker of `vopr` says.
    #[test]
    fn the_operator_erases_and_all_disks_are_clean_at_the_end() {
        let has_one = |recipe: &Recipe| recipe.drawn().erasures.is_some_and(|drawn| drawn.operator.is_some());
        let recipes = (0..).map(|seed| Recipe::of(&Plan::SWARM, seed)).filter(has_one);
        let (mut erased, mut cleared) = (0, 0);
        for recipe in recipes.take(3) {
            let mut observer = |seen: &Observation| {
                match &seen.what {
                    What::Acknowledged { user: USER, .. } => erased += 1,
                    What::Cleared { due, op, .. } => {
                        assert!(op >= due && *due > 0, "seed {}: {op} of {due}", recipe.seed);
                        cleared += 1;
                    }
                    _ => {}
                }
                ControlFlow::Continue(())
            };
            let report = crate::run_recipe(&recipe, &mut observer, None);
            assert!(report.end.is_some(), "seed {} became quiet", recipe.seed);
        }
        assert!(erased > 5 && cleared > 2, "{erased} erasures, {cleared} disks");
    }

    #[test]
    fn bodies_are_found_among_other_bytes() {
        let (one, two) = (json_body("user3/171/abc"), json_body("user12/9/"));
        let bytes = [b"{{x{", one.as_bytes(), b"{\"text\":\"user9", &[0; 30], two.as_bytes(), b"{"].concat();
        assert_eq!(calls_in(&bytes), [171, 9]);
        assert_eq!(calls_in(b"{\"text\":\"user1/2"), [2]);
        assert_eq!(calls_in(b"{\"text\":\"bob/2/"), [0_u64; 0]);
    }
}
