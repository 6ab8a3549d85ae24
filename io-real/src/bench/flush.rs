//! How long the machine's disk takes: what the figures of a benchmark are to be seen beside.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

const FLUSHES: usize = 200;

/// Median and 99th percentile of the second of three flushes that start together, nanoseconds.
pub fn measure(folder: &Path) -> Result<(u64, u64), String> {
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
