//! The grammars of names, labels, keys and paths, with upstream's explanations.

const QUALIFIED_NAME_MAX: usize = 63;
const LABEL_VALUE_MAX: usize = 63;
/// Longest RFC 1123 label.
pub(crate) const DNS_LABEL_MAX: usize = 63;
/// Longest RFC 1123 subdomain.
pub(crate) const DNS_SUBDOMAIN_MAX: usize = 253;

/// `must be no more than 63 characters`, as upstream words the length of names.
pub(crate) fn max_len(max: usize) -> String {
    format!("must be no more than {max} characters")
}

/// `must be between 1 and 65535, inclusive`.
pub(crate) fn between(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn regex_error(message: &str, regex: &str, examples: &[&str]) -> String {
    let examples = examples
        .iter()
        .map(|e| format!("'{e}', "))
        .collect::<Vec<_>>()
        .join(" or ");
    format!("{message} (e.g. {examples}regex used for validation is '{regex}')")
}

fn is_alnum(b: u8) -> bool {
    b.is_ascii_alphanumeric()
}

fn is_lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// Starts and ends with `edge`, `middle` between.
fn shaped(text: &str, edge: fn(u8) -> bool, middle: fn(u8) -> bool) -> bool {
    let b = text.as_bytes();
    match (b.first(), b.last()) {
        (Some(&first), Some(&last)) => edge(first) && edge(last) && b.iter().all(|&c| middle(c)),
        _ => false,
    }
}

fn is_label_text(text: &str) -> bool {
    shaped(text, is_alnum, |b| is_alnum(b) || matches!(b, b'-' | b'_' | b'.'))
}

/// What is wrong with the reason of a condition.
pub(crate) fn condition_reason_problem(text: &str) -> Option<String> {
    let b = text.as_bytes();
    let inner = |b: u8| is_alnum(b) || matches!(b, b'_' | b',' | b':');
    let fits = b.first().is_some_and(u8::is_ascii_alphabetic)
        && b.last().is_some_and(|b| is_alnum(*b) || *b == b'_')
        && b.iter().all(|b| inner(*b));
    (!fits).then(|| {
        regex_error(
            "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'",
            "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?",
            &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"],
        )
    })
}

/// What is wrong with `prefix/name`: label keys, annotation keys (lowered first), finalizers.
pub(crate) fn qualified_name_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                problems.push("prefix part must be non-empty".into());
            } else {
                problems.extend(
                    subdomain_problems(prefix)
                        .into_iter()
                        .map(|p| format!("prefix part {p}")),
                );
            }
            *name
        }
        _ => {
            let why = regex_error(
                "a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
                "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]",
                &["MyName", "my.name", "123-abc"],
            )
            .replacen("a valid label key must", "a qualified name must", 1);
            return vec![format!(
                "{why} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".into());
    } else if name.len() > QUALIFIED_NAME_MAX {
        problems.push(format!("name part {}", max_len(QUALIFIED_NAME_MAX)));
    }
    if !is_label_text(name) {
        problems.push(regex_error(
            "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]",
            &["MyName", "my.name", "123-abc"],
        ));
    }
    problems
}

/// What is wrong with a label value.
pub(crate) fn label_value_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > LABEL_VALUE_MAX {
        problems.push(max_len(LABEL_VALUE_MAX));
    }
    if !text.is_empty() && !is_label_text(text) {
        problems.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    problems
}

/// RFC 1123 label.
pub(crate) fn label_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > DNS_LABEL_MAX {
        problems.push(max_len(DNS_LABEL_MAX));
    }
    if !shaped(text, is_lower_alnum, |b| is_lower_alnum(b) || b == b'-') {
        problems.push(if subdomain_problems(text).is_empty() {
            "must not contain dots".into()
        } else {
            regex_error(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                "[a-z0-9]([-a-z0-9]*[a-z0-9])?",
                &["my-name", "123-abc"],
            )
        });
    }
    problems
}

/// RFC 1035 label.
pub(crate) fn label_1035_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > DNS_LABEL_MAX {
        problems.push(max_len(DNS_LABEL_MAX));
    }
    let right = shaped(text, is_lower_alnum, |b| is_lower_alnum(b) || b == b'-')
        && text.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
    if !right {
        problems.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    problems
}

/// RFC 1123 subdomain.
pub(crate) fn subdomain_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > DNS_SUBDOMAIN_MAX {
        problems.push(max_len(DNS_SUBDOMAIN_MAX));
    }
    let label = |l: &str| shaped(l, is_lower_alnum, |b| is_lower_alnum(b) || b == b'-');
    if !text.split('.').all(label) {
        problems.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
            &["example.com"],
        ));
    }
    problems
}

/// RFC 1123 subdomain below `*.`.
pub(crate) fn wildcard_subdomain_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > DNS_SUBDOMAIN_MAX {
        problems.push(max_len(DNS_SUBDOMAIN_MAX));
    }
    let below = text.strip_prefix("*.");
    if below.is_none_or(|below| !subdomain_problems(below).is_empty()) {
        problems.push(regex_error(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            r"\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
            &["*.example.com"],
        ));
    }
    problems
}

/// `example.com/path`; what it is said of is part of the problem.
pub(crate) fn domain_prefixed_path_problems(text: &str) -> Vec<(&str, String)> {
    let (host, path) = match text.split_once('/') {
        Some((host, path)) if !host.is_empty() && !path.is_empty() => (host, path),
        _ => {
            let why = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            return vec![(text, why.into())];
        }
    };
    let problems = subdomain_problems(host).into_iter();
    let mut problems: Vec<_> = problems.map(|problem| (host, problem)).collect();
    let fits = |b: u8| is_alnum(b) || b"/-._~%!$&'()*+,;=:".contains(&b);
    if !path.bytes().all(fits) {
        let why = r"Invalid path (regex used for validation is '[A-Za-z0-9/\-._~%!$&'()*+,;=:]+')";
        problems.push((path, why.into()));
    }
    problems
}

/// A subdomain of at least so many segments, which upstream words (`three`).
pub(crate) fn qualified_domain_problem(text: &str, segments: usize, worded: &str) -> Option<String> {
    let problems = subdomain_problems(text);
    if !problems.is_empty() {
        return Some(problems.join(","));
    }
    let short = text.split('.').count() < segments;
    short.then(|| format!("should be a domain with at least {worded} segments separated by dots"))
}

/// A name that is only a segment of a URL path (RBAC).
pub(crate) fn path_segment_problems(text: &str) -> Vec<String> {
    match text {
        "." | ".." => vec![format!("may not be '{text}'")],
        _ => ['/', '%']
            .iter()
            .filter(|c| text.contains(**c))
            .map(|c| format!("may not contain '{c}'"))
            .collect(),
    }
}

/// Keys of ConfigMaps and Secrets.
pub(crate) fn config_key_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > DNS_SUBDOMAIN_MAX {
        problems.push(max_len(DNS_SUBDOMAIN_MAX));
    }
    if text.is_empty()
        || !text
            .bytes()
            .all(|b| is_alnum(b) || matches!(b, b'-' | b'_' | b'.'))
    {
        problems.push(regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match text {
        "." | ".." => problems.push(format!("must not be '{text}'")),
        t if t.starts_with("..") => problems.push("must not start with '..'".into()),
        _ => {}
    }
    problems
}

/// Environment variable names (any printable ASCII but `=` since 1.34).
pub(crate) fn env_var_name_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if !text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        problems.push(regex_error(
            "a valid environment variable name must consist only of printable ASCII characters other than '='",
            "^[ -<>-~]+$",
            &[],
        ).replace("(e.g. regex", "(regex"));
    }
    problems
}

/// The name of an HTTP header.
pub(crate) fn header_name_problems(text: &str) -> Vec<String> {
    let valid = !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte == b'-' || byte.is_ascii_alphanumeric());
    let problem = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for \
                   validation is '[-A-Za-z0-9]+')";
    (!valid).then(|| problem.to_owned()).into_iter().collect()
}

/// IANA service names of ports.
pub(crate) fn port_name_problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > 15 {
        problems.push("must be no more than 15 characters".into());
    }
    if !text.bytes().all(|b| is_lower_alnum(b) || b == b'-') {
        problems.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".into());
    }
    if text.contains("--") {
        problems.push("must not contain consecutive hyphens".into());
    }
    if text.starts_with('-') || text.ends_with('-') {
        problems.push("must not begin or end with a hyphen".into());
    }
    problems
}

/// Sysctl names.
pub(crate) fn is_sysctl_name(text: &str) -> bool {
    let segment = |s: &str| {
        shaped(s, is_lower_alnum, |b| {
            is_lower_alnum(b) || matches!(b, b'-' | b'_')
        })
    };
    text.len() <= 253 && text.split(['.', '/']).all(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammars() {
        let good = |f: fn(&str) -> Vec<String>, texts: &[&str]| {
            for t in texts {
                assert!(f(t).is_empty(), "{t:?}: {:?}", f(t));
            }
        };
        let bad = |f: fn(&str) -> Vec<String>, texts: &[&str]| {
            for t in texts {
                assert!(!f(t).is_empty(), "{t:?}");
            }
        };
        let long = "a".repeat(64);
        good(qualified_name_problems, &["a", "A.b_c-9", "example.com/x", "1"]);
        bad(
            qualified_name_problems,
            &["", "-a", "a-", "/a", "a/", "a/b/c", "Ex.com/a", "a b", &long],
        );
        good(label_value_problems, &["", "a", "A_b.c"]);
        bad(label_value_problems, &["-a", "a b", "é", &long]);
        good(label_problems, &["a", "0-a"]);
        bad(label_problems, &["", "A", "a.b", "-a", "a-", &long]);
        good(label_1035_problems, &["a1"]);
        bad(label_1035_problems, &["1a", "a.b", ""]);
        good(subdomain_problems, &["a.b-c.0", "a"]);
        bad(subdomain_problems, &["", "a..b", ".a", "a_b", &"a.".repeat(127)]);
        good(config_key_problems, &["a.b", "A_B", ".a"]);
        bad(config_key_problems, &["", "a b", ".", "..", "..a"]);
        good(port_name_problems, &["http", "a-1"]);
        bad(
            port_name_problems,
            &["", "1", "a--b", "-a", "A", "abcdefghijklmnop"],
        );
        assert!(
            is_sysctl_name("kernel.shm_rmid_forced") && !is_sysctl_name("foo-") && !is_sysctl_name("bar..")
        );
    }
}
