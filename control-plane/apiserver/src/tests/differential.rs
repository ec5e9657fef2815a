//! What upstream answers, as data: requests and what must come back, in the files of `differential/`.
//!
//! The expected answers follow upstream's documentation, its integration tests and golden files (Kubernetes v1.37). Each file has
//! a server of its own and is read from top to bottom:
//!
//! ```text
//! + POST /path {"…"}        something that must be there: sent, must succeed, is no case
//! @ /path                   the collection that the next `?` lines ask
//! ? query => a b            a case: the list with this query (written plainly) has these names in this order
//! ? query => 400 message    a case: it is refused with this code and message
//! GET /path                 a case of several lines: method and path, then
//! accept: …                   headers
//! > {"…"}                     the body
//! < 404 NotFound              the code and, of a refusal, the reason
//! h content-type …            a header of the answer
//! = /pointer value            what is at a place of the answer, as JSON; `*` collects from all elements
//! ! /pointer                  a place that must not be there
//! ```
//!
//! `$rv`, `$uid` and `$continue` are those of the last answer that had them.

use std::collections::BTreeMap;

use http::{HeaderName, header};
use serde_json::Value;

use super::Fixture;
use super::wire::{Answer, Call};

/// The files, with the number of cases that each has at least.
macro_rules! files {
    ($($name:ident: $cases:literal,)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                let text = include_str!(concat!("differential/", stringify!($name), ".txt"));
                let cases = Session::run(text).await;
                assert!(cases >= $cases, "only {cases} cases");
            }
        )*

        #[test]
        fn there_are_as_many_cases_as_recorded_ones() {
            assert!([$($cases),*].iter().sum::<usize>() >= 195);
        }
    };
}

files! {
    selectors: 60,
    lists: 25,
    negotiation: 35,
    patches: 30,
    apply: 15,
    immutability: 25,
    deletion: 20,
    subresources: 75,
}

struct Session {
    fixture: Fixture,
    /// What `@` named.
    collection: String,
    /// What `$…` stands for.
    known: BTreeMap<&'static str, String>,
    failures: Vec<String>,
}

impl Session {
    /// Goes through a file; the number of cases.
    async fn run(text: &str) -> usize {
        let mut session = Session {
            fixture: Fixture::new().await,
            collection: String::new(),
            known: BTreeMap::new(),
            failures: Vec::new(),
        };
        let mut cases = 0;
        let mut lines = text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
            .peekable();
        while let Some((number, line)) = lines.next() {
            let line = session.filled(line);
            match line.split_at(2) {
                ("+ ", request) => session.prepare(number, request).await,
                ("@ ", path) => path.clone_into(&mut session.collection),
                ("? ", question) => {
                    cases += 1;
                    session.ask(number, question).await;
                }
                _ => {
                    cases += 1;
                    let mut block = Vec::new();
                    while let Some((_, line)) = lines.next_if(|(_, line)| !starts_a_case(line)) {
                        block.push(line);
                    }
                    session.converse(number, &line, &block).await;
                }
            }
        }
        assert!(session.failures.is_empty(), "{}", session.failures.join("\n"));
        cases
    }

    fn filled(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for (name, value) in &self.known {
            line = line.replace(name, value);
        }
        line
    }

    fn fail(&mut self, number: usize, what: impl std::fmt::Display) {
        self.failures.push(format!("line {}: {what}", number + 1));
    }

    async fn send(&mut self, call: Call<'_>) -> Answer {
        let answer = self.fixture.send(call).await;
        let metadata = &answer.value()["metadata"];
        for (name, field) in [
            ("$rv", "resourceVersion"),
            ("$uid", "uid"),
            ("$continue", "continue"),
        ] {
            if let Some(value) = metadata[field].as_str() {
                self.known.insert(name, value.to_owned());
            }
        }
        answer
    }

    async fn prepare(&mut self, number: usize, request: &str) {
        let mut parts = request.splitn(3, ' ');
        let (method, path) = (parts.next().unwrap(), parts.next().unwrap());
        let mut call = Call::new(method, path).header(header::CONTENT_TYPE, content_type(method));
        call.body = parts.next().unwrap_or_default().into();
        let answer = self.send(call).await;
        if !(200..300).contains(&answer.code) {
            self.fail(number, format_args!("{} {}", answer.code, answer.value()));
        }
    }

    async fn ask(&mut self, number: usize, question: &str) {
        let (query, expect) = question.split_once("=>").expect("=>");
        let path = format!("{}?{}", self.collection, encoded(query.trim()));
        let answer = self.send(Call::new("GET", &path)).await;
        let value = answer.value();
        let got = match answer.code {
            200 => {
                let items = value["items"].as_array().into_iter().flatten();
                let names: Vec<&str> = items
                    .filter_map(|item| item["metadata"]["name"].as_str())
                    .collect();
                names.join(" ")
            }
            code => format!("{code} {}", value["message"].as_str().unwrap_or_default()),
        };
        if got != expect.trim() {
            self.fail(
                number,
                format_args!("{query}\n  got  {got}\n  want {}", expect.trim()),
            );
        }
    }

    async fn converse(&mut self, number: usize, first: &str, block: &[&str]) {
        let block: Vec<String> = block.iter().map(|line| self.filled(line)).collect();
        let (method, path) = first.split_once(' ').expect("a method and a path");
        let path = match path.split_once('?') {
            Some((path, query)) => format!("{path}?{}", encoded(query)),
            None => path.to_owned(),
        };
        let mut call = Call::new(method, &path);
        for line in &block {
            if let Some(body) = line.strip_prefix("> ") {
                call.body.extend_from_slice(body.as_bytes());
                call.body.push(b'\n');
            } else if !line.starts_with(['<', 'h', '=', '!']) {
                let (name, value) = line.split_once(": ").expect("a header");
                call = call.header(name.parse::<HeaderName>().unwrap(), value);
            }
        }
        if !call.body.is_empty() && !block.iter().any(|line| line.starts_with("content-type: ")) {
            call = call.header(header::CONTENT_TYPE, content_type(method));
        }
        let answer = self.send(call).await;
        let value = answer.value();
        for line in &block {
            if let Some(problem) = problem(line, &answer, &value) {
                self.fail(number, format_args!("{first}\n  {problem}"));
            }
        }
    }
}

/// What is wrong with the answer, by one line that says what it must be.
fn problem(line: &str, answer: &Answer, value: &Value) -> Option<String> {
    let (kind, rest) = line.split_at_checked(2)?;
    let (got, want) = match kind {
        "< " => {
            let got = match value["reason"].as_str().filter(|_| answer.code >= 400) {
                Some(reason) => format!("{} {reason}", answer.code),
                None => answer.code.to_string(),
            };
            let message = value["message"].as_str().unwrap_or_default();
            return (got != rest).then(|| format!("got {got} {message:?}, want {rest}"));
        }
        "h " => {
            let (name, want) = rest.split_once(' ')?;
            (answer.header(name.parse().unwrap()).into(), want.into())
        }
        "= " => {
            let (pointer, want) = rest.split_once(' ')?;
            let want = serde_json::from_str(want).unwrap_or_else(|e| panic!("{line}: {e}"));
            (at(value, pointer), want)
        }
        "! " => (at(value, rest), Value::Null),
        _ => return None,
    };
    (got != want).then(|| format!("{line}\n  got {got}"))
}

/// What is at a pointer; a `*` step makes a list of what the rest of the pointer finds in each element.
fn at(value: &Value, pointer: &str) -> Value {
    match pointer.split_once("/*") {
        None => value.pointer(pointer).cloned().unwrap_or(Value::Null),
        Some((before, rest)) => match value.pointer(before) {
            Some(Value::Array(items)) => items.iter().map(|item| at(item, rest)).collect(),
            _ => Value::Null,
        },
    }
}

fn starts_a_case(line: &str) -> bool {
    ["+ ", "@ ", "? "].iter().any(|start| line.starts_with(start))
        || line.starts_with(|c: char| c.is_ascii_uppercase())
}

fn content_type(method: &str) -> &'static str {
    match method {
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    }
}

/// A query with everything escaped that a URL cannot have as it is.
fn encoded(query: &str) -> String {
    let parameters = query.split('&').map(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value: String = value
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'/' => {
                    char::from(byte).into()
                }
                _ => format!("%{byte:02X}"),
            })
            .collect();
        format!("{name}={value}")
    });
    parameters.collect::<Vec<_>>().join("&")
}
