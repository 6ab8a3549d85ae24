//! What a client asks: parsed from the bytes of one frame or line, borrowed, with nothing allocated.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::page::{self, AskedPage};
use crate::errors::ErrorCode;
use crate::wire::chat::Key;
use crate::wire::page::Span;

/// A command and the client's number for it (zero in the line protocol).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked<'a> {
    pub(super) id: u32,
    pub(super) method: Method<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method<'a> {
    Connect {
        token: &'a [u8],
        /// The highest op whose effects the user has seen, on whatever connection: no read goes below.
        floor: u64,
    },
    Ping,
    RoomOpen {
        room: &'a str,
    },
    /// The line protocol's: opens the room and subscribes to it.
    Join {
        room: &'a str,
    },
    Subscribe {
        room: &'a str,
        since: Since,
    },
    Unsubscribe {
        room: &'a str,
    },
    Publish {
        room: &'a str,
        key: Option<Key>,
        parent: u64,
        expect_seq: Option<u64>,
        body: &'a [u8],
        json: bool,
    },
    /// Takes the content of a message away.
    Erase {
        room: &'a str,
        key: Option<Key>,
        seq: u64,
    },
    History {
        room: &'a str,
        /// The parent; zero: the whole room.
        thread: u64,
        span: Span,
        limit: u32,
        linearizable: bool,
    },
    Presence {
        room: &'a str,
        linearizable: bool,
    },
    Whoami,
    Status,
    Help,
    Exit,
}

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    Now,
    /// The first sequence wanted is the one after this; the room must still be this incarnation.
    Position {
        epoch: Option<u64>,
        seq: u64,
    },
    Last(u32),
}

/// What could not be understood, and the command to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) id: u32,
    pub(super) error: ErrorCode,
}

/// Longest page of history, and longest `last`.
pub(super) const PAGE_MAX: u32 = 200;

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(default)]
    id: u32,
    #[serde(borrow, default)]
    connect: Option<Connect<'a>>,
    #[serde(default)]
    ping: Option<Nothing>,
    #[serde(borrow, default)]
    room_open: Option<Room<'a>>,
    #[serde(borrow, default)]
    subscribe: Option<Subscribe<'a>>,
    #[serde(borrow, default)]
    unsubscribe: Option<Room<'a>>,
    #[serde(borrow, default)]
    publish: Option<Publish<'a>>,
    #[serde(borrow, default)]
    erase: Option<Erase<'a>>,
    #[serde(borrow, default)]
    history: Option<AskedPage<'a>>,
    #[serde(borrow, default)]
    presence: Option<Presence<'a>>,
    #[serde(default)]
    whoami: Option<Nothing>,
    #[serde(default)]
    status: Option<Nothing>,
}

#[derive(Deserialize)]
struct Nothing {}

#[derive(Deserialize)]
struct Connect<'a> {
    token: &'a str,
    #[serde(borrow, default)]
    floor: Option<&'a str>,
}

#[derive(Deserialize)]
struct Room<'a> {
    room: &'a str,
}

#[derive(Deserialize)]
struct Subscribe<'a> {
    room: &'a str,
    #[serde(borrow, default)]
    since: Option<Position<'a>>,
    #[serde(default)]
    last: Option<u32>,
}

#[derive(Deserialize)]
struct Position<'a> {
    #[serde(borrow, default)]
    epoch: Option<&'a str>,
    seq: &'a str,
}

#[derive(Deserialize)]
struct Publish<'a> {
    room: &'a str,
    #[serde(borrow, default)]
    key: Option<&'a str>,
    #[serde(borrow, default)]
    body: Option<&'a RawValue>,
    #[serde(borrow, default)]
    expect_seq: Option<&'a str>,
    #[serde(borrow, default)]
    parent: Option<&'a str>,
}

#[derive(Deserialize)]
struct Erase<'a> {
    room: &'a str,
    #[serde(borrow, default)]
    key: Option<&'a str>,
    seq: &'a str,
}

#[derive(Deserialize)]
struct Presence<'a> {
    room: &'a str,
    #[serde(borrow, default)]
    consistency: Option<&'a str>,
}

/// `local` unless said otherwise.
pub(super) fn is_linearizable(consistency: Option<&str>) -> Option<bool> {
    match consistency {
        None | Some("local") => Some(false),
        Some("linearizable") => Some(true),
        Some(_) => None,
    }
}

/// The `text` of a JSON body, for those who read lines.
#[derive(Deserialize)]
pub(super) struct TextBody<'a> {
    #[serde(borrow)]
    pub(super) text: alloc::borrow::Cow<'a, str>,
}

/// Parses a JSON envelope.
pub(super) fn parse_json(bytes: &[u8]) -> Result<Asked<'_>, Refused> {
    let refuse = |id, error| Err(Refused { id, error });
    // `{}` is a sign of life.
    let Ok(envelope) = serde_json::from_slice::<Envelope<'_>>(bytes) else {
        return refuse(0, ErrorCode::Malformed);
    };
    let id = envelope.id;
    let number = |text: &str| text.parse::<u64>().map_err(|_| Refused { id, error: ErrorCode::Malformed });
    let method = if let Some(connect) = envelope.connect {
        Method::Connect { token: connect.token.as_bytes(), floor: connect.floor.map_or(Ok(0), number)? }
    } else if let Some(publish) = envelope.publish {
        let Some(body) = publish.body else { return refuse(id, ErrorCode::BodyMissing) };
        let Some(key) = publish.key.and_then(parse_key) else { return refuse(id, ErrorCode::KeyInvalid) };
        Method::Publish {
            room: publish.room,
            key: Some(key),
            parent: publish.parent.map_or(Ok(0), number)?,
            expect_seq: publish.expect_seq.map(number).transpose()?,
            body: body.get().as_bytes(),
            json: true,
        }
    } else if let Some(subscribe) = envelope.subscribe {
        let since = match (subscribe.since, subscribe.last) {
            (Some(since), None) => {
                Since::Position { epoch: since.epoch.map(number).transpose()?, seq: number(since.seq)? }
            }
            (None, Some(last)) => Since::Last(last.min(PAGE_MAX)),
            (None, None) => Since::Now,
            (Some(_), Some(_)) => return refuse(id, ErrorCode::Malformed),
        };
        Method::Subscribe { room: subscribe.room, since }
    } else if let Some(history) = envelope.history {
        history.method().map_err(|error| Refused { id, error })?
    } else if let Some(erase) = envelope.erase {
        let Some(key) = erase.key.and_then(parse_key) else { return refuse(id, ErrorCode::KeyInvalid) };
        Method::Erase { room: erase.room, key: Some(key), seq: number(erase.seq)? }
    } else if let Some(Room { room }) = envelope.unsubscribe {
        Method::Unsubscribe { room }
    } else if let Some(Room { room }) = envelope.room_open {
        Method::RoomOpen { room }
    } else if let Some(Presence { room, consistency }) = envelope.presence {
        let Some(linearizable) = is_linearizable(consistency) else {
            return refuse(id, ErrorCode::Malformed);
        };
        Method::Presence { room, linearizable }
    } else if envelope.whoami.is_some() {
        Method::Whoami
    } else if envelope.status.is_some() {
        Method::Status
    } else if envelope.ping.is_some() || (id == 0 && bytes.trim_ascii() == b"{}") {
        return Ok(Asked { id, method: Method::Ping });
    } else {
        return refuse(id, ErrorCode::UnknownMethod);
    };
    if id == 0 { refuse(0, ErrorCode::Malformed) } else { Ok(Asked { id, method }) }
}

/// 32 hexadecimal digits; hyphens, as a UUID is written, are stepped over.
fn parse_key(text: &str) -> Option<Key> {
    let mut key = [0; 16];
    let mut digits = 0;
    for byte in text.bytes().filter(|byte| *byte != b'-') {
        let digit = char::from(byte).to_digit(16)?;
        let at = key.get_mut(digits / 2)?;
        *at = *at << 4 | u8::try_from(digit).ok()?;
        digits += 1;
    }
    (digits == 32).then_some(Key(key))
}

/// Parses a line of the line protocol. `room` is the one that was joined last.
pub(super) fn parse_line<'a>(line: &'a [u8], room: Option<&'a str>) -> Result<Asked<'a>, Refused> {
    let refuse = |error| Err(Refused { id: 0, error });
    let Ok(line) = core::str::from_utf8(line) else { return refuse(ErrorCode::Malformed) };
    let line = line.trim_end_matches(['\r', '\n']);
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let rest = rest.trim();
    let joined = room.ok_or(Refused { id: 0, error: ErrorCode::NotSubscribed });
    let method = match word.trim() {
        "login" => Method::Connect { token: rest.as_bytes(), floor: 0 },
        "join" => Method::Join { room: rest },
        "leave" => Method::Unsubscribe { room: if rest.is_empty() { joined? } else { rest } },
        "send" | "send-key" => {
            let (key, body) = if word == "send" {
                (None, rest)
            } else {
                let (key, body) = rest.split_once(' ').unwrap_or((rest, ""));
                (Some(parse_key(key).ok_or(Refused { id: 0, error: ErrorCode::KeyInvalid })?), body)
            };
            if body.is_empty() {
                return refuse(ErrorCode::BodyMissing);
            }
            let body = body.as_bytes();
            Method::Publish { room: joined?, key, parent: 0, expect_seq: None, body, json: false }
        }
        "erase" => {
            let Ok(seq) = rest.trim_start_matches('#').parse() else { return refuse(ErrorCode::Malformed) };
            Method::Erase { room: joined?, key: None, seq }
        }
        "users" => Method::Presence { room: joined?, linearizable: false },
        "history" => page::line(joined?, 0, rest).map_err(|error| Refused { id: 0, error })?,
        "thread" => page::thread_line(joined?, rest).map_err(|error| Refused { id: 0, error })?,
        "reply" => {
            let (parent, body) = rest.split_once(' ').unwrap_or((rest, ""));
            let Ok(parent) = parent.parse() else { return refuse(ErrorCode::Malformed) };
            if body.is_empty() {
                return refuse(ErrorCode::BodyMissing);
            }
            let body = body.as_bytes();
            Method::Publish { room: joined?, key: None, parent, expect_seq: None, body, json: false }
        }
        "help" => Method::Help,
        "exit" | "quit" => Method::Exit,
        "" => Method::Ping,
        _ => return refuse(ErrorCode::UnknownMethod),
    };
    Ok(Asked { id: 0, method })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_names_its_method_or_the_error_names_the_envelope() {
        let asked = parse_json(br#"{"id":3,"publish":{"room":"r","key":"019a00000000000000000000000000ff","body":{"text":"x"}}}"#);
        let Ok(Asked { id: 3, method: Method::Publish { room: "r", body, .. } }) = asked else {
            panic!("{asked:?}")
        };
        assert_eq!(body, br#"{"text":"x"}"#);
        let error = |bytes: &[u8]| parse_json(bytes).unwrap_err();
        assert_eq!(error(b"nonsense"), Refused { id: 0, error: ErrorCode::Malformed });
        assert_eq!(error(br#"{"id":4,"fly":{}}"#), Refused { id: 4, error: ErrorCode::UnknownMethod });
        assert_eq!(error(br#"{"id":5,"publish":{"room":"r","body":1}}"#).error, ErrorCode::KeyInvalid);
        assert_eq!(parse_json(b"{}").unwrap().method, Method::Ping);
    }

    #[test]
    fn a_line_is_a_word_and_the_rest() {
        assert_eq!(parse_line(b"join general\r\n", None).unwrap().method, Method::Join { room: "general" });
        assert_eq!(parse_line(b"send hi", None).unwrap_err().error, ErrorCode::NotSubscribed);
        let asked = parse_line(b"send hi there", Some("general")).unwrap();
        assert!(matches!(asked.method, Method::Publish { body: b"hi there", json: false, .. }));
        assert_eq!(parse_line(b"\xFF", None).unwrap_err().error, ErrorCode::Malformed);
    }
}
