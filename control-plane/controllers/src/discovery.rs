//! What kinds of objects the API server has right now, including custom and aggregated ones.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    APIGroupList, APIResource, APIResourceList, APIVersions,
};
use std::collections::HashSet;

use crate::rest::{Resource, Rest, Result};

/// A kind and what can be done with it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Discovered {
    pub(crate) resource: Resource,
    verbs: Vec<String>,
}

impl Discovered {
    pub(crate) fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.iter().any(|one| one == verb))
    }
}

/// All kinds, each in the version that its group prefers, and what could not be found out.
#[derive(Debug, Default)]
pub(crate) struct Discovery {
    pub(crate) kinds: Vec<Discovered>,
    /// One message per group and version that did not answer.
    pub(crate) failures: Vec<String>,
}

/// Asks the API server. A group that fails is reported in the result; only a failure of the index is an error.
pub(crate) async fn discover(rest: &Rest) -> Result<Discovery> {
    let mut discovery = Discovery::default();
    let core: APIVersions = rest.get_path("/api").await?;
    for version in core.versions {
        let list = rest.get_path::<APIResourceList>(&format!("/api/{version}")).await;
        discovery.add("", &version, list);
    }
    let groups: APIGroupList = rest.get_path("/apis").await?;
    for group in groups.groups {
        let preferred = group.preferred_version.map(|preferred| preferred.version);
        let mut versions: Vec<_> = group
            .versions
            .into_iter()
            .map(|version| version.version)
            .collect();
        versions.sort_by_key(|version| Some(version) != preferred.as_ref());
        for version in versions {
            let list = rest
                .get_path::<APIResourceList>(&format!("/apis/{}/{version}", group.name))
                .await;
            discovery.add(&group.name, &version, list);
        }
    }
    discovery.keep_first_of_each();
    Ok(discovery)
}

impl Discovery {
    fn add(&mut self, group: &str, version: &str, list: Result<APIResourceList>) {
        match list {
            Ok(list) => self.kinds.extend(
                list.resources
                    .iter()
                    .filter_map(|one| discovered(group, version, one)),
            ),
            Err(error) => self
                .failures
                .push(format!("{group}/{version}: {}", error.message())),
        }
    }

    /// The preferred version was asked first; others count for what only they have.
    fn keep_first_of_each(&mut self) {
        let mut seen = HashSet::new();
        self.kinds
            .retain(|kind| seen.insert((kind.resource.group.clone(), kind.resource.plural.clone())));
    }
}

fn discovered(group: &str, version: &str, resource: &APIResource) -> Option<Discovered> {
    // Names with a slash are subresources.
    (!resource.name.contains('/')).then(|| Discovered {
        resource: Resource::new(
            group,
            version,
            &resource.kind,
            &resource.name,
            resource.namespaced,
        ),
        verbs: resource.verbs.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_preferred_version_wins_and_subresources_do_not_count() {
        let list = |names: &[&str]| -> Result<APIResourceList> {
            let resources: Vec<_> = names
                .iter()
                .map(|name| json!({"name": name, "singularName": "", "kind": "K", "namespaced": true, "verbs": ["list"]}))
                .collect();
            Ok(serde_json::from_value(json!({"groupVersion": "", "resources": resources})).unwrap())
        };
        let mut discovery = Discovery::default();
        discovery.add("apps", "v1", list(&["a", "a/status"]));
        discovery.add("apps", "v1beta1", list(&["a", "b"]));
        discovery.keep_first_of_each();
        let names: Vec<_> = discovery
            .kinds
            .iter()
            .map(|kind| format!("{}/{}", kind.resource.version, kind.resource.plural))
            .collect();
        assert_eq!(names, ["v1/a", "v1beta1/b"]);
        assert!(discovery.kinds[0].can(&["list"]) && !discovery.kinds[0].can(&["list", "watch"]));
    }
}
