//! Which names rooms and users may bear.
//!
//! The one law: **validity is written out here and never asks a library's character tables**, which differ between
//! releases of the compiler, while all replicas must agree for ever (H39).

use crate::wire::chat::{ROOM_NAME_MAX, USER_NAME_MAX};

/// 1 to 128 of `A-Z a-z 0-9 . _ : -`.
#[must_use]
pub fn is_room_name(name: &str) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"._:-".contains(byte);
    (1..=ROOM_NAME_MAX).contains(&name.len()) && name.as_bytes().iter().all(allowed)
}

/// 1 to 64 bytes of UTF-8 without controls, spaces, and what is invisible or turns the direction of writing.
#[must_use]
pub fn is_user_name(name: &str) -> bool {
    (1..=USER_NAME_MAX).contains(&name.len()) && name.chars().all(is_visible)
}

fn is_visible(char: char) -> bool {
    !matches!(
        char,
        '\0'..=' '
            | '\u{7f}'..='\u{a0}'
            | '\u{ad}'
            | '\u{1680}'
            | '\u{180e}'
            | '\u{2000}'..='\u{200f}'
            | '\u{2028}'..='\u{202f}'
            | '\u{205f}'..='\u{206f}'
            | '\u{3000}'
            | '\u{feff}'
            | '\u{fff0}'..='\u{ffff}'
            | '\u{e0000}'..='\u{10ffff}'
    )
}

/// A user's name as tables keep it: in place, without a heap.
#[derive(Clone, Copy)]
pub(super) struct UserName {
    len: u8,
    bytes: [u8; USER_NAME_MAX],
}

impl UserName {
    /// `None` for what is not a valid name.
    pub(super) fn new(name: &str) -> Option<Self> {
        let mut bytes = [0; USER_NAME_MAX];
        is_user_name(name).then(|| bytes[..name.len()].copy_from_slice(name.as_bytes()))?;
        Some(Self { len: u8::try_from(name.len()).ok()?, bytes })
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    pub(super) fn as_str(&self) -> &str {
        core::str::from_utf8(self.as_bytes()).expect("made from a str")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_registry_says() {
        let longest = "r".repeat(ROOM_NAME_MAX);
        for good in ["a", "Room_1:x.y-z", &longest] {
            assert!(is_room_name(good), "{good}");
        }
        for bad in ["", "a b", "ä", "a/b", &"r".repeat(ROOM_NAME_MAX + 1)] {
            assert!(!is_room_name(bad), "{bad}");
        }
        for good in ["ann", "Jürgen", "李", "a@b.c", "🐯"] {
            assert!(is_user_name(good), "{good}");
            assert_eq!(UserName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a\n", "a\u{200b}", "\u{202e}evil", "\u{a0}", &"u".repeat(USER_NAME_MAX + 1)] {
            assert!(!is_user_name(bad), "{bad:?}");
            assert!(UserName::new(bad).is_none());
        }
    }
}
