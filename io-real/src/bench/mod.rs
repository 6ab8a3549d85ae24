//! `tigerchat bench`: a closed loop of publishes over one WebSocket, each window in turn; or of pages of history.
//!
//! The client is as lean as can be, so that what is measured is the server. Latency is from the write of a publish to the
//! read of its acknowledgement. The machine's flush time is measured in the same run: the second of three flushes
//! of 4 KiB started together, which is what a quorum of three waits for.

mod client;
mod flush;
mod pages;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tigerchat_core::vsr::replica::Stages;

use crate::cli::Bench;
use crate::dev::Dev;
use crate::disk::Mode;
use crate::working::Listener;
use crate::{PAGE, TemporaryFolder, launch};

use client::Client;

/// A run that is as long as its time ends after so many messages, however fast it is.
const MESSAGES_MAX: u64 = 5_000_000;
/// So many may be asked for.
const ASKED_MAX: u64 = 100_000_000;
const ROOMS_MAX: u32 = 1_000_000;
/// Not counted at the beginning of a run.
const WARM_UP: Duration = Duration::from_millis(300);

/// What one run showed.
#[derive(Debug)]
struct Run {
    window: u32,
    acknowledged: u64,
    seconds: f64,
    latencies: Histogram<u64>,
    /// Of these, those that ended while a replica made a checkpoint.
    beside: Histogram<u64>,
}

pub fn run(args: &Bench) -> Result<(), String> {
    if args.windows.iter().any(|window| !(1..=1024).contains(window)) || !(1..=60).contains(&args.seconds) {
        return Err("expected windows of 1 to 1024 and 1 to 60 seconds".into());
    }
    if !(1..=ROOMS_MAX).contains(&args.rooms) || args.messages.is_some_and(|many| many > ASKED_MAX) {
        return Err(format!("expected 1 to {ROOMS_MAX} rooms and at most {ASKED_MAX} messages"));
    }
    if args.pages > 0 {
        let (edge, token, _) = target(args, Path::new(""))?;
        return pages::run(args, edge, &token);
    }
    let folder = TemporaryFolder::new()?;
    let flush = flush::measure(&folder.path)?;
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
            .map(|_| one_run(args, edge, &token, *window))
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
        let mut between = median.latencies.clone();
        between.subtract(&median.beside).expect("they are part of all");
        println!(
            "{}",
            json!({"window": median.window, "acks_per_second": median.rate(), "runs": rates, "p50_ns": at(0.5),
                "p99_ns": at(0.99), "p999_ns": at(0.999), "max_ns": median.latencies.max(),
                "flush_p50_ns": flush.0, "flush_p99_ns": flush.1,
                "beside_checkpoints": distribution(&median.beside), "between_checkpoints": distribution(&between)})
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

fn distribution(latencies: &Histogram<u64>) -> Value {
    let at = |quantile| latencies.value_at_quantile(quantile);
    json!({"count": latencies.len(), "p50_ns": at(0.5), "p99_ns": at(0.99), "p999_ns": at(0.999),
        "max_ns": latencies.max()})
}

/// The rooms that are published in: one of its own for each run, or those of a long one, which are the same each time.
fn rooms_of(args: &Bench, client: &mut Client) -> Result<Vec<String>, String> {
    let rooms: Vec<String> = match args.rooms {
        1 => vec![format!("bench-{:08x}", u32::from_le_bytes(launch::entropy()))],
        many => (0..many).map(|number| format!("bench-{number}")).collect(),
    };
    // They may be there already; that is asked as well.
    for some in rooms.chunks(256) {
        client.open(some)?;
    }
    Ok(rooms)
}

/// Which room is next: spread evenly, in an order without a pattern that a cache could learn.
struct Spread(u64);

impl Spread {
    fn next(&mut self, below: usize) -> usize {
        // The step of SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let wide = u128::from(mixed) * below as u128;
        usize::try_from(wide >> 64).expect("below a usize")
    }
}

fn one_run(args: &Bench, edge: SocketAddr, token: &str, window: u32) -> Result<Run, String> {
    let mut client = Client::connect(edge, token)?;
    let rooms = rooms_of(args, &mut client)?;
    let mut spread = Spread(u64::from_le_bytes(launch::entropy()));
    let body = "x".repeat(args.size.saturating_sub(2).max(1));
    let mut latencies = Histogram::new(3).expect("three digits");
    let (listener, mut beside) = (Listener::new(&args.checkpoints)?, latencies.clone());
    let run_key: [u8; 4] = launch::entropy();
    let mut number = 0_u64;
    let most = args.messages.unwrap_or(MESSAGES_MAX);
    // A run of so many messages counts each of them.
    let warm = Instant::now() + if args.messages.is_some() { Duration::ZERO } else { WARM_UP };
    let time = if args.messages.is_some() { Duration::MAX } else { Duration::from_secs(args.seconds) };
    let (mut started, mut acknowledged) = (Instant::now(), 0);
    for slot in (0..window).take_while(|slot| u64::from(*slot) < most) {
        client.publish(&rooms[spread.next(rooms.len())], slot, number, run_key, &body);
        number += 1;
    }
    client.flush()?;
    let mut sent_at = vec![Instant::now(); window as usize];
    loop {
        let slots = client.acknowledgements()?;
        let now = Instant::now();
        let counts = now >= warm;
        if counts && acknowledged == 0 && args.messages.is_none() {
            started = now;
        }
        let done = counts && now.duration_since(started) >= time;
        let is_beside = listener.is_any_working();
        for slot in slots {
            if counts {
                let waited = now.duration_since(sent_at[slot as usize]);
                let nanos = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
                latencies.record(nanos).map_err(|error| error.to_string())?;
                if is_beside {
                    beside.record(nanos).map_err(|error| error.to_string())?;
                }
                acknowledged += 1;
            }
            if args.messages.is_none_or(|most| number < most) {
                client.publish(&rooms[spread.next(rooms.len())], slot, number, run_key, &body);
                sent_at[slot as usize] = now;
                number += 1;
            }
        }
        if done || acknowledged >= most {
            let seconds = now.duration_since(started).as_secs_f64();
            return Ok(Run { window, acknowledged, seconds, latencies, beside });
        }
        client.flush()?;
    }
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
