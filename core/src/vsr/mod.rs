//! Replication: one Viewstamped Replication group per shard.

pub mod machine;
pub mod replica;
