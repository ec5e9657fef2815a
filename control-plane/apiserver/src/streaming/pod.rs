//! What a request on a pod's containers asks of its kubelet.

use api::{
    meta,
    status::{self, Status},
    validation::ErrorKind,
};
use serde_json::Value;

use crate::context::{Context, invalid_option};

/// The node the pod is bound to.
pub(super) fn node_of(pod: &Value) -> Option<String> {
    pod["spec"]["nodeName"]
        .as_str()
        .filter(|node| !node.is_empty())
        .map(str::to_owned)
}

/// The kubelet's path for a container's log.
pub(super) fn log_path(context: &Context, pod: &Value) -> Result<String, Status> {
    let container = container(pod, context.query("container"))?;
    let number = |field: &'static str, at_least: i64| -> Result<Option<i64>, Status> {
        let text = context.query(field);
        if text.is_empty() {
            return Ok(None);
        }
        match text.parse::<i64>() {
            Ok(value) if value >= at_least => Ok(Some(value)),
            Ok(value) => Err(invalid(
                field,
                &value.to_string(),
                match at_least {
                    0 => "must be greater than or equal to 0",
                    _ => "must be greater than 0",
                },
            )),
            Err(_) => Err(status::bad_request(format!(
                "strconv.ParseInt: parsing {}: invalid syntax",
                status::quote(text)
            ))),
        }
    };
    let numbers = [
        ("sinceSeconds", number("sinceSeconds", 1)?),
        ("tailLines", number("tailLines", 0)?),
        ("limitBytes", number("limitBytes", 1)?),
    ];
    if numbers[0].1.is_some() && !context.query("sinceTime").is_empty() {
        return Err(invalid(
            "sinceSeconds",
            context.query("sinceSeconds"),
            "at most one of `sinceTime` or `sinceSeconds` may be specified",
        ));
    }
    let mut parameters: Vec<(&str, String)> = Vec::new();
    for flag in ["follow", "previous", "timestamps"] {
        if context.flag(flag) {
            parameters.push((flag, "true".to_owned()));
        }
    }
    for (field, value) in numbers {
        parameters.extend(value.map(|value| (field, value.to_string())));
    }
    for field in ["sinceTime", "stream"] {
        if !context.query(field).is_empty() {
            parameters.push((field, context.query(field).to_owned()));
        }
    }
    let parameters = parameters.iter().map(|(name, value)| (*name, value.as_str()));
    Ok(path("containerLogs", pod, Some(&container), parameters))
}

/// The kubelet's path for a command, an attachment or forwarded ports.
pub(super) fn connect_path(
    context: &Context,
    pod: &Value,
    query: impl Iterator<Item = (String, String)>,
) -> Result<String, Status> {
    let query: Vec<(String, String)> = query.collect();
    let verb = context.info.subresource.as_str();
    if verb == "portforward" {
        let ports = query.iter().filter(|(name, _)| name == "ports");
        let ports = ports.map(|(_, value)| ("port", value.as_str()));
        return Ok(path("portForward", pod, None, ports));
    }
    let container = container(pod, context.query("container"))?;
    let streams = [
        ("stdin", "input"),
        ("stdout", "output"),
        ("stderr", "error"),
        ("tty", "tty"),
    ];
    let mut parameters: Vec<(&str, &str)> = streams
        .iter()
        // A terminal has no error stream of its own.
        .filter(|(name, _)| context.flag(name) && !(*name == "stderr" && context.flag("tty")))
        .map(|(_, kubelet)| (*kubelet, "1"))
        .collect();
    if !parameters.iter().any(|(name, _)| *name != "tty") {
        return Err(status::bad_request(
            "you must specify at least 1 of stdin, stdout, stderr",
        ));
    }
    let commands = query.iter().filter(|(name, _)| name == "command");
    let commands: Vec<(&str, &str)> = commands.map(|(_, value)| ("command", value.as_str())).collect();
    if verb == "exec" && commands.is_empty() {
        return Err(status::bad_request(
            "you must specify at least one command for the container",
        ));
    }
    parameters.extend(commands);
    Ok(path(verb, pod, Some(&container), parameters.into_iter()))
}

/// Which container is meant.
fn container(pod: &Value, asked: &str) -> Result<String, Status> {
    let names = |field: &str| -> Vec<&str> {
        let list = pod["spec"][field].as_array().into_iter().flatten();
        list.filter_map(|container| container["name"].as_str()).collect()
    };
    let (own, init, ephemeral) = (
        names("containers"),
        names("initContainers"),
        names("ephemeralContainers"),
    );
    if !asked.is_empty() {
        if [&own, &init, &ephemeral]
            .iter()
            .any(|names| names.contains(&asked))
        {
            return Ok(asked.to_owned());
        }
        return Err(status::bad_request(format!(
            "container {asked} is not valid for pod {}",
            meta::name(pod)
        )));
    }
    if let ([only], true) = (own.as_slice(), init.is_empty()) {
        return Ok((*only).to_owned());
    }
    if let ([only], Some(_)) = (own.as_slice(), init.first()) {
        return Ok((*only).to_owned());
    }
    let mut message = format!(
        "a container name must be specified for pod {}, choose one of: [{}]",
        meta::name(pod),
        own.join(" ")
    );
    if !init.is_empty() {
        message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
    }
    if !ephemeral.is_empty() {
        message.push_str(&format!(
            " or one of the ephemeral containers: [{}]",
            ephemeral.join(" ")
        ));
    }
    Err(status::bad_request(message))
}

fn path<'a>(
    verb: &str,
    pod: &Value,
    container: Option<&str>,
    parameters: impl Iterator<Item = (&'a str, &'a str)>,
) -> String {
    let mut path = format!("/{verb}/{}/{}", meta::namespace(pod), meta::name(pod));
    if let Some(container) = container {
        path.push('/');
        path.push_str(container);
    }
    for (at, (name, value)) in parameters.enumerate() {
        path.push(if at == 0 { '?' } else { '&' });
        path.push_str(name);
        path.push('=');
        encode(&mut path, value);
    }
    path
}

/// Percent-encodes everything but letters, digits and a few marks.
fn encode(out: &mut String, value: &str) {
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

fn invalid(field: &str, value: &str, why: &str) -> Status {
    invalid_option(("", "PodLogOptions"), ErrorKind::Invalid, field, value, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_container_that_is_meant() {
        let one = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}});
        assert_eq!(container(&one, "").unwrap(), "a");
        assert_eq!(
            container(&one, "b").unwrap_err().message,
            "container b is not valid for pod p"
        );
        let two = json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}],
        }});
        assert_eq!(
            container(&two, "").unwrap_err().message,
            "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]"
        );
        assert_eq!(container(&two, "i").unwrap(), "i");
    }

    #[test]
    fn arguments_survive_the_query() {
        let pod = json!({"metadata": {"name": "p", "namespace": "n"}});
        let parameters = [("command", "sh"), ("command", "a b&c=d/ü")];
        assert_eq!(
            path("exec", &pod, Some("c"), parameters.into_iter()),
            "/exec/n/p/c?command=sh&command=a%20b%26c%3Dd%2F%C3%BC"
        );
    }
}
