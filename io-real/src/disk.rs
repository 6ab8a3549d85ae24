//! A data file and the thread that works on it.
//!
//! The one law: **a durable write is reported after a flush that began after it was written**; all durable writes
//! that are waiting when a flush begins share it (group commit). Operations run off the loop, in order of arrival;
//! completions come back in batches, with one wake-up each.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use mio::Waker;
use tigerchat_core::io::{DiskError, DiskOp, Token};
use tigerchat_core::pool::Message;

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
    done: Arc<Mutex<Vec<Completion>>>,
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

/// Makes a data file: the superblock zone, zeroes where it is overwritten all the time, and room for the rest.
pub fn format(path: &Path, superblock_zone: &[u8], hot_size: u64, size: u64) -> Result<(), String> {
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
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size)
        .map_err(|error| fail("no room for its full size", error.into()))?;
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

impl Disk {
    /// Starts the thread. It wakes the loop by `waker`.
    pub fn start(file: File, waker: Arc<Waker>) -> Self {
        let (to_thread, from_loop) = sync_channel(BATCHES_MAX);
        let done = Arc::new(Mutex::new(Vec::new()));
        let thread = {
            let done = Arc::clone(&done);
            std::thread::Builder::new()
                .name("disk".into())
                .spawn(move || work(&file, &from_loop, &done, &waker))
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
        std::mem::take(&mut *self.done.lock().expect("the disk thread does not panic"))
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

fn work(file: &File, from_loop: &Receiver<Vec<DiskOp>>, done: &Mutex<Vec<Completion>>, waker: &Waker) {
    while let Ok(batch) = from_loop.recv() {
        let mut completions = Vec::with_capacity(batch.len());
        let mut durable = Vec::new();
        // What came meanwhile shares the flush.
        for op in std::iter::once(batch).chain(from_loop.try_iter()).flatten() {
            carry_out(file, op, &mut completions, &mut durable);
        }
        if !durable.is_empty() {
            let flushed = file.sync_data().map_err(|_| DiskError::Fsync);
            completions.extend(durable.into_iter().map(|token| (token, flushed.map(|()| None))));
        }
        done.lock().expect("the loop does not panic").extend(completions);
        if waker.wake().is_err() {
            return;
        }
    }
}

fn carry_out(file: &File, op: DiskOp, completions: &mut Vec<Completion>, durable: &mut Vec<Token>) {
    match op {
        DiskOp::Read { token, offset, mut into } => {
            let read = file.read_exact_at(into.bytes_mut(), offset);
            completions.push((token, read.map(|()| Some(into.seal())).map_err(|_| DiskError::Read)));
        }
        DiskOp::Write { token, offset, data, durable: must } => match file.write_all_at(&data, offset) {
            Ok(()) if must => durable.push(token),
            Ok(()) => completions.push((token, Ok(None))),
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                completions.push((token, Err(DiskError::Full)));
            }
            Err(_) => completions.push((token, Err(DiskError::Write))),
        },
        DiskOp::Sync { token } => durable.push(token),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tigerchat_core::pool::{Class, Pool};

    fn round_trip(mode: Mode) -> bool {
        let folder =
            std::env::current_dir().unwrap().join(format!("disk-test-{mode:?}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("file");
        format(&path, &[7; 4096], 8192, 65536).unwrap();
        assert!(format(&path, &[7; 4096], 8192, 65536).unwrap_err().contains("never overwrites"));
        let (file, direct) = open(&path, mode).unwrap();
        assert!(open(&path, mode).unwrap_err().contains("another process"));
        let poll = mio::Poll::new().unwrap();
        let mut disk = Disk::start(file, Arc::new(Waker::new(poll.registry(), mio::Token(0)).unwrap()));
        let pool = Pool::new(&[Class { size: 8192, count: 4 }]);
        let mut data = pool.draft(8192).unwrap();
        data.resize(8192);
        data.bytes_mut().fill(9);
        disk.submit(DiskOp::Write { token: Token(1), offset: 4096, data: data.seal(), durable: true });
        disk.turn_ended();
        let mut into = pool.draft(8192).unwrap();
        into.resize(8192);
        disk.submit(DiskOp::Read { token: Token(2), offset: 4096, into });
        disk.turn_ended();
        let mut done = Vec::new();
        while done.len() < 2 {
            done.extend(disk.completions());
            std::thread::sleep(Duration::from_millis(1));
        }
        let read =
            done.iter().find(|(token, _)| *token == Token(2)).unwrap().1.as_ref().unwrap().as_ref().unwrap();
        assert!(read.iter().all(|byte| *byte == 9));
        drop(done);
        drop(disk);
        std::fs::remove_dir_all(&folder).unwrap();
        direct
    }

    #[test]
    fn a_file_is_written_flushed_and_read_in_every_mode_and_never_opened_twice() {
        assert!(!round_trip(Mode::Buffered));
        assert_eq!(
            round_trip(Mode::Auto),
            std::panic::catch_unwind(|| round_trip(Mode::Direct)).unwrap_or(false)
        );
    }
}
