//! `tigerchat dev` from outside: it finds its data again, and bad guests harm nobody.

mod house;

use std::io::{Read, Write};

use house::{Dev, connect, folder, hear, say};

/// What a request of these bytes is answered, to the end of the connection.
fn ask(dev: &Dev, request: &[u8]) -> String {
    let mut stream = connect(&dev.web);
    stream.write_all(request).expect("it reads");
    let mut answer = Vec::new();
    // A refusal may reset what was not read; what was answered before counts.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn what_was_said_is_there_after_a_restart() {
    let folder = folder("restart");
    let mut dev = Dev::start(&folder);
    let (mut ada, mut bob) = (dev.line_client(), dev.line_client());
    for client in [&mut ada, &mut bob] {
        say(client, "join general\n");
        hear(client, "joined general");
    }
    say(&mut ada, "send kept for ever\n");
    hear(&mut bob, "kept for ever");
    dev.stop();

    let mut dev = Dev::start(&folder);
    let mut carol = dev.line_client();
    say(&mut carol, "join general\n");
    hear(&mut carol, "joined general");
    say(&mut carol, "history\n");
    hear(&mut carol, "kept for ever");
    dev.stop();
    std::fs::remove_dir_all(folder).expect("ours");
}

#[test]
fn bad_guests_are_refused_and_harm_nobody() {
    let folder = folder("guests");
    let mut dev = Dev::start(&folder);
    let host = format!("Host: {}\r\n", dev.web);
    assert!(ask(&dev, b"\x16\x03\x01 nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));
    let large = format!("GET / HTTP/1.1\r\n{host}A: {}\r\n\r\n", "x".repeat(9 * 1024));
    assert!(ask(&dev, large.as_bytes()).starts_with("HTTP/1.1 400"), "a head of more than 8 KiB");
    let other = b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    assert!(ask(&dev, other).starts_with("HTTP/1.1 403"), "a name that is not ours");
    let large = format!("POST /v1/rpc HTTP/1.1\r\n{host}Content-Length: 99999999\r\n\r\n");
    assert!(ask(&dev, large.as_bytes()).starts_with("HTTP/1.1 413"));
    // Half a request and then silence: the server ends it, long before the test loses patience.
    assert_eq!(ask(&dev, b"GET / HTTP/1.1\r\nHo"), "");

    let mut ada = dev.line_client();
    say(&mut ada, "\x01\x02 nonsense\n");
    hear(&mut ada, "!");
    say(&mut ada, "join general\n");
    hear(&mut ada, "joined general");
    say(&mut ada, "send still here\n");
    hear(&mut ada, "still here");
    dev.stop();
    std::fs::remove_dir_all(folder).expect("ours");
}
