//! Field errors and what they turn into.

pub(crate) mod net;
pub(crate) mod text;

use crate::status::quote;
use serde_json::Value;

/// For numbers below zero.
pub(crate) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
/// For fields that never change.
pub(crate) const FIELD_IMMUTABLE: &str = "field is immutable";

/// What is wrong with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The value breaks a rule.
    Invalid,
    /// The value is missing.
    Required,
    /// The value is not one of a closed set.
    NotSupported,
    /// The value occurs twice in a list or is taken.
    Duplicate,
    /// The field may not be set here.
    Forbidden,
    /// The value refers to something absent.
    NotFound,
    /// The value has too many bytes.
    TooLong,
    /// The list has too many items.
    TooMany,
    /// The server failed to check.
    Internal,
    /// The value has another JSON type.
    TypeInvalid,
}

/// An error about one field.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// What is wrong.
    pub kind: ErrorKind,
    /// Path of the field: `spec.containers[0].name`.
    pub path: String,
    /// The value as the message shows it (already quoted, if a string).
    pub bad_value: String,
    /// The rest of the message.
    pub detail: String,
}

impl FieldError {
    /// An error whose bad value is rendered already.
    pub fn new(
        kind: ErrorKind,
        path: impl Into<String>,
        bad_value: impl Into<String>,
        detail: impl Into<String>,
    ) -> Self {
        FieldError {
            kind,
            path: path.into(),
            bad_value: bad_value.into(),
            detail: detail.into(),
        }
    }

    /// The value breaks a rule.
    pub fn invalid(path: impl Into<String>, value: &Value, detail: impl Into<String>) -> Self {
        FieldError::new(ErrorKind::Invalid, path, shown(value), detail)
    }

    /// The value is missing.
    pub fn required(path: impl Into<String>, detail: impl Into<String>) -> Self {
        FieldError::new(ErrorKind::Required, path, "", detail)
    }

    /// The value is not one of those supported.
    pub fn not_supported(path: impl Into<String>, value: &str, supported: &[&str]) -> Self {
        let supported: Vec<String> = supported.iter().map(|s| quote(s)).collect();
        let detail = format!("supported values: {}", supported.join(", "));
        FieldError::new(ErrorKind::NotSupported, path, quote(value), detail)
    }

    /// The value breaks a rule and is too long, too secret or too odd to be shown.
    pub(crate) fn omitted(path: impl Into<String>, detail: impl Into<String>) -> Self {
        FieldError::new(ErrorKind::Invalid, path, "", detail)
    }

    /// The value occurs twice.
    pub fn duplicate(path: impl Into<String>, value: &Value) -> Self {
        FieldError::new(ErrorKind::Duplicate, path, shown(value), "")
    }

    /// The field may not be set.
    pub fn forbidden(path: impl Into<String>, detail: impl Into<String>) -> Self {
        FieldError::new(ErrorKind::Forbidden, path, "", detail)
    }

    /// The value refers to something absent.
    pub fn not_found(path: impl Into<String>, value: &str) -> Self {
        FieldError::new(ErrorKind::NotFound, path, quote(value), "")
    }

    /// The value is longer than `max` bytes.
    pub fn too_long(path: impl Into<String>, max: usize) -> Self {
        FieldError::new(
            ErrorKind::TooLong,
            path,
            "",
            format!("may not be more than {max} bytes"),
        )
    }

    /// The `reason` of the Status cause.
    pub fn reason(&self) -> &'static str {
        match self.kind {
            ErrorKind::Invalid => "FieldValueInvalid",
            ErrorKind::Required => "FieldValueRequired",
            ErrorKind::NotSupported => "FieldValueNotSupported",
            ErrorKind::Duplicate => "FieldValueDuplicate",
            ErrorKind::Forbidden => "FieldValueForbidden",
            ErrorKind::NotFound => "FieldValueNotFound",
            ErrorKind::TooLong => "FieldValueTooLong",
            ErrorKind::TooMany => "FieldValueTooMany",
            ErrorKind::Internal => "InternalError",
            ErrorKind::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    /// The message without the path.
    pub fn body(&self) -> String {
        let kind = match self.kind {
            ErrorKind::Invalid | ErrorKind::TypeInvalid => "Invalid value",
            ErrorKind::Required => "Required value",
            ErrorKind::NotSupported => "Unsupported value",
            ErrorKind::Duplicate => "Duplicate value",
            ErrorKind::Forbidden => "Forbidden",
            ErrorKind::NotFound => "Not found",
            ErrorKind::TooLong => "Too long",
            ErrorKind::TooMany => "Too many",
            ErrorKind::Internal => "Internal error",
        };
        let shows_value = !matches!(
            self.kind,
            ErrorKind::Required | ErrorKind::Forbidden | ErrorKind::TooLong | ErrorKind::Internal
        );
        let mut out = kind.to_string();
        if shows_value && !self.bad_value.is_empty() {
            out.push_str(": ");
            out.push_str(&self.bad_value);
        }
        if !self.detail.is_empty() {
            out.push_str(": ");
            out.push_str(&self.detail);
        }
        out
    }

    /// `spec.a: Invalid value: …`.
    pub fn message(&self) -> String {
        format!("{}: {}", self.path, self.body())
    }
}

/// Field errors in the order they were found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ErrorList(Vec<FieldError>);

impl ErrorList {
    /// No error.
    pub fn new() -> Self {
        ErrorList::default()
    }

    /// Adds an error.
    pub fn push(&mut self, error: FieldError) {
        self.0.push(error);
    }

    /// Adds the errors of another list.
    pub fn extend(&mut self, other: ErrorList) {
        self.0.extend(other.0);
    }

    /// Adds the errors of a part that does not know where it is: `prefix` goes before their paths.
    pub(crate) fn under(&mut self, prefix: &str, other: ErrorList) {
        self.0.extend(other.into_iter().map(|mut error| {
            error.path = format!("{prefix}.{}", error.path);
            error
        }));
    }

    /// The value breaks a rule.
    pub(crate) fn invalid(
        &mut self,
        path: impl Into<String>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) {
        self.push(FieldError::invalid(path, &value.into(), detail));
    }

    /// The value is missing.
    pub(crate) fn required(&mut self, path: impl Into<String>, detail: impl Into<String>) {
        self.push(FieldError::required(path, detail));
    }

    /// The field may not be set or changed.
    pub(crate) fn forbidden(&mut self, path: impl Into<String>, detail: impl Into<String>) {
        self.push(FieldError::forbidden(path, detail));
    }

    /// The value occurs twice.
    pub(crate) fn duplicate(&mut self, path: impl Into<String>, value: impl Into<Value>) {
        self.push(FieldError::duplicate(path, &value.into()));
    }

    /// Adds an error if the list is too long; tells whether it is.
    pub(crate) fn too_many(&mut self, path: &str, actual: usize, max: usize) -> bool {
        if actual > max {
            let items = if max == 1 { "item" } else { "items" };
            let detail = format!("must have at most {max} {items}");
            self.push(FieldError::new(
                ErrorKind::TooMany,
                path,
                actual.to_string(),
                detail,
            ));
        }
        actual > max
    }

    /// Adds an error if the text is missing; tells whether it is there.
    pub(crate) fn present(&mut self, path: &str, value: &str) -> bool {
        if value.is_empty() {
            self.required(path, "");
        }
        !value.is_empty()
    }

    /// Adds an error for every problem a grammar of [`text`] found.
    pub(crate) fn problems(&mut self, path: &str, value: &str, problems: Vec<String>) {
        for problem in problems {
            self.push(FieldError::new(ErrorKind::Invalid, path, quote(value), problem));
        }
    }

    /// Adds an error if the integer is negative.
    pub(crate) fn non_negative(&mut self, path: &str, value: i64) {
        if value < 0 {
            self.push(FieldError::invalid(path, &Value::from(value), NOT_NEGATIVE));
        }
    }

    /// Adds an error if the integer is outside a range.
    pub(crate) fn in_range(&mut self, path: &str, value: i64, low: i64, high: i64) {
        if !(low..=high).contains(&value) {
            self.push(FieldError::invalid(
                path,
                &Value::from(value),
                text::between(low, high),
            ));
        }
    }

    /// Adds an error if the text is not one of those supported.
    pub(crate) fn one_of(&mut self, path: &str, value: &str, supported: &[&str]) {
        if !supported.contains(&value) {
            self.push(FieldError::not_supported(path, value, supported));
        }
    }

    /// Adds an error if a field changed that may not.
    pub(crate) fn immutable(&mut self, path: &str, new: Option<&Value>, old: Option<&Value>) {
        if new != old {
            self.push(FieldError::invalid(
                path,
                new.unwrap_or(&Value::Null),
                FIELD_IMMUTABLE,
            ));
        }
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of errors.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The errors.
    pub fn iter(&self) -> std::slice::Iter<'_, FieldError> {
        self.0.iter()
    }

    /// One error bare, several in brackets; repeated messages once.
    pub fn message(&self) -> String {
        let mut messages: Vec<String> = Vec::new();
        for error in &self.0 {
            let message = error.message();
            if !messages.contains(&message) {
                messages.push(message);
            }
        }
        match messages.len() {
            1 => messages.remove(0),
            _ => format!("[{}]", messages.join(", ")),
        }
    }
}

impl IntoIterator for ErrorList {
    type Item = FieldError;
    type IntoIter = std::vec::IntoIter<FieldError>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// A value as upstream's messages show it: as JSON.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::String(s) => quote(s),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn messages() {
        let mut errors = ErrorList::new();
        errors.non_negative("spec.replicas", -1);
        assert_eq!(
            errors.message(),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0"
        );
        errors.one_of("spec.type", "X", &["A", "B"]);
        errors.push(FieldError::required("spec.a", ""));
        errors.push(FieldError::required("spec.a", ""));
        assert_eq!(
            errors.message(),
            r#"[spec.replicas: Invalid value: -1: must be greater than or equal to 0, spec.type: Unsupported value: "X": supported values: "A", "B", spec.a: Required value]"#
        );
        let status = crate::status::invalid("apps", "Deployment", "d", errors);
        assert!(
            status
                .message
                .starts_with("Deployment.apps \"d\" is invalid: [spec.replicas")
        );
        assert_eq!(status.details.as_ref().map(|d| d.causes.len()), Some(4));
        assert_eq!(shown(&json!({"a": "c"})), r#"{"a":"c"}"#);
        assert_eq!(shown(&json!(["Some"])), r#"["Some"]"#);
        assert_eq!(FieldError::omitted("a", "why").message(), "a: Invalid value: why");
    }
}
