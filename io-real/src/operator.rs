//! The operator's side of membership: asks the replicas who they are, and the primary for a change.
//!
//! The one law: **a change is for the members that were seen** (their number goes with it), so that asking again after
//! a lost answer can't do it twice.

pub mod erase;
pub mod retention;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tigerchat_core::errors::ErrorCode;
use tigerchat_core::pool::{Class, Pool};
use tigerchat_core::types::{Address, ClusterId, EdgeId, ReplicaId};
use tigerchat_core::vsr::membership::{ADDRESS_MAX, Change, Members, Role};
use tigerchat_core::wire::codec::Reader;
use tigerchat_core::wire::frame::{Command, FRAME_HEADER, Frame, FrameHeader};
use zerocopy::IntoBytes;

use crate::cli;
use crate::launch::{self, SHARD, replica_address};
use crate::texts::{self, At};

const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);
const IO: Duration = Duration::from_secs(1);
const PAYLOAD_MAX: usize = 4096;

/// What a replica says of the members.
#[derive(Debug)]
struct Answer {
    members: Members,
    /// What each member acknowledged, as far as the one who answers knows.
    acknowledged: Vec<u64>,
    /// The newest release that each said it runs; zero when it was not heard.
    runs: Vec<u32>,
    /// The release in force.
    release: u32,
    /// Erasures up to this op are gone from the disk of who answers.
    cleared: u64,
    primary: ReplicaId,
    is_primary: bool,
    view: u64,
    commit: u64,
    error: Option<ErrorCode>,
}

#[derive(Debug)]
struct Operator {
    cluster: ClusterId,
    replicas: Vec<At>,
    /// Drawn, so that nobody else has it.
    id: EdgeId,
    me: Address,
    asked: u64,
}

pub fn members(args: &cli::Shard) -> Result<(), String> {
    let mut operator = Operator::new(args)?;
    let answer = operator.look()?;
    show(&answer);
    Ok(())
}

pub fn change(args: &cli::Shard, change: &Change) -> Result<(), String> {
    let mut operator = Operator::new(args)?;
    let answer = operator.carry_through(change)?;
    show(&answer);
    if let Change::Replace { id, .. } = change {
        println!(
            "replica {} becomes a voter as soon as it has caught up: `tigerchat members` shows it",
            id.0
        );
    }
    Ok(())
}

/// An address as the members carry it.
pub fn address(socket: SocketAddr) -> Result<Vec<u8>, String> {
    launch::must_be_loopback(socket)?;
    let bytes = socket.to_string().into_bytes();
    if bytes.len() > ADDRESS_MAX {
        return Err(format!("expected an address of at most {ADDRESS_MAX} bytes, found {socket}"));
    }
    Ok(bytes)
}

fn show(answer: &Answer) {
    let Answer { members, view, commit, .. } = answer;
    let quorums = members.quorums();
    println!(
        "members {}: view {view}, op {commit} committed, {} copies and {} votes of {} voters, release {}",
        members.number, quorums.replication, quorums.view_change, quorums.replicas, answer.release
    );
    let known = answer.acknowledged.iter().zip(&answer.runs);
    for (member, (acknowledged, runs)) in members.list().iter().zip(known) {
        let role = match member.role {
            Role::Voter if member.id == answer.primary => "primary",
            Role::Voter => "voter",
            Role::Standby => "standby",
            Role::Successor => "successor",
        };
        let address = String::from_utf8_lossy(&member.address);
        let runs = if *runs == 0 { "not heard".to_owned() } else { format!("runs release {runs}") };
        println!("replica {}  {role:<9}  acknowledged op {acknowledged}  {runs}  {address}", member.id.0);
    }
}

impl Operator {
    fn new(args: &cli::Shard) -> Result<Self, String> {
        args.replicas.iter().try_for_each(|at| launch::must_be_loopback(at.socket))?;
        let id = EdgeId(u64::from_le_bytes(launch::entropy()) | 1);
        let me = Address::Edge(id);
        let replicas = texts::numbered(&args.replicas);
        Ok(Self { cluster: texts::parse_cluster(&args.cluster)?, replicas, id, me, asked: 0 })
    }

    /// Asks until some change is done or refused for good.
    fn carry_through(&mut self, change: &Change) -> Result<Answer, String> {
        let base = self.look()?.members.number;
        let end = Instant::now() + PATIENCE;
        let mut last = String::from("no primary was found");
        while Instant::now() < end {
            let Some(answer) = self.ask_all(Some((base, change))) else {
                sleep(PAUSE);
                continue;
            };
            if answer.members.number > base {
                // Accepted by us or by a primary whose answer was lost; or somebody else was quicker.
                return if is_done(change, &answer.members) {
                    Ok(answer)
                } else {
                    Err(ErrorCode::ConfigChanged.to_string())
                };
            }
            match answer.error {
                Some(error) if !error.entry().temporary => return Err(error.to_string()),
                Some(error) => last = error.to_string(),
                None => {}
            }
            sleep(PAUSE);
        }
        Err(format!("not done after {} s: {last}", PATIENCE.as_secs()))
    }

    /// Who the members are, as the primary says; or, if there is none, whoever knows the newest ones.
    fn look(&mut self) -> Result<Answer, String> {
        let end = Instant::now() + IO;
        loop {
            match self.ask_all(None) {
                Some(answer) if answer.is_primary || Instant::now() >= end => return Ok(answer),
                None if Instant::now() >= end => {
                    return Err("no replica answers: are they running, and are these their addresses?".into());
                }
                _ => sleep(PAUSE),
            }
        }
    }

    /// Asks every replica; learns their addresses on the way.
    fn ask_all(&mut self, change: Option<(u32, &Change)>) -> Option<Answer> {
        let mut best: Option<Answer> = None;
        for at in self.replicas.clone() {
            let Some(answer) = self.ask(&at, change) else { continue };
            self.learn(&answer.members);
            let rank = |answer: &Answer| (answer.is_primary, answer.members.number, answer.view);
            if best.as_ref().is_none_or(|best| rank(best) < rank(&answer)) {
                best = Some(answer);
            }
        }
        best
    }

    fn learn(&mut self, members: &Members) {
        for member in members.list() {
            let socket = std::str::from_utf8(&member.address).ok().and_then(|text| text.parse().ok());
            let known = self.replicas.iter().any(|at| at.id == Some(member.id.0));
            if let Some(socket) = socket.filter(|_| !known) {
                self.replicas.push(At { id: Some(member.id.0), socket });
            }
        }
    }

    fn ask(&mut self, at: &At, change: Option<(u32, &Change)>) -> Option<Answer> {
        let mut stream = TcpStream::connect_timeout(&at.socket, IO).ok()?;
        stream.set_read_timeout(Some(IO)).ok()?;
        stream.set_write_timeout(Some(IO)).ok()?;
        let pool = Pool::new(&[Class { size: PAYLOAD_MAX, count: 2 }]);
        let mut frame =
            Frame { header: FrameHeader::new(Command::Reconfigure, self.cluster, SHARD), payload: None };
        if let Some((base, change)) = change {
            let mut draft = pool.draft(PAYLOAD_MAX)?;
            draft.extend(&change.encode()).ok()?;
            frame.payload = Some(draft.seal());
            frame.header.op = u64::from(base).into();
        }
        self.asked += 1;
        frame.header.nonce = u128::from(self.asked).into();
        frame.seal(self.me, replica_address(at.id?), 1, self.asked);
        stream.write_all(frame.header.as_bytes()).ok()?;
        stream.write_all(frame.body()).ok()?;
        self.read_answer(&mut stream, &pool)
    }

    fn read_answer(&self, stream: &mut TcpStream, pool: &Pool) -> Option<Answer> {
        loop {
            let mut header = [0; FRAME_HEADER];
            stream.read_exact(&mut header).ok()?;
            let header = FrameHeader::decode(&header, PAYLOAD_MAX).ok()?;
            let mut draft = pool.draft(PAYLOAD_MAX)?;
            draft.resize(header.payload_len());
            stream.read_exact(draft.bytes_mut()).ok()?;
            let payload = (header.payload_len() > 0).then(|| draft.seal());
            let frame = Frame::join(header, payload).ok()?;
            if header.command() != Command::Members || header.nonce.get() != u128::from(self.asked) {
                continue;
            }
            let mut reader = Reader::new(frame.body());
            let members = Members::decode(&mut reader).ok()?;
            let (mut acknowledged, mut runs) = (Vec::new(), Vec::new());
            for _ in members.list() {
                acknowledged.push(reader.u64().ok()?);
                runs.push(reader.u32().ok()?);
            }
            return Some(Answer {
                members,
                acknowledged,
                runs,
                release: reader.u32().ok()?,
                cleared: reader.u64().ok()?,
                primary: ReplicaId(u16::try_from(header.b.get()).ok()?),
                is_primary: header.flags.get() & 1 == 1,
                view: header.view.get(),
                commit: header.commit.get(),
                error: u32::try_from(header.a.get()).ok().and_then(ErrorCode::from_code),
            });
        }
    }
}

/// Whether the members are as the change wants them.
fn is_done(change: &Change, members: &Members) -> bool {
    match change {
        Change::Standby { id, .. } => members.get(*id).is_some(),
        Change::Promote { id } => members.is_voter(*id),
        Change::Remove { id } => members.get(*id).is_none(),
        Change::Replace { lost, id, .. } => members.get(*lost).is_none() && members.get(*id).is_some(),
    }
}
