//! Request bytes to objects: one pass that checks types, finds unknown and duplicate fields and normalises values.
//!
//! A decoded object looks as if it had been through upstream's Go types: unknown fields and nulls are gone, fields that
//! Go would leave out when zero are gone, those it always writes are there, quantities, times and bytes are in
//! canonical form. Whatever reads objects later may rely on it.

mod duplicates;
mod scalar;
mod walk;

use crate::registry::api_version;
use crate::schema::TypeRef;
use crate::status::{self, Result, Status};
use serde::de::DeserializeSeed;
use serde_json::{Map, Value};
use walk::{Context, Walk};

pub use duplicates::duplicate_fields;
pub(crate) use walk::zero_message;

/// The largest request body.
pub const MAX_BODY: usize = 3 << 20;

/// How the bytes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
}

/// What to do about unknown and duplicate fields (the `fieldValidation` parameter).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and warn.
    #[default]
    Warn,
    /// Refuse the request, naming all of them.
    Strict,
}

/// A decoded object.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The object, with known fields only and values in canonical form.
    pub value: Value,
    /// Texts for `Warning:` headers.
    pub warnings: Vec<String>,
    /// The object came with a `metadata.managedFields` that is empty but there, which asks to forget them all; among the
    /// values it is left out, as all that is empty.
    pub forgets_managers: bool,
}

/// The kind a request body must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected<'a> {
    /// API group of the endpoint.
    pub group: &'a str,
    /// Version of the endpoint.
    pub version: &'a str,
    /// Kind of the endpoint; a body without `kind` is taken for it.
    pub kind: &'a str,
    /// Schema of that kind.
    pub schema: TypeRef,
}

/// Decodes a request body; the result always carries `apiVersion` and `kind`.
pub fn decode(body: &[u8], media: Media, expected: Expected<'_>, mode: FieldValidation) -> Result<Decoded> {
    if body.len() > MAX_BODY {
        return Err(status::request_entity_too_large(format!("limit is {MAX_BODY}")));
    }
    match media {
        Media::Json => {
            let mut context = Context::default();
            let mut json = serde_json::Deserializer::from_slice(body);
            let walked = Walk::root(&mut context, expected.schema)
                .deserialize(&mut json)
                .and_then(|value| json.end().map(|()| value))
                .map_err(|error| unreadable(expected.kind, &json_error(body, &error), body))?;
            finish(walked, context, expected, mode)
        }
        Media::Yaml => {
            let (value, duplicates) = parse_yaml(body, expected.kind)?;
            let Some(duplicates) = duplicates.filter(|_| mode != FieldValidation::Ignore) else {
                return decode_value(value, expected, mode);
            };
            let mut decoded = decode_value(value, expected, FieldValidation::Warn)?;
            decoded.warnings.insert(0, duplicates);
            match mode {
                FieldValidation::Strict => Err(not_strict(expected, &decoded.warnings)),
                _ => Ok(decoded),
            }
        }
    }
}

/// The same for a value at hand: what a patch engine made, what a webhook answered.
pub fn decode_value(value: Value, expected: Expected<'_>, mode: FieldValidation) -> Result<Decoded> {
    let mut context = Context::default();
    let walked = Walk::root(&mut context, expected.schema)
        .deserialize(value)
        .map_err(|error: serde_json::Error| unhandled(expected, &error.to_string()))?;
    finish(walked, context, expected, mode)
}

/// Parses YAML into a JSON value without a schema: patches, and kinds known only at run time.
pub fn yaml_to_value(body: &[u8]) -> Result<Value> {
    parse_yaml(body, "object").map(|(value, _)| value)
}

/// The same, with a text on keys that are given twice, if there are any.
pub fn yaml_to_value_and_complaint(body: &[u8]) -> Result<(Value, Option<String>)> {
    parse_yaml(body, "object")
}

/// The value, and a text on duplicate keys if there are any.
fn parse_yaml(body: &[u8], kind: &str) -> Result<(Value, Option<String>)> {
    use serde_saphyr::options::DuplicateKeyPolicy;
    let text = std::str::from_utf8(body)
        .map_err(|e| unreadable(kind, &format!("error converting YAML to JSON: yaml: {e}"), body))?;
    let parse = |duplicate_keys| {
        let options = serde_saphyr::options! { duplicate_keys: duplicate_keys, with_snippet: false };
        serde_saphyr::from_str_with_options::<Value>(text, options)
    };
    let malformed = |error: serde_saphyr::Error| {
        unreadable(
            kind,
            &format!("error converting YAML to JSON: yaml: {error}"),
            body,
        )
    };
    if let Ok(value) = parse(DuplicateKeyPolicy::Error) {
        return Ok((value, None));
    }
    let value = parse(DuplicateKeyPolicy::LastWins).map_err(malformed)?;
    let lines = duplicates::duplicate_keys(text).map_err(malformed)?;
    let complaint = format!(
        "error converting YAML to JSON: yaml: unmarshal errors:\n  {}",
        lines.join("\n  ")
    );
    Ok((value, Some(complaint)))
}

fn finish(
    walked: Option<Value>,
    context: Context,
    expected: Expected<'_>,
    mode: FieldValidation,
) -> Result<Decoded> {
    let mut map = match walked {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    };
    check_kind(&map, expected)?;
    if let Some(error) = context.error() {
        return Err(unhandled(expected, &error));
    }
    let complaints = context.complaints();
    let warnings = match mode {
        FieldValidation::Strict if !complaints.is_empty() => {
            return Err(not_strict(expected, &complaints));
        }
        FieldValidation::Warn => complaints,
        _ => Vec::new(),
    };
    map.insert(
        "apiVersion".into(),
        Value::String(api_version(expected.group, expected.version)),
    );
    map.insert("kind".into(), Value::String(expected.kind.into()));
    Ok(Decoded {
        value: Value::Object(map),
        warnings,
        forgets_managers: context.forgets_managers,
    })
}

/// The body may leave out its kind and version; if it names them, they must be the endpoint's.
fn check_kind(map: &Map<String, Value>, expected: Expected<'_>) -> Result<()> {
    let text = |field: &str| map.get(field).and_then(Value::as_str).filter(|s| !s.is_empty());
    let kind = text("kind").unwrap_or(expected.kind);
    let wanted = api_version(expected.group, expected.version);
    let given = text("apiVersion").unwrap_or(&wanted);
    if kind == expected.kind && given == wanted {
        return Ok(());
    }
    // The options kinds are registered in every group-version.
    if kind == expected.kind
        && expected
            .schema
            .name()
            .starts_with("io.k8s.apimachinery.pkg.apis.meta.")
    {
        return Ok(());
    }
    let version = given.rsplit('/').next().unwrap_or(given);
    if !is_known(given, kind) {
        let scheme = "k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30";
        let why = format!(
            "no kind {} is registered for version {} in scheme {}",
            q(kind),
            q(given),
            q(scheme)
        );
        return Err(cannot_be_handled(kind, version, expected.kind, &why));
    }
    if kind == expected.kind {
        let text = format!(
            "the API version in the data ({given}) does not match the expected API version ({wanted})"
        );
        return Err(status::bad_request(text));
    }
    let internal = if expected.group.is_empty() {
        "core"
    } else {
        expected.group.split('.').next().unwrap_or("core")
    };
    let why = format!(
        "converting ({version}.{kind}) to ({internal}.{}): unknown conversion",
        expected.kind
    );
    Err(cannot_be_handled(kind, version, expected.kind, &why))
}

/// Whether some served type has that kind and version.
fn is_known(given: &str, kind: &str) -> bool {
    let (group, version) = given.split_once('/').unwrap_or(("", given));
    let package = match group {
        "" => "core",
        "apiextensions.k8s.io" => "apiextensions-apiserver.pkg.apis.apiextensions",
        "apiregistration.k8s.io" => "kube-aggregator.pkg.apis.apiregistration",
        "flowcontrol.apiserver.k8s.io" => "flowcontrol",
        "rbac.authorization.k8s.io" => "rbac",
        _ => group.strip_suffix(".k8s.io").unwrap_or(group),
    };
    ["io.k8s.api", "io.k8s"]
        .iter()
        .any(|root| TypeRef::by_name(&format!("{root}.{package}.{version}.{kind}")).is_some())
}

/// All that strict decoding has to say, at once.
fn not_strict(expected: Expected<'_>, complaints: &[String]) -> Status {
    unhandled(
        expected,
        &format!("strict decoding error: {}", complaints.join(", ")),
    )
}

fn unhandled(expected: Expected<'_>, why: &str) -> Status {
    cannot_be_handled(expected.kind, expected.version, expected.kind, why)
}

fn cannot_be_handled(kind: &str, version: &str, wanted: &str, why: &str) -> Status {
    status::bad_request(format!(
        "{kind} in version {} cannot be handled as a {wanted}: {why}",
        q(version)
    ))
}

/// The bytes are not even JSON.
fn unreadable(kind: &str, why: &str, body: &[u8]) -> Status {
    status::bad_request(format!(
        "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; json parse error: {why} ({})",
        summary(body)
    ))
}

/// What upstream shows of an unreadable body.
fn summary(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    let more = if body.len() > SHOWN { " ..." } else { "" };
    let shown = &body[..body.len().min(SHOWN)];
    match body.first() {
        None => "<empty>".into(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(shown)),
        Some(_) => format!(
            "{}{more}",
            shown.iter().map(|b| format!("{b:02x}")).collect::<String>()
        ),
    }
}

/// A JSON syntax error in Go's words.
fn json_error(body: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".into();
    }
    let text = error.to_string();
    let context = if text.starts_with("expected value") || text.starts_with("expected ident") {
        "looking for beginning of value"
    } else if text.starts_with("expected `:`") {
        "after object key"
    } else if text.starts_with("expected `,` or `}`") {
        "after object key:value pair"
    } else if text.starts_with("expected `,` or `]`") {
        "after array element"
    } else if text.starts_with("key must be a string") || text.starts_with("trailing comma") {
        "looking for beginning of object key string"
    } else if text.starts_with("trailing characters") {
        "after top-level value"
    } else if text.starts_with("control character") {
        "in string literal"
    } else if text.starts_with("invalid escape") {
        "in string escape code"
    } else if text.starts_with("recursion limit") {
        return "exceeded max depth".into();
    } else {
        return text;
    };
    let line = body
        .split(|b| *b == b'\n')
        .nth(error.line().saturating_sub(1))
        .unwrap_or(b"");
    let byte = line
        .get(error.column().saturating_sub(1))
        .copied()
        .unwrap_or(b'\n');
    let shown = match byte {
        b'\'' => r"'\''".to_string(),
        b'\n' => r"'\n'".to_string(),
        b'\r' => r"'\r'".to_string(),
        b'\t' => r"'\t'".to_string(),
        0x20..=0x7e => format!("'{}'", char::from(byte)),
        _ => format!("'\\x{byte:02x}'"),
    };
    format!("invalid character {shown} {context}")
}

fn q(text: &str) -> String {
    status::quote(text)
}

#[cfg(test)]
mod tests;
