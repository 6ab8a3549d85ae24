//! All tests of core from outside that may share a process, as one program: each program that has a replica in it compiles
//! the replica anew. Apart are those that count allocations of their whole process, and the corpora of the fuzzers.

mod chaos;
mod cluster;
mod crash_points;
mod edge;
mod erase;
mod failures;
mod forest;
mod gateway;
mod grid;
mod hand_over;
mod hazards;
mod links;
mod membership;
mod promises;
mod promises_lead;
mod promises_load;
mod promises_log;
mod promises_time;
mod releases;
mod replication;
mod retention;
mod room;
mod storage;
mod unnoticed;
