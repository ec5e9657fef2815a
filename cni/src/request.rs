//! The request: which verb, for which attachment, with which configuration.

use std::fmt;
use std::path::PathBuf;

use crate::Error;

/// The verbs of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Attach a container to the network.
    Add,
    /// Undo an ADD.
    Del,
    /// Verify that an attachment is as ADD left it.
    Check,
    /// Remove every attachment that the runtime no longer knows.
    Gc,
    /// Say whether an ADD could succeed now.
    Status,
    /// List the supported versions.
    Version,
}

impl Command {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "ADD" => Command::Add,
            "DEL" => Command::Del,
            "CHECK" => Command::Check,
            "GC" => Command::Gc,
            "STATUS" => Command::Status,
            "VERSION" => Command::Version,
            _ => return None,
        })
    }
}

/// What an attachment is known by: the specification makes this pair unique.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AttachmentId {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`: the interface's name inside the pod.
    pub ifname: String,
}

impl fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interface {} of container {}", self.ifname, self.container_id)
    }
}

/// A request whose environment has been checked; the configuration is checked by the verb that needs it.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Make the attachment in this namespace, for the pod with this UID if the runtime says so.
    Add(AttachmentId, PathBuf, Option<String>, Vec<u8>),
    /// Remove the attachment. The namespace is not needed: it may be gone, or never have been known.
    Del(AttachmentId, Vec<u8>),
    /// Verify the attachment in this namespace.
    Check(AttachmentId, PathBuf, Vec<u8>),
    /// Remove what the configuration does not list as valid.
    Gc(Vec<u8>),
    /// Report readiness.
    Status(Vec<u8>),
    /// Report versions.
    Version(Vec<u8>),
}

impl Request {
    /// Reads a request from the `CNI_*` variables that `variable` looks up, and from stdin.
    ///
    /// # Errors
    /// [`Error::Environment`] with every missing or malformed variable.
    pub fn parse(variable: impl Fn(&str) -> Option<String>, stdin: &[u8]) -> Result<Self, Error> {
        let mut problems = Vec::new();
        let lookup = |name: &str| variable(name).filter(|value| !value.is_empty());
        let mut required = |name: &str, valid: fn(&str) -> bool, rule: &str| match lookup(name) {
            Some(value) if valid(&value) => value,
            Some(value) => {
                problems.push(format!("{name}={value:?}: {rule}"));
                String::new()
            }
            None => {
                problems.push(format!("{name} is not set"));
                String::new()
            }
        };
        let command = required(
            "CNI_COMMAND",
            |value| Command::parse(value).is_some(),
            "must be ADD, DEL, CHECK, GC, STATUS or VERSION",
        );
        let config = stdin.to_vec();
        let command = Command::parse(&command);
        let mut attachment = || AttachmentId {
            container_id: required(
                "CNI_CONTAINERID",
                is_container_id,
                "must start with a letter or digit and go on with letters, digits, '_', '.' or '-'",
            ),
            ifname: required(
                "CNI_IFNAME",
                is_interface_name,
                "must be 1 to 15 characters without '/', ':' or blanks",
            ),
        };
        let request = match command {
            None => return Err(Error::Environment(problems)),
            Some(Command::Add) => {
                let id = attachment();
                let netns = PathBuf::from(required("CNI_NETNS", |_| true, ""));
                Request::Add(
                    id,
                    netns,
                    lookup("CNI_ARGS").and_then(|args| pod_uid(&args)),
                    config,
                )
            }
            Some(Command::Check) => {
                let id = attachment();
                Request::Check(id, PathBuf::from(required("CNI_NETNS", |_| true, "")), config)
            }
            Some(Command::Del) => Request::Del(attachment(), config),
            Some(Command::Gc) => Request::Gc(config),
            Some(Command::Status) => Request::Status(config),
            Some(Command::Version) => Request::Version(config),
        };
        if problems.is_empty() {
            Ok(request)
        } else {
            Err(Error::Environment(problems))
        }
    }
}

/// `K8S_POD_UID` among the arguments `KEY=VALUE;…`. What else is there is passed over, as `IgnoreUnknown` asks.
fn pod_uid(args: &str) -> Option<String> {
    let mut pairs = args.split(';').filter_map(|pair| pair.split_once('='));
    let (_, uid) = pairs.find(|(key, uid)| *key == "K8S_POD_UID" && !uid.is_empty())?;
    Some(uid.to_owned())
}

/// The specification's rule for container ids and network names.
pub(crate) fn is_container_id(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// The kernel's rule for interface names.
fn is_interface_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(variables: &[(&str, &str)]) -> Result<Request, String> {
        let lookup = |name: &str| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        };
        Request::parse(lookup, b"{}").map_err(|error| error.to_string())
    }

    fn id() -> AttachmentId {
        AttachmentId {
            container_id: "abc".into(),
            ifname: "eth0".into(),
        }
    }

    #[test]
    fn add_needs_id_interface_and_namespace() {
        let all = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "abc"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", "/n"),
        ];
        assert_eq!(
            parse(&all),
            Ok(Request::Add(id(), "/n".into(), None, b"{}".to_vec()))
        );
        let error = parse(&all[..1]).unwrap_err();
        for name in ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"] {
            assert!(error.contains(&format!("{name} is not set")), "{error}");
        }
    }

    #[test]
    fn del_works_with_an_empty_namespace() {
        let del = [
            ("CNI_COMMAND", "DEL"),
            ("CNI_CONTAINERID", "abc"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", ""),
        ];
        assert_eq!(parse(&del), Ok(Request::Del(id(), b"{}".to_vec())));
        assert_eq!(parse(&del[..3]), Ok(Request::Del(id(), b"{}".to_vec())));
    }

    #[test]
    fn verbs_that_are_about_no_attachment_need_none() {
        for (verb, expected) in [
            ("GC", Request::Gc(b"{}".to_vec())),
            ("STATUS", Request::Status(b"{}".to_vec())),
            ("VERSION", Request::Version(b"{}".to_vec())),
        ] {
            assert_eq!(parse(&[("CNI_COMMAND", verb)]), Ok(expected));
        }
    }

    #[test]
    fn the_pod_is_found_among_the_arguments() {
        for (args, uid) in [
            (
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_UID=5e0c1d34-aa",
                Some("5e0c1d34-aa"),
            ),
            ("K8S_POD_UID=", None),
            ("K8S_POD_UID;;=;x", None),
            ("", None),
        ] {
            assert_eq!(pod_uid(args).as_deref(), uid, "{args}");
        }
    }

    #[test]
    fn bad_values_name_the_variable() {
        for (name, value) in [
            ("CNI_COMMAND", "add"),
            ("CNI_CONTAINERID", "-x"),
            ("CNI_CONTAINERID", "a/../b"),
            ("CNI_IFNAME", "a-name-that-is-too-long"),
            ("CNI_IFNAME", "../x"),
            ("CNI_IFNAME", ".."),
            ("CNI_IFNAME", "a b"),
        ] {
            let mut variables = vec![(name, value)];
            variables.extend([
                ("CNI_COMMAND", "DEL"),
                ("CNI_CONTAINERID", "abc"),
                ("CNI_IFNAME", "eth0"),
            ]);
            let error = parse(&variables).unwrap_err();
            assert!(error.contains(&format!("{name}={value:?}")), "{error}");
        }
    }
}
