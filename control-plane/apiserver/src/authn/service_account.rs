//! Service-account tokens: issued by TokenRequest, bound to what they were asked for, good only as long as that exists.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{ALL_AUTHENTICATED, UserInfo, jwt};
use crate::watch_cache::WatchCache;

/// Signs and verifies the tokens of this cluster.
pub(crate) struct Tokens {
    signing: Option<jwt::SigningKey>,
    keys: Vec<jwt::VerifyingKey>,
    issuer: String,
    audiences: Vec<String>,
    uses: Uses,
}

/// How often tokens with a longer life than was asked for were used.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    /// While they were to be used.
    pub(crate) valid: AtomicU64,
    /// After they should have been renewed.
    pub(crate) stale: AtomicU64,
}

/// An object that a token dies with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    /// Empty where only the name is known.
    pub(crate) uid: String,
}

/// What a new token shall say.
pub(crate) struct TokenSpec<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) service_account: (&'a str, &'a str),
    pub(crate) bound: Vec<Bound>,
    pub(crate) audiences: Vec<String>,
    pub(crate) expires: Timestamp,
    /// When it should have been renewed, if it is good for longer than was asked for.
    pub(crate) warn_after: Option<Timestamp>,
    pub(crate) now: Timestamp,
}

/// A token that was found good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verified {
    pub(crate) user: UserInfo,
    /// Which of the wanted audiences the token is for.
    pub(crate) audiences: Vec<String>,
}

impl Uses {
    /// Counts a use at `now` of a token that should be renewed by `warn_after`, both in seconds.
    fn count(&self, warn_after: i64, now: i64) {
        let uses = match now > warn_after {
            true => &self.stale,
            false => &self.valid,
        };
        uses.fetch_add(1, Ordering::Relaxed);
    }
}

impl Tokens {
    /// Tokens of an issuer. `keys` verify beside the signing key's own.
    pub(crate) fn new(
        signing: Option<jwt::SigningKey>,
        mut keys: Vec<jwt::VerifyingKey>,
        issuer: String,
    ) -> Self {
        if let Some(signing) = &signing {
            let own = signing.verifying_key();
            if !keys.contains(&own) {
                keys.insert(0, own);
            }
        }
        let audiences = vec![issuer.clone()];
        Tokens {
            signing,
            keys,
            issuer,
            audiences,
            uses: Uses::default(),
        }
    }

    /// How often tokens of a longer life were used.
    pub(crate) fn uses(&self) -> &Uses {
        &self.uses
    }

    /// The audiences of the API server itself.
    pub(crate) fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// The public keys as a JSON Web Key Set.
    pub(crate) fn jwks(&self) -> Value {
        json!({"keys": self.keys.iter().map(jwt::VerifyingKey::jwk).collect::<Vec<_>>()})
    }

    /// Issues a token; `None` when there is no key to sign with.
    pub(crate) fn issue(&self, spec: &TokenSpec<'_>) -> Option<Result<String, jwt::Error>> {
        let signing = self.signing.as_ref()?;
        let (name, uid) = spec.service_account;
        let mut private = json!({
            "namespace": spec.namespace,
            "serviceaccount": {"name": name, "uid": uid},
        });
        for bound in &spec.bound {
            private[bound.kind] = match bound.uid.is_empty() {
                true => json!({"name": bound.name}),
                false => json!({"name": bound.name, "uid": bound.uid}),
            };
        }
        if let Some(time) = spec.warn_after {
            private["warnafter"] = time.as_second().into();
        }
        let now = spec.now.as_second();
        let claims = json!({
            "aud": spec.audiences,
            "exp": spec.expires.as_second(),
            "iat": now,
            "nbf": now,
            "iss": self.issuer,
            "jti": uuid::Uuid::new_v4().to_string(),
            "kubernetes.io": private,
            "sub": format!("system:serviceaccount:{}:{name}", spec.namespace),
        });
        Some(signing.sign(&claims))
    }

    /// Verifies a token for one of the audiences; an error says why not.
    pub(crate) fn verify(
        &self,
        token: &str,
        audiences: &[String],
        cache: &Arc<WatchCache>,
        now: Timestamp,
    ) -> Result<Verified, String> {
        if jwt::peek(token).is_none_or(|claims| claims["iss"] != self.issuer.as_str()) {
            return Err("token was not issued by this cluster".to_owned());
        }
        let claims = jwt::verify(token, &self.keys).map_err(|error| error.to_string())?;
        let now = now.as_second();
        let time = |claim: &str| claims[claim].as_i64();
        if time("exp").is_none_or(|expires| now >= expires) {
            return Err("token has expired".to_owned());
        }
        if time("nbf").is_some_and(|from| now + 10 < from) {
            return Err("token is not valid yet".to_owned());
        }
        let own = match &claims["aud"] {
            Value::String(audience) => vec![audience.clone()],
            list => list
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
        };
        let audiences: Vec<String> = audiences
            .iter()
            .filter(|wanted| own.contains(wanted))
            .cloned()
            .collect();
        if audiences.is_empty() {
            return Err("token is not for this audience".to_owned());
        }

        let private = &claims["kubernetes.io"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let namespace = text(&private["namespace"]);
        let account = text(&private["serviceaccount"]["name"]);
        let exists = |prefix: &str, namespace: &str, claim: &Value| {
            let name = text(&claim["name"]);
            let key = match namespace {
                "" => format!("{prefix}{name}"),
                namespace => format!("{prefix}{namespace}/{name}"),
            };
            let object = cache.resource(prefix)?.get(&key)?.value();
            let same = object["metadata"]["uid"] == claim["uid"];
            let alive = object["metadata"]["deletionTimestamp"].is_null();
            (same && (alive || prefix == PODS)).then_some(())
        };
        exists(SERVICE_ACCOUNTS, &namespace, &private["serviceaccount"])
            .ok_or("service account was deleted or replaced")?;
        for (claim, prefix, scope) in [
            ("pod", PODS, namespace.as_str()),
            ("secret", SECRETS, &namespace),
            ("node", NODES, ""),
        ] {
            // A pod's token also names its node; the pod is what it is bound to then.
            if private[claim].is_object() && !(claim == "node" && private["pod"].is_object()) {
                exists(prefix, scope, &private[claim])
                    .ok_or_else(|| format!("the {claim} this token is bound to was deleted"))?;
            }
        }
        if let Some(warn_after) = private["warnafter"].as_i64().filter(|time| *time != 0) {
            self.uses.count(warn_after, now);
        }
        let mut user = UserInfo {
            name: format!("system:serviceaccount:{namespace}:{account}"),
            uid: text(&private["serviceaccount"]["uid"]),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                ALL_AUTHENTICATED.to_owned(),
            ],
            ..UserInfo::default()
        };
        let mut extra = |key: &str, value: String| {
            if !value.is_empty() {
                user.extra
                    .insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
            }
        };
        extra(
            "credential-id",
            claims["jti"]
                .as_str()
                .map(|id| format!("JTI={id}"))
                .unwrap_or_default(),
        );
        for kind in ["pod", "node"] {
            extra(&format!("{kind}-name"), text(&private[kind]["name"]));
            extra(&format!("{kind}-uid"), text(&private[kind]["uid"]));
        }
        Ok(Verified { user, audiences })
    }
}

const PODS: &str = "/registry/pods/";
const SECRETS: &str = "/registry/secrets/";
const NODES: &str = "/registry/minions/";
const SERVICE_ACCOUNTS: &str = "/registry/serviceaccounts/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_stale_after_its_time() {
        let uses = Uses::default();
        for now in [9, 10, 11, 12, 13] {
            uses.count(10, now);
        }
        let seen = (
            uses.valid.load(Ordering::Relaxed),
            uses.stale.load(Ordering::Relaxed),
        );
        assert_eq!(seen, (2, 3));
    }
}
