//! `tigerchat dev` from outside: it finds its data again, and bad guests harm nobody.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// Generous: a loaded machine is slow, not wrong.
const PATIENCE: Duration = Duration::from_secs(20);

struct Dev {
    process: Child,
    /// Kept open: it says something when it ends.
    _output: BufReader<ChildStdout>,
    web: String,
    lines: String,
}

impl Dev {
    fn start(folder: &Path) -> Self {
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

    fn line_client(&self) -> BufReader<TcpStream> {
        BufReader::new(connect(&self.lines))
    }

    /// As Ctrl-C would; it must end well.
    fn stop(&mut self) {
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

fn connect(to: &str) -> TcpStream {
    let stream = TcpStream::connect(to).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
    stream
}

fn say(client: &mut BufReader<TcpStream>, line: &str) {
    client.get_mut().write_all(line.as_bytes()).expect("it reads");
}

/// Reads lines until one holds `what`.
fn hear(client: &mut BufReader<TcpStream>, what: &str) {
    let mut line = String::new();
    while !line.contains(what) {
        line.clear();
        let count = client.read_line(&mut line).unwrap_or_else(|error| panic!("no {what:?}: {error}"));
        assert!(count > 0, "the connection ended before {what:?}");
    }
}

/// What a request of these bytes is answered, to the end of the connection.
fn ask(dev: &Dev, request: &[u8]) -> String {
    let mut stream = connect(&dev.web);
    stream.write_all(request).expect("it reads");
    let mut answer = Vec::new();
    // A refusal may reset what was not read; what was answered before counts.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("tigerchat-test-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

#[test]
fn what_was_said_is_there_after_a_restart() {
    let folder = folder("restart");
    let mut dev = Dev::start(&folder);
    let (mut ada, mut bob) = (dev.line_client(), dev.line_client());
    for client in [&mut ada, &mut bob] {
        say(client, "join general\n");
        hear(client, "joined general");
    }
    say(&mut ada, "send kept for ever\n");
    hear(&mut bob, "kept for ever");
    dev.stop();

    let mut dev = Dev::start(&folder);
    let mut carol = dev.line_client();
    say(&mut carol, "join general\n");
    hear(&mut carol, "joined general");
    say(&mut carol, "history\n");
    hear(&mut carol, "kept for ever");
    dev.stop();
    std::fs::remove_dir_all(folder).expect("ours");
}

#[test]
fn bad_guests_are_refused_and_harm_nobody() {
    let folder = folder("guests");
    let mut dev = Dev::start(&folder);
    let host = format!("Host: {}\r\n", dev.web);
    assert!(ask(&dev, b"\x16\x03\x01 nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));
    let large = format!("GET / HTTP/1.1\r\n{host}A: {}\r\n\r\n", "x".repeat(9 * 1024));
    assert!(ask(&dev, large.as_bytes()).starts_with("HTTP/1.1 400"), "a head of more than 8 KiB");
    let other = b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    assert!(ask(&dev, other).starts_with("HTTP/1.1 403"), "a name that is not ours");
    let large = format!("POST /v1/rpc HTTP/1.1\r\n{host}Content-Length: 99999999\r\n\r\n");
    assert!(ask(&dev, large.as_bytes()).starts_with("HTTP/1.1 413"));
    // Half a request and then silence: the server ends it, long before the test loses patience.
    assert_eq!(ask(&dev, b"GET / HTTP/1.1\r\nHo"), "");

    let mut ada = dev.line_client();
    say(&mut ada, "\x01\x02 nonsense\n");
    hear(&mut ada, "!");
    say(&mut ada, "join general\n");
    hear(&mut ada, "joined general");
    say(&mut ada, "send still here\n");
    hear(&mut ada, "still here");
    dev.stop();
    std::fs::remove_dir_all(folder).expect("ours");
}
