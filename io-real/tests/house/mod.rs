//! A development cluster as a process, for tests that look at it from outside.

#![allow(unreachable_pub, dead_code, reason = "each test uses what it needs of it")]

pub mod port;
pub mod process;
pub mod shard;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// Generous: a loaded machine is slow, not wrong.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Dev {
    process: Child,
    /// Kept open: it says something when it ends.
    _output: BufReader<ChildStdout>,
    pub web: String,
    pub lines: String,
}

impl Dev {
    pub fn start(folder: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_tigerchat"))
            .args(["dev", "--port", "0", "--line-port", "0", "--dir"])
            .arg(folder)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut output = BufReader::new(process.stdout.take().expect("piped"));
        let (mut web, mut talk) = (None, None);
        for line in output.by_ref().lines().map_while(Result::ok) {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["open", url] => {
                    web = url.strip_prefix("http://").map(|url| url.trim_end_matches('/').to_string());
                }
                ["talk", "nc", host, port, ..] => talk = Some(format!("{host}:{port}")),
                _ => {}
            }
            if talk.is_some() {
                break;
            }
        }
        let (web, lines) = (web.expect("a URL"), talk.expect("a port for lines"));
        Self { process, _output: output, web, lines }
    }

    pub fn line_client(&self) -> BufReader<TcpStream> {
        BufReader::new(connect(&self.lines))
    }

    /// As Ctrl-C would; it must end well.
    pub fn stop(&mut self) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().expect("kill runs").success());
        assert!(self.process.wait().expect("it ends").success());
    }
}

impl Drop for Dev {
    /// A test that failed leaves nobody behind.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn connect(to: &str) -> TcpStream {
    let stream = TcpStream::connect(to).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
    stream
}

pub fn say(client: &mut BufReader<TcpStream>, line: &str) {
    client.get_mut().write_all(line.as_bytes()).expect("it reads");
}

/// Reads lines until one holds `what`.
pub fn hear(client: &mut BufReader<TcpStream>, what: &str) {
    let mut line = String::new();
    while !line.contains(what) {
        line.clear();
        let count = client.read_line(&mut line).unwrap_or_else(|error| panic!("no {what:?}: {error}"));
        assert!(count > 0, "the connection ended before {what:?}");
    }
}

pub fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("tigerchat-test-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    folder
}
