//! Image names and pull secrets, as any bytes that somebody may have put into an object.

use k8s_openapi::{ByteString, api::core::v1::Secret};

use super::{auth, with_default_tag};

/// An image's name on the first line, then a docker configuration.
pub fn image_pull_secret(data: &[u8]) {
    let line = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let Ok(image) = str::from_utf8(&data[..line]) else {
        return;
    };
    if let Ok(name) = with_default_tag(image) {
        assert_eq!(
            with_default_tag(&name).as_ref(),
            Ok(&name),
            "a complete name stays"
        );
    }
    let config = data.get(line + 1..).unwrap_or_default().to_vec();
    for key in [".dockerconfigjson", ".dockercfg"] {
        let secret = Secret {
            data: Some([(key.to_owned(), ByteString(config.clone()))].into()),
            ..Secret::default()
        };
        let _credentials = auth::credentials(&secret, image);
    }
}
