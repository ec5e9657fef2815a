//! Who asked, and what finding that out came to.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::histogram::{AuthenticationSeconds, Histogram};

/// What the credentials of a request were found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome<'a> {
    /// They are good, or there were none: the user, `system:anonymous` then.
    Success(&'a str),
    /// They are bad.
    Error,
}

/// The users that are told apart, as upstream: the rest would make a series each.
const USERS: [&str; 7] = [
    "admin",
    "client",
    "kube_proxy",
    "kubelet",
    "system:serviceaccount:kube-system:default",
    "email_id",
    "other",
];

/// The counters of authentication.
#[derive(Default)]
pub(crate) struct Authentication {
    /// Of good credentials, and of bad ones.
    durations: [Histogram<AuthenticationSeconds>; 2],
    users: [AtomicU64; USERS.len()],
}

impl Authentication {
    /// The credentials of a request have been looked at.
    pub(crate) fn attempted(&self, outcome: Outcome<'_>, took: Duration) {
        let result = match outcome {
            Outcome::Success(user) => {
                self.users[category(user)].fetch_add(1, Ordering::Relaxed);
                0
            }
            Outcome::Error => 1,
        };
        self.durations[result].observe_duration(took);
    }

    /// The durations by upstream's name of the result.
    pub(super) fn durations(
        &self,
    ) -> impl Iterator<Item = (&'static str, &Histogram<AuthenticationSeconds>)> {
        ["success", "error"].into_iter().zip(&self.durations)
    }

    /// How many requests each kind of user has made, of those that have made any.
    pub(super) fn users(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.users.iter().map(|count| count.load(Ordering::Relaxed));
        USERS.into_iter().zip(counts).filter(|(_, count)| *count != 0)
    }
}

/// The index of a user's category in [`USERS`].
fn category(user: &str) -> usize {
    let known = USERS[..5].iter().position(|known| *known == user);
    known.unwrap_or(if user.contains('@') { 5 } else { 6 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_a_few_kinds() {
        let authentication = Authentication::default();
        for user in [
            "admin",
            "system:node:node1",
            "someone@example.com",
            "other",
            "email_id",
        ] {
            authentication.attempted(Outcome::Success(user), Duration::from_micros(3));
        }
        authentication.attempted(Outcome::Error, Duration::from_micros(3));
        let users: Vec<_> = authentication.users().collect();
        assert_eq!(users, [("admin", 1), ("email_id", 1), ("other", 3)]);
        let counts: Vec<_> = authentication
            .durations()
            .map(|(result, durations)| (result, durations.count()))
            .collect();
        assert_eq!(counts, [("success", 5), ("error", 1)]);
    }
}
