//! Who a token belongs to. Static tokens until rights come with signed ones.

use alloc::sync::Arc;

use crate::chat::is_user_name;
use crate::types::TenantId;
use crate::wire::entry::Digest;

use super::EdgeConfig;

/// Tenant of the demo's users.
const DEMO_TENANT: TenantId = TenantId(1);
const DEMO: &[u8] = b"demo:";

/// Who is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) tenant: TenantId,
    /// Shared, so that naming the author of a message copies nothing.
    pub(super) name: Arc<str>,
}

/// Looks a token up. Every entry is compared, in a time that does not depend on where they differ.
pub(super) fn authenticate(config: &EdgeConfig, token: &[u8]) -> Option<User> {
    if config.demo
        && let Some(name) = token.strip_prefix(DEMO)
    {
        let name = core::str::from_utf8(name).ok().filter(|name| is_user_name(name))?;
        return Some(User { tenant: DEMO_TENANT, name: name.into() });
    }
    let digest = Digest::of(token).0;
    let mut found = None;
    for entry in &config.tokens {
        let differs = entry.digest.iter().zip(digest).fold(0, |differs, (a, b)| differs | (a ^ b));
        if differs == 0 {
            found = Some(entry);
        }
    }
    found.map(|entry| User { tenant: entry.tenant, name: entry.user.as_str().into() })
}
