//! `tigerchat erase --now` in earnest: three replica processes and an edge, and afterwards not a byte of what was erased in
//! any of their files, while everything beside it is there and verifies.

mod house;

use house::process::{key, tigerchat, wait_until};
use house::shard::Shard;
use serde_json::json;

fn publish(shard: &mut Shard, text: &str) {
    shard.publish(&json!({"text": text}));
}

fn say(shard: &mut Shard, count: u64) {
    for _ in 0..count {
        let text = format!("number {}", shard.published + 1);
        publish(shard, &text);
    }
}

/// How often a text lies in the files of the replicas.
fn found(shard: &Shard, text: &str) -> Vec<usize> {
    let count = |replica: usize| {
        let bytes = std::fs::read(shard.file(replica)).unwrap();
        bytes.windows(text.len()).filter(|window| *window == text.as_bytes()).count()
    };
    (0..3).map(count).collect()
}

/// Over and over: wherever a sector of it is left, some of these are whole.
fn secret(word: &str) -> String {
    word.repeat(6_000 / word.len())
}

fn verified(shard: &Shard, replica: usize) -> String {
    let out = shard.folder.join(format!("general-{replica}.jsonl"));
    let exported = tigerchat()
        .args(["export", "--room", "general", "--file"])
        .arg(shard.file(replica))
        .arg("--out")
        .arg(&out)
        .output();
    assert!(exported.unwrap().status.success());
    let verified = tigerchat().arg("verify").arg(&out).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    std::fs::read_to_string(out).unwrap()
}

#[test]
fn what_is_erased_now_is_in_no_file_of_any_replica() {
    let mut shard = Shard::start("erase");
    shard.open_room();
    // One that is in runs and was merged by now, and one that is in memory and the log alone.
    say(&mut shard, 100);
    publish(&mut shard, &secret("an-old-secret."));
    say(&mut shard, 400);
    publish(&mut shard, &secret("a-new-secret."));
    say(&mut shard, 3);
    for word in ["an-old-secret.", "a-new-secret."] {
        wait_until("all have it", || found(&shard, word).iter().all(|count| *count > 0));
    }

    // The author takes one away, the operator the other, and has both gone from the disks.
    let erase = json!({"id": 1, "erase": {"room": "general", "key": key(9_999), "seq": "101"}});
    let erased = shard.rpc(&erase).unwrap();
    assert_eq!(erased["erase"]["seq"], json!("506"), "{erased}");
    assert_eq!(shard.rpc(&erase).unwrap()["erase"]["duplicate"], json!(true));
    let wrong = shard.operate("erase", &["--room", "general", "--seq", "506"]).unwrap_err();
    assert!(wrong.contains("13008"), "{wrong}");
    let said = shard.operate("erase", &["--room", "general", "--seq", "502", "--now"]).unwrap();
    for replica in 0..3 {
        assert!(said.contains(&format!("replica {replica}: gone from its disk")), "{said}");
    }
    assert_eq!(found(&shard, "an-old-secret."), [0, 0, 0], "{said}");
    assert_eq!(found(&shard, "a-new-secret."), [0, 0, 0], "{said}");
    println!("{said}");

    // What stood beside them is there, and goes on.
    shard.published += 2;
    say(&mut shard, 3);
    let page = |from: &str| {
        let history = json!({"id": 1, "history": {"room": "general", "from": from, "limit": 3,
            "consistency": "linearizable"}});
        shard.rpc(&history).unwrap()["history"]["messages"].clone()
    };
    for (from, seq) in [("100", 101), ("501", 502)] {
        let messages = page(from);
        assert_eq!(messages[0]["body"]["text"], json!(format!("number {from}")), "{messages}");
        assert_eq!((&messages[1]["erased"], messages[1].get("body")), (&json!(true), None), "{messages}");
        assert_eq!(messages[2]["body"]["text"], json!(format!("number {}", seq + 1)), "{messages}");
    }
    // A range: two messages, and the two entries that say what was erased.
    let range = ["--room", "general", "--from", "504", "--to", "507"];
    let said = shard.operate("erase", &range).unwrap();
    assert!(said.contains("of messages 504 to 507 of room general 2 are erased"), "{said}");
    let messages = page("504");
    let erased = |at: usize| (messages[at]["kind"].clone(), messages[at]["erased"] == json!(true));
    assert_eq!([0, 1, 2].map(erased), [(json!(1), true), (json!(1), true), (json!(2), false)], "{messages}");
    let wrong = shard.operate("erase", &["--room", "general", "--from", "1", "--to", "257"]).unwrap_err();
    assert!(wrong.contains("expected 1 to 256 messages"), "{wrong}");
    wait_until("all have the newest", || found(&shard, "number 510").iter().all(|count| *count > 0));
    shard.edge = None;
    shard.replicas.clear();
    for replica in 0..3 {
        let text = verified(&shard, replica);
        assert!(text.contains("number 1\\\"") && text.contains("number 500"), "{text}");
        assert!(!text.contains("secret"));
    }
    assert_eq!(found(&shard, "an-old-secret."), [0, 0, 0]);
}
