//! The kernel's token bucket filter (`tbf`), in the form in which netlink carries it: `struct tc_tbf_qopt` and what came
//! after it (linux/pkt_sched.h), in the machine's byte order.

use netlink_packet_core::{DefaultNla, Emitable, NlasIterator};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

use crate::runtime_config::Shape;

const KIND: &str = "tbf";
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
/// Bytes of `struct tc_tbf_qopt`: two rates of 12 bytes, limit, buffer and MTU.
const PARMS_BYTES: usize = 36;
/// Where in it the rate is, and the limit.
const RATE: std::ops::Range<usize> = 8..12;
const LIMIT: std::ops::Range<usize> = 24..28;
/// `TC_LINKLAYER_ETHERNET`, in the rate's second byte: the kernel is not to guess from a table that we do not send.
const LINK_LAYER: (usize, u8) = (1, 1);
/// How long a packet may wait in the bucket's queue, as the reference plugin has it.
const LATENCY_MS: u64 = 25;

/// The request that puts the bucket in front of everything that the interface sends.
pub(crate) fn message(index: u32, shape: Shape) -> TcMessage {
    let saturated = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let waiting = shape.rate_bytes.saturating_mul(LATENCY_MS) / 1000;
    let limit = saturated(waiting.saturating_add(shape.burst_bytes.into()));
    let mut parms = [0; PARMS_BYTES];
    parms[LINK_LAYER.0] = LINK_LAYER.1;
    parms[RATE].copy_from_slice(&saturated(shape.rate_bytes).to_ne_bytes());
    parms[LIMIT].copy_from_slice(&limit.to_ne_bytes());
    let mut options = vec![
        DefaultNla::new(TCA_TBF_PARMS, parms.to_vec()),
        DefaultNla::new(TCA_TBF_BURST, shape.burst_bytes.to_ne_bytes().to_vec()),
    ];
    if shape.rate_bytes >= u64::from(u32::MAX) {
        options.push(DefaultNla::new(
            TCA_TBF_RATE64,
            shape.rate_bytes.to_ne_bytes().to_vec(),
        ));
    }
    let mut bytes = vec![0; options.as_slice().buffer_len()];
    options.as_slice().emit(&mut bytes);
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = TcHandle::ROOT;
    message.header.handle = TcHandle { major: 1, minor: 0 };
    message.attributes = vec![
        TcAttribute::Kind(KIND.to_owned()),
        TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, bytes)),
    ];
    message
}

/// The bucket in front of the interface, if this is it. The burst is not told in bytes and left at zero.
pub(crate) fn parse(index: u32, message: &TcMessage) -> Option<Shape> {
    if message.header.index != index as i32 || message.header.parent != TcHandle::ROOT {
        return None;
    }
    if !message.attributes.contains(&TcAttribute::Kind(KIND.to_owned())) {
        return None;
    }
    let options = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => options.iter().find_map(|option| match option {
            TcOption::Other(nla) => Some(nla),
            _ => None,
        }),
        _ => None,
    })?;
    let mut bytes = vec![0; netlink_packet_core::Nla::value_len(options)];
    netlink_packet_core::Nla::emit_value(options, &mut bytes);
    let (mut rate, mut rate64) = (None, None);
    for nla in NlasIterator::new(&bytes).flatten() {
        match nla.kind() {
            TCA_TBF_PARMS => rate = nla.value().get(RATE)?.try_into().ok().map(u32::from_ne_bytes),
            TCA_TBF_RATE64 => rate64 = nla.value().try_into().ok().map(u64::from_ne_bytes),
            _ => {}
        }
    }
    Some(Shape {
        rate_bytes: rate64.or(rate.map(u64::from))?,
        burst_bytes: 0,
    })
}
