//! Short texts of requests and objects, and kubeconfig files.

use api::{
    quantity::Quantity,
    selector::{FieldSelector, LabelSelector},
};
use kube::config::Kubeconfig;
use proxy_ebpf::config::ProxyConfiguration;
use serde_json::{Map, Value};

/// A `labelSelector`: what it prints means the same.
pub(crate) fn label_selector(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Ok(selector) = LabelSelector::parse(text) else {
        return;
    };
    let printed = selector.to_string();
    let again = LabelSelector::parse(&printed);
    assert!(again.is_ok(), "{text:?} prints as {printed:?}");
    let labels: Map<String, Value> = [("a", "b"), ("app", "web")]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
    for labels in [None, Some(&labels)] {
        let (first, second) = (
            selector.matches(labels),
            again.as_ref().is_ok_and(|again| again.matches(labels)),
        );
        assert_eq!(first, second, "{text:?} and {printed:?} differ");
    }
}

/// A `fieldSelector`.
pub(crate) fn field_selector(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Ok(selector) = FieldSelector::parse(text) else {
        return;
    };
    let _selectable = selector.check(|field| field == "metadata.name");
    let _matches = selector.matches(|field| (field == "metadata.name").then_some("web"));
    for requirement in selector.requirements() {
        let _value = selector.required_value(&requirement.field);
    }
}

/// A quantity: its canonical form is one too, of the same value, and its own canonical form.
pub(crate) fn quantity(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Ok(quantity) = Quantity::parse(text) else {
        return;
    };
    let canonical = quantity.canonical();
    let Ok(again) = Quantity::parse(&canonical) else {
        panic!("{text:?} is canonically {canonical:?}, which is no quantity");
    };
    assert_eq!(again.canonical(), canonical, "of {text:?}");
    assert_eq!(again, quantity, "{text:?} and {canonical:?}");
    let _derived = (
        quantity.value(),
        quantity.milli_value(),
        quantity.is_integer(),
        quantity.signum(),
    );
    let _sum = quantity.plus(&quantity);
}

/// A kubeconfig file.
pub(crate) fn kubeconfig(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data) {
        let _config = Kubeconfig::from_yaml(text);
    }
}

/// The service proxy's configuration file: it is read, or all its mistakes are named.
pub(crate) fn proxy_config(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Err(mistakes) = ProxyConfiguration::parse(text) {
        assert!(!mistakes.0.is_empty());
    }
}
