//! Makes etcd forget old history, in turns with every other API server of the cluster.
//!
//! The protocol is upstream's, so that ours and theirs can run side by side: one key, outside everybody's prefix, is written
//! by whoever finds it as it was an interval ago. That one compacts up to where the cluster was then; the others have
//! learned that it was done and when, and try again an interval later.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    Shared,
    api::{Compare, Operation, PutRequest, RangeRequest, TxnRequest, TxnResponse},
    members,
};
use crate::{EtcdFailure, Result, Revision};

const KEY: Bytes = Bytes::from_static(b"compact_rev_key");

/// What is known from an interval ago.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Turn {
    /// The version of the key: how many compactions there were.
    version: i64,
    /// The cluster's revision then; 0 when nothing is known yet.
    revision: Revision,
}

/// Runs without end.
pub(super) async fn run(shared: Arc<Shared>, interval: Duration) {
    let mut turn = Turn::default();
    loop {
        tokio::time::sleep(interval).await;
        match step(&shared, turn).await {
            Ok(next) => turn = next,
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "history was not compacted, trying again"
            ),
        }
    }
}

async fn step(shared: &Shared, turn: Turn) -> Result<Turn> {
    let operation = "take part in the compaction";
    let put = PutRequest {
        key: KEY,
        value: turn.revision.to_string().into(),
        ..PutRequest::default()
    };
    let get = RangeRequest {
        key: KEY,
        ..RangeRequest::default()
    };
    let transaction = TxnRequest {
        compare: vec![Compare::version(KEY, turn.version)],
        success: vec![Operation::Put(put).into()],
        failure: vec![Operation::Range(get).into()],
    };
    let answer = shared
        .members
        .write(operation, |api| api.txn(transaction.clone()))
        .await?;
    let (next, compact) = plan(turn, answer).map_err(|failure| shared.members.failed(operation, failure))?;
    if let Some(revision) = compact {
        shared.compact(revision).await?;
        tracing::debug!(revision, "history compacted");
    }
    Ok(next)
}

/// The next turn, and up to where to compact, if it is ours to do.
fn plan(turn: Turn, answer: TxnResponse) -> Result<(Turn, Option<Revision>), EtcdFailure> {
    let revision = members::header_revision(answer.header.as_ref())?;
    if answer.succeeded {
        let version = turn.version.saturating_add(1);
        return Ok((
            Turn { version, revision },
            (turn.revision > 0).then_some(turn.revision),
        ));
    }
    let range = members::first_range(answer.responses)?;
    // It may have been deleted, which makes its version 0.
    let version = range.kvs.first().map_or(0, |found| found.version);
    Ok((Turn { version, revision }, None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::api::{KeyValue, RangeResponse, ResponseHeader, ResponseOp};

    fn answer(revision: i64, others_version: Option<i64>) -> TxnResponse {
        let range = others_version.map(|version| RangeResponse {
            kvs: vec![KeyValue {
                version,
                ..KeyValue::default()
            }],
            ..RangeResponse::default()
        });
        TxnResponse {
            header: Some(ResponseHeader { revision }),
            succeeded: range.is_none(),
            responses: vec![ResponseOp { range }],
        }
    }

    #[test]
    fn turns_go_round() {
        let turn = |version, revision| Turn { version, revision };
        // The first of all: writes the key, knows no revision yet.
        assert_eq!(
            plan(Turn::default(), answer(10, None)).unwrap(),
            (turn(1, 10), None)
        );
        // Its next turn.
        assert_eq!(
            plan(turn(1, 10), answer(20, None)).unwrap(),
            (turn(2, 20), Some(10))
        );
        // One that starts now learns how things stand, and one that others were faster than learns it again.
        assert_eq!(
            plan(Turn::default(), answer(25, Some(2))).unwrap(),
            (turn(2, 25), None)
        );
        assert_eq!(
            plan(turn(2, 25), answer(30, Some(3))).unwrap(),
            (turn(3, 30), None)
        );
        assert!(plan(Turn::default(), TxnResponse::default()).is_err());
    }
}
