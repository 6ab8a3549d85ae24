//! Keys of sealed data files: master keys in files, node keys in superblocks, and the ciphers.
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
use tigerchat_core::store::layout::{PAYLOAD, SUPERBLOCK_ZONE};
use tigerchat_core::store::sealing::{
    BOUND, Envelope, KeyId, SALT, Sealer, Sealing, SectorKey, TAG, WrongKey,
};
use tigerchat_core::store::superblock::{ShardConfig, Superblock};

use crate::launch::entropy;

/// Bytes of a master key and of a node key.
const KEY: usize = 32;

/// Unwraps the node keys of data files.
pub struct MasterKey {
    prk: Prk,
    /// Where it came from, for errors.
    name: String,
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", KeyId(&self.id()))
    }
}

impl MasterKey {
    /// Reads a key file. Errors say nothing of what is in it.
    pub fn read(path: &Path) -> Result<Self, String> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            format!("{name}: expected a key file: {error}: `tigerchat key FILE` makes one")
        })?;
        let mode = std::fs::metadata(path).map_err(|error| format!("{name}: {error}"))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(format!(
                "{name}: expected a key file that only its owner may read, found mode {:o}: chmod 600 it, and ask \
                 who has read it",
                mode & 0o777
            ));
        }
        let key = parse(text.trim_end()).ok_or_else(|| {
            format!("{name}: expected one line of {} hexadecimal digits, found something else", 2 * KEY)
        })?;
        Ok(Self::new(&key, name))
    }

    fn new(key: &[u8; KEY], name: String) -> Self {
        Self { prk: Salt::new(HKDF_SHA256, b"tigerchat.v1.master").extract(key), name }
    }

    /// By which people tell it from others.
    pub fn id(&self) -> [u8; 8] {
        short(&self.prk, b"tigerchat.v1.id")
    }

    fn wrapping(&self, salt: &[u8; SALT]) -> LessSafeKey {
        write_key(&self.prk, b"tigerchat.v1.wrap", salt)
    }

    /// A new node key for a new data file.
    pub fn envelope(&self, config: &ShardConfig) -> Envelope {
        let (salt, mut key) = (entropy::<SALT>(), entropy::<KEY>());
        let check = NodeKey::new(&key).check();
        let (bound, nonce) = (identity(config), Nonce::assume_unique_for_key([0; 12]));
        let tag = self.wrapping(&salt).seal_in_place_separate_tag(nonce, Aad::from(bound), &mut key);
        let tag = tag.expect("32 bytes are not too many");
        let mut wrapped = [0; SALT + KEY + TAG];
        wrapped[..SALT].copy_from_slice(&salt);
        wrapped[SALT..SALT + KEY].copy_from_slice(&key);
        wrapped[SALT + KEY..].copy_from_slice(tag.as_ref());
        Envelope { master: self.id(), check, wrapped }
    }

    fn unwrap(&self, envelope: &Envelope, config: &ShardConfig) -> Result<NodeKey, String> {
        let ShardConfig { cluster, shard, replica, .. } = config;
        if envelope.master != self.id() {
            return Err(format!(
                "wrong key: the file of replica {} of shard {} in cluster {cluster} is sealed with master key {}, \
                 found master key {} in {}",
                replica.0,
                shard.0,
                KeyId(&envelope.master),
                KeyId(&self.id()),
                self.name
            ));
        }
        let (salt, rest) = envelope.wrapped.split_first_chunk::<SALT>().expect("it begins with a salt");
        let (key, tag) = rest.split_first_chunk::<KEY>().expect("the key follows");
        let (mut key, tag) = (*key, Tag::try_from(tag).expect("a tag follows"));
        let (bound, nonce) = (identity(config), Nonce::assume_unique_for_key([0; 12]));
        let opened =
            self.wrapping(salt).open_in_place_separate_tag(nonce, Aad::from(bound), tag, &mut key, 0..);
        let node = opened.is_ok().then(|| NodeKey::new(&key)).filter(|node| node.check() == envelope.check);
        node.ok_or_else(|| {
            format!(
                "the key in its superblock was not made for replica {} of shard {} in cluster {cluster}: the \
                 superblock is that of another data file, or was altered",
                replica.0, shard.0
            )
        })
    }
}

/// Makes a key file. Never overwrites.
pub fn make_file(path: &Path) -> Result<MasterKey, String> {
    let name = path.display().to_string();
    let key = entropy::<KEY>();
    let mut line: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    line.push('\n');
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(|error| format!("{name}: can't be made: {error}"))?;
    Ok(MasterKey::new(&key, name))
}

/// The node key of a data file, if it is sealed; or what is wrong.
pub fn sealer(superblock: &Superblock, key: Option<&MasterKey>) -> Result<Sealer, String> {
    match (&superblock.envelope, key) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(format!("{}: leave --key out", WrongKey::NotSealed)),
        (Some(envelope), None) => {
            let missing = WrongKey::Missing { master: envelope.master };
            Err(format!("{missing}: say with --key in which file it is"))
        }
        (Some(envelope), Some(key)) => Ok(Some(Arc::new(key.unwrap(envelope, &superblock.config)?))),
    }
}

/// The same of a file that was opened, with the file that the key is in.
pub fn of_file(file: &std::fs::File, key: Option<&Path>) -> Result<Sealer, String> {
    let mut zone = vec![0; SUPERBLOCK_ZONE];
    file.read_exact_at(&mut zone, 0).map_err(|error| format!("its superblock can't be read: {error}"))?;
    let superblock = Superblock::open(&zone).map_err(|error| error.to_string())?;
    let key = key.map(MasterKey::read).transpose()?;
    sealer(&superblock, key.as_ref())
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
struct NodeKey(Prk);

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey")
    }
}

impl NodeKey {
    fn new(key: &[u8; KEY]) -> Self {
        Self(Salt::new(HKDF_SHA256, b"tigerchat.v1.node").extract(key))
    }
}

impl Sealing for NodeKey {
    fn draw_salt(&self) -> [u8; SALT] {
        entropy()
    }

    fn with_key(&self, salt: &[u8; SALT], with: &mut dyn FnMut(&dyn SectorKey)) {
        with(&WriteKey(write_key(&self.0, b"tigerchat.v1.sector", salt)));
    }

    fn check(&self) -> [u8; 8] {
        short(&self.0, b"tigerchat.v1.check")
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
        MasterKey::new(&[byte; KEY], "a file".into())
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
        assert!(wrong.contains("wrong key: the file of replica 1") && wrong.contains("in a file"), "{wrong}");
        let missing = sealer(&superblock, None).unwrap_err();
        assert!(missing.contains("found none") && missing.contains("--key"), "{missing}");
        // The envelope of another replica's file, under the same master key.
        let swapped = Superblock { config: config(2), ..superblock.clone() };
        let wrong = sealer(&swapped, Some(&master(1))).unwrap_err();
        assert!(wrong.contains("not made for replica 2"), "{wrong}");
        let plain = Superblock { envelope: None, ..superblock };
        assert!(sealer(&plain, None).unwrap().is_none());
        let unneeded = sealer(&plain, Some(&master(1))).unwrap_err();
        assert!(unneeded.contains("not sealed: leave --key out"), "{unneeded}");
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
        assert!(short.contains("64 hexadecimal digits") && !short.contains(&line[2..20]), "{short}");
        std::fs::write(&path, &line).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(MasterKey::read(&path).unwrap_err().contains("found mode 640"));
        std::fs::remove_file(&path).unwrap();
    }
}
