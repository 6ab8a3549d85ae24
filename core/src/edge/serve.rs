//! What clients ask, and what they are answered.
//!
//! The one law: **every command is answered once, by its result or by a numbered error, and a refused one has left
//! no trace**. Nothing that one client sends harms another.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Bound::{Excluded, Unbounded};
use core::time::Duration;

use rand_chacha::rand_core::Rng;

use super::auth::User;
use super::command::{self, Asked, Method, Refused, Since};
use super::connection::Connection;
use super::reads::Purpose;
use super::session::{Waiter, Waiting};
use super::{Edge, JSON, PLAIN, STUCK, auth, text};
use crate::errors::ErrorCode;
use crate::io::{CloseCode, EdgeEffects, Transport};
use crate::types::{ConnectionId, Instant};
use crate::wire::chat::{
    AnswerHead, COMMANDS_MAX, Command as ChatCommand, Erase, KIND_MESSAGE, Key, Outcome, Publish, Query,
};
use crate::wire::codec::Reader;
use crate::wire::frame::Frame;
use crate::wire::page::PageQuery;

const _: () = assert!(COMMANDS_MAX > 0);

impl Edge {
    pub(super) fn opened(
        &mut self,
        connection: ConnectionId,
        transport: Transport,
        token: Option<&[u8]>,
        effects: &mut EdgeEffects,
    ) {
        let full = self.connections.len() >= self.config.limits.connections as usize;
        self.connections.insert(connection, Connection::new(transport, self.now.mono));
        if full {
            self.say_error(connection, 0, ErrorCode::TooManyConnections, 0, effects);
            return self.close(connection, CloseCode::TOO_MANY_CONNECTIONS, effects);
        }
        let user = token.and_then(|token| auth::authenticate(&self.config, token));
        if token.is_some() && user.is_none() {
            self.say_error(connection, 0, ErrorCode::Unauthenticated, 0, effects);
            return self.close(connection, CloseCode::UNAUTHENTICATED, effects);
        }
        let client = self.connections.get_mut(&connection).expect("just made");
        client.user = user;
        if transport == Transport::Line && self.config.demo {
            self.guests += 1;
            let token = alloc::format!("demo:guest{}", self.guests);
            let client = self.connections.get_mut(&connection).expect("just made");
            client.user = auth::authenticate(&self.config, token.as_bytes());
            self.frame_for(connection, |out, _| text::text(out, "* welcome; type help"), effects);
        }
    }

    pub(super) fn closed(&mut self, connection: ConnectionId) {
        let Some(client) = self.connections.get(&connection) else { return };
        let rooms: Vec<usize> = client.subscriptions.iter().map(|one| one.room).collect();
        for room in rooms {
            self.unsubscribe(connection, room);
        }
        self.reads.forget(connection);
        self.connections.remove(&connection);
    }

    pub(super) fn drained(&mut self, connection: ConnectionId, bytes: usize) {
        let now = self.now.mono;
        if let Some(client) = self.connections.get_mut(&connection) {
            client.queued = client.queued.saturating_sub(bytes);
            client.drained = now;
            self.touch(connection);
        }
    }

    pub(super) fn heard(&mut self, connection: ConnectionId) {
        if let Some(client) = self.connections.get_mut(&connection) {
            client.heard = self.now.mono;
        }
    }

    pub(super) fn close_if_http(&mut self, connection: ConnectionId, effects: &mut EdgeEffects) {
        if self.connections.get(&connection).is_some_and(|client| client.transport == Transport::Http) {
            self.close(connection, CloseCode::DONE, effects);
        }
    }

    /// One whole frame or line of a client.
    pub(super) fn on_bytes(&mut self, connection: ConnectionId, bytes: &[u8], effects: &mut EdgeEffects) {
        self.heard(connection);
        let Some(client) = self.connections.get_mut(&connection) else { return };
        let transport = client.transport;
        let room = client.room.take();
        let asked = if bytes.len() > self.config.limits.frame as usize {
            Err(Refused { id: 0, error: ErrorCode::FrameTooLarge })
        } else if transport == Transport::Line {
            command::parse_line(bytes, room.as_deref())
        } else {
            command::parse_json(bytes)
        };
        let refused = asked.and_then(|asked| {
            self.serve(connection, transport, asked, effects).map_err(|error| Refused { id: asked.id, error })
        });
        if let Some(client) = self.connections.get_mut(&connection)
            && client.room.is_none()
        {
            client.room = room;
        }
        if let Err(Refused { id, error }) = refused {
            self.say_error(connection, id, error, 0, effects);
            self.close_if_http(connection, effects);
        }
    }

    fn serve(
        &mut self,
        connection: ConnectionId,
        transport: Transport,
        asked: Asked<'_>,
        effects: &mut EdgeEffects,
    ) -> Result<(), ErrorCode> {
        let Asked { id, method } = asked;
        match method {
            Method::Ping => self.pong(connection, transport, id, effects),
            Method::Help => self.help(connection, effects),
            Method::Exit => {
                self.frame_for(connection, |out, _| text::text(out, "* bye"), effects);
                self.close(connection, CloseCode::DONE, effects);
            }
            Method::Connect { token, floor } => {
                self.connect(connection, transport, id, token, effects)?;
                if let Some(client) = self.connections.get_mut(&connection) {
                    client.floor = client.floor.max(floor);
                }
            }
            _ => {
                let client = self.connections.get(&connection).ok_or(ErrorCode::NotConnected)?;
                let user = client.user.clone().ok_or(ErrorCode::NotConnected)?;
                return self.serve_user(connection, transport, &user, asked, effects);
            }
        }
        Ok(())
    }

    /// Methods for which one must have said who one is.
    fn serve_user(
        &mut self,
        connection: ConnectionId,
        transport: Transport,
        user: &User,
        asked: Asked<'_>,
        effects: &mut EdgeEffects,
    ) -> Result<(), ErrorCode> {
        let Asked { id, method } = asked;
        let tenant = user.tenant;
        match method {
            Method::RoomOpen { room } => {
                let command = ChatCommand::RoomOpen { tenant, room, user: &user.name };
                self.submit(connection, id, Waiting::RoomOpen, &command)
            }
            Method::Join { room } => self.join(connection, id, user, room),
            Method::Publish { .. } => self.publish(connection, id, user, method),
            Method::Erase { room, key, seq } => self.erase(connection, id, user, (room, key, seq), effects),
            Method::Subscribe { .. } | Method::Unsubscribe { .. } if transport == Transport::Http => {
                Err(ErrorCode::Unsupported)
            }
            Method::Subscribe { room, since } => {
                self.subscribe(connection, id, room, since, effects);
                Ok(())
            }
            Method::Unsubscribe { room } => self.leave(connection, id, user, room, effects),
            Method::History { room, thread, span, limit, linearizable } => {
                let limit = Self::limit_of(limit);
                let query = Query::Page(PageQuery { tenant, room, thread, span, limit });
                self.read(connection, Purpose::History { id, thread }, &query, linearizable, effects)
            }
            Method::Presence { room, linearizable } => {
                let query = Query::Presence { tenant, room };
                self.read(connection, Purpose::Presence { id }, &query, linearizable, effects)
            }
            Method::Whoami => {
                self.frame_for(connection, |out, _| write_whoami(out, id, &user.name), effects);
                self.close_if_http(connection, effects);
                Ok(())
            }
            Method::Status => {
                self.status(connection, id, effects);
                Ok(())
            }
            Method::Ping | Method::Help | Method::Exit | Method::Connect { .. } => {
                unreachable!("served before it was asked who asks")
            }
        }
    }

    /// The line protocol's: opens the room; the subscription follows when it is open.
    fn join(&mut self, connection: ConnectionId, id: u32, user: &User, room: &str) -> Result<(), ErrorCode> {
        let at = self.rooms.find(user.tenant, room);
        let client = self.connections.get_mut(&connection).ok_or(ErrorCode::NotConnected)?;
        if at.is_some_and(|at| client.subscriptions.iter().any(|one| one.room == at)) {
            // Joined before: `send` goes here from now on.
            client.room = Some(String::from(room));
            return Ok(());
        }
        let command = ChatCommand::RoomOpen { tenant: user.tenant, room, user: &user.name };
        self.submit(connection, id, Waiting::Join, &command)?;
        // Only now: a refused one has no outcome that would take the name out again.
        self.joining(connection, room);
        // What the user says next goes there: it follows the opening on the way to the shard.
        if let Some(client) = self.connections.get_mut(&connection) {
            client.room = Some(String::from(room));
        }
        Ok(())
    }

    fn publish(
        &mut self,
        connection: ConnectionId,
        id: u32,
        user: &User,
        method: Method<'_>,
    ) -> Result<(), ErrorCode> {
        let Method::Publish { room, key, parent, expect_seq, body, json } = method else {
            unreachable!("called for a publish");
        };
        if body.len() > self.config.limits.body as usize {
            return Err(ErrorCode::BodyTooLarge);
        }
        let key = key.unwrap_or_else(|| self.mint());
        let mut salt = [0; 16];
        self.random.fill_bytes(&mut salt);
        let publish = Publish {
            tenant: user.tenant,
            room,
            user: &user.name,
            key,
            kind: KIND_MESSAGE,
            parent,
            expect_seq,
            salt,
            content_type: if json { JSON } else { PLAIN },
            body,
        };
        self.submit(connection, id, Waiting::Publish, &ChatCommand::Publish(publish))
    }

    fn leave(
        &mut self,
        connection: ConnectionId,
        id: u32,
        user: &User,
        room: &str,
        effects: &mut EdgeEffects,
    ) -> Result<(), ErrorCode> {
        let at = self.rooms.find(user.tenant, room).ok_or(ErrorCode::NotSubscribed)?;
        let client = self.connections.get(&connection).ok_or(ErrorCode::NotConnected)?;
        if !client.subscriptions.iter().any(|one| one.room == at) {
            return Err(ErrorCode::NotSubscribed);
        }
        self.unsubscribe(connection, at);
        let write = |out: &mut Vec<u8>, transport| write_unsubscribed(out, transport, id, room);
        self.frame_for(connection, write, effects);
        Ok(())
    }

    pub(super) fn read(
        &mut self,
        connection: ConnectionId,
        purpose: Purpose,
        query: &Query<'_>,
        linearizable: bool,
        effects: &mut EdgeEffects,
    ) -> Result<(), ErrorCode> {
        let client = self.connections.get(&connection).ok_or(ErrorCode::NotConnected)?;
        if client.queued >= self.config.limits.send_queue as usize {
            // It asks for more than it reads.
            return Err(ErrorCode::Overloaded);
        }
        let floor = client.floor;
        let asked = self.ask(connection, purpose, query, (floor, linearizable), effects);
        if asked { Ok(()) } else { Err(ErrorCode::Overloaded) }
    }

    fn status(&mut self, connection: ConnectionId, id: u32, effects: &mut EdgeEffects) {
        let (view, primary) = (self.session.view, self.session.primary.0);
        let (replicas, commit) = (self.session.replicas.len() as u64, self.feed.cursor);
        let write = |out: &mut Vec<u8>, _| write_status(out, id, view, primary, replicas, commit);
        self.frame_for(connection, write, effects);
        self.close_if_http(connection, effects);
    }

    /// Puts a command on its way to the shard.
    pub(super) fn submit(
        &mut self,
        connection: ConnectionId,
        id: u32,
        what: Waiting,
        command: &ChatCommand<'_>,
    ) -> Result<(), ErrorCode> {
        let client = self.connections.get_mut(&connection).ok_or(ErrorCode::NotConnected)?;
        if client.in_flight >= self.config.limits.inflight {
            return Err(ErrorCode::TooManyInFlight);
        }
        let (ChatCommand::RoomOpen { room, .. }
        | ChatCommand::Publish(Publish { room, .. })
        | ChatCommand::Erase(Erase { room, .. })) = *command
        else {
            return Err(ErrorCode::Internal);
        };
        if !crate::chat::is_room_name(room) {
            return Err(ErrorCode::RoomNameInvalid);
        }
        let waiter = Waiter { connection, id, what };
        if !self.session.push(command, waiter, self.now.mono, &self.pool) {
            return Err(ErrorCode::Overloaded);
        }
        client.in_flight += 1;
        Ok(())
    }

    /// A key for a user who has none: of a line client, whose retry is their own.
    pub(super) fn mint(&mut self) -> Key {
        let mut random = [0; 10];
        self.random.fill_bytes(&mut random);
        Key::new(self.now.wall.0 / 1_000_000, random)
    }

    /// Remembers which room a `join` is for until it is open.
    fn joining(&mut self, connection: ConnectionId, room: &str) {
        if let Some(client) = self.connections.get_mut(&connection) {
            client.joining.push_back(String::from(room));
        }
    }

    fn connect(
        &mut self,
        connection: ConnectionId,
        transport: Transport,
        id: u32,
        token: &[u8],
        effects: &mut EdgeEffects,
    ) -> Result<(), ErrorCode> {
        let demo_guest = self.config.demo && transport == Transport::Line;
        let client = self.connections.get(&connection).ok_or(ErrorCode::NotConnected)?;
        if client.user.is_some() && !(demo_guest && client.subscriptions.is_empty()) {
            return Err(ErrorCode::AlreadyConnected);
        }
        let Some(user) = auth::authenticate(&self.config, token) else {
            return Err(ErrorCode::Unauthenticated);
        };
        let name = user.name.clone();
        self.connections.get_mut(&connection).expect("looked at").user = Some(user);
        let (limits, wall) = (self.config.limits, self.now.wall.0);
        self.frame_for(
            connection,
            |out, transport| {
                if transport == Transport::Line {
                    text::text(out, "* you are ");
                    return text::text(out, &name);
                }
                out.push(b'{');
                text::id(out, id);
                text::text(out, "\"connect\":{\"session\":");
                text::big(out, connection.0);
                text::text(out, ",\"user\":");
                text::string(out, &name);
                text::text(out, ",\"ping_ms\":");
                text::number(out, u64::try_from(limits.ping.as_millis()).unwrap_or(u64::MAX));
                text::text(out, ",\"server_time\":");
                text::big(out, wall / 1_000_000);
                for (limit, value) in [
                    (",\"limits\":{\"frame\":", limits.frame),
                    (",\"body\":", limits.body),
                    (",\"inflight\":", limits.inflight),
                    (",\"rooms\":", limits.subscriptions),
                ] {
                    text::text(out, limit);
                    text::number(out, u64::from(value));
                }
                text::text(out, "}}}");
            },
            effects,
        );
        Ok(())
    }

    /// A sign of life needs no answer, but an HTTP request does.
    fn pong(&mut self, connection: ConnectionId, transport: Transport, id: u32, effects: &mut EdgeEffects) {
        if id > 0 || transport == Transport::Http {
            self.frame_for(
                connection,
                |out, _| {
                    out.push(b'{');
                    text::id(out, id);
                    text::text(out, "\"ping\":{}}");
                },
                effects,
            );
            self.close_if_http(connection, effects);
        }
    }

    fn help(&mut self, connection: ConnectionId, effects: &mut EdgeEffects) {
        const LINES: [&str; 14] = [
            "login TOKEN         say who you are",
            "join ROOM           come into a room, opening it if need be",
            "send TEXT           say something in the room you joined last",
            "send-key KEY TEXT   the same with your own key (32 hexadecimal digits), safe to repeat",
            "reply SEQ TEXT      answer message SEQ: what answers it is its thread",
            "erase N             take away what you said in message N",
            "users               who is here",
            "history [N]         the last N messages",
            "history from SEQ [N]     N messages from there on; also before SEQ, around SEQ,",
            "history since TIME [N]   and by Unix time in nanoseconds; also until TIME",
            "thread SEQ [N]      the last N answers to message SEQ",
            "thread SEQ from N   answers from the N-th on; also before, around, since, until",
            "leave [ROOM]        leave a room",
            "exit                leave altogether",
        ];
        for line in LINES {
            self.frame_for(connection, |out, _| text::text(out, line), effects);
        }
    }

    /// The shard answered a request: each of its waiters hears its outcome.
    pub(super) fn answered(
        &mut self,
        frame: &Frame,
        waiters: Vec<Waiter>,
        since: Instant,
        effects: &mut EdgeEffects,
    ) {
        let mut reader = Reader::new(frame.body());
        self.stats.requests += 1;
        self.stats.commands += waiters.len() as u64;
        self.stats.request_nanos += u64::try_from(self.now.mono.since(since).as_nanos()).unwrap_or(u64::MAX);
        for waiter in &waiters {
            let Ok(outcome) = Outcome::decode(&mut reader) else {
                self.stats.ignored += 1;
                break;
            };
            self.tell(*waiter, &outcome, effects);
        }
        self.session.recycle(waiters);
    }

    fn tell(&mut self, waiter: Waiter, outcome: &Outcome, effects: &mut EdgeEffects) {
        let Waiter { connection, id, what } = waiter;
        if what == Waiting::Nobody {
            return;
        }
        let Some(client) = self.connections.get_mut(&connection) else { return };
        client.in_flight = client.in_flight.saturating_sub(1);
        client.floor = client.floor.max(outcome.op);
        let joined = if what == Waiting::Join { client.joining.pop_front() } else { None };
        if let Some(error) = outcome.error {
            self.say_error(connection, id, error, outcome.seq, effects);
            return self.close_if_http(connection, effects);
        }
        match what {
            Waiting::Publish => self.frame_for(
                connection,
                |out, transport| match transport {
                    Transport::Line => {
                        text::text(out, "* sent #");
                        text::number(out, outcome.seq);
                    }
                    _ => text::published(out, id, "publish", outcome),
                },
                effects,
            ),
            Waiting::Erase => self.frame_for(
                connection,
                |out, transport| match transport {
                    Transport::Line => {
                        text::text(out, "* erased, as #");
                        text::number(out, outcome.seq);
                        text::text(out, " says");
                    }
                    _ => text::published(out, id, "erase", outcome),
                },
                effects,
            ),
            Waiting::RoomOpen => {
                self.frame_for(connection, |out, _| write_room_open(out, id, outcome), effects);
            }
            Waiting::Join => {
                if let Some(room) = joined {
                    self.subscribe(connection, id, &room, Since::Now, effects);
                }
            }
            Waiting::Nobody => {}
        }
        self.close_if_http(connection, effects);
    }

    pub(super) fn present(
        &mut self,
        connection: ConnectionId,
        id: u32,
        head: &AnswerHead,
        reader: Reader<'_>,
        effects: &mut EdgeEffects,
    ) {
        if let Some(error) = head.error {
            self.say_error(connection, id, error, 0, effects);
        } else {
            self.frame_for(
                connection,
                |out, transport| write_present(out, transport, id, head, reader),
                effects,
            );
        }
        self.close_if_http(connection, effects);
    }

    /// Pings clients that were silent, and lets go those that are gone.
    pub(super) fn look_after_clients(&mut self, effects: &mut EdgeEffects) {
        let (now, ping) = (self.now.mono, self.config.limits.ping);
        self.report_rest();
        let mut after = ConnectionId(0);
        // Step by step, because looking after one may end it.
        while let Some((connection, client)) = self.connections.range_mut((Excluded(after), Unbounded)).next()
        {
            let connection = *connection;
            after = connection;
            if client.queued > 0 && now.since(client.drained) >= STUCK {
                self.close(connection, CloseCode::SLOW_CONSUMER, effects);
            } else if client.transport == Transport::WebSocket {
                let silent = now.since(client.heard);
                if silent >= ping * 2 + Duration::from_secs(5) {
                    self.close(connection, CloseCode::IDLE, effects);
                } else if silent >= ping && now.since(client.pinged) >= ping {
                    client.pinged = now;
                    self.frame_for(connection, |out, _| text::text(out, "{}"), effects);
                }
            }
        }
    }
}

fn write_unsubscribed(out: &mut Vec<u8>, transport: Transport, id: u32, room: &str) {
    if transport == Transport::Line {
        text::text(out, "* left ");
        return text::text(out, room);
    }
    out.push(b'{');
    text::id(out, id);
    text::text(out, "\"unsubscribe\":{}}");
}

fn write_whoami(out: &mut Vec<u8>, id: u32, name: &str) {
    out.push(b'{');
    text::id(out, id);
    text::text(out, "\"whoami\":{\"user\":");
    text::string(out, name);
    text::text(out, "}}");
}

fn write_status(out: &mut Vec<u8>, id: u32, view: u64, primary: u16, replicas: u64, commit: u64) {
    out.push(b'{');
    text::id(out, id);
    text::text(out, "\"status\":{\"view\":");
    text::big(out, view);
    text::text(out, ",\"primary\":");
    text::number(out, u64::from(primary));
    text::text(out, ",\"replicas\":");
    text::number(out, replicas);
    text::text(out, ",\"commit\":");
    text::big(out, commit);
    text::text(out, "}}");
}

fn write_room_open(out: &mut Vec<u8>, id: u32, outcome: &Outcome) {
    out.push(b'{');
    text::id(out, id);
    text::text(out, "\"room_open\":{\"epoch\":");
    text::big(out, outcome.epoch);
    text::text(out, ",\"op\":");
    text::big(out, outcome.op);
    text::text(out, ",\"head\":");
    text::big(out, outcome.seq);
    text::text(out, ",\"chain\":\"");
    text::hex(out, &outcome.chain.0);
    text::text(out, "\"}}");
}

fn write_present(
    out: &mut Vec<u8>,
    transport: Transport,
    id: u32,
    head: &AnswerHead,
    mut reader: Reader<'_>,
) {
    if transport == Transport::Line {
        text::text(out, "* here:");
        while let Ok(name) = reader.short_str() {
            out.push(b' ');
            text::text(out, name);
        }
        return;
    }
    out.push(b'{');
    text::id(out, id);
    text::text(out, "\"presence\":{\"users\":[");
    let mut first = true;
    while let Ok(name) = reader.short_str() {
        if !core::mem::take(&mut first) {
            out.push(b',');
        }
        text::string(out, name);
    }
    text::text(out, if head.more { "],\"more\":true}}" } else { "],\"more\":false}}" });
}
