//! Seeds in swarms.
#![forbid(unsafe_code)]

fn main() {}
