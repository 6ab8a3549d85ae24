//! Texts from outside that `io-real` reads: heads of HTTP requests, and what an operator writes by hand.
//! Whoever compiles this file has those parsers beside it, as `http` and `texts`.

use super::http::{HEAD_MAX, Parsed, history_command, parse, switching};
use super::texts::{At, parse_cluster, parse_tokens};

/// What a target does with an input: it returns, or panics with what was broken.
type Target = fn(&[u8]);

/// The targets of this file, by the names of their corpora.
pub const OUTSIDE_TARGETS: &[(&str, Target)] = &[("http_head", http_head), ("operator_text", operator_text)];

/// The head of a request, a WebSocket upgrade among them: it is whole as soon as it can be, and then says the same
/// whatever comes behind; what is answered holds nothing that the client could have meant as a line of its own.
pub fn http_head(bytes: &[u8]) {
    let Parsed::Head(head) = parse(bytes) else { return };
    assert!(head.len <= bytes.len().min(HEAD_MAX), "a head has a limit");
    assert_eq!(parse(&bytes[..head.len - 1]), Parsed::Partial, "a byte less is not whole");
    let answer = switching(&head);
    assert!(answer.ends_with("\r\n\r\n") && answer.matches("\r\n\r\n").count() == 1, "{answer:?}");
    assert_eq!(answer.lines().count(), if head.subprotocol { 6 } else { 5 }, "{answer:?}");
    if let Some(command) = history_command(&head) {
        let read: Result<serde_json::Value, _> = serde_json::from_str(&command);
        assert!(read.is_ok_and(|command| command["history"]["room"].is_string()), "{command}");
    }
    assert_eq!(parse(&bytes[..head.len]), Parsed::Head(head), "what comes behind changes nothing");
}

/// An address, a cluster and a tokens file.
pub fn operator_text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(at) = text.parse::<At>() {
        let id = at.id.map(|id| format!("{id}=")).unwrap_or_default();
        assert_eq!(format!("{id}{}", at.socket).parse(), Ok(at), "{text:?}");
    }
    if let Ok(cluster) = parse_cluster(text) {
        assert_eq!(cluster.to_string(), text.to_ascii_lowercase(), "a cluster is its digits");
    }
    for entry in parse_tokens(text).unwrap_or_default() {
        let digits: String = entry.digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let lines = text.lines().map(str::trim);
        let same = |line: &str| {
            let words = line.split_once(' ').map(|(user, digest)| (user, digest.trim().to_ascii_lowercase()));
            words == Some((entry.user.as_ref(), digits.clone()))
        };
        assert!(lines.into_iter().any(same), "an entry is a line: {text:?}");
    }
}
