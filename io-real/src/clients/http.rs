//! The little HTTP that an edge speaks: one request per connection, a WebSocket upgrade, a page, probes.
//!
//! The one law: **limits come before parsing**: the head has at most 8 KiB, the body at most one client frame.

use std::fmt::Write as _;

use tungstenite::handshake::derive_accept_key;

/// Longest request head, bytes.
pub const HEAD_MAX: usize = 8 * 1024;
const HEADERS_MAX: usize = 64;
/// Subprotocol of the JSON envelope.
pub const SUBPROTOCOL: &str = "tigerchat.v1.json";

/// A request's head.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub method: String,
    pub path: String,
    pub query: String,
    pub host: Option<String>,
    pub origin: Option<String>,
    pub bearer: Option<String>,
    pub upgrade: Option<String>,
    pub subprotocol: bool,
    pub content_length: usize,
    /// Bytes of the head itself.
    pub len: usize,
}

/// What the bytes so far are.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// More is to come.
    Partial,
    Head(Head),
    Bad,
}

pub fn parse(bytes: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let len = match request.parse(&bytes[..bytes.len().min(HEAD_MAX)]) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_MAX => return Parsed::Partial,
        _ => return Parsed::Bad,
    };
    let target = request.path.unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut head = Head {
        method: request.method.unwrap_or("").into(),
        path: path.into(),
        query: query.into(),
        len,
        ..Head::default()
    };
    let (mut upgrades, mut length) = (false, None);
    for header in request.headers.iter() {
        let Ok(value) = std::str::from_utf8(header.value) else { return Parsed::Bad };
        let value = value.trim();
        match header.name.to_ascii_lowercase().as_str() {
            "host" => head.host = Some(value.into()),
            "origin" => head.origin = Some(value.into()),
            "authorization" => head.bearer = value.strip_prefix("Bearer ").map(|token| token.trim().into()),
            "upgrade" => upgrades = value.eq_ignore_ascii_case("websocket"),
            "sec-websocket-key" => head.upgrade = Some(value.into()),
            "sec-websocket-protocol" => {
                head.subprotocol = value.split(',').any(|one| one.trim() == SUBPROTOCOL);
            }
            // Digits alone, once: whoever stands between could read a sign or a second length otherwise.
            "content-length" if length.is_none() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                let Ok(len) = value.parse() else { return Parsed::Bad };
                length = Some(len);
            }
            "content-length" => return Parsed::Bad,
            "transfer-encoding" => return Parsed::Bad,
            _ => {}
        }
    }
    head.content_length = length.unwrap_or(0);
    if !upgrades {
        head.upgrade = None;
    }
    Parsed::Head(head)
}

/// The answer that turns the connection into a WebSocket.
pub fn switching(head: &Head) -> String {
    let key = head.upgrade.as_deref().unwrap_or("");
    let mut answer =
        String::from("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
    let _ = write!(answer, "Sec-WebSocket-Accept: {}\r\n", derive_accept_key(key.as_bytes()));
    if head.subprotocol {
        let _ = write!(answer, "Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n");
    }
    answer + "\r\n"
}

/// A whole answer; the connection closes after it.
pub fn answer(status: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(body);
    answer
}

/// What of a page may be asked for by a path, as the `history` command has it: numbers that are strings there.
const NUMBERS: [&str; 6] = ["thread", "from", "before", "around", "since_time", "until_time"];

/// The history command that `GET /v1/rooms/{room}/history?from=..&limit=..` stands for. What is wrong in it (two
/// positions, the same one twice) the edge says, as it says it of the command.
pub fn history_command(head: &Head) -> Option<String> {
    let room = head.path.strip_prefix("/v1/rooms/")?.strip_suffix("/history")?;
    if !tigerchat_core::chat::is_room_name(room) {
        return None;
    }
    let mut command = format!(r#"{{"id":1,"history":{{"room":"{room}""#);
    for pair in head.query.split('&') {
        match pair.split_once('=') {
            Some((name, value)) if NUMBERS.contains(&name) => {
                _ = write!(command, r#","{name}":"{}""#, value.parse::<u64>().ok()?);
            }
            Some(("limit", value)) => _ = write!(command, r#","limit":{}"#, value.parse::<u32>().ok()?),
            Some(("consistency", value @ ("local" | "linearizable"))) => {
                _ = write!(command, r#","consistency":"{value}""#);
            }
            None if pair.is_empty() => {}
            _ => return None,
        }
    }
    Some(command + "}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_whole_partial_or_bad() {
        let Parsed::Head(head) = parse(
            b"POST /v1/rpc HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer t\r\nContent-Length: 2\r\n\r\n{}",
        ) else {
            panic!("a whole head")
        };
        assert_eq!(
            (head.bearer.as_deref(), head.content_length, head.path.as_str()),
            (Some("t"), 2, "/v1/rpc")
        );
        assert_eq!(parse(b"GET / HTTP/1.1\r\nHo"), Parsed::Partial);
        assert_eq!(parse(b"\x16\x03\x01\x02\x00"), Parsed::Bad);
        assert_eq!(parse(&[b'a'; HEAD_MAX]), Parsed::Bad);
        for length in ["+2", "-2", "", "2, 2", "2\r\nContent-Length: 2", "99999999999999999999"] {
            let head = format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
            assert_eq!(parse(head.as_bytes()), Parsed::Bad, "{length:?}");
        }
    }

    #[test]
    fn a_history_path_becomes_a_command_only_when_it_is_clean() {
        let head =
            |path: &str, query: &str| Head { path: path.into(), query: query.into(), ..Head::default() };
        let command = history_command(&head("/v1/rooms/general/history", "from=3&limit=2"));
        assert_eq!(command.as_deref(), Some(r#"{"id":1,"history":{"room":"general","from":"3","limit":2}}"#));
        assert_eq!(history_command(&head("/v1/rooms/a\"b/history", "")), None);
        let whole = "thread=7&since_time=1&until_time=18446744073709551615&limit=9&consistency=linearizable";
        assert_eq!(
            history_command(&head("/v1/rooms/a/history", whole)).as_deref(),
            Some(
                r#"{"id":1,"history":{"room":"a","thread":"7","since_time":"1","until_time":"18446744073709551615","limit":9,"consistency":"linearizable"}}"#
            )
        );
        for pair in ["before=3", "around=4", "until_time=5", "from=0"] {
            let (name, value) = pair.split_once('=').unwrap();
            let expected = format!(r#"{{"id":1,"history":{{"room":"a","{name}":"{value}"}}}}"#);
            assert_eq!(history_command(&head("/v1/rooms/a/history", pair)), Some(expected));
        }
        for wrong in
            ["from=x", "from=-1", "limit=99999999999", "consistency=a\"", "from", "frm=3", "before=+"]
        {
            assert_eq!(history_command(&head("/v1/rooms/a/history", wrong)), None, "{wrong}");
        }
    }
}
