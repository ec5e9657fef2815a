//! Registry credentials out of image pull secrets.

use base64::Engine;
use k8s_cri::v1::AuthConfig;
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;

use super::ImageName;

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: std::collections::BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
}

/// The credentials in a secret (`kubernetes.io/dockerconfigjson` or `dockercfg`) for the registry of `image`.
pub(super) fn credentials(secret: &Secret, image: &str) -> Vec<AuthConfig> {
    let Ok(name) = ImageName::parse(image) else {
        return Vec::new();
    };
    let data = |key: &str| {
        secret
            .data
            .as_ref()
            .and_then(|data| data.get(key))
            .map(|bytes| bytes.0.as_slice())
    };
    let auths = match (data(".dockerconfigjson"), data(".dockercfg")) {
        (Some(json), _) => serde_json::from_slice(json).map(|config: DockerConfig| config.auths),
        (None, Some(json)) => serde_json::from_slice(json),
        (None, None) => return Vec::new(),
    };
    auths
        .unwrap_or_default()
        .into_iter()
        .filter(|(server, _)| covers(server, &name))
        .filter_map(|(server, entry)| auth_config(server, entry))
        .collect()
}

/// Whether an entry such as `https://index.docker.io/v1/` or `registry.example.com/team` is about the image.
fn covers(server: &str, name: &ImageName<'_>) -> bool {
    let server = server
        .split_once("://")
        .map_or(server, |(_, rest)| rest)
        .trim_end_matches('/');
    let (host, path) = server.split_once('/').unwrap_or((server, ""));
    if host == "index.docker.io" || host == "docker.io" {
        return name.registry() == "docker.io";
    }
    let path_fits = path.is_empty()
        || matches!(path, "v1" | "v2")
        || name
            .repository
            .strip_prefix(host)
            .is_some_and(|rest| rest.trim_start_matches('/').starts_with(path));
    host == name.registry() && path_fits
}

fn auth_config(server_address: String, entry: Entry) -> Option<AuthConfig> {
    let (username, password) = if entry.username.is_empty() {
        let decoded = base64::engine::general_purpose::STANDARD
            .decode(entry.auth.trim())
            .ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        let (username, password) = decoded.split_once(':')?;
        (username.to_owned(), password.to_owned())
    } else {
        (entry.username, entry.password)
    };
    Some(AuthConfig {
        username,
        password,
        server_address,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn credentials_fit_the_registry() {
        let json = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnBhc3M6d29yZA=="},
            "registry.example.com/team": {"username": "team", "password": "x"}
        }}"#;
        let secret = Secret {
            data: Some([(".dockerconfigjson".to_owned(), ByteString(json.into()))].into()),
            ..Default::default()
        };
        let rows = [
            ("nginx", Some(("hub", "pass:word"))),
            ("registry.example.com/team/app:1", Some(("team", "x"))),
            ("registry.example.com/other/app:1", None),
            ("quay.io/app", None),
        ];
        for (image, expect) in rows {
            let found = credentials(&secret, image);
            let found = found
                .first()
                .map(|auth| (auth.username.as_str(), auth.password.as_str()));
            assert_eq!(found, expect, "{image}");
        }
    }
}
