//! A run as a drawing: one page with everything inside, for a person who hunts a bug.
//!
//! The one law: **a drawing is bounded**: of a long run the last frames and events are kept, and the page says how
//! many were left out.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use io_sim::Fate;
use io_sim::disk::DiskCounts;
use io_sim::history::{Observation, What};
use io_sim::network::Place;
use io_sim::spectator::{Sight, Tell};
use serde::Serialize;
use tigerchat_core::types::Instant;
use tigerchat_core::wire::frame::Command;

use crate::coverage::{name_of, snake};
use crate::swarm::Failure;
use crate::tell::told;

/// Frames, and other events, that a page holds at most: of each the last.
const KEPT: usize = 60_000;

const PAGE: &str = include_str!("trace/page.html");
const STYLE: &str = include_str!("trace/page.css");
const SCRIPT: &str = include_str!("trace/page.js");

/// Listens to a run and watches it.
#[derive(Clone, Debug)]
pub struct Recorder(Rc<RefCell<Record>>);

/// What a page says above its drawing, and its lanes.
#[derive(Clone, Debug)]
pub struct Heading<'a> {
    pub title: &'a str,
    pub command: &'a str,
    pub replicas: usize,
    pub edges: usize,
    pub failure: Option<&'a Failure>,
}

/// A frame: when it left and arrives, from whom to whom, its kind, its fate, its length, and whether nobody heard it.
type Frame = (u64, i64, Place, Place, usize, usize, usize, u8);
/// An event: when, in which lane, its kind, and what a person reads.
type Mark = (u64, Place, &'static str, String);
/// A stance: when, who, up, status, view, leads.
type Stance = (u64, Place, u8, String, u64, u8);

#[derive(Debug)]
struct Record {
    replicas: usize,
    /// The lane of all users; the one after it is everybody's.
    users: Place,
    frames: Last<Frame>,
    marks: Last<Mark>,
    stands: Last<Stance>,
    links: Last<(u64, Place, Place, u8)>,
    spans: Last<(u64, u64, Place, &'static str)>,
    end: u64,
}

/// The last of many.
#[derive(Debug)]
struct Last<T> {
    kept: VecDeque<T>,
    left_out: u64,
    most: usize,
}

impl<T> Last<T> {
    fn new(most: usize) -> Self {
        Self { kept: VecDeque::new(), left_out: 0, most }
    }

    fn push(&mut self, one: T) {
        if self.kept.len() == self.most {
            self.kept.pop_front();
            self.left_out += 1;
        }
        self.kept.push_back(one);
    }
}

/// What the page's script reads.
#[derive(Serialize)]
struct Run<'a> {
    title: &'a str,
    command: &'a str,
    verdict: Option<Verdict<'a>>,
    lanes: Vec<Lane>,
    kinds: Vec<String>,
    fates: Vec<String>,
    begin: u64,
    end: u64,
    frames: &'a VecDeque<Frame>,
    marks: &'a VecDeque<Mark>,
    stands: &'a VecDeque<Stance>,
    links: &'a VecDeque<(u64, Place, Place, u8)>,
    spans: &'a VecDeque<(u64, u64, Place, &'static str)>,
    left_out: LeftOut,
}

#[derive(Serialize)]
struct Verdict<'a> {
    checker: &'a str,
    what: &'a str,
}

#[derive(Serialize)]
struct Lane {
    name: String,
    kind: &'static str,
}

#[derive(Serialize)]
struct LeftOut {
    frames: u64,
    marks: u64,
}

impl Recorder {
    #[must_use]
    pub fn new(replicas: usize, edges: usize) -> Self {
        Self::keeping(KEPT, replicas, edges)
    }

    fn keeping(most: usize, replicas: usize, edges: usize) -> Self {
        Self(Rc::new(RefCell::new(Record {
            replicas,
            users: replicas + edges,
            frames: Last::new(most),
            marks: Last::new(most),
            stands: Last::new(most),
            links: Last::new(most),
            spans: Last::new(most),
            end: 0,
        })))
    }

    /// For a world that is to be watched.
    #[must_use]
    pub fn watch(&self) -> Tell<'static> {
        let record = Rc::clone(&self.0);
        Box::new(move |at, sight| record.borrow_mut().see(at, sight))
    }

    pub fn hear(&self, seen: &Observation) {
        self.0.borrow_mut().hear(seen);
    }

    /// The page.
    ///
    /// # Panics
    /// Never: numbers and texts are always JSON.
    #[must_use]
    pub fn page(&self, heading: &Heading<'_>) -> String {
        let record = &mut *self.0.borrow_mut();
        if let Some(failure) = heading.failure {
            let what = format!("{}: {}", failure.checker, failure.what);
            record.mark(record.end, record.users + 1, "violation", what);
        }
        let json = serde_json::to_string(&record.run(heading)).expect("numbers and texts");
        // Nothing inside may end the element that it stands in.
        let json = json.replace('<', "\\u003c");
        let title = heading.title.replace('&', "&amp;").replace('<', "&lt;");
        let parts =
            [("{{TITLE}}", title.as_str()), ("{{STYLE}}", STYLE), ("{{SCRIPT}}", SCRIPT), ("{{RUN}}", &json)];
        parts.into_iter().fold(PAGE.to_owned(), |page, (hole, part)| page.replacen(hole, part, 1))
    }
}

impl Record {
    fn see(&mut self, at: Instant, sight: Sight) {
        let at = at.0;
        self.end = self.end.max(at);
        match sight {
            Sight::Sent { from, to, command, len, fate, arrives, .. } => {
                let arrives = arrives.map_or(-1, |at| i64::try_from(at.0).unwrap_or(i64::MAX));
                self.frames.push((at, arrives, from, to, command as usize - 1, fate as usize, len, 0));
            }
            // Frames are numbered from 1 in their order.
            Sight::Unheard { number } => {
                let place =
                    number.checked_sub(self.frames.left_out + 1).and_then(|at| usize::try_from(at).ok());
                if let Some(frame) = place.and_then(|place| self.frames.kept.get_mut(place)) {
                    frame.7 = 1;
                }
            }
            Sight::Stands { place, up, view } => {
                let status = view.map_or_else(String::new, |view| snake(&format!("{:?}", view.status)));
                let (number, leads) = view.map_or((0, false), |view| (view.view, view.is_primary));
                self.stands.push((at, place, u8::from(up), status, number, u8::from(leads)));
                if place >= self.replicas {
                    let (kind, what) =
                        if up { ("start", "an edge started") } else { ("crash", "an edge fell") };
                    self.mark(at, place, kind, what.to_owned());
                }
            }
            Sight::Paused { place, until } => self.spans.push((at, until.0, place, "pause")),
            Sight::Full { place, until } => self.spans.push((at, until.0, place, "disk full")),
            Sight::Slow { place, factor } => {
                self.mark(at, place, "disk", format!("the disk takes {factor} times as long"));
            }
            Sight::Link { from, to, cut } => self.links.push((at, from, to, u8::from(cut))),
            Sight::Disk { place, more: DiskCounts { damaged, repaired, errors } } => {
                let what =
                    format!("{damaged} sectors damaged, {repaired} written anew, {errors} operations failed");
                self.mark(at, place, "disk", what);
            }
            Sight::Trouble { number, kind } => {
                self.mark(at, self.users + 1, "trouble", format!("number {number}: {kind}"));
            }
        }
    }

    fn hear(&mut self, seen: &Observation) {
        self.end = self.end.max(seen.at.0);
        let (place, kind) = match &seen.what {
            // Drawn as a band.
            What::Position { .. } => return,
            What::Executed { replica, .. } => (replica.0.into(), "executed"),
            What::Release { replica, .. } => (replica.0.into(), "release"),
            What::Clock { replica, .. } => (replica.0.into(), "clock"),
            What::Checkpointed { replica, .. } => (replica.0.into(), "checkpoint"),
            What::StateLost { replica, .. } => (replica.0.into(), "state lost"),
            What::Crashed { replica, .. } => (replica.0.into(), "crash"),
            What::Started { replica } => (replica.0.into(), "start"),
            What::Waits { replica, .. } => (replica.0.into(), "waits"),
            What::Healed { .. } | What::Quiet => (self.users + 1, "phase"),
            _ => (self.users, "user"),
        };
        self.mark(seen.at.0, place, kind, told(&seen.what));
    }

    fn mark(&mut self, at: u64, place: Place, kind: &'static str, what: String) {
        self.marks.push((at, place, kind, what));
    }

    fn run<'a>(&'a self, heading: &Heading<'a>) -> Run<'a> {
        let name = |kind: &str, at| format!("{kind}{at}");
        let replicas = (0..heading.replicas).map(|at| Lane { name: name("r", at), kind: "replica" });
        let edges = (0..heading.edges).map(|at| Lane { name: name("e", at), kind: "edge" });
        let users = Lane { name: "users".into(), kind: "users" };
        let begins = |left_out: u64, first: Option<u64>| if left_out > 0 { first.unwrap_or(0) } else { 0 };
        let frames_begin = begins(self.frames.left_out, self.frames.kept.front().map(|frame| frame.0));
        let marks_begin = begins(self.marks.left_out, self.marks.kept.front().map(|mark| mark.0));
        Run {
            title: heading.title,
            command: heading.command,
            verdict: heading.failure.map(|it| Verdict { checker: &it.checker, what: &it.what }),
            lanes: replicas.chain(edges).chain([users]).collect(),
            kinds: Command::ALL.iter().map(|command| name_of(*command)).collect(),
            fates: Fate::ALL.iter().map(|fate| snake(&format!("{fate:?}"))).collect(),
            begin: frames_begin.min(marks_begin),
            end: self.end,
            frames: &self.frames.kept,
            marks: &self.marks.kept,
            stands: &self.stands.kept,
            links: &self.links.kept,
            spans: &self.spans.kept,
            left_out: LeftOut { frames: self.frames.left_out, marks: self.marks.left_out },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(number: u64) -> Sight {
        let (command, fate) = (Command::Prepare, Fate::Sent);
        Sight::Sent { number, from: 0, to: 1, command, len: 256, fate, arrives: Some(Instant(number + 50)) }
    }

    fn data(page: &str) -> serde_json::Value {
        let (_, rest) = page.split_once("id=\"run\">").unwrap();
        serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
    }

    fn heading(failure: Option<&Failure>) -> Heading<'_> {
        Heading { title: "seed 7", command: "vopr --seed 7", replicas: 2, edges: 1, failure }
    }

    #[test]
    fn the_last_frames_are_kept_and_the_page_says_how_many_were_left_out() {
        let recorder = Recorder::keeping(3, 2, 1);
        let mut watch = recorder.watch();
        (1..=5).for_each(|number| watch(Instant(number), sent(number)));
        watch(Instant(60), Sight::Unheard { number: 1 });
        watch(Instant(60), Sight::Unheard { number: 4 });
        let run = data(&recorder.page(&heading(None)));
        assert_eq!(run["left_out"]["frames"], 2);
        let kept: Vec<_> =
            run["frames"].as_array().unwrap().iter().map(|it| (it[0].as_u64(), it[7].as_u64())).collect();
        assert_eq!(kept, [(Some(3), Some(0)), (Some(4), Some(1)), (Some(5), Some(0))]);
        assert_eq!(run["lanes"].as_array().unwrap().len(), 4);
        assert!(run["verdict"].is_null());
    }

    #[test]
    fn a_violation_is_the_last_mark_and_nothing_in_it_ends_the_data() {
        let recorder = Recorder::new(2, 1);
        recorder.watch()(Instant(9), sent(1));
        let what = "</script><b>two</b> {{SCRIPT}}".to_owned();
        let failure = Failure { checker: "agreement".into(), what: what.clone(), events: Vec::new() };
        let page = recorder.page(&heading(Some(&failure)));
        assert_eq!(page.matches("</script>").count(), 2, "the two elements of the page, and no other");
        let run = data(&page);
        assert_eq!(run["verdict"]["what"], what);
        let last = run["marks"].as_array().unwrap().last().unwrap().clone();
        assert_eq!((&last[0], &last[2]), (&9.into(), &"violation".into()));
    }
}
