//! A room's history as a text that people read and that verifies itself, away from any cluster: JSON lines, written and
//! checked here without IO. Layout: `docs/formats.md`, "Export".
//!
//! The one law: **there is one way to write a room down, and a text is whole only if it is that one, byte for byte**:
//! every line is written again from what was read in it and compared, each message must follow from the chain value of
//! the one before, and the last line has the digest of everything before it. So no byte can change unseen.
//!
//! What this proves without a signature: that the messages belong together and to the chain value at the head.
//! Whoever writes the whole text anew can make another one; the head's chain value, known from elsewhere, tells.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::{chain, is_room_name};
use crate::store::history::record::SEQ_MAX;
use crate::types::{ClusterId, ShardId, TenantId};
use crate::wire::chat::{Key, MessageEvent, Thread};
use crate::wire::entry::Digest;

/// How every export begins: by this it is told from other files.
pub const EXPORT_BEGINS: &[u8] = b"{\"tigerchat_export\":";
/// Version of the layout.
const VERSION: u32 = 1;
/// How the last line begins.
const END_BEGINS: &[u8] = b"{\"count\":";
/// In the last line: what comes after this is the digest of what comes before it.
const SEAL: &[u8] = b"\"sha256\":\"";

/// Which part of which room's history this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub cluster: ClusterId,
    pub shard: ShardId,
    pub tenant: TenantId,
    pub room: String,
    pub epoch: u64,
    /// Sequences of the first and the last message; `first` is one more than `head` when there is none.
    pub first: u64,
    pub head: u64,
    /// Chain value before the first message.
    pub anchor: Digest,
    /// The op as of which this is the history.
    pub op: u64,
}

/// What is wrong with a text, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// From 1.
    pub line: u64,
    /// The field, or what else is looked at.
    pub what: &'static str,
    pub expected: String,
    pub found: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, what, expected, found } = self;
        write!(f, "line {line}: {what}: expected {expected}, found {found}")
    }
}

impl core::error::Error for Wrong {}

/// A text that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub head: Head,
    pub count: u64,
    /// Messages of which the content was erased.
    pub erased: u64,
    /// Chain value at the head.
    pub chain: Digest,
    /// So many of the last messages were not known to be committed where they were exported.
    pub unproven: u64,
}

/// A 64-bit number: a string in JSON.
#[derive(Clone, Copy)]
struct Big(u64);

impl Serialize for Big {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Big {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(from)?;
        let expected = || D::Error::custom(format_args!("expected a number in quotes, found {text:?}"));
        text.parse().map(Self).map_err(|_| expected())
    }
}

/// Bytes in hexadecimal.
struct Hex<const N: usize>([u8; N]);

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hexadecimal(&self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(from)?;
        let bytes = bytes_of(&text).and_then(|bytes| bytes.try_into().ok());
        let expected =
            || D::Error::custom(format_args!("expected {} hexadecimal digits, found {text:?}", 2 * N));
        bytes.map(Self).ok_or_else(expected)
    }
}

/// Any number of bytes in hexadecimal.
struct Bytes(Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hexadecimal(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(from)?;
        bytes_of(&text).map(Self).ok_or_else(|| D::Error::custom("expected pairs of hexadecimal digits"))
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |bits: u8| char::from(DIGITS[usize::from(bits & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

fn bytes_of(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2).map(|pair| match *pair {
        [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
        _ => None,
    });
    pairs.collect()
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadLine<'a> {
    tigerchat_export: u32,
    cluster: Hex<16>,
    shard: u32,
    tenant: u32,
    #[serde(borrow)]
    room: Cow<'a, str>,
    epoch: Big,
    first: Big,
    head: Big,
    anchor: Hex<32>,
    op: Big,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MessageLine<'a> {
    seq: Big,
    time: Big,
    #[serde(borrow)]
    author: Cow<'a, str>,
    key: Hex<16>,
    kind: u8,
    parent: Big,
    #[serde(borrow)]
    content_type: Cow<'a, str>,
    /// Of a whole message: this, and the body as text, or in hexadecimal if it is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    salt: Option<Hex<16>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    body: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body_hex: Option<Bytes>,
    /// Of an erased message in their place: `SHA-256(salt ‖ body)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content: Option<Hex<32>>,
    chain: Hex<32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndLine {
    count: Big,
    head: Big,
    chain: Hex<32>,
    unproven: Big,
    sha256: Hex<32>,
}

/// What a message's content is, as its line says.
enum Content<'a> {
    Whole([u8; 16], Cow<'a, [u8]>),
    Erased(Digest),
}

impl<'a> HeadLine<'a> {
    fn of(head: &'a Head) -> Self {
        Self {
            tigerchat_export: VERSION,
            cluster: Hex(head.cluster.0.to_be_bytes()),
            shard: head.shard.0,
            tenant: head.tenant.0,
            room: Cow::Borrowed(&head.room),
            epoch: Big(head.epoch),
            first: Big(head.first),
            head: Big(head.head),
            anchor: Hex(head.anchor.0),
            op: Big(head.op),
        }
    }

    fn head(self) -> Head {
        Head {
            cluster: ClusterId(u128::from_be_bytes(self.cluster.0)),
            shard: ShardId(self.shard),
            tenant: TenantId(self.tenant),
            room: self.room.into_owned(),
            epoch: self.epoch.0,
            first: self.first.0,
            head: self.head.0,
            anchor: Digest(self.anchor.0),
            op: self.op.0,
        }
    }
}

impl<'a> MessageLine<'a> {
    fn of(message: &MessageEvent<'a>, erased: Option<Digest>) -> Self {
        let text = core::str::from_utf8(message.body);
        let (mut salt, mut body, mut body_hex) = (None, None, None);
        if erased.is_none() {
            salt = Some(Hex(message.salt));
            body = text.ok().map(Cow::Borrowed);
            body_hex = text.is_err().then(|| Bytes(message.body.to_vec()));
        }
        Self {
            seq: Big(message.seq),
            time: Big(message.time),
            author: Cow::Borrowed(message.author),
            key: Hex(message.key.0),
            kind: message.kind,
            parent: Big(message.parent),
            content_type: Cow::Borrowed(message.content_type),
            salt,
            body,
            body_hex,
            content: erased.map(|digest| Hex(digest.0)),
            chain: Hex(message.chain.0),
        }
    }

    fn content(&self) -> Option<Content<'_>> {
        match (&self.salt, &self.body, &self.body_hex, &self.content) {
            (Some(salt), Some(text), None, None) => {
                Some(Content::Whole(salt.0, Cow::Borrowed(text.as_bytes())))
            }
            (Some(salt), None, Some(bytes), None) if core::str::from_utf8(&bytes.0).is_err() => {
                Some(Content::Whole(salt.0, Cow::Borrowed(&bytes.0)))
            }
            (None, None, None, Some(digest)) => Some(Content::Erased(Digest(digest.0))),
            _ => None,
        }
    }
}

/// The chain of a room, followed from the anchor on.
#[derive(Debug)]
struct Links {
    head: Head,
    /// The sequence that must come next.
    next: u64,
    chain: Digest,
    erased: u64,
}

impl Links {
    /// The line is that of the head.
    fn new(head: Head) -> Result<Self, Wrong> {
        let wrong =
            |what, expected: &str, found: String| Wrong { line: 1, what, expected: expected.into(), found };
        if !is_room_name(&head.room) {
            return Err(wrong("room", "1 to 128 of A-Z a-z 0-9 . _ : -", format!("{:?}", head.room)));
        }
        if head.head >= SEQ_MAX {
            return Err(wrong("head", "a number below 2^63 - 1", head.head.to_string()));
        }
        if head.first == 0 || head.first - 1 > head.head {
            return Err(wrong("first", "1 to one more than head", head.first.to_string()));
        }
        if head.first == 1 && head.anchor != Digest::ZERO {
            return Err(wrong("anchor", "zeros before message 1", head.anchor.to_string()));
        }
        Ok(Self { next: head.first, chain: head.anchor, head, erased: 0 })
    }

    fn count(&self) -> u64 {
        self.next - self.head.first
    }

    /// The place of the next line, while there is a line for each message.
    fn line(&self) -> u64 {
        self.count() + 2
    }

    fn wrong(&self, what: &'static str, expected: impl fmt::Display, found: impl fmt::Display) -> Wrong {
        Wrong { line: self.line(), what, expected: expected.to_string(), found: found.to_string() }
    }

    fn follow(&mut self, message: &MessageEvent<'_>, erased: Option<Digest>) -> Result<(), Wrong> {
        if self.next > self.head.head {
            return Err(self.wrong(
                "seq",
                format_args!("none behind the head {}", self.head.head),
                message.seq,
            ));
        }
        if message.seq != self.next {
            return Err(self.wrong("seq", self.next, message.seq));
        }
        let content = erased.unwrap_or_else(|| chain::salted(&message.salt, message.body));
        let chain = chain::link(self.chain, message, &content);
        if chain != message.chain {
            let expected = format!("{chain}, which follows from the message and the one before");
            return Err(self.wrong("chain", expected, message.chain));
        }
        (self.next, self.chain) = (self.next + 1, chain);
        self.erased += u64::from(erased.is_some());
        Ok(())
    }

    fn must_be_through(&self) -> Result<(), Wrong> {
        if self.next <= self.head.head {
            return Err(self.wrong("seq", self.next, "the last line"));
        }
        Ok(())
    }
}

/// Writes a room down. What it is shown must be a chain.
#[derive(Debug)]
pub struct Writer {
    links: Links,
    hash: Sha256,
}

impl Writer {
    /// The writer, and the first line.
    pub fn begin(head: Head) -> Result<(Self, Vec<u8>), Wrong> {
        let mut hash = Sha256::new();
        let line = line_of(&HeadLine::of(&head));
        hash.update(&line);
        Ok((Self { links: Links::new(head)?, hash }, line))
    }

    /// The line of the next message; `erased` is the digest of the content of one that was erased.
    pub fn message(&mut self, message: &MessageEvent<'_>, erased: Option<Digest>) -> Result<Vec<u8>, Wrong> {
        self.links.follow(message, erased)?;
        let line = line_of(&MessageLine::of(message, erased));
        self.hash.update(&line);
        Ok(line)
    }

    /// The last line, and what stands above it. `unproven`: so many of the last messages are not known to be committed.
    pub fn end(self, unproven: u64) -> Result<(Vec<u8>, Verified), Wrong> {
        self.links.must_be_through()?;
        let Self { links, hash } = self;
        let line = end_line(&links, unproven, hash);
        Ok((line, verified(links, unproven)))
    }
}

fn line_of(line: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(line).expect("these are strings and numbers");
    bytes.push(b'\n');
    bytes
}

/// The only last line that fits what is above it.
fn end_line(links: &Links, unproven: u64, mut hash: Sha256) -> Vec<u8> {
    let mut end = EndLine {
        count: Big(links.count()),
        head: Big(links.head.head),
        chain: Hex(links.chain.0),
        unproven: Big(unproven),
        sha256: Hex([0; 32]),
    };
    let mut line = line_of(&end);
    let seal = line.windows(SEAL.len()).position(|bytes| bytes == SEAL).expect("it was just written");
    line.truncate(seal + SEAL.len());
    hash.update(&line);
    end.sha256 = Hex(hash.finalize().into());
    line_of(&end)
}

fn verified(links: Links, unproven: u64) -> Verified {
    let (count, erased, chain) = (links.count(), links.erased, links.chain);
    Verified { head: links.head, count, erased, chain, unproven }
}

/// Checks a text, line by line.
#[derive(Debug, Default)]
pub struct Verifier {
    hash: Sha256,
    links: Option<Links>,
    /// The last line was seen, with this number of unproven messages.
    ended: Option<u64>,
}

impl Verifier {
    /// The place of the next line.
    #[must_use]
    pub fn line_number(&self) -> u64 {
        self.links.as_ref().map_or(1, Links::line) + u64::from(self.ended.is_some())
    }

    /// Checks the next line, its line break included. After an error nothing more can be said.
    pub fn line(&mut self, line: &[u8]) -> Result<(), Wrong> {
        if self.ended.is_some() {
            return Err(self.wrong("the end", "the end of the file", "another line"));
        }
        if line.last() != Some(&b'\n') {
            return Err(self.wrong("the line", "a line break at its end", "the end of the file"));
        }
        if self.links.is_none() {
            self.head(line)?;
        } else if line.starts_with(END_BEGINS) {
            return self.end(line);
        } else {
            self.message(line)?;
        }
        self.hash.update(line);
        Ok(())
    }

    /// After the last line.
    pub fn finish(self) -> Result<Verified, Wrong> {
        let cut =
            self.wrong("the end", "more lines, the last of them with the digest", "the end of the file");
        match (self.links, self.ended) {
            (Some(links), Some(unproven)) => Ok(verified(links, unproven)),
            _ => Err(cut),
        }
    }

    fn wrong(&self, what: &'static str, expected: impl fmt::Display, found: impl fmt::Display) -> Wrong {
        Wrong { line: self.line_number(), what, expected: expected.to_string(), found: found.to_string() }
    }

    fn parse<'a, L: Deserialize<'a>>(&self, line: &'a [u8], expected: &str) -> Result<L, Wrong> {
        serde_json::from_slice(line).map_err(|error| self.wrong("the line", expected, error))
    }

    fn head(&mut self, line: &[u8]) -> Result<(), Wrong> {
        let parsed: HeadLine<'_> = self.parse(line, "the first line of an export")?;
        if parsed.tigerchat_export != VERSION {
            return Err(self.wrong("tigerchat_export", VERSION, parsed.tigerchat_export));
        }
        self.must_be(line, &line_of(&parsed))?;
        self.links = Some(Links::new(parsed.head())?);
        Ok(())
    }

    fn message(&mut self, line: &[u8]) -> Result<(), Wrong> {
        let parsed: MessageLine<'_> = self.parse(line, "a message or the last line")?;
        let Some(content) = parsed.content() else {
            let expected =
                "salt and body (body_hex if it is no text), or the digest of both of an erased one";
            return Err(self.wrong("content", expected, "something else"));
        };
        let (salt, body, erased) = match content {
            Content::Whole(salt, body) => (salt, body, None),
            Content::Erased(digest) => ([0; 16], Cow::Borrowed(&[][..]), Some(digest)),
        };
        let again = line_of(&parsed);
        let Some(links) = &mut self.links else { return Ok(()) };
        let head = links.head.clone();
        let message = MessageEvent {
            thread: Thread::default(),
            tenant: head.tenant,
            room: &head.room,
            epoch: head.epoch,
            seq: parsed.seq.0,
            op: 0,
            index: 0,
            time: parsed.time.0,
            author: &parsed.author,
            key: Key(parsed.key.0),
            kind: parsed.kind,
            parent: parsed.parent.0,
            chain: Digest(parsed.chain.0),
            salt,
            content_type: &parsed.content_type,
            body: &body,
            erased,
        };
        let number = links.line();
        links.follow(&message, erased)?;
        must_be(number, line, &again)
    }

    fn end(&mut self, line: &[u8]) -> Result<(), Wrong> {
        let parsed: EndLine = self.parse(line, "the last line of an export")?;
        let Some(links) = &self.links else { return Ok(()) };
        links.must_be_through()?;
        if parsed.count.0 != links.count() {
            return Err(self.wrong("count", links.count(), parsed.count.0));
        }
        if parsed.head.0 != links.head.head {
            return Err(self.wrong("head", links.head.head, parsed.head.0));
        }
        if parsed.chain.0 != links.chain.0 {
            return Err(self.wrong("chain", links.chain, Digest(parsed.chain.0)));
        }
        if parsed.unproven.0 > links.count() {
            return Err(self.wrong("unproven", format_args!("at most {}", links.count()), parsed.unproven.0));
        }
        let whole = end_line(links, parsed.unproven.0, self.hash.clone());
        let sealed: EndLine = self.parse(&whole, "our own line")?;
        if parsed.sha256.0 != sealed.sha256.0 {
            let expected = format!("{}, which all before it has", Digest(sealed.sha256.0));
            return Err(self.wrong("sha256", expected, Digest(parsed.sha256.0)));
        }
        self.must_be(line, &whole)?;
        self.ended = Some(parsed.unproven.0);
        Ok(())
    }

    fn must_be(&self, line: &[u8], again: &[u8]) -> Result<(), Wrong> {
        must_be(self.line_number(), line, again)
    }
}

/// Characters shown of a line that is written otherwise than it must be.
const SHOWN: usize = 40;

fn must_be(number: u64, line: &[u8], again: &[u8]) -> Result<(), Wrong> {
    if line == again {
        return Ok(());
    }
    let at = line.iter().zip(again).take_while(|(one, other)| one == other).count();
    let shown = |bytes: &[u8]| {
        let rest = &bytes[at..bytes.len().min(at + SHOWN)];
        format!("{:?}", String::from_utf8_lossy(rest).into_owned())
    };
    let expected = format!("{} from column {} on", shown(again), at + 1);
    Err(Wrong { line: number, what: "the line", expected, found: shown(line) })
}
