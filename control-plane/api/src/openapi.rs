//! OpenAPI documents, written straight from the registry and the schema tables into bytes.
//!
//! Nothing is built in memory but the text itself: one pass over the rows writes it. A document holds exactly the
//! definitions that its paths reach, so every `$ref` resolves within it.
//!
//! `kubectl` reads v3: the `fieldValidation` parameter of PATCH decides where manifests are validated, the patch
//! extensions drive client-side apply, and `explain` finds a kind by the extension on the operations and definitions.
//! What types and fields mean comes from [`Descriptions`], which a caller inflates once for all the documents it wants.

mod definitions;
mod json;
mod parameters;
mod paths;
mod protobuf;
#[cfg(test)]
mod tests;

use crate::registry::Registry;
use crate::schema::Descriptions;
use definitions::Definitions;
use json::Json;
use paths::Paths;

/// The two document formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// Swagger 2.0.
    V2,
    /// OpenAPI 3.0.
    V3,
}

impl Dialect {
    /// Where definitions are, as a prefix of `$ref`.
    const fn definitions(self) -> &'static str {
        match self {
            Dialect::V2 => "#/definitions/",
            Dialect::V3 => "#/components/schemas/",
        }
    }
}

/// What a v3 document is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope<'a> {
    /// `api`: the versions of the core group.
    Core,
    /// `apis`: the other groups.
    Groups,
    /// `apis/<group>`: the versions of a group.
    Group(&'a str),
    /// `api/v1`, `apis/<group>/<version>`: the resources.
    GroupVersion(&'a str, &'a str),
}

impl<'a> Scope<'a> {
    fn parse(path: &'a str) -> Option<Self> {
        let parts: Vec<&str> = path.split('/').collect();
        Some(match *parts.as_slice() {
            ["api"] => Scope::Core,
            ["api", version] => Scope::GroupVersion("", version),
            ["apis"] => Scope::Groups,
            ["apis", group] => Scope::Group(group),
            ["apis", group, version] if !group.is_empty() => Scope::GroupVersion(group, version),
            _ => return None,
        })
    }

    fn exists(self, registry: &Registry) -> bool {
        let versions = |group: &str| {
            let mut groups = registry.groups().iter();
            groups
                .find(|(name, _)| name == group)
                .map(|(_, versions)| versions)
        };
        match self {
            Scope::Core | Scope::Groups => true,
            Scope::Group(group) => !group.is_empty() && versions(group).is_some(),
            Scope::GroupVersion(group, version) => {
                versions(group).is_some_and(|versions| versions.iter().any(|v| v == version))
            }
        }
    }
}

/// The paths of the v3 index, without a leading slash: `api/v1`, `apis/apps/v1`. The server adds
/// `serverRelativeURL: /openapi/v3/<path>?hash=<hash>`.
pub fn v3_paths(registry: &Registry) -> Vec<String> {
    let mut paths = vec!["api".to_owned(), "apis".to_owned()];
    for (group, versions) in registry.groups() {
        let base = if group.is_empty() {
            "api".to_owned()
        } else {
            let base = format!("apis/{group}");
            paths.push(base.clone());
            base
        };
        paths.extend(versions.iter().map(|version| format!("{base}/{version}")));
    }
    paths
}

/// The v3 document of a path of [`v3_paths`], as JSON.
pub fn v3(
    registry: &Registry,
    descriptions: &Descriptions,
    path: &str,
    server_version: &str,
) -> Option<Vec<u8>> {
    let scope = Scope::parse(path).filter(|scope| scope.exists(registry))?;
    let mut definitions = Definitions::new(registry, descriptions, Dialect::V3);
    let mut json = Json::default();
    json.object(|json| {
        json.key("openapi").string("3.0.0");
        info(json, server_version);
        json.key("paths").object(|json| {
            Paths::new(json, &mut definitions).scope(registry, scope);
        });
        json.key("components").object(|json| {
            json.key("schemas").object(|json| definitions.write(json));
            json.key("securitySchemes").object(bearer_token);
        });
    });
    Some(json.into_bytes())
}

/// The v2 document, as JSON.
pub fn v2(registry: &Registry, descriptions: &Descriptions, server_version: &str) -> Vec<u8> {
    let mut definitions = Definitions::new(registry, descriptions, Dialect::V2);
    let mut json = Json::default();
    json.object(|json| {
        json.key("swagger").string("2.0");
        info(json, server_version);
        json.key("paths").object(|json| {
            let mut paths = Paths::new(json, &mut definitions);
            paths.scope(registry, Scope::Core);
            paths.scope(registry, Scope::Groups);
            for (group, versions) in registry.groups() {
                if !group.is_empty() {
                    paths.scope(registry, Scope::Group(group));
                }
                for version in versions {
                    paths.scope(registry, Scope::GroupVersion(group, version));
                }
            }
        });
        json.key("parameters").object(parameters::shared);
        json.key("definitions").object(|json| definitions.write(json));
        json.key("securityDefinitions").object(bearer_token);
        json.key("security").array(|json| {
            json.object(|json| json.key("BearerToken").array(|_| ()));
        });
    });
    json.into_bytes()
}

/// The v2 document as gnostic's protobuf message, from its JSON.
///
/// # Errors
///
/// When the JSON has something that the tables of the message do not.
pub fn v2_protobuf(json: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    protobuf::encode(json, &protobuf::v2::DOCUMENT)
}

/// A v3 document as gnostic's protobuf message, from its JSON.
///
/// # Errors
///
/// When the JSON has something that the tables of the message do not.
pub fn v3_protobuf(json: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    protobuf::encode(json, &protobuf::v3::DOCUMENT)
}

fn info(json: &mut Json, server_version: &str) {
    json.key("info").object(|json| {
        json.key("title").string("Kubernetes");
        json.key("version").string(server_version);
    });
}

fn bearer_token(json: &mut Json) {
    json.key("BearerToken").object(|json| {
        json.key("description").string("Bearer Token authentication");
        json.key("in").string("header");
        json.key("name").string("authorization");
        json.key("type").string("apiKey");
    });
}
