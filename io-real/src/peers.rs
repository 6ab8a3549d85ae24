//! TCP links between replicas and edges.
//!
//! The one law: **a frame that is not whole and right never reaches the node** (length, digest, cluster and receiver
//! are checked by core), and a link that carries one is closed. Sending never blocks: a full queue drops, and core
//! sends again. A socket is not read while the pool has no buffer for what comes.
//!
//! A replica dials those with a higher id, an edge dials all replicas. A link that broke is dialled again, or, by
//! the side that does not dial, probed until the peer has dialled: if that is *refused*, the peer's process is gone and
//! the node hears [`tigerchat_core::io::Event::PeerReset`]. One probe is not enough: the sockets of a process that is
//! killed close one after the other, and its listener may be the last.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use tigerchat_core::pool::{Draft, Pool};
use tigerchat_core::types::Address;
use tigerchat_core::wire::frame::{FRAME_HEADER, Frame, FrameHeader};
use zerocopy::IntoBytes;

/// Bytes that wait for one peer's socket; beyond it frames are dropped.
const QUEUE_MAX: usize = 16 << 20;
/// Bytes read from a socket at a time.
const READ: usize = 256 * 1024;
const SLICES: usize = 64;
const REDIAL_FIRST: Duration = Duration::from_millis(2);
const REDIAL_MAX: Duration = Duration::from_millis(100);

/// Tokens of links begin here.
pub const FIRST_TOKEN: usize = 1000;
/// And end before here.
pub const LAST_TOKEN: usize = 1 << 20;

/// What peers brought.
#[derive(Debug)]
pub enum Arrived {
    Frame { from: Address, frame: Frame },
    Reset(Address),
}

#[derive(Debug)]
pub struct Peers {
    me: Address,
    pool: Pool,
    payload_max: usize,
    listener: Option<TcpListener>,
    links: BTreeMap<usize, Link>,
    next: usize,
    /// Which link leads to whom.
    routes: BTreeMap<Address, usize>,
    /// Whom we dial, and those whom we only probe.
    known: Vec<Known>,
    unroutable: u64,
    dropped: u64,
    refused: u64,
}

#[derive(Debug)]
struct Known {
    address: Address,
    socket: SocketAddr,
    /// Whoever started this process said so: that counts for more than what the members' log says, which is of another
    /// cluster after a restore.
    is_told: bool,
    dials: bool,
    /// When to dial (or probe) next; none while a link is up or being made.
    due: Option<Instant>,
    wait: Duration,
    was_up: bool,
}

impl Known {
    fn try_later(&mut self) {
        self.due = Some(Instant::now() + self.wait);
        self.wait = (self.wait * 2).min(REDIAL_MAX);
    }
}

#[derive(Debug)]
struct Link {
    stream: TcpStream,
    /// Who is at the other end, as far as it said.
    peer: Option<Address>,
    /// Index of whom we dialled.
    dialled: Option<usize>,
    connected: bool,
    /// Room for what was read; of it, `used..filled` is still to be looked at.
    input: Vec<u8>,
    used: usize,
    filled: usize,
    output: VecDeque<Frame>,
    queued: usize,
    /// Bytes of the first frame that went out.
    sent: usize,
    wants_write: bool,
    starved: bool,
}

impl Peers {
    /// `known`: every replica's address, and whether this process dials it.
    pub fn new(
        me: Address,
        pool: Pool,
        payload_max: usize,
        listener: Option<StdListener>,
        known: Vec<(Address, SocketAddr, bool)>,
        registry: &Registry,
        listener_token: Token,
    ) -> io::Result<Self> {
        let mut listener = match listener {
            Some(listener) => {
                listener.set_nonblocking(true)?;
                Some(TcpListener::from_std(listener))
            }
            None => None,
        };
        if let Some(listener) = &mut listener {
            registry.register(listener, listener_token, Interest::READABLE)?;
        }
        let now = Instant::now();
        let known = known
            .into_iter()
            .map(|(address, socket, dials)| Known {
                address,
                socket,
                is_told: true,
                dials,
                due: dials.then_some(now),
                wait: REDIAL_FIRST,
                was_up: false,
            })
            .collect();
        Ok(Self {
            me,
            pool,
            payload_max,
            listener,
            links: BTreeMap::new(),
            next: FIRST_TOKEN,
            routes: BTreeMap::new(),
            known,
            unroutable: 0,
            dropped: 0,
            refused: 0,
        })
    }

    pub fn me(&self) -> Address {
        self.me
    }

    /// A replica is reached there from now on, unless this process was started with another address of it: those that this
    /// process has to dial are dialled.
    pub fn learn(&mut self, address: Address, socket: SocketAddr, dials: bool) {
        let due = dials.then(Instant::now);
        match self.known.iter_mut().find(|known| known.address == address) {
            Some(known) if known.is_told => {
                if known.dials != dials {
                    (known.dials, known.due) = (dials, due);
                }
            }
            Some(known) if known.socket == socket && known.dials == dials => {}
            Some(known) => (known.socket, known.dials, known.due) = (socket, dials, due),
            None => {
                let (is_told, wait, was_up) = (false, REDIAL_FIRST, false);
                self.known.push(Known { address, socket, is_told, dials, due, wait, was_up });
            }
        }
    }

    /// These are no replicas of ours any more: nobody is dialled who is not in `members`.
    pub fn keep(&mut self, is_member: impl Fn(Address) -> bool) {
        for known in self.known.iter_mut().filter(|known| !is_member(known.address)) {
            (known.dials, known.due, known.was_up) = (false, None, false);
        }
    }

    /// Frames that found no link, frames that found a full queue, links closed for what they carried.
    pub fn counters(&self) -> (u64, u64, u64) {
        (self.unroutable, self.dropped, self.refused)
    }

    pub fn send(&mut self, to: Address, frame: Frame) {
        let Some(link) = self.routes.get(&to).and_then(|token| self.links.get_mut(token)) else {
            self.unroutable += 1;
            return;
        };
        let size = frame.header.size.get() as usize;
        if link.queued + size > QUEUE_MAX {
            self.dropped += 1;
            return;
        }
        link.queued += size;
        link.output.push_back(frame);
    }

    /// Writes what waits, to all peers.
    pub fn flush(&mut self, registry: &Registry) {
        let mut broken = Vec::new();
        for (token, link) in &mut self.links {
            if link.connected && link.write().is_err() {
                broken.push(*token);
                continue;
            }
            let wants_write = !link.connected || !link.output.is_empty();
            if wants_write != link.wants_write {
                link.wants_write = wants_write;
                let interest =
                    if wants_write { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
                let _ = registry.reregister(&mut link.stream, Token(*token), interest);
            }
        }
        broken.into_iter().for_each(|token| self.close(token, registry));
    }

    /// When to call [`Self::dial`] next.
    pub fn deadline(&self) -> Option<Instant> {
        let starved =
            self.links.values().any(|link| link.starved).then(|| Instant::now() + Duration::from_millis(1));
        self.known.iter().filter_map(|known| known.due).chain(starved).min()
    }

    /// Dials and probes whom it is time to.
    pub fn dial(&mut self, registry: &Registry, arrived: &mut Vec<Arrived>) {
        let now = Instant::now();
        for at in 0..self.known.len() {
            let known = &mut self.known[at];
            if known.due.is_none_or(|due| due > now) {
                continue;
            }
            known.due = None;
            match TcpStream::connect(known.socket) {
                Ok(stream) => {
                    let token = self.add(stream, false, registry);
                    if let Some(link) = self.links.get_mut(&token) {
                        link.dialled = Some(at);
                    }
                }
                Err(error) => self.not_reached(at, error.kind() == ErrorKind::ConnectionRefused, arrived),
            }
        }
    }

    fn not_reached(&mut self, at: usize, refused: bool, arrived: &mut Vec<Arrived>) {
        let known = &mut self.known[at];
        if refused && std::mem::take(&mut known.was_up) {
            arrived.push(Arrived::Reset(known.address));
        }
        if known.dials || known.was_up {
            known.try_later();
        }
    }

    pub fn accept(&mut self, registry: &Registry) {
        while let Some(Ok((stream, from))) = self.listener.as_ref().map(TcpListener::accept) {
            if !from.ip().is_loopback() || self.links.len() >= LAST_TOKEN - FIRST_TOKEN {
                self.refused += 1;
                continue;
            }
            self.add(stream, true, registry);
        }
    }

    fn add(&mut self, mut stream: TcpStream, connected: bool, registry: &Registry) -> usize {
        let token = self.next;
        self.next = if token + 1 == LAST_TOKEN { FIRST_TOKEN } else { token + 1 };
        let _ = stream.set_nodelay(true);
        if registry.register(&mut stream, Token(token), Interest::READABLE | Interest::WRITABLE).is_ok() {
            self.links.insert(
                token,
                Link {
                    stream,
                    peer: None,
                    dialled: None,
                    connected,
                    input: vec![0; READ.max(FRAME_HEADER + self.payload_max)],
                    used: 0,
                    filled: 0,
                    output: VecDeque::new(),
                    queued: 0,
                    sent: 0,
                    wants_write: true,
                    starved: false,
                },
            );
        }
        token
    }

    /// A socket has something, or has room.
    pub fn ready(&mut self, token: usize, readable: bool, registry: &Registry, arrived: &mut Vec<Arrived>) {
        let Some(link) = self.links.get_mut(&token) else { return };
        if !link.connected && !self.finish_dial(token, registry, arrived) {
            return;
        }
        if readable {
            self.read(token, registry, arrived);
        }
    }

    /// Links that waited for a buffer.
    pub fn retry_starved(&mut self, registry: &Registry, arrived: &mut Vec<Arrived>) {
        let starved: Vec<usize> =
            self.links.iter().filter(|(_, link)| link.starved).map(|(token, _)| *token).collect();
        starved.into_iter().for_each(|token| self.read(token, registry, arrived));
    }

    fn finish_dial(&mut self, token: usize, registry: &Registry, arrived: &mut Vec<Arrived>) -> bool {
        let link = self.links.get_mut(&token).expect("looked at");
        let error = link.stream.take_error().ok().flatten();
        if error.is_none() && link.stream.peer_addr().is_err() {
            return false;
        }
        let dialled = link.dialled;
        if let Some(error) = error {
            self.links.remove(&token);
            if let Some(at) = dialled {
                self.not_reached(at, error.kind() == ErrorKind::ConnectionRefused, arrived);
            }
            return false;
        }
        let Some(at) = dialled else { return false };
        let known = &mut self.known[at];
        if !known.dials {
            // Only a probe: somebody is there, and will dial us, or is about to end.
            if known.was_up && !self.routes.contains_key(&known.address) {
                known.try_later();
            }
            let mut link = self.links.remove(&token).expect("looked at");
            let _ = registry.deregister(&mut link.stream);
            return false;
        }
        (known.was_up, known.wait) = (true, REDIAL_FIRST);
        let address = known.address;
        link.connected = true;
        link.peer = Some(address);
        self.routes.insert(address, token);
        true
    }

    fn read(&mut self, token: usize, registry: &Registry, arrived: &mut Vec<Arrived>) {
        let (me, max) = (self.me, self.payload_max);
        let Some(link) = self.links.get_mut(&token) else { return };
        let known_before = link.peer;
        let result = link.read(me, max, &self.pool, arrived);
        if let (None, Some(peer)) = (known_before, link.peer) {
            self.routes.insert(peer, token);
            if let Some(known) = self.known.iter_mut().find(|known| known.address == peer) {
                (known.was_up, known.due, known.wait) = (true, None, REDIAL_FIRST);
            }
        }
        if let Err(error) = result {
            self.refused += u64::from(error.kind() == ErrorKind::InvalidData);
            self.close(token, registry);
        }
    }

    fn close(&mut self, token: usize, registry: &Registry) {
        let Some(mut link) = self.links.remove(&token) else { return };
        let _ = registry.deregister(&mut link.stream);
        let Some(peer) = link.peer else { return };
        if self.routes.get(&peer) == Some(&token) {
            self.routes.remove(&peer);
            if let Some(known) = self.known.iter_mut().find(|known| known.address == peer) {
                known.due = Some(Instant::now());
            }
        }
    }
}

impl Link {
    fn read(&mut self, me: Address, max: usize, pool: &Pool, arrived: &mut Vec<Arrived>) -> io::Result<()> {
        self.starved = false;
        self.parse(me, max, pool, arrived)?;
        while !self.starved {
            match self.stream.read(&mut self.input[self.filled..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(len) => {
                    self.filled += len;
                    let all = self.filled < self.input.len();
                    self.parse(me, max, pool, arrived)?;
                    if all {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes whole frames from the front of the input.
    fn parse(&mut self, me: Address, max: usize, pool: &Pool, arrived: &mut Vec<Arrived>) -> io::Result<()> {
        while let Some(bytes) = self.input[self.used..self.filled].first_chunk::<FRAME_HEADER>() {
            let header =
                FrameHeader::decode(bytes, max).map_err(|_| io::Error::from(ErrorKind::InvalidData))?;
            let (from, len) = (header.from().expect("decoded"), header.payload_len());
            let said_before = self.peer.is_none_or(|peer| peer == from);
            if header.to() != Some(me) || !said_before {
                return Err(ErrorKind::InvalidData.into());
            }
            let start = self.used + FRAME_HEADER;
            let Some(payload) = self.input[..self.filled].get(start..start + len) else { break };
            let payload = if payload.is_empty() {
                None
            } else {
                let Some(draft) = filled(pool, payload) else {
                    self.starved = true;
                    break;
                };
                Some(draft.seal())
            };
            let frame = Frame::join(header, payload).map_err(|_| io::Error::from(ErrorKind::InvalidData))?;
            self.peer = Some(from);
            self.used = start + len;
            arrived.push(Arrived::Frame { from, frame });
        }
        self.input.copy_within(self.used..self.filled, 0);
        (self.filled, self.used) = (self.filled - self.used, 0);
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut count = 0;
            let mut skip = self.sent;
            for frame in &self.output {
                if count + 2 > SLICES {
                    break;
                }
                for part in [frame.header.as_bytes(), frame.body()] {
                    let rest = part.get(skip..).unwrap_or(&[]);
                    skip = skip.saturating_sub(part.len());
                    if !rest.is_empty() {
                        slices[count] = IoSlice::new(rest);
                        count += 1;
                    }
                }
            }
            match self.stream.write_vectored(&slices[..count]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(len) => self.wrote(len),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn wrote(&mut self, len: usize) {
        self.sent += len;
        while let Some(size) = self.output.front().map(|frame| frame.header.size.get() as usize) {
            if self.sent < size {
                return;
            }
            self.sent -= size;
            self.queued -= size;
            self.output.pop_front();
        }
    }
}

fn filled(pool: &Pool, bytes: &[u8]) -> Option<Draft> {
    let mut draft = pool.draft(bytes.len())?;
    draft.extend(bytes).expect("measured");
    Some(draft)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    use mio::{Events, Poll};
    use tigerchat_core::pool::Class;
    use tigerchat_core::types::{ClusterId, ReplicaId, ShardId};
    use tigerchat_core::wire::frame::Command;

    const LISTENER: Token = Token(1);

    fn address(replica: u16) -> Address {
        Address::Replica { shard: ShardId(1), replica: ReplicaId(replica) }
    }

    fn frame(from: u16, to: u16) -> Frame {
        let header = FrameHeader::new(Command::Ping, ClusterId(7), ShardId(1));
        let mut frame = Frame { header, payload: None };
        frame.seal(address(from), address(to), 1, 1);
        frame
    }

    /// One side of a link: a listener of replica `me`, or somebody who dials.
    struct Side {
        poll: Poll,
        peers: Peers,
        arrived: Vec<Arrived>,
    }

    impl Side {
        fn new(me: u16, listener: Option<StdListener>, known: Vec<(Address, SocketAddr, bool)>) -> Self {
            let poll = Poll::new().unwrap();
            let pool = Pool::new(&[Class { size: 4096, count: 8 }]);
            let peers =
                Peers::new(address(me), pool, 4096, listener, known, poll.registry(), LISTENER).unwrap();
            Self { poll, peers, arrived: Vec::new() }
        }

        fn turn(&mut self) {
            let mut events = Events::with_capacity(16);
            self.poll.poll(&mut events, Some(Duration::from_millis(2))).unwrap();
            let registry = self.poll.registry();
            self.peers.dial(registry, &mut self.arrived);
            for event in &events {
                match event.token() {
                    LISTENER => self.peers.accept(registry),
                    Token(token) => self.peers.ready(token, true, registry, &mut self.arrived),
                }
            }
            self.peers.flush(registry);
        }

        fn until(&mut self, other: &mut Option<&mut Side>, done: impl Fn(&Self) -> bool) {
            let began = Instant::now();
            while !done(self) {
                assert!(began.elapsed() < Duration::from_secs(10), "nothing happens: {:?}", self.arrived);
                self.turn();
                if let Some(other) = other {
                    other.turn();
                }
            }
        }
    }

    fn listening(me: u16) -> (Side, SocketAddr) {
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let socket = listener.local_addr().unwrap();
        (Side::new(me, Some(listener), Vec::new()), socket)
    }

    #[test]
    fn frames_arrive_whole_and_a_peer_whose_process_is_gone_is_reported_once() {
        let (mut upper, socket) = listening(1);
        let mut lower = Side::new(0, None, vec![(address(1), socket, true)]);
        lower.until(&mut Some(&mut upper), |side| side.peers.routes.contains_key(&address(1)));
        lower.peers.send(address(1), frame(0, 1));
        upper.until(&mut Some(&mut lower), |side| !side.arrived.is_empty());
        assert!(matches!(&upper.arrived[..], [Arrived::Frame { from, .. }] if *from == address(0)));
        drop(upper);
        lower.until(&mut None, |side| !side.arrived.is_empty());
        assert!(matches!(&lower.arrived[..], [Arrived::Reset(peer)] if *peer == address(1)));
        for _ in 0..100 {
            lower.turn();
        }
        assert_eq!(lower.arrived.len(), 1, "once");
    }

    /// So a killed process looks: its connections end before its listener.
    #[test]
    fn a_peer_whose_listener_outlives_its_link_is_probed_until_it_is_gone() {
        let dying = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let socket = listener.local_addr().unwrap();
        let known = vec![(address(0), dying.local_addr().unwrap(), false)];
        let mut side = Side::new(1, Some(listener), known);
        let mut link = std::net::TcpStream::connect(socket).unwrap();
        link.write_all(frame(0, 1).header.as_bytes()).unwrap();
        side.until(&mut None, |side| side.arrived.len() == 1);
        drop(link);
        side.until(&mut None, |side| side.peers.routes.is_empty());
        for _ in 0..10 {
            side.turn();
        }
        assert_eq!(side.arrived.len(), 1, "somebody is there");
        drop(dying);
        side.until(&mut None, |side| side.arrived.len() == 2);
        assert!(matches!(side.arrived[1], Arrived::Reset(peer) if peer == address(0)));
    }

    #[test]
    fn half_a_frame_waits_and_garbage_ends_the_link_that_carried_it_alone() {
        let (mut side, socket) = listening(1);
        let mut good = std::net::TcpStream::connect(socket).unwrap();
        let bytes = frame(0, 1);
        let bytes = bytes.header.as_bytes();
        good.write_all(&bytes[..100]).unwrap();
        let mut bad = std::net::TcpStream::connect(socket).unwrap();
        bad.write_all(&[0xAB; 512]).unwrap();
        let mut misdirected = std::net::TcpStream::connect(socket).unwrap();
        misdirected.write_all(frame(0, 2).header.as_bytes()).unwrap();
        side.until(&mut None, |side| side.peers.refused == 2);
        assert!(side.arrived.is_empty(), "nothing of it reached the node");
        good.write_all(&bytes[100..]).unwrap();
        side.until(&mut None, |side| side.arrived.len() == 1);
    }
}
