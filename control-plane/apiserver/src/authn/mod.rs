//! Who asks: X.509 client certificates, service-account tokens, or nobody.
//!
//! A certificate is checked once, when its connection is made; a token with every request, and with it whether the
//! pod and the service account it is bound to still exist.

pub(crate) mod jwt;
pub(crate) mod service_account;
pub(crate) mod x509;

use std::collections::BTreeMap;

/// An authenticated identity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// The user's name, for example `system:node:node1`.
    pub name: String,
    /// Tells users of the same name apart; only service accounts have one.
    pub uid: String,
    /// The groups the user is in.
    pub groups: Vec<String>,
    /// Further facts about the credential, such as the pod that a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The user of requests without credentials.
pub(crate) const ANONYMOUS: &str = "system:anonymous";
/// Everyone who authenticated.
pub(crate) const ALL_AUTHENTICATED: &str = "system:authenticated";
/// Everyone who did not.
pub(crate) const ALL_UNAUTHENTICATED: &str = "system:unauthenticated";
/// The members of this group may do everything.
pub(crate) const SYSTEM_MASTERS: &str = "system:masters";

impl UserInfo {
    /// An authenticated user with these groups.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        if !groups.iter().any(|group| group == ALL_AUTHENTICATED) {
            groups.push(ALL_AUTHENTICATED.to_owned());
        }
        UserInfo {
            name: name.into(),
            groups,
            ..Self::default()
        }
    }

    /// The user of a request without credentials.
    pub(crate) fn anonymous() -> Self {
        UserInfo {
            name: ANONYMOUS.to_owned(),
            groups: vec![ALL_UNAUTHENTICATED.to_owned()],
            ..Self::default()
        }
    }

    pub(crate) fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|member| member == group)
    }
}
