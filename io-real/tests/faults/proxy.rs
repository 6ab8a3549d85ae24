//! A link between two processes that can be cut one way or both, slowed, or reset: a TCP proxy with threads of its own.
//!
//! What is held back while a link is cut comes when it is whole again, in order, as TCP's own retransmission would
//! bring it. All threads end with the proxy.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

/// Connections that a link has at a time; more are refused.
const CONNECTIONS_MAX: usize = 16;
/// A thread looks so often whether it has to end.
const LOOK: Duration = Duration::from_millis(50);
const CHUNK: usize = 64 * 1024;

#[derive(Default)]
struct State {
    ended: AtomicBool,
    /// From the one who dials to the one who listens.
    cut_there: AtomicBool,
    cut_back: AtomicBool,
    /// Each chunk waits so long, ms.
    delay: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
}

pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    acceptor: Option<JoinHandle<()>>,
}

impl Proxy {
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let acceptor = {
            let state = Arc::clone(&state);
            std::thread::spawn(move || accept(&listener, target, &state))
        };
        Self { address, state, acceptor: Some(acceptor) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn cut_there(&self, cut: bool) {
        self.state.cut_there.store(cut, SeqCst);
    }

    pub fn cut_back(&self, cut: bool) {
        self.state.cut_back.store(cut, SeqCst);
    }

    pub fn delay(&self, delay: Duration) {
        self.state.delay.store(u64::try_from(delay.as_millis()).unwrap(), SeqCst);
    }

    /// Closes what is open; new connections are welcome.
    pub fn reset(&self) {
        for stream in self.state.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.ended.store(true, SeqCst);
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: &TcpListener, target: SocketAddr, state: &Arc<State>) {
    let mut pumps: Vec<JoinHandle<()>> = Vec::new();
    for dialled in listener.incoming() {
        if state.ended.load(SeqCst) {
            break;
        }
        pumps.retain(|pump| !pump.is_finished());
        // A target that refuses is heard of: the connection to us ends at once.
        let (Ok(near), Ok(far)) = (dialled, TcpStream::connect(target)) else { continue };
        if pumps.len() >= 2 * CONNECTIONS_MAX {
            continue;
        }
        for stream in [&near, &far] {
            let _ = stream.set_nodelay(true);
            let _ = stream.set_read_timeout(Some(LOOK));
        }
        let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) else { continue };
        if let (Ok(near), Ok(far)) = (near.try_clone(), far.try_clone()) {
            let mut open = state.open.lock().unwrap();
            open.retain(|stream| stream.peer_addr().is_ok());
            open.extend([near, far]);
        }
        for (from, to, there) in [(near, far_too, true), (far, near_too, false)] {
            let state = Arc::clone(state);
            pumps.push(std::thread::spawn(move || pump(from, to, there, &state)));
        }
    }
    pumps.into_iter().for_each(|pump| {
        let _ = pump.join();
    });
}

fn pump(mut from: TcpStream, mut to: TcpStream, there: bool, state: &State) {
    let cut = if there { &state.cut_there } else { &state.cut_back };
    let over = || state.ended.load(SeqCst);
    let mut chunk = vec![0; CHUNK];
    'pump: while !over() {
        let len = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(_) => break,
        };
        sleep(Duration::from_millis(state.delay.load(SeqCst)));
        while cut.load(SeqCst) {
            if over() {
                break 'pump;
            }
            sleep(Duration::from_millis(1));
        }
        if to.write_all(&chunk[..len]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
