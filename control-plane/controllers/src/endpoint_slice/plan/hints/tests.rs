use super::*;
use serde_json::{Value, json};

/// An endpoint as `zone`, or `zone>hint`; `!` before it says that it is not ready, `?` that nobody knows.
fn endpoint(text: &str) -> Endpoint {
    let (ready, text) = match text.split_at(1) {
        ("!", rest) => (Some(false), rest),
        ("?", rest) => (None, rest),
        _ => (Some(true), text),
    };
    let (zone, hint) = text
        .split_once('>')
        .map_or((text, None), |(zone, hint)| (zone, Some(hint)));
    let mut endpoint = json!({"addresses": ["10.0.0.1"], "conditions": {"ready": ready}});
    if zone != "-" {
        endpoint["zone"] = zone.into();
    }
    if let Some(hint) = hint {
        let zones: Vec<Value> = hint
            .split_terminator('+')
            .map(|zone| json!({"name": zone}))
            .collect();
        endpoint["hints"] = json!({"forZones": zones});
    }
    serde_json::from_value(endpoint).unwrap()
}

fn draft(changed: bool, endpoints: &[&str]) -> Draft<'static> {
    Draft {
        slice: None,
        ports: Vec::new(),
        endpoints: endpoints.iter().map(|text| endpoint(text)).collect(),
        changed,
    }
}

fn shown(drafts: &[Draft<'_>]) -> Vec<Vec<String>> {
    let of_endpoint = |endpoint: &Endpoint| {
        let hints = endpoint.hints.as_ref()?;
        let zones = hints.for_zones.iter().flatten().map(|zone| zone.name.clone());
        let nodes = hints
            .for_nodes
            .iter()
            .flatten()
            .map(|node| format!("node {}", node.name));
        Some(zones.chain(nodes).collect::<Vec<_>>().join(" "))
    };
    let of_draft = |draft: &Draft<'_>| {
        let hints = draft.endpoints.iter().map(of_endpoint);
        hints.map(|hint| hint.unwrap_or_else(|| "-".to_owned())).collect()
    };
    drafts.iter().map(of_draft).collect()
}

fn shares(entries: &[(&str, f64)]) -> BTreeMap<String, f64> {
    entries
        .iter()
        .map(|(zone, share)| ((*zone).to_owned(), *share))
        .collect()
}

struct Row<'a> {
    name: &'a str,
    shares: Option<&'a [(&'a str, f64)]>,
    changed: &'a [&'a [&'a str]],
    unchanged: &'a [&'a [&'a str]],
    expect: &'a [&'a [&'a str]],
    notice: Option<&'a str>,
}

/// Rows follow upstream's `TestAddHints` and `Test_redistributeHints`; those about what is unchanged are our own.
#[test]
fn by_cpu() {
    let thirds: &[_] = &[("a", 0.35), ("b", 0.35), ("c", 0.30)];
    let halves: &[_] = &[("a", 0.45), ("b", 0.55)];
    let enabled = Some("Topology Aware Hints has been enabled, addressType: IPv4");
    let no_info = Some(
        "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes, addressType: IPv4",
    );
    for row in [
        Row {
            name: "empty",
            shares: None,
            changed: &[],
            unchanged: &[],
            expect: &[],
            notice: no_info,
        },
        Row {
            name: "no zone ratios",
            shares: None,
            changed: &[&["a>b"]],
            unchanged: &[&["a>a"]],
            expect: &[&["-"], &["-"]],
            notice: no_info,
        },
        Row {
            name: "2 endpoints, zone ratios require 3",
            shares: Some(&[("a", 0.3), ("b", 0.4), ("c", 0.3)]),
            changed: &[&["a", "b"]],
            unchanged: &[],
            expect: &[&["-", "-"]],
            notice: Some("Insufficient number of endpoints (2 endpoints, 3 zones), addressType: IPv4"),
        },
        Row {
            name: "2 endpoints, zone ratios only require 2",
            shares: Some(halves),
            changed: &[&["a", "b"]],
            unchanged: &[],
            expect: &[&["a", "b"]],
            notice: enabled,
        },
        Row {
            name: "2 ready, 1 unready, 1 unknown endpoints, zone ratios only require 2",
            shares: Some(halves),
            changed: &[&["a", "b", "!b>b", "?b"]],
            unchanged: &[],
            expect: &[&["a", "b", "-", "-"]],
            notice: enabled,
        },
        Row {
            name: "slices to create and update within 3 zone threshold",
            shares: Some(thirds),
            changed: &[&["a", "b"], &["c", "c", "a"], &["a", "a"], &["b", "c", "a"]],
            unchanged: &[],
            expect: &[&["b", "b"], &["c", "c", "a"], &["a", "a"], &["b", "c", "a"]],
            notice: enabled,
        },
        Row {
            name: "one zone gives to two others",
            shares: Some(&[("a", 0.34), ("b", 0.33), ("c", 0.33)]),
            changed: &[&["a", "a", "a"]],
            unchanged: &[],
            expect: &[&["b", "c", "a"]],
            notice: enabled,
        },
        Row {
            name: "minima that cannot all be met",
            shares: Some(&[("a", 0.75), ("b", 0.25)]),
            changed: &[&["a", "b"]],
            unchanged: &[],
            expect: &[&["-", "-"]],
            notice: Some(
                "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold \
                 (2 endpoints, 2 zones), addressType: IPv4",
            ),
        },
        Row {
            name: "an endpoint without a zone",
            shares: Some(halves),
            changed: &[&["a", "b", "-"]],
            unchanged: &[&["a>a"]],
            expect: &[&["-", "-", "-"], &["-"]],
            notice: Some("One or more endpoints do not have a zone specified, addressType: IPv4"),
        },
        Row {
            name: "what is good enough stays, the rest makes up for it",
            shares: Some(halves),
            changed: &[&["a", "a"]],
            unchanged: &[&["b>a", "a>b"]],
            expect: &[&["b", "a"], &["a", "b"]],
            notice: enabled,
        },
        Row {
            name: "what is not good any more does not stay",
            shares: Some(halves),
            changed: &[],
            unchanged: &[&["a>a", "b>a", "b>a"], &["a>gone"], &["b"]],
            expect: &[&["a", "b", "b"], &["a"], &["b"]],
            notice: enabled,
        },
    ] {
        let mut drafts: Vec<Draft<'_>> = row
            .changed
            .iter()
            .map(|endpoints| draft(true, endpoints))
            .chain(row.unchanged.iter().map(|endpoints| draft(false, endpoints)))
            .collect();
        let shares = row.shares.map(shares);
        let mut hinted = false;
        let notice = apply(Mode::Auto, shares.as_ref(), "IPv4", &mut drafts, &mut hinted);
        assert_eq!(shown(&drafts), row.expect, "{}", row.name);
        assert_eq!(
            notice.as_ref().map(|notice| &*notice.message),
            row.notice,
            "{}",
            row.name
        );
        assert_eq!(hinted, notice.unwrap().type_ == EventType::Normal, "{}", row.name);
    }
}

#[test]
fn only_changes_are_news() {
    let shares = shares(&[("a", 0.5), ("b", 0.5)]);
    let mut hinted = false;
    let mut run = |mode| {
        let mut drafts = [draft(true, &["a", "b"])];
        apply(mode, Some(&shares), "IPv6", &mut drafts, &mut hinted).map(|notice| notice.message)
    };
    let enabled = "Topology Aware Hints has been enabled, addressType: IPv6";
    let disabled = "Topology Aware Hints has been disabled, addressType: IPv6";
    assert_eq!(run(Mode::Auto).as_deref(), Some(enabled));
    assert_eq!(run(Mode::Auto), None);
    assert_eq!(run(Mode::SameZone).as_deref(), Some(disabled));
    assert_eq!(run(Mode::SameZone), None);
    assert_eq!(run(Mode::Nothing), None);
}

/// Rows follow upstream's `Test_getHintsByZone`.
#[test]
fn slices_that_stay() {
    type Row<'a> = (
        &'a str,
        &'a [&'a str],
        &'a [(&'a str, usize)],
        &'a [(&'a str, usize)],
        Option<&'a [(&'a str, usize)]>,
    );
    let rows: &[Row<'_>] = &[
        ("empty", &[], &[], &[], Some(&[])),
        (
            "single zone hint",
            &["a>a"],
            &[("a", 1)],
            &[("a", 3)],
            Some(&[("a", 1)]),
        ),
        (
            "1 unready endpoint and 1 unknown endpoint",
            &["a>a", "!a>a", "?a>a"],
            &[("a", 1)],
            &[("a", 3)],
            Some(&[("a", 1)]),
        ),
        (
            "multiple zone hints",
            &["a>a", "a>b", "b>b"],
            &[("a", 1), ("b", 1), ("c", 1)],
            &[("a", 3), ("b", 3), ("c", 3)],
            Some(&[("a", 1), ("b", 2)]),
        ),
        (
            "a zone that no longer requires any",
            &["a>gone"],
            &[("a", 1)],
            &[("a", 3)],
            None,
        ),
        ("no hints at all", &["a"], &[], &[("a", 3)], None),
        ("an empty list of hints", &["a>"], &[], &[("a", 3)], None),
        (
            "minima become impossible",
            &["a>a", "a>a"],
            &[("a", 1)],
            &[("a", 2)],
            None,
        ),
    ];
    for (name, endpoints, has, maxima, expect) in rows {
        let has = has
            .iter()
            .map(|(zone, count)| ((*zone).to_owned(), *count))
            .collect();
        let allocations = maxima
            .iter()
            .map(|(zone, maximum)| {
                let allocation = Allocation {
                    minimum: 0,
                    maximum: *maximum,
                    desired: 0.0,
                };
                ((*zone).to_owned(), allocation)
            })
            .collect();
        let endpoints: Vec<Endpoint> = endpoints.iter().map(|text| endpoint(text)).collect();
        let expect = expect.map(|counts| counts.iter().copied().collect());
        assert_eq!(kept(&endpoints, &has, &allocations), expect, "{name}");
    }
}

/// Rows follow upstream's `TestReconcileHints` of `trafficdist`, as of v1.35.
#[test]
fn nearest_ones() {
    let on_node = |text: &str, node: &str| Endpoint {
        node_name: Some(node.to_owned()),
        ..endpoint(text)
    };
    for (name, mode, expect) in [
        ("same zone", Mode::SameZone, ["a", "b", "-", "-"]),
        ("same node", Mode::SameNode, ["a node n1", "b", "node n3", "-"]),
        ("no wish", Mode::Nothing, ["-"; 4]),
    ] {
        let mut drafts = [draft(true, &[]), draft(false, &[])];
        drafts[0].endpoints = vec![on_node("a>b", "n1"), endpoint("b")];
        drafts[1].endpoints = vec![on_node("->x", "n3"), on_node("!a>a", "n4")];
        assert_eq!(apply(mode, None, "IPv4", &mut drafts, &mut false), None);
        assert_eq!(shown(&drafts).concat(), expect, "{name}");
    }
}

/// Rows follow upstream's `hintsEnabled` and `validTrafficDistribution`.
#[test]
fn modes() {
    let (new, old) = (
        "service.kubernetes.io/topology-mode",
        "service.kubernetes.io/topology-aware-hints",
    );
    for (annotations, distribution, expect) in [
        (json!({}), None, Mode::Nothing),
        (json!({}), Some("PreferClose"), Mode::SameZone),
        (json!({}), Some("PreferSameZone"), Mode::SameZone),
        (json!({}), Some("PreferSameNode"), Mode::SameNode),
        (json!({}), Some("Unknown"), Mode::Nothing),
        (json!({new: "Auto"}), None, Mode::Auto),
        (json!({new: "auto"}), Some("PreferClose"), Mode::Auto),
        (json!({new: "Disabled"}), Some("PreferClose"), Mode::SameZone),
        (json!({old: "Auto", new: "Disabled"}), None, Mode::Auto),
        (json!({old: "Disabled", new: "Auto"}), None, Mode::Nothing),
    ] {
        let mut service = json!({"metadata": {"annotations": annotations}, "spec": {}});
        if let Some(distribution) = distribution {
            service["spec"]["trafficDistribution"] = distribution.into();
        }
        let service: Service = serde_json::from_value(service).unwrap();
        assert_eq!(Mode::of(&service), expect, "{annotations} {distribution:?}");
    }
}
