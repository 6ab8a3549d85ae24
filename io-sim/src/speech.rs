//! What users and edges say to each other, byte by byte: written and read here by a hand of its own, apart from the
//! code under test.
//!
//! The one law: **whatever an edge says is understood, or the run fails.** An edge that writes a frame or a reply
//! that is none panics here.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tigerchat_core::errors::ErrorCode;
use tigerchat_core::wire::chat::Key;
use tigerchat_core::wire::entry::Digest;

use crate::history::SeenMessage;

/// A frame of an edge: a reply to a command, or a push.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Frame<'a> {
    #[serde(default)]
    pub(crate) id: u32,
    #[serde(borrow)]
    pub(crate) connect: Option<&'a RawValue>,
    pub(crate) publish: Option<Published>,
    pub(crate) erase: Option<Published>,
    pub(crate) room_open: Option<Opened>,
    pub(crate) subscribe: Option<Subscribed>,
    #[serde(borrow)]
    pub(crate) unsubscribe: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) history: Option<Page<'a>>,
    #[serde(borrow)]
    pub(crate) error: Option<Refusal<'a>>,
    #[serde(borrow)]
    pub(crate) push: Option<Push<'a>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Published {
    #[serde(deserialize_with = "big")]
    pub(crate) seq: u64,
    #[serde(deserialize_with = "big")]
    pub(crate) op: u64,
    pub(crate) index: u32,
    #[serde(deserialize_with = "big")]
    pub(crate) time: u64,
    #[serde(deserialize_with = "big")]
    pub(crate) epoch: u64,
    #[serde(deserialize_with = "digest")]
    pub(crate) chain: Digest,
    pub(crate) duplicate: bool,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Opened {
    #[serde(deserialize_with = "big")]
    pub(crate) op: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Subscribed {
    #[serde(deserialize_with = "big")]
    pub(crate) op: u64,
    #[serde(deserialize_with = "big")]
    pub(crate) epoch: u64,
    #[serde(deserialize_with = "big")]
    pub(crate) next: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Page<'a> {
    #[serde(deserialize_with = "big")]
    pub(crate) op: u64,
    #[serde(deserialize_with = "big")]
    pub(crate) first: u64,
    #[serde(deserialize_with = "big")]
    pub(crate) head: u64,
    pub(crate) older: bool,
    pub(crate) newer: bool,
    pub(crate) thread: Option<ThreadEnds>,
    #[serde(borrow)]
    pub(crate) messages: Vec<Message<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ThreadEnds {
    #[serde(deserialize_with = "big")]
    pub(crate) parent: u64,
    #[serde(deserialize_with = "big")]
    pub(crate) first: u64,
    #[serde(deserialize_with = "big")]
    pub(crate) head: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Refusal<'a> {
    code: u32,
    name: &'a str,
    temporary: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Push<'a> {
    #[serde(default)]
    pub(crate) room: &'a str,
    #[serde(borrow)]
    pub(crate) event: Option<Message<'a>>,
    #[serde(borrow, rename = "presence")]
    _presence: Option<&'a RawValue>,
    #[serde(borrow, rename = "live")]
    _live: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) resync: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Message<'a> {
    #[serde(deserialize_with = "big")]
    seq: u64,
    #[serde(deserialize_with = "big")]
    epoch: u64,
    #[serde(deserialize_with = "big")]
    pub(crate) op: u64,
    #[serde(rename = "index")]
    _index: u32,
    #[serde(deserialize_with = "big")]
    time: u64,
    author: String,
    #[serde(deserialize_with = "hex")]
    key: [u8; 16],
    kind: u8,
    #[serde(default, deserialize_with = "big")]
    parent: u64,
    #[serde(default, deserialize_with = "big")]
    thread_seq: u64,
    /// Of what a page says of threads below it: a sum that the history can't tell exactly.
    #[serde(rename = "replies")]
    _replies: Option<&'a str>,
    #[serde(rename = "last_reply")]
    _last_reply: Option<&'a str>,
    #[serde(deserialize_with = "digest")]
    chain: Digest,
    /// Of a message whose content is gone, in place of salt and body.
    #[serde(default)]
    erased: bool,
    #[serde(default, deserialize_with = "some_digest")]
    content: Option<Digest>,
    #[serde(default, deserialize_with = "hex")]
    salt: [u8; 16],
    content_type: String,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

impl Message<'_> {
    pub(crate) fn seen(self, room: &str) -> SeenMessage {
        let is_whole = self.body.is_some();
        assert_eq!((self.erased, self.content.is_some()), (!is_whole, !is_whole), "whole, or erased");
        let json = self.body.map_or("", RawValue::get);
        let body = if !is_whole || self.content_type == "application/json" {
            json.to_owned()
        } else {
            serde_json::from_str(json).unwrap_or_else(|why| panic!("a body that is no string: {why}"))
        };
        SeenMessage {
            room: room.to_owned(),
            epoch: self.epoch,
            seq: self.seq,
            time: self.time,
            author: self.author,
            key: Key(self.key),
            kind: self.kind,
            parent: self.parent,
            thread_seq: self.thread_seq,
            content_type: self.content_type,
            salt: self.salt,
            chain: self.chain,
            erased: self.content,
            body: body.into_bytes(),
        }
    }
}

impl Refusal<'_> {
    /// The error of the registry; its name and its kind must be the registry's too.
    pub(crate) fn error(&self) -> ErrorCode {
        let error = ErrorCode::from_code(self.code).unwrap_or_else(|| panic!("no error has {}", self.code));
        assert_eq!((error.entry().name, error.entry().temporary), (self.name, self.temporary));
        error
    }
}

/// Reads a frame's payload.
pub(crate) fn read(payload: &[u8]) -> Frame<'_> {
    // Looked at once as a whole: cheaper than string by string.
    let text = std::str::from_utf8(payload).expect("edges say UTF-8");
    serde_json::from_str(text)
        .unwrap_or_else(|why| panic!("an edge said what nobody understands: {why}: {}", text))
}

/// Takes the payload of the first whole WebSocket frame from what has come; says where it ends.
pub(crate) fn first_frame(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let [kind, len, rest @ ..] = bytes else { return None };
    assert_eq!(*kind, 0x81, "a server's frames are whole and hold text");
    let (len, header) = match *len {
        126 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), 4),
        127 => (usize::try_from(u64::from_be_bytes(*rest.first_chunk()?)).expect("fits"), 10),
        len => (usize::from(len), 2),
    };
    Some((bytes.get(header..header + len)?, header + len))
}

pub(crate) fn key_text(key: Key) -> String {
    let digit = |of: u8| char::from(b"0123456789abcdef"[usize::from(of)]);
    key.0.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn big<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    <&str>::deserialize(from)?.parse().map_err(serde::de::Error::custom)
}

fn hex<'de, D: Deserializer<'de>, const N: usize>(from: D) -> Result<[u8; N], D::Error> {
    let text = <&str>::deserialize(from)?;
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return Err(serde::de::Error::custom("digits are missing"));
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let value = digit(digits[0]).zip(digit(digits[1])).map(|(high, low)| high << 4 | low);
        *byte = value.ok_or_else(|| serde::de::Error::custom("a digit is none"))?;
    }
    Ok(bytes)
}

fn digit(text: u8) -> Option<u8> {
    match text {
        b'0'..=b'9' => Some(text - b'0'),
        b'a'..=b'f' => Some(text - b'a' + 10),
        _ => None,
    }
}

fn digest<'de, D: Deserializer<'de>>(from: D) -> Result<Digest, D::Error> {
    hex(from).map(Digest)
}

fn some_digest<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Digest>, D::Error> {
    digest(from).map(Some)
}

/// Whether a line tells who types that it is no longer in its room: history went on without it.
pub(crate) fn is_out(line: &[u8]) -> bool {
    line.starts_with(format!("! {} ", ErrorCode::PositionGone.code()).as_bytes())
}
