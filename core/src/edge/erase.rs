//! A client erases a message of its own.
//!
//! The one law: **who wrote a message is looked up before its erasure enters the log.** The shard's machine reads no
//! disk while it executes, so it can't know; and it need not, because the author of a message never changes: what any
//! replica has read of it holds for ever.

use rand_chacha::rand_core::Rng as _;

use super::Edge;
use super::auth::User;
use super::reads::Purpose;
use super::session::Waiting;
use crate::errors::ErrorCode;
use crate::io::EdgeEffects;
use crate::types::ConnectionId;
use crate::wire::chat::{
    AnswerHead, Command as ChatCommand, Erase, KIND_MESSAGE, Key, MessageEvent, Query, RoomEvent,
};
use crate::wire::codec::Reader;

impl Edge {
    /// Asks for the message; what follows comes with the answer.
    pub(super) fn erase(
        &mut self,
        connection: ConnectionId,
        id: u32,
        user: &User,
        (room, key, seq): (&str, Option<Key>, u64),
        effects: &mut EdgeEffects,
    ) -> Result<(), ErrorCode> {
        if seq == 0 {
            return Err(ErrorCode::Malformed);
        }
        let key = key.unwrap_or_else(|| self.mint());
        let query = Query::History { tenant: user.tenant, room, from: seq, limit: 1 };
        self.read(connection, Purpose::Erase { id, seq, key }, &query, false, effects)
    }

    /// The message that is to be erased was read, or is not to be had.
    pub(super) fn erase_what_was_read(
        &mut self,
        connection: ConnectionId,
        (id, seq, key): (u32, u64, Key),
        query: &[u8],
        head: &AnswerHead,
        mut reader: Reader<'_>,
        effects: &mut EdgeEffects,
    ) {
        let message = match RoomEvent::decode(&mut reader) {
            Ok(RoomEvent::Message(message)) if message.seq == seq => Some(message),
            _ => None,
        };
        let refused = self.push_erasure(connection, (id, seq, key), query, head, message.as_ref());
        if let Err(error) = refused {
            let named = if error == ErrorCode::PositionAhead { head.head } else { 0 };
            self.say_error(connection, id, error, named, effects);
            self.close_if_http(connection, effects);
        }
    }

    fn push_erasure(
        &mut self,
        connection: ConnectionId,
        (id, seq, key): (u32, u64, Key),
        query: &[u8],
        head: &AnswerHead,
        message: Option<&MessageEvent<'_>>,
    ) -> Result<(), ErrorCode> {
        let Ok(Query::History { tenant, room, .. }) = Query::decode(query) else {
            return Err(ErrorCode::Internal);
        };
        let client = self.connections.get(&connection).ok_or(ErrorCode::NotConnected)?;
        let user = client.user.clone().ok_or(ErrorCode::NotConnected)?;
        let (epoch, author, of) = match (head.error, message) {
            // The shard knows whether this is the retry of one that was answered before retention came by.
            (Some(ErrorCode::PositionGone), _) => (0, &*user.name, key),
            (Some(error), _) => return Err(error),
            (None, None) => return Err(ErrorCode::PositionAhead),
            (None, Some(message)) if message.author != &*user.name => return Err(ErrorCode::Forbidden),
            (None, Some(message)) if message.kind != KIND_MESSAGE => return Err(ErrorCode::NotErasable),
            (None, Some(message)) => (head.epoch, message.author, message.key),
        };
        let mut salt = [0; 16];
        self.random.fill_bytes(&mut salt);
        let user = &user.name;
        let erase = Erase { tenant, room, user, key, epoch, seq, author, of, salt, now: false };
        self.submit(connection, id, Waiting::Erase, &ChatCommand::Erase(erase))
    }
}
