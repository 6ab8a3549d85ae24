//! Processes of `tigerchat`, and what a client says to their edge over HTTP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// Generous: a loaded machine is slow, not wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// The binary, without the keys of whoever runs the tests.
pub fn tigerchat() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tigerchat"));
    command.env_remove("TIGERCHAT_MASTER_KEY_FILE").env_remove("TIGERCHAT_MASTER_KEY");
    command
}

/// A process that does not outlive the test.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One command, and its reply if there is one.
pub fn rpc(at: SocketAddr, token: &str, command: &Value) -> Option<Value> {
    ask(at, token, "POST /v1/rpc", &command.to_string())
}

/// What the edge answers to a request, if it is JSON.
pub fn ask(at: SocketAddr, token: &str, what: &str, body: &str) -> Option<Value> {
    let mut stream = TcpStream::connect(at).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let request = format!(
        "{what} HTTP/1.1\r\nHost: {at}\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
}

/// A client's key. It is of its time: old ones are refused.
pub fn key(number: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    format!("{now:012x}{number:020x}")
}

pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(20));
    }
}
