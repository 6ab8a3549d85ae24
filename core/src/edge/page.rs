//! Pages of history as clients ask for them and read them.
//!
//! The one law: **what a client is shown of a page ascends and says whether there is more at either end**, however the
//! page was asked for and whatever the order in which a replica put it together.

use alloc::vec::Vec;

use serde::Deserialize;

use super::command::{Method, PAGE_MAX, is_linearizable};
use super::{Edge, text};
use crate::errors::ErrorCode;
use crate::io::{EdgeEffects, Transport};
use crate::types::ConnectionId;
use crate::wire::chat::{AnswerHead, MessageEvent, RoomEvent};
use crate::wire::codec::Reader;
use crate::wire::page::Span;

/// Messages of a page unless said otherwise.
const PAGE: u32 = 50;
/// The same of those who type.
const LINES: u32 = 20;

/// `history` as it stands in an envelope.
#[derive(Deserialize)]
pub(super) struct AskedPage<'a> {
    room: &'a str,
    #[serde(borrow, default)]
    thread: Option<&'a str>,
    #[serde(borrow, default)]
    from: Option<&'a str>,
    #[serde(borrow, default)]
    before: Option<&'a str>,
    #[serde(borrow, default)]
    around: Option<&'a str>,
    #[serde(borrow, default)]
    since_time: Option<&'a str>,
    #[serde(borrow, default)]
    until_time: Option<&'a str>,
    #[serde(default)]
    limit: Option<u32>,
    #[serde(borrow, default)]
    consistency: Option<&'a str>,
}

fn number(text: &str) -> Result<u64, ErrorCode> {
    text.parse().map_err(|_| ErrorCode::Malformed)
}

/// The parent of a thread: a message, so not zero.
fn parent(text: &str) -> Result<u64, ErrorCode> {
    number(text).and_then(|seq| if seq > 0 { Ok(seq) } else { Err(ErrorCode::ParentUnknown) })
}

impl<'a> AskedPage<'a> {
    pub(super) fn method(&self) -> Result<Method<'a>, ErrorCode> {
        let given = |text: Option<&str>| text.map(number).transpose();
        let (from, before, around) = (given(self.from)?, given(self.before)?, given(self.around)?);
        let (since, until) = (given(self.since_time)?, given(self.until_time)?);
        let ways = [from, before, around, since.or(until)];
        if ways.iter().flatten().count() > 1 {
            return Err(ErrorCode::PositionConflict);
        }
        let span = match (from, before, around, since, until) {
            // As it always was: from 0 is the newest.
            (Some(0), ..) => Span::Newest,
            (Some(at), ..) => Span::From(at),
            (_, Some(at), ..) => Span::Before(at),
            (_, _, Some(at), ..) => Span::Around(at),
            (_, _, _, Some(since), until) => {
                if until.is_some_and(|until| until <= since) {
                    return Err(ErrorCode::RangeEmpty);
                }
                Span::Since { since, until }
            }
            (_, _, _, None, Some(until)) => Span::Until(until),
            (None, None, None, None, None) => Span::Newest,
        };
        Ok(Method::History {
            room: self.room,
            thread: self.thread.map_or(Ok(0), parent)?,
            span,
            limit: self.limit.unwrap_or(PAGE).min(PAGE_MAX),
            linearizable: is_linearizable(self.consistency).ok_or(ErrorCode::Malformed)?,
        })
    }
}

/// `[N]`, or `from|before|around SEQ [N]`, or `since|until TIME [N]`: what follows `history` on a line.
pub(super) fn line<'a>(room: &'a str, thread: u64, rest: &str) -> Result<Method<'a>, ErrorCode> {
    let mut words = rest.split_ascii_whitespace();
    let first = words.next();
    let mut position = || words.next().ok_or(ErrorCode::Malformed).and_then(number);
    let span = match first {
        Some("from") => Some(Span::From(position()?)),
        Some("before") => Some(Span::Before(position()?)),
        Some("around") => Some(Span::Around(position()?)),
        Some("since") => Some(Span::Since { since: position()?, until: None }),
        Some("until") => Some(Span::Until(position()?)),
        _ => None,
    };
    let limit = if span.is_some() { words.next() } else { first };
    let limit = limit.map_or(Ok(LINES), str::parse).map_err(|_| ErrorCode::Malformed)?;
    if words.next().is_some() {
        return Err(ErrorCode::Malformed);
    }
    let span = span.unwrap_or(Span::Newest);
    Ok(Method::History { room, thread, span, limit: limit.min(PAGE_MAX), linearizable: false })
}

/// The same of a thread, which comes first.
pub(super) fn thread_line<'a>(room: &'a str, rest: &str) -> Result<Method<'a>, ErrorCode> {
    let (thread, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    line(room, parent(thread)?, rest)
}

impl Edge {
    /// A page came: shows it.
    pub(super) fn history_page(
        &mut self,
        connection: ConnectionId,
        (id, thread): (u32, u64),
        head: &AnswerHead,
        mut reader: Reader<'_>,
        effects: &mut EdgeEffects,
    ) {
        if let Some(error) = head.error {
            let first = if thread > 0 { head.thread[0] } else { head.first };
            self.say_error(connection, id, error, first, effects);
            return self.close_if_http(connection, effects);
        }
        let Some(client) = self.connections.get(&connection) else { return };
        let (transport, op) = (client.transport, client.floor);
        let mut messages = Vec::new();
        while let Ok(RoomEvent::Message(message)) = RoomEvent::decode(&mut reader) {
            messages.push(message);
        }
        messages.sort_unstable_by_key(|message| message.seq);
        if transport == Transport::Line {
            for message in &messages {
                self.frame_for(connection, |out, _| text::line(out, message), effects);
            }
            if head.older || head.more {
                self.frame_for(connection, |out, _| write_more(out, thread, head, &messages), effects);
            }
            return;
        }
        self.frame_for(connection, |out, _| write(out, (id, op), thread, head, &messages), effects);
        self.close_if_http(connection, effects);
    }
}

/// How to read on, for those who type: `* older: history before 12`.
fn write_more(out: &mut Vec<u8>, thread: u64, head: &AnswerHead, messages: &[MessageEvent<'_>]) {
    let place = |message: &MessageEvent<'_>| if thread > 0 { message.thread.seq } else { message.seq };
    let mut sign = "* ";
    let mut say = |what: &str, way: &str, at: u64| {
        text::text(out, core::mem::replace(&mut sign, "; "));
        text::text(out, what);
        if thread > 0 {
            text::text(out, "thread ");
            text::number(out, thread);
        } else {
            text::text(out, "history");
        }
        text::text(out, way);
        text::number(out, at);
    };
    // An empty page lies at one of the ends.
    let [first, last] = if thread > 0 { head.thread } else { [head.first, head.head] };
    if head.older {
        say("older: ", " before ", messages.first().map_or(last + 1, place));
    }
    if head.more {
        say("newer: ", " from ", messages.last().map_or(first, |last| place(last) + 1));
    }
}

fn write(
    out: &mut Vec<u8>,
    (id, op): (u32, u64),
    thread: u64,
    head: &AnswerHead,
    messages: &[MessageEvent<'_>],
) {
    out.push(b'{');
    text::id(out, id);
    text::text(out, "\"history\":{\"epoch\":");
    text::big(out, head.epoch);
    text::text(out, ",\"op\":");
    text::big(out, op);
    text::text(out, ",\"first\":");
    text::big(out, head.first);
    text::text(out, ",\"head\":");
    text::big(out, head.head);
    text::text(out, ",\"chain\":\"");
    text::hex(out, &head.chain.0);
    out.push(b'"');
    if thread > 0 {
        text::text(out, ",\"thread\":{\"parent\":");
        text::big(out, thread);
        text::text(out, ",\"first\":");
        text::big(out, head.thread[0]);
        text::text(out, ",\"head\":");
        text::big(out, head.thread[1]);
        out.push(b'}');
    }
    text::text(out, if head.older { ",\"older\":true" } else { ",\"older\":false" });
    text::text(out, if head.more { ",\"newer\":true" } else { ",\"newer\":false" });
    text::text(out, ",\"messages\":[");
    for (at, message) in messages.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        text::event(out, message);
    }
    text::text(out, "]}}");
}

#[cfg(test)]
mod tests {
    use super::super::command::{parse_json, parse_line};
    use super::*;

    fn span(members: &str) -> Result<(u64, Span, u32), ErrorCode> {
        let json = alloc::format!(r#"{{"id":1,"history":{{"room":"r"{members}}}}}"#);
        match parse_json(json.as_bytes()) {
            Ok(asked) => match asked.method {
                Method::History { thread, span, limit, .. } => Ok((thread, span, limit)),
                other => panic!("{other:?}"),
            },
            Err(refused) => {
                assert_eq!(refused.id, 1);
                Err(refused.error)
            }
        }
    }

    #[test]
    fn a_page_is_asked_for_in_one_way_or_refused_by_number() {
        assert_eq!(span(""), Ok((0, Span::Newest, 50)));
        assert_eq!(span(r#","from":"0","limit":7"#), Ok((0, Span::Newest, 7)));
        assert_eq!(span(r#","from":"9","limit":700"#), Ok((0, Span::From(9), PAGE_MAX)));
        assert_eq!(span(r#","before":"9","thread":"4""#), Ok((4, Span::Before(9), 50)));
        assert_eq!(span(r#","around":"9""#), Ok((0, Span::Around(9), 50)));
        assert_eq!(span(r#","since_time":"5""#), Ok((0, Span::Since { since: 5, until: None }, 50)));
        let range = Span::Since { since: 5, until: Some(6) };
        assert_eq!(span(r#","since_time":"5","until_time":"6""#), Ok((0, range, 50)));
        assert_eq!(span(r#","until_time":"6""#), Ok((0, Span::Until(6), 50)));
        assert_eq!(span(r#","until_time":"6","since_time":"6""#), Err(ErrorCode::RangeEmpty));
        for two in [
            r#","from":"1","before":"2""#,
            r#","around":"1","before":"2""#,
            r#","from":"1","until_time":"2""#,
            r#","since_time":"1","around":"2""#,
        ] {
            assert_eq!(span(two), Err(ErrorCode::PositionConflict), "{two}");
        }
        assert_eq!(span(r#","thread":"0""#), Err(ErrorCode::ParentUnknown));
        assert_eq!(span(r#","before":"x""#), Err(ErrorCode::Malformed));
        assert_eq!(span(r#","consistency":"some""#), Err(ErrorCode::Malformed));
    }

    #[test]
    fn a_line_asks_for_a_page() {
        let ask = |line: &str| match parse_line(line.as_bytes(), Some("r")) {
            Ok(asked) => match asked.method {
                Method::History { thread, span, limit, .. } => Ok((thread, span, limit)),
                other => panic!("{other:?}"),
            },
            Err(refused) => Err(refused.error),
        };
        assert_eq!(ask("history"), Ok((0, Span::Newest, 20)));
        assert_eq!(ask("history 7"), Ok((0, Span::Newest, 7)));
        assert_eq!(ask("history around 12"), Ok((0, Span::Around(12), 20)));
        assert_eq!(ask("history before 12 5"), Ok((0, Span::Before(12), 5)));
        assert_eq!(ask("history since 99"), Ok((0, Span::Since { since: 99, until: None }, 20)));
        assert_eq!(ask("thread 3"), Ok((3, Span::Newest, 20)));
        assert_eq!(ask("thread 3 from 2 9"), Ok((3, Span::From(2), 9)));
        assert_eq!(ask("thread"), Err(ErrorCode::Malformed));
        for nonsense in
            ["history x", "history before", "history before x", "history 1 2", "history from 1 2 3"]
        {
            assert_eq!(ask(nonsense), Err(ErrorCode::Malformed), "{nonsense}");
        }
    }
}
