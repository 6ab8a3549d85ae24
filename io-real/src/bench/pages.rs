//! Pages of history, one after the other, each at a random place of a random room: what was said long ago lies in no
//! cache.

use std::net::SocketAddr;
use std::time::Instant;

use hdrhistogram::Histogram;
use serde_json::json;

use super::Spread;
use super::client::Client;
use crate::cli::Bench;
use crate::launch;

/// Messages of a page.
const LIMIT: u32 = 50;

pub fn run(args: &Bench, edge: SocketAddr, token: &str) -> Result<(), String> {
    let mut client = Client::connect(edge, token)?;
    let mut spread = Spread(u64::from_le_bytes(launch::entropy()));
    let mut latencies = Histogram::<u64>::new(3).expect("three digits");
    let mut messages = 0;
    for _ in 0..args.pages {
        let room = format!("bench-{}", spread.next(args.rooms as usize));
        let last = client.head(&room)?.saturating_sub(u64::from(LIMIT));
        let from = 1 + spread.next(usize::try_from(last).unwrap_or(usize::MAX).max(1)) as u64;
        let began = Instant::now();
        messages += client.page(&room, from, LIMIT)?;
        let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        latencies.record(nanos).map_err(|error| error.to_string())?;
    }
    let at = |quantile| latencies.value_at_quantile(quantile);
    if args.json {
        println!(
            "{}",
            json!({"pages": args.pages, "messages": messages, "p50_ns": at(0.5), "p99_ns": at(0.99),
                "max_ns": latencies.max()})
        );
    } else {
        println!(
            "{} pages, {messages} messages: p50 {} us, p99 {} us, at most {} us",
            args.pages,
            at(0.5) / 1000,
            at(0.99) / 1000,
            latencies.max() / 1000
        );
    }
    Ok(())
}
