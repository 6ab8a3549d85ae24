//! The command line: `--help` teaches, errors say what was expected, what was found and what to do.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use tigerchat_core::chat::Limits;
use tigerchat_core::wire::retention::FOREVER;

use crate::disk::Mode;
use crate::launch::Size;
use crate::operator::retention::{Age, Count};
use crate::signing::PublicKey;
use crate::texts::{At, Chain, Period};

/// A distributed, fault-tolerant chat backend. Every room is one ordered, replicated, hash-chained log.
///
/// Try it: `tigerchat dev`, then open the address that it prints.
#[derive(Debug, Parser)]
#[command(name = "tigerchat", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs three replicas and an edge in this process, on loopback, with a demo page.
    Dev(Dev),
    /// Makes a replica's data file. Never overwrites.
    Format(Format),
    /// Runs a replica on its data file.
    Start(Start),
    /// Runs an edge: WebSocket and HTTP, and the line protocol.
    Edge(Edge),
    /// Shows the members of a running shard: their roles, and how far each has the log.
    Members(Shard),
    /// Adds a new replica to a running shard, that receives the log and counts for nothing.
    Standby(Join),
    /// Makes a standby that has caught up a voter.
    Promote(One),
    /// Removes a replica for good.
    Remove(One),
    /// Puts a new replica in the place of one whose disk is lost.
    ReplaceReplica(Replace),
    /// Takes the content of a message away, whoever wrote it: nobody is served it from then on.
    ///
    /// The message keeps its place, author, time and chain value, and the room says who erased it. With `--now` every
    /// replica overwrites at once what its disk still holds of it, and the command ends when all have said so.
    Erase(Erase),
    /// How long messages are kept: shows it, or changes it while the shard runs.
    Retention(Retention),
    /// Shows what a stopped replica's data file holds. Changes nothing.
    Inspect(Inspect),
    /// Makes master keys, and changes the keys of a data file.
    Key(Key),
    /// Writes a room of a data file as a text that people read and that verifies itself.
    ///
    /// The text is JSON lines: what room this is, a line for each message with all that its chain value is made of, and a
    /// last line with the chain value at the head and a digest of all before it. `tigerchat verify` needs nothing else.
    Export(Export),
    /// Checks an exported room, or the data file of a stopped replica: every link, every digest.
    ///
    /// Ends with 0 when all is whole, with 1 when something is not, with 2 when it is nothing that can be checked.
    Verify(Verify),
    /// Copies a shard from a replica's data file, also while the replica serves from it. Changes nothing.
    ///
    /// The backup is one moment of that replica: its newest checkpoint and the log behind it, up to what it had when the
    /// copying began. It is a folder with a digest for each file, and holds what the data file holds: guard it as well.
    Backup(Backup),
    /// Makes a data file of a new cluster out of a backup.
    ///
    /// Run it once for each replica of the shard, from one and the same backup and with one and the same cluster. Rooms,
    /// sequences and chains go on as they were. Clients and edges of the old cluster do not reach the new one by mistake.
    Restore(Restore),
    /// Makes a token for a user, and the line for the edge's tokens file.
    Token(Token),
    /// Measures acknowledged messages per second and their latencies.
    Bench(Bench),
    /// Prints the version and the formats that this release reads and writes.
    Version,
}

#[derive(Debug, Args)]
pub struct Dev {
    /// Where the data files lie; made if need be. Started again, it finds its rooms again.
    #[arg(long, default_value = "tigerchat-data")]
    pub dir: PathBuf,
    /// Forget everything at the end: data in a temporary folder.
    #[arg(long, conflicts_with = "dir")]
    pub ephemeral: bool,
    /// Port for browsers, WebSocket and HTTP; 0 takes any free one.
    #[arg(long, default_value_t = 7878)]
    pub port: u16,
    /// Port for the line protocol; 0 takes any free one.
    #[arg(long, default_value_t = 7879)]
    pub line_port: u16,
    /// How data files are written.
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    pub io: Mode,
}

#[derive(Debug, Args)]
pub struct Format {
    /// The data file to make.
    pub file: PathBuf,
    /// The cluster, 32 hexadecimal digits: the same for all its replicas. `new` draws one and prints it.
    #[arg(long)]
    pub cluster: String,
    /// Which replica this is, from 0.
    #[arg(long)]
    pub replica: u16,
    /// The file is for a replica that joins a running shard, with an id above all that it ever had.
    #[arg(long, conflicts_with_all = ["replicas", "replication_quorum"])]
    pub standby: bool,
    /// How many replicas the shard has: 1 to 7. One less than half of them may fail, so 3 or 5 are usual.
    #[arg(long, default_value_t = 3)]
    pub replicas: u8,
    /// Replicas that must have a message on their disks before it is acknowledged: a majority unless given. Fewer make
    /// an acknowledgement quicker, and ask for more votes to elect: 3 of 6 replicas means 4 votes.
    #[arg(long)]
    pub replication_quorum: Option<u8>,
    /// Seal the file: encrypt all messages in it with a key of its own, wrapped by the master key in this file. Who
    /// loses that loses the data file. `tigerchat key make` makes one; keep it on another disk. Without this the key is
    /// looked for in TIGERCHAT_MASTER_KEY_FILE (a file) and TIGERCHAT_MASTER_KEY (the key itself).
    #[arg(long, value_name = "KEY FILE")]
    pub key: Option<PathBuf>,
    /// Leave the file as anybody can read it who has the disk. Files of `--size dev` need not say so.
    #[arg(long, conflicts_with = "key")]
    pub unsealed: bool,
    /// Sizes: they can't be changed later. A file has a fixed part, made at once, and grows by steps as history grows.
    #[arg(long, value_enum, default_value_t = Size::Standard)]
    pub size: Size,
    #[command(flatten)]
    pub limits: FormatLimits,
}

/// What of the shard's limits is chosen by hand: the same for all its replicas, as the size is.
#[derive(Debug, Args)]
pub struct FormatLimits {
    /// How many messages of each room are kept, unless `tigerchat retention set` says otherwise: a number, or `forever`.
    /// The oldest go first. The same for all replicas of the shard.
    #[arg(long, value_name = "NUMBER", default_value = "forever")]
    pub retain_messages: Count,
    /// How old messages may become, unless `tigerchat retention set` says otherwise: 30s, 15m, 12h, 90d, 8w, or
    /// `forever`. The same for all replicas of the shard.
    #[arg(long, value_name = "AGE", default_value = "forever")]
    pub retain_age: Age,
    /// Threads that the shard has room for at a time, of those that have replies; 0: none. The same for all replicas of
    /// the shard. Without it, as many as fit the size.
    #[arg(long, value_name = "NUMBER")]
    pub threads: Option<u32>,
}

impl FormatLimits {
    pub fn apply(&self, limits: &mut Limits) {
        let rule = |rule| if rule == FOREVER { 0 } else { rule };
        limits.room_messages = rule(self.retain_messages.0);
        limits.room_age_s = rule(self.retain_age.0);
        limits.threads = self.threads.unwrap_or(limits.threads);
    }
}

#[derive(Debug, Args)]
pub struct Start {
    /// The replica's data file.
    pub file: PathBuf,
    /// Addresses of all replicas in order, this one's among them: 127.0.0.1:7001,127.0.0.1:7002,... or
    /// 0=127.0.0.1:7001,3=127.0.0.1:7004,... Those that came later are known from the members.
    #[arg(long, value_delimiter = ',')]
    pub peers: Vec<At>,
    /// Where this replica listens, if that is not among --peers.
    #[arg(long)]
    pub listen: Option<SocketAddr>,
    /// How the data file is written.
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    pub io: Mode,
    /// The file with the master key, if the data file is sealed and the environment does not have it.
    #[arg(long, value_name = "KEY FILE")]
    pub key: Option<PathBuf>,
    /// Keep the shard in the release that it is in, also when all its replicas have a newer binary.
    #[arg(long)]
    pub hold_release: bool,
    /// Everything in the data file is read again within this time, so that what rots is found while other replicas still
    /// have it, and repaired: 30s, 15m, 12h, 90d, 8w. At most 64 MiB are read in a second, and a small file is read more often.
    #[arg(long, value_name = "TIME", default_value = "1d")]
    pub scrub_cycle: Period,
    /// For measurements: while a checkpoint is being made the first byte of this file is 1, else 0.
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    pub tell_checkpoints: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Edge {
    /// The cluster, 32 hexadecimal digits, as `format` printed it.
    #[arg(long)]
    pub cluster: String,
    /// Addresses of replicas, in order, or with their ids: 0=127.0.0.1:7001,3=127.0.0.1:7004. The others are learnt.
    #[arg(long, value_delimiter = ',', required = true)]
    pub replicas: Vec<At>,
    /// Where WebSocket and HTTP clients come.
    #[arg(long, default_value = "127.0.0.1:7878")]
    pub listen: SocketAddr,
    /// Where line clients come; none if absent.
    #[arg(long)]
    pub line: Option<SocketAddr>,
    /// A file of lines `USER SHA256`, as `tigerchat token` prints them.
    #[arg(long)]
    pub tokens: PathBuf,
    /// The size that the replicas were formatted with.
    #[arg(long, value_enum, default_value_t = Size::Standard)]
    pub size: Size,
}

/// A running shard.
#[derive(Debug, Args)]
pub struct Shard {
    /// The cluster, 32 hexadecimal digits, as `format` printed it.
    #[arg(long)]
    pub cluster: String,
    /// Addresses of replicas, in order, or with their ids: 0=127.0.0.1:7001,3=127.0.0.1:7004. The others are learnt.
    #[arg(long, value_delimiter = ',', required = true)]
    pub replicas: Vec<At>,
}

#[derive(Debug, Args)]
pub struct Join {
    #[command(flatten)]
    pub shard: Shard,
    /// The id of the new replica, as its file was formatted.
    #[arg(long)]
    pub replica: u16,
    /// Where it listens.
    #[arg(long)]
    pub address: SocketAddr,
}

#[derive(Debug, Args)]
pub struct One {
    #[command(flatten)]
    pub shard: Shard,
    /// The replica.
    #[arg(long)]
    pub replica: u16,
}

#[derive(Debug, Args)]
pub struct Replace {
    /// The replica whose disk is lost.
    #[arg(long)]
    pub lost: u16,
    #[command(flatten)]
    pub join: Join,
}

#[derive(Debug, Args)]
pub struct Erase {
    #[command(flatten)]
    pub shard: Shard,
    /// The room's name.
    #[arg(long)]
    pub room: String,
    /// Whose room.
    #[arg(long, default_value_t = 1)]
    pub tenant: u32,
    /// The message's sequence.
    #[arg(long, required_unless_present = "from", conflicts_with = "from")]
    pub seq: Option<u64>,
    /// Instead: all messages from this sequence
    #[arg(long, requires = "to")]
    pub from: Option<u64>,
    /// ... to this one, 256 at most; what retention removed and what is no message is passed over.
    #[arg(long, requires = "from")]
    pub to: Option<u64>,
    /// Rid the disks of all replicas of it now, and wait for that.
    #[arg(long)]
    pub now: bool,
}

#[derive(Debug, Args)]
pub struct Retention {
    #[command(subcommand)]
    pub what: RetentionCommand,
}

#[derive(Debug, Subcommand)]
pub enum RetentionCommand {
    /// Sets how long messages of a room are kept, or, without --room, of all rooms of a tenant that have no rules of
    /// their own. What was not named stays as it is.
    ///
    /// From then on nobody is served what is gone by this; the disks are rid of it as their runs are merged
    /// (docs/storage.md, "Retention"). It does not come back, also when more is kept again later. A room's rules go
    /// before its tenant's, and these before what `format` said; each for itself.
    Set(RetentionSet),
    /// Shows the rules of a room, of its tenant and of `format`, which of them are in force, and where history begins.
    Show(RetentionOf),
}

/// Whose rules.
#[derive(Debug, Args)]
pub struct RetentionOf {
    #[command(flatten)]
    pub shard: Shard,
    /// The room's name. Without it, the tenant's default.
    #[arg(long)]
    pub room: Option<String>,
    /// Whose room.
    #[arg(long, default_value_t = 1)]
    pub tenant: u32,
    /// JSON for scripts: one object.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct RetentionSet {
    #[command(flatten)]
    pub of: RetentionOf,
    /// How many of the newest messages are kept: a number, `forever`, or `default`: as whoever is above says.
    #[arg(long, value_name = "NUMBER")]
    pub messages: Option<Count>,
    /// How old messages may become: 30s, 15m, 12h, 90d, 8w, `forever`, or `default`: as whoever is above says.
    #[arg(long, value_name = "AGE")]
    pub age: Option<Age>,
}

#[derive(Debug, Args)]
pub struct Inspect {
    /// The data file of a stopped replica.
    pub file: PathBuf,
    /// Print every message of every room, as history and the log have them.
    #[arg(long)]
    pub log: bool,
    /// Read every block of the checkpoint and say which are damaged.
    #[arg(long)]
    pub verify: bool,
    /// The file with the master key, if the data file is sealed and the environment does not have it.
    #[arg(long, value_name = "KEY FILE")]
    pub key: Option<PathBuf>,
    /// One JSON object per line.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Key {
    #[command(subcommand)]
    pub what: KeyCommand,
}

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Makes a file with a new master key. Never overwrites; only its owner may read it.
    Make {
        /// The file to make.
        file: PathBuf,
    },
    /// Prints the id of a master key: of that in a file, or of that in the environment.
    Id { file: Option<PathBuf> },
    /// Makes a file with a new signing key (Ed25519), for backups, and prints its public key. Never overwrites.
    MakeSigning {
        /// The file to make.
        file: PathBuf,
    },
    /// Prints the public key of a signing key: what `restore --signed-by` asks for. It is no secret.
    Public {
        /// The file that `key make-signing` made.
        file: PathBuf,
    },
    /// Changes a key of the data file of a stopped replica; the other replicas go on.
    ///
    /// Without --to, the file's own key: all that is in the file is sealed anew, which takes as long as reading and writing
    /// it, and may be interrupted: the file opens all the while, and the same command goes on. With --to, the master key:
    /// done at once, and nothing else is written.
    Rotate(Rotate),
}

#[derive(Debug, Args)]
pub struct Rotate {
    /// The data file of a stopped replica.
    pub file: PathBuf,
    /// The file with the master key that the data file is sealed with, unless the environment has it.
    #[arg(long, value_name = "KEY FILE")]
    pub key: Option<PathBuf>,
    /// The file with the master key that it is to be sealed with from now on.
    #[arg(long, value_name = "KEY FILE")]
    pub to: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Export {
    /// The data file of a stopped replica, or a copy of one.
    #[arg(long)]
    pub file: PathBuf,
    /// The room's name; `tigerchat inspect FILE` lists those that there are.
    #[arg(long)]
    pub room: String,
    /// Whose room.
    #[arg(long, default_value_t = 1)]
    pub tenant: u32,
    /// Where the text goes; never overwritten. Without it, to standard output.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// The file with the master key, if the data file is sealed. The export is not.
    #[arg(long, value_name = "KEY FILE")]
    pub key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Verify {
    /// What `tigerchat export` wrote, or a replica's data file (as `inspect --verify` reads it).
    pub file: PathBuf,
    /// The chain value that the head must have, 64 hexadecimal digits: as a client, an edge or `inspect` showed it.
    #[arg(long)]
    pub chain: Option<Chain>,
    /// The file with the master key, if it is a data file that is sealed.
    #[arg(long, value_name = "KEY FILE")]
    pub key: Option<PathBuf>,
    /// JSON for scripts: one object for an export.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Backup {
    /// The data file, of a replica that runs or is stopped.
    #[arg(long)]
    pub file: PathBuf,
    /// The folder to make; never overwritten.
    #[arg(long)]
    pub out: PathBuf,
    /// The file with the master key, if the data file is sealed: the backup is sealed with it too.
    #[arg(long, value_name = "KEY FILE")]
    pub key: Option<PathBuf>,
    /// Sign the backup with the key in this file, so that `restore` can tell who made it and that nobody has changed it
    /// since. `tigerchat key make-signing` makes one. Without this it is looked for in TIGERCHAT_SIGNING_KEY_FILE.
    #[arg(long, value_name = "KEY FILE")]
    pub sign_key: Option<PathBuf>,
    /// Make a backup that nobody has signed. Of files of the size `dev` it need not be said.
    #[arg(long, conflicts_with = "sign_key")]
    pub unsigned: bool,
}

#[derive(Debug, Args)]
pub struct Restore {
    /// The folder that `tigerchat backup` made.
    #[arg(long)]
    pub from: PathBuf,
    /// The new cluster, 32 hexadecimal digits: the same for all its replicas. `new` draws one and prints it.
    #[arg(long)]
    pub cluster: String,
    /// Which replica this is: one of the members that the shard had.
    #[arg(long)]
    pub replica: u16,
    /// The data file to make; never overwritten.
    #[arg(long)]
    pub out: PathBuf,
    /// The file with the master key that the data file is to be sealed with, unless the environment has it; and that the
    /// backup is sealed with, unless --backup-key names that.
    #[arg(long, value_name = "KEY FILE")]
    pub key: Option<PathBuf>,
    /// The file with the master key that the backup is sealed with.
    #[arg(long, value_name = "KEY FILE")]
    pub backup_key: Option<PathBuf>,
    /// Leave the data file as anybody can read it who has the disk. Files of the size `dev` need not say so.
    #[arg(long)]
    pub unsealed: bool,
    /// Whose signature the backup must have: a public key, as `tigerchat key public` prints it.
    #[arg(long, value_name = "PUBLIC KEY")]
    pub signed_by: Option<PublicKey>,
    /// Restore from a backup whoever made it.
    #[arg(long, conflicts_with = "signed_by")]
    pub unverified: bool,
}

#[derive(Debug, Args)]
pub struct Token {
    /// The user whose token it is to be.
    pub user: String,
}

#[derive(Debug, Args)]
pub struct Bench {
    /// Start a cluster of our own in a temporary folder and measure that.
    #[arg(long)]
    pub dev: bool,
    /// Address of a running edge.
    #[arg(long, conflicts_with = "dev", required_unless_present = "dev")]
    pub edge: Option<SocketAddr>,
    /// A file with the token to use (not needed with --dev).
    #[arg(long)]
    pub token_file: Option<PathBuf>,
    /// Messages in flight, one run for each.
    #[arg(long, value_delimiter = ',', default_value = "1,64,1024", value_parser = clap::value_parser!(u32).range(1..))]
    pub windows: Vec<u32>,
    /// Seconds for each run.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,
    /// Runs for each window: the median is shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// Bytes of a message's body.
    #[arg(long, default_value_t = 100)]
    pub size: usize,
    /// Rooms to publish in, bench-0 and so on, evenly; with 1 each run has a room of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub rooms: u32,
    /// A run ends after so many messages, not by time.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub messages: Option<u64>,
    /// Instead of publishing: so many pages of 50 messages, one after the other, each at a random place of one of the
    /// rooms.
    #[arg(long, default_value_t = 0, requires = "edge")]
    pub pages: u32,
    /// Files into which replicas tell when they make checkpoints (`start --tell-checkpoints`): latencies are told apart
    /// by it.
    #[arg(long, value_delimiter = ',', requires = "edge")]
    pub checkpoints: Vec<PathBuf>,
    /// JSON for scripts.
    #[arg(long)]
    pub json: bool,
}
