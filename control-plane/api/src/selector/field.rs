//! `metadata.name=a,status.phase!=Running`.

use crate::status::{self, Result};

/// A parsed field selector; matches when every requirement does.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

/// One requirement on a field.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldRequirement {
    /// Field label, e.g. `spec.nodeName`.
    pub field: String,
    /// Equal (true) or not equal.
    pub equal: bool,
    /// Operand.
    pub value: String,
}

impl FieldSelector {
    /// Parses the query form: `metadata.name=a,status.phase!=Running`. A backslash escapes `\`, `,` and `=` in values.
    pub fn parse(text: &str) -> Result<FieldSelector> {
        let mut requirements = Vec::new();
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            let (field, equal, value) = split_operator(term).ok_or_else(|| {
                status::bad_request(format!("invalid selector: '{text}'; can't understand '{term}'"))
            })?;
            let value = unescape(value)
                .map_err(|why| status::bad_request(format!("invalid field selector: {why}")))?;
            requirements.push(FieldRequirement {
                field: field.to_string(),
                equal,
                value,
            });
        }
        Ok(FieldSelector { requirements })
    }

    /// A selector of one name.
    pub fn name(name: &str) -> FieldSelector {
        let field = "metadata.name".to_string();
        FieldSelector {
            requirements: vec![FieldRequirement {
                field,
                equal: true,
                value: name.into(),
            }],
        }
    }

    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The requirements.
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    /// Refuses fields the kind cannot be selected by.
    pub fn check(&self, is_selectable: impl Fn(&str) -> bool) -> Result<()> {
        match self.requirements.iter().find(|r| !is_selectable(&r.field)) {
            None => Ok(()),
            Some(r) => Err(status::bad_request(format!(
                "field label not supported: {}",
                r.field
            ))),
        }
    }

    /// The value a field must equal, if the selector says so (`metadata.name`, `spec.nodeName`: an index applies).
    pub fn required_value(&self, field: &str) -> Option<&str> {
        self.requirements
            .iter()
            .find(|r| r.equal && r.field == field)
            .map(|r| r.value.as_str())
    }

    /// Whether the fields match; `get` gives a field's value, absent counts as empty.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements
            .iter()
            .all(|r| (get(&r.field).unwrap_or("") == r.value) == r.equal)
    }
}

/// At commas that no backslash escapes.
fn split_terms(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let current = rest?;
        let mut escaped = false;
        for (i, b) in current.bytes().enumerate() {
            match b {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b',' => {
                    rest = Some(&current[i + 1..]);
                    return Some(&current[..i]);
                }
                _ => {}
            }
        }
        rest = None;
        Some(current)
    })
}

fn split_operator(term: &str) -> Option<(&str, bool, &str)> {
    let at = term.find(['=', '!'])?;
    let (field, rest) = term.split_at(at);
    [("!=", false), ("==", true), ("=", true)]
        .into_iter()
        .find_map(|(op, equal)| rest.strip_prefix(op).map(|value| (field, equal, value)))
}

fn unescape(value: &str) -> std::result::Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                other => {
                    let other = other.map(String::from).unwrap_or_default();
                    return Err(format!("invalid escape sequence: \\{other}"));
                }
            },
            // Upstream tells the character by its number.
            '=' | ',' => return Err(format!("unescaped character in value: {}", u32::from(c))),
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_matches() {
        let s = FieldSelector::parse(r"spec.nodeName=n1,status.phase!=Failed,a==x\,y\=z").unwrap();
        assert_eq!(s.requirements().len(), 3);
        assert_eq!(s.required_value("spec.nodeName"), Some("n1"));
        assert_eq!(s.required_value("status.phase"), None);
        assert_eq!(s.required_value("a"), Some("x,y=z"));
        let get = |phase: &'static str| {
            move |f: &str| match f {
                "spec.nodeName" => Some("n1"),
                "status.phase" => Some(phase),
                "a" => Some("x,y=z"),
                _ => None,
            }
        };
        assert!(s.matches(get("Running")));
        assert!(!s.matches(get("Failed")));
        assert!(FieldSelector::parse("").unwrap().is_empty());
        assert!(FieldSelector::parse("spec.nodeName=").unwrap().matches(|_| None));
    }

    #[test]
    fn refuses_nonsense() {
        for bad in ["a", "a!b", r"a=\x", "a=b=c", "a=\\"] {
            assert_eq!(FieldSelector::parse(bad).unwrap_err().code, 400, "{bad}");
        }
        let error = FieldSelector::parse("x.y=1")
            .unwrap()
            .check(|f| f == "metadata.name")
            .unwrap_err();
        assert_eq!(error.message, "field label not supported: x.y");
    }
}
