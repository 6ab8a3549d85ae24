//! `tigerchat retention` in earnest: three replica processes and an edge, rules that change while they run, and what is
//! served, exported and verified afterwards.

mod house;

use house::process::{tigerchat, wait_until};
use house::shard::Shard;
use serde_json::{Value, json};

fn say(shard: &mut Shard, count: u64) {
    for _ in 0..count {
        let text = format!("number {}", shard.published + 1);
        shard.publish(&json!({"text": text}));
    }
}

fn history(shard: &Shard, from: u64) -> Value {
    let history = json!({"room": "general", "from": from.to_string(), "consistency": "linearizable"});
    shard.rpc(&json!({"id": 1, "history": history})).unwrap()
}

fn shown(shard: &Shard, command: &str, options: &[&str]) -> Value {
    let printed = shard.operate(command, &[&["--json"], options].concat()).unwrap();
    serde_json::from_str(&printed).unwrap()
}

#[test]
fn rules_change_while_the_shard_runs_and_what_is_gone_is_served_and_exported_no_more() {
    let mut shard = Shard::start("retention");
    shard.open_room();
    say(&mut shard, 30);
    let of_room = ["--room", "general"];
    let before = shown(&shard, "retention show", &of_room);
    assert_eq!((&before["first"], &before["head"]), (&json!("1"), &json!("30")), "{before}");
    assert_eq!(before["effective"], json!({"messages": null, "age_s": null}));
    let neither = shard.operate("retention set", &of_room).unwrap_err();
    assert!(neither.contains("--messages or --age"), "{neither}");
    let nowhere = shard.operate("retention show", &["--room", "nowhere"]).unwrap_err();
    assert!(nowhere.contains("13001"), "{nowhere}");

    // The tenant's rule, and that of the room, which goes before it.
    let tenant = shown(&shard, "retention set", &["--messages", "20"]);
    assert_eq!(tenant["of_tenant"]["messages"], json!(20), "{tenant}");
    let room = shown(&shard, "retention set", &["--room", "general", "--messages", "10"]);
    assert_eq!((&room["first"], &room["effective"]["messages"]), (&json!("21"), &json!(10)), "{room}");
    let gone = history(&shard, 20);
    assert_eq!((&gone["error"]["code"], &gone["error"]["seq"]), (&json!(14001), &json!("21")), "{gone}");
    assert_eq!(history(&shard, 21)["history"]["messages"].as_array().unwrap().len(), 10);
    let page = shard.get("/v1/rooms/general/history?before=24&limit=9&consistency=linearizable");
    let seqs: Vec<&str> = page["history"]["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["seq"].as_str().unwrap())
        .collect();
    assert_eq!((seqs, &page["history"]["older"]), (vec!["21", "22", "23"], &json!(false)), "{page}");
    let conflict = shard.get("/v1/rooms/general/history?before=24&around=25");
    assert_eq!(conflict["error"]["code"], json!(14006), "{conflict}");
    let text = shard.operate("retention set", &["--room", "general", "--messages", "forever"]).unwrap();
    assert!(text.contains("history: 10 messages, 21 to 30"), "what is gone stays gone: {text}");

    // By age: so long that nothing goes at once, and then until the room is short.
    let aged = shown(&shard, "retention set", &["--room", "general", "--age", "2s"]);
    assert_eq!((&aged["effective"]["age_s"], &aged["late_s"]), (&json!(2), &json!(2)), "{aged}");
    wait_until("messages become too old", || {
        say(&mut shard, 1);
        let first: u64 = history(&shard, 0)["history"]["first"].as_str().unwrap().parse().unwrap();
        first > 31
    });
    shown(&shard, "retention set", &["--room", "general", "--age", "forever"]);
    let first: u64 = history(&shard, 0)["history"]["first"].as_str().unwrap().parse().unwrap();

    files_know_the_rules(shard, first);
}

/// Replicas that begin anew know the rules, and so does whoever reads their files: nothing before `first` is there. The last
/// message is in the files of a quorum: who is killed may not have had it yet.
fn files_know_the_rules(mut shard: Shard, first: u64) {
    shard.replicas.clear();
    for replica in 0..3 {
        let peers = shard.peers();
        let process = shard.run(replica, &["--peers", &peers]);
        shard.replicas.push(Some(process));
    }
    say(&mut shard, 1);
    let after = shown(&shard, "retention show", &["--room", "general"]);
    assert_eq!(after["first"], json!(first.to_string()), "{after}");
    assert_eq!(after["of_tenant"]["messages"], json!(20), "{after}");
    let head: u64 = after["head"].as_str().unwrap().parse().unwrap();
    let mut heads = Vec::new();
    shard.edge = None;
    shard.replicas.clear();
    for replica in 0..3 {
        let (file, out) = (shard.file(replica), shard.folder.join(format!("general-{replica}.jsonl")));
        let run = |words: &[&str]| tigerchat().args(words).output().unwrap();
        let (file, out) = (file.to_str().unwrap(), out.to_str().unwrap());
        for words in [&["export", "--room", "general", "--file", file, "--out", out][..], &["verify", file]] {
            let done = run(words);
            assert!(done.status.success(), "{words:?}: {done:?}");
        }
        let verified = run(&["verify", "--json", out]);
        let verified: Value = serde_json::from_slice(&verified.stdout).unwrap();
        heads.push(verified["head"].as_u64().unwrap());
        assert!(!std::fs::read_to_string(out).unwrap().contains("number 9\\\""), "{verified}");
    }
    heads.sort_unstable();
    assert!(heads[0] <= head && heads[1..] == [head, head], "{heads:?}, and {head} was said");
}

#[test]
fn what_format_says_is_the_rule_of_all_rooms() {
    let folder = std::env::temp_dir().join(format!("tigerchat-retention-format-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("data");
    let format = |options: &[&str]| {
        let words = ["format", "--cluster", "new", "--replica", "0", "--replicas", "1", "--size", "dev"];
        tigerchat().args(words).args(options).arg(&file).output().unwrap()
    };
    for wrong in [&["--retain-age", "7"][..], &["--retain-messages", "0"], &["--threads", "4294967295"]] {
        let refused = format(wrong);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("expected"), "{wrong:?}: {said}");
        assert!(!file.exists());
    }
    let made = format(&["--retain-age", "90d", "--retain-messages", "5000", "--threads", "17"]);
    assert!(made.status.success(), "{made:?}");
    let zone = std::fs::read(&file).unwrap();
    let limits = tigerchat_core::store::superblock::Superblock::open(&zone[..32768]).unwrap().config.limits;
    assert_eq!((limits.room_age_s, limits.room_messages, limits.threads), (90 * 86_400, 5_000, 17));
    let _ = std::fs::remove_dir_all(&folder);
}
