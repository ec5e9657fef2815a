//! `a=b,c in (d,e),!f` and `metav1.LabelSelector`.

use crate::status::{self, Result};
use crate::validation::text::{label_value_problems, qualified_name_problems};
use serde_json::{Map, Value};
use std::fmt;

/// A parsed label selector; matches when every requirement does.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LabelSelector {
    requirements: Vec<LabelRequirement>,
}

/// One requirement on a label.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelRequirement {
    /// Label key.
    pub key: String,
    /// Comparison.
    pub op: LabelOp,
    /// Its operands, sorted.
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelOp {
    /// The value is one of the operands.
    In,
    /// Absent, or not one of the operands.
    NotIn,
    /// Present.
    Exists,
    /// Absent.
    DoesNotExist,
    /// Integer greater than the operand.
    Gt,
    /// Integer less than the operand.
    Lt,
}

impl LabelSelector {
    /// Parses the query form: `a=b,c in (d,e),!f`.
    pub fn parse(text: &str) -> Result<LabelSelector> {
        let mut parser = Parser {
            tokens: lex(text),
            at: 0,
        };
        let requirements = parser
            .requirements()
            .map_err(|why| status::bad_request(format!("unable to parse requirement: {why}")))?;
        Ok(LabelSelector { requirements })
    }

    /// From a `metav1.LabelSelector`. Absent is `None` and matches nothing; empty matches everything.
    pub fn from_value(selector: Option<&Value>) -> Result<Option<LabelSelector>> {
        let Some(selector) = selector.and_then(Value::as_object) else {
            return Ok(None);
        };
        let mut out = LabelSelector::default();
        if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
            out = LabelSelector::from_map(labels);
        }
        let expressions = selector
            .get("matchExpressions")
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        for e in expressions {
            let text = |field: &str| e.get(field).and_then(Value::as_str).unwrap_or("");
            let op = match text("operator") {
                "In" => LabelOp::In,
                "NotIn" => LabelOp::NotIn,
                "Exists" => LabelOp::Exists,
                "DoesNotExist" => LabelOp::DoesNotExist,
                other => {
                    return Err(status::bad_request(format!(
                        "{} is not a valid label selector operator",
                        status::quote(other)
                    )));
                }
            };
            let values = e.get("values").and_then(Value::as_array).into_iter().flatten();
            let values = values.filter_map(Value::as_str).map(str::to_string).collect();
            out.requirements
                .push(LabelRequirement::new(text("key"), op, values).map_err(status::bad_request)?);
        }
        Ok(Some(out))
    }

    /// From a plain map of labels that must all be there (Service selectors).
    pub fn from_map(labels: &Map<String, Value>) -> LabelSelector {
        let requirement = |(key, value): (&String, &Value)| LabelRequirement {
            key: key.clone(),
            op: LabelOp::In,
            values: vec![value.as_str().unwrap_or("").to_string()],
        };
        LabelSelector {
            requirements: labels.iter().map(requirement).collect(),
        }
    }

    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The requirements.
    pub fn requirements(&self) -> &[LabelRequirement] {
        &self.requirements
    }

    /// Whether the labels match.
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.matches_by(|key| labels.and_then(|l| l.get(key)).and_then(Value::as_str))
    }

    /// Whether the labels match, however they are kept.
    pub fn matches_by<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|r| r.matches(get(&r.key)))
    }
}

/// The query form, requirements sorted by key: what `status.selector` of a Scale holds.
impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted: Vec<_> = self.requirements.iter().collect();
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        for (i, r) in sorted.into_iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let (key, values) = (&r.key, r.values.join(","));
            match r.op {
                LabelOp::In if r.values.len() == 1 => write!(f, "{comma}{key}={values}")?,
                LabelOp::In => write!(f, "{comma}{key} in ({values})")?,
                LabelOp::NotIn => write!(f, "{comma}{key} notin ({values})")?,
                LabelOp::Exists => write!(f, "{comma}{key}")?,
                LabelOp::DoesNotExist => write!(f, "{comma}!{key}")?,
                LabelOp::Gt => write!(f, "{comma}{key}>{values}")?,
                LabelOp::Lt => write!(f, "{comma}{key}<{values}")?,
            }
        }
        Ok(())
    }
}

impl LabelRequirement {
    /// Checks key, values and their number.
    fn new(key: &str, op: LabelOp, mut values: Vec<String>) -> std::result::Result<LabelRequirement, String> {
        if let Some(problem) = qualified_name_problems(key).first() {
            return Err(format!("key: Invalid value: {}: {problem}", status::quote(key)));
        }
        match op {
            LabelOp::In | LabelOp::NotIn if values.is_empty() => {
                return Err(
                    "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty"
                        .into(),
                );
            }
            LabelOp::Exists | LabelOp::DoesNotExist if !values.is_empty() => {
                let values = Value::from(values);
                return Err(format!(
                    "values: Invalid value: {values}: values set must be empty for exists and does not exist"
                ));
            }
            LabelOp::Gt | LabelOp::Lt => {
                if let Some((i, value)) = values.iter().enumerate().find(|(_, v)| v.parse::<i64>().is_err()) {
                    return Err(format!(
                        "values[{i}]: Invalid value: {}: for 'Gt', 'Lt' operators, the value must be an integer",
                        status::quote(value)
                    ));
                }
            }
            _ => {}
        }
        for (i, value) in values.iter().enumerate() {
            if let Some(problem) = label_value_problems(value).first() {
                return Err(format!(
                    "values[{i}][{key}]: Invalid value: {}: {problem}",
                    status::quote(value)
                ));
            }
        }
        values.sort();
        values.dedup();
        Ok(LabelRequirement {
            key: key.to_string(),
            op,
            values,
        })
    }

    fn matches(&self, value: Option<&str>) -> bool {
        let among = |value: &str| self.values.iter().any(|v| v == value);
        let compare = |is: fn(&i64, &i64) -> bool| {
            let operand = self.values.first().and_then(|v| v.parse::<i64>().ok());
            let value = value.and_then(|v| v.parse::<i64>().ok());
            matches!((value, operand), (Some(v), Some(o)) if is(&v, &o))
        };
        match self.op {
            LabelOp::In => value.is_some_and(among),
            LabelOp::NotIn => !value.is_some_and(among),
            LabelOp::Exists => value.is_some(),
            LabelOp::DoesNotExist => value.is_none(),
            LabelOp::Gt => compare(i64::gt),
            LabelOp::Lt => compare(i64::lt),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token<'a> {
    /// `! = == != > < ( ) ,`
    Sign(&'static str),
    Word(&'a str),
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Sign(s) => f.write_str(s),
            Token::Word(w) => f.write_str(w),
        }
    }
}

fn lex(text: &str) -> Vec<Token<'_>> {
    const SIGNS: [&str; 9] = ["!=", "==", "=", "!", ">", "<", "(", ")", ","];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(sign) = SIGNS.into_iter().find(|s| rest.starts_with(s)) {
            tokens.push(Token::Sign(sign));
            rest = &rest[sign.len()..];
        } else {
            let end = rest
                .find(|c: char| c.is_whitespace() || "!=><(),".contains(c))
                .unwrap_or(rest.len());
            tokens.push(Token::Word(&rest[..end]));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    tokens
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn requirements(&mut self) -> std::result::Result<Vec<LabelRequirement>, String> {
        let mut out = Vec::new();
        if self.tokens.is_empty() {
            return Ok(out);
        }
        loop {
            out.push(self.requirement()?);
            match self.next() {
                None => return Ok(out),
                Some(Token::Sign(",")) if self.peek().is_some() => {}
                Some(Token::Sign(",")) => return Err("found '', expected: identifier after ','".into()),
                Some(other) => return Err(format!("found '{other}', expected: ',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> std::result::Result<LabelRequirement, String> {
        let absent = self.peek() == Some(&Token::Sign("!"));
        if absent {
            self.at += 1;
        }
        let key = match self.next() {
            Some(Token::Word(key)) => key,
            other => {
                return Err(format!(
                    "found '{}', expected: !, identifier, or 'end of string'",
                    shown(other)
                ));
            }
        };
        if absent {
            return LabelRequirement::new(key, LabelOp::DoesNotExist, Vec::new());
        }
        match self.peek().cloned() {
            None | Some(Token::Sign(",")) => LabelRequirement::new(key, LabelOp::Exists, Vec::new()),
            Some(Token::Word("in")) => {
                let values = self.set()?;
                LabelRequirement::new(key, LabelOp::In, values)
            }
            Some(Token::Word("notin")) => {
                let values = self.set()?;
                LabelRequirement::new(key, LabelOp::NotIn, values)
            }
            Some(Token::Sign(sign @ ("=" | "==" | "!=" | ">" | "<"))) => {
                self.at += 1;
                let op = match sign {
                    "!=" => LabelOp::NotIn,
                    ">" => LabelOp::Gt,
                    "<" => LabelOp::Lt,
                    _ => LabelOp::In,
                };
                let value = match self.peek() {
                    None | Some(Token::Sign(",")) => "",
                    Some(Token::Word(word)) => {
                        let word = *word;
                        self.at += 1;
                        word
                    }
                    Some(other) => return Err(format!("found '{other}', expected: identifier")),
                };
                LabelRequirement::new(key, op, vec![value.to_string()])
            }
            Some(other) => Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        }
    }

    /// `in (a,b)` with the operator next.
    fn set(&mut self) -> std::result::Result<Vec<String>, String> {
        self.at += 1;
        match self.next() {
            Some(Token::Sign("(")) => {}
            other => return Err(format!("found '{}' expected: '('", shown(other))),
        }
        let mut values = Vec::new();
        let mut value = String::new();
        let mut expected = "',', ')' or identifier";
        loop {
            match self.next() {
                Some(Token::Word(word)) if value.is_empty() => {
                    value = word.to_string();
                    expected = "',' or ')'";
                }
                Some(Token::Sign(",")) => {
                    values.push(std::mem::take(&mut value));
                    expected = "',', or identifier";
                }
                Some(Token::Sign(")")) => {
                    values.push(value);
                    return Ok(values);
                }
                other => {
                    return Err(format!("found '{}', expected: {expected}", shown(other)));
                }
            }
        }
    }

    fn peek(&self) -> Option<&Token<'a>> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<Token<'a>> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }
}

fn shown(token: Option<Token<'_>>) -> String {
    token.map(|t| t.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn matches(selector: &str, labels: Value) -> bool {
        LabelSelector::parse(selector)
            .unwrap_or_else(|e| panic!("{selector}: {e}"))
            .matches(labels.as_object())
    }

    /// Rows follow apimachinery's TestSelectorMatches.
    #[test]
    fn matching() {
        let labels = || json!({"x": "y", "z": "w", "n": "5"});
        for (selector, want) in [
            ("", true),
            ("x=y", true),
            ("x==y,z=w", true),
            ("x!=y,z!=w", false),
            ("notin=in", false),
            ("x", true),
            ("!x", false),
            ("!q", true),
            ("x in (a,y)", true),
            ("x notin (a,b)", true),
            ("q notin (a)", true),
            ("x in ()", false),
            ("n>4", true),
            ("n<5", false),
            ("x=", false),
            (" x = y , z in ( w ) ", true),
            ("q!=", true),
        ] {
            assert_eq!(matches(selector, labels()), want, "{selector}");
        }
        assert!(!LabelSelector::parse("x").unwrap().matches(None));
    }

    #[test]
    fn refuses_nonsense() {
        for bad in [
            "x=a||y=b",
            "x==a==b",
            "!x=a",
            "x<a",
            "x in",
            "x in (",
            "x in (a b)",
            ",",
            "x,",
            "(x)",
            "-a=b",
            "a=b c",
            "=",
            "a=-b-",
        ] {
            assert_eq!(LabelSelector::parse(bad).unwrap_err().code, 400, "{bad}");
        }
    }

    #[test]
    fn from_the_structured_form() {
        let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "In", "values": ["e", "d"]}, {"key": "f", "operator": "Exists"}]});
        let parsed = LabelSelector::from_value(Some(&selector)).unwrap().unwrap();
        assert_eq!(parsed.to_string(), "a=b,c in (d,e),f");
        assert!(LabelSelector::from_value(None).unwrap().is_none());
        assert!(
            LabelSelector::from_value(Some(&json!({})))
                .unwrap()
                .unwrap()
                .matches(None)
        );
        assert!(
            LabelSelector::from_value(Some(
                &json!({"matchExpressions": [{"key": "a", "operator": "Near"}]})
            ))
            .is_err()
        );
    }
}
