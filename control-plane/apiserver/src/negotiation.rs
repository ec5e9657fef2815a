//! What the client wants back, read off its `Accept` header, and what it sent, read off `Content-Type`.

use api::{
    decode::Media,
    registry::Resource,
    status::{self, Status},
    table::IncludeObject,
};
use http::{HeaderMap, Uri, header};
use serde_json::Value;

use crate::{
    protobuf,
    request_info::{query, truthy},
};

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Encoding {
    #[default]
    Json,
    /// Indented JSON, for people.
    Pretty,
    Yaml,
    Protobuf,
}

/// What of an object is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Form {
    /// The object itself.
    #[default]
    Object,
    /// A Table of `meta.k8s.io`.
    Table(IncludeObject),
    /// A PartialObjectMetadata of `meta.k8s.io`.
    Metadata,
}

/// The version of `meta.k8s.io` in which tables and metadata are shown. They are the same but for its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum MetaVersion {
    #[default]
    V1,
    /// What clients asked for before there was `v1`; upstream still serves it.
    V1Beta1,
}

impl MetaVersion {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "v1" => Some(MetaVersion::V1),
            "v1beta1" => Some(MetaVersion::V1Beta1),
            _ => None,
        }
    }

    pub(crate) fn api_version(self) -> &'static str {
        match self {
            MetaVersion::V1 => "meta.k8s.io/v1",
            MetaVersion::V1Beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

/// The answer that was negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Output {
    pub(crate) encoding: Encoding,
    pub(crate) form: Form,
    /// The metadata were asked for as those of a list.
    pub(crate) metadata_of_list: bool,
    pub(crate) meta_version: MetaVersion,
}

impl Output {
    /// Whether cached bytes can be sent as they are.
    pub(crate) fn is_plain(self) -> bool {
        self == Output::default()
    }

    /// A Table or a PartialObjectMetadata in the version that was asked for, with the metadata in the table's rows.
    pub(crate) fn in_version(self, mut shown: Value) -> Value {
        let version = self.meta_version.api_version();
        if self.meta_version == MetaVersion::V1 {
            return shown;
        }
        let rows = shown.get_mut("rows").and_then(Value::as_array_mut);
        for object in rows.into_iter().flatten().filter_map(|row| row.get_mut("object")) {
            if object["kind"] == "PartialObjectMetadata" {
                object["apiVersion"] = version.into();
            }
        }
        shown["apiVersion"] = version.into();
        shown
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self.encoding {
            Encoding::Json | Encoding::Pretty => "application/json",
            Encoding::Yaml => "application/yaml",
            Encoding::Protobuf => protobuf::CONTENT_TYPE,
        }
    }

    /// The content type of a watch.
    pub(crate) fn stream_content_type(self) -> &'static str {
        match self.encoding {
            Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            _ => self.content_type(),
        }
    }
}

/// Refuses metadata of a list where there is one object, and the other way round.
pub(crate) fn check_metadata_form(output: Output, verb: &str, resource: &Resource) -> Result<(), Status> {
    let is_list = matches!(verb, "list" | "deletecollection");
    if output.form != Form::Metadata || verb == "watch" || output.metadata_of_list == is_list {
        return Ok(());
    }
    // As Go names the type: the package of the group within the server, and the kind.
    let package = match resource.group.split('.').next() {
        None | Some("" | "events") => "core",
        Some(package) => package,
    };
    let (asked, what, kind) = match is_list {
        true => ("PartialObjectMetadata", "a list", &resource.list_kind),
        false => ("PartialObjectMetadataList", "not a list", &resource.kind),
    };
    let message = format!("you requested {asked}, but the requested object is {what} (*{package}.{kind})");
    Err(Status::failure(406, "NotAcceptable", message))
}

/// The media types an answer can have, as error messages list them.
const ACCEPTED: &[&str] = &["application/json", "application/yaml", protobuf::CONTENT_TYPE];

/// The media types a watch can have.
const ACCEPTED_STREAMS: &[&str] = &["application/json", protobuf::CONTENT_TYPE];

/// One entry of an `Accept` header.
pub(crate) struct MediaRange<'a> {
    pub(crate) media_type: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality_millis: u32,
}

impl<'a> MediaRange<'a> {
    /// The value of a parameter, empty when it is not given.
    pub(crate) fn parameter(&self, name: &str) -> &'a str {
        self.parameters
            .iter()
            .find(|(key, _)| *key == name)
            .map_or("", |(_, value)| *value)
    }
}

/// The entries of all `Accept` headers, the preferred ones first.
pub(crate) fn accepted(headers: &HeaderMap) -> Vec<MediaRange<'_>> {
    let mut ranges: Vec<MediaRange<'_>> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|entry| {
            let mut parts = entry.split(';').map(str::trim);
            let media_type = parts.next().filter(|media_type| !media_type.is_empty())?;
            let parameters: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
            let quality = parameters.iter().find(|(key, _)| *key == "q");
            let quality = quality.map_or(Ok(1.0), |(_, value)| value.parse::<f32>()).ok()?;
            Some(MediaRange {
                media_type,
                parameters,
                quality_millis: (quality * 1000.0) as u32,
            })
        })
        .filter(|range| range.quality_millis > 0)
        .collect();
    // A stable sort: equal quality keeps the order of the header.
    ranges.sort_by_key(|range| std::cmp::Reverse(range.quality_millis));
    ranges
}

/// Chooses the answer's form; the first entry that can be served wins. A Table has no protobuf form, a watch none in YAML.
pub(crate) fn output(headers: &HeaderMap, uri: &Uri, is_watch: bool) -> Result<Output, Status> {
    let ranges = accepted(headers);
    if ranges.is_empty() {
        return Ok(Output {
            encoding: json_encoding(uri),
            ..Output::default()
        });
    }
    for range in &ranges {
        let encoding = match range.media_type {
            "application/json" | "*/*" | "application/*" => json_encoding(uri),
            "application/yaml" if !is_watch => Encoding::Yaml,
            protobuf::CONTENT_TYPE => Encoding::Protobuf,
            _ => continue,
        };
        let meta = (range.parameter("g") == "meta.k8s.io").then(|| range.parameter("v"));
        let meta = meta.and_then(MetaVersion::parse);
        let form = match range.parameter("as") {
            "" => Form::Object,
            "Table" if meta.is_some() && encoding != Encoding::Protobuf => {
                let include = query(uri, "includeObject").unwrap_or_default();
                let include = IncludeObject::parse(&include).ok_or_else(|| {
                    status::bad_request(format!(
                        "unrecognized includeObject value: {}",
                        status::quote(&include)
                    ))
                })?;
                Form::Table(include)
            }
            "PartialObjectMetadata" | "PartialObjectMetadataList" if meta.is_some() => Form::Metadata,
            _ => continue,
        };
        return Ok(Output {
            encoding,
            form,
            metadata_of_list: range.parameter("as") == "PartialObjectMetadataList",
            meta_version: meta.unwrap_or_default(),
        });
    }
    Err(status::not_acceptable(if is_watch {
        ACCEPTED_STREAMS
    } else {
        ACCEPTED
    }))
}

fn json_encoding(uri: &Uri) -> Encoding {
    if query(uri, "pretty").is_some_and(|value| truthy(&value)) {
        Encoding::Pretty
    } else {
        Encoding::Json
    }
}

/// Whether the client reads gzip.
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|entry| {
            let mut parts = entry.split(';').map(str::trim);
            let refused = |part: &str| {
                part.strip_prefix("q=")
                    .and_then(|quality| quality.parse::<f32>().ok())
                    .is_some_and(|quality| quality == 0.0)
            };
            parts.next() == Some("gzip") && !parts.any(refused)
        })
}

/// The `Content-Type` without parameters; empty when there is none.
pub(crate) fn content_type(headers: &HeaderMap) -> &str {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

/// How a request body is written.
pub(crate) fn media(headers: &HeaderMap) -> Result<Media, Status> {
    match content_type(headers) {
        "" | "application/json" => Ok(Media::Json),
        "application/yaml" => Ok(Media::Yaml),
        _ => Err(status::unsupported_media_type(ACCEPTED)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str, expect: Option<Form>) {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        let output = output(&headers, &"/".parse().unwrap(), false);
        assert_eq!(output.ok().map(|output| output.form), expect, "{accept}");
    }

    #[test]
    fn forms() {
        let table = Form::Table(IncludeObject::Metadata);
        check("application/json", Some(Form::Object));
        check("*/*", Some(Form::Object));
        check(
            "application/vnd.kubernetes.protobuf, application/json",
            Some(Form::Object),
        );
        check("application/vnd.kubernetes.protobuf", Some(Form::Object));
        check(
            "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io",
            None,
        );
        check(
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
            Some(Form::Metadata),
        );
        check("text/html", None);
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
            Some(table),
        );
        check(
            "application/json;as=Table;v=v9;g=meta.k8s.io,application/json",
            Some(Form::Object),
        );
        check("application/json;as=Table;v=v9;g=meta.k8s.io", None);
        check(
            "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
            Some(Form::Metadata),
        );
        check(
            "application/json;q=0.5, application/json;as=Table;g=meta.k8s.io;v=v1;q=0.9",
            Some(table),
        );
    }

    #[test]
    fn encodings() {
        for (accept, is_watch, expect) in [
            (
                "application/vnd.kubernetes.protobuf, application/json",
                false,
                Some(Encoding::Protobuf),
            ),
            (
                "application/json, application/vnd.kubernetes.protobuf",
                true,
                Some(Encoding::Json),
            ),
            (
                "application/vnd.kubernetes.protobuf;stream=watch",
                true,
                Some(Encoding::Protobuf),
            ),
            (
                "application/json;q=0.1, application/yaml",
                false,
                Some(Encoding::Yaml),
            ),
            ("application/yaml, application/json", true, Some(Encoding::Json)),
            ("application/yaml", true, None),
            ("application/cbor", false, None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            let output = output(&headers, &"/".parse().unwrap(), is_watch);
            assert_eq!(output.ok().map(|output| output.encoding), expect, "{accept}");
        }
    }
}
