//! Connections between users and edges.
//!
//! The one law: **bytes of one connection arrive in order, once, or the connection is gone.** When it breaks, what
//! was on its way is lost, and the two sides learn of it at times of their own: for a while it may be half open.

use std::collections::BTreeMap;
use std::time::Duration;

use tigerchat_core::io::Transport;
use tigerchat_core::types::{ConnectionId, Instant};

use crate::network::Place;
use crate::process::Inbound;
use crate::random::{Ppm, Random};
use crate::users::Heard;
use crate::world::{Event, World};

/// Users who read slowly.
const SLOW: Ppm = 200_000;
/// Broken connections of which the edge learns soon.
const NOTICED: Ppm = 700_000;

/// Something on its way over a connection.
#[derive(Debug)]
pub struct Crossing {
    pub(crate) connection: ConnectionId,
    what: Crosses,
}

#[derive(Debug)]
enum Crosses {
    /// To the edge.
    Knock,
    Said(Vec<u8>),
    HungUp,
    /// To the user.
    Welcome,
    Bytes(Vec<u8>),
    Closed,
}

#[derive(Debug)]
struct Connection {
    user: usize,
    transport: Transport,
    edge: Place,
    /// Which start of the edge.
    life: u64,
    latency: Duration,
    /// What a byte takes to be read by the user.
    per_byte: Duration,
    user_holds: bool,
    edge_holds: bool,
    /// The wire between them is gone: nothing crosses but the news of it.
    broken: bool,
    last_to_edge: Instant,
    last_to_user: Instant,
}

/// All connections that anybody holds.
#[derive(Debug)]
pub struct Connections {
    open: BTreeMap<ConnectionId, Connection>,
    next: u64,
    /// None: everything takes its fixed time.
    random: Option<Random>,
}

impl Connections {
    /// With no randomness each connection is like the other.
    #[must_use]
    pub fn new(random: Option<Random>) -> Self {
        Self { open: BTreeMap::new(), next: 1, random }
    }

    /// Whether the edge has taken the connection and not closed it.
    #[must_use]
    pub fn edge_holds(&self, id: ConnectionId) -> bool {
        self.open.get(&id).is_some_and(|connection| connection.edge_holds)
    }

    /// Whether an edge has yet to learn that a client is gone.
    #[must_use]
    pub fn has_ghosts(&self) -> bool {
        self.open.values().any(|connection| connection.edge_holds && !connection.user_holds)
    }

    fn micros(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_micros(self.random.as_mut().map_or(least, |random| random.within(least..=most)))
    }

    fn chance(&mut self, of: Ppm) -> bool {
        self.random.as_mut().is_some_and(|random| random.chance(of))
    }

    fn drop_if_unheld(&mut self, id: ConnectionId) {
        if self.open.get(&id).is_some_and(|connection| !connection.user_holds && !connection.edge_holds) {
            self.open.remove(&id);
        }
    }
}

impl World<'_> {
    /// A user dials an edge.
    pub(crate) fn dial(&mut self, user: usize, edge: Place, transport: Transport) -> ConnectionId {
        let id = ConnectionId(self.connections.next);
        self.connections.next += 1;
        let latency = self.connections.micros(100, 2_000);
        let per_byte =
            if self.connections.chance(SLOW) { self.connections.micros(5, 50) } else { Duration::ZERO };
        let connection = Connection {
            user,
            transport,
            edge,
            life: self.processes[edge].life,
            latency,
            per_byte,
            user_holds: true,
            edge_holds: false,
            broken: false,
            last_to_edge: self.now,
            last_to_user: self.now,
        };
        self.connections.open.insert(id, connection);
        self.send_to_edge(id, Crosses::Knock);
        id
    }

    /// A frame's payload or a line, without its end.
    pub(crate) fn say(&mut self, id: ConnectionId, bytes: Vec<u8>) {
        self.send_to_edge(id, Crosses::Said(bytes));
    }

    /// The user closes the connection.
    pub(crate) fn hang_up(&mut self, id: ConnectionId) {
        self.send_to_edge(id, Crosses::HungUp);
        if let Some(connection) = self.connections.open.get_mut(&id) {
            connection.user_holds = false;
        }
        self.connections.drop_if_unheld(id);
    }

    /// What an edge wrote to a client.
    pub(crate) fn say_to_user(&mut self, place: Place, id: ConnectionId, bytes: Vec<u8>) {
        if self.connections.open.get(&id).is_some_and(|connection| connection.edge == place) {
            self.send_to_user(id, Crosses::Bytes(bytes));
        }
    }

    pub(crate) fn close_from_edge(&mut self, place: Place, id: ConnectionId) {
        let Some(connection) = self.connections.open.get_mut(&id) else { return };
        if connection.edge == place {
            connection.edge_holds = false;
            self.send_to_user(id, Crosses::Closed);
        }
    }

    /// An edge's process ended: its clients find out.
    pub(crate) fn edge_gone(&mut self, place: Place) {
        let held = self.connections.open.iter().filter(|(_, connection)| connection.edge == place);
        let held: Vec<ConnectionId> = held.map(|(id, _)| *id).collect();
        for id in held {
            if let Some(connection) = self.connections.open.get_mut(&id) {
                connection.edge_holds = false;
            }
            self.send_to_user(id, Crosses::Closed);
            self.connections.drop_if_unheld(id);
        }
    }

    /// The wire breaks. Each side learns of it later; the edge perhaps much later.
    pub(crate) fn break_connection(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.open.get_mut(&id) else { return };
        connection.broken = true;
        let noticed = self.connections.chance(NOTICED);
        let edge_learns = self.connections.micros(0, if noticed { 20_000 } else { 3_000_000 });
        let user_learns = self.connections.micros(0, 200_000);
        let crossing = |what| Event::Crossing(Crossing { connection: id, what });
        self.schedule(self.now.after(edge_learns), crossing(Crosses::HungUp));
        self.schedule(self.now.after(user_learns), crossing(Crosses::Closed));
    }

    /// Something arrives at the other end.
    pub(crate) fn cross(&mut self, crossing: Crossing) {
        let Crossing { connection: id, what } = crossing;
        match what {
            Crosses::Knock | Crosses::Said(_) | Crosses::HungUp => self.arrive_at_edge(id, what),
            Crosses::Welcome | Crosses::Bytes(_) | Crosses::Closed => self.arrive_at_user(id, what),
        }
        self.connections.drop_if_unheld(id);
    }

    fn arrive_at_edge(&mut self, id: ConnectionId, what: Crosses) {
        let Some(connection) = self.connections.open.get_mut(&id) else { return };
        let place = connection.edge;
        let listens = self.processes[place].is_up() && self.processes[place].life == connection.life;
        match what {
            Crosses::Knock if connection.broken => {}
            Crosses::Knock if listens => {
                connection.edge_holds = true;
                let transport = connection.transport;
                self.inform(place, Inbound::Opened { connection: id, transport });
                self.send_to_user(id, Crosses::Welcome);
            }
            // Nobody listens: refused.
            Crosses::Knock => self.send_to_user(id, Crosses::Closed),
            Crosses::Said(bytes) if connection.edge_holds && !connection.broken && listens => {
                self.inform(place, Inbound::Said { connection: id, bytes });
            }
            Crosses::HungUp => {
                let held = std::mem::take(&mut connection.edge_holds);
                if held && listens {
                    self.inform(place, Inbound::Closed { connection: id });
                }
            }
            _ => {}
        }
    }

    fn arrive_at_user(&mut self, id: ConnectionId, what: Crosses) {
        let Some(connection) = self.connections.open.get_mut(&id) else { return };
        let (user, place) = (connection.user, connection.edge);
        let listens = self.processes[place].is_up() && self.processes[place].life == connection.life;
        match what {
            Crosses::Welcome if connection.user_holds && !connection.broken => {
                self.hear(user, id, Heard::Opened);
            }
            Crosses::Bytes(bytes) if connection.user_holds && !connection.broken => {
                if connection.edge_holds && listens {
                    self.inform(place, Inbound::Drained { connection: id, bytes: bytes.len() });
                }
                self.hear(user, id, Heard::Bytes(&bytes));
            }
            Crosses::Closed if std::mem::take(&mut connection.user_holds) => {
                self.hear(user, id, Heard::Closed);
            }
            _ => {}
        }
    }

    fn send_to_edge(&mut self, id: ConnectionId, what: Crosses) {
        let jitter = self.connections.micros(0, 300);
        let Some(connection) = self.connections.open.get_mut(&id) else { return };
        let at = self.now.after(connection.latency + jitter).max(connection.last_to_edge);
        connection.last_to_edge = at;
        self.schedule(at, Event::Crossing(Crossing { connection: id, what }));
    }

    fn send_to_user(&mut self, id: ConnectionId, what: Crosses) {
        let jitter = self.connections.micros(0, 300);
        let Some(connection) = self.connections.open.get_mut(&id) else { return };
        let len = if let Crosses::Bytes(bytes) = &what { bytes.len() } else { 0 };
        let reading = connection.per_byte * u32::try_from(len).expect("bytes of one turn");
        let at = self.now.after(connection.latency + jitter).max(connection.last_to_user).after(reading);
        connection.last_to_user = at;
        self.schedule(at, Event::Crossing(Crossing { connection: id, what }));
    }
}
