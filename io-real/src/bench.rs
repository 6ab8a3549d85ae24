//! `tigerchat bench`: a closed loop of publishes over one WebSocket, each window in turn.
//!
//! The client is as lean as can be, so that what is measured is the server: frames are written by hand, many in one
//! system call, and acknowledgements are found by their first bytes. Latency is from the write of a publish to the
//! read of its acknowledgement. The machine's flush time is measured in the same run: the second of three flushes
//! of 4 KiB started together, which is what a quorum of three waits for.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use serde_json::json;
use tigerchat_core::vsr::replica::Stages;

use crate::cli::Bench;
use crate::dev::Dev;
use crate::disk::Mode;
use crate::{PAGE, TemporaryFolder, launch};

/// A run ends after so many messages, however fast it is.
const MESSAGES_MAX: u64 = 5_000_000;
const FLUSHES: usize = 200;

/// What one run showed.
#[derive(Debug)]
struct Run {
    window: u32,
    acknowledged: u64,
    seconds: f64,
    latencies: Histogram<u64>,
}

pub fn run(args: &Bench) -> Result<(), String> {
    if args.windows.iter().any(|window| !(1..=1024).contains(window)) || !(1..=60).contains(&args.seconds) {
        return Err("expected windows of 1 to 1024 and 1 to 60 seconds".into());
    }
    let folder = TemporaryFolder::new()?;
    let flush = measure_flush(&folder.path)?;
    let (edge, token, dev) = target(args, &folder.path)?;
    if !args.json {
        println!(
            "flush: the second of three 4 KiB flushes at once: p50 {} us, p99 {} us",
            flush.0 / 1000,
            flush.1 / 1000
        );
        println!(
            "window   acks/s      p50 us     p99 us   p99.9 us     max us   (median of {} runs)",
            args.runs.max(1)
        );
    }
    for window in &args.windows {
        let before = Counted::now(edge, dev.as_ref());
        let mut runs = (0..args.runs.max(1))
            .map(|_| one_run(edge, &token, *window, args.size, Duration::from_secs(args.seconds)))
            .collect::<Result<Vec<_>, _>>()?;
        runs.sort_by(|a, b| a.rate().total_cmp(&b.rate()));
        show(&runs, flush, args.json);
        show_stages(&before, &Counted::now(edge, dev.as_ref()), args.json);
    }
    if let Some(dev) = dev {
        dev.stop();
    }
    Ok(())
}

impl Run {
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    fn rate(&self) -> f64 {
        self.acknowledged as f64 / self.seconds
    }
}

/// The edge to measure: the one named, or one of our own.
fn target(args: &Bench, folder: &Path) -> Result<(SocketAddr, String, Option<Dev>), String> {
    if let Some(edge) = args.edge {
        let path = args.token_file.as_ref().ok_or("expected --token-file with the token to use")?;
        let token = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        return Ok((edge, token.trim().into(), None));
    }
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let dev = Dev::start(&folder.join("cluster"), any, any, Mode::Auto, PAGE)?;
    Ok((dev.ws, "demo:bench".into(), Some(dev)))
}

fn show(runs: &[Run], flush: (u64, u64), json: bool) {
    let median = &runs[runs.len() / 2];
    let at = |quantile| median.latencies.value_at_quantile(quantile);
    if json {
        let rates: Vec<f64> = runs.iter().map(Run::rate).collect();
        println!(
            "{}",
            json!({"window": median.window, "acks_per_second": median.rate(), "runs": rates, "p50_ns": at(0.5),
                "p99_ns": at(0.99), "p999_ns": at(0.999), "max_ns": median.latencies.max(),
                "flush_p50_ns": flush.0, "flush_p99_ns": flush.1})
        );
    } else {
        println!(
            "{:>6} {:>8.0} {:>11} {:>10} {:>10} {:>10}",
            median.window,
            median.rate(),
            at(0.5) / 1000,
            at(0.99) / 1000,
            at(0.999) / 1000,
            median.latencies.max() / 1000
        );
    }
}

/// The lean client of one connection.
struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    filled: usize,
    output: Vec<u8>,
}

fn one_run(edge: SocketAddr, token: &str, window: u32, size: usize, time: Duration) -> Result<Run, String> {
    let mut client = Client::connect(edge, token)?;
    let room = format!("bench-{:08x}", u32::from_le_bytes(launch::entropy()));
    client.ask(&format!(r#"{{"id":2,"room_open":{{"room":"{room}"}}}}"#), r#"{"id":2,"room_open""#)?;
    let body = "x".repeat(size.max(1));
    let mut latencies = Histogram::new(3).expect("three digits");
    let mut sent_at = vec![Instant::now(); window as usize];
    let run_key: [u8; 4] = launch::entropy();
    let mut number = 0_u64;
    // A short warm-up is not counted.
    let warm = Instant::now() + Duration::from_millis(300);
    let mut started = warm;
    let mut end = warm + time;
    let mut acknowledged = 0;
    for slot in 0..window {
        client.publish(&room, slot, number, run_key, &body);
        number += 1;
    }
    client.flush()?;
    sent_at.fill(Instant::now());
    loop {
        let slots = client.acknowledgements()?;
        let now = Instant::now();
        let counts = now >= warm;
        if counts && acknowledged == 0 {
            (started, end) = (now, now + time);
        }
        let done = now >= end || acknowledged >= MESSAGES_MAX;
        for slot in slots {
            if counts {
                let nanos =
                    u64::try_from(now.duration_since(sent_at[slot as usize]).as_nanos()).unwrap_or(u64::MAX);
                latencies.record(nanos).map_err(|error| error.to_string())?;
                acknowledged += 1;
            }
            client.publish(&room, slot, number, run_key, &body);
            sent_at[slot as usize] = now;
            number += 1;
        }
        if done {
            let seconds = now.duration_since(started).as_secs_f64();
            return Ok(Run { window, acknowledged, seconds, latencies });
        }
        client.flush()?;
    }
}

impl Client {
    fn connect(edge: SocketAddr, token: &str) -> Result<Self, String> {
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
    fn ask(&mut self, command: &str, expected: &str) -> Result<(), String> {
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

    fn publish(&mut self, room: &str, slot: u32, number: u64, run: [u8; 4], body: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let run = u32::from_le_bytes(run);
        let text = format!(
            r#"{{"id":{},"publish":{{"room":"{room}","key":"{now:012x}{run:08x}{number:012x}","body":"{body}"}}}}"#,
            slot + 10
        );
        self.frame(text.as_bytes());
    }

    /// A masked frame; the mask of zeroes leaves the payload as it is.
    fn frame(&mut self, payload: &[u8]) {
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

    fn flush(&mut self) -> Result<(), String> {
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

    /// Reads once and takes whole frames.
    fn frames(&mut self, mut take: impl FnMut(&[u8])) -> Result<(), String> {
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
    fn acknowledgements(&mut self) -> Result<Vec<u32>, String> {
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

/// Median and 99th percentile of the second of three flushes that start together, nanoseconds.
fn measure_flush(folder: &Path) -> Result<(u64, u64), String> {
    let fail = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut files = Vec::new();
    for number in 0..3 {
        let path = folder.join(format!("flush-{number}"));
        crate::disk::format(&path, &[0; 4096], 1 << 20)?;
        files.push(std::fs::OpenOptions::new().write(true).open(path).map_err(fail)?);
    }
    let barrier = std::sync::Barrier::new(3);
    let times: Vec<Vec<u64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = files
            .iter()
            .map(|file| {
                let barrier = &barrier;
                scope.spawn(move || {
                    (0..FLUSHES)
                        .map(|round| {
                            barrier.wait();
                            let start = Instant::now();
                            let written = file.write_all_at(&[7; 4096], (round % 256 * 4096) as u64);
                            let flushed = written.and_then(|()| file.sync_data());
                            flushed.map_or(u64::MAX, |()| {
                                u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
                            })
                        })
                        .collect()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_default()).collect()
    });
    let mut seconds: Vec<u64> = (0..FLUSHES)
        .map(|round| {
            let mut three: Vec<u64> =
                times.iter().map(|one| one.get(round).copied().unwrap_or(u64::MAX)).collect();
            three.sort_unstable();
            three[1]
        })
        .collect();
    seconds.sort_unstable();
    Ok((seconds[FLUSHES / 2], seconds[FLUSHES * 99 / 100]))
}

/// The edge's counters, as `/metrics` shows them.
fn metrics(edge: SocketAddr) -> Vec<(String, u64)> {
    // They are renewed twice a second.
    std::thread::sleep(Duration::from_millis(600));
    let Ok(mut stream) = TcpStream::connect(edge) else { return Vec::new() };
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {edge}\r\n\r\n");
    let mut answer = String::new();
    if stream.write_all(request.as_bytes()).is_err() || stream.read_to_string(&mut answer).is_err() {
        return Vec::new();
    }
    let rows = answer.lines().filter_map(|line| line.split_once(' '));
    rows.filter_map(|(name, value)| Some((name.to_string(), value.parse().ok()?))).collect()
}

/// What edge and replicas had counted at a moment.
struct Counted {
    edge: Vec<(String, u64)>,
    replicas: Option<Stages>,
}

impl Counted {
    fn now(edge: SocketAddr, dev: Option<&Dev>) -> Self {
        Self { edge: metrics(edge), replicas: dev.map(Dev::stages) }
    }

    fn edge(&self, name: &str) -> u64 {
        self.edge.iter().find(|(of, _)| of == name).map_or(0, |(_, value)| *value)
    }
}

/// Where the time of a request went, on average, in microseconds. `edge in to edge out` is what the edge sees of a
/// request, from its first command to its reply; what batch wait, quorum and commit do not explain of it are the
/// edge itself, the sockets between edge and primary, and waiting for a core.
fn show_stages(before: &Counted, after: &Counted, json: bool) {
    let grown = |name: &str| after.edge(name).saturating_sub(before.edge(name));
    let requests = grown("tigerchat_edge_requests_total").max(1);
    let commands = grown("tigerchat_edge_commands_total");
    let whole = grown("tigerchat_edge_request_nanoseconds_total") / requests / 1000;
    let stages = before.replicas.zip(after.replicas).map(|(before, after)| {
        let entries = (after.entries - before.entries).max(1);
        let wait = (after.batch_wait - before.batch_wait) / (after.requests - before.requests).max(1) / 1000;
        let quorum = (after.quorum - before.quorum) / entries / 1000;
        (entries, wait, quorum, (after.commit - before.commit) / entries / 1000)
    });
    if json {
        let stages = stages.map(|(entries, wait, quorum, commit)| {
            json!({"entries": entries, "batch_wait_us": wait, "quorum_us": quorum, "commit_us": commit})
        });
        println!(
            "{}",
            json!({"commands": commands, "requests": requests, "edge_us": whole, "stages": stages})
        );
        return;
    }
    print!("       {commands} commands in {requests} requests; us: edge in to edge out {whole}");
    if let Some((entries, wait, quorum, commit)) = stages {
        let rest = whole.saturating_sub(wait + quorum + commit);
        print!(
            " = batch wait {wait} + primary to quorum {quorum} + commit {commit} + edge and sockets {rest}; {entries} entries"
        );
    }
    println!();
}
