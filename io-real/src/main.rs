//! The `tigerchat` binary.

fn main() {}
