//! Rooms that clients of this edge are in: subscriptions, fan-out, presence.
//!
//! The one law: **a cursor moves by the one event that comes next**: from the live stream when it is there, else from
//! history. Whatever is missed, doubled or overtaken on the way to the edge, the cursor decides (H52, H53).

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::Edge;
use super::command::PAGE_MAX;
use super::connection::{Subscription, SubscriptionState};
use super::reads::Purpose;
use super::session::{Waiter, Waiting};
use super::text;
use crate::errors::ErrorCode;
use crate::io::{EdgeEffects, Transport};
use crate::types::{ConnectionId, TenantId};
use crate::wire::chat::{AnswerHead, Command as ChatCommand, MessageEvent, Query, RoomEvent};
use crate::wire::codec::Reader;

/// Messages of one page while catching up.
const CATCH_UP: u32 = 100;

#[derive(Debug)]
pub(super) struct Room {
    pub(super) tenant: TenantId,
    pub(super) name: String,
    /// Zero until a page or an event said so.
    epoch: u64,
    /// The highest sequence that the feed has shown.
    seen: u64,
    subscribers: Vec<ConnectionId>,
    /// Users of this edge and how many of their connections are here.
    users: BTreeMap<String, u32>,
}

/// All rooms with subscribers. A room keeps its index as long as it has any.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    index: BTreeMap<TenantId, BTreeMap<String, usize>>,
    list: Vec<Option<Room>>,
    free: Vec<usize>,
}

impl Rooms {
    pub(super) fn find(&self, tenant: TenantId, name: &str) -> Option<usize> {
        self.index.get(&tenant)?.get(name).copied()
    }

    pub(super) fn get(&self, room: usize) -> Option<&Room> {
        self.list.get(room)?.as_ref()
    }

    fn get_mut(&mut self, room: usize) -> Option<&mut Room> {
        self.list.get_mut(room)?.as_mut()
    }

    fn find_or_make(&mut self, tenant: TenantId, name: &str) -> usize {
        if let Some(room) = self.find(tenant, name) {
            return room;
        }
        let (subscribers, users) = (Vec::new(), BTreeMap::new());
        let room = Room { tenant, name: name.to_string(), epoch: 0, seen: 0, subscribers, users };
        let at = self.free.pop().unwrap_or(self.list.len());
        if at == self.list.len() {
            self.list.push(None);
        }
        self.list[at] = Some(room);
        self.index.entry(tenant).or_default().insert(name.to_string(), at);
        at
    }

    /// Takes a subscriber out; the room goes with its last one. A room that goes reports nobody.
    fn leave(&mut self, at: usize, connection: ConnectionId) {
        let Some(room) = self.get_mut(at) else { return };
        room.subscribers.retain(|one| *one != connection);
        if room.subscribers.is_empty() {
            let room = self.list[at].take().expect("looked at");
            if let Some(names) = self.index.get_mut(&room.tenant) {
                names.remove(&room.name);
            }
            self.free.push(at);
        }
    }
}

/// Presence is for the shard to know; nobody waits for its outcome.
const NOBODY: Waiter = Waiter { connection: ConnectionId(0), id: 0, what: Waiting::Nobody };

fn presence_of<'a>(tenant: TenantId, room: &'a str, user: &'a str, enters: bool) -> ChatCommand<'a> {
    if enters { ChatCommand::Enter { tenant, room, user } } else { ChatCommand::Leave { tenant, room, user } }
}

impl Edge {
    /// Adds a subscription and asks for its first page. The answer to the command comes with the page.
    pub(super) fn subscribe(
        &mut self,
        connection: ConnectionId,
        id: u32,
        name: &str,
        since: super::command::Since,
        effects: &mut EdgeEffects,
    ) {
        use super::command::Since;
        let Some(client) = self.connections.get(&connection) else { return };
        let Some(user) = client.user.clone() else { return };
        let full = client.subscriptions.len() >= self.config.limits.subscriptions as usize;
        // What the feed has brought before this room was looked at, the page must hold: whoever answers may be behind
        // the replica that we follow, or have begun anew after a crash.
        let floor = client.floor.max(self.feed.cursor);
        let known = self.rooms.find(user.tenant, name);
        if known.is_some_and(|room| client.subscriptions.iter().any(|one| one.room == room)) {
            return self.say_error(connection, id, ErrorCode::AlreadySubscribed, 0, effects);
        }
        if full {
            return self.say_error(connection, id, ErrorCode::TooManySubscriptions, 0, effects);
        }
        let (next, from, limit) = match since {
            Since::Now => (0, 0, 0),
            Since::Last(last) => (0, 0, last),
            Since::Position { seq, .. } => (seq.saturating_add(1), seq.saturating_add(1), CATCH_UP),
        };
        let query = Query::History { tenant: user.tenant, room: name, from, limit };
        let at = self.rooms.find_or_make(user.tenant, name);
        let room = self.rooms.get_mut(at).expect("just made");
        room.subscribers.push(connection);
        let epoch = if let Since::Position { epoch: Some(epoch), .. } = since { epoch } else { 0 };
        let state = SubscriptionState::Opening { id, epoch };
        let client = self.connections.get_mut(&connection).expect("looked at");
        client.subscriptions.push(Subscription { room: at, next, state });
        if !self.ask(connection, Purpose::Subscription { room: at }, &query, (floor, false), effects) {
            self.drop_subscription(connection, at);
            self.say_error(connection, id, ErrorCode::Overloaded, 0, effects);
        }
    }

    fn drop_subscription(&mut self, connection: ConnectionId, room: usize) {
        if let Some(client) = self.connections.get_mut(&connection) {
            client.subscriptions.retain(|one| one.room != room);
        }
        self.reads.forget_room(connection, room);
        self.rooms.leave(room, connection);
    }

    /// Ends a subscription; presence ends with the user's last one.
    pub(super) fn unsubscribe(&mut self, connection: ConnectionId, room: usize) {
        let Some(client) = self.connections.get(&connection) else { return };
        let opened = client
            .subscriptions
            .iter()
            .any(|one| one.room == room && !matches!(one.state, SubscriptionState::Opening { .. }));
        if opened && let Some(user) = client.user.clone() {
            self.count_user(room, &user.name, false);
        }
        self.drop_subscription(connection, room);
    }

    /// Counts a user in or out of a room; the shard hears of the first and the last.
    fn count_user(&mut self, at: usize, name: &str, enters: bool) {
        let Some(room) = self.rooms.get_mut(at) else { return };
        let before = room.users.get(name).copied().unwrap_or(0);
        let after = if enters { before + 1 } else { before.saturating_sub(1) };
        if after == 0 {
            room.users.remove(name);
        } else if before == 0 {
            room.users.insert(name.to_string(), after);
        } else if let Some(count) = room.users.get_mut(name) {
            *count = after;
        }
        if (before == 0) != (after == 0) {
            self.report(at, name, enters);
        }
    }

    /// Tells the shard that a user came or went; what finds no room now is looked at again a little later.
    fn report(&mut self, at: usize, name: &str, enters: bool) {
        let Some(room) = self.rooms.get(at) else { return };
        let command = presence_of(room.tenant, &room.name, name, enters);
        if !self.session.push(&command, NOBODY, self.now.mono, &self.pool) {
            self.unreported.insert((room.tenant, room.name.clone(), name.to_string()));
        }
    }

    /// Reports everybody who is here: to a new session.
    pub(super) fn report_presence(&mut self) {
        for room in self.rooms.list.iter().flatten() {
            let names = room.users.keys();
            self.unreported.extend(names.map(|name| (room.tenant, room.name.clone(), name.clone())));
        }
        self.report_rest();
    }

    /// Reports what found no room before, as it is by now: a user who left must not stay as a ghost.
    pub(super) fn report_rest(&mut self) {
        while let Some((tenant, name, user)) = self.unreported.pop_first() {
            let room = self.rooms.find(tenant, &name).and_then(|at| self.rooms.get(at));
            let is_here = room.is_some_and(|room| room.users.contains_key(&user));
            let command = presence_of(tenant, &name, &user, is_here);
            if !self.session.push(&command, NOBODY, self.now.mono, &self.pool) {
                self.unreported.insert((tenant, name, user));
                return;
            }
        }
    }

    /// Events of an op, in order.
    pub(super) fn on_events(&mut self, events: &[u8], op: u64, effects: &mut EdgeEffects) {
        let mut reader = Reader::new(events);
        while !reader.is_empty() {
            match RoomEvent::decode(&mut reader) {
                Ok(RoomEvent::Message(message)) => self.deliver(&message, op, effects),
                Ok(RoomEvent::Presence { tenant, room, user, present }) => {
                    self.presence_changed(tenant, room, user, present, effects);
                }
                Ok(RoomEvent::Opened { .. }) => {}
                Err(_) => {
                    self.stats.ignored += 1;
                    return;
                }
            }
        }
    }

    /// Hands a live message to everyone for whom it is the next one. Encoded once for each encoding.
    fn deliver(&mut self, message: &MessageEvent<'_>, op: u64, effects: &mut EdgeEffects) {
        let Some(at) = self.rooms.find(message.tenant, message.room) else { return };
        let room = self.rooms.get_mut(at).expect("found");
        room.seen = room.seen.max(message.seq);
        room.epoch = message.epoch;
        let mut encoded: [Option<crate::pool::Message>; 2] = [None, None];
        let budget = self.config.limits.send_queue as usize;
        for connection in &room.subscribers {
            let Some(client) = self.connections.get_mut(connection) else { continue };
            let (transport, queued) = (client.transport, client.queued);
            let Some(subscription) = client.subscription(at) else { continue };
            if subscription.state != SubscriptionState::Live || message.seq < subscription.next {
                continue;
            }
            let slot = &mut encoded[usize::from(transport == Transport::Line)];
            if slot.is_none() {
                *slot = share(&mut self.shared, message, transport, &self.pool);
            }
            let (Some(bytes), true, true) =
                (slot.as_ref(), message.seq == subscription.next, queued < budget)
            else {
                // Not the next one, or no room: this client reads on from history.
                subscription.state = SubscriptionState::CatchingUp { asked: false };
                self.stats.lagged += 1;
                if !client.touched {
                    client.touched = true;
                    self.touched.push(*connection);
                }
                continue;
            };
            subscription.next += 1;
            client.floor = client.floor.max(op);
            client.share(*connection, bytes, effects);
            self.stats.deliveries += 1;
        }
    }

    fn presence_changed(
        &mut self,
        tenant: TenantId,
        name: &str,
        user: &str,
        present: bool,
        effects: &mut EdgeEffects,
    ) {
        let Some(at) = self.rooms.find(tenant, name) else { return };
        let subscribers = self.rooms.get(at).expect("found").subscribers.len();
        for index in 0..subscribers {
            let connection = self.rooms.get(at).expect("found").subscribers[index];
            let opened = self.connections.get(&connection).is_some_and(|client| {
                client
                    .subscriptions
                    .iter()
                    .any(|one| one.room == at && !matches!(one.state, SubscriptionState::Opening { .. }))
            });
            if !opened {
                continue;
            }
            self.frame_for(
                connection,
                |out, transport| write_presence(out, transport, name, user, present),
                effects,
            );
        }
    }

    /// The feed jumped: nobody is live until history says what lay between.
    pub(super) fn feed_was_reset(&mut self) {
        for (connection, client) in &mut self.connections {
            for subscription in &mut client.subscriptions {
                if subscription.state == SubscriptionState::Live {
                    subscription.state = SubscriptionState::CatchingUp { asked: false };
                }
            }
            if !client.subscriptions.is_empty() && !client.touched {
                client.touched = true;
                self.touched.push(*connection);
            }
        }
    }

    /// Asks for the next pages of a client's lagging rooms, as far as its socket has room.
    pub(super) fn read_on(&mut self, connection: ConnectionId, effects: &mut EdgeEffects) {
        let budget = self.config.limits.send_queue as usize / 2;
        let Some(client) = self.connections.get(&connection).filter(|client| client.queued < budget) else {
            return;
        };
        let floor = client.floor.max(self.feed.cursor);
        for index in 0..client.subscriptions.len() {
            let Some(subscription) =
                self.connections.get(&connection).and_then(|one| one.subscriptions.get(index))
            else {
                return;
            };
            if subscription.state != (SubscriptionState::CatchingUp { asked: false }) {
                continue;
            }
            let (at, from) = (subscription.room, subscription.next);
            let Some(room) = self.rooms.get(at) else { continue };
            let (tenant, name) = (room.tenant, room.name.clone());
            let query = Query::History { tenant, room: &name, from, limit: CATCH_UP };
            let asked =
                self.ask(connection, Purpose::Subscription { room: at }, &query, (floor, false), effects);
            let client = self.connections.get_mut(&connection).expect("looked at");
            client.subscriptions[index].state = SubscriptionState::CatchingUp { asked };
        }
    }

    pub(super) fn subscription_unanswered(
        &mut self,
        connection: ConnectionId,
        at: usize,
        effects: &mut EdgeEffects,
    ) {
        let Some(client) = self.connections.get_mut(&connection) else { return };
        let Some(subscription) = client.subscription(at) else { return };
        match subscription.state {
            SubscriptionState::Opening { id, .. } => {
                self.drop_subscription(connection, at);
                self.say_error(connection, id, ErrorCode::Behind, 0, effects);
            }
            SubscriptionState::CatchingUp { .. } => {
                subscription.state = SubscriptionState::CatchingUp { asked: false };
                self.touch(connection);
            }
            SubscriptionState::Live => {}
        }
    }

    /// A page for a subscription: its first answers the command; each moves the cursor; the last makes it live.
    pub(super) fn subscription_page(
        &mut self,
        connection: ConnectionId,
        at: usize,
        head: &AnswerHead,
        commit: u64,
        mut reader: Reader<'_>,
        effects: &mut EdgeEffects,
    ) {
        let Some(subscription) =
            self.connections.get_mut(&connection).and_then(|client| client.subscription(at))
        else {
            return;
        };
        let (state, mut next) = (subscription.state, subscription.next);
        if let SubscriptionState::Opening { id, epoch } = state {
            let error =
                head.error.or((epoch != 0 && epoch != head.epoch).then_some(ErrorCode::EpochMismatch));
            if let Some(error) = error {
                self.drop_subscription(connection, at);
                let named = if error == ErrorCode::PositionGone { head.first } else { head.head };
                return self.say_error(connection, id, error, named, effects);
            }
            let first_message = RoomEvent::decode(&mut reader.clone());
            next = match (next, first_message) {
                (0, Ok(RoomEvent::Message(message))) => message.seq,
                (0, _) => head.head + 1,
                (next, _) => next,
            };
            self.opened_subscription(connection, at, id, next, head, effects);
        } else if let Some(error) = head.error {
            // Retention overtook this subscriber, or the room was made anew: it is told, never skipped in silence.
            return self.lost_subscription(connection, at, error, head, effects);
        }
        while let Ok(RoomEvent::Message(message)) = RoomEvent::decode(&mut reader) {
            if message.seq == next {
                self.frame_for(connection, |out, transport| write_event(out, transport, &message), effects);
                self.stats.deliveries += 1;
                next += 1;
            }
        }
        let seen = self.rooms.get(at).map_or(0, |room| room.seen).max(head.head);
        let Some(subscription) =
            self.connections.get_mut(&connection).and_then(|client| client.subscription(at))
        else {
            return;
        };
        subscription.next = next;
        // A page from before the feed's last jump says nothing of what the jump passed over:
        //
        //   asked at op 150 | feed jumps from 160 to 191 | page of op 155 ends at message 84, the last one then
        //   live from here on would miss 85 to 100, which lie between
        if next > seen && commit >= self.feed.jumped_to {
            subscription.state = SubscriptionState::Live;
            let name = self.rooms.get(at).map_or(String::new(), |room| room.name.clone());
            self.frame_for(connection, |out, transport| write_live(out, transport, &name, next - 1), effects);
        } else {
            subscription.state = SubscriptionState::CatchingUp { asked: false };
            self.touch(connection);
        }
    }

    fn opened_subscription(
        &mut self,
        connection: ConnectionId,
        at: usize,
        id: u32,
        next: u64,
        head: &AnswerHead,
        effects: &mut EdgeEffects,
    ) {
        let Some(user) = self.connections.get(&connection).and_then(|client| client.user.clone()) else {
            return;
        };
        if let Some(subscription) =
            self.connections.get_mut(&connection).and_then(|client| client.subscription(at))
        {
            subscription.state = SubscriptionState::CatchingUp { asked: true };
        }
        let name = self.rooms.get(at).map_or(String::new(), |room| room.name.clone());
        let Some(client) = self.connections.get_mut(&connection) else { return };
        client.room = Some(name.clone());
        let op = client.floor;
        self.frame_for(
            connection,
            |out, transport| write_subscribed(out, transport, id, &name, (next, op), head),
            effects,
        );
        self.count_user(at, &user.name, true);
    }

    fn lost_subscription(
        &mut self,
        connection: ConnectionId,
        at: usize,
        error: ErrorCode,
        head: &AnswerHead,
        effects: &mut EdgeEffects,
    ) {
        let name = self.rooms.get(at).map_or(String::new(), |room| room.name.clone());
        self.unsubscribe(connection, at);
        let first = head.first;
        self.frame_for(connection, |out, transport| write_lost(out, transport, &name, error, first), effects);
    }

    pub(super) fn limit_of(limit: u32) -> u32 {
        limit.clamp(1, PAGE_MAX)
    }
}

fn share(
    scratch: &mut Vec<u8>,
    message: &MessageEvent<'_>,
    transport: Transport,
    pool: &crate::pool::Pool,
) -> Option<crate::pool::Message> {
    text::begin(scratch);
    write_event(scratch, transport, message);
    let bytes = text::end(scratch, transport);
    let mut draft = pool.draft(bytes.len())?;
    draft.extend(bytes).expect("measured");
    Some(draft.seal())
}

fn write_event(out: &mut Vec<u8>, transport: Transport, message: &MessageEvent<'_>) {
    if transport == Transport::Line {
        return text::line(out, message);
    }
    text::text(out, "{\"push\":{\"room\":");
    text::string(out, message.room);
    text::text(out, ",\"event\":");
    text::event(out, message);
    text::text(out, "}}");
}

fn write_presence(out: &mut Vec<u8>, transport: Transport, room: &str, user: &str, present: bool) {
    if transport == Transport::Line {
        text::text(out, "* ");
        text::text(out, user);
        text::text(out, if present { " came into " } else { " left " });
        return text::text(out, room);
    }
    text::text(out, "{\"push\":{\"room\":");
    text::string(out, room);
    text::text(out, ",\"presence\":{\"user\":");
    text::string(out, user);
    text::text(out, if present { ",\"present\":true}}}" } else { ",\"present\":false}}}" });
}

fn write_live(out: &mut Vec<u8>, transport: Transport, room: &str, seq: u64) {
    if transport == Transport::Line {
        text::text(out, "* live in ");
        text::text(out, room);
        text::text(out, " from #");
        return text::number(out, seq);
    }
    text::text(out, "{\"push\":{\"room\":");
    text::string(out, room);
    text::text(out, ",\"live\":{\"seq\":");
    text::big(out, seq);
    text::text(out, "}}}");
}

fn write_subscribed(
    out: &mut Vec<u8>,
    transport: Transport,
    id: u32,
    room: &str,
    (next, op): (u64, u64),
    head: &AnswerHead,
) {
    if transport == Transport::Line {
        text::text(out, "* joined ");
        return text::text(out, room);
    }
    out.push(b'{');
    text::id(out, id);
    text::text(out, "\"subscribe\":{\"epoch\":");
    text::big(out, head.epoch);
    text::text(out, ",\"op\":");
    text::big(out, op);
    text::text(out, ",\"head\":");
    text::big(out, head.head);
    text::text(out, ",\"first\":");
    text::big(out, head.first);
    text::text(out, ",\"next\":");
    text::big(out, next);
    text::text(out, "}}");
}

fn write_lost(out: &mut Vec<u8>, transport: Transport, room: &str, error: ErrorCode, first: u64) {
    if transport == Transport::Line {
        return text::error(out, transport, 0, error, first);
    }
    text::text(out, "{\"push\":{\"room\":");
    text::string(out, room);
    text::text(out, ",\"resync\":{\"code\":");
    text::number(out, u64::from(error.code()));
    text::text(out, ",\"name\":\"");
    text::text(out, error.entry().name);
    text::text(out, "\",\"first\":");
    text::big(out, first);
    text::text(out, "}}}");
}
