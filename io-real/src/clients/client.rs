//! One client's socket: from bytes to frames, and out again.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use tigerchat_core::io::{CloseCode, Transport};
use tigerchat_core::pool::Message;
use tigerchat_core::types::ConnectionId;
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};

use super::http::{self, Head, Parsed};
use super::{Said, Site, Turn};

const READ: usize = 64 * 1024;
/// Reads of one client in one turn: nobody floods the loop.
const READS: usize = 4;
const SLICES: usize = 64;
const HISTORY_EXPECTED: &[u8] =
    b"expected /v1/rooms/ROOM/history?NAME=NUMBER&..., with thread, from, before, around, since_time, until_time, limit \
      or consistency=local|linearizable\n";

/// What reading a client's socket came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    All,
    /// Its share of the turn is used up; the rest waits in the socket.
    More,
    End,
}

#[derive(Debug)]
pub(super) struct Client {
    stream: TcpStream,
    stage: Stage,
    /// What was read and not understood yet.
    input: Vec<u8>,
    output: VecDeque<Output>,
    /// Bytes of the first output that went out.
    sent: usize,
    since: Instant,
    writes: bool,
    pub(super) touched: bool,
    closing: bool,
    /// The edge knows of this connection.
    known: bool,
}

#[derive(Debug)]
enum Stage {
    /// Before a whole HTTP head.
    Head,
    /// A command's body is to come.
    Body(Head),
    /// The edge answers; what it says is the body of the answer.
    Answering(Vec<u8>),
    WebSocket(Box<WebSocket<Pipe>>),
    /// `skipping`: a line was too long, its end is to come.
    Line {
        skipping: bool,
    },
    /// Nothing more is read.
    Ending,
}

#[derive(Debug)]
enum Output {
    /// Of the edge, counted by it.
    Shared(Message),
    /// Of our own: handshakes, control frames.
    Own(Vec<u8>),
}

/// What tungstenite reads from and writes to: memory. It resumes wherever the bytes end.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    input: Vec<u8>,
    used: usize,
    output: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let rest = &self.input[self.used..];
        if rest.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        self.used += len;
        if self.used == self.input.len() {
            self.input.clear();
            self.used = 0;
        }
        Ok(len)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Shared(message) => message,
            Self::Own(bytes) => bytes,
        }
    }
}

impl Client {
    pub(super) fn new(stream: TcpStream, line: bool) -> Self {
        let stage = if line { Stage::Line { skipping: false } } else { Stage::Head };
        Self {
            stream,
            stage,
            input: Vec::new(),
            output: VecDeque::new(),
            sent: 0,
            since: Instant::now(),
            writes: false,
            touched: false,
            closing: false,
            known: line,
        }
    }

    /// Reads what there is, up to a share of the turn; says whether there may be more, or that it is over.
    pub(super) fn read(
        &mut self,
        me: ConnectionId,
        frame_max: usize,
        site: &Site,
        probes: (bool, &str),
        turn: &mut Turn,
    ) -> Heard {
        let mut buffer = [0; READ];
        for _ in 0..READS {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Heard::End,
                Ok(len) => {
                    if !self.take(&buffer[..len], me, frame_max, site, probes, turn) {
                        return Heard::End;
                    }
                    if len < READ {
                        return Heard::All;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Heard::All,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Heard::End,
            }
        }
        Heard::More
    }

    fn take(
        &mut self,
        bytes: &[u8],
        me: ConnectionId,
        frame_max: usize,
        site: &Site,
        probes: (bool, &str),
        turn: &mut Turn,
    ) -> bool {
        match &mut self.stage {
            Stage::Ending | Stage::Answering(_) => return true,
            Stage::WebSocket(socket) => socket.get_mut().input.extend_from_slice(bytes),
            _ => self.input.extend_from_slice(bytes),
        }
        loop {
            match &mut self.stage {
                Stage::Head => match http::parse(&self.input) {
                    Parsed::Partial => return true,
                    Parsed::Bad => {
                        self.answer("400 Bad Request", "text/plain", b"expected an HTTP request\n");
                        return true;
                    }
                    Parsed::Head(head) => {
                        self.input.drain(..head.len);
                        self.route(head, me, frame_max, site, probes, turn);
                    }
                },
                Stage::Body(head) => {
                    if self.input.len() < head.content_length {
                        return true;
                    }
                    let body: Vec<u8> = self.input.drain(..head.content_length).collect();
                    let token = head.bearer.take();
                    self.command(me, token, &body, turn);
                }
                Stage::Line { .. } => return self.lines(me, frame_max, turn),
                Stage::WebSocket(_) => return self.frames(me, turn),
                Stage::Ending | Stage::Answering(_) => return true,
            }
        }
    }

    fn route(
        &mut self,
        head: Head,
        me: ConnectionId,
        frame_max: usize,
        site: &Site,
        probes: (bool, &str),
        turn: &mut Turn,
    ) {
        if let Some(port) = site.checked_port
            && !is_here(&head, port)
        {
            let error = tigerchat_core::errors::ErrorCode::HostRefused;
            return self.answer("403 Forbidden", "text/plain", format!("{error}\n").as_bytes());
        }
        match (head.method.as_str(), head.path.as_str()) {
            ("GET", "/v1/ws") if head.upgrade.is_some() => {
                self.output.push_back(Output::Own(http::switching(&head).into_bytes()));
                let config = WebSocketConfig::default()
                    .read_buffer_size(4096)
                    .write_buffer_size(0)
                    .max_message_size(Some(frame_max))
                    .max_frame_size(Some(frame_max));
                let input = std::mem::take(&mut self.input);
                let pipe = Pipe { input, ..Pipe::default() };
                let socket = WebSocket::from_raw_socket(pipe, Role::Server, Some(config));
                self.stage = Stage::WebSocket(Box::new(socket));
                self.open(me, Transport::WebSocket, head.bearer, turn);
            }
            ("POST", "/v1/rpc") if head.content_length <= frame_max => self.stage = Stage::Body(head),
            ("POST", "/v1/rpc") => {
                let error = tigerchat_core::errors::ErrorCode::FrameTooLarge;
                self.answer("413 Content Too Large", "text/plain", format!("{error}\n").as_bytes());
            }
            ("GET", path) if path.starts_with("/v1/rooms/") => match http::history_command(&head) {
                Some(command) => self.command(me, head.bearer, command.as_bytes(), turn),
                None => self.answer("404 Not Found", "text/plain", HISTORY_EXPECTED),
            },
            ("GET", "/") if site.page.is_some() => {
                let page = site.page.unwrap_or_default();
                self.answer("200 OK", "text/html; charset=utf-8", page.as_bytes());
            }
            ("GET", "/livez") => self.answer("200 OK", "text/plain", b"ok\n"),
            ("GET", "/readyz") if probes.0 => self.answer("200 OK", "text/plain", b"ok\n"),
            ("GET", "/readyz") => {
                self.answer("503 Service Unavailable", "text/plain", b"no session with the shard yet\n");
            }
            ("GET", "/metrics") => self.answer("200 OK", "text/plain; version=0.0.4", probes.1.as_bytes()),
            _ => self.answer(
                "404 Not Found",
                "text/plain",
                b"expected /v1/ws, /v1/rpc or /v1/rooms/ROOM/history\n",
            ),
        }
    }

    fn open(
        &mut self,
        connection: ConnectionId,
        transport: Transport,
        token: Option<String>,
        turn: &mut Turn,
    ) {
        self.known = true;
        turn.said.push(Said::Opened { connection, transport, token });
    }

    /// One command over HTTP.
    fn command(&mut self, connection: ConnectionId, token: Option<String>, body: &[u8], turn: &mut Turn) {
        self.stage = Stage::Answering(Vec::new());
        self.open(connection, Transport::Http, token, turn);
        say(connection, body, turn);
    }

    fn answer(&mut self, status: &str, content_type: &str, body: &[u8]) {
        self.output.push_back(Output::Own(http::answer(status, content_type, body)));
        self.stage = Stage::Ending;
        self.closing = true;
    }

    fn lines(&mut self, me: ConnectionId, frame_max: usize, turn: &mut Turn) -> bool {
        let Stage::Line { skipping } = &mut self.stage else { return true };
        let mut start = 0;
        while let Some(len) = self.input[start..].iter().position(|byte| *byte == b'\n') {
            let line = &self.input[start..start + len];
            start += len + 1;
            if std::mem::take(skipping) {
                continue;
            }
            if len > frame_max {
                turn.said.push(Said::TooLarge { connection: me });
            } else {
                say(me, line, turn);
            }
        }
        self.input.drain(..start);
        if self.input.len() > frame_max {
            // Its end may never come: what there is of it is dropped now.
            if !std::mem::replace(skipping, true) {
                turn.said.push(Said::TooLarge { connection: me });
            }
            self.input.clear();
        }
        true
    }

    fn frames(&mut self, me: ConnectionId, turn: &mut Turn) -> bool {
        let Stage::WebSocket(socket) = &mut self.stage else { return true };
        let alive = loop {
            match socket.read() {
                Ok(tungstenite::Message::Text(text)) => say(me, text.as_bytes(), turn),
                // A frame that is no text is no command: the edge answers so.
                Ok(tungstenite::Message::Binary(_)) => say(me, b"\xFF", turn),
                Ok(_) => {}
                Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => break true,
                Err(tungstenite::Error::Capacity(_)) => {
                    // The rest of such a frame can't be stepped over: the hard cap closes.
                    turn.said.push(Said::TooLarge { connection: me });
                    break false;
                }
                Err(_) => break false,
            }
        };
        let control = std::mem::take(&mut socket.get_mut().output);
        if !control.is_empty() {
            self.output.push_back(Output::Own(control));
        }
        alive
    }

    pub(super) fn send(&mut self, bytes: Message) {
        match &mut self.stage {
            Stage::Answering(body) => body.extend_from_slice(&bytes),
            Stage::Ending => {}
            _ => self.output.push_back(Output::Shared(bytes)),
        }
    }

    /// The edge lets go: what was said goes out first.
    pub(super) fn close(&mut self, why: CloseCode) {
        match std::mem::replace(&mut self.stage, Stage::Ending) {
            Stage::Answering(body) => {
                let status = if why == CloseCode::UNAUTHENTICATED { "401 Unauthorized" } else { "200 OK" };
                self.output.push_back(Output::Own(http::answer(status, "application/json", &body)));
            }
            Stage::WebSocket(_) => {
                let [high, low] = why.0.to_be_bytes();
                self.output.push_back(Output::Own(vec![0x88, 2, high, low]));
            }
            _ => {}
        }
        (self.closing, self.known) = (true, false);
    }

    /// Writes what waits; says how many bytes of the edge went out.
    pub(super) fn write(&mut self) -> io::Result<usize> {
        let mut shared = 0;
        while !self.output.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut skip = self.sent;
            let mut count = 0;
            for output in self.output.iter().take(SLICES) {
                slices[count] = IoSlice::new(&output.bytes()[std::mem::take(&mut skip)..]);
                count += 1;
            }
            match self.stream.write_vectored(&slices[..count]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(len) => shared += self.wrote(len),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(shared)
    }

    fn wrote(&mut self, mut len: usize) -> usize {
        let mut shared = 0;
        while len > 0 {
            let Some(output) = self.output.front() else { break };
            let part = len.min(output.bytes().len() - self.sent);
            if matches!(output, Output::Shared(_)) {
                shared += part;
            }
            self.sent += part;
            len -= part;
            if self.sent == output.bytes().len() {
                self.output.pop_front();
                self.sent = 0;
            }
        }
        shared
    }

    pub(super) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    pub(super) fn is_done(&self) -> bool {
        self.closing && self.output.is_empty()
    }

    pub(super) fn is_late(&self, patience: Duration) -> bool {
        matches!(self.stage, Stage::Head | Stage::Body(_) | Stage::Ending) && self.since.elapsed() >= patience
    }

    /// Asks to be told when there is room, only while something waits.
    pub(super) fn reregister(&mut self, token: Token, registry: &Registry) {
        let writes = self.has_output();
        if writes != self.writes {
            self.writes = writes;
            let interest = if writes { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            let _ = registry.reregister(&mut self.stream, token, interest);
        }
    }

    /// Ends the socket; says whether the edge must hear of it.
    pub(super) fn drop_socket(mut self, registry: &Registry) -> bool {
        let _ = self.write();
        let _ = registry.deregister(&mut self.stream);
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
        self.known
    }
}

fn say(connection: ConnectionId, bytes: &[u8], turn: &mut Turn) {
    let start = turn.arena.len();
    turn.arena.extend_from_slice(bytes);
    turn.said.push(Said::Frame { connection, start, end: turn.arena.len() });
}

/// Whether a request names this machine's own listener: a page of another site must not speak to a demo.
fn is_here(head: &Head, port: u16) -> bool {
    let hosts = ["127.0.0.1", "localhost", "[::1]"];
    let host =
        head.host.as_deref().is_some_and(|host| hosts.iter().any(|one| host == format!("{one}:{port}")));
    let origin = head
        .origin
        .as_deref()
        .is_none_or(|origin| hosts.iter().any(|one| origin == format!("http://{one}:{port}")));
    host && origin
}
