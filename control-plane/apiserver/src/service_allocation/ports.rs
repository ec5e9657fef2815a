//! The node ports that a Service asks for or lacks.

use api::validation::{ErrorKind, ErrorList, FieldError};
use serde_json::Value;

use super::{
    Taken, has_node_ports,
    pool::{Pool, PortUse},
    protocol,
};

/// Takes them and writes them into the spec. In a dry run nothing is filled in.
pub(super) fn take_ports(
    pool: &mut Pool,
    spec: &mut Value,
    before: &Taken,
    taken: &mut Taken,
    errors: &mut ErrorList,
    dry_run: bool,
) {
    let allocates = has_node_ports(spec);
    let serves = matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer"));
    // One number can serve several protocols, also when it was not asked for.
    let mut by_port: Vec<(u64, u16)> = Vec::new();
    for (at, port) in spec["ports"].as_array_mut().into_iter().flatten().enumerate() {
        let number = port["nodePort"].as_u64().unwrap_or(0);
        let service_port = port["port"].as_u64().unwrap_or(0);
        let protocol = protocol(port).to_owned();
        let result = if number > 0 && serves {
            let wanted = PortUse::new(number, &protocol);
            if before.ports.contains(&wanted) || taken.ports.contains(&wanted) {
                continue;
            }
            pool.take_port(wanted).map(|()| wanted)
        } else if allocates {
            let shared = by_port
                .iter()
                .find(|(port, _)| *port == service_port)
                .map(|(_, number)| *number);
            let shared = shared.map(|number| PortUse::new(u64::from(number), &protocol));
            match shared.filter(|shared| pool.take_port(*shared).is_ok()) {
                Some(shared) => Ok(shared),
                None => pool.any_port(&protocol),
            }
        } else {
            continue;
        };
        match result {
            Ok(port_use) => {
                taken.ports.push(port_use);
                by_port.push((service_port, port_use.number));
                if !dry_run {
                    port["nodePort"] = port_use.number.into();
                }
            }
            Err(why) => {
                let kind = if why.is_full() {
                    ErrorKind::Internal
                } else {
                    ErrorKind::Invalid
                };
                let path = format!("spec.ports[{at}].nodePort");
                errors.push(FieldError::new(kind, path, number.to_string(), why.to_string()));
            }
        }
    }
    let local = spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local";
    if local && spec["healthCheckNodePort"].as_u64().unwrap_or(0) == 0 {
        match pool.any_port("TCP") {
            Ok(port) => {
                taken.ports.push(port);
                if !dry_run {
                    spec["healthCheckNodePort"] = port.number.into();
                }
            }
            Err(why) => {
                let path = "spec.healthCheckNodePort";
                errors.push(FieldError::new(ErrorKind::Internal, path, "0", why.to_string()));
            }
        }
    }
}
