//! The driver: one process's state machines and the turn that moves them, the same in production and in
//! simulation.
//!
//! The one law: **events first, then effects, in order.** A turn feeds every event to the state machine that it is
//! for, tells each that the turn ended, carries the effects to the traits, and starts the flushes.

use alloc::vec::Vec;

use crate::chat::Chat;
use crate::edge::Edge;
use crate::errors::ErrorCode;
use crate::io::{EdgeEffect, EdgeEffects, EdgeEvent, Effect, Effects, Event, FileId, Io};
use crate::types::{Address, EdgeId, Instant, Now, ReplicaId};
use crate::vsr::replica::Replica;

/// What a turn is about.
#[derive(Debug)]
pub enum NodeEvent<'a> {
    /// For the replica on this file.
    Replica(FileId, Event),
    /// For the edge.
    Edge(EdgeEvent<'a>),
}

/// The state machines of one loop: replicas of several shards, an edge, or both.
#[derive(Debug, Default)]
pub struct Node {
    replicas: Vec<Seat>,
    edge: Option<Edge>,
    edge_counter: u64,
    /// The config number of the edge's members that the world was told of.
    edge_members: u32,
    effects: Effects,
    edge_effects: EdgeEffects,
}

#[derive(Debug)]
struct Seat {
    file: FileId,
    replica: Replica<Chat>,
    /// Frames sent by this incarnation.
    counter: u64,
    /// The config number that the world was told of.
    members: u32,
    stopped: bool,
}

impl Node {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a replica; `effects` are what its opening asked for, carried out at the next turn.
    pub fn add_replica(&mut self, file: FileId, replica: Replica<Chat>, effects: Effects, io: &mut impl Io) {
        self.replicas.push(Seat { file, replica, counter: 0, members: 0, stopped: false });
        let at = self.replicas.len() - 1;
        self.effects.extend(effects);
        self.carry_out(at, io);
        io.turn_ended();
    }

    pub fn set_edge(&mut self, edge: Edge) {
        self.edge = Some(edge);
    }

    #[must_use]
    pub fn edge(&self) -> Option<&Edge> {
        self.edge.as_ref()
    }

    #[must_use]
    pub fn edge_mut(&mut self) -> Option<&mut Edge> {
        self.edge.as_mut()
    }

    pub fn replicas(&self) -> impl Iterator<Item = (FileId, &Replica<Chat>)> {
        self.replicas.iter().map(|seat| (seat.file, &seat.replica))
    }

    #[must_use]
    pub fn replica(&self, file: FileId) -> Option<&Replica<Chat>> {
        self.replicas.iter().find(|seat| seat.file == file).map(|seat| &seat.replica)
    }

    /// One turn. Deadlines that have passed are taken care of too: the caller need not send `Elapsed`.
    pub fn turn<'a>(&mut self, io: &mut impl Io, events: impl Iterator<Item = NodeEvent<'a>>) {
        let now = io.now();
        for event in events {
            match event {
                NodeEvent::Replica(file, event) => {
                    if let Some(at) = self.replicas.iter().position(|seat| seat.file == file && !seat.stopped)
                    {
                        self.replicas[at].replica.on_event(now, event, &mut self.effects);
                        self.carry_out(at, io);
                    }
                }
                NodeEvent::Edge(event) => {
                    if let Some(edge) = &mut self.edge {
                        edge.on_event(now, event, &mut self.edge_effects);
                    }
                }
            }
        }
        for at in 0..self.replicas.len() {
            self.end_replica_turn(at, now, io);
        }
        self.end_edge_turn(now, io);
        io.turn_ended();
    }

    /// When the node wants to be woken next.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let replicas = self.replicas.iter().filter(|seat| !seat.stopped);
        let replicas = replicas.filter_map(|seat| seat.replica.deadline()).map(|(at, _)| at);
        let edge = self.edge.iter().filter_map(Edge::deadline).map(|(at, _)| at);
        replicas.chain(edge).min()
    }

    /// Gives the lead of a shard to another of its replicas. Errors say why that can't be now.
    pub fn hand_over(
        &mut self,
        file: FileId,
        target: Option<ReplicaId>,
        io: &mut impl Io,
    ) -> Result<(), ErrorCode> {
        let at = self.replicas.iter().position(|seat| seat.file == file && !seat.stopped);
        let at = at.ok_or(ErrorCode::NoLeader)?;
        let result = self.replicas[at].replica.hand_over(io.now(), target, &mut self.effects);
        self.carry_out(at, io);
        result
    }

    /// Whether the lead of some shard is being given away.
    #[must_use]
    pub fn is_handing_over(&self) -> bool {
        self.replicas.iter().any(|seat| !seat.stopped && seat.replica.is_handing_over())
    }

    /// The process is about to stop: what it leads, others lead first. Turns go on while [`Node::is_handing_over`],
    /// then comes [`Node::shutdown`].
    pub fn give_up_lead(&mut self, io: &mut impl Io) {
        for at in 0..self.replicas.len() {
            // Where nobody can take over now, the others find out by themselves.
            let _ = self.hand_over(self.replicas[at].file, None, io);
        }
    }

    /// The process stops: the edge says good-bye to its clients.
    pub fn shutdown(&mut self, io: &mut impl Io) {
        if let Some(edge) = &mut self.edge {
            edge.shutdown(io.now(), &mut self.edge_effects);
        }
        self.carry_out_edge(io);
    }

    fn end_replica_turn(&mut self, at: usize, now: Now, io: &mut impl Io) {
        let seat = &mut self.replicas[at];
        if seat.stopped {
            return;
        }
        if seat.replica.deadline().is_some_and(|(deadline, _)| deadline <= now.mono) {
            seat.replica.on_event(now, Event::Elapsed, &mut self.effects);
        }
        seat.replica.turn_ended(now, &mut self.effects);
        let members = seat.replica.members();
        if members.number > seat.members {
            seat.members = members.number;
            io.members_changed(seat.replica.config().shard, members);
        }
        self.carry_out(at, io);
    }

    fn end_edge_turn(&mut self, now: Now, io: &mut impl Io) {
        let Some(edge) = &mut self.edge else { return };
        if edge.deadline().is_some_and(|(deadline, _)| deadline <= now.mono) {
            edge.on_event(now, EdgeEvent::Elapsed, &mut self.edge_effects);
        }
        edge.turn_ended(now, &mut self.edge_effects);
        if let Some(members) = edge.members().filter(|members| members.number > self.edge_members) {
            self.edge_members = members.number;
            io.members_changed(edge.config().shard, members);
        }
        self.carry_out_edge(io);
    }

    fn carry_out_edge(&mut self, io: &mut impl Io) {
        let Some(edge) = &self.edge else { return };
        let from = edge.address();
        let Address::Edge(EdgeId(incarnation)) = from else { unreachable!("an edge has an edge's address") };
        for effect in self.edge_effects.drain(..) {
            match effect {
                EdgeEffect::Send { to, mut frame } => {
                    self.edge_counter += 1;
                    frame.seal(from, to, incarnation, self.edge_counter);
                    io.send(from, to, frame);
                }
                EdgeEffect::Client { to, bytes } => io.clients().send(to, bytes),
                EdgeEffect::Close { to, why } => io.clients().close(to, why),
            }
        }
    }

    fn carry_out(&mut self, at: usize, io: &mut impl Io) {
        let seat = &mut self.replicas[at];
        let from = seat.replica.address();
        let incarnation = seat.replica.incarnation();
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Send { to, mut frame } => {
                    seat.counter += 1;
                    frame.seal(from, to, incarnation, seat.counter);
                    io.send(from, to, frame);
                }
                Effect::Disk(op) => io.submit(seat.file, op),
                Effect::Stop(why) => {
                    seat.stopped = true;
                    io.stop(seat.file, why);
                }
            }
        }
    }
}
