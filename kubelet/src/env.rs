//! The environment, command and arguments of a container.
//!
//! Order and precedence are upstream's: `env` over `envFrom` over the variables of Services; `$(NAME)` refers to what
//! came before it.

mod expand;
mod services;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};

pub use expand::expand;
pub use services::{ServiceCache, ServicePorts, service_variables};

use crate::{
    pod,
    volumes::{Allocatable, ObjectCache, downward},
};

/// Why a container's configuration cannot be made. Displays as the message of `CreateContainerConfigError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EnvError(pub String);

/// A container's variables in order, each name once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment(Vec<(String, String)>);

impl Environment {
    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Replaces or appends.
    fn set(&mut self, name: String, value: String) {
        match self.0.iter_mut().find(|(key, _)| *key == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    /// Name and value in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// `text` with `$(NAME)` replaced.
    pub fn expand(&self, text: &str) -> String {
        expand(text, |name| self.get(name))
    }
}

/// Where values come from besides the container's spec.
pub struct Sources<'a> {
    /// ConfigMaps and Secrets.
    pub objects: &'a ObjectCache,
    /// The Services that the pod sees.
    pub services: &'a BTreeMap<String, String>,
    /// What an unlimited container may use.
    pub allocatable: &'a Allocatable,
}

/// The environment of `container`; `pod` carries the status known by now, for `status.podIP` and the like.
pub async fn environment(
    pod: &Pod,
    container: &Container,
    sources: &Sources<'_>,
) -> Result<Environment, EnvError> {
    let namespace = pod::namespace(pod);
    let mut environment = Environment::default();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            let data = config_map(sources.objects, namespace, &reference.name, reference.optional).await?;
            for (key, value) in data.into_iter().flatten() {
                set_checked(&mut environment, format!("{prefix}{key}"), value);
            }
        }
        if let Some(reference) = &source.secret_ref {
            let data = secret(sources.objects, namespace, &reference.name, reference.optional).await?;
            for (key, value) in data.into_iter().flatten() {
                set_checked(&mut environment, format!("{prefix}{key}"), value);
            }
        }
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value_of(pod, container, variable, &environment, sources).await? {
            environment.set(variable.name.clone(), value);
        }
    }
    for (name, value) in sources.services {
        if environment.get(name).is_none() {
            environment.set(name.clone(), value.clone());
        }
    }
    Ok(environment)
}

/// A key that cannot be the name of a variable is left out, as upstream does.
fn set_checked(environment: &mut Environment, name: String, value: String) {
    let printable = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b'=';
    if !name.is_empty() && name.bytes().all(printable) {
        environment.set(name, value);
    }
}

async fn value_of(
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    environment: &Environment,
    sources: &Sources<'_>,
) -> Result<Option<String>, EnvError> {
    let Some(from) = &variable.value_from else {
        let value = variable.value.as_deref().unwrap_or_default();
        let lookup = |name: &str| {
            environment
                .get(name)
                .or_else(|| sources.services.get(name).map(String::as_str))
        };
        return Ok(Some(expand(value, lookup)));
    };
    let namespace = pod::namespace(pod);
    if let Some(field) = &from.field_ref {
        return downward::field_value(pod, &field.field_path)
            .map(Some)
            .map_err(EnvError);
    }
    if let Some(selector) = &from.resource_field_ref {
        let name = selector.container_name.as_deref().filter(|name| !name.is_empty());
        let container = match name {
            None => container,
            Some(name) => pod::all_containers(pod)
                .find(|container| container.name == name)
                .ok_or_else(|| EnvError(format!("container {name} not found")))?,
        };
        return downward::resource_value(container, selector, sources.allocatable)
            .map(Some)
            .map_err(EnvError);
    }
    if let Some(selector) = &from.config_map_key_ref {
        let data = config_map(sources.objects, namespace, &selector.name, selector.optional).await?;
        return key_of(
            "ConfigMap",
            data,
            namespace,
            &selector.name,
            &selector.key,
            selector.optional,
        );
    }
    if let Some(selector) = &from.secret_key_ref {
        let data = secret(sources.objects, namespace, &selector.name, selector.optional).await?;
        return key_of(
            "Secret",
            data,
            namespace,
            &selector.name,
            &selector.key,
            selector.optional,
        );
    }
    Err(EnvError(format!(
        "environment variable {} has a valueFrom that is not supported",
        variable.name
    )))
}

fn key_of(
    kind: &str,
    data: Option<BTreeMap<String, String>>,
    namespace: &str,
    name: &str,
    key: &str,
    optional: Option<bool>,
) -> Result<Option<String>, EnvError> {
    match data.and_then(|mut data| data.remove(key)) {
        None if optional != Some(true) => Err(EnvError(format!(
            "couldn't find key {key} in {kind} {namespace}/{name}"
        ))),
        value => Ok(value),
    }
}

async fn config_map(
    objects: &ObjectCache,
    namespace: &str,
    name: &str,
    optional: Option<bool>,
) -> Result<Option<BTreeMap<String, String>>, EnvError> {
    let found = objects
        .config_map(namespace, name)
        .await
        .map_err(|error| EnvError(error.to_string()))?;
    match found {
        Some(map) => Ok(Some(map.data.clone().unwrap_or_default())),
        None if optional == Some(true) => Ok(None),
        None => Err(EnvError(format!("configmap \"{name}\" not found"))),
    }
}

async fn secret(
    objects: &ObjectCache,
    namespace: &str,
    name: &str,
    optional: Option<bool>,
) -> Result<Option<BTreeMap<String, String>>, EnvError> {
    let found = objects
        .secret(namespace, name)
        .await
        .map_err(|error| EnvError(error.to_string()))?;
    match found {
        Some(secret) => {
            let text = |value: &k8s_openapi::ByteString| String::from_utf8_lossy(&value.0).into_owned();
            let data = secret
                .data
                .iter()
                .flatten()
                .map(|(key, value)| (key.clone(), text(value)))
                .collect();
            Ok(Some(data))
        }
        None if optional == Some(true) => Ok(None),
        None => Err(EnvError(format!("secret \"{name}\" not found"))),
    }
}
