//! What an operator writes by hand: addresses, clusters, the tokens file.
//!
//! The one law: **a text is refused or means one thing**; errors say what was expected.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use tigerchat_core::chat::is_user_name;
use tigerchat_core::edge::TokenEntry;
use tigerchat_core::types::{ClusterId, TenantId};
use tigerchat_core::wire::entry::Digest;

/// A replica's address, with its id unless that is its place in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    pub id: Option<u16>,
    pub socket: SocketAddr,
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected ADDRESS:PORT or ID=ADDRESS:PORT, found {text:?}");
        let (id, socket) = text.split_once('=').map_or((None, text), |(id, socket)| (Some(id), socket));
        let id = id.map(str::parse).transpose().map_err(|_| expected())?;
        Ok(Self { id, socket: socket.parse().map_err(|_| expected())? })
    }
}

/// The same, all with their ids.
pub fn numbered(replicas: &[At]) -> Vec<At> {
    (0..).zip(replicas).map(|(place, at)| At { id: at.id.or(Some(place)), socket: at.socket }).collect()
}

pub fn parse_cluster(text: &str) -> Result<ClusterId, String> {
    // A number may have a sign; digits have none.
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parsed = u128::from_str_radix(text, 16).ok().filter(|_| digits);
    parsed.map(ClusterId).ok_or_else(|| {
        format!(
            "expected a cluster of 32 hexadecimal digits, as `format --cluster new` prints it, found {text:?}"
        )
    })
}

/// Units of time, in seconds.
pub const UNITS: [(char, u32); 5] = [('w', 604_800), ('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// A number and its unit.
pub fn parse_seconds(text: &str) -> Option<u32> {
    let of_unit = |(unit, seconds): (char, u32)| {
        let count = text.strip_suffix(unit)?;
        let count: u32 = count.bytes().all(|byte| byte.is_ascii_digit()).then(|| count.parse().ok())??;
        count.checked_mul(seconds)
    };
    UNITS.into_iter().find_map(of_unit)
}

/// How long something takes: `30s`, `12h`, `1d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period(pub Duration);

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let seconds = parse_seconds(text).filter(|seconds| *seconds > 0);
        let expected = || format!("expected a time with its unit (30s, 15m, 12h, 90d, 8w), found {text:?}");
        seconds.map(|seconds| Self(Duration::from_secs(seconds.into()))).ok_or_else(expected)
    }
}

/// A chain value that somebody wrote down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain(pub Digest);

impl FromStr for Chain {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected a chain value of 64 hexadecimal digits, found {text:?}");
        parse_hex(text).map(|bytes| Self(Digest(bytes))).ok_or_else(expected)
    }
}

/// Lines of `USER SHA256`; blank ones and those that begin with # are stepped over. An error has the number of its
/// line, and what was expected there.
pub fn parse_tokens(text: &str) -> Result<Vec<TokenEntry>, (usize, String)> {
    let lines =
        text.lines().map(str::trim).zip(1..).filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|(line, number)| {
            let expected = || (number, "expected USER SHA256 (64 hexadecimal digits)".to_owned());
            let (user, digest) = line.split_once(' ').ok_or_else(expected)?;
            let digest = parse_hex(digest.trim()).ok_or_else(expected)?;
            if !is_user_name(user) {
                let what = "expected a user name of 1 to 64 printable characters without spaces";
                return Err((number, format!("{what}, found {user:?}")));
            }
            Ok(TokenEntry { tenant: TenantId(1), user: user.into(), digest })
        })
        .collect()
}

pub fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digit_is_a_digit_and_a_sign_is_none() {
        let digits = "0123456789abcdef".repeat(2);
        assert_eq!(parse_cluster(&digits), Ok(ClusterId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef)));
        assert!(parse_cluster(&format!("+{}", &digits[1..])).is_err());
        assert_eq!(parse_tokens(&format!("# me\nada {}\n", digits.repeat(2))).unwrap()[0].digest[0], 1);
        let (line, what) = parse_tokens(&format!("\nada +1{}", &digits.repeat(2)[2..])).unwrap_err();
        assert_eq!((line, what.as_str()), (2, "expected USER SHA256 (64 hexadecimal digits)"));
    }

    #[test]
    fn a_time_has_a_unit_and_some_length() {
        assert_eq!("90m".parse(), Ok(Period(Duration::from_secs(5_400))));
        for wrong in ["", "d", "0s", "+5s", "7", "1.5h", "9999999w", "forever"] {
            let what = wrong.parse::<Period>().unwrap_err();
            assert!(what.contains(&format!("found {wrong:?}")), "{what}");
        }
    }

    #[test]
    fn who_can_have_no_name_can_have_no_token() {
        let (line, what) = parse_tokens(&format!("a\u{7}da {}", "0".repeat(64))).unwrap_err();
        assert!(line == 1 && what.contains("a\\u{7}da"), "{what}");
    }
}
