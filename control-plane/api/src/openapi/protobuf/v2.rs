//! Message `openapi.v2.Document`: field numbers of gnostic's `openapiv2/OpenAPIv2.proto`.

use super::{Alternative, Form, Message, TEXTS};

static A_SCHEMA: Form = Form::Message(&SCHEMA);

/// The document.
pub(in crate::openapi) static DOCUMENT: Message = Message {
    name: "Document",
    members: &[
        ("swagger", 1, Form::Text),
        ("info", 2, Form::Message(&INFO)),
        ("paths", 8, Form::Message(&PATHS)),
        ("definitions", 9, Form::Message(&SCHEMAS)),
        ("parameters", 10, Form::Message(&PARAMETERS)),
        ("security", 12, Form::List(&Form::Message(&SECURITY_REQUIREMENT))),
        ("securityDefinitions", 13, Form::Message(&SECURITY_DEFINITIONS)),
    ],
    others: None,
    extensions: Some(16),
};

static INFO: Message = Message {
    name: "Info",
    members: &[("title", 1, Form::Text), ("version", 2, Form::Text)],
    others: None,
    extensions: Some(7),
};

static PATHS: Message = Message {
    name: "Paths",
    members: &[],
    others: Some((2, Form::Message(&PATH_ITEM))),
    extensions: Some(1),
};

static PATH_ITEM: Message = Message {
    name: "PathItem",
    members: &[
        ("get", 2, Form::Message(&OPERATION)),
        ("put", 3, Form::Message(&OPERATION)),
        ("post", 4, Form::Message(&OPERATION)),
        ("delete", 5, Form::Message(&OPERATION)),
        ("options", 6, Form::Message(&OPERATION)),
        ("head", 7, Form::Message(&OPERATION)),
        ("patch", 8, Form::Message(&OPERATION)),
        ("parameters", 9, Form::List(&PARAMETERS_ITEM)),
    ],
    others: None,
    extensions: Some(10),
};

static OPERATION: Message = Message {
    name: "Operation",
    members: &[
        ("tags", 1, TEXTS),
        ("description", 3, Form::Text),
        ("operationId", 5, Form::Text),
        ("produces", 6, TEXTS),
        ("consumes", 7, TEXTS),
        ("parameters", 8, Form::List(&PARAMETERS_ITEM)),
        ("responses", 9, Form::Message(&RESPONSES)),
    ],
    others: None,
    extensions: Some(13),
};

/// A parameter, or a reference to one of the document's parameters.
static PARAMETERS_ITEM: Form = Form::OneOf(&[
    Alternative {
        member: "$ref",
        value: None,
        field: 2,
        form: Form::Message(&JSON_REFERENCE),
    },
    Alternative {
        member: "in",
        value: None,
        field: 1,
        form: PARAMETER,
    },
]);

const PARAMETER: Form = Form::OneOf(&[
    Alternative {
        member: "in",
        value: Some("body"),
        field: 1,
        form: Form::Message(&BODY_PARAMETER),
    },
    Alternative {
        member: "in",
        value: Some("query"),
        field: 2,
        form: Form::In(3, &Form::Message(&QUERY_PARAMETER)),
    },
    Alternative {
        member: "in",
        value: Some("path"),
        field: 2,
        form: Form::In(4, &Form::Message(&PATH_PARAMETER)),
    },
]);

static PARAMETERS: Message = Message {
    name: "ParameterDefinitions",
    members: &[],
    others: Some((1, PARAMETER)),
    extensions: None,
};

static JSON_REFERENCE: Message = Message {
    name: "JsonReference",
    members: &[("$ref", 1, Form::Text)],
    others: None,
    extensions: None,
};

static BODY_PARAMETER: Message = Message {
    name: "BodyParameter",
    members: &[
        ("name", 2, Form::Text),
        ("in", 3, Form::Text),
        ("required", 4, Form::Bool),
        ("schema", 5, Form::Message(&SCHEMA)),
    ],
    others: None,
    extensions: Some(6),
};

static QUERY_PARAMETER: Message = Message {
    name: "QueryParameterSubSchema",
    members: &[
        ("in", 2, Form::Text),
        ("name", 4, Form::Text),
        ("type", 6, Form::Text),
        ("uniqueItems", 20, Form::Bool),
    ],
    others: None,
    extensions: Some(23),
};

static PATH_PARAMETER: Message = Message {
    name: "PathParameterSubSchema",
    members: &[
        ("required", 1, Form::Bool),
        ("in", 2, Form::Text),
        ("name", 4, Form::Text),
        ("type", 5, Form::Text),
        ("uniqueItems", 19, Form::Bool),
    ],
    others: None,
    extensions: Some(22),
};

static RESPONSES: Message = Message {
    name: "Responses",
    members: &[],
    others: Some((1, Form::In(1, &Form::Message(&RESPONSE)))),
    extensions: Some(2),
};

static RESPONSE: Message = Message {
    name: "Response",
    members: &[
        ("description", 1, Form::Text),
        ("schema", 2, Form::In(1, &A_SCHEMA)),
    ],
    others: None,
    extensions: Some(5),
};

/// `Definitions` and `Properties`, which are alike.
static SCHEMAS: Message = Message {
    name: "Definitions",
    members: &[],
    others: Some((1, Form::Message(&SCHEMA))),
    extensions: None,
};

static SCHEMA: Message = Message {
    name: "Schema",
    members: &[
        ("$ref", 1, Form::Text),
        ("format", 2, Form::Text),
        ("description", 4, Form::Text),
        ("required", 19, TEXTS),
        ("additionalProperties", 21, Form::In(1, &A_SCHEMA)),
        ("type", 22, Form::In(1, &Form::Text)),
        ("items", 23, Form::In(1, &A_SCHEMA)),
        ("properties", 25, Form::Message(&SCHEMAS)),
    ],
    others: None,
    extensions: Some(31),
};

static SECURITY_DEFINITIONS: Message = Message {
    name: "SecurityDefinitions",
    members: &[],
    others: Some((
        1,
        Form::OneOf(&[Alternative {
            member: "type",
            value: Some("apiKey"),
            field: 2,
            form: Form::Message(&API_KEY),
        }]),
    )),
    extensions: None,
};

static API_KEY: Message = Message {
    name: "ApiKeySecurity",
    members: &[
        ("type", 1, Form::Text),
        ("name", 2, Form::Text),
        ("in", 3, Form::Text),
        ("description", 4, Form::Text),
    ],
    others: None,
    extensions: Some(5),
};

static SECURITY_REQUIREMENT: Message = Message {
    name: "SecurityRequirement",
    members: &[],
    others: Some((1, Form::In(1, &TEXTS))),
    extensions: None,
};
