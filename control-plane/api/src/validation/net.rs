//! Addresses and networks in text form, with upstream's explanations.

use super::ErrorList;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const NOT_AN_ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const NOT_A_NETWORK: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// An address that must be one.
pub(crate) fn ip(text: &str, path: &str, errors: &mut ErrorList) {
    if text.parse::<IpAddr>().is_err() {
        errors.invalid(path, text, NOT_AN_ADDRESS);
    }
}

/// What is wrong with an address that must be written as the address itself would write it.
pub(crate) fn canonical_ip_problem(text: &str) -> Option<String> {
    let Ok(address) = text.parse::<IpAddr>() else {
        return Some(NOT_AN_ADDRESS.into());
    };
    if let IpAddr::V6(v6) = address
        && v6.to_ipv4_mapped().is_some()
    {
        return Some("must not be an IPv4-mapped IPv6 address".into());
    }
    let canonical = address.to_string();
    (canonical != text).then(|| format!("must be in canonical form (\"{canonical}\")"))
}

/// The address and the prefix length of a network.
pub(crate) fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let bits: u8 = bits.parse().ok().filter(|_| !bits.starts_with('+'))?;
    (bits <= width(address)).then_some((address, bits))
}

/// A network that must be one.
pub(crate) fn cidr(text: &str, path: &str, errors: &mut ErrorList) {
    if parse_cidr(text).is_none() {
        errors.invalid(path, text, NOT_A_NETWORK);
    }
}

/// A network that must be written as the network itself would write it.
pub(crate) fn canonical_cidr(text: &str, path: &str, errors: &mut ErrorList) {
    let Some((address, bits)) = parse_cidr(text) else {
        errors.invalid(path, text, NOT_A_NETWORK);
        return;
    };
    let canonical = format!("{address}/{bits}");
    if network(address, bits) != address {
        errors.invalid(path, text, "must not have bits set beyond the prefix length");
    } else if canonical != text {
        errors.invalid(path, text, format!("must be in canonical form (\"{canonical}\")"));
    }
}

/// An interface's address with its network's prefix length, written as the address itself would write it.
pub(crate) fn interface_address(text: &str, path: &str, errors: &mut ErrorList) {
    let Some((address, bits)) = parse_cidr(text) else {
        let detail = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
        return errors.invalid(path, text, detail);
    };
    let (address, bits) = match address {
        IpAddr::V6(v6) if bits >= 96 => match v6.to_ipv4_mapped() {
            Some(v4) => (IpAddr::V4(v4), bits - 96),
            None => (address, bits),
        },
        _ => (address, bits),
    };
    let canonical = format!("{address}/{bits}");
    if canonical != text {
        errors.invalid(path, text, format!("must be in canonical form (\"{canonical}\")"));
    }
}

/// Whether `inner` lies in `outer` and is smaller.
pub(crate) fn is_strict_subset(inner: (IpAddr, u8), outer: (IpAddr, u8)) -> bool {
    let same_family = inner.0.is_ipv4() == outer.0.is_ipv4();
    same_family && inner.1 > outer.1 && network(inner.0, outer.1) == network(outer.0, outer.1)
}

/// What users are told of an address that is read, but written as no other program may read it.
pub(crate) fn ip_warning(text: &str, path: &str) -> Option<String> {
    let IpAddr::V6(address) = text.parse::<IpAddr>().ok()? else {
        return None;
    };
    let quoted = crate::status::quote(text);
    if let Some(mapped) = address.to_ipv4_mapped() {
        let why = "will be considered invalid in a future Kubernetes release";
        return Some(format!(
            "{path}: non-standard IP address {quoted} {why}: use \"{mapped}\""
        ));
    }
    let canonical = address.to_string();
    let why = "should be in RFC 5952 canonical format";
    (canonical != text).then(|| format!("{path}: IPv6 address {quoted} {why} (\"{canonical}\")"))
}

/// The same of a range; it may also be one that hardly is what was meant.
pub(crate) fn cidr_warning(text: &str, path: &str) -> Option<String> {
    let (address, bits) = parse_cidr(text)?;
    let quoted = crate::status::quote(text);
    let whole = network(address, bits);
    if whole != address {
        let single = format!("{address}/{}", width(address));
        return Some(format!(
            "{path}: CIDR value {quoted} is ambiguous in this context (should be \"{whole}/{bits}\" or \"{single}\"?)"
        ));
    }
    let canonical = format!("{address}/{bits}");
    let why = "should be in RFC 5952 canonical format";
    (address.is_ipv6() && canonical != text)
        .then(|| format!("{path}: IPv6 CIDR value {quoted} {why} (\"{canonical}\")"))
}

/// The first address of the network of an address.
fn network(address: IpAddr, bits: u8) -> IpAddr {
    let host_bits = u32::from(width(address).saturating_sub(bits));
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
            Ipv4Addr::from(u32::from(v4) & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
            Ipv6Addr::from(u128::from(v6) & mask).into()
        }
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let parse = |text: &str| parse_cidr(text).unwrap();
        assert!(is_strict_subset(parse("10.1.0.0/16"), parse("10.0.0.0/8")));
        assert!(!is_strict_subset(parse("10.0.0.0/8"), parse("10.0.0.0/8")));
        assert!(!is_strict_subset(parse("11.1.0.0/16"), parse("10.0.0.0/8")));
        assert!(is_strict_subset(parse("fd00::1/128"), parse("::/0")));
        assert!(!is_strict_subset(parse("10.0.0.0/8"), parse("::/0")));
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "::/129", "a/8", "10.0.0.0/-1"] {
            assert!(parse_cidr(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn canonical_forms() {
        for (text, want) in [
            ("10.0.0.1", None),
            ("2001:db8::1", None),
            (
                "2001:DB8:0::1",
                Some("must be in canonical form (\"2001:db8::1\")"),
            ),
            ("::ffff:10.0.0.1", Some("must not be an IPv4-mapped IPv6 address")),
            ("x", Some(NOT_AN_ADDRESS)),
        ] {
            assert_eq!(canonical_ip_problem(text).as_deref(), want, "{text}");
        }
        for (text, want) in [
            ("10.0.0.0/8", ""),
            (
                "10.0.0.1/8",
                "a: Invalid value: \"10.0.0.1/8\": must not have bits set beyond the prefix length",
            ),
            (
                "FD00::/8",
                "a: Invalid value: \"FD00::/8\": must be in canonical form (\"fd00::/8\")",
            ),
        ] {
            let mut errors = ErrorList::new();
            canonical_cidr(text, "a", &mut errors);
            let message = if errors.is_empty() {
                String::new()
            } else {
                errors.message()
            };
            assert_eq!(message, want, "{text}");
        }
    }
}
