//! The lean client: frames are written by hand, many in one system call, and answers are found by their first bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The lean client of one connection.
pub struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    filled: usize,
    output: Vec<u8>,
}

impl Client {
    pub fn connect(edge: SocketAddr, token: &str) -> Result<Self, String> {
        let fail = |error: std::io::Error| format!("{edge}: expected an edge: {error}");
        let mut stream = TcpStream::connect(edge).map_err(fail)?;
        stream.set_nodelay(true).map_err(fail)?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(fail)?;
        let request = format!(
            "GET /v1/ws HTTP/1.1\r\nHost: {edge}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).map_err(fail)?;
        let mut client = Self { stream, input: vec![0; 1 << 20], filled: 0, output: Vec::new() };
        loop {
            client.read()?;
            let Some(end) = client.input[..client.filled].windows(4).position(|four| four == b"\r\n\r\n")
            else {
                continue;
            };
            if !client.input.starts_with(b"HTTP/1.1 101") {
                return Err(format!("{edge}: expected a WebSocket, found another answer"));
            }
            client.input.copy_within(end + 4..client.filled, 0);
            client.filled -= end + 4;
            break;
        }
        client.ask(&format!(r#"{{"id":1,"connect":{{"token":"{token}"}}}}"#), r#"{"id":1,"connect""#)?;
        Ok(client)
    }

    /// Sends one command and waits for its reply.
    pub fn ask(&mut self, command: &str, expected: &str) -> Result<(), String> {
        self.frame(command.as_bytes());
        self.flush()?;
        loop {
            let mut found = None;
            self.frames(|frame| {
                found = found.take().or_else(|| Some(String::from_utf8_lossy(frame).into_owned()));
            })?;
            match found {
                Some(reply) if reply.starts_with(expected) => return Ok(()),
                Some(reply) => return Err(format!("expected {expected}, found {reply}")),
                None => {}
            }
        }
    }

    /// Opens all of these, in flight together.
    pub fn open(&mut self, rooms: &[String]) -> Result<(), String> {
        for (at, room) in rooms.iter().enumerate() {
            self.frame(format!(r#"{{"id":{},"room_open":{{"room":"{room}"}}}}"#, at + 10).as_bytes());
        }
        self.flush()?;
        let (mut left, mut wrong) = (rooms.len(), None);
        while left > 0 && wrong.is_none() {
            self.frames(|frame| {
                let text = String::from_utf8_lossy(frame);
                match text.contains(r#","room_open":"#) {
                    true => left -= 1,
                    false if frame == b"{}" => {}
                    false => wrong = Some(text.into_owned()),
                }
            })?;
        }
        wrong.map_or(Ok(()), |reply| Err(format!("expected rooms to open, found {reply}")))
    }

    pub fn publish(&mut self, room: &str, slot: u32, number: u64, run: [u8; 4], body: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let run = u32::from_le_bytes(run);
        let text = format!(
            r#"{{"id":{},"publish":{{"room":"{room}","key":"{now:012x}{run:08x}{number:012x}","body":"{body}"}}}}"#,
            slot + 10
        );
        self.frame(text.as_bytes());
    }

    /// A masked frame; the mask of zeroes leaves the payload as it is.
    pub fn frame(&mut self, payload: &[u8]) {
        self.output.push(0x81);
        match payload.len() {
            len @ 0..126 => self.output.push(0x80 | u8::try_from(len).expect("below 126")),
            len => {
                self.output.push(0x80 | 126);
                self.output.extend_from_slice(&u16::try_from(len).expect("below 64 KiB").to_be_bytes());
            }
        }
        self.output.extend_from_slice(&[0; 4]);
        self.output.extend_from_slice(payload);
    }

    pub fn flush(&mut self) -> Result<(), String> {
        self.stream.write_all(&self.output).map_err(|error| format!("the edge went away: {error}"))?;
        self.output.clear();
        Ok(())
    }

    fn read(&mut self) -> Result<(), String> {
        let read = self.stream.read(&mut self.input[self.filled..]);
        match read.map_err(|error| format!("the edge says nothing any more: {error}"))? {
            0 => Err("the edge closed the connection".into()),
            len => {
                self.filled += len;
                Ok(())
            }
        }
    }

    /// Asks for a page of a room; the reply as it came.
    fn history(&mut self, room: &str, position: &str) -> Result<String, String> {
        self.frame(format!(r#"{{"id":5,"history":{{"room":"{room}",{position}}}}}"#).as_bytes());
        self.flush()?;
        loop {
            let mut found = None;
            self.frames(|frame| {
                if frame != b"{}" {
                    found = Some(String::from_utf8_lossy(frame).into_owned());
                }
            })?;
            match found {
                Some(reply) if reply.starts_with(r#"{"id":5,"history""#) => return Ok(reply),
                Some(reply) => return Err(format!("expected a page of {room}, found {reply}")),
                None => {}
            }
        }
    }

    /// How many messages a page of a room has.
    pub fn page(&mut self, room: &str, from: u64, limit: u32) -> Result<usize, String> {
        let reply = self.history(room, &format!(r#""from":"{from}","limit":{limit}"#))?;
        Ok(reply.matches(r#""salt":"#).count())
    }

    /// The newest sequence of a room.
    pub fn head(&mut self, room: &str) -> Result<u64, String> {
        let reply = self.history(room, r#""limit":1"#)?;
        let after = reply.split_once(r#""head":""#).and_then(|(_, after)| after.split_once('"'));
        let head = after.and_then(|(head, _)| head.parse().ok());
        head.ok_or_else(|| format!("expected the head of {room}, found {reply}"))
    }

    /// Reads once and takes whole frames.
    pub fn frames(&mut self, mut take: impl FnMut(&[u8])) -> Result<(), String> {
        self.read()?;
        let mut start = 0;
        loop {
            let rest = &self.input[start..self.filled];
            let (len, header) = match rest {
                [_, 126, high, low, ..] => (usize::from(u16::from_be_bytes([*high, *low])), 4),
                [_, 127, ..] => return Err("expected short frames".into()),
                [_, len, ..] if *len < 126 => (usize::from(*len), 2),
                _ => break,
            };
            let Some(frame) = rest.get(header..header + len) else { break };
            take(frame);
            start += header + len;
        }
        self.input.copy_within(start..self.filled, 0);
        self.filled -= start;
        Ok(())
    }

    /// The slots of the publishes that were acknowledged since the last look.
    pub fn acknowledgements(&mut self) -> Result<Vec<u32>, String> {
        let (mut slots, mut wrong) = (Vec::new(), None);
        self.frames(|frame| match slot_of(frame) {
            Some(slot) => slots.push(slot),
            // `{}` is the server's sign of life.
            None if frame == b"{}" => {}
            None => wrong = Some(String::from_utf8_lossy(frame).into_owned()),
        })?;
        wrong.map_or(Ok(slots), |reply| Err(format!("expected acknowledgements, found {reply}")))
    }
}

/// `{"id":17,"publish":...` is slot 7.
fn slot_of(frame: &[u8]) -> Option<u32> {
    let rest = frame.strip_prefix(br#"{"id":"#)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let id: u32 = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
    rest[digits..].starts_with(br#","publish""#).then(|| id.wrapping_sub(10))
}
