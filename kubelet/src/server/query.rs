//! Percent-encoding and query strings. Pure.

/// The pairs of a query string, decoded, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Takes a query string apart. What is not valid percent-encoding stays as it is.
    pub(super) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name, true), decode(value, true))
        });
        Self(pairs.collect())
    }

    /// The first value of that name.
    pub(super) fn first(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Every value of that name.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether the value means yes to upstream's query decoder: present, and not a word for no.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.first(name)
            .is_some_and(|value| !matches!(value.to_ascii_lowercase().as_str(), "false" | "0"))
    }
}

/// Undoes percent-encoding; in queries a plus sign is a space.
pub(super) fn decode(text: &str, plus_is_space: bool) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let Some((byte, rest)) = bytes.split_first() {
        let escaped = rest
            .get(..2)
            .filter(|digits| *byte == b'%' && digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(value) => {
                decoded.push(value);
                bytes = &rest[2..];
            }
            None => {
                decoded.push(if plus_is_space && *byte == b'+' {
                    b' '
                } else {
                    *byte
                });
                bytes = rest;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let query = Query::parse("command=sh&command=-c&command=echo+%22hi%22%26&tty=1&empty&bad=%zz%4");
        assert_eq!(
            query.all("command").collect::<Vec<_>>(),
            ["sh", "-c", "echo \"hi\"&"]
        );
        assert_eq!(query.first("bad"), Some("%zz%4"));
        assert_eq!(query.first("none"), None);
        for (name, expect) in [("tty", true), ("empty", true), ("none", false)] {
            assert_eq!(query.flag(name), expect, "{name}");
        }
        assert!(!Query::parse("a=false").flag("a"));
        assert_eq!(decode("a+b%2Fc", false), "a+b/c");
    }
}
