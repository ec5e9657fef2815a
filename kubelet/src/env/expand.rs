//! `$(NAME)` references.

/// Replaces `$(NAME)` by what `lookup` knows. Unknown references stay as they are; `$$` is a literal `$`.
pub fn expand<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => result.push_str(value),
                None => {
                    result.push_str("$(");
                    result.push_str(name);
                    result.push(')');
                }
            }
            rest = after;
        } else {
            result.push('$');
        }
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows follow upstream's TestMapping (third_party/forked/golang/expansion/expand_test.go).
    #[test]
    fn rows() {
        let lookup = |name: &str| match name {
            "VAR_A" => Some("A"),
            "VAR_B" => Some("B"),
            "VAR_C" => Some("C"),
            "VAR_REF" => Some("$(VAR_A)"),
            "VAR_EMPTY" => Some(""),
            _ => None,
        };
        let rows = [
            ("$(VAR_A)", "A"),
            ("___$(VAR_B)___", "___B___"),
            ("$(VAR_A)$(VAR_B)$(VAR_C)", "ABC"),
            ("foo $(VAR_A)", "foo A"),
            ("$$(VAR_A)", "$(VAR_A)"),
            ("$$$(VAR_A)", "$A"),
            ("$$$$", "$$"),
            ("$(VAR_REF)", "$(VAR_A)"),
            ("$(UNKNOWN)", "$(UNKNOWN)"),
            ("foo$(VAR_EMPTY)bar", "foobar"),
            ("$(VAR_A", "$(VAR_A"),
            ("$VAR_A", "$VAR_A"),
            ("$", "$"),
            ("foo$", "foo$"),
            ("\n$(VAR_A)", "\nA"),
            ("$(VAR_A))", "A)"),
            ("$()", "$()"),
        ];
        for (text, expect) in rows {
            assert_eq!(expand(text, lookup), expect, "{text}");
        }
    }
}
