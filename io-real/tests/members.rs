//! A lost disk, in earnest: three replica processes and an edge, a data file deleted under `SIGKILL`, another replica
//! put in its place by `replace-replica`, and a publisher who is served all the while (H23).

mod house;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use house::port::free_port;
use house::process::{Process, tigerchat, wait_until};
use house::shard::Shard;
use serde_json::{Value, json};

/// One message more.
fn publish(shard: &mut Shard) {
    let number = shard.published + 1;
    shard.publish(&json!(number));
}

#[test]
fn h23_a_deleted_data_file_is_replaced_by_another_replica_while_the_shard_serves() {
    let mut shard = Shard::start("members");
    shard.open_room();
    (0..20).for_each(|_| publish(&mut shard));
    let lost = shard.roles().iter().find(|(_, role)| role == "voter").expect("a backup").0;
    shard.replicas[lost] = None;
    std::fs::remove_file(shard.file(lost)).unwrap();
    (0..20).for_each(|_| publish(&mut shard));

    let used = shard.operate("standby", &["--replica", "2", "--address", "127.0.0.1:9"]).unwrap_err();
    assert!(used.contains("16006"), "{used}");
    let (new, at) = shard.join();
    let options = ["--lost", &lost.to_string(), "--replica", &new.to_string(), "--address", &at.to_string()];
    let done = shard.operate("replace-replica", &options).unwrap();
    assert!(done.contains("members 1"), "{done}");
    wait_until("the new replica votes", || {
        publish(&mut shard);
        shard.roles().iter().any(|(id, role)| *id == new && ["voter", "primary"].contains(&role.as_str()))
    });
    assert!(shard.roles().iter().all(|(id, _)| *id != lost));

    // It counts now: another one may go, and a restart of everything finds the members again.
    let primary = shard.roles().iter().find(|(_, role)| role == "primary").expect("a primary").0;
    shard.replicas[primary] = None;
    (0..20).for_each(|_| publish(&mut shard));
    let peers = shard.peers();
    shard.replicas[new] = None;
    let listen = ["--listen", &at.to_string()];
    shard.replicas[new] = Some(shard.run(new, &listen));
    shard.replicas[primary] = Some(shard.run(primary, &["--peers", &peers]));
    (0..20).for_each(|_| publish(&mut shard));
    // What any replica has of it may be a little older.
    let last = json!({"id": 1, "history": {"room": "general", "limit": 1, "consistency": "linearizable"}});
    let mut head = Value::Null;
    wait_until("history is read", || {
        head = shard.rpc(&last).unwrap_or_default()["history"]["head"].clone();
        head != Value::Null
    });
    assert_eq!(head, json!(shard.published.to_string()));

    restored_with_other_members(&mut shard, lost);
}

/// A backup of a shard whose members changed makes a new cluster of those members, and of no one else.
fn restored_with_other_members(shard: &mut Shard, lost: usize) {
    let members: Vec<usize> = shard.roles().into_iter().map(|(id, _)| id).collect();
    assert_eq!(members.len(), 3, "{members:?}");
    let backups: Vec<PathBuf> = members
        .iter()
        .map(|id| {
            let out = shard.folder.join(format!("backup-{id}"));
            let made =
                tigerchat().args(["backup", "--file"]).arg(shard.file(*id)).arg("--out").arg(&out).output();
            assert!(made.as_ref().unwrap().status.success(), "{made:?}");
            out
        })
        .collect();
    // What was acknowledged is on two of three disks: the backup that has most of it.
    let head = |backup: &PathBuf| {
        let about = std::fs::read_to_string(backup.join("backup.json")).unwrap();
        serde_json::from_str::<Value>(&about).unwrap()["head"].as_u64().unwrap()
    };
    let backup = backups.iter().max_by_key(|backup| head(backup)).unwrap().clone();
    shard.edge = None;
    shard.replicas.iter_mut().for_each(|replica| *replica = None);
    let restore = |cluster: &str, replica: usize, out: &PathBuf| {
        let words =
            ["restore", "--unverified", "--cluster", cluster, "--replica", &replica.to_string(), "--from"];
        tigerchat().args(words).arg(&backup).arg("--out").arg(out).output().unwrap()
    };
    let refused = restore("new", lost, &shard.folder.join("none"));
    let complaint = String::from_utf8(refused.stderr).unwrap();
    assert!(complaint.contains("expected the id of a member"), "{complaint}");

    // Elsewhere than before: the members' addresses are those of the old cluster.
    let places: Vec<(usize, SocketAddr)> = members.iter().map(|id| (*id, free_port())).collect();
    let peers = places.iter().map(|(id, at)| format!("{id}={at}")).collect::<Vec<_>>().join(",");
    let mut cluster = "new".to_string();
    for id in &members {
        let out = shard.folder.join(format!("restored-{id}"));
        let made = restore(&cluster, *id, &out);
        let said = String::from_utf8(made.stdout).unwrap();
        assert!(made.status.success() && said.contains(&format!("replica {id} of 3")), "{said}");
        cluster = said.split("cluster ").nth(1).and_then(|rest| rest.get(..32)).unwrap().to_string();
    }
    let start = |id: &usize| {
        let mut start = tigerchat();
        start.arg("start").arg(shard.folder.join(format!("restored-{id}"))).args(["--peers", &peers]);
        Some(Process(start.stdout(Stdio::null()).spawn().unwrap()))
    };
    let started: Vec<_> = members.iter().map(start).collect();
    shard.replicas = started;
    shard.start_edge_of(&cluster, &peers);
    let said = shard.published.to_string();
    wait_until("the new cluster serves", || {
        let reply = shard.rpc(&json!({"id": 1, "history": {"room": "general", "limit": 200}}));
        reply.is_some_and(|reply| reply["history"]["head"] == json!(said))
    });
    // The one that came later goes first: it is dialled anew, and counts when another one is away.
    for away in [2, 0, 1] {
        shard.replicas[away] = None;
        (0..5).for_each(|_| publish(shard));
        let mut start = tigerchat();
        let file = shard.folder.join(format!("restored-{}", members[away]));
        start.arg("start").arg(file).args(["--peers", &peers]);
        shard.replicas[away] = Some(Process(start.stdout(Stdio::null()).spawn().unwrap()));
        (0..5).for_each(|_| publish(shard));
    }
}
