//! Observations in words, one line each.

use io_sim::history::{Observation, SeenMessage, What};
use tigerchat_core::types::Address;
use tigerchat_core::vsr::load::Load;

/// One line about what happened.
#[must_use]
pub fn tell(seen: &Observation) -> String {
    format!("{:>12.6} s  {}", seconds(seen), told(&seen.what))
}

#[expect(clippy::cast_precision_loss, reason = "for a person to read; nothing is decided by it")]
fn seconds(seen: &Observation) -> f64 {
    seen.at.0 as f64 / 1e9
}

/// The same without its time.
#[must_use]
pub fn told(what: &What) -> String {
    match what {
        What::Executed { .. }
        | What::Members { .. }
        | What::Release { .. }
        | What::Clock { .. }
        | What::Position { .. }
        | What::Checkpointed { .. }
        | What::StateLost { .. }
        | What::Crashed { .. }
        | What::Started { .. }
        | What::Cleared { .. }
        | What::Waits { .. } => of_replica(what),
        What::Fuller { at, load: Load { what, holds, limit } } => {
            format!("{}: {what}: {holds} of {limit} at most", name_of(*at))
        }
        What::Healed { core } => {
            let core: Vec<u16> = core.iter().map(|replica| replica.0).collect();
            format!("a quorum is healed for good: replicas {core:?}")
        }
        What::Quiet => "all is quiet".into(),
        _ => of_user(what),
    }
}

fn of_replica(what: &What) -> String {
    match what {
        What::Executed { replica, op, entry, entry_view, .. } => {
            format!("replica {} executed op {op} (made in view {entry_view}): {entry:?}", replica.0)
        }
        What::Members { replica, members } => {
            let ids = |ids: Vec<u16>| ids.iter().map(u16::to_string).collect::<Vec<_>>().join(" ");
            let voters = ids(members.voters().map(|id| id.0).collect());
            let all = ids(members.ids().map(|id| id.0).collect());
            format!("replica {} acts by members {}: voters {voters} of {all}", replica.0, members.number)
        }
        What::Clock { replica, ahead } => {
            format!("replica {}: its wall clock is {} ms ahead", replica.0, ahead / 1_000_000)
        }
        What::Release { replica, op, release } => {
            format!("replica {} executed op {op} under release {release}", replica.0)
        }
        What::Position { replica, incarnation, view, log_view, op, commit, checkpoint } => format!(
            "replica {} stands at view {view} (log {log_view}), op {op}, commit {commit}, checkpoint {checkpoint}, \
             incarnation {incarnation}",
            replica.0
        ),
        What::Checkpointed { replica, op, state } => {
            format!("replica {} has a checkpoint of op {op}: {state:?}", replica.0)
        }
        What::StateLost { replica, sound_disk } => {
            let disk = if *sound_disk { "sound" } else { "not sound" };
            format!("replica {} can't read its checkpoint; its disk is {disk}", replica.0)
        }
        What::Crashed { replica, power: true } => format!("replica {} lost power", replica.0),
        What::Crashed { replica, power: false } => format!("replica {} was killed", replica.0),
        What::Started { replica } => format!("replica {} started", replica.0),
        What::Cleared { replica, due, op, holds } => format!(
            "replica {} says that what was erased up to op {op} (asked: {due}) is gone; of {} bodies there is something",
            replica.0,
            holds.len()
        ),
        What::Waits { replica, what } => format!("replica {}: {what}", replica.0),
        other => format!("{other:?}"),
    }
}

fn of_user(what: &What) -> String {
    match what {
        What::Published { user, call, room, author, key, parent, body } => format!(
            "user {} ({author}) publishes {} bytes to {room}{}: call {}, key {}",
            user.0,
            body.len(),
            if *parent > 0 { format!(", as an answer to message {parent}") } else { String::new() },
            call.0,
            hex(&key.0)
        ),
        What::Acknowledged { user, call, seq, op, index, duplicate, .. } => format!(
            "user {} has call {} acknowledged as message {seq} (op {op}, index {index}){}",
            user.0,
            call.0,
            if *duplicate { ", a duplicate" } else { "" }
        ),
        What::Erases { user, call, room, seq } => {
            format!("user {} erases message {seq} of {room}: call {}", user.0, call.0)
        }
        What::Subscribes { user, room } => format!("user {} asks to be subscribed to {room}", user.0),
        What::Refused { user, call, error } => {
            format!("user {} has call {} refused: {}", user.0, call.0, error.entry().name)
        }
        What::Subscribed { user, room, epoch, next } => {
            format!("user {} subscribed to {room} (epoch {epoch}), message {next} is next", user.0)
        }
        What::Unsubscribed { user, room } => format!("user {} is no longer subscribed to {room}", user.0),
        What::Delivered { user, message } => format!("user {} got {}", user.0, told_message(message)),
        What::HistoryCalled { user, call, room, asked, .. } => {
            format!("user {} asks for the history of {room} ({asked:?}): call {}", user.0, call.0)
        }
        What::HistoryRead { user, call, room, head, messages, .. } => format!(
            "user {} has call {} answered: {} messages of {room}, whose head is {head}",
            user.0,
            call.0,
            messages.len()
        ),
        What::Entered { user, room } => format!("user {} entered {room}", user.0),
        What::Left { user, room } => format!("user {} left {room}", user.0),
        other => format!("{other:?}"),
    }
}

fn told_message(message: &SeenMessage) -> String {
    let (seq, room, author, key) = (message.seq, &message.room, &message.author, hex(&message.key.0));
    format!("message {seq} of {room} by {author}, key {key}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A process as a person knows it.
pub(crate) fn name_of(address: Address) -> String {
    match address {
        Address::Replica { replica, .. } => format!("replica {}", replica.0),
        Address::Edge(edge) => format!("edge {}", edge.0),
    }
}

#[cfg(test)]
mod tests {
    use tigerchat_core::types::{Instant, ReplicaId};

    use super::*;

    #[test]
    fn an_observation_reads_like_a_sentence() {
        let what = What::Crashed { replica: ReplicaId(2), power: true };
        let seen = Observation { at: Instant(1_500_000_000), what };
        assert_eq!(tell(&seen), "    1.500000 s  replica 2 lost power");
    }
}
