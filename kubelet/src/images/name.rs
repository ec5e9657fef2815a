//! Names of images.

/// Why a text is no image name, in the words of the reference grammar's own parser.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name \"{name}\": {reason}")]
pub struct InvalidName {
    name: String,
    reason: &'static str,
}

/// An image name taken apart: `[registry/]repository[:tag][@digest]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName<'a> {
    /// Registry and path.
    pub repository: &'a str,
    /// After the colon.
    pub tag: Option<&'a str>,
    /// After the at sign.
    pub digest: Option<&'a str>,
}

impl<'a> ImageName<'a> {
    /// Takes a name apart.
    pub fn parse(name: &'a str) -> Result<Self, InvalidName> {
        let fail = |reason| InvalidName {
            name: name.to_owned(),
            reason,
        };
        let (rest, digest) = match name.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (name, None),
        };
        let last_slash = rest.rfind('/').map_or(0, |at| at + 1);
        let (repository, tag) = match rest[last_slash..].find(':') {
            Some(at) => (&rest[..last_slash + at], Some(&rest[last_slash + at + 1..])),
            None => (rest, None),
        };
        let (registry, path) = match repository.split_once('/') {
            Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), path),
            _ => (None, repository),
        };
        if registry.is_some_and(|registry| !is_registry(registry)) {
            return Err(fail("invalid reference format"));
        }
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(fail(
                "invalid reference format: repository name (must be lowercase)",
            ));
        }
        let good = path.split('/').all(is_component)
            && tag.is_none_or(is_tag)
            && digest.is_none_or(is_digest)
            && repository.len() <= 255;
        if good {
            Ok(Self {
                repository,
                tag,
                digest,
            })
        } else {
            Err(fail("invalid reference format"))
        }
    }

    /// The registry's host, Docker's when none is named.
    pub fn registry(&self) -> &'a str {
        match self.repository.split_once('/') {
            Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
            _ => "docker.io",
        }
    }
}

/// The name with `:latest` when it says neither tag nor digest.
pub fn with_default_tag(name: &str) -> Result<String, InvalidName> {
    let parsed = ImageName::parse(name)?;
    match (parsed.tag, parsed.digest) {
        (None, None) => Ok(format!("{name}:latest")),
        _ => Ok(name.to_owned()),
    }
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = registry.rsplit_once(':').unwrap_or((registry, "0"));
    let host_good = !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-[]:".contains(&byte));
    host_good && !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
}

/// Lower case letters and digits, with single separators between them.
fn is_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes
            .iter()
            .all(|byte| alphanumeric(byte) || b"._-".contains(byte))
        && !component.contains("..")
        && !component.contains("___")
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=128).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

fn is_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, hex)| {
        !algorithm.is_empty() && hex.len() >= 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let rows = [
            ("nginx", "nginx:latest", "docker.io"),
            ("nginx:1.25", "nginx:1.25", "docker.io"),
            ("localhost/orlop/test:1", "localhost/orlop/test:1", "localhost"),
            (
                "localhost:5000/app",
                "localhost:5000/app:latest",
                "localhost:5000",
            ),
            (
                "registry.k8s.io/pause",
                "registry.k8s.io/pause:latest",
                "registry.k8s.io",
            ),
        ];
        for (name, expect, registry) in rows {
            assert_eq!(with_default_tag(name).as_deref(), Ok(expect), "{name}");
            assert_eq!(
                ImageName::parse(name).map(|name| name.registry()),
                Ok(registry),
                "{name}"
            );
        }
        let with_digest = format!("nginx@{digest}");
        assert_eq!(with_default_tag(&with_digest), Ok(with_digest.clone()));
    }

    #[test]
    fn bad_names() {
        for name in [
            "",
            "UPPER/case",
            "a//b",
            "nginx:",
            "nginx:-x",
            "nginx@sha256:short",
            "a b",
            "/x",
            "x/",
        ] {
            assert!(with_default_tag(name).is_err(), "{name:?}");
        }
        assert_eq!(
            with_default_tag("My/App").expect_err("upper case").to_string(),
            "couldn't parse image name \"My/App\": invalid reference format: repository name (must be lowercase)"
        );
    }
}
