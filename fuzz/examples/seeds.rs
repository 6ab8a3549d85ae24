//! Writes the seeds of the corpora: for each target something that is accepted, from which a fuzzer goes on.
//! `cargo run --manifest-path fuzz/Cargo.toml --example seeds`

use std::fs;
use std::io;
use std::path::Path;

use tigerchat_core::chat::{Chat, Limits};
use tigerchat_core::store::layout::Layout;
use tigerchat_core::types::{Address, ClusterId, EdgeId, ReplicaId, ShardId, TenantId};
use tigerchat_core::vsr::machine::{At, Machine};
use tigerchat_core::vsr::membership::{Change, Members};
use tigerchat_core::wire::chat::{Command as ChatCommand, Key, Publish, Query};
use tigerchat_core::wire::entry::{Digest, ENTRY_HEADER, ENTRY_VERSION, EntryHeader, RequestHeader};
use tigerchat_core::wire::frame::{Command, Frame, FrameHeader};
use tigerchat_core::wire::page::{PageQuery, Span};
use zerocopy::{FromBytes, IntoBytes};

/// Of a small data file.
const LAYOUT: Layout =
    Layout { wal_slots: 32, slot_sectors: 3, block_sectors: 2, blocks_max: 1024, grid_step: 8 };

const FRAMES: &str = r#"{"id":1,"connect":{"token":"demo:ada"}}
{"id":2,"room_open":{"room":"r"}}
{"id":3,"subscribe":{"room":"r","last":5}}
{"id":4,"publish":{"room":"r","key":"018bcfe56800070707070707070707ff","body":{"text":"Hello"}}}
{"id":5,"publish":{"room":"r","key":"018bcfe56800070707070707070707ff","body":{"text":"Hello"}}}
{"id":6,"history":{"room":"r","from":"1","limit":9}}
{"id":7,"presence":{"room":"r"}}
{"id":8,"status":{}}
{"id":9,"whoami":{}}
{"id":10,"unsubscribe":{"room":"r"}}
{"id":11,"subscribe":{"room":"r","since":{"epoch":"2","seq":"0"}}}
{}"#;
const PAGES: &str = r#"{"id":1,"connect":{"token":"demo:ada"}}
{"id":2,"room_open":{"room":"r"}}
{"id":3,"publish":{"room":"r","key":"018bcfe56800070707070707070707ff","body":{"text":"Hello"}}}
{"id":4,"publish":{"room":"r","key":"018bcfe568000707070707070707070f","parent":"1","body":1}}
{"id":5,"history":{"room":"r","before":"2"}}
{"id":6,"history":{"room":"r","around":"1","limit":3}}
{"id":7,"history":{"room":"r","since_time":"1","until_time":"9"}}
{"id":8,"history":{"room":"r","thread":"1","from":"1","consistency":"linearizable"}}
{"id":9,"history":{"room":"r","from":"1","until_time":"9"}}"#;
const PAGE_LINES: &str = "login demo:ada\njoin r\nsend Hello\nreply 1 Hi\nhistory before 2\nhistory around 1 3\nhistory since 1\nthread 1\nthread 1 from 1 9";
const LINES: &str = "login demo:ada\njoin r\nsend Hello\nsend-key 018bcfe56800070707070707070707ff Hi\nusers\nhistory 5\nleave\nhelp\nexit";

/// Disks answer; a peer's entries come; time passes; a view begins; the process starts again.
const REPLICA: &[u8] = &[
    1, 8, 8, 8, 44, 0, 0, 0, 2, 1, 0, 28, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 8, 8, 44, 0, 0, 1, 2, 1, 0, 28, 0, 0,
    1, 0, 0, 190, 0, 0, 0, 1, 8, 8, 59, 9, 40, 0, 3, 0, 0, 184, 0, 0, 0, 0, 0, 1, 1, 8, 8, 62, 8, 8, 8, 56,
    0, 0, 0, 8, 52, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 8, 24, 0, 7, 3, 0, 0, 0, 0, 0, 0, 1, 8, 59, 8, 8,
];

fn main() -> io::Result<()> {
    let commands = commands();
    for command in Command::ALL {
        let mut frame = Frame { header: FrameHeader::new(command, ClusterId(1), ShardId(1)), payload: None };
        let from = Address::Replica { shard: ShardId(1), replica: ReplicaId(2) };
        frame.seal(from, Address::Edge(EdgeId(9)), 3, 4);
        save("frame", &format!("{command:?}").to_lowercase(), frame.header.as_bytes())?;
    }
    save("entry", "one-request", &entry(&commands))?;
    save("chat_command", "all", &commands)?;
    let mut chat = Chat::new(Limits::tiny(), &LAYOUT);
    let (mut reply, mut feed) = (Vec::new(), Vec::new());
    let at = At { op: 1, index: 0, time: 1_700_000_000_000_000_000 };
    chat.apply(at, 1, &commands, &mut reply, &mut feed);
    save("chat_state", "as-it-was", &[])?;
    save("chat_state", "a-bit-in-each-table", &[0, 0, 0, 9, 0, 1, 1, 0, 0, 9, 0, 1, 2, 0, 0, 9, 0, 1])?;
    save("chat_event", "all", &feed)?;
    save("chat_event", "outcome", &reply[..80])?;
    let span = Span::Around(5);
    let page = PageQuery { tenant: TenantId(1), room: "general", thread: 3, span, limit: 9 };
    for (name, query) in [
        ("history", Query::History { tenant: TenantId(1), room: "general", from: 0, limit: 50 }),
        ("presence", Query::Presence { tenant: TenantId(1), room: "general" }),
        ("page", Query::Page(page)),
    ] {
        let mut bytes = Vec::new();
        query.encode(&mut bytes).expect("a Vec is never full");
        save("chat_event", name, &bytes)?;
    }
    let requests: Vec<u8> = split(&commands)
        .flat_map(|one| [&[u8::try_from(one.len()).unwrap_or(u8::MAX)], one].concat())
        .collect();
    save("chat_apply", "one-by-one", &requests)?;
    save("superblock", "two-copies", &[0, 1, 0, 1, 0, 0x21, 0, 0x80])?;
    save("superblock", "all-copies", &[0, 1, 0, 1, 0, 0x21, 0, 1, 0, 0x41, 0, 1, 0, 0x61, 0, 1])?;
    save("client_frame", "first-minute", FRAMES.as_bytes())?;
    save("client_line", "first-minute", LINES.as_bytes())?;
    save("client_frame", "pages", PAGES.as_bytes())?;
    save("client_line", "pages", PAGE_LINES.as_bytes())?;
    save("client_http", "first-minute", FRAMES.as_bytes())?;
    save("replica", "normal", REPLICA)?;
    save("slot", "first-sector", &[9, 0, 0, 1])?;
    save("slot", "second-sector-never-written", &[1, 0, 1, 0])?;
    disks()?;
    texts()
}

/// What lies on a disk.
fn disks() -> io::Result<()> {
    save("sector", "some-payload", b"payload")?;
    save("superblock_inside", "later-view", &[168, 0, 1, 0, 176, 0, 1, 0])?;
    let mut members = Vec::new();
    Members::first(3, 2).expect("a majority").encode(&mut members);
    let change = Change::Replace { lost: ReplicaId(1), id: ReplicaId(3), address: vec![b'x'] }.encode();
    save("members", "three", &members)?;
    save("members", "replace", &change)?;
    save("members", "three-and-replace", &[&members[..], &change].concat())?;
    save("block", "root-without-content", &[0; 45])?;
    // Version, number, op, sizes of manifest and free set, and a block for each.
    let mut root = [&[0][..], &1_u32.to_le_bytes()].concat();
    [1_u64, 16, 10, 10].iter().for_each(|number| root.extend_from_slice(&number.to_le_bytes()));
    for address in [1_u64, 2] {
        root.extend_from_slice(&1_u32.to_le_bytes());
        root.extend_from_slice(&address.to_le_bytes());
        root.extend_from_slice(&[7; 32]);
    }
    save("block", "root", &root)?;
    save("block", "records", &[&[3][..], &[0x5a; 200]].concat())?;
    save("checkpoint", "as-it-was", &[])?;
    let each: Vec<u8> = (0..8).flat_map(|block| [block, 40, 0, 1]).collect();
    save("checkpoint", "a-bit-in-each-block", &each)?;
    (0..8_u8).try_for_each(|block| save("checkpoint", &format!("block-{block}"), &[block, 12, 0, 2]))
}

/// What people write, and browsers.
fn texts() -> io::Result<()> {
    let upgrade = "GET /v1/ws?x=1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Protocol: tigerchat.v1.json\r\nOrigin: http://a\r\n\r\n";
    let post = "POST /v1/rpc HTTP/1.1\r\nAuthorization: Bearer t\r\nContent-Length: 2\r\n\r\n{}";
    let history = "GET /v1/rooms/general/history?from=3&limit=2 HTTP/1.1\r\nHost: a\r\n\r\n";
    for (name, head) in [("upgrade", upgrade), ("post", post), ("history", history)] {
        save("http_head", name, head.as_bytes())?;
    }
    let digits = "0123456789abcdef".repeat(4);
    save("operator_text", "address", b"3=127.0.0.1:7001")?;
    save("operator_text", "cluster", &digits.as_bytes()[..32])?;
    save("operator_text", "tokens", format!("# who\n\nada {digits}\nbob  {digits}\n").as_bytes())?;
    let calls = "cluster replicas=3 edges=1 seed=2\nuser ada edge=0\nada open r\nada subscribe r now\nrun 100ms\n\n\
        ada publish r one\ncrash r0 after=prepare count=2\nrun 1s\nrestart r0\nada again\nrun 500ms\nada history r\n\n\
        isolate r1\ncut r0->r2\nslow r2 50\nrun 200ms\nheal\nrun 1s\nexpect committed 3\nstatus\nmessages r\npresent r\n";
    save("scenario", "calls", calls.as_bytes())?;
    save("scenario", "longer-than-time", b"cluster replicas=1 edges=1\nrun 18446744073709551615s\n")?;
    let recipe = "# small\nworld plan=swarm seed=733 dice=5\nusers 1\nwithout partitions frames.drop\nonly-aims 2\n\
        only-troubles 0 7\n";
    save("recipe", "small", recipe.as_bytes())
}

fn save(target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), bytes)
}

fn commands() -> Vec<u8> {
    let (tenant, room, user) = (TenantId(1), "general", "ada");
    let publish = ChatCommand::Publish(Publish {
        tenant,
        room,
        user,
        key: Key::new(1_700_000_000_000, [7; 10]),
        kind: 1,
        parent: 0,
        expect_seq: Some(0),
        salt: [5; 16],
        content_type: "application/json",
        body: br#"{"text":"Hello"}"#,
    });
    let mut bytes = Vec::new();
    for command in [
        ChatCommand::RoomOpen { tenant, room, user },
        ChatCommand::Enter { tenant, room, user },
        publish,
        ChatCommand::Leave { tenant, room, user },
    ] {
        command.encode(&mut bytes).expect("a Vec is never full");
    }
    bytes
}

/// Each command with the length in front of it.
fn split(commands: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = commands;
    std::iter::from_fn(move || {
        let (len, _) = rest.split_first_chunk::<4>()?;
        let (one, behind) = rest.split_at(4 + u32::from_le_bytes(*len) as usize);
        rest = behind;
        Some(one)
    })
}

fn entry(commands: &[u8]) -> Vec<u8> {
    let mut request = RequestHeader::read_from_bytes(&[0; 48]).expect("any 48 bytes are a header");
    request.client = 9.into();
    request.session = 1.into();
    request.number = 1.into();
    request.size = u32::try_from(commands.len()).expect("small").into();
    request.kind = 1.into();
    request.digest = RequestHeader::digest_of(commands).into();
    let body = [request.as_bytes(), commands].concat();
    let mut header = EntryHeader::read_from_bytes(&[0; ENTRY_HEADER]).expect("any 128 bytes are a header");
    header.op = 2.into();
    header.view = 1.into();
    header.version = ENTRY_VERSION;
    header.size = u32::try_from(ENTRY_HEADER + body.len()).expect("small").into();
    header.body = Digest::of(&body);
    [header.as_bytes(), &body].concat()
}
