//! The error registry: every number that a client or an operator can meet.
//!
//! Append-only: a number, once released, keeps its meaning for ever. `docs/errors.md` is generated from here
//! (`cargo xtask errors`). Ranges: 10xxx general, 11xxx limits, 12xxx cluster, 13xxx writes, 14xxx positions,
//! 15xxx content, 16xxx operations, 17xxx data files
//! and their keys, 40xxx for applications. Zero is success and never shown.

use core::fmt;

/// One entry of the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub code: u32,
    pub name: &'static str,
    /// Whether the same call may succeed later without a change by the caller.
    pub temporary: bool,
    /// What went wrong, in one sentence for people.
    pub message: &'static str,
    /// What the client does next.
    pub action: &'static str,
}

macro_rules! registry {
    ($($variant:ident = $code:literal, $name:literal, $temporary:literal, $message:literal, $action:literal;)*) => {
        /// An error of the registry. On the wire it is its number.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum ErrorCode { $(#[doc = $message] $variant = $code,)* }

        /// All errors, in ascending order of their numbers.
        pub const REGISTRY: &[Entry] = &[$(Entry {
            code: $code, name: $name, temporary: $temporary, message: $message, action: $action,
        },)*];

        impl ErrorCode {
            /// The error with this number.
            #[must_use]
            pub fn from_code(code: u32) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

registry! {
    Malformed = 10001, "malformed", false, "the frame is not a valid command", "fix the client; the connection lives";
    UnknownMethod = 10002, "unknown_method", false, "the method does not exist", "fix the client or use a newer server";
    NotConnected = 10003, "not_connected", false, "the first command must be connect (or login)", "send connect first";
    AlreadyConnected = 10004, "already_connected", false, "this connection has already connected", "go on without a second connect";
    Unauthenticated = 10005, "unauthenticated", false, "the token is not valid", "get a fresh token";
    Forbidden = 10006, "forbidden", false, "the token or the role does not allow this", "ask for the right";
    Unsupported = 10007, "unsupported", false, "the method exists but this release does not serve it", "use a newer server";
    Internal = 10008, "internal", true, "the server met a fault of its own", "retry with the same key";
    FrameTooLarge = 11001, "frame_too_large", false, "the frame is larger than the announced limit", "send smaller frames";
    BodyTooLarge = 11002, "body_too_large", false, "the message body is larger than the announced limit", "send a smaller body";
    TooManyInFlight = 11003, "too_many_in_flight", true, "this connection has as many commands in flight as it may", "wait for replies, then retry";
    Overloaded = 11004, "overloaded", true, "the server has no room for more work now", "retry with the same key after a pause";
    TooManySubscriptions = 11005, "too_many_subscriptions", false, "this connection has as many subscriptions as it may", "unsubscribe from a room first";
    TooManyRooms = 11006, "too_many_rooms", false, "the shard hosts as many rooms as it may", "ask the operator";
    TooManyConnections = 11007, "too_many_connections", true, "the edge serves as many connections as it may", "reconnect later or to another edge";
    TooManyPresent = 11008, "too_many_present", true, "the shard tracks as many present users as it may", "go on without presence";
    StorageFull = 11009, "storage_full", true, "the shard's storage has no room for more; reads go on", "retry with the same key after a pause, and tell the operator";
    TooManyThreads = 11010, "too_many_threads", false, "the shard holds as many threads as it may", "say it without a parent, or ask the operator";
    TooManyErasures = 11011, "too_many_erasures", true, "as many erased messages as may be wait for a checkpoint", "retry with the same key after a pause";
    TooManyPolicies = 11012, "too_many_policies", false, "the shard keeps defaults of retention for as many tenants as it may", "set another tenant's rules back to `default`, or give the rooms rules of their own";
    NoLeader = 12001, "no_leader", true, "the shard has no reachable primary right now", "retry with the same key";
    OutcomeUnknown = 12002, "outcome_unknown", true, "the command may or may not have been committed", "retry with the same key";
    Behind = 12003, "behind", true, "no reachable replica has caught up with your position", "retry after a pause";
    GoingAway = 12004, "going_away", true, "the edge is about to stop", "reconnect elsewhere";
    RoomUnknown = 13001, "room_unknown", false, "no room of that name exists", "open the room first";
    KeyConflict = 13002, "key_conflict", false, "the key was used before with other content; seq names the first message", "use a fresh key for another message";
    KeyTooOld = 13003, "key_too_old", false, "the key is older than the deduplication horizon", "send it as a new message with a fresh key, if it was never sent";
    KeyFromFuture = 13004, "key_from_future", false, "the key's time is more than 60 s ahead of the cluster", "correct the client's clock by server_time; if the key was sent before, look in the history first";
    ExpectationFailed = 13005, "expectation_failed", false, "expect_seq is not the room's head; seq names the head", "read on from your position, then decide again";
    RoomNameInvalid = 13006, "room_name_invalid", false, "a room name is 1 to 128 of A-Z a-z 0-9 . _ : -", "choose another name";
    UserNameInvalid = 13007, "user_name_invalid", false, "a user name is 1 to 64 printable characters without spaces", "choose another name";
    NotErasable = 13008, "not_erasable", false, "this entry of the room is not a message", "look at its kind";
    PositionGone = 14001, "position_gone", false, "retention removed this position; first says where history begins", "resubscribe from first";
    EpochMismatch = 14002, "epoch_mismatch", false, "the room was created anew since this cursor was made", "drop the local copy and resubscribe";
    PositionAhead = 14003, "position_ahead", false, "the position is beyond the head of the room", "resubscribe from the head";
    NotSubscribed = 14004, "not_subscribed", false, "this connection is not subscribed to the room", "subscribe first";
    AlreadySubscribed = 14005, "already_subscribed", false, "this connection is already subscribed to the room", "unsubscribe first";
    PositionConflict = 14006, "position_conflict", false, "more than one of from, before, around and times was given", "ask for one of them";
    RangeEmpty = 14007, "range_empty", false, "since_time is not before until_time", "swap them or widen the range";
    KeyInvalid = 15001, "key_invalid", false, "a key is 32 hexadecimal digits, a UUIDv7 or a ULID layout", "make a proper key";
    BodyMissing = 15002, "body_missing", false, "the command needs a body", "send one";
    ParentUnknown = 15003, "parent_unknown", false, "the parent message does not exist, or retention removed it", "check the thread's parent";
    KindUnknown = 15004, "kind_unknown", false, "this release knows no message of that kind", "use a newer server";
    ContentTypeInvalid = 15005, "content_type_invalid", false, "a content type is at most 64 bytes", "use a shorter one";
    HostRefused = 16001, "host_refused", false, "the Host or Origin header names another site", "open the address that the server printed";
    ConfigChanged = 16002, "config_changed", false, "the members are no longer those that this change is for", "look at the members, then decide again";
    ChangeInFlight = 16003, "change_in_flight", true, "another change of members is not finished", "retry when it is";
    PrimaryNotSettled = 16004, "primary_not_settled", true, "the primary has not yet committed an entry of its own view and members", "retry after a pause";
    ReplicaUnknown = 16005, "replica_unknown", false, "no such replica is a member, or it is not a voter", "look at the members";
    ReplicaIdUsed = 16006, "replica_id_used", false, "this replica id was given away before, and ids are never reused", "format the new replica with a higher id";
    ReplicaNotStandby = 16007, "replica_not_standby", false, "only a standby can be promoted", "look at the members";
    NotCaughtUp = 16008, "not_caught_up", true, "the standby has not caught up with the log", "retry when it has";
    NoHealthyQuorum = 16009, "no_healthy_quorum", true, "without the replica that leaves, too few voters follow the primary to go on", "bring another voter back first";
    QuorumsUnsafe = 16010, "quorums_unsafe", false, "no quorums of the voters after this change intersect with those before", "change one voter at a time, and keep at least one";
    TooManyReplicas = 16011, "too_many_replicas", false, "a shard has at most 7 voters and 8 members", "remove one first";
    ReleaseUnfit = 16012, "release_unfit", true, "the replica's binary does not run the release of the shard's log", "start it with a binary that does";
    RetentionFixed = 16013, "retention_fixed", false, "the shard was formatted before retention could be changed: it keeps what `format` said", "move to a shard that was formatted by this release";
    KeyMissing = 17001, "key_missing", false, "the master key is needed and was not given", "name its file with --key or TIGERCHAT_MASTER_KEY_FILE, or put it into TIGERCHAT_MASTER_KEY";
    WrongKey = 17002, "wrong_key", false, "the master key is another than the one that this was sealed with", "give the key whose id is asked for; `tigerchat key id` tells the id of one";
    ForeignKey = 17003, "foreign_key", false, "the key that is kept in the file was made for another file, or was altered", "put back the file's own superblock, or replace the replica";
    KeyFileExposed = 17004, "key_file_exposed", false, "the key file may be read by others than its owner", "chmod 600 it, ask who has read it, and rotate the key";
    KeyUnreadable = 17005, "key_unreadable", false, "the master key can't be read, or is none", "`tigerchat key make` makes one: 64 hexadecimal digits";
    KeyUnneeded = 17006, "key_unneeded", false, "a key was given for what is not sealed", "leave --key out";
    SectorsMoved = 17007, "sectors_moved", false, "whole sectors of the file lie where others belong", "look at the disk; start the replica: its peers repair it";
    FormatUnfit = 17008, "format_unfit", false, "the file has a format version that this binary does not read", "use a binary of the release that is named";
    SignerUnnamed = 17009, "signer_unnamed", false, "a backup is to be signed, or is, and nobody said by whom", "`backup --sign-key FILE`, `restore --signed-by PUBLIC-KEY`; or --unsigned, --unverified";
    SignatureWrong = 17010, "signature_wrong", false, "the backup is not signed by whom it should be, or was changed after it was signed", "take another backup; ask who has had this one";
}

impl ErrorCode {
    #[must_use]
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The registry's entry.
    ///
    /// # Panics
    /// Never: the registry holds every variant.
    #[must_use]
    pub fn entry(self) -> &'static Entry {
        let at = REGISTRY.binary_search_by_key(&self.code(), |entry| entry.code);
        &REGISTRY[at.expect("the registry holds every variant, in order")]
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = self.entry();
        write!(f, "{} {}: {} ({})", entry.code, entry.name, entry.message, entry.action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_ascend_and_lead_back_to_their_entries() {
        assert!(REGISTRY.windows(2).all(|pair| pair[0].code < pair[1].code));
        for entry in REGISTRY {
            assert_eq!(ErrorCode::from_code(entry.code).unwrap().entry(), entry);
        }
        assert_eq!(ErrorCode::from_code(0), None);
    }
}
