//! Ports for processes that are told beforehand where to listen.
//!
//! The one law: **a port that was given is nobody else's until this process ends**. A port that the system chose for a
//! listener which is closed again is not that: the next listener or outgoing connection may get it.

use std::collections::BTreeMap;
use std::fs::{File, read_to_string};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Mutex;

/// Below the range from which the system takes ports for outgoing connections and for listeners at port 0.
const FIRST: u16 = 10_000;
/// Where that range begins on Linux, unless it says otherwise; on others it begins higher.
const USUAL_END: u16 = 32_768;

/// The ports of this process, each with the lock that keeps other tests from it.
static TAKEN: Mutex<BTreeMap<u16, File>> = Mutex::new(BTreeMap::new());

pub fn free_port() -> SocketAddr {
    let mut taken = TAKEN.lock().unwrap();
    let range = read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let end = range.split_whitespace().next().map_or(USUAL_END, |end| end.parse().unwrap());
    assert!(end > FIRST, "the system's own ports begin at {end}: none are left below for tests");
    for port in FIRST..end {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if taken.contains_key(&port) {
            continue;
        }
        let lock = File::create(std::env::temp_dir().join(format!("tigerchat-port-{port}"))).unwrap();
        if lock.try_lock().is_ok() && TcpListener::bind(at).is_ok() {
            taken.insert(port, lock);
            return at;
        }
    }
    panic!("no port from {FIRST} to {end} is free");
}
