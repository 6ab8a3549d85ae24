//! The parts of a backup that hold what was said: records one after the other, sealed or as they are.
//!
//! The one law: **a key belongs to one part of one writing**: it follows from the backup's key, the part's name and a salt
//! that is drawn when the part is begun, and a record's number is its nonce; so a part that is begun again, because the
//! replica went on meanwhile, has another key (H41). Format: `docs/formats.md`, "Backup".

use std::fs::File;
use std::io::{BufReader, BufWriter, Error, ErrorKind, Read as _, Result, Write};
use std::os::unix::fs::FileExt as _;

use ring::aead::{Aad, LessSafeKey, Nonce, Tag};
use ring::hkdf::Prk;
use sha2::{Digest as _, Sha256};
use tigerchat_core::store::sealing::{SALT, TAG};
use tigerchat_core::wire::entry::Digest;

use crate::keys::part_key;
use crate::launch::entropy;

/// Before each record: id u64 (a block's address, an entry's op), size u32, zero u32.
pub const HEAD: usize = 16;

fn head(id: u64, size: usize) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(&id.to_le_bytes());
    head[8..12].copy_from_slice(&u32::try_from(size).expect("a record is small").to_le_bytes());
    head
}

fn nonce(number: u32) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// A file whose digest is that of what was written to it, not of what is read back.
struct Hashed {
    file: File,
    hash: Sha256,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> Result<()> {
        self.file.flush()
    }
}

/// Writes a part.
pub struct Writer {
    to: BufWriter<Hashed>,
    key: Option<LessSafeKey>,
    records: u32,
    scratch: Vec<u8>,
}

impl Writer {
    /// Begins a part, sealed if there is a key.
    pub fn begin(to: File, backup: Option<&Prk>, name: &str) -> Result<Self> {
        let mut to = BufWriter::new(Hashed { file: to, hash: Sha256::new() });
        let key = match backup {
            None => None,
            Some(backup) => {
                let salt = entropy::<SALT>();
                to.write_all(&salt)?;
                Some(part_key(backup, name, &salt))
            }
        };
        Ok(Self { to, key, records: 0, scratch: Vec::new() })
    }

    /// Appends a record. `has_head`: it has one also where it is not sealed.
    pub fn append(&mut self, id: u64, record: &[u8], has_head: bool) -> Result<()> {
        let head = head(id, record.len());
        let Some(key) = &self.key else {
            if has_head {
                self.to.write_all(&head)?;
            }
            return self.to.write_all(record);
        };
        self.scratch.clear();
        self.scratch.extend_from_slice(record);
        let nonce = nonce(self.records);
        self.records = self.records.checked_add(1).ok_or(ErrorKind::FileTooLarge)?;
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(head), &mut self.scratch);
        let tag = tag.expect("a record is not too long");
        self.to.write_all(&head)?;
        self.to.write_all(&self.scratch)?;
        self.to.write_all(tag.as_ref())
    }

    /// All of it is on the disk; its digest.
    pub fn end(self) -> Result<Digest> {
        let Hashed { file, hash } = self.to.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(Digest(hash.finalize().into()))
    }
}

/// Is shown a record and where it lies; an error ends it.
pub type See<'a> = dyn FnMut(At, &[u8]) -> std::result::Result<(), String> + 'a;

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    offset: u64,
    id: u64,
    size: usize,
    number: u32,
}

impl At {
    /// What the record's head says of it.
    pub fn id(&self) -> u64 {
        self.id
    }
}

/// Reads a part whose records have heads.
pub struct Reader {
    file: File,
    key: Option<LessSafeKey>,
    begins: u64,
}

impl Reader {
    pub fn open(file: File, backup: Option<&Prk>, name: &str) -> Result<Self> {
        let Some(backup) = backup else { return Ok(Self { file, key: None, begins: 0 }) };
        let mut salt = [0; SALT];
        file.read_exact_at(&mut salt, 0)?;
        Ok(Self { file, key: Some(part_key(backup, name, &salt)), begins: SALT as u64 })
    }

    /// Shows all records in order, opened; they may have so many bytes.
    pub fn each(&self, size_max: usize, see: &mut See<'_>) -> std::result::Result<(), String> {
        let len = self.file.metadata().map_err(|error| error.to_string())?.len();
        let (mut offset, mut number) = (self.begins, 0_u32);
        let after = if self.key.is_some() { TAG } else { 0 };
        let mut bytes = vec![0; size_max + TAG];
        let mut from = BufReader::with_capacity(1 << 16, Section { file: &self.file, at: offset });
        while offset < len {
            let begins = offset;
            let expected = || format!("expected a record of at most {size_max} bytes at offset {begins}");
            let mut head = [0; HEAD];
            from.read_exact(&mut head).map_err(|_| expected())?;
            let id = u64::from_le_bytes(head[..8].try_into().expect("8 bytes"));
            let size = u32::from_le_bytes(head[8..12].try_into().expect("4 bytes")) as usize;
            if size > size_max || head[12..] != [0; 4] {
                return Err(expected());
            }
            let bytes = &mut bytes[..size + after];
            from.read_exact(bytes).map_err(|_| expected())?;
            let at = At { offset: offset + HEAD as u64, id, size, number };
            let opened = self.unseal(at, bytes).map_err(|_| {
                format!("the record at offset {begins} is not what was sealed there: altered, or of another backup")
            })?;
            see(at, opened)?;
            offset = at.offset + bytes.len() as u64;
            number = number.checked_add(1).ok_or_else(expected)?;
        }
        Ok(())
    }

    /// A record that [`Self::each`] showed.
    pub fn read(&self, at: At) -> Option<Vec<u8>> {
        let after = if self.key.is_some() { TAG } else { 0 };
        let mut bytes = vec![0; at.size + after];
        self.file.read_exact_at(&mut bytes, at.offset).ok()?;
        self.unseal(at, &mut bytes).ok()?;
        bytes.truncate(at.size);
        Some(bytes)
    }

    fn unseal<'a>(&self, at: At, bytes: &'a mut [u8]) -> Result<&'a [u8]> {
        let Some(key) = &self.key else { return Ok(bytes) };
        let wrong = || Error::from(ErrorKind::InvalidData);
        let (record, tag) = bytes.split_at_mut_checked(at.size).ok_or_else(wrong)?;
        let tag = Tag::try_from(&*tag).map_err(|_| wrong())?;
        let bound = Aad::from(head(at.id, at.size));
        key.open_in_place_separate_tag(nonce(at.number), bound, tag, record, 0..).map_err(|_| wrong())?;
        Ok(record)
    }
}

/// A file from an offset on, read without moving anybody else's place in it.
struct Section<'a> {
    file: &'a File,
    at: u64,
}

impl std::io::Read for Section<'_> {
    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        let read = self.file.read_at(into, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
