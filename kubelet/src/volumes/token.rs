//! Service account tokens for pods: asked for when there is none on disk or the one there grows old.
//!
//! The token in the volume is the only record of it. Reading its age there means that a restarted kubelet asks for
//! nothing, and that pods keep their tokens while the API server is away.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Pod, ServiceAccount, ServiceAccountTokenProjection},
};
use kube::{Api, api::PostParams};
use serde::Deserialize;

use crate::pod;

/// The API's default for `expirationSeconds`.
const DEFAULT_EXPIRATION_SECONDS: i64 = 3600;
/// A token is replaced at this age even when it would live longer.
const AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long to wait after a refresh failed while the old token still works.
pub(super) const RETRY_REFRESH: Duration = Duration::from_secs(30);

/// When a token was issued and until when it works, in seconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct Lifetime {
    iat: i64,
    exp: i64,
}

/// What to do about a token of some age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// Good; look again after this time.
    Fresh(Duration),
    /// Still accepted, but to be replaced now.
    Due,
    /// No longer accepted.
    Expired,
}

impl Lifetime {
    /// Reads the claims of a token. Nothing is verified: it came from the API server or from our own disk.
    pub(super) fn of(token: &str) -> Option<Self> {
        let claims = token.split('.').nth(1)?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }

    /// Due at four fifths of its life, or after a day. Pure.
    pub(super) fn age(self, now: Timestamp) -> Age {
        let now = now.as_second();
        if now >= self.exp {
            return Age::Expired;
        }
        let life = self.exp.saturating_sub(self.iat).max(0);
        let due_after = (life - life / 5).min(i64::try_from(AGE_MAX.as_secs()).unwrap_or(i64::MAX));
        let left = self.iat.saturating_add(due_after).saturating_sub(now);
        match u64::try_from(left) {
            Ok(seconds) if seconds > 0 => Age::Fresh(Duration::from_secs(seconds)),
            _ => Age::Due,
        }
    }
}

/// Asks the API server for a token bound to the pod.
pub(super) async fn request(
    client: &kube::Client,
    pod: &Pod,
    projection: &ServiceAccountTokenProjection,
) -> Result<String, String> {
    let account = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.service_account_name.as_deref())
        .filter(|name| !name.is_empty())
        .unwrap_or("default");
    let audience = projection
        .audience
        .clone()
        .filter(|audience| !audience.is_empty());
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: audience.map(|audience| vec![audience]),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
            expiration_seconds: Some(
                projection
                    .expiration_seconds
                    .unwrap_or(DEFAULT_EXPIRATION_SECONDS),
            ),
            ..Default::default()
        }),
        ..Default::default()
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), pod::namespace(pod));
    let answer = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await
        .map_err(|error| format!("failed to fetch token: {}", super::objects::api_message(&error)))?;
    answer
        .status
        .and_then(|status| status.token)
        .filter(|token| !token.is_empty())
        .ok_or_else(|| "failed to fetch token: the API server sent none".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        let hour = 3600;
        let day = 24 * hour;
        // (issued, expires, now, expected)
        let rows = [
            (0, hour, 0, Age::Fresh(Duration::from_secs(2880))),
            (0, hour, 2879, Age::Fresh(Duration::from_secs(1))),
            (0, hour, 2880, Age::Due),
            (0, hour, 3599, Age::Due),
            (0, hour, 3600, Age::Expired),
            (0, 365 * day, 0, Age::Fresh(AGE_MAX)),
            (0, 365 * day, day, Age::Due),
            (100, 0, 50, Age::Expired),
        ];
        for (iat, exp, now, expect) in rows {
            let now = Timestamp::from_second(now).expect("in range");
            assert_eq!(Lifetime { iat, exp }.age(now), expect, "{iat} {exp} {now}");
        }
    }

    #[test]
    fn claims() {
        let claims = URL_SAFE_NO_PAD.encode(r#"{"iss":"x","iat":5,"exp":9}"#);
        assert_eq!(
            Lifetime::of(&format!("e30.{claims}.sig")),
            Some(Lifetime { iat: 5, exp: 9 })
        );
        for token in ["", "a.b", "a.!!.c", "e30.e30.x"] {
            assert_eq!(Lifetime::of(token), None, "{token}");
        }
    }
}
