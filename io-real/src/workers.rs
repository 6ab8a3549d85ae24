//! Threads that read and write one file side by side: whatever is read, and writes that need not be durable by themselves.
//!
//! The one law: **operations on the same bytes are carried out in the order in which they were submitted**: one that
//! touches bytes on which another is under way waits for that, unless both only read.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use mio::Waker;
use tigerchat_core::io::{DiskError, DiskOp, Token};
use tigerchat_core::pool::Message;

use crate::disk::{Completion, refusal};

/// Enough that a page's blocks come together, and that what a disk does at a time is not all in one thread's hands.
const THREADS: usize = 3;

/// Where completions go: the loop is woken once for all that it has not taken yet.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    list: Arc<Mutex<Vec<Completion>>>,
    waker: Arc<Waker>,
}

impl Done {
    pub(crate) fn new(waker: Arc<Waker>) -> Self {
        Self { list: Arc::default(), waker }
    }

    pub(crate) fn take(&self) -> Vec<Completion> {
        std::mem::take(&mut *self.list.lock().expect("the disk's threads do not panic"))
    }

    /// An error: there is nobody left to wake.
    pub(crate) fn put(&self, completions: impl IntoIterator<Item = Completion>) -> io::Result<()> {
        let is_first = {
            let mut list = self.list.lock().expect("the loop does not panic");
            let was_empty = list.is_empty();
            list.extend(completions);
            was_empty && !list.is_empty()
        };
        if is_first { self.waker.wake() } else { Ok(()) }
    }
}

/// Bytes of the file that an operation touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    from: u64,
    to: u64,
    writes: bool,
}

impl Span {
    pub(crate) fn of(op: &DiskOp) -> Self {
        let (from, len, writes) = match op {
            DiskOp::Read { offset, into, .. } => (*offset, into.len(), false),
            DiskOp::Write { offset, data, .. } => (*offset, data.len(), true),
            DiskOp::Sync { .. } => (0, 0, false),
        };
        Self { from, to: from.saturating_add(len as u64), writes }
    }

    fn conflicts(&self, other: &Self) -> bool {
        (self.writes || other.writes) && self.from < other.to && other.from < self.to
    }
}

#[derive(Debug)]
struct Shared {
    file: File,
    done: Done,
    state: Mutex<State>,
    /// There is something to do, or all is over.
    todo: Condvar,
    /// Something ended.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<DiskOp>,
    /// Of all that is queued or being carried out.
    busy: Vec<Span>,
    stopping: bool,
}

/// See the module. One thread hands operations over.
#[derive(Debug)]
pub(crate) struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    pub(crate) fn start(file: File, done: Done) -> Self {
        let (todo, ended) = (Condvar::new(), Condvar::new());
        let shared = Arc::new(Shared { file, done, state: Mutex::default(), todo, ended });
        let thread = |number| {
            let shared = Arc::clone(&shared);
            let named = std::thread::Builder::new().name(format!("disk-{number}"));
            named.spawn(move || shared.work()).expect("a thread can be started")
        };
        let threads = (0..THREADS).map(thread).collect();
        Self { shared, threads }
    }

    /// Carries it out, after everything on the same bytes that was handed over before.
    pub(crate) fn hand_over(&self, op: DiskOp) {
        let span = Span::of(&op);
        let mut state = self.shared.wait_until(|state| !state.busy.iter().any(|busy| busy.conflicts(&span)));
        state.busy.push(span);
        state.queue.push_back(op);
        drop(state);
        self.shared.todo.notify_one();
    }

    /// Returns once nothing is under way on these bytes.
    pub(crate) fn wait_for(&self, span: Span) {
        drop(self.shared.wait_until(|state| !state.busy.iter().any(|busy| busy.conflicts(&span))));
    }

    /// Returns once nothing is under way.
    pub(crate) fn wait_for_all(&self) {
        drop(self.shared.wait_until(|state| state.busy.is_empty()));
    }
}

impl Drop for Workers {
    /// Everything that was handed over is done before.
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.todo.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the disk's threads do not panic")
    }

    fn wait_until(&self, is_so: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let waits = self.ended.wait_while(self.lock(), |state| !is_so(state));
        waits.expect("the disk's threads do not panic")
    }

    fn work(&self) {
        loop {
            let is_idle = |state: &mut State| state.queue.is_empty() && !state.stopping;
            let waits = self.todo.wait_while(self.lock(), is_idle);
            let mut state = waits.expect("the disk's threads do not panic");
            let Some(op) = state.queue.pop_front() else { return };
            drop(state);
            let span = Span::of(&op);
            let completion = self.carry_out(op);
            // Before its bytes count as free: who waits for them may complete after it.
            let heard = self.done.put(completion);
            let mut state = self.lock();
            let at = state.busy.iter().position(|busy| *busy == span).expect("it is under way");
            state.busy.swap_remove(at);
            drop(state);
            self.ended.notify_all();
            if heard.is_err() {
                return;
            }
        }
    }

    fn carry_out(&self, op: DiskOp) -> Option<Completion> {
        Some(match op {
            DiskOp::Read { token, offset, into } => read(&self.file, token, offset, into),
            DiskOp::Write { token, offset, data, .. } => {
                let written = self.file.write_all_at(&data, offset);
                (token, written.map(|()| None).map_err(|error| refusal(&error)))
            }
            DiskOp::Sync { .. } => return None,
        })
    }
}

/// Behind the end of the file there is nothing to read: the replica takes that for damage.
fn read(file: &File, token: Token, offset: u64, mut into: tigerchat_core::pool::Draft) -> Completion {
    let read = file.read_exact_at(into.bytes_mut(), offset);
    let read: Result<Option<Message>, DiskError> = match read {
        Ok(()) => Ok(Some(into.seal())),
        Err(_) => Err(DiskError::Read),
    };
    (token, read)
}
