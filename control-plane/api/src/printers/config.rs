//! Kinds that configure the cluster.

use serde_json::Value;

use super::{
    AGE, NAME, NONE, Printer, age, boolean, integer, label_selector, list, name, number, string, text,
    text_or_none,
};

pub(super) const NAME_AND_AGE: Printer = Printer {
    columns: &[NAME, AGE],
    row: |object, now| vec![name(object), age(object, now)],
};

pub(super) const PRIORITY_CLASS: Printer = Printer {
    columns: &[
        NAME,
        integer("Value").of("scheduling.v1.PriorityClass", "value"),
        boolean("Global-Default").of("scheduling.v1.PriorityClass", "globalDefault"),
        AGE,
        string("PreemptionPolicy").of("scheduling.v1.PriorityClass", "preemptionPolicy"),
    ],
    row: |object, now| {
        vec![
            name(object),
            number(&object["value"]),
            (object["globalDefault"] == true).into(),
            age(object, now),
            object["preemptionPolicy"]
                .as_str()
                .unwrap_or("PreemptLowerPriority")
                .into(),
        ]
    },
};

pub(super) const LEASE: Printer = Printer {
    columns: &[
        NAME,
        string("Holder").of("coordination.v1.LeaseSpec", "holderIdentity"),
        AGE,
    ],
    row: |object, now| {
        vec![
            name(object),
            text(&object["spec"]["holderIdentity"]).into(),
            age(object, now),
        ]
    },
};

pub(super) const RUNTIME_CLASS: Printer = Printer {
    columns: &[NAME, string("Handler").of("node.v1.RuntimeClass", "handler"), AGE],
    row: |object, now| vec![name(object), text(&object["handler"]).into(), age(object, now)],
};

pub(super) const WEBHOOKS: Printer = Printer {
    columns: &[NAME, integer("Webhooks"), AGE],
    row: |object, now| {
        vec![
            name(object),
            list(&object["webhooks"]).len().into(),
            age(object, now),
        ]
    },
};

pub(super) const VALIDATING_ADMISSION_POLICY: Printer = Printer {
    columns: &[NAME, integer("Validations"), string("ParamKind"), AGE],
    row: |object, now| {
        vec![
            name(object),
            list(&object["spec"]["validations"]).len().into(),
            parameter_kind(object).into(),
            age(object, now),
        ]
    },
};

pub(super) const MUTATING_ADMISSION_POLICY: Printer = Printer {
    columns: &[NAME, integer("Mutations"), string("ParamKind"), AGE],
    row: |object, now| {
        vec![
            name(object),
            list(&object["spec"]["mutations"]).len().into(),
            parameter_kind(object).into(),
            age(object, now),
        ]
    },
};

fn parameter_kind(policy: &Value) -> String {
    match &policy["spec"]["paramKind"] {
        Value::Null => "<unset>".to_owned(),
        kind => format!("{}/{}", text(&kind["apiVersion"]), text(&kind["kind"])),
    }
}

pub(super) const ADMISSION_POLICY_BINDING: Printer = Printer {
    columns: &[NAME, string("PolicyName"), string("ParamRef"), AGE],
    row: |object, now| {
        let spec = &object["spec"];
        let parameters = match &spec["paramRef"] {
            Value::Null => "<unset>".to_owned(),
            reference => match (text(&reference["namespace"]), text(&reference["name"])) {
                (_, "") => label_selector(&reference["selector"]),
                // Whether the parameter has a namespace cannot be told from here.
                ("", name) => format!("*/{name}"),
                (namespace, name) => format!("{namespace}/{name}"),
            },
        };
        vec![
            name(object),
            text(&spec["policyName"]).into(),
            parameters.into(),
            age(object, now),
        ]
    },
};

pub(super) const API_SERVICE: Printer = Printer {
    columns: &[NAME, string("Service"), string("Available"), AGE],
    row: |object, now| {
        let service = match &object["spec"]["service"] {
            Value::Null => "Local".to_owned(),
            service => format!("{}/{}", text(&service["namespace"]), text(&service["name"])),
        };
        let available = list(&object["status"]["conditions"])
            .iter()
            .find(|condition| condition["type"] == "Available");
        let available = match available {
            Some(condition) if condition["status"] == "True" => "True".to_owned(),
            Some(condition) => format!("{} ({})", text(&condition["status"]), text(&condition["reason"])),
            None => "Unknown".to_owned(),
        };
        vec![name(object), service.into(), available.into(), age(object, now)]
    },
};

pub(super) const FLOW_SCHEMA: Printer = Printer {
    columns: &[
        NAME,
        string("PriorityLevel").of("flowcontrol.v1.PriorityLevelConfigurationReference", "name"),
        string("MatchingPrecedence").of("flowcontrol.v1.FlowSchemaSpec", "matchingPrecedence"),
        string("DistinguisherMethod").of("flowcontrol.v1.FlowSchemaSpec", "distinguisherMethod"),
        AGE,
        string("MissingPL"),
    ],
    row: |object, now| {
        let spec = &object["spec"];
        let dangling = list(&object["status"]["conditions"])
            .iter()
            .find(|condition| condition["type"] == "Dangling");
        vec![
            name(object),
            text(&spec["priorityLevelConfiguration"]["name"]).into(),
            number(&spec["matchingPrecedence"]),
            text_or_none(&spec["distinguisherMethod"]["type"]),
            age(object, now),
            dangling
                .map_or("?", |condition| text(&condition["status"]))
                .into(),
        ]
    },
};

pub(super) const PRIORITY_LEVEL: Printer = Printer {
    columns: &[
        NAME,
        string("Type").of("flowcontrol.v1.PriorityLevelConfigurationSpec", "type"),
        string("NominalConcurrencyShares").of(
            "flowcontrol.v1.LimitedPriorityLevelConfiguration",
            "nominalConcurrencyShares",
        ),
        string("Queues").of("flowcontrol.v1.QueuingConfiguration", "queues"),
        string("HandSize").of("flowcontrol.v1.QueuingConfiguration", "handSize"),
        string("QueueLengthLimit").of("flowcontrol.v1.QueuingConfiguration", "queueLengthLimit"),
        AGE,
    ],
    row: |object, now| {
        let spec = &object["spec"];
        let shown = |value: &Value| value.as_i64().map_or(Value::from(NONE), Value::from);
        let queuing = &spec["limited"]["limitResponse"]["queuing"];
        vec![
            name(object),
            text(&spec["type"]).into(),
            shown(&spec["limited"]["nominalConcurrencyShares"]),
            shown(&queuing["queues"]),
            shown(&queuing["handSize"]),
            shown(&queuing["queueLengthLimit"]),
            age(object, now),
        ]
    },
};

pub(super) const RESOURCE_CLAIM: Printer = Printer {
    columns: &[NAME, string("State"), AGE],
    row: |object, now| {
        let status = &object["status"];
        let mut states = Vec::new();
        if !object["metadata"]["deletionTimestamp"].is_null() {
            states.push("deleted");
        }
        if status["allocation"].is_null() {
            states.push("pending");
        } else {
            states.push("allocated");
            if !list(&status["reservedFor"]).is_empty() {
                states.push("reserved");
            }
        }
        vec![name(object), states.join(",").into(), age(object, now)]
    },
};

pub(super) const RESOURCE_SLICE: Printer = Printer {
    columns: &[NAME, string("Node"), string("Driver"), string("Pool"), AGE],
    row: |object, now| {
        let spec = &object["spec"];
        vec![
            name(object),
            text(&spec["nodeName"]).into(),
            text(&spec["driver"]).into(),
            text(&spec["pool"]["name"]).into(),
            age(object, now),
        ]
    },
};
