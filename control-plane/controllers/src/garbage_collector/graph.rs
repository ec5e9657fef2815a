//! Who owns whom.
//!
//! A node stands for an object that was seen, or, as a *virtual* node, for an owner that somebody named but
//! nobody has seen. Edges go both ways. Every change returns what is worth a look, so that the graph itself
//! needs no queue and can be tested by rows.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::{ORPHAN, plan};
use crate::objects::Meta;
use crate::rest::Resource;

/// The uid of an object.
pub(super) type Uid = Arc<str>;

/// Where an object is, as far as its observer can tell.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) api_version: Arc<str>,
    pub(super) kind: Arc<str>,
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
    /// Known for objects that were seen; owner references tell apiVersion and kind only.
    pub(super) resource: Option<Arc<Resource>>,
}

impl Identity {
    fn of_object(resource: &Arc<Resource>, meta: &Meta) -> Self {
        Self {
            api_version: resource.api_version().into(),
            kind: resource.kind.clone(),
            namespace: (*meta.namespace).into(),
            name: (*meta.name).into(),
            resource: Some(resource.clone()),
        }
    }

    /// The owner that a dependent in `namespace` names. Whether it is namespaced depends on its kind.
    pub(super) fn of_owner(owner: &OwnerReference, namespace: &str) -> Self {
        Self {
            api_version: owner.api_version.as_str().into(),
            kind: owner.kind.as_str().into(),
            namespace: namespace.into(),
            name: owner.name.as_str().into(),
            resource: None,
        }
    }

    fn coordinates(&self) -> (&str, &str, &str, &str) {
        (&self.api_version, &self.kind, &self.namespace, &self.name)
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.coordinates() == other.coordinates()
    }
}

impl Eq for Identity {}

impl std::hash::Hash for Identity {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.coordinates().hash(state);
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {}/{}",
            self.api_version, self.kind, self.namespace, self.name
        )
    }
}

/// What deserves a look after a change.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Wake {
    /// Whether the object should be deleted.
    Delete(Uid),
    /// The object waits for its dependents to be cut loose.
    Orphan(Uid),
}

struct Node {
    identity: Identity,
    is_virtual: bool,
    owners: Vec<Owner>,
    dependents: HashSet<Uid>,
    being_deleted: bool,
    /// In foreground deletion.
    deleting_dependents: bool,
    orphaning: bool,
}

#[derive(Clone)]
struct Owner {
    uid: Uid,
    blocks: bool,
    /// Where the dependent says the owner is.
    identity: Identity,
}

/// A node as a worker sees it.
pub(super) struct Snapshot {
    pub(super) identity: Identity,
    pub(super) is_virtual: bool,
    pub(super) being_deleted: bool,
    pub(super) deleting_dependents: bool,
    pub(super) dependents: Vec<Uid>,
    pub(super) has_dependent_deleting_dependents: bool,
}

#[derive(Default)]
pub(super) struct Graph {
    nodes: HashMap<Uid, Node>,
}

impl Graph {
    pub(super) fn snapshot(&self, uid: &str) -> Option<Snapshot> {
        let node = self.nodes.get(uid)?;
        let deleting = |uid: &Uid| self.nodes.get(uid).is_some_and(|node| node.deleting_dependents);
        Some(Snapshot {
            identity: node.identity.clone(),
            is_virtual: node.is_virtual,
            being_deleted: node.being_deleted,
            deleting_dependents: node.deleting_dependents,
            dependents: node.dependents.iter().cloned().collect(),
            has_dependent_deleting_dependents: node.dependents.iter().any(deleting),
        })
    }

    pub(super) fn identity(&self, uid: &str) -> Option<Identity> {
        self.nodes.get(uid).map(|node| node.identity.clone())
    }

    /// The dependents that keep `uid` from going, each with whether it waits for its own dependents.
    pub(super) fn blocking_dependents(&self, uid: &str) -> Vec<(Uid, bool)> {
        let Some(node) = self.nodes.get(uid) else {
            return Vec::new();
        };
        let blocks = |dependent: &Node| {
            dependent
                .owners
                .iter()
                .any(|owner| &*owner.uid == uid && owner.blocks)
        };
        node.dependents
            .iter()
            .filter_map(|uid| Some((uid, self.nodes.get(uid)?)))
            .filter(|(_, dependent)| blocks(dependent))
            .map(|(uid, dependent)| (uid.clone(), dependent.deleting_dependents))
            .collect()
    }

    /// The objects of a kind that were seen.
    pub(super) fn observed_of(&self, resource: &Resource) -> Vec<Uid> {
        let is_of = |node: &Node| !node.is_virtual && node.identity.resource.as_deref() == Some(resource);
        self.nodes
            .iter()
            .filter(|(_, node)| is_of(node))
            .map(|(uid, _)| uid.clone())
            .collect()
    }

    /// Takes over the state of an object that was seen.
    pub(super) fn observe(&mut self, resource: &Arc<Resource>, meta: &Meta) -> Vec<Wake> {
        let uid: Uid = (*meta.uid).into();
        let owners: Vec<Owner> = meta
            .owner_references
            .iter()
            .map(|owner| Owner {
                uid: owner.uid.as_str().into(),
                blocks: owner.block_owner_deletion == Some(true),
                identity: Identity::of_owner(owner, &meta.namespace),
            })
            .collect();
        let mut wakes = Vec::new();
        let node = self.nodes.entry(uid.clone()).or_insert_with(|| Node {
            identity: Identity::of_object(resource, meta),
            is_virtual: true,
            owners: Vec::new(),
            dependents: HashSet::new(),
            being_deleted: false,
            deleting_dependents: false,
            orphaning: false,
        });
        if node.is_virtual {
            node.is_virtual = false;
            node.identity = Identity::of_object(resource, meta);
            self.wake_misplaced_dependents(&uid, resource, &mut wakes);
        }
        self.set_owners(&uid, owners, &mut wakes);
        self.note_deletion(&uid, meta, &mut wakes);
        wakes
    }

    /// A dependent that names its owner in a place where it is not has no owner at all.
    fn wake_misplaced_dependents(&self, uid: &Uid, resource: &Resource, wakes: &mut Vec<Wake>) {
        let Some(node) = self.nodes.get(uid) else { return };
        for dependent in &node.dependents {
            let misplaced = self.nodes.get(dependent).is_some_and(|dependent| {
                dependent
                    .owners
                    .iter()
                    .any(|owner| owner.uid == *uid && !owner.is_at(&node.identity, resource))
            });
            if misplaced {
                wakes.push(Wake::Delete(dependent.clone()));
            }
        }
    }

    fn set_owners(&mut self, uid: &Uid, owners: Vec<Owner>, wakes: &mut Vec<Wake>) {
        let Some(node) = self.nodes.get_mut(uid) else {
            return;
        };
        let before = std::mem::replace(&mut node.owners, owners.clone());
        for old in &before {
            let now = owners.iter().find(|owner| owner.uid == old.uid);
            // An owner that waited for this dependent may not have to any more.
            if old.blocks && now.is_none_or(|now| !now.blocks) {
                wakes.extend(self.wake_if_deleting_dependents(&old.uid));
            }
            if now.is_none()
                && let Some(owner) = self.nodes.get_mut(&old.uid)
            {
                owner.dependents.remove(uid);
                self.drop_unused_virtual(&old.uid);
            }
        }
        for owner in owners
            .iter()
            .filter(|owner| !before.iter().any(|old| old.uid == owner.uid))
        {
            self.add_dependent(owner, uid, wakes);
        }
    }

    fn add_dependent(&mut self, owner: &Owner, dependent: &Uid, wakes: &mut Vec<Wake>) {
        let node = self.nodes.entry(owner.uid.clone()).or_insert_with(|| {
            // Nobody has seen it: ask whether it exists.
            wakes.push(Wake::Delete(owner.uid.clone()));
            Node {
                identity: owner.identity.clone(),
                is_virtual: true,
                owners: Vec::new(),
                dependents: HashSet::new(),
                being_deleted: false,
                deleting_dependents: false,
                orphaning: false,
            }
        });
        node.dependents.insert(dependent.clone());
        let misplaced = match &node.identity.resource {
            Some(resource) => !owner.is_at(&node.identity, resource),
            // Two dependents disagree about where it is; at least one of them is wrong.
            None => node.identity != owner.identity,
        };
        if misplaced {
            wakes.push(Wake::Delete(dependent.clone()));
        }
        // A dependent that came while the owner was on its way out must go, too.
        if node.deleting_dependents {
            wakes.push(Wake::Delete(dependent.clone()));
        }
    }

    fn wake_if_deleting_dependents(&self, uid: &Uid) -> Option<Wake> {
        self.nodes
            .get(uid)
            .filter(|node| node.deleting_dependents)
            .map(|_| Wake::Delete(uid.clone()))
    }

    fn note_deletion(&mut self, uid: &Uid, meta: &Meta, wakes: &mut Vec<Wake>) {
        let Some(node) = self.nodes.get_mut(uid) else {
            return;
        };
        if !meta.is_deleted() {
            return;
        }
        node.being_deleted = true;
        let orphaning = meta.finalizers.iter().any(|finalizer| finalizer == ORPHAN);
        if orphaning && !node.orphaning {
            wakes.push(Wake::Orphan(uid.clone()));
        }
        node.orphaning = orphaning;
        let waits = plan::waits_for_dependents(meta);
        if waits && !orphaning && !node.deleting_dependents {
            wakes.extend(node.dependents.iter().cloned().map(Wake::Delete));
            wakes.push(Wake::Delete(uid.clone()));
        }
        node.deleting_dependents |= waits;
    }

    /// An object is gone: its dependents may be garbage, and an owner may have waited for it.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<Wake> {
        let Some((uid, node)) = self.nodes.remove_entry(uid) else {
            return Vec::new();
        };
        let mut wakes: Vec<_> = node.dependents.into_iter().map(Wake::Delete).collect();
        for owner in &node.owners {
            if let Some(owner) = self.nodes.get_mut(&owner.uid) {
                owner.dependents.remove(&uid);
            }
            wakes.extend(self.wake_if_deleting_dependents(&owner.uid));
            self.drop_unused_virtual(&owner.uid);
        }
        wakes
    }

    /// The API server has no object `uid` at `identity`.
    ///
    /// A virtual node may have been asked for in the wrong place, because a dependent named it wrongly: then the
    /// other dependents, which say something else, keep it for another question.
    pub(super) fn not_found(&mut self, identity: &Identity, uid: &str) -> Vec<Wake> {
        let Some((key, node)) = self.nodes.get_key_value(uid) else {
            return Vec::new();
        };
        if node.identity != *identity {
            return Vec::new();
        }
        if !node.is_virtual {
            return self.remove(uid);
        }
        let key = key.clone();
        let claim = |dependent: &Uid| {
            let dependent = self.nodes.get(dependent)?;
            dependent
                .owners
                .iter()
                .find(|owner| *owner.uid == *uid)
                .map(|owner| owner.identity.clone())
        };
        let (wrong, other): (Vec<Uid>, Vec<Uid>) = node
            .dependents
            .iter()
            .cloned()
            .partition(|dependent| claim(dependent).is_none_or(|at| at == *identity));
        let Some(next) = other.iter().find_map(claim) else {
            return self.remove(uid);
        };
        let mut wakes: Vec<_> = wrong.into_iter().map(Wake::Delete).collect();
        if let Some(node) = self.nodes.get_mut(uid) {
            node.identity = next;
            wakes.push(Wake::Delete(key));
        }
        wakes
    }

    fn drop_unused_virtual(&mut self, uid: &Uid) {
        if self
            .nodes
            .get(uid)
            .is_some_and(|node| node.is_virtual && node.dependents.is_empty())
        {
            self.nodes.remove(uid);
        }
    }
}

impl Owner {
    /// Whether the object at `place`, of kind `resource`, is where the dependent says. The version does not
    /// matter: all versions of a kind are the same object.
    fn is_at(&self, place: &Identity, resource: &Resource) -> bool {
        let group = self
            .identity
            .api_version
            .split_once('/')
            .map_or("", |(group, _)| group);
        let same_namespace = !resource.namespaced || self.identity.namespace == place.namespace;
        group == &*resource.group
            && self.identity.kind == place.kind
            && self.identity.name == place.name
            && same_namespace
    }
}
