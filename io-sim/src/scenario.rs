//! Scripted worlds: a text of commands, and below each command what came of it.
//!
//! A scenario is a list of steps, divided by blank lines. A step is lines of commands, a line `----`, and the lines
//! that they printed. Lines that begin with `#` are for people. Playing a scenario gives the same text again with
//! what was really printed: a test compares, `UPDATE_SCENARIOS=1 cargo test -p io-sim` rewrites.
//!
//! The one law: **nothing happens but what the text says.** No fault is drawn; only `run` lets time pass.
//!
//! | command | |
//! |---|---|
//! | `cluster replicas=3 edges=2` | first of all; `seed=7` for other draws |
//! | `user alice edge=0` | a user who is served by that edge |
//! | `alice open general`, `history`, `subscribe ROOM now\|since=3\|last=2`, `unsubscribe` | calls |
//! | `alice publish general some text` | |
//! | `alice retry`, `alice again`, `alice move edge=1` | asks again what is unanswered; sends her last answered message once more; goes to another edge |
//! | `run 100ms` | lets time pass |
//! | `crash r0`, `crash e1`, `power-cut r0`, `power-cut all` | now |
//! | `crash r0 after=prepare count=2`, `crash r0 before-flush`, `power-cut r1 effects=5` | at a point of its coming turns |
//! | `restart r0`, `restart all` | everything that is down |
//! | `upgrade r0` | stops it in order and starts it as the binary of the next release |
//! | `isolate r0`, `cut r0->r1`, `heal` | links |
//! | `slow r0 50` | that disk takes 50 times as long |
//! | `status`, `messages general`, `present general` | where replicas stand; what they hold |
//! | `expect committed 3` | on every replica that is up, at least |

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::Duration;

use tigerchat_core::types::Instant;
use tigerchat_core::vsr::quorum::Quorums;
use tigerchat_core::wire::frame::Command;

use crate::faults::{DiskSpeed, Drawn, Latency, Plan, Shape, Work};
use crate::history::{Observation, What};
use crate::network::Place;
use crate::process::TrapAt;
use crate::reading;
use crate::releases;
use crate::spectator::Tell;
use crate::world::World;

/// Plays a scenario and returns its text with what was really printed. Errors name the line that can't be obeyed.
pub fn play(text: &str, listener: &mut dyn FnMut(&Observation)) -> Result<String, String> {
    play_before(text, listener, None)
}

/// The same, perhaps with somebody who watches.
pub fn play_before(
    text: &str,
    listener: &mut dyn FnMut(&Observation),
    tell: Option<Tell<'_>>,
) -> Result<String, String> {
    let steps = parse(text);
    let drawn = steps.iter().flat_map(|step| &step.commands).find_map(|command| cluster(command));
    let (drawn, seed) = drawn.ok_or("a scenario begins with: cluster replicas=N edges=N")??;
    let seen = Rc::new(RefCell::new(Vec::new()));
    let noted = Rc::clone(&seen);
    let mut observer = |observation: &Observation| {
        listener(observation);
        noted.borrow_mut().push(observation.clone());
        ControlFlow::Continue(())
    };
    let mut stage = Stage { world: World::new(drawn, seed, &mut observer), names: Vec::new() };
    if let Some(tell) = tell {
        stage.world.show(tell);
    }
    let mut played = String::new();
    for step in steps {
        played.push_str(&step.comments);
        let mut printed = String::new();
        for command in &step.commands {
            played.push_str(command);
            played.push('\n');
            let told = stage.obey(command).map_err(|why| format!("{command}: {why}"))?;
            for observation in seen.borrow_mut().drain(..) {
                if let Some(line) = stage.tell(&observation.what) {
                    printed.push_str(&line);
                    printed.push('\n');
                }
            }
            printed.push_str(&told);
        }
        if !step.commands.is_empty() {
            played.push_str("----\n");
            played.push_str(&printed);
        }
        played.push('\n');
    }
    stage.world.close();
    if let Some(leak) = stage.world.leak {
        return Err(leak);
    }
    Ok(played.trim_end().to_owned() + "\n")
}

/// The longest time that one command lets pass, virtual milliseconds: an hour.
const RUN_MAX_MS: u64 = 3_600_000;

/// Bytes of a command: whatever it says fits a client's frame.
const COMMAND_MAX: usize = 500;

/// Commands that print together.
#[derive(Debug, Default)]
struct Step {
    comments: String,
    commands: Vec<String>,
}

fn parse(text: &str) -> Vec<Step> {
    let mut steps = vec![Step::default()];
    let mut printed = false;
    for line in text.lines().map(str::trim) {
        let step = steps.last_mut().expect("there is always one");
        match line {
            "" => {
                printed = false;
                if !step.commands.is_empty() || !step.comments.is_empty() {
                    steps.push(Step::default());
                }
            }
            "----" => printed = true,
            _ if printed => {}
            comment if comment.starts_with('#') => step.comments.push_str(&format!("{comment}\n")),
            command => step.commands.push(command.to_owned()),
        }
    }
    steps.retain(|step| !step.commands.is_empty() || !step.comments.is_empty());
    steps
}

/// The value of `key=value` among words.
fn value<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

fn number(words: &[&str], key: &str, otherwise: u64) -> Result<u64, String> {
    let Some(digits) = value(words, key) else { return Ok(otherwise) };
    digits.parse().map_err(|_| format!("{key} is not a number: {digits}"))
}

fn cluster(command: &str) -> Option<Result<(Drawn, u64), String>> {
    let words: Vec<&str> = command.split_whitespace().collect();
    (words.first() == Some(&"cluster")).then(|| {
        let replicas = number(&words, "replicas", 3)?;
        let edges = number(&words, "edges", 1)?;
        let quorum = number(&words, "quorum", replicas / 2 + 1)?;
        if !(1..=7).contains(&replicas) || !(1..=3).contains(&edges) {
            return Err("1 to 7 replicas and 1 to 3 edges".to_owned());
        }
        let small = |number: u64| u8::try_from(number).map_err(|error| error.to_string());
        let (replicas, replication_quorum) = (small(replicas)?, small(quorum)?);
        if Quorums::of(replicas, replication_quorum).is_none() {
            return Err(format!("a quorum of {quorum} of {replicas} is not safe"));
        }
        let shape = Shape {
            replicas,
            replication_quorum,
            edges: small(edges)?,
            pipeline: 4,
            window: 4,
            wal_slots: 16,
            slot_sectors: 2,
            session_lease: Duration::from_secs(2),
            ping: Duration::from_millis(100),
            no_progress: Duration::from_millis(750),
            unfit: Duration::from_secs(1),
            sessions: 8,
            scrub_cycle: Duration::from_secs(40),
            block_sectors: 2,
            room_messages: 0,
            room_age_s: 0,
            keys: 1_024,
            sealed: false,
            rotates: true,
        };
        Ok((still(shape), number(&words, "seed", 1)?))
    })
}

/// A world in which nothing goes wrong by itself and everything takes its fixed time.
fn still(shape: Shape) -> Drawn {
    let us = |micros| Duration::from_micros(micros)..=Duration::from_micros(micros);
    let think = Duration::from_millis(1);
    let work =
        Work { users: 0, rooms: 0, operations: 0, think, burst: 1, again: 0, line: false, hostile: false };
    let base = Duration::from_millis(1);
    Drawn {
        shape,
        latency: Latency { base, uneven: 1, jitter: Duration::ZERO, tail_chance: 0, tail: Duration::ZERO },
        disk: DiskSpeed { read: us(50), write: us(50), flush: us(500) },
        work,
        turn: Duration::from_micros(30),
        own_lines: false,
        erasures: None,
        ..Plan::CALM.draw(0)
    }
}

/// The text of a message that a scenario published.
fn text_of(body: &[u8]) -> String {
    let body = String::from_utf8_lossy(body).into_owned();
    match body.strip_prefix("{\"text\":\"").and_then(|text| text.strip_suffix("\"}")) {
        Some(text) => text.to_owned(),
        None => body,
    }
}

struct Stage<'a> {
    world: World<'a>,
    /// Users in the order of their coming.
    names: Vec<String>,
}

impl Stage<'_> {
    fn obey(&mut self, command: &str) -> Result<String, String> {
        if command.len() > COMMAND_MAX {
            return Err(format!("a command has at most {COMMAND_MAX} bytes, this has {}", command.len()));
        }
        // Names and texts become JSON as they are: what would have to be escaped there is not for scripts.
        if let Some(bad) = command.chars().find(|char| char.is_control() || matches!(char, '"' | '\\')) {
            return Err(format!("no {bad:?} in a command"));
        }
        let words: Vec<&str> = command.split_whitespace().collect();
        match words.as_slice() {
            ["cluster", ..] => {
                self.world.run_until(Instant(0).after(Duration::from_millis(50)));
                Ok(String::new())
            }
            ["user", name, rest @ ..] => self.user(name, rest),
            ["run", time] => self.run(time),
            ["crash", who, point @ ..] => self.crash(who, false, point),
            ["power-cut", who, point @ ..] => self.crash(who, true, point),
            ["restart", who] => self.restart(who),
            ["upgrade", who] => {
                let place = self.place(who)?;
                if place >= self.world.replicas() {
                    return Err("only replicas run the log".to_owned());
                }
                self.world.restart_as(place, releases::NEW);
                Ok(String::new())
            }
            ["hand-over", who] => {
                let place = self.place(who)?;
                let refused = self.world.hand_over(Some(place)).err();
                Ok(refused.map_or_else(String::new, |error| format!("refused: {}\n", error.entry().name)))
            }
            ["isolate", who] => {
                let place = self.place(who)?;
                self.world.network.set_isolated(place, true);
                Ok(String::new())
            }
            ["cut", link] => {
                let (from, to) = link.split_once("->").ok_or("cut FROM->TO")?;
                let (from, to) = (self.place(from)?, self.place(to)?);
                self.world.network.set_cut(from, to, true);
                Ok(String::new())
            }
            ["heal"] => {
                (0..self.world.processes.len()).for_each(|at| self.world.network.set_isolated(at, false));
                Ok(String::new())
            }
            ["slow", who, factor] => self.slow(who, factor),
            ["status"] => Ok(self.status()),
            ["messages", room] => Ok(self.messages(room)),
            ["present", room] => Ok(self.present(room)),
            ["expect", "committed", op] => self.expect_committed(op),
            [name, call @ ..] => self.call(name, call),
            [] => Ok(String::new()),
        }
    }

    fn place(&self, who: &str) -> Result<Place, String> {
        let (kind, digits) = who.split_at_checked(1).ok_or("name a process: r0 or e0")?;
        let at: usize = digits.parse().map_err(|_| format!("no process: {who}"))?;
        let (first, count) = match kind {
            "r" => (0, self.world.replicas()),
            "e" => (self.world.replicas(), self.world.edges()),
            _ => return Err(format!("no process: {who}")),
        };
        if at < count { Ok(first + at) } else { Err(format!("no process: {who}")) }
    }

    fn user(&mut self, name: &str, rest: &[&str]) -> Result<String, String> {
        let edge = self.edge(rest)?;
        self.world.add_user(name, edge);
        self.names.push(name.to_owned());
        Ok(String::new())
    }

    fn edge(&self, words: &[&str]) -> Result<Place, String> {
        self.place(&format!("e{}", number(words, "edge", 0)?))
    }

    fn run(&mut self, time: &str) -> Result<String, String> {
        let (digits, unit) = match time.strip_suffix("ms") {
            Some(digits) => (digits, 1),
            None => (time.strip_suffix('s').ok_or("run 100ms or run 2s")?, 1000),
        };
        let time: u64 = digits.parse().map_err(|_| "run 100ms or run 2s")?;
        let time = time.checked_mul(unit).filter(|time| *time <= RUN_MAX_MS);
        let time = time.ok_or_else(|| format!("run at most {RUN_MAX_MS} ms at a time"))?;
        let end = self.world.now.after(Duration::from_millis(time));
        self.world.run_until(end);
        Ok(String::new())
    }

    fn crash(&mut self, who: &str, power: bool, point: &[&str]) -> Result<String, String> {
        if who == "all" {
            (0..self.world.replicas()).for_each(|place| self.world.crash(place, power));
            return Ok(String::new());
        }
        let place = self.place(who)?;
        let count = u32::try_from(number(point, "count", 1)?).map_err(|error| error.to_string())?;
        let effects = u32::try_from(number(point, "effects", 0)?).map_err(|error| error.to_string())?;
        if let Some(command) = value(point, "after") {
            self.world.set_trap(place, TrapAt::Sent(named(command)?, count), power);
        } else if point.contains(&"before-flush") {
            self.world.set_trap(place, TrapAt::Written(count), power);
        } else if effects > 0 {
            self.world.set_trap(place, TrapAt::Effects(effects), power);
        } else if point.is_empty() {
            self.world.crash(place, power);
        } else {
            return Err("after=COMMAND count=N, before-flush, effects=N, or nothing".to_owned());
        }
        Ok(String::new())
    }

    fn restart(&mut self, who: &str) -> Result<String, String> {
        let places = if who == "all" {
            0..self.world.processes.len()
        } else {
            let place = self.place(who)?;
            place..place + 1
        };
        for place in places {
            if !self.world.processes[place].is_up() {
                self.world.start(place);
            }
        }
        Ok(String::new())
    }

    fn slow(&mut self, who: &str, factor: &str) -> Result<String, String> {
        let place = self.place(who)?;
        let factor = factor.parse().map_err(|_| "a number of times")?;
        self.world.processes[place].disk.as_mut().ok_or("only replicas have disks")?.slowness = factor;
        Ok(String::new())
    }

    fn status(&self) -> String {
        let line = |place| match self.world.view_of(place) {
            None => format!("r{place} down\n"),
            Some(view) => {
                let role = if view.is_primary { ", primary" } else { "" };
                let status = format!("{:?}", view.status).to_lowercase();
                let release =
                    if view.release > 1 { format!(", release {}", view.release) } else { String::new() };
                format!(
                    "r{place} {status}, view {}, op {}, commit {}{release}{role}\n",
                    view.view, view.op, view.commit
                )
            }
        };
        (0..self.world.replicas()).map(line).collect()
    }

    fn messages(&self, room: &str) -> String {
        let end = self.world.end(&(0..self.world.replicas()).collect());
        let mut lines: Vec<(String, Vec<String>)> = Vec::new();
        for replica in end.replicas {
            let held = replica.rooms.into_iter().find(|held| held.room == room);
            let messages = held.map(|held| held.messages).unwrap_or_default();
            let messages: Vec<_> = messages
                .iter()
                .map(|it| format!("{} {}: {}", it.seq, it.author, text_of(&it.body)))
                .collect();
            let text = if messages.is_empty() { "nothing".to_owned() } else { messages.join("; ") };
            let who = format!("r{}", replica.replica.0);
            match lines.iter_mut().find(|(held, _)| *held == text) {
                Some((_, holders)) => holders.push(who),
                None => lines.push((text, vec![who])),
            }
        }
        lines.into_iter().map(|(text, holders)| format!("{}: {text}\n", holders.join(" "))).collect()
    }

    fn present(&self, room: &str) -> String {
        let end = self.world.end(&(0..self.world.replicas()).collect());
        let line = |replica: &crate::history::FinalReplica| {
            let held = replica.rooms.iter().find(|held| held.room == room);
            let present = held.map(|held| held.present.join(" ")).unwrap_or_default();
            format!("r{}: {present}\n", replica.replica.0)
        };
        end.replicas.iter().map(line).collect()
    }

    fn expect_committed(&self, op: &str) -> Result<String, String> {
        let wanted: u64 = op.parse().map_err(|_| "expect committed OP")?;
        for place in 0..self.world.replicas() {
            if let Some(view) = self.world.view_of(place)
                && view.commit < wanted
            {
                return Err(format!("r{place} has committed only {}", view.commit));
            }
        }
        Ok("ok\n".to_owned())
    }

    fn call(&mut self, name: &str, call: &[&str]) -> Result<String, String> {
        let user = self.names.iter().position(|known| known == name).ok_or("no such user or command")?;
        match call {
            ["publish", room, text @ ..] => {
                self.world.user_publishes(user, room, 0, &text.join(" "));
            }
            ["reply", room, parent, text @ ..] => {
                let parent = parent.parse().map_err(|_| "reply ROOM SEQ TEXT")?;
                self.world.user_publishes(user, room, parent, &text.join(" "));
            }
            ["open", room] => self.world.user_opens(user, room),
            ["history", room, page @ ..] => {
                let asked = reading::scripted(page)?;
                self.world.user_reads(user, room, asked);
            }
            ["subscribe", room, mode @ ..] => {
                let since = value(mode, "since").map(str::parse).transpose().map_err(|_| "since=SEQ")?;
                let last = value(mode, "last").map(str::parse).transpose().map_err(|_| "last=COUNT")?;
                self.world.user_subscribes(user, room, since, last);
            }
            ["unsubscribe", room] => self.world.user_unsubscribes(user, room),
            ["retry"] => self.world.user_retries(user),
            ["again"] => self.world.user_sends_again(user),
            ["move", rest @ ..] => {
                let edge = self.edge(rest)?;
                self.world.user_moves(user, edge);
            }
            _ => return Err("no such call".to_owned()),
        }
        Ok(String::new())
    }

    /// What of an observation belongs into a transcript.
    fn tell(&self, what: &What) -> Option<String> {
        let name = |user: &crate::history::UserId| &self.names[user.0 as usize];
        let line = match what {
            What::Acknowledged { user, seq, duplicate, .. } => {
                let again = if *duplicate { " (duplicate)" } else { "" };
                format!("{}: acknowledged as {seq}{again}", name(user))
            }
            What::Refused { user, error, .. } => format!("{}: refused: {}", name(user), error.entry().name),
            What::Subscribed { user, room, next, .. } => {
                format!("{}: subscribed to {room}, {next} is next", name(user))
            }
            What::Unsubscribed { user, room } => format!("{}: no longer in {room}", name(user)),
            What::Delivered { user, message } => {
                let body = text_of(&message.body);
                format!("{}: got {} from {}: {body}", name(user), message.seq, message.author)
            }
            What::HistoryRead { user, room, head, ends, messages, .. } => {
                let mut line =
                    format!("{}: read {} messages of {room}, head {head}", name(user), messages.len());
                line.push_str(&reading::told(ends, messages));
                line
            }
            What::Crashed { replica, power: true } => format!("r{} lost power", replica.0),
            What::Crashed { replica, .. } => format!("r{} crashed", replica.0),
            What::Started { replica } => format!("r{} started", replica.0),
            _ => return None,
        };
        Some(line)
    }
}

/// A frame's command by its name in `docs/formats.md`.
fn named(name: &str) -> Result<Command, String> {
    let snake = |command: &Command| {
        let mut snake = String::new();
        for letter in format!("{command:?}").chars() {
            if letter.is_uppercase() && !snake.is_empty() {
                snake.push('_');
            }
            snake.push(letter.to_ascii_lowercase());
        }
        snake
    };
    Command::ALL
        .into_iter()
        .find(|command| snake(command) == name)
        .ok_or(format!("no frame is called {name}"))
}
