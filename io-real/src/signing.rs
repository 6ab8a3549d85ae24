//! Who made a backup: Ed25519 signatures over its sums, and the keys for them.
//!
//! The one law: **a signature counts for the key that the operator named, and for no other**: what lies beside a backup says
//! nothing of who made it. No byte of a signing key is ever printed. Formats: `docs/formats.md`, "Backup".

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use tigerchat_core::errors::ErrorCode;

use crate::keys::{self, numbered};
use crate::launch::entropy;
use crate::texts::parse_hex;

/// Names the file that the signing key is in, where `--sign-key` does not.
pub const SIGNING_KEY_FILE: &str = "TIGERCHAT_SIGNING_KEY_FILE";
/// How the line in a file of a signing key begins: a master key is not taken for one, nor the other way round.
const KEY_FILE_WORD: &str = "ed25519-secret ";
/// How the line of a signature begins.
const SIGNATURE_WORD: &str = "ed25519";
/// What is signed begins with this, so that a signature is of nothing else.
const CONTEXT: &[u8] = b"tigerchat.v1.backup-sums\0";

/// The public key of somebody who signs: 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.to_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let key = parse_hex(text).and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok());
        key.filter(|key| !key.is_weak()).map(Self).ok_or_else(|| {
            format!(
                "expected the public key of a signing key, 64 hexadecimal digits, as `tigerchat key public FILE` prints it, \
                 found {text:?}"
            )
        })
    }
}

/// Who signs.
pub struct Signer(SigningKey);

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.public())
    }
}

impl Signer {
    /// The key of `--sign-key`, else that of the environment, if there is one.
    pub fn find(flag: Option<&Path>) -> Result<Option<Self>, String> {
        let named = std::env::var_os(SIGNING_KEY_FILE).filter(|value| !value.is_empty());
        flag.or(named.as_deref().map(Path::new)).map(Self::read).transpose()
    }

    /// Reads the file of a key. Errors say nothing of what is in it.
    pub fn read(path: &Path) -> Result<Self, String> {
        let line = keys::read_secret(path, "key make-signing")?;
        let seed = line.trim_end().strip_prefix(KEY_FILE_WORD).and_then(parse_hex);
        let seed = seed.ok_or_else(|| {
            let what = format!(
                "{}: expected one line, {KEY_FILE_WORD:?} and 64 hexadecimal digits, found something else: `tigerchat key \
                 make-signing FILE` makes one",
                path.display()
            );
            numbered(ErrorCode::KeyUnreadable, what)
        })?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// Makes the file of a new key. Never overwrites.
    pub fn make_file(path: &Path) -> Result<Self, String> {
        let seed = entropy::<32>();
        let digits: String = seed.iter().map(|byte| format!("{byte:02x}")).collect();
        keys::write_secret(path, &format!("{KEY_FILE_WORD}{digits}\n"))?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// The line that is kept beside the sums.
    pub fn sign(&self, sums: &[u8]) -> String {
        let signature = self.0.sign(&[CONTEXT, sums].concat());
        let digits: String = signature.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{SIGNATURE_WORD} {} {digits}\n", self.public())
    }
}

/// Whose signature over the sums a line is.
pub fn signer_of(line: &str, sums: &[u8]) -> Result<PublicKey, String> {
    let wrong = |what: &str| numbered(ErrorCode::SignatureWrong, what);
    let words: Vec<&str> = line.split_whitespace().collect();
    let [SIGNATURE_WORD, key, signature] = words[..] else {
        return Err(wrong("expected one line, `ed25519 PUBLIC-KEY SIGNATURE`, found something else"));
    };
    let key: PublicKey = key.parse().map_err(|what: String| wrong(&what))?;
    let signature = parse_hex(signature)
        .map(|bytes| Signature::from_bytes(&bytes))
        .ok_or_else(|| wrong("expected a signature of 128 hexadecimal digits, found something else"))?;
    let signed = key.0.verify_strict(&[CONTEXT, sums].concat(), &signature);
    signed
        .map_err(|_| wrong("the signature is not of these sums: they were changed after they were signed"))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(seed: u8) -> Signer {
        Signer(SigningKey::from_bytes(&[seed; 32]))
    }

    /// The key pair of the first test vector of RFC 8032, section 7.1.
    #[test]
    fn keys_are_those_of_the_standard() {
        let seed = parse_hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        assert_eq!(Signer(SigningKey::from_bytes(&seed)).public().to_string(), public);
        assert_eq!(public.parse::<PublicKey>().unwrap().to_string(), public);
    }

    #[test]
    fn a_signature_is_of_one_key_and_of_one_text() {
        let (mine, yours) = (signer(1), signer(2));
        let line = mine.sign(b"sums");
        assert_eq!(signer_of(&line, b"sums"), Ok(mine.public()));
        assert!(signer_of(&line, b"sum").unwrap_err().contains("17010"));
        let forged = line.replace(&mine.public().to_string(), &yours.public().to_string());
        assert!(signer_of(&forged, b"sums").unwrap_err().contains("17010"));
        // Every digit counts.
        for (at, digit) in line.char_indices().filter(|(_, digit)| digit.is_ascii_hexdigit()) {
            if at < SIGNATURE_WORD.len() {
                continue;
            }
            let mut other = line.clone();
            other.replace_range(at..=at, if digit == '0' { "1" } else { "0" });
            assert!(signer_of(&other, b"sums").unwrap_err().contains("17010"), "{other}");
        }
        for wrong in ["", "ed25519", "rsa 1 2", &line[..line.len() - 3]] {
            assert!(signer_of(wrong, b"sums").unwrap_err().contains("17010"), "{wrong:?}");
        }
    }

    #[test]
    fn a_key_that_signs_anything_is_none() {
        for weak in ["00".repeat(32), format!("01{}", "00".repeat(31))] {
            assert!(weak.parse::<PublicKey>().is_err(), "{weak}");
        }
    }

    #[test]
    fn nobody_sees_a_key() {
        assert_eq!(format!("{:?}", signer(1)), format!("Signer({})", signer(1).public()));
    }
}
