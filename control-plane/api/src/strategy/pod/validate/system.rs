//! The operating system of a pod: what cannot be set for it, and what is Windows' own.

use crate::strategy::access::{is_true, text};
use crate::strategy::pod::all_containers;
use crate::validation::ErrorList;
use crate::validation::text::subdomain_problems;
use serde_json::Value;

/// Longest contents of a credential spec, in KiB.
const MAX_CREDENTIAL_SPEC_KIB: usize = 64;
/// A domain is shorter than that, a user at most so long, in bytes.
const DOMAIN_LIMIT: usize = 256;
const MAX_USER: usize = 104;
/// Fields of security contexts that only Linux knows: of a pod (`hostUsers` and the like are the spec's), of a container.
const LINUX_OF_POD: [&str; 11] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];
const LINUX_OF_CONTAINER: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// Checks `os` and what goes with it.
pub(super) fn system(spec: &Value, path: &str, errors: &mut ErrorList) {
    host_processes(spec, path, errors);
    unmasked(spec, path, errors);
    let Some(os) = spec.get("os") else { return };
    match text(os, "/name") {
        "" => errors.required(format!("{path}.os.name"), "cannot be empty"),
        "linux" => linux(spec, path, errors),
        "windows" => windows(spec, path, errors),
        other => errors.one_of(&format!("{path}.os"), other, &["linux", "windows"]),
    }
}

/// `/proc` is shown whole only to those whose users are not the host's.
fn unmasked(spec: &Value, path: &str, errors: &mut ErrorList) {
    if spec.get("hostUsers") == Some(&Value::Bool(false)) {
        return;
    }
    for (at, container) in all_containers(spec) {
        let mount = container.get("securityContext").and_then(|c| c.get("procMount"));
        if mount.is_some_and(|mount| mount == "Unmasked") {
            let detail = "`hostUsers` must be false to use `Unmasked`";
            errors.invalid(
                format!("{path}.{at}.securityContext.procMount"),
                "Unmasked",
                detail,
            );
        }
    }
}

fn linux(spec: &Value, path: &str, errors: &mut ErrorList) {
    let mut refuse = |context: &Value, path: String| {
        if context.get("windowsOptions").is_some() {
            let detail = "windows options cannot be set for a linux pod";
            errors.forbidden(format!("{path}.windowsOptions"), detail);
        }
    };
    refuse(&spec["securityContext"], format!("{path}.securityContext"));
    for (at, container) in all_containers(spec) {
        if let Some(context) = container.get("securityContext") {
            refuse(context, format!("{path}.{at}.securityContext"));
        }
    }
}

fn windows(spec: &Value, path: &str, errors: &mut ErrorList) {
    let mut refuse = |path: String| errors.forbidden(path, "cannot be set for a windows pod");
    let context = &spec["securityContext"];
    let given = |context: &Value, field: &str| match context.get(field) {
        None => false,
        Some(Value::Array(items)) => field != "sysctls" || !items.is_empty(),
        Some(_) => true,
    };
    for field in LINUX_OF_POD.iter().filter(|field| given(context, field)) {
        refuse(format!("{path}.securityContext.{field}"));
    }
    for field in ["hostUsers", "shareProcessNamespace"] {
        if spec.get(field).is_some() {
            refuse(format!("{path}.{field}"));
        }
    }
    for field in ["hostPID", "hostIPC"] {
        if is_true(spec, &format!("/{field}")) {
            refuse(format!("{path}.{field}"));
        }
    }
    for (at, container) in all_containers(spec) {
        let Some(context) = container.get("securityContext") else {
            continue;
        };
        for field in LINUX_OF_CONTAINER.iter().filter(|field| given(context, field)) {
            refuse(format!("{path}.{at}.securityContext.{field}"));
        }
    }
}

/// Containers that are processes of the host are so all together, in the host's network.
fn host_processes(spec: &Value, path: &str, errors: &mut ErrorList) {
    let of = |context: Option<&Value>| context?.pointer("/windowsOptions/hostProcess")?.as_bool();
    let pod = of(spec.get("securityContext"));
    let (mut all, mut hosts) = (0, 0);
    for (at, container) in all_containers(spec) {
        all += 1;
        let own = of(container.get("securityContext"));
        if let (Some(pod), Some(own)) = (pod, own)
            && pod != own
        {
            let detail = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            let at = format!("{path}.{at}.securityContext.windowsOptions.hostProcess");
            errors.invalid(at, own, detail);
        }
        hosts += usize::from(own.or(pod).unwrap_or(false));
    }
    if hosts == 0 {
        return;
    }
    if hosts != all {
        let detail =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.invalid(path, "", detail);
    }
    if !is_true(spec, "/hostNetwork") {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.invalid(format!("{path}.hostNetwork"), false, detail);
    }
}

/// Checks `windowsOptions` of a security context at `path`.
pub(super) fn windows_options(context: &Value, path: &str, errors: &mut ErrorList) {
    let Some(options) = context.get("windowsOptions") else {
        return;
    };
    let path = format!("{path}.windowsOptions");
    let of = |field: &str| options.get(field).and_then(Value::as_str);
    if let Some(name) = of("gmsaCredentialSpecName") {
        let at = format!("{path}.gmsaCredentialSpecName");
        errors.problems(&at, name, subdomain_problems(name));
    }
    if let Some(contents) = of("gmsaCredentialSpec") {
        let at = format!("{path}.gmsaCredentialSpec");
        if contents.is_empty() {
            errors.invalid(at, contents, "gmsaCredentialSpec cannot be an empty string");
        } else if contents.len() > MAX_CREDENTIAL_SPEC_KIB << 10 {
            let detail = format!("gmsaCredentialSpec size must be under {MAX_CREDENTIAL_SPEC_KIB} KiB");
            errors.invalid(at, contents, detail);
        }
    }
    if let Some(name) = of("runAsUserName") {
        let at = format!("{path}.runAsUserName");
        for problem in user_name_problems(name) {
            errors.invalid(at.clone(), name, problem);
        }
    }
}

/// What is wrong with `DOMAIN\\USER`, of which the domain may be left out.
fn user_name_problems(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string".into()];
    }
    if name.bytes().any(|b| b.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters".into()];
    }
    let parts: Vec<&str> = name.split('\\').collect();
    let (domain, user) = match parts[..] {
        [user] => (None, user),
        [domain, user] => (Some(domain), user),
        _ => return vec!["runAsUserName cannot contain more than one backslash".into()],
    };
    let mut problems = Vec::new();
    if let Some(domain) = domain {
        if domain.len() >= DOMAIN_LIMIT {
            problems.push(format!(
                "runAsUserName's Domain length must be under {DOMAIN_LIMIT} characters"
            ));
        }
        if !is_net_bios_name(domain) && !is_domain_name(domain) {
            problems.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format".into());
        }
    }
    if user.is_empty() {
        problems.push("runAsUserName's User cannot be empty".into());
    } else if user.len() > MAX_USER {
        problems.push(format!(
            "runAsUserName's User length must not be longer than {MAX_USER} characters"
        ));
    }
    if !user.is_empty() && user.bytes().all(|b| matches!(b, b'.' | b' ')) {
        problems.push("runAsUserName's User cannot contain only periods or spaces".into());
    }
    if user.contains([
        '"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']',
    ]) {
        let which = r#"runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]"#;
        problems.push(which.into());
    }
    problems
}

/// Up to 15 characters, none of them one that paths or shells know, the first no dot.
fn is_net_bios_name(domain: &str) -> bool {
    let forbidden = ['\\', '/', ':', '*', '?', '"', '<', '>', '|'];
    (1..=15).contains(&domain.chars().count()) && !domain.starts_with('.') && !domain.contains(forbidden)
}

/// Labels of letters, digits and dashes, in either case.
fn is_domain_name(domain: &str) -> bool {
    domain.split('.').all(|label| {
        let inside = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        (1..=63).contains(&label.len()) && inside && !label.starts_with('-') && !label.ends_with('-')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // Rows of TestValidateWindowsSecurityContextOptions.
    #[test]
    fn user_names() {
        let long = |n: usize| "a".repeat(n);
        for (name, want) in [
            ("Container User".to_owned(), vec![]),
            ("FOO\\BAR".to_owned(), vec![]),
            (format!("{}.{}\\u", long(63), long(63)), vec![]),
            (String::new(), vec!["cannot be an empty string"]),
            ("a\tb".to_owned(), vec!["control characters"]),
            ("a\\b\\c".to_owned(), vec!["more than one backslash"]),
            (
                format!("{}\\u", long(256)),
                vec!["Domain length", "NetBios nor the DNS format"],
            ),
            ("NoNetBios-name.\\u".to_owned(), vec![]),
            (
                "not/a/net/bios/name-\\u".to_owned(),
                vec!["NetBios nor the DNS format"],
            ),
            ("FOO\\".to_owned(), vec!["User cannot be empty"]),
            (long(105), vec!["must not be longer than 104"]),
            ("FOO\\ .. ".to_owned(), vec!["only periods or spaces"]),
            ("a@b".to_owned(), vec!["the following characters"]),
        ] {
            let problems = user_name_problems(&name);
            assert_eq!(problems.len(), want.len(), "{name}: {problems:?}");
            for (problem, want) in problems.iter().zip(want) {
                assert!(problem.contains(want), "{name}: {problem}");
            }
        }
    }
}
