//! A data file and the threads that work on it.
//!
//! The one law: **a durable write is reported after a flush that began after it was written**; all durable writes
//! that are waiting when a flush begins share it (group commit). Operations run off the loop: durable writes and
//! flushes on a thread of their own in order of arrival, reads and all other writes beside it
//! ([`crate::workers`]), so that a commit waits neither for a checkpoint's blocks nor for a reader's. A `Sync` covers
//! whatever was submitted before it. Completions come back together, with one wake-up for all that were not taken yet.
//!
//! The grid of a file grows by whole steps, before the write that needs them. They are allocated then, so that a disk
//! that is full refuses that write, and not one that comes later.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use mio::Waker;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::retry_on_intr;
use tigerchat_core::io::{DiskError, DiskOp, Token};
use tigerchat_core::pool::Message;
use tigerchat_core::store::grid::GridShape;

use crate::workers::{Done, Span, Workers};

/// Batches that wait for the thread.
const BATCHES_MAX: usize = 1024;

/// How a file is written and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Direct where the file system allows it, else buffered.
    Auto,
    /// Past the page cache; refused where the file system does not allow it.
    Direct,
    /// Through the page cache.
    Buffered,
}

/// What the thread reports.
pub type Completion = (Token, Result<Option<Message>, DiskError>);

/// A data file that this process holds.
#[derive(Debug)]
pub struct Disk {
    batch: Vec<DiskOp>,
    /// Batches that found the thread's queue full.
    waiting: Vec<Vec<DiskOp>>,
    to_thread: Option<SyncSender<Vec<DiskOp>>>,
    done: Done,
    thread: Option<JoinHandle<()>>,
}

/// Opens a data file and takes its lock. Says whether it is direct.
pub fn open(path: &Path, mode: Mode) -> Result<(File, bool), String> {
    let name = path.display();
    let options = |direct: bool| {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if direct {
            options.custom_flags(i32::try_from(rustix::fs::OFlags::DIRECT.bits()).expect("a flag of open"));
        }
        options
    };
    let direct = if mode == Mode::Buffered { None } else { options(true).open(path).ok() };
    let is_direct = direct.is_some();
    let file = match (direct, mode) {
        (Some(file), _) => file,
        (None, Mode::Direct) if path.exists() => {
            return Err(format!("{name}: its file system does not allow direct IO: use --io buffered or --io auto"));
        }
        (None, _) => options(false).open(path).map_err(|error| {
            format!("{name}: expected a data file, found none that can be opened ({error}): make one with `tigerchat format`")
        })?,
    };
    match file.try_lock() {
        Ok(()) => Ok((file, is_direct)),
        Err(TryLockError::WouldBlock) => {
            Err(format!("{name}: another process has this data file open: stop it first"))
        }
        Err(TryLockError::Error(error)) => Err(format!("{name}: can't be locked: {error}")),
    }
}

/// Makes a data file: the superblock zone, and zeroes where it is overwritten all the time. The grid grows later.
pub fn format(path: &Path, superblock_zone: &[u8], hot_size: u64) -> Result<(), String> {
    let fail = |what: &str, error: io::Error| format!("{}: {what}: {error}", path.display());
    let file =
        OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                format!(
                    "{}: exists already; format never overwrites: choose another name or remove it yourself",
                    path.display()
                )
            }
            _ => fail("can't be made", error),
        })?;
    allocate(&file, 0, hot_size)
        .map_err(|error| fail(&format!("no room for its {hot_size} bytes"), error))?;
    let zeroes = vec![0; 1 << 20];
    let mut at = superblock_zone.len() as u64;
    while at < hot_size {
        let len = usize::try_from(hot_size - at).unwrap_or(usize::MAX).min(zeroes.len());
        file.write_all_at(&zeroes[..len], at).map_err(|error| fail("can't be filled", error))?;
        at += len as u64;
    }
    file.write_all_at(superblock_zone, 0).map_err(|error| fail("can't be written", error))?;
    file.sync_all().map_err(|error| fail("can't be flushed", error))?;
    // The name must survive too.
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .map_or(PathBuf::from("."), PathBuf::from);
    File::open(&folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| fail("its folder can't be flushed", error))
}

/// Takes the room from one offset to another on the disk.
pub fn allocate(file: &File, from: u64, to: u64) -> io::Result<()> {
    retry_on_intr(|| fallocate(file, FallocateFlags::empty(), from, to - from)).map_err(io::Error::from)
}

/// A file and how far it reaches.
#[derive(Debug)]
struct Growing {
    file: File,
    grid: GridShape,
    /// Up to here it is allocated.
    len: u64,
}

impl Growing {
    /// Makes the file long enough for a write that ends at `end`.
    fn make_room(&mut self, end: u64) -> Result<(), DiskError> {
        if end <= self.len {
            return Ok(());
        }
        let blocks = end.saturating_sub(self.grid.offset).div_ceil(self.grid.block_bytes() as u64);
        // In front of the grid nothing grows, and behind it there is nothing.
        if !self.grid.holds(blocks) {
            return Err(DiskError::Write);
        }
        let len = self.grid.file_size(blocks);
        allocate(&self.file, self.len, len).map_err(|error| refusal(&error))?;
        self.len = len;
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.make_room(offset.saturating_add(data.len() as u64))?;
        self.file.write_all_at(data, offset).map_err(|error| refusal(&error))
    }
}

/// Why a write was refused: for want of room, or otherwise.
pub(crate) fn refusal(error: &io::Error) -> DiskError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            DiskError::Full
        }
        _ => DiskError::Write,
    }
}

impl Disk {
    /// Starts the thread. It wakes the loop by `waker`.
    pub fn start(file: File, grid: GridShape, waker: Arc<Waker>) -> Self {
        let (to_thread, from_loop) = sync_channel(BATCHES_MAX);
        let done = Done::new(waker);
        // Where the length is not told, all of it is allocated once more, which changes nothing.
        let len = file.metadata().map_or(0, |data| data.len());
        let beside = file.try_clone().expect("a file can be held twice");
        let mut file = Growing { file, grid, len };
        let thread = {
            let done = done.clone();
            std::thread::Builder::new().name("disk".into()).spawn(move || {
                let workers = Workers::start(beside, done.clone());
                work(&mut file, &from_loop, &done, &workers);
            })
        };
        let thread = Some(thread.expect("a thread can be started"));
        Self { batch: Vec::new(), waiting: Vec::new(), to_thread: Some(to_thread), done, thread }
    }

    pub fn submit(&mut self, op: DiskOp) {
        self.batch.push(op);
    }

    /// Hands everything of this turn over.
    pub fn turn_ended(&mut self) {
        if !self.batch.is_empty() {
            self.waiting.push(std::mem::take(&mut self.batch));
        }
        let Some(to_thread) = &self.to_thread else { return };
        while !self.waiting.is_empty() {
            match to_thread.try_send(self.waiting.remove(0)) {
                Ok(()) => {}
                Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) => {
                    self.waiting.insert(0, batch);
                    return;
                }
            }
        }
    }

    /// What has been done since the last look.
    pub fn completions(&self) -> Vec<Completion> {
        self.done.take()
    }

    /// Everything that was handed over is done before this returns.
    pub fn stop(&mut self) {
        self.turn_ended();
        drop(self.to_thread.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.stop();
    }
}

fn work(file: &mut Growing, from_loop: &Receiver<Vec<DiskOp>>, done: &Done, workers: &Workers) {
    while let Ok(batch) = from_loop.recv() {
        let mut completions = Vec::with_capacity(batch.len());
        let mut durable = Vec::new();
        // What came meanwhile shares the flush.
        for op in std::iter::once(batch).chain(from_loop.try_iter()).flatten() {
            carry_out(file, op, workers, &mut completions, &mut durable);
        }
        if !durable.is_empty() {
            let flushed = file.file.sync_data().map_err(|_| DiskError::Fsync);
            completions.extend(durable.into_iter().map(|token| (token, flushed.map(|()| None))));
        }
        if done.put(completions).is_err() {
            return;
        }
    }
}

fn carry_out(
    file: &mut Growing,
    op: DiskOp,
    workers: &Workers,
    completions: &mut Vec<Completion>,
    durable: &mut Vec<Token>,
) {
    let span = Span::of(&op);
    match op {
        DiskOp::Write { token, offset, data, durable: true } => {
            workers.wait_for(span);
            match file.write(offset, &data) {
                Ok(()) => durable.push(token),
                Err(why) => completions.push((token, Err(why))),
            }
        }
        // Room is made in order of arrival; a disk that is full refuses the write that needs it.
        DiskOp::Write { token, offset, ref data, .. } => {
            match file.make_room(offset.saturating_add(data.len() as u64)) {
                Ok(()) => workers.hand_over(op),
                Err(why) => completions.push((token, Err(why))),
            }
        }
        DiskOp::Read { .. } => workers.hand_over(op),
        DiskOp::Sync { token } => {
            workers.wait_for_all();
            durable.push(token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use rustix::process::{Resource, Rlimit, setrlimit};
    use tigerchat_core::pool::{Class, Pool};

    /// Bytes in front of the grid.
    const FIXED: u64 = 4 * 4096;
    const GRID: GridShape = GridShape { offset: FIXED, block_sectors: 2, blocks_max: 10, step: 4 };
    const BLOCK: usize = 2 * 4096;

    /// A file in a folder of its own, and what works on it.
    struct Bench {
        folder: PathBuf,
        path: PathBuf,
        disk: Option<Disk>,
        direct: bool,
        pool: Pool,
        _poll: mio::Poll,
    }

    impl Bench {
        fn new(name: &str, mode: Mode) -> Self {
            let folder = std::env::current_dir()
                .unwrap()
                .join(format!("disk-test-{name}-{mode:?}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            let path = folder.join("file");
            format(&path, &[7; 4096], FIXED).unwrap();
            let (file, direct) = open(&path, mode).unwrap();
            let poll = mio::Poll::new().unwrap();
            let waker = Arc::new(Waker::new(poll.registry(), mio::Token(0)).unwrap());
            let disk = Some(Disk::start(file, GRID, waker));
            let pool = Pool::new(&[Class { size: BLOCK, count: 8 }]);
            Self { folder, path, disk, direct, pool, _poll: poll }
        }

        fn len(&self) -> u64 {
            std::fs::metadata(&self.path).unwrap().len()
        }

        fn write_op(&self, token: u64, offset: u64, fill: u8, durable: bool) -> DiskOp {
            let mut data = self.pool.draft(BLOCK).unwrap();
            data.resize(BLOCK);
            data.bytes_mut().fill(fill);
            DiskOp::Write { token: Token(token), offset, data: data.seal(), durable }
        }

        /// Hands them over as one turn; what came of each, in their order.
        fn turn(&mut self, ops: Vec<DiskOp>) -> Vec<Completion> {
            let count = ops.len();
            let disk = self.disk.as_mut().unwrap();
            ops.into_iter().for_each(|op| disk.submit(op));
            disk.turn_ended();
            let mut done = Vec::new();
            while done.len() < count {
                done.extend(disk.completions());
                std::thread::sleep(Duration::from_millis(1));
            }
            done
        }

        fn write(&mut self, offset: u64, fill: u8, durable: bool) -> Result<(), DiskError> {
            let op = self.write_op(1, offset, fill, durable);
            self.turn(vec![op]).remove(0).1.map(|_| ())
        }

        fn read(&mut self, offset: u64) -> Result<Vec<u8>, DiskError> {
            let mut into = self.pool.draft(BLOCK).unwrap();
            into.resize(BLOCK);
            let read = self.turn(vec![DiskOp::Read { token: Token(2), offset, into }]).remove(0).1;
            read.map(|read| read.unwrap().to_vec())
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            drop(self.disk.take());
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }

    fn round_trip(mode: Mode) -> bool {
        let mut bench = Bench::new("round", mode);
        assert!(format(&bench.path, &[7; 4096], FIXED).unwrap_err().contains("never overwrites"));
        assert!(open(&bench.path, mode).unwrap_err().contains("another process"));
        assert_eq!(bench.write(4096, 9, true), Ok(()));
        assert_eq!(bench.read(4096), Ok(vec![9; BLOCK]));
        assert_eq!(bench.len(), FIXED, "in front of the grid nothing grows");
        bench.direct
    }

    #[test]
    fn a_file_is_written_flushed_and_read_in_every_mode_and_never_opened_twice() {
        assert!(!round_trip(Mode::Buffered));
        assert_eq!(
            round_trip(Mode::Auto),
            std::panic::catch_unwind(|| round_trip(Mode::Direct)).unwrap_or(false)
        );
    }

    #[test]
    fn a_file_grows_by_whole_steps_that_are_allocated_and_no_further_than_its_grid() {
        for mode in [Mode::Buffered, Mode::Auto] {
            let mut bench = Bench::new("growth", mode);
            assert_eq!(bench.len(), FIXED);
            assert_eq!(bench.read(GRID.offset_of(1)), Err(DiskError::Read), "behind the end");
            assert_eq!(bench.write(GRID.offset_of(1), 1, false), Ok(()));
            assert_eq!(bench.len(), GRID.file_size(1));
            assert_eq!(bench.read(GRID.offset_of(4)), Ok(vec![0; BLOCK]), "the step is there");
            let allocated = std::fs::metadata(&bench.path).unwrap().blocks() * 512;
            assert!(allocated >= bench.len(), "{allocated} bytes of {} are allocated", bench.len());
            assert_eq!(bench.write(GRID.offset_of(3), 3, true), Ok(()));
            assert_eq!(bench.len(), GRID.file_size(4), "it had that already");
            assert_eq!(bench.write(GRID.offset_of(9), 9, false), Ok(()));
            assert_eq!(bench.len(), GRID.file_size(10), "the last step is shorter");
            let behind = GRID.offset_of(10) + BLOCK as u64;
            assert_eq!(bench.write(behind, 1, false), Err(DiskError::Write));
            assert_eq!(bench.write(u64::MAX - 4095, 1, false), Err(DiskError::Write));
            assert_eq!(bench.len(), GRID.file_size(10));
            for (block, fill) in [(1, 1), (2, 0), (3, 3), (9, 9)] {
                assert_eq!(bench.read(GRID.offset_of(block)), Ok(vec![fill; BLOCK]), "block {block}");
            }
        }
    }

    #[test]
    fn a_flush_comes_after_every_write_that_was_submitted_before_it() {
        let mut bench = Bench::new("sync", Mode::Auto);
        let mut ops: Vec<DiskOp> = (1..=6)
            .map(|block| bench.write_op(block, GRID.offset_of(block), u8::try_from(block).unwrap(), false))
            .collect();
        ops.push(DiskOp::Sync { token: Token(7) });
        let done = bench.turn(ops);
        let mut order: Vec<u64> = done.iter().map(|(token, _)| token.0).collect();
        assert_eq!(order.last(), Some(&7), "the flush is told last");
        order.sort_unstable();
        assert_eq!(order, [1, 2, 3, 4, 5, 6, 7]);
        assert!(done.iter().all(|(_, result)| matches!(result, Ok(None))));
    }

    /// Writes and reads of the same bytes, durable ones among them, all at once and again and again.
    #[test]
    fn what_touches_the_same_bytes_is_done_in_order_whoever_does_it() {
        let mut bench = Bench::new("order", Mode::Auto);
        for round in 1..=60_u8 {
            let mut ops = Vec::new();
            for (number, durable) in [(1, false), (2, round % 3 == 0), (3, false)] {
                let fill = round.wrapping_mul(4) + number;
                ops.push(bench.write_op(100 + u64::from(number), GRID.offset_of(1), fill, durable));
                let mut into = bench.pool.draft(BLOCK).unwrap();
                into.resize(BLOCK);
                ops.push(DiskOp::Read {
                    token: Token(1000 + u64::from(fill)),
                    offset: GRID.offset_of(1),
                    into,
                });
            }
            let done = bench.turn(ops);
            assert_eq!(done.len(), 6);
            for (token, result) in done.into_iter().filter(|(token, _)| token.0 >= 1000) {
                let read = result.unwrap().unwrap();
                assert!(
                    read.iter().all(|byte| u64::from(*byte) + 1000 == token.0),
                    "round {round}: {}",
                    read[0]
                );
            }
        }
    }

    /// Set for a process that may be given a limit.
    const LIMITED: &str = "TIGERCHAT_TEST_LIMITED";

    /// The limit of a file's size stands in for the disk's. It is the whole process's, so the test runs itself once more.
    #[test]
    fn a_full_disk_refuses_what_needs_more_of_it_and_nothing_else() {
        if std::env::var_os(LIMITED).is_none() {
            let name = "disk::tests::a_full_disk_refuses_what_needs_more_of_it_and_nothing_else";
            let again = Command::new("sh")
                .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
                .arg(std::env::current_exe().unwrap())
                .args(["--exact", name])
                .env(LIMITED, "1")
                .stdout(Stdio::null())
                .status();
            assert!(again.unwrap().success(), "see above");
            return;
        }
        let mut bench = Bench::new("full", Mode::Auto);
        let limit = |current| setrlimit(Resource::Fsize, Rlimit { current, maximum: None }).unwrap();
        assert_eq!(bench.write(GRID.offset_of(1), 1, true), Ok(()));
        limit(Some(GRID.file_size(4)));
        assert_eq!(bench.write(GRID.offset_of(5), 5, false), Err(DiskError::Full));
        assert_eq!(bench.len(), GRID.file_size(4), "nothing was begun");
        assert_eq!(bench.write(GRID.offset_of(2), 2, true), Ok(()), "that is there already");
        assert_eq!(bench.write(4096, 3, true), Ok(()));
        limit(None);
        assert_eq!(bench.write(GRID.offset_of(5), 5, true), Ok(()), "there is room again");
        assert_eq!(bench.read(GRID.offset_of(5)), Ok(vec![5; BLOCK]));
    }
}
