//! What somebody who reads back asks for: a page of a room or of a thread. Layout: `docs/formats.md`, "Chat".
//!
//! The one law: **a page is asked for in one way only**: every span is written as a kind and two numbers, and what
//! says nothing is zero.

use super::codec::{Malformed, Put, Reader};
use crate::pool::Full;
use crate::types::TenantId;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageQuery<'a> {
    pub tenant: TenantId,
    pub room: &'a str,
    /// The parent whose replies are wanted; zero: all messages of the room.
    pub thread: u64,
    pub span: Span,
    pub limit: u32,
}

/// Which messages a page has. Positions are sequences of the room; of a thread they are numbers of replies.
/// Times are Unix nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// The newest.
    Newest,
    /// This one and newer ones.
    From(u64),
    /// Those that are older than this one, the newest of them.
    Before(u64),
    /// Half of them older than this one, then this one and newer ones.
    Around(u64),
    /// The first that were committed at this time or later, and before the other time if there is one.
    Since { since: u64, until: Option<u64> },
    /// The last that were committed before this time.
    Until(u64),
}

/// No time is given.
const NEVER: u64 = u64::MAX;

impl<'a> PageQuery<'a> {
    /// What follows tenant and room.
    pub(super) fn encode(&self, out: &mut impl Put) -> Result<(), Full> {
        let (kind, at, until) = match self.span {
            Span::Newest => (0, 0, 0),
            Span::From(at) => (1, at, 0),
            Span::Before(at) => (2, at, 0),
            Span::Around(at) => (3, at, 0),
            Span::Since { since, until } => (4, since, until.unwrap_or(NEVER)),
            Span::Until(until) => (5, 0, until),
        };
        out.put_u64(self.thread)?;
        out.put_u8(kind)?;
        out.put_u64(at)?;
        out.put_u64(until)?;
        out.put_u32(self.limit)
    }

    pub(super) fn decode(
        tenant: TenantId,
        room: &'a str,
        fields: &mut Reader<'_>,
    ) -> Result<Self, Malformed> {
        let thread = fields.u64()?;
        let span = match (fields.u8()?, fields.u64()?, fields.u64()?) {
            (0, 0, 0) => Span::Newest,
            (1, at, 0) => Span::From(at),
            (2, at, 0) => Span::Before(at),
            (3, at, 0) => Span::Around(at),
            (4, since, NEVER) => Span::Since { since, until: None },
            (4, since, until) => Span::Since { since, until: Some(until) },
            (5, 0, until) => Span::Until(until),
            _ => return Err(Malformed),
        };
        Ok(Self { tenant, room, thread, span, limit: fields.u32()? })
    }
}

#[cfg(test)]
mod tests {
    use super::super::chat::Query;
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn what_is_asked_for_survives_encoding_and_nothing_else_is_a_page() {
        let spans = [
            Span::Newest,
            Span::From(7),
            Span::Before(7),
            Span::Around(7),
            Span::Since { since: 7, until: None },
            Span::Since { since: 7, until: Some(9) },
            Span::Until(9),
        ];
        let mut seen = Vec::new();
        for span in spans {
            let query = Query::Page(PageQuery { tenant: TenantId(1), room: "r", thread: 5, span, limit: 3 });
            let mut bytes = Vec::new();
            query.encode(&mut bytes).unwrap();
            assert_eq!(Query::decode(&bytes), Ok(query));
            assert_eq!(Query::decode(&bytes[..bytes.len() - 1]), Err(Malformed));
            assert!(!seen.contains(&bytes));
            let kind = bytes.len() - 21;
            bytes[kind] = 6;
            assert_eq!(Query::decode(&bytes), Err(Malformed));
            seen.push(bytes);
        }
        // The newest are asked for without a position.
        let mut newest = seen[0].clone();
        let kind = newest.len() - 21;
        newest[kind..kind + 2].copy_from_slice(&[0, 1]);
        assert_eq!(Query::decode(&newest), Err(Malformed));
    }
}
