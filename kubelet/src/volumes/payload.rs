//! Which files a configMap, secret or downwardAPI source becomes. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret};

use super::downward::{self, Allocatable};

/// Files by their path inside the volume.
pub(super) type Payload = BTreeMap<String, ProjectedFile>;

/// One file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProjectedFile {
    pub(super) data: Vec<u8>,
    pub(super) mode: u32,
    /// The owning uid; the kubelet's own when absent.
    pub(super) owner: Option<u32>,
}

/// How a source's keys become files.
#[derive(Debug, Clone, Copy)]
pub(super) struct Selection<'a> {
    /// The keys wanted; all of them when absent or empty.
    pub(super) items: Option<&'a [KeyToPath]>,
    /// Mode of files that name none.
    pub(super) default_mode: u32,
    /// A missing key is left out rather than an error.
    pub(super) optional: bool,
}

/// The files of a ConfigMap, `binaryData` included.
pub(super) fn config_map(object: &ConfigMap, selection: Selection<'_>) -> Result<Payload, String> {
    let text = object
        .data
        .iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value.as_bytes()));
    let binary = object
        .binary_data
        .iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value.0.as_slice()));
    select(text.chain(binary).collect(), selection)
        .map_err(|key| format!("configmap references non-existent config key: {key}"))
}

/// The files of a Secret.
pub(super) fn secret(object: &Secret, selection: Selection<'_>) -> Result<Payload, String> {
    let data = object
        .data
        .iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value.0.as_slice()));
    select(data.collect(), selection).map_err(|key| format!("references non-existent secret key: {key}"))
}

/// The files of a downwardAPI source.
pub(super) fn downward_api(
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    default_mode: u32,
    allocatable: &Allocatable,
) -> Result<Payload, String> {
    let mut payload = Payload::new();
    for item in items {
        let value = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => downward::field_value(pod, &field.field_path)?,
            (None, Some(resource)) => downward::pod_resource_value(pod, resource, allocatable)?,
            (None, None) => String::new(),
        };
        let file = ProjectedFile {
            data: value.into_bytes(),
            mode: mode(item.mode, default_mode),
            owner: None,
        };
        payload.insert(item.path.clone(), file);
    }
    Ok(payload)
}

/// An item's own mode, else the default. Only permission bits are taken.
fn mode(item: Option<i32>, default_mode: u32) -> u32 {
    item.and_then(|mode| u32::try_from(mode).ok())
        .unwrap_or(default_mode)
        & 0o777
}

/// The selected files, or the key that is missing.
fn select(data: BTreeMap<&str, &[u8]>, selection: Selection<'_>) -> Result<Payload, String> {
    let file = |data: &[u8], item_mode| ProjectedFile {
        data: data.to_vec(),
        mode: mode(item_mode, selection.default_mode),
        owner: None,
    };
    let items = selection.items.unwrap_or_default();
    if items.is_empty() {
        return Ok(data
            .iter()
            .map(|(key, value)| ((*key).to_owned(), file(value, None)))
            .collect());
    }
    let mut payload = Payload::new();
    for item in items {
        match data.get(item.key.as_str()) {
            Some(value) => {
                payload.insert(item.path.clone(), file(value, item.mode));
            }
            None if selection.optional => {}
            None => return Err(item.key.clone()),
        }
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    type Files = &'static [(&'static str, &'static [u8], u32)];

    /// Rows follow upstream's `TestMakePayload` of configmap_test.go.
    #[test]
    fn config_map_files() {
        let object = ConfigMap {
            data: Some([("foo".into(), "foo".into()), ("bar".into(), "bar".into())].into()),
            binary_data: Some([("bin".into(), ByteString(vec![0, 255]))].into()),
            ..Default::default()
        };
        let item = |key: &str, path: &str, mode| KeyToPath {
            key: key.into(),
            path: path.into(),
            mode,
            ..Default::default()
        };
        let check = |items: &[KeyToPath], optional, expect: Result<Files, &str>| {
            let selection = Selection {
                items: Some(items),
                default_mode: 0o644,
                optional,
            };
            let got = config_map(&object, selection);
            let expect = expect.map_err(str::to_owned).map(|files| {
                files
                    .iter()
                    .map(|(path, data, mode)| {
                        (
                            (*path).to_owned(),
                            ProjectedFile {
                                data: data.to_vec(),
                                mode: *mode,
                                owner: None,
                            },
                        )
                    })
                    .collect::<Payload>()
            });
            assert_eq!(got, expect, "{items:?}");
        };
        check(
            &[],
            false,
            Ok(&[
                ("foo", b"foo", 0o644),
                ("bar", b"bar", 0o644),
                ("bin", &[0, 255], 0o644),
            ]),
        );
        check(
            &[item("foo", "path/to/foo.txt", None)],
            false,
            Ok(&[("path/to/foo.txt", b"foo", 0o644)]),
        );
        check(
            &[item("foo", "a", Some(0o400)), item("bin", "b", Some(0o1777))],
            false,
            Ok(&[("a", b"foo", 0o400), ("b", &[0, 255], 0o777)]),
        );
        check(
            &[item("nope", "a", None)],
            false,
            Err("configmap references non-existent config key: nope"),
        );
        check(
            &[item("nope", "a", None), item("bar", "b", None)],
            true,
            Ok(&[("b", b"bar", 0o644)]),
        );
    }

    #[test]
    fn secret_missing_key() {
        let items = [KeyToPath {
            key: "x".into(),
            path: "x".into(),
            ..Default::default()
        }];
        let selection = Selection {
            items: Some(&items),
            default_mode: 0o644,
            optional: false,
        };
        assert_eq!(
            secret(&Secret::default(), selection),
            Err("references non-existent secret key: x".into())
        );
    }
}
