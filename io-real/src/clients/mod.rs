//! Clients' sockets: WebSocket and HTTP on one listener, the line protocol on another.
//!
//! The one law: **the edge gets whole frames and lines, never longer than the announced limit**; what is longer is
//! dropped unread and reported. What the edge says is written as it is: WebSocket frames come from core encoded.

mod client;
pub mod http;

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener as StdListener;
use std::time::{Duration, Instant};

use mio::net::TcpListener;
use mio::{Interest, Registry, Token};
use tigerchat_core::io::{CloseCode, Transport};
use tigerchat_core::pool::Message;
use tigerchat_core::types::ConnectionId;

use self::client::{Client, Heard};

/// Tokens of clients begin here.
pub const FIRST_TOKEN: usize = 1 << 20;
/// A connection must have said who it is within this.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What clients did. Frames lie in a buffer of the turn, so that nothing is allocated for each.
#[derive(Debug)]
pub enum Said {
    Opened { connection: ConnectionId, transport: Transport, token: Option<String> },
    Frame { connection: ConnectionId, start: usize, end: usize },
    TooLarge { connection: ConnectionId },
    Drained { connection: ConnectionId, bytes: usize },
    Closed { connection: ConnectionId },
}

/// What clients did in this turn.
#[derive(Debug, Default)]
pub struct Turn {
    pub said: Vec<Said>,
    pub arena: Vec<u8>,
}

/// What a listener serves besides the envelope.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// The page at `/`, if there is one.
    pub page: Option<&'static str>,
    /// The port that `Host` and `Origin` must name, if they are checked.
    pub checked_port: Option<u16>,
}

#[derive(Debug)]
pub struct Clients {
    ws: Option<TcpListener>,
    line: Option<TcpListener>,
    list: BTreeMap<usize, Client>,
    next: usize,
    frame_max: usize,
    connections_max: usize,
    site: Site,
    /// What probes and `/metrics` answer; written by the loop now and then.
    pub ready: bool,
    pub metrics: String,
    touched: Vec<usize>,
    /// Clients whose sockets still hold something that will not be announced again.
    unheard: Vec<usize>,
    looked: Instant,
}

impl Clients {
    pub fn new(
        ws: Option<(StdListener, Token)>,
        line: Option<(StdListener, Token)>,
        frame_max: usize,
        connections_max: usize,
        site: Site,
        registry: &Registry,
    ) -> io::Result<Self> {
        let register = |listener: Option<(StdListener, Token)>| -> io::Result<Option<TcpListener>> {
            let Some((listener, token)) = listener else { return Ok(None) };
            listener.set_nonblocking(true)?;
            let mut listener = TcpListener::from_std(listener);
            registry.register(&mut listener, token, Interest::READABLE)?;
            Ok(Some(listener))
        };
        let (ws, line) = (register(ws)?, register(line)?);
        let (list, touched, unheard) = (BTreeMap::new(), Vec::new(), Vec::new());
        let (next, ready, metrics, looked) = (FIRST_TOKEN, false, String::new(), Instant::now());
        Ok(Self {
            ws,
            line,
            list,
            next,
            frame_max,
            connections_max,
            site,
            ready,
            metrics,
            touched,
            unheard,
            looked,
        })
    }

    pub fn accept(&mut self, line: bool, registry: &Registry, turn: &mut Turn) {
        loop {
            let listener = if line { &self.line } else { &self.ws };
            let Some(Ok((mut stream, _))) = listener.as_ref().map(TcpListener::accept) else { return };
            // A little above the edge's own limit, so that the edge can say what is wrong.
            if self.list.len() >= self.connections_max + 64 {
                continue;
            }
            let token = self.next;
            self.next += 1;
            let _ = stream.set_nodelay(true);
            if registry.register(&mut stream, Token(token), Interest::READABLE).is_err() {
                continue;
            }
            let client = Client::new(stream, line);
            if line {
                let connection = ConnectionId(token as u64);
                turn.said.push(Said::Opened { connection, transport: Transport::Line, token: None });
            }
            self.list.insert(token, client);
        }
    }

    pub fn ready(
        &mut self,
        token: usize,
        readable: bool,
        writable: bool,
        registry: &Registry,
        turn: &mut Turn,
    ) {
        let Some(client) = self.list.get_mut(&token) else { return };
        let mut alive = true;
        if readable {
            let probes = (self.ready, self.metrics.as_str());
            let heard = client.read(ConnectionId(token as u64), self.frame_max, &self.site, probes, turn);
            alive = heard != Heard::End;
            if heard == Heard::More {
                self.unheard.push(token);
            }
        }
        if writable || !alive || client.has_output() {
            self.touch(token);
        }
        if !alive {
            self.close_socket(token, registry, turn);
        }
    }

    /// Goes on with clients that had more to say than their share of the last turn.
    pub fn hear_on(&mut self, registry: &Registry, turn: &mut Turn) {
        for token in std::mem::take(&mut self.unheard) {
            self.ready(token, true, false, registry, turn);
        }
    }

    pub fn has_unheard(&self) -> bool {
        !self.unheard.is_empty()
    }

    fn touch(&mut self, token: usize) {
        if let Some(client) = self.list.get_mut(&token)
            && !client.touched
        {
            client.touched = true;
            self.touched.push(token);
        }
    }

    pub fn send(&mut self, to: ConnectionId, bytes: Message) {
        let Ok(token) = usize::try_from(to.0) else { return };
        self.touch(token);
        if let Some(client) = self.list.get_mut(&token) {
            client.send(bytes);
        }
    }

    pub fn close(&mut self, to: ConnectionId, why: CloseCode) {
        let Ok(token) = usize::try_from(to.0) else { return };
        self.touch(token);
        if let Some(client) = self.list.get_mut(&token) {
            client.close(why);
        }
    }

    /// Writes what waits, one system call for each client with news. What went out is told to the edge next turn.
    pub fn flush(&mut self, registry: &Registry, turn: &mut Turn) {
        let mut touched = std::mem::take(&mut self.touched);
        for token in touched.drain(..) {
            let Some(client) = self.list.get_mut(&token) else { continue };
            client.touched = false;
            let connection = ConnectionId(token as u64);
            match client.write() {
                Ok(0) => {}
                Ok(bytes) => turn.said.push(Said::Drained { connection, bytes }),
                Err(_) => {
                    self.close_socket(token, registry, turn);
                    continue;
                }
            }
            if client.is_done() {
                self.close_socket(token, registry, turn);
            } else {
                client.reregister(Token(token), registry);
            }
        }
        self.touched = touched;
    }

    fn close_socket(&mut self, token: usize, registry: &Registry, turn: &mut Turn) {
        if let Some(client) = self.list.remove(&token)
            && client.drop_socket(registry)
        {
            turn.said.push(Said::Closed { connection: ConnectionId(token as u64) });
        }
    }

    /// Lets go those who never said who they are.
    pub fn look_after(&mut self, registry: &Registry, turn: &mut Turn) {
        if self.looked.elapsed() < Duration::from_secs(1) {
            return;
        }
        self.looked = Instant::now();
        let late = self.list.iter().filter(|(_, client)| client.is_late(HANDSHAKE)).map(|(token, _)| *token);
        let late: Vec<usize> = late.collect();
        late.into_iter().for_each(|token| self.close_socket(token, registry, turn));
    }

    /// Whether anything still waits to go out.
    pub fn is_quiet(&self) -> bool {
        self.list.values().all(|client| !client.has_output())
    }
}
