//! The fields of every served type, as static tables that cost no heap and no start-up time.
//!
//! `build.rs` makes the tables from `schema/v1.37.txt`. Rows refer to each other and to one interned text by small
//! integers, so the tables hold no pointer to relocate and their pages are shared and clean. The handles
//! [`TypeRef`], [`Field`] and [`Elem`] are two bytes each and give the rows a readable face.

use std::io::Read as _;

include!(concat!(env!("OUT_DIR"), "/schema.rs"));

/// A served type: a `Copy` handle into the static tables.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TypeRef(u16);

/// A field of a type: a `Copy` handle into the static tables.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Field(u16);

/// A type expression (of list elements, map values, fields): a `Copy` handle into the static tables.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Elem(u16);

/// The descriptions of all types and fields: upstream's own sentences, inflated.
///
/// They are kept deflated (a quarter of their size, in read-only pages) and inflated by whoever writes documents, for as
/// long as that takes: an idle server has no page of them in memory.
pub struct Descriptions {
    text: String,
    /// Where each text ends: those of all types, then those of all fields.
    ends: Vec<u32>,
}

/// What a field holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FieldType {
    /// UTF-8 text, enumerations included.
    String,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer.
    Int64,
    /// Boolean.
    Bool,
    /// Floating point.
    Double,
    /// Bytes, base64 in JSON.
    Bytes,
    /// `resource.Quantity`.
    Quantity,
    /// `intstr.IntOrString`.
    IntOrString,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// A Go duration string.
    Duration,
    /// `runtime.RawExtension`: any object.
    RawExtension,
    /// `metav1.FieldsV1`.
    FieldsV1,
    /// Any JSON value.
    Json,
    /// A JSON schema or a list of them.
    SchemaOrArray,
    /// A JSON schema or a boolean.
    SchemaOrBool,
    /// A JSON schema or a list of strings.
    SchemaOrStrings,
    /// A message with fields of its own.
    Message(TypeRef),
    /// A list.
    List(Elem),
    /// A map from strings.
    Map(Elem),
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ListType {
    /// Not declared (treated as atomic by server-side apply).
    Unset,
    /// Replaced as a whole.
    Atomic,
    /// Unique scalars.
    Set,
    /// Unique by the keys of [`Field::list_map_keys`].
    Map,
}

impl Descriptions {
    /// Inflates them.
    pub fn inflate() -> Descriptions {
        let mut text = String::with_capacity(DESCRIPTIONS_LENGTH);
        // The bytes are part of the program: what they inflate to was text when it was built.
        let result = flate2::read::DeflateDecoder::new(DESCRIPTIONS).read_to_string(&mut text);
        debug_assert!(result.is_ok_and(|length| length == DESCRIPTIONS_LENGTH));
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == 0);
        let ends = ends.map(|(end, _)| end as u32).collect();
        Descriptions { text, ends }
    }

    /// What a type is; empty if upstream does not say.
    pub fn of_type(&self, ty: TypeRef) -> &str {
        self.get(usize::from(ty.0))
    }

    /// What a field means; empty if upstream does not say.
    pub fn of_field(&self, field: Field) -> &str {
        self.get(TYPES.len() + usize::from(field.0))
    }

    fn get(&self, index: usize) -> &str {
        let end = |index: usize| self.ends.get(index).map(|end| *end as usize);
        let start = index.checked_sub(1).and_then(end).map_or(0, |end| end + 1);
        end(index)
            .and_then(|end| self.text.get(start..end))
            .unwrap_or_default()
    }
}

impl std::fmt::Debug for Descriptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Descriptions({} bytes)", self.text.len())
    }
}

impl TypeRef {
    /// A type by its OpenAPI name: `io.k8s.api.core.v1.Pod`.
    pub fn by_name(name: &str) -> Option<TypeRef> {
        TYPES
            .binary_search_by(|row| row.name.get().cmp(name))
            .ok()
            .map(|i| TypeRef(i as u16))
    }

    /// All types, in the order of their names.
    pub fn all() -> impl Iterator<Item = TypeRef> {
        (0..TYPES.len() as u16).map(TypeRef)
    }

    /// The OpenAPI name: `io.k8s.api.core.v1.Pod`.
    pub fn name(self) -> &'static str {
        self.row().name.get()
    }

    /// The name without its package: `Pod`.
    pub fn short_name(self) -> &'static str {
        let name = self.name();
        &name[name.len() - usize::from(self.row().short)..]
    }

    /// Whether server-side apply replaces values of this type as a whole.
    pub fn is_atomic(self) -> bool {
        self.row().atomic
    }

    /// The declared fields in declaration order; inline ones ([`Field::is_inline`]) as themselves.
    pub fn declared_fields(self) -> impl Iterator<Item = Field> {
        let row = self.row();
        (row.first..row.first + u16::from(row.len)).map(Field)
    }

    /// The fields as JSON has them: those of inline types in their place.
    pub fn fields(self) -> impl Iterator<Item = Field> {
        let mut stack = vec![self.row().range()];
        std::iter::from_fn(move || {
            loop {
                let range = stack.last_mut()?;
                let Some(i) = range.next() else {
                    stack.pop();
                    continue;
                };
                let field = Field(i);
                match (field.is_inline(), field.ty()) {
                    (true, FieldType::Message(inner)) => stack.push(inner.row().range()),
                    _ => return Some(field),
                }
            }
        })
    }

    /// A field by its JSON name, inline types included.
    pub fn field(self, name: &str) -> Option<Field> {
        let row = self.row();
        for i in row.range() {
            let field = Field(i);
            if field.is_inline() {
                if let FieldType::Message(inner) = field.ty()
                    && let Some(found) = inner.field(name)
                {
                    return Some(found);
                }
            } else if field.name() == name {
                return Some(field);
            }
        }
        None
    }

    fn row(self) -> &'static TypeRow {
        &TYPES[usize::from(self.0)]
    }
}

impl std::fmt::Debug for TypeRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Field {
    /// The JSON name; empty for inline fields.
    pub fn name(self) -> &'static str {
        self.row().name.get()
    }

    /// What it holds.
    pub fn ty(self) -> FieldType {
        self.elem().ty()
    }

    /// What it holds, as a handle.
    pub fn elem(self) -> Elem {
        Elem(self.row().ty)
    }

    /// The protobuf field number; 0 if not known.
    pub fn tag(self) -> u16 {
        self.row().tag
    }

    /// A pointer in Go: absent and zero differ.
    pub fn is_pointer(self) -> bool {
        self.flag(1 << 0)
    }

    /// Left out of JSON when zero.
    pub fn omitempty(self) -> bool {
        self.flag(1 << 1)
    }

    /// Must be given, by its marker or because its zero value is written out.
    pub fn is_required(self) -> bool {
        self.flag(1 << 2) || !(self.omitempty() || self.is_pointer() || self.is_inline())
    }

    /// Has no JSON name of its own; its fields belong to the outer type (protobuf still nests it).
    pub fn is_inline(self) -> bool {
        self.flag(1 << 3)
    }

    /// Strategic merge patch merges this list (by [`Field::merge_key`], or as a set of primitives).
    pub fn patch_merges(self) -> bool {
        self.flag(1 << 4)
    }

    /// Strategic merge patch drops keys that the patch does not name (`retainKeys`).
    pub fn patch_retains_keys(self) -> bool {
        self.flag(1 << 5)
    }

    /// Strategic merge patch replaces the map.
    pub fn patch_replaces(self) -> bool {
        self.flag(1 << 6)
    }

    /// The key that identifies list elements in a strategic merge patch.
    pub fn merge_key(self) -> Option<&'static str> {
        Some(self.extra().merge_key.get()).filter(|k| !k.is_empty())
    }

    /// How server-side apply treats the list.
    pub fn list_type(self) -> ListType {
        match self.row().flags >> 7 & 3 {
            1 => ListType::Atomic,
            2 => ListType::Set,
            3 => ListType::Map,
            _ => ListType::Unset,
        }
    }

    /// The keys of a [`ListType::Map`].
    pub fn list_map_keys(self) -> impl Iterator<Item = &'static str> {
        self.extra().list_keys.get().split(',').filter(|k| !k.is_empty())
    }

    /// Server-side apply replaces the map or struct as a whole.
    pub fn is_atomic(self) -> bool {
        self.flag(1 << 9)
    }

    /// Belongs to a feature that is off unless somebody turns it on, which nobody can here.
    pub fn is_off(self) -> bool {
        self.flag(1 << 10)
    }

    /// Whether there can be a field that [is off](Field::is_off) somewhere in what this one holds.
    pub fn leads_to_off(self) -> bool {
        self.flag(1 << 11)
    }

    /// The declared default, as JSON.
    pub fn default(self) -> Option<&'static str> {
        Some(self.extra().default.get()).filter(|d| !d.is_empty())
    }

    fn flag(self, bit: u16) -> bool {
        self.row().flags & bit != 0
    }

    fn row(self) -> &'static FieldRow {
        &FIELDS[usize::from(self.0)]
    }

    fn extra(self) -> &'static ExtraRow {
        &EXTRAS[usize::from(self.row().extra)]
    }
}

impl std::fmt::Debug for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.name(), self.elem().go_name())
    }
}

impl Elem {
    /// What it is.
    pub fn ty(self) -> FieldType {
        let row = &ELEMS[usize::from(self.0)];
        match row.kind {
            0 => FieldType::String,
            1 => FieldType::Int32,
            2 => FieldType::Int64,
            3 => FieldType::Bool,
            4 => FieldType::Double,
            5 => FieldType::Bytes,
            6 => FieldType::Quantity,
            7 => FieldType::IntOrString,
            8 => FieldType::Time,
            9 => FieldType::MicroTime,
            10 => FieldType::Duration,
            11 => FieldType::RawExtension,
            12 => FieldType::FieldsV1,
            14 => FieldType::SchemaOrArray,
            15 => FieldType::SchemaOrBool,
            16 => FieldType::SchemaOrStrings,
            99 => FieldType::Message(TypeRef(row.arg)),
            100 => FieldType::List(Elem(row.arg)),
            101 => FieldType::Map(Elem(row.arg)),
            _ => FieldType::Json,
        }
    }

    /// The Go spelling, as decoding errors show it: `[]v1.Container`.
    pub fn go_name(self) -> &'static str {
        ELEMS[usize::from(self.0)].go.get()
    }
}

impl std::fmt::Debug for Elem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.go_name())
    }
}

/// A piece of `STRINGS`: offset * 256 + length.
struct Str(u32);

impl Str {
    fn get(&self) -> &'static str {
        let start = (self.0 >> 8) as usize;
        &STRINGS[start..start + (self.0 & 0xff) as usize]
    }
}

struct TypeRow {
    name: Str,
    /// Length of the name's last segment.
    short: u8,
    first: u16,
    len: u8,
    atomic: bool,
}

impl TypeRow {
    fn range(&self) -> std::ops::Range<u16> {
        self.first..self.first + u16::from(self.len)
    }
}

struct FieldRow {
    name: Str,
    ty: u16,
    tag: u16,
    flags: u16,
    extra: u16,
}

struct ElemRow {
    kind: u8,
    arg: u16,
    go: Str,
}

struct ExtraRow {
    merge_key: Str,
    list_keys: Str,
    default: Str,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ty(name: &str) -> TypeRef {
        TypeRef::by_name(name).unwrap_or_else(|| panic!("{name}"))
    }

    #[test]
    fn inline_fields_are_found_in_their_place() {
        let volume = ty("io.k8s.api.core.v1.Volume");
        let names: Vec<_> = volume.fields().map(Field::name).take(3).collect();
        assert_eq!(names, ["name", "hostPath", "emptyDir"]);
        assert_eq!(volume.field("emptyDir").map(Field::tag), Some(2));
        assert!(volume.field("nope").is_none());
        let inline = volume.declared_fields().nth(1);
        assert!(inline.is_some_and(|f| f.is_inline() && f.tag() == 2));
    }

    #[test]
    fn rows_carry_what_the_patch_engines_need() {
        let container = ty("io.k8s.api.core.v1.Container");
        let ports = container.field("ports").unwrap();
        assert_eq!(ports.merge_key(), Some("containerPort"));
        assert!(ports.patch_merges() && ports.omitempty() && !ports.is_pointer());
        assert_eq!(ports.list_type(), ListType::Map);
        assert_eq!(
            ports.list_map_keys().collect::<Vec<_>>(),
            ["containerPort", "protocol"]
        );
        assert_eq!(ports.elem().go_name(), "[]v1.ContainerPort");
        let finalizers = ty("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
            .field("finalizers")
            .unwrap();
        assert!(finalizers.patch_merges() && finalizers.merge_key().is_none());
        let volumes = ty("io.k8s.api.core.v1.PodSpec").field("volumes").unwrap();
        assert!(volumes.patch_retains_keys() && volumes.patch_merges());
        let protocol = ty("io.k8s.api.core.v1.ContainerPort").field("protocol").unwrap();
        assert_eq!(protocol.default(), Some("\"TCP\""));
        assert_eq!(protocol.elem().go_name(), "v1.Protocol");
    }

    #[test]
    fn names_are_sorted_and_unique() {
        let names: Vec<_> = TypeRef::all().map(TypeRef::name).collect();
        assert!(names.windows(2).all(|w| w[0] < w[1]));
        assert!(TypeRef::all().all(|t| t.name().ends_with(&format!(".{}", t.short_name()))));
    }

    #[test]
    fn nearly_everything_is_described() {
        let descriptions = Descriptions::inflate();
        let pod = ty("io.k8s.api.core.v1.Pod");
        assert!(descriptions.of_type(pod).starts_with("Pod is a collection"));
        let of = |field: &str| descriptions.of_field(pod.field(field).unwrap());
        assert!(of("spec").contains("desired behavior of the pod"));
        assert!(of("apiVersion").starts_with("APIVersion defines"));
        let last = TypeRef::all().last().unwrap();
        assert!(
            last.fields()
                .all(|field| !descriptions.of_field(field).is_empty())
        );
        let fields: Vec<Field> = TypeRef::all().flat_map(TypeRef::fields).collect();
        let bare = fields
            .iter()
            .filter(|field| descriptions.of_field(**field).is_empty());
        assert!(bare.count() * 20 < fields.len());
    }

    #[test]
    fn tables_stay_small() {
        let bytes = size_of_val(&TYPES)
            + size_of_val(&FIELDS)
            + size_of_val(&ELEMS)
            + size_of_val(&EXTRAS)
            + STRINGS.len();
        assert!(bytes < 96 << 10, "{bytes} bytes");
    }
}
