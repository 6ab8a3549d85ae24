//! Writing of what clients read: JSON inside WebSocket frames or HTTP bodies, and plain lines.
//!
//! Everything is written by hand into a buffer that is reused: an event is encoded once per encoding and shared,
//! and a warm edge does not allocate. 64-bit numbers are strings, digests and keys hexadecimal.

use alloc::vec::Vec;

use super::command::TextBody;
use crate::chat::erased_seq;
use crate::errors::ErrorCode;
use crate::io::Transport;
use crate::wire::chat::{KIND_ERASURE, MessageEvent, Outcome};

/// Room for the longest header of a WebSocket frame, before what it wraps.
const WS_HEADER_MAX: usize = 10;

pub(super) fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

pub(super) fn number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(value % 10).expect("a digit");
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// A 64-bit number as JSON has it: a string.
pub(super) fn big(out: &mut Vec<u8>, value: u64) {
    out.push(b'"');
    number(out, value);
    out.push(b'"');
}

pub(super) fn hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

/// A JSON string.
pub(super) fn string(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    for byte in value.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            0..0x20 => {
                out.extend_from_slice(b"\\u00");
                hex(out, &[byte]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

/// Begins a frame: room for a WebSocket header, filled in by [`end`].
pub(super) fn begin(out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&[0; WS_HEADER_MAX]);
}

/// Ends a frame that [`begin`] began and says what of the buffer goes to the socket.
pub(super) fn end(out: &mut Vec<u8>, transport: Transport) -> &[u8] {
    match transport {
        Transport::WebSocket => {
            let len = out.len() - WS_HEADER_MAX;
            let (header, used) = ws_header(len);
            let start = WS_HEADER_MAX - used;
            out[start..WS_HEADER_MAX].copy_from_slice(&header[..used]);
            &out[start..]
        }
        Transport::Http => {
            out.push(b'\n');
            &out[WS_HEADER_MAX..]
        }
        Transport::Line => {
            // One event, one line, whatever a message's text holds.
            for byte in &mut out[WS_HEADER_MAX..] {
                if *byte < 0x20 && *byte != b'\t' {
                    *byte = b' ';
                }
            }
            out.push(b'\n');
            &out[WS_HEADER_MAX..]
        }
    }
}

/// An unmasked text frame, whole in one.
fn ws_header(len: usize) -> ([u8; WS_HEADER_MAX], usize) {
    let mut header = [0; WS_HEADER_MAX];
    header[0] = 0x81;
    match len {
        0..126 => {
            header[1] = u8::try_from(len).expect("below 126");
            (header, 2)
        }
        126..=0xFFFF => {
            header[1] = 126;
            header[2..4].copy_from_slice(&u16::try_from(len).expect("in range").to_be_bytes());
            (header, 4)
        }
        _ => {
            header[1] = 127;
            header[2..].copy_from_slice(&(len as u64).to_be_bytes());
            (header, 10)
        }
    }
}

pub(super) fn id(out: &mut Vec<u8>, id: u32) {
    if id > 0 {
        text(out, "\"id\":");
        number(out, u64::from(id));
        out.push(b',');
    }
}

/// `{"id":1,"error":{...}}`, or `! 13001 room_unknown: ...` on a line. `seq` is what the error names, if anything.
pub(super) fn error(out: &mut Vec<u8>, transport: Transport, command: u32, error: ErrorCode, seq: u64) {
    let entry = error.entry();
    if transport == Transport::Line {
        text(out, "! ");
        number(out, u64::from(entry.code));
        out.push(b' ');
        text(out, entry.name);
        text(out, ": ");
        text(out, entry.message);
        text(out, " (");
        text(out, entry.action);
        return out.push(b')');
    }
    out.push(b'{');
    id(out, command);
    text(out, "\"error\":{\"code\":");
    number(out, u64::from(entry.code));
    text(out, ",\"name\":\"");
    text(out, entry.name);
    text(out, if entry.temporary { "\",\"temporary\":true" } else { "\",\"temporary\":false" });
    if entry.temporary {
        text(out, ",\"retry_after_ms\":200");
    }
    if seq > 0 {
        text(out, ",\"seq\":");
        big(out, seq);
    }
    text(out, ",\"message\":");
    string(out, entry.message);
    text(out, ",\"action\":");
    string(out, entry.action);
    text(out, "}}");
}

pub(super) fn published(out: &mut Vec<u8>, command: u32, method: &str, outcome: &Outcome) {
    out.push(b'{');
    id(out, command);
    out.push(b'"');
    text(out, method);
    text(out, "\":{\"seq\":");
    big(out, outcome.seq);
    text(out, ",\"op\":");
    big(out, outcome.op);
    text(out, ",\"index\":");
    number(out, u64::from(outcome.index));
    text(out, ",\"time\":");
    big(out, outcome.time);
    text(out, ",\"epoch\":");
    big(out, outcome.epoch);
    text(out, ",\"chain\":\"");
    hex(out, &outcome.chain.0);
    text(out, if outcome.duplicate { "\",\"duplicate\":true}}" } else { "\",\"duplicate\":false}}" });
}

/// A message as an object.
pub(super) fn event(out: &mut Vec<u8>, message: &MessageEvent<'_>) {
    text(out, "{\"seq\":");
    big(out, message.seq);
    text(out, ",\"epoch\":");
    big(out, message.epoch);
    text(out, ",\"op\":");
    big(out, message.op);
    text(out, ",\"index\":");
    number(out, u64::from(message.index));
    text(out, ",\"time\":");
    big(out, message.time);
    text(out, ",\"author\":");
    string(out, message.author);
    text(out, ",\"key\":\"");
    hex(out, &message.key.0);
    text(out, "\",\"kind\":");
    number(out, u64::from(message.kind));
    if message.parent > 0 {
        text(out, ",\"parent\":");
        big(out, message.parent);
        if message.thread.seq > 0 {
            text(out, ",\"thread_seq\":");
            big(out, message.thread.seq);
        }
    }
    if message.thread.replies > 0 {
        text(out, ",\"replies\":");
        big(out, message.thread.replies);
        text(out, ",\"last_reply\":");
        big(out, message.thread.last_reply);
    }
    text(out, ",\"chain\":\"");
    hex(out, &message.chain.0);
    if let Some(digest) = &message.erased {
        text(out, "\",\"erased\":true,\"content\":\"");
        hex(out, &digest.0);
        text(out, "\",\"content_type\":");
        string(out, message.content_type);
        return out.push(b'}');
    }
    text(out, "\",\"salt\":\"");
    hex(out, &message.salt);
    text(out, "\",\"content_type\":");
    string(out, message.content_type);
    text(out, ",\"body\":");
    body(out, message);
    out.push(b'}');
}

/// JSON as it came, text as a string, anything else in hexadecimal.
fn body(out: &mut Vec<u8>, message: &MessageEvent<'_>) {
    match core::str::from_utf8(message.body) {
        Ok(json) if message.content_type == super::JSON => text(out, json),
        Ok(plain) => string(out, plain),
        Err(_) => {
            out.push(b'"');
            hex(out, message.body);
            out.push(b'"');
        }
    }
}

/// `[general #7] ada: hello`
pub(super) fn line(out: &mut Vec<u8>, message: &MessageEvent<'_>) {
    out.push(b'[');
    text(out, message.room);
    text(out, " #");
    number(out, message.seq);
    text(out, "] ");
    text(out, message.author);
    if message.erased.is_some() {
        return text(out, ": (erased)");
    }
    if let Some(seq) = erased_seq(message.body).filter(|_| message.kind == KIND_ERASURE) {
        text(out, " erased #");
        return number(out, seq);
    }
    text(out, ": ");
    match serde_json::from_slice::<TextBody<'_>>(message.body) {
        Ok(body) if message.content_type == super::JSON => text(out, &body.text),
        _ => out.extend_from_slice(message.body),
    }
}
