//! Which Service a packet is for, and which of its backends gets it.

use aya_ebpf::{helpers::generated::bpf_get_prandom_u32, maps::lpm_trie::Key};
use proxy_ebpf_common::{
    Address, Affinity, AffinityKey, AffinityMatchKey, BackendId, FrontendKey, Hook, Port, Protocol, Scope,
    ServiceId, SlotKey, SourceRangeKey,
};

use super::{conntrack::now_s, family::PacketFamily, scratch::Scratch};
use crate::maps::{AFFINITY_MATCH, SLOTS};

/// Looks up the Service that the packet's destination is. Whether it is one; `frontend` is what is known of it then.
#[inline(never)]
pub(crate) fn find<F: PacketFamily>(scratch: &mut Scratch<F::Address>) -> bool {
    scratch.is_other_port = 0;
    let key = &scratch.packet.key;
    let (address, port, protocol) = (key.destination, key.destination_port, key.protocol);
    // Only where the policies for clients inside and outside differ is there an entry for those outside.
    let outside = scratch.packet.hook == Hook::NODE_INGRESS;
    if outside && look_up::<F>(scratch, address, port, protocol, Scope::EXTERNAL) {
        return true;
    }
    if look_up::<F>(scratch, address, port, protocol, Scope::INTERNAL) {
        return true;
    }
    let nodes = F::Address::UNSPECIFIED;
    if (outside && look_up::<F>(scratch, nodes, port, protocol, Scope::EXTERNAL)
        || look_up::<F>(scratch, nodes, port, protocol, Scope::INTERNAL))
        && F::node_addresses().get_ptr(&address).is_some()
    {
        return true;
    }
    let found = is_service_address::<F>(scratch);
    scratch.is_other_port = found.into();
    found
}

/// Whether the packet's destination is an address that only a Service has, whatever the port. `frontend` is what is known of
/// its other ports then.
#[inline(always)]
pub(crate) fn is_service_address<F: PacketFamily>(scratch: &mut Scratch<F::Address>) -> bool {
    let address = scratch.packet.key.destination;
    look_up::<F>(scratch, address, Port::new(0), Protocol::ANY, Scope::INTERNAL)
}

#[inline(always)]
fn look_up<F: PacketFamily>(
    scratch: &mut Scratch<F::Address>,
    address: F::Address,
    port: Port,
    protocol: Protocol,
    scope: Scope,
) -> bool {
    let key = FrontendKey {
        address,
        port,
        protocol,
        scope,
    };
    // SAFETY: no preallocation, so elements are freed only after this program has run.
    let Some(frontend) = (unsafe { F::frontends().get(&key) }) else {
        return false;
    };
    scratch.frontend = *frontend;
    true
}

/// Whether the service admits the client.
#[inline(always)]
pub(crate) fn admits<F: PacketFamily>(scratch: &Scratch<F::Address>) -> bool {
    let key = SourceRangeKey {
        service: scratch.frontend.service,
        network: scratch.packet.key.source,
    };
    let bits = 8 * size_of::<SourceRangeKey<F::Address>>() as u32;
    F::source_ranges().get(Key::new(bits, key)).is_some()
}

/// Chooses a backend of the frontend and makes it the packet's new destination. Whether there is one.
#[inline(never)]
pub(crate) fn choose<F: PacketFamily>(scratch: &mut Scratch<F::Address>) -> bool {
    let service = scratch.frontend.service;
    let chosen = if scratch.frontend.affinity_timeout_s == 0 {
        any(service, scratch.frontend.slots)
    } else {
        stay::<F>(scratch)
    };
    let Some(id) = chosen else { return false };
    // SAFETY: no preallocation, so elements are freed only after this program has run.
    let Some(backend) = (unsafe { F::backends().get(id) }) else {
        return false;
    };
    scratch.begin(backend.address, backend.port, service, id);
    true
}

/// Any backend, each as likely as the next. A consistent hash would be looked up here.
#[inline(always)]
fn any(service: ServiceId, slots: u32) -> Option<BackendId> {
    // SAFETY: a helper without arguments.
    let random = unsafe { bpf_get_prandom_u32() };
    let slot = ((u64::from(random) * u64::from(slots)) >> 32) as u32;
    // SAFETY: no preallocation, so elements are freed only after this program has run.
    unsafe { SLOTS.get(SlotKey { service, slot }) }.copied()
}

/// The backend that this client used last, while that is recent and the backend is still one of the service's.
#[inline(always)]
fn stay<F: PacketFamily>(scratch: &Scratch<F::Address>) -> Option<BackendId> {
    let service = scratch.frontend.service;
    let now_s = now_s();
    let key = AffinityKey {
        service,
        client: scratch.packet.key.source,
    };
    if let Some(affinity) = F::affinity().get_ptr_mut(&key) {
        // SAFETY: the pointer is valid until the program ends; racing writers write whole integers.
        let Affinity { backend, last_used_s } = unsafe { *affinity };
        if now_s.wrapping_sub(last_used_s) < scratch.frontend.affinity_timeout_s
            && AFFINITY_MATCH
                .get_ptr(AffinityMatchKey { service, backend })
                .is_some()
        {
            // SAFETY: as above.
            unsafe { (*affinity).last_used_s = now_s };
            return Some(backend);
        }
    }
    let backend = any(service, scratch.frontend.slots)?;
    let affinity = Affinity {
        backend,
        last_used_s: now_s,
    };
    // A full table costs this client its affinity, not its connection.
    let _ = F::affinity().insert(&key, affinity, 0);
    Some(backend)
}
