//! Keys of sealed data files: master keys in files or the environment, node keys in superblocks, and the ciphers.
//!
//! The one law: **no byte of a key is ever printed**: not by an error, not by `Debug`. What people see is a key's id.
//! What is derived from what: `docs/formats.md`, "Sector" and "Envelope".

use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use tigerchat_core::errors::ErrorCode;
use tigerchat_core::store::layout::{PAYLOAD, SUPERBLOCK_ZONE};
use tigerchat_core::store::sealing::{
    BOUND, Envelope, KeyId, NodeKeyBefore, SALT, Sealer, Sealing, SectorKey, TAG, WRAPPED, WrongKey,
};
use tigerchat_core::store::superblock::{ShardConfig, Superblock};

use crate::launch::entropy;

/// Bytes of a master key and of a node key.
const KEY: usize = 32;

/// Names the file that the master key is in, where `--key` does not.
pub const KEY_FILE: &str = "TIGERCHAT_MASTER_KEY_FILE";
/// Holds the master key itself, 64 hexadecimal digits.
pub const KEY_ITSELF: &str = "TIGERCHAT_MASTER_KEY";

/// What a wrapped key is for: each use has wrapping keys of its own.
const FOR_NODE: &[u8] = b"tigerchat.v1.wrap";
const FOR_BACKUP: &[u8] = b"tigerchat.v1.wrap-backup";

/// Unwraps the node keys of data files, and the keys of backups.
pub struct MasterKey {
    prk: Prk,
    /// Where it came from, for errors.
    name: String,
    /// It was asked for by `--key`, and is not just there.
    is_asked_for: bool,
}

/// An error with its number.
pub fn numbered(code: ErrorCode, what: impl fmt::Display) -> String {
    let entry = code.entry();
    format!("{} {}: {what}", entry.code, entry.name)
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", KeyId(&self.id()))
    }
}

impl MasterKey {
    /// The key of `--key`, else that of the environment, if there is one.
    pub fn find(flag: Option<&Path>) -> Result<Option<Self>, String> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        match (flag, variable(KEY_FILE), variable(KEY_ITSELF)) {
            (Some(path), _, _) => Ok(Some(Self { is_asked_for: true, ..Self::read(path)? })),
            (None, Some(_), Some(_)) => {
                let what = format!("expected one of {KEY_FILE} and {KEY_ITSELF}, found both");
                Err(numbered(ErrorCode::KeyUnreadable, what))
            }
            (None, Some(path), None) => Self::read(Path::new(&path)).map(Some),
            (None, None, Some(text)) => {
                let key = text.to_str().and_then(|text| parse(text.trim_end())).ok_or_else(|| {
                    let what = format!(
                        "expected {} hexadecimal digits in {KEY_ITSELF}, found something else",
                        2 * KEY
                    );
                    numbered(ErrorCode::KeyUnreadable, what)
                })?;
                Ok(Some(Self::new(&key, format!("the environment ({KEY_ITSELF})"))))
            }
            (None, None, None) => Ok(None),
        }
    }

    /// Reads a key file. Errors say nothing of what is in it.
    pub fn read(path: &Path) -> Result<Self, String> {
        let name = path.display().to_string();
        let key = parse(read_secret(path, "key make")?.trim_end()).ok_or_else(|| {
            let what =
                format!("{name}: expected one line of {} hexadecimal digits, found something else", 2 * KEY);
            numbered(ErrorCode::KeyUnreadable, what)
        })?;
        Ok(Self::new(&key, name))
    }

    fn new(key: &[u8; KEY], name: String) -> Self {
        Self { prk: Salt::new(HKDF_SHA256, b"tigerchat.v1.master").extract(key), name, is_asked_for: false }
    }

    /// By which people tell it from others.
    pub fn id(&self) -> [u8; 8] {
        short(&self.prk, b"tigerchat.v1.id")
    }

    fn wrap(&self, label: &[u8], bound: &[u8], key: &[u8; KEY]) -> [u8; WRAPPED] {
        let (salt, mut key) = (entropy::<SALT>(), *key);
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let wrapping = write_key(&self.prk, label, &salt);
        let tag = wrapping.seal_in_place_separate_tag(nonce, Aad::from(bound), &mut key);
        let tag = tag.expect("32 bytes are not too many");
        let mut wrapped = [0; WRAPPED];
        wrapped[..SALT].copy_from_slice(&salt);
        wrapped[SALT..SALT + KEY].copy_from_slice(&key);
        wrapped[SALT + KEY..].copy_from_slice(tag.as_ref());
        wrapped
    }

    /// None when it is not this master key that wrapped it, or not for this.
    fn unwrap(&self, label: &[u8], bound: &[u8], wrapped: &[u8; WRAPPED]) -> Option<[u8; KEY]> {
        let (salt, rest) = wrapped.split_first_chunk::<SALT>()?;
        let (key, tag) = rest.split_first_chunk::<KEY>()?;
        let (mut key, tag) = (*key, Tag::try_from(tag).ok()?);
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let wrapping = write_key(&self.prk, label, salt);
        wrapping.open_in_place_separate_tag(nonce, Aad::from(bound), tag, &mut key, 0..).ok()?;
        Some(key)
    }

    /// A new node key for a new data file.
    pub fn envelope(&self, config: &ShardConfig) -> Envelope {
        let key = entropy::<KEY>();
        let wrapped = self.wrap(FOR_NODE, &identity(config), &key);
        Envelope { master: self.id(), check: NodeKey::new(&key).check(), wrapped, before: None }
    }

    /// A new node key for a data file that has one, which stays until nothing is left under it.
    pub fn another(&self, config: &ShardConfig, old: &Envelope) -> Envelope {
        let before = Some(NodeKeyBefore { check: old.check, wrapped: old.wrapped });
        Envelope { before, ..self.envelope(config) }
    }

    /// The same node keys under another master key.
    pub fn rewrap(&self, to: &Self, config: &ShardConfig, envelope: &Envelope) -> Result<Envelope, String> {
        self.must_be(&envelope.master, &format_args!("the file of {}", of(config)))?;
        let bound = identity(config);
        let again = |check: &[u8; 8], wrapped: &[u8; WRAPPED]| {
            let key = self.node_key(config, check, wrapped)?;
            Ok::<_, String>(to.wrap(FOR_NODE, &bound, &key))
        };
        let wrapped = again(&envelope.check, &envelope.wrapped)?;
        let before = envelope
            .before
            .map(|before| {
                Ok::<_, String>(NodeKeyBefore { wrapped: again(&before.check, &before.wrapped)?, ..before })
            })
            .transpose()?;
        Ok(Envelope { master: to.id(), check: envelope.check, wrapped, before })
    }

    fn must_be(&self, master: &[u8; 8], what: &dyn fmt::Display) -> Result<(), String> {
        if *master == self.id() {
            return Ok(());
        }
        Err(numbered(
            ErrorCode::WrongKey,
            format!(
                "{what} is sealed with master key {}, found master key {} in {}",
                KeyId(master),
                KeyId(&self.id()),
                self.name
            ),
        ))
    }

    fn node_key(
        &self,
        config: &ShardConfig,
        check: &[u8; 8],
        wrapped: &[u8; WRAPPED],
    ) -> Result<[u8; KEY], String> {
        let key = self.unwrap(FOR_NODE, &identity(config), wrapped);
        key.filter(|key| NodeKey::new(key).check() == *check).ok_or_else(|| {
            numbered(
                ErrorCode::ForeignKey,
                format!(
                    "the key in its superblock was not made for {}: the superblock is that of another data file, or \
                     was altered",
                    of(config)
                ),
            )
        })
    }

    fn open(&self, envelope: &Envelope, config: &ShardConfig) -> Result<NodeKey, String> {
        self.must_be(&envelope.master, &format_args!("the file of {}", of(config)))?;
        let key = NodeKey::new(&self.node_key(config, &envelope.check, &envelope.wrapped)?);
        let before = envelope
            .before
            .map(|before| self.node_key(config, &before.check, &before.wrapped))
            .transpose()?;
        Ok(NodeKey { before: before.map(|before| Box::new(NodeKey::new(&before))), ..key })
    }

    /// A new key for a backup of this shard, and what is kept of it beside the backup.
    pub fn for_backup(&self, config: &ShardConfig) -> (Prk, Wrapped) {
        let key = entropy::<KEY>();
        let wrapped = Wrapped { master: self.id(), wrapped: self.wrap(FOR_BACKUP, &identity(config), &key) };
        (backup_prk(&key), wrapped)
    }

    /// The key of a backup.
    pub fn of_backup(&self, config: &ShardConfig, wrapped: &Wrapped) -> Result<Prk, String> {
        self.must_be(&wrapped.master, &"the backup")?;
        let key = self.unwrap(FOR_BACKUP, &identity(config), &wrapped.wrapped).ok_or_else(|| {
            let what = format!(
                "the key in it was not made for a backup of {}: its parts are of two, or were altered",
                of(config)
            );
            numbered(ErrorCode::ForeignKey, what)
        })?;
        Ok(backup_prk(&key))
    }
}

fn backup_prk(key: &[u8; KEY]) -> Prk {
    Salt::new(HKDF_SHA256, b"tigerchat.v1.backup").extract(key)
}

/// The key of a backup under a master key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrapped {
    pub master: [u8; 8],
    pub wrapped: [u8; WRAPPED],
}

/// The key of one part of a backup, by the salt that the part begins with.
pub fn part_key(backup: &Prk, name: &str, salt: &[u8; SALT]) -> LessSafeKey {
    write_key(backup, &[b"tigerchat.v1.part.", name.as_bytes()].concat(), salt)
}

/// Whose file it is, for people.
fn of(config: &ShardConfig) -> String {
    let ShardConfig { cluster, shard, replica, .. } = config;
    format!("replica {} of shard {} in cluster {cluster}", replica.0, shard.0)
}

/// Makes a key file. Never overwrites.
pub fn make_file(path: &Path) -> Result<MasterKey, String> {
    let key = entropy::<KEY>();
    let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    write_secret(path, &format!("{digits}\n"))?;
    Ok(MasterKey::new(&key, path.display().to_string()))
}

/// Makes a file that only its owner may read. Never overwrites.
pub fn write_secret(path: &Path, line: &str) -> Result<(), String> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(|error| format!("{}: can't be made: {error}", path.display()))
}

/// Reads such a file, which `maker` makes; refuses one that others may read.
pub fn read_secret(path: &Path, maker: &str) -> Result<String, String> {
    let name = path.display();
    let unreadable = |what: String| numbered(ErrorCode::KeyUnreadable, format!("{name}: {what}"));
    let text = std::fs::read_to_string(path).map_err(|error| {
        unreadable(format!("expected a key file: {error}: `tigerchat {maker} FILE` makes one"))
    })?;
    let mode = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(text);
    }
    let what = format!(
        "{name}: expected a key file that only its owner may read, found mode {:o}: chmod 600 it, and ask who has read it",
        mode & 0o777
    );
    Err(numbered(ErrorCode::KeyFileExposed, what))
}

/// The node key of a data file, if it is sealed; or what is wrong. A key that is just there, in the environment, may be for
/// other files.
pub fn sealer(superblock: &Superblock, key: Option<&MasterKey>) -> Result<Sealer, String> {
    match (&superblock.envelope, key) {
        (None, Some(key)) if key.is_asked_for => {
            Err(numbered(ErrorCode::KeyUnneeded, format!("{}: leave --key out", WrongKey::NotSealed)))
        }
        (None, _) => Ok(None),
        (Some(envelope), None) => {
            Err(missing(&format_args!("{}", WrongKey::Missing { master: envelope.master })))
        }
        (Some(envelope), Some(key)) => Ok(Some(Arc::new(key.open(envelope, &superblock.config)?))),
    }
}

/// A key for a new data file, and what its superblock says of it.
pub fn new_sealer(key: &MasterKey, config: &ShardConfig) -> Result<(Envelope, Arc<dyn Sealing>), String> {
    let envelope = key.envelope(config);
    Ok((envelope, Arc::new(key.open(&envelope, config)?)))
}

/// What is said when a key is needed and there is none.
pub fn missing(what: &dyn fmt::Display) -> String {
    let how = format!("name its file with --key or {KEY_FILE}, or put it into {KEY_ITSELF}");
    numbered(ErrorCode::KeyMissing, format!("{what}: {how}"))
}

/// The same of a file that was opened, with the file that the key is in.
pub fn of_file(file: &std::fs::File, key: Option<&Path>) -> Result<Sealer, String> {
    let mut zone = vec![0; SUPERBLOCK_ZONE];
    file.read_exact_at(&mut zone, 0).map_err(|error| format!("its superblock can't be read: {error}"))?;
    let superblock = Superblock::open(&zone).map_err(|error| error.to_string())?;
    sealer(&superblock, MasterKey::find(key)?.as_ref())
}

fn parse(line: &str) -> Option<[u8; KEY]> {
    let mut key = [0; KEY];
    if line.len() != 2 * KEY || !line.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, at) in key.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(line.get(at..at + 2)?, 16).ok()?;
    }
    Some(key)
}

/// What a wrapped key binds.
fn identity(config: &ShardConfig) -> [u8; 22] {
    let mut bound = [0; 22];
    bound[..16].copy_from_slice(&config.cluster.0.to_le_bytes());
    bound[16..20].copy_from_slice(&config.shard.0.to_le_bytes());
    bound[20..].copy_from_slice(&config.replica.0.to_le_bytes());
    bound
}

/// Seals the sectors of one data file.
struct NodeKey {
    prk: Prk,
    before: Option<Box<Self>>,
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey")
    }
}

impl NodeKey {
    fn new(key: &[u8; KEY]) -> Self {
        Self { prk: Salt::new(HKDF_SHA256, b"tigerchat.v1.node").extract(key), before: None }
    }
}

impl Sealing for NodeKey {
    fn draw_salt(&self) -> [u8; SALT] {
        entropy()
    }

    fn with_key(&self, salt: &[u8; SALT], with: &mut dyn FnMut(&dyn SectorKey)) {
        with(&WriteKey(write_key(&self.prk, b"tigerchat.v1.sector", salt)));
    }

    fn check(&self) -> [u8; 8] {
        short(&self.prk, b"tigerchat.v1.check")
    }

    fn before(&self) -> Option<&dyn Sealing> {
        self.before.as_deref().map(|before| before as &dyn Sealing)
    }
}

struct WriteKey(LessSafeKey);

fn nonce(index: u32) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&index.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

impl SectorKey for WriteKey {
    fn seal(&self, index: u32, bound: &[u8; BOUND], payload: &mut [u8; PAYLOAD]) -> [u8; TAG] {
        let tag = self.0.seal_in_place_separate_tag(nonce(index), Aad::from(bound), payload);
        tag.expect("a sector is not too long").as_ref().try_into().expect("a tag has 16 bytes")
    }

    fn open(&self, index: u32, bound: &[u8; BOUND], tag: &[u8; TAG], payload: &mut [u8; PAYLOAD]) -> bool {
        let tag = Tag::from(*tag);
        self.0.open_in_place_separate_tag(nonce(index), Aad::from(bound), tag, payload, 0..).is_ok()
    }
}

/// The AES key that follows from a salt.
fn write_key(prk: &Prk, label: &[u8], salt: &[u8; SALT]) -> LessSafeKey {
    let info = [label, salt];
    let okm = prk.expand(&info, &AES_256_GCM).expect("32 bytes are not too many");
    LessSafeKey::new(UnboundKey::from(okm))
}

struct Short;

impl KeyType for Short {
    fn len(&self) -> usize {
        8
    }
}

/// Eight bytes that follow from a key and tell nothing of it.
fn short(prk: &Prk, label: &[u8]) -> [u8; 8] {
    let mut bytes = [0; 8];
    let info = [label];
    let okm = prk.expand(&info, Short).expect("8 bytes are not too many");
    okm.fill(&mut bytes).expect("it has that length");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use tigerchat_core::store::layout::SECTOR;
    use tigerchat_core::store::sector::{Found, Stamp, Zone, open, seal};
    use tigerchat_core::types::{ClusterId, ReplicaId};
    use tigerchat_core::vsr::membership::Members;

    use crate::launch::{Size, shard_config};

    const STAMP: Stamp = Stamp { op: 5, view: 3, witness: 4, index: 0 };

    fn master(byte: u8) -> MasterKey {
        MasterKey { is_asked_for: true, ..MasterKey::new(&[byte; KEY], "a file".into()) }
    }

    fn config(replica: u16) -> ShardConfig {
        shard_config(ClusterId(7), ReplicaId(replica), Size::Dev)
    }

    fn superblock(master: &MasterKey, replica: u16) -> Superblock {
        let members = Members::first(3, 2).expect("a majority");
        let envelope = Some(master.envelope(&config(replica)));
        Superblock { envelope, ..Superblock::format(config(replica), members) }
    }

    #[test]
    fn h42_what_was_sealed_opens_under_its_own_key_where_it_lay_and_nowhere_else() {
        let (one, other) = (NodeKey::new(&[1; KEY]), NodeKey::new(&[2; KEY]));
        let plain = config(0).place(Zone::Wal);
        let place = plain.under(Some(&one));
        let payload = [9; 2 * PAYLOAD];
        let mut image = vec![0; 2 * SECTOR];
        seal(place, 8192, STAMP, &payload, &mut image);
        assert!(!image.windows(8).any(|bytes| bytes == [9; 8]));
        assert_ne!(image[..PAYLOAD], image[SECTOR..SECTOR + PAYLOAD], "equal payloads, different nonces");
        let mut again = image.clone();
        seal(place, 8192, STAMP, &payload, &mut again);
        assert_ne!(image[..PAYLOAD], again[..PAYLOAD], "different salts");

        let mut out = Vec::new();
        assert_eq!(open(place, 8192, &image[..SECTOR], &mut out), Found::Valid(STAMP));
        let second = Found::Valid(Stamp { index: 1, ..STAMP });
        assert_eq!(open(place, 8192 + 4096, &image[SECTOR..], &mut out), second);
        assert_eq!(out, payload);
        for (place, offset) in [(place, 4096), (plain.under(Some(&other)), 8192), (plain, 8192)] {
            assert_eq!(open(place, offset, &image[..SECTOR], &mut out), Found::Corrupt);
        }
        for at in 0..SECTOR {
            image[at] ^= 0x10;
            assert_eq!(open(place, 8192, &image[..SECTOR], &mut out), Found::Corrupt, "byte {at}");
            image[at] ^= 0x10;
        }
        assert_eq!(out.len(), payload.len());
    }

    #[test]
    fn a_node_key_is_unwrapped_by_its_master_key_for_its_own_file_alone() {
        let superblock = superblock(&master(1), 1);
        let sealing = sealer(&superblock, Some(&master(1))).unwrap().expect("it is sealed");
        assert_eq!(Some(sealing.check()), superblock.envelope.map(|envelope| envelope.check));
        assert!(format!("{sealing:?} {:?}", master(1)).len() < 64, "no key in it");

        let wrong = sealer(&superblock, Some(&master(2))).unwrap_err();
        assert!(
            wrong.contains("17002 wrong_key: the file of replica 1") && wrong.contains("in a file"),
            "{wrong}"
        );
        let missing = sealer(&superblock, None).unwrap_err();
        assert!(
            missing.contains("17001") && missing.contains("found none") && missing.contains("--key"),
            "{missing}"
        );
        // The envelope of another replica's file, under the same master key.
        let swapped = Superblock { config: config(2), ..superblock.clone() };
        let wrong = sealer(&swapped, Some(&master(1))).unwrap_err();
        assert!(wrong.contains("17003") && wrong.contains("not made for replica 2"), "{wrong}");
        let plain = Superblock { envelope: None, ..superblock };
        assert!(sealer(&plain, None).unwrap().is_none());
        let unneeded = sealer(&plain, Some(&master(1))).unwrap_err();
        assert!(unneeded.contains("17006") && unneeded.contains("not sealed: leave --key out"), "{unneeded}");
        let just_there = MasterKey { is_asked_for: false, ..master(1) };
        assert!(sealer(&plain, Some(&just_there)).unwrap().is_none());
    }

    #[test]
    fn a_key_file_is_made_for_its_owner_alone_and_one_that_others_may_read_is_refused() {
        let path = std::env::temp_dir().join(format!("tigerchat-test-key-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let made = make_file(&path).unwrap();
        assert_eq!(MasterKey::read(&path).unwrap().id(), made.id());
        assert!(make_file(&path).unwrap_err().contains("can't be made"), "never overwritten");
        let line = std::fs::read_to_string(&path).unwrap();

        std::fs::write(&path, &line[2..]).unwrap();
        let short = MasterKey::read(&path).unwrap_err();
        assert!(
            short.contains("17005")
                && short.contains("64 hexadecimal digits")
                && !short.contains(&line[2..20]),
            "{short}"
        );
        std::fs::write(&path, &line).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let exposed = MasterKey::read(&path).unwrap_err();
        assert!(
            exposed.contains("17004 key_file_exposed") && exposed.contains("found mode 640"),
            "{exposed}"
        );
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_node_key_is_wrapped_anew_and_another_one_comes_beside_it() {
        let first = superblock(&master(1), 1);
        let envelope = first.envelope.unwrap();
        let both = master(1).another(&first.config, &envelope);
        let rotating = Superblock { envelope: Some(both), ..first.clone() };
        let sealing = sealer(&rotating, Some(&master(1))).unwrap().unwrap();
        assert_eq!(sealing.before().map(Sealing::check), Some(envelope.check));
        assert_ne!(sealing.check(), envelope.check);
        // What the old one sealed is read, and what is sealed now is not for the old one.
        let old = sealer(&first, Some(&master(1))).unwrap().unwrap();
        let plain = first.config.place(Zone::Grid);
        let (mut image, mut out) = (vec![0; SECTOR], Vec::new());
        seal(plain.under(Some(&*old)), 8192, STAMP, &[9; 10], &mut image);
        assert_eq!(open(plain.under(Some(&*sealing)), 8192, &image, &mut out), Found::Valid(STAMP));
        seal(plain.under(Some(&*sealing)), 8192, STAMP, &[9; 10], &mut image);
        assert_eq!(open(plain.under(Some(&*old)), 8192, &image, &mut out), Found::Corrupt);

        let rewrapped = master(1).rewrap(&master(2), &first.config, &both).unwrap();
        let moved = Superblock { envelope: Some(rewrapped), ..first.clone() };
        let same = sealer(&moved, Some(&master(2))).unwrap().unwrap();
        assert_eq!(
            (same.check(), same.before().map(Sealing::check)),
            (sealing.check(), Some(envelope.check))
        );
        assert!(sealer(&moved, Some(&master(1))).unwrap_err().contains("17002"));
        assert!(master(3).rewrap(&master(2), &first.config, &both).unwrap_err().contains("17002"));
    }

    #[test]
    fn a_key_for_a_backup_is_none_for_a_file_and_belongs_to_one_shard() {
        let (_, wrapped) = master(1).for_backup(&config(0));
        assert!(master(1).of_backup(&config(0), &wrapped).is_ok());
        assert!(master(1).of_backup(&config(1), &wrapped).unwrap_err().contains("17003"));
        assert!(master(2).of_backup(&config(0), &wrapped).unwrap_err().contains("17002"));
        let as_node = Envelope { wrapped: wrapped.wrapped, ..master(1).envelope(&config(0)) };
        assert!(master(1).open(&as_node, &config(0)).unwrap_err().contains("17003"));
    }
}
