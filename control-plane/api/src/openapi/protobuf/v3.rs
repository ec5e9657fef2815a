//! Message `openapi.v3.Document`: field numbers of gnostic's `openapiv3/OpenAPIv3.proto`.

use super::{Alternative, Form, Message, TEXTS};

/// The document.
pub(in crate::openapi) static DOCUMENT: Message = Message {
    name: "Document",
    members: &[
        ("openapi", 1, Form::Text),
        ("info", 2, Form::Message(&INFO)),
        ("paths", 4, Form::Message(&PATHS)),
        ("components", 5, Form::Message(&COMPONENTS)),
    ],
    others: None,
    extensions: Some(9),
};

static INFO: Message = Message {
    name: "Info",
    members: &[("title", 1, Form::Text), ("version", 6, Form::Text)],
    others: None,
    extensions: Some(7),
};

static PATHS: Message = Message {
    name: "Paths",
    members: &[],
    others: Some((1, Form::Message(&PATH_ITEM))),
    extensions: Some(2),
};

static PATH_ITEM: Message = Message {
    name: "PathItem",
    members: &[
        ("get", 4, Form::Message(&OPERATION)),
        ("put", 5, Form::Message(&OPERATION)),
        ("post", 6, Form::Message(&OPERATION)),
        ("delete", 7, Form::Message(&OPERATION)),
        ("options", 8, Form::Message(&OPERATION)),
        ("head", 9, Form::Message(&OPERATION)),
        ("patch", 10, Form::Message(&OPERATION)),
        ("parameters", 13, PARAMETERS),
    ],
    others: None,
    extensions: Some(14),
};

static OPERATION: Message = Message {
    name: "Operation",
    members: &[
        ("tags", 1, TEXTS),
        ("description", 3, Form::Text),
        ("operationId", 5, Form::Text),
        ("parameters", 6, PARAMETERS),
        ("requestBody", 7, Form::In(1, &Form::Message(&REQUEST_BODY))),
        ("responses", 8, Form::Message(&RESPONSES)),
    ],
    others: None,
    extensions: Some(13),
};

/// Each in a `ParameterOrReference`.
const PARAMETERS: Form = Form::List(&Form::In(1, &Form::Message(&PARAMETER)));

static PARAMETER: Message = Message {
    name: "Parameter",
    members: &[
        ("name", 1, Form::Text),
        ("in", 2, Form::Text),
        ("required", 4, Form::Bool),
        ("schema", 10, Form::OneOf(&SCHEMA_OR_REFERENCE)),
    ],
    others: None,
    extensions: Some(14),
};

static REQUEST_BODY: Message = Message {
    name: "RequestBody",
    members: &[
        ("content", 2, Form::Message(&MEDIA_TYPES)),
        ("required", 3, Form::Bool),
    ],
    others: None,
    extensions: Some(4),
};

static MEDIA_TYPES: Message = Message {
    name: "MediaTypes",
    members: &[],
    others: Some((1, Form::Message(&MEDIA_TYPE))),
    extensions: None,
};

static MEDIA_TYPE: Message = Message {
    name: "MediaType",
    members: &[("schema", 1, Form::OneOf(&SCHEMA_OR_REFERENCE))],
    others: None,
    extensions: Some(5),
};

static RESPONSES: Message = Message {
    name: "Responses",
    members: &[],
    others: Some((2, Form::In(1, &Form::Message(&RESPONSE)))),
    extensions: Some(3),
};

static RESPONSE: Message = Message {
    name: "Response",
    members: &[
        ("description", 1, Form::Text),
        ("content", 3, Form::Message(&MEDIA_TYPES)),
    ],
    others: None,
    extensions: Some(5),
};

static COMPONENTS: Message = Message {
    name: "Components",
    members: &[
        ("schemas", 1, Form::Message(&SCHEMAS)),
        ("securitySchemes", 7, Form::Message(&SECURITY_SCHEMES)),
    ],
    others: None,
    extensions: Some(10),
};

/// `SchemasOrReferences` and `Properties`, which are alike.
static SCHEMAS: Message = Message {
    name: "Schemas",
    members: &[],
    others: Some((1, Form::OneOf(&SCHEMA_OR_REFERENCE))),
    extensions: None,
};

/// `SchemaOrReference`.
static A_SCHEMA: Form = Form::OneOf(&SCHEMA_OR_REFERENCE);

static SCHEMA_OR_REFERENCE: [Alternative; 2] = [
    Alternative {
        member: "$ref",
        value: None,
        field: 2,
        form: Form::Message(&REFERENCE),
    },
    Alternative {
        member: "",
        value: None,
        field: 1,
        form: Form::Message(&SCHEMA),
    },
];

static SCHEMA: Message = Message {
    name: "Schema",
    members: &[
        ("uniqueItems", 20, Form::Bool),
        ("required", 23, TEXTS),
        ("type", 25, Form::Text),
        ("allOf", 26, Form::List(&A_SCHEMA)),
        ("oneOf", 27, Form::List(&A_SCHEMA)),
        ("items", 30, Form::In(1, &A_SCHEMA)),
        ("properties", 31, Form::Message(&SCHEMAS)),
        ("additionalProperties", 32, Form::In(1, &A_SCHEMA)),
        ("default", 33, Form::Default),
        ("description", 34, Form::Text),
        ("format", 35, Form::Text),
    ],
    others: None,
    extensions: Some(36),
};

static REFERENCE: Message = Message {
    name: "Reference",
    members: &[("$ref", 1, Form::Text)],
    others: None,
    extensions: None,
};

static SECURITY_SCHEMES: Message = Message {
    name: "SecuritySchemes",
    members: &[],
    others: Some((1, Form::In(1, &Form::Message(&SECURITY_SCHEME)))),
    extensions: None,
};

static SECURITY_SCHEME: Message = Message {
    name: "SecurityScheme",
    members: &[
        ("type", 1, Form::Text),
        ("description", 2, Form::Text),
        ("name", 3, Form::Text),
        ("in", 4, Form::Text),
    ],
    others: None,
    extensions: Some(9),
};
