//! The operator erases a message, and sees to it that it is gone from every disk.
//!
//! The one law: **done is what every replica says of its own disk.** The erasure itself is a command like any other, with
//! one key however often it is sent. That the bytes are gone each replica knows by itself
//! (`Replica::cleared`); what is not heard is not claimed.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tigerchat_core::errors::ErrorCode;
use tigerchat_core::pool::{Class, Pool};
use tigerchat_core::types::{ReplicaId, TenantId};
use tigerchat_core::vsr::LINEARIZABLE;
use tigerchat_core::wire::chat::{
    AnswerHead, Command as ChatCommand, Erase, KIND_MESSAGE, Key, Outcome, Query, RoomEvent,
};
use tigerchat_core::wire::codec::Reader;
use tigerchat_core::wire::entry::{REQUEST_HEADER, RequestHeader, RequestKind};
use tigerchat_core::wire::frame::{Command, FRAME_HEADER, Frame, FrameHeader};
use zerocopy::IntoBytes;

use super::{IO, Operator, PATIENCE, PAUSE};
use crate::cli;
use crate::launch::{SHARD, entropy, replica_address};
use crate::texts::At;

/// The largest frame that may come: a page of one message.
const FRAME_MAX: usize = 2 << 20;
/// Ops between two looks at how far the replicas are.
const OPS: u32 = 64;
/// How long the replicas are given to rid their disks of it.
const CLEARING: Duration = Duration::from_secs(300);
/// Messages of one command: as many as may be pending.
const RANGE_MAX: u64 = 256;
/// By whom the entry of the erasure is.
const OPERATOR: &str = "operator";

/// A session with the shard, as an edge has one.
#[derive(Debug)]
pub(super) struct Session {
    stream: TcpStream,
    pool: Pool,
    primary: ReplicaId,
    session: u64,
    next: u64,
}

pub fn run(args: &cli::Erase) -> Result<(), String> {
    let (first, last) = range(args)?;
    let mut operator = Operator::new(&args.shard)?;
    let (mut session, mut op, mut count) = (None, 0, 0);
    for seq in first..=last {
        match operator.erase(args, seq, &mut session)? {
            Ok(outcome) => (op, count) = (outcome.op, count + 1),
            // Of a range they are what need not, or can't, be erased.
            Err(ErrorCode::NotErasable | ErrorCode::PositionGone) if args.from.is_some() => {}
            Err(error) if count == 0 => return Err(error.to_string()),
            Err(error) => return Err(format!("{error}; of {first} to {last} those before {seq} are erased")),
        }
    }
    let room = &args.room;
    if args.from.is_none() {
        println!("message {first} of room {room} is erased as of op {op}: nobody is served it");
    } else if count == 0 {
        println!("none of messages {first} to {last} of room {room} is there to be erased");
        return Ok(());
    } else {
        println!(
            "of messages {first} to {last} of room {room} {count} are erased as of op {op}: nobody is served them"
        );
    }
    if args.now {
        return operator.clear(op);
    }
    println!(
        "its bytes are overwritten by what the shard does next (docs/storage.md, \"Erasure\"); `--now` does it now"
    );
    Ok(())
}

/// The first and the last sequence that are to be erased.
fn range(args: &cli::Erase) -> Result<(u64, u64), String> {
    let ends = args.from.zip(args.to).or(args.seq.zip(args.seq));
    let (first, last) = ends.ok_or("expected --seq, or --from and --to")?;
    if first == 0 || last < first || last - first >= RANGE_MAX {
        return Err(format!("expected 1 to {RANGE_MAX} messages, from sequence 1 on: not {first} to {last}"));
    }
    Ok((first, last))
}

impl Operator {
    fn erase(
        &mut self,
        args: &cli::Erase,
        seq: u64,
        session: &mut Option<Session>,
    ) -> Result<Result<Outcome, ErrorCode>, String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let key = Key::new(u64::try_from(now).unwrap_or(u64::MAX), entropy());
        let salt = entropy();
        let (end, mut last) = (Instant::now() + PATIENCE, String::from("no primary answers"));
        while Instant::now() < end {
            match self.try_erase(args, seq, (key, salt), session) {
                Ok(Err(error)) if error.entry().temporary => {
                    last = error.to_string();
                    if error == ErrorCode::TooManyErasures {
                        // A checkpoint does away with some of them, and there is none where nothing is said.
                        self.drive(session);
                        continue;
                    }
                }
                Ok(done) => return Ok(done),
                Err(why) => last = why,
            }
            sleep(PAUSE);
        }
        Err(format!("not done after {} s: {last}", PATIENCE.as_secs()))
    }

    /// Looks the message up and erases it; an error text: no answer, and the same may be asked again.
    fn try_erase(
        &mut self,
        args: &cli::Erase,
        seq: u64,
        (key, salt): (Key, [u8; 16]),
        kept: &mut Option<Session>,
    ) -> Result<Result<Outcome, ErrorCode>, String> {
        // One that does not answer is not kept.
        let mut session = kept.take().map_or_else(|| self.open(), Ok)?;
        let (tenant, room) = (TenantId(args.tenant), args.room.as_str());
        let mut query = Vec::new();
        let limit = 1;
        Query::History { tenant, room, from: seq, limit }.encode(&mut query).expect("a Vec is never full");
        let answer = self.exchange(&mut session, Command::Query, &query, Command::Answer)?;
        let mut reader = Reader::new(answer.body());
        let head = AnswerHead::decode(&mut reader).map_err(|_| "an answer that nobody understands")?;
        if let Some(error) = head.error {
            *kept = Some(session);
            return Ok(Err(error));
        }
        let message = match RoomEvent::decode(&mut reader) {
            Ok(RoomEvent::Message(message)) if message.seq == seq => message,
            _ => return Ok(Err(ErrorCode::PositionAhead)),
        };
        if message.kind != KIND_MESSAGE {
            *kept = Some(session);
            return Ok(Err(ErrorCode::NotErasable));
        }
        let (epoch, author, of, user) = (head.epoch, message.author, message.key, OPERATOR);
        let erase = Erase { tenant, room, user, key, epoch, seq, author, of, salt, now: args.now };
        let mut commands = Vec::new();
        ChatCommand::Erase(erase).encode(&mut commands).expect("a Vec is never full");
        let reply = self.request(&mut session, RequestKind::Commands, &commands)?;
        let outcome = Outcome::decode(&mut Reader::new(reply.body())).map_err(|_| "an empty reply")?;
        *kept = Some(session);
        Ok(outcome.error.map_or(Ok(outcome), Err))
    }

    /// Drives the log on until every member says that its disk holds nothing of what was erased up to `op`.
    fn clear(&mut self, op: u64) -> Result<(), String> {
        let (began, mut session) = (Instant::now(), None);
        let mut clean: Vec<u16> = Vec::new();
        loop {
            let members = self.look()?.members;
            let waiting: Vec<u16> =
                members.list().iter().map(|member| member.id.0).filter(|id| !clean.contains(id)).collect();
            for at in self.replicas.clone() {
                let id = at.id.filter(|id| waiting.contains(id));
                let (Some(id), Some(answer)) = (id, self.ask(&at, None)) else { continue };
                if answer.cleared >= op {
                    println!("replica {id}: gone from its disk after {} ms", began.elapsed().as_millis());
                    clean.push(id);
                }
            }
            let waiting: Vec<u16> = waiting.into_iter().filter(|id| !clean.contains(id)).collect();
            if waiting.is_empty() {
                return Ok(());
            }
            if began.elapsed() > CLEARING {
                return Err(format!(
                    "replicas {waiting:?} did not say within {} s that it is gone from their disks: bring them back and \
                     run the same command again",
                    CLEARING.as_secs()
                ));
            }
            self.drive(&mut session);
        }
    }

    /// Empty ops: checkpoints are made and slots of the log written over because the log goes on.
    fn drive(&mut self, session: &mut Option<Session>) {
        for _ in 0..OPS {
            let mut open = match session.take().map_or_else(|| self.open(), Ok) {
                Ok(open) => open,
                Err(_) => return sleep(PAUSE),
            };
            // Whoever does not answer is looked for anew.
            if self.request(&mut open, RequestKind::Commands, &[]).is_ok() {
                *session = Some(open);
            }
        }
    }

    /// A session with the primary.
    pub(super) fn open(&mut self) -> Result<Session, String> {
        let primary = self.look()?.primary;
        let known = |at: &At| at.id == Some(primary.0);
        let at =
            self.replicas.iter().find(|at| known(at)).cloned().ok_or("the primary's address is not known")?;
        let stream = TcpStream::connect_timeout(&at.socket, IO).map_err(|error| error.to_string())?;
        let timeouts = stream.set_read_timeout(Some(IO)).and_then(|()| stream.set_write_timeout(Some(IO)));
        timeouts.and_then(|()| stream.set_nodelay(true)).map_err(|error| error.to_string())?;
        let pool = Pool::lazy(&[Class { size: 4096, count: 4 }, Class { size: FRAME_MAX, count: 2 }]);
        let mut session = Session { stream, pool, primary, session: 0, next: 0 };
        let reply = self.request(&mut session, RequestKind::Register, &[])?;
        (session.session, session.next) = (reply.header.b.get(), reply.header.a.get() + 1);
        Ok(session)
    }

    pub(super) fn request(
        &mut self,
        session: &mut Session,
        kind: RequestKind,
        commands: &[u8],
    ) -> Result<Frame, String> {
        let header = RequestHeader {
            client: self.id.0.into(),
            session: session.session.into(),
            number: session.next.into(),
            size: u32::try_from(commands.len()).expect("one command").into(),
            kind: (kind as u32).into(),
            digest: RequestHeader::digest_of(commands).into(),
        };
        let payload = [header.as_bytes(), commands].concat();
        debug_assert_eq!(payload.len(), REQUEST_HEADER + commands.len());
        let reply = self.exchange(session, Command::Request, &payload, Command::Reply)?;
        session.next += 1;
        Ok(reply)
    }

    /// Sends a frame and waits for the answer to it.
    pub(super) fn exchange(
        &mut self,
        session: &mut Session,
        command: Command,
        payload: &[u8],
        answer: Command,
    ) -> Result<Frame, String> {
        let pool = &session.pool;
        let mut draft = pool.draft(payload.len()).ok_or("no buffer")?;
        draft.extend(payload).map_err(|_| "a frame that is too large")?;
        let mut frame =
            Frame { header: FrameHeader::new(command, self.cluster, SHARD), payload: Some(draft.seal()) };
        self.asked += 1;
        frame.header.nonce = u128::from(self.asked).into();
        if command == Command::Query {
            frame.header.flags = LINEARIZABLE.into();
        }
        frame.seal(self.me, replica_address(session.primary.0), 1, self.asked);
        let stream = &mut session.stream;
        stream.write_all(frame.header.as_bytes()).map_err(|error| error.to_string())?;
        stream.write_all(frame.body()).map_err(|error| error.to_string())?;
        loop {
            let mut header = [0; FRAME_HEADER];
            stream.read_exact(&mut header).map_err(|error| error.to_string())?;
            let header =
                FrameHeader::decode(&header, FRAME_MAX).map_err(|_| "a frame that nobody understands")?;
            let mut draft = pool.draft(header.payload_len()).ok_or("no buffer")?;
            draft.resize(header.payload_len());
            stream.read_exact(draft.bytes_mut()).map_err(|error| error.to_string())?;
            let payload = (header.payload_len() > 0).then(|| draft.seal());
            let frame = Frame::join(header, payload).map_err(|_| "a damaged frame")?;
            let fits = match answer {
                Command::Reply => {
                    let registers = session.session == 0 && header.a.get() == 0;
                    registers || (header.b.get() == session.session && header.a.get() == session.next)
                }
                _ => header.nonce.get() == u128::from(self.asked),
            };
            match header.command() {
                command if command == answer && fits => return Ok(frame),
                Command::PongClient | Command::Eviction => return Err("the primary leads no more".into()),
                _ => {}
            }
        }
    }
}
