//! etcd's answers, as any bytes that a server might send.

use bytes::Buf;
use prost::Message;

use super::{
    api::{RangeResponse, TxnResponse, WatchResponse},
    keyspace::Keyspace,
    responses::{Assembler, key_value},
};

/// Messages with their lengths before them: the first byte says whether they are answers to a watch, a range or a
/// transaction.
pub fn etcd_responses(data: &[u8]) {
    let Some((kind, mut messages)) = data.split_first() else {
        return;
    };
    let keyspace = Keyspace::new("/registry");
    match kind % 3 {
        0 => watch(messages, &keyspace),
        1 => {
            while let Some(response) = next::<RangeResponse>(&mut messages) {
                for item in response.kvs {
                    if let Some(key) = keyspace.ours(&item.key) {
                        let _item = key_value(item, key);
                    }
                }
            }
        }
        _ => while next::<TxnResponse>(&mut messages).is_some() {},
    }
}

/// Events come in order, each revision once and whole.
fn watch(mut messages: &[u8], keyspace: &Keyspace) {
    let mut told = 1;
    let mut assembler = Assembler::new(told);
    while let Some(response) = next::<WatchResponse>(&mut messages) {
        let Ok(batch) = assembler.accept(response, keyspace) else {
            return;
        };
        let Some(batch) = batch else { continue };
        assert!(batch.revision > told);
        let mut last = told;
        for event in &batch.events {
            assert!(
                event.revision() > told && event.revision() >= last && event.revision() <= batch.revision
            );
            last = event.revision();
        }
        told = batch.revision;
    }
}

fn next<M: Message + Default>(messages: &mut &[u8]) -> Option<M> {
    if !messages.has_remaining() {
        return None;
    }
    M::decode_length_delimited(messages).ok()
}
