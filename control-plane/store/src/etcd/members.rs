//! The cluster's members: which one is asked, and what a failed request means.
//!
//! Each member has a connection of its own, made when it is needed. All requests go to one member until it fails, then to
//! the next. A balancer that spreads requests over all members would send a share of them to one that is down.

use std::{
    future::Future,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;
use tonic::{
    Code, Status,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};

use super::{
    EtcdOptions, EtcdTls,
    api::{Api, RangeRequest, RangeResponse, ResponseHeader, ResponseOp},
    responses::revision,
};
use crate::{Error, EtcdFailure, Result, Revision};

/// How long one member may take. An etcd without a leader answers within 7 s itself.
const ATTEMPT: Duration = Duration::from_secs(8);
/// The pause after all members have failed.
const PAUSE: Duration = Duration::from_millis(100);

/// One member.
struct Member {
    endpoint: Arc<str>,
    api: Api,
}

/// All members.
pub(super) struct Members {
    members: Vec<Member>,
    /// The member that answered last.
    preferred: AtomicUsize,
    patience: Duration,
    /// A key that may be read without being there.
    probe_key: Bytes,
}

impl std::fmt::Debug for Members {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.members.iter().map(|member| &member.endpoint))
            .finish()
    }
}

impl Members {
    /// Checks the options; nothing is sent yet.
    pub(super) fn new(options: &EtcdOptions) -> Result<Members> {
        let tls = options.tls.as_ref().map(read_tls).transpose()?;
        let refused = |endpoint: &str, failure| Error::Etcd {
            endpoint: endpoint.into(),
            operation: "be connected to",
            source: Arc::new(failure),
        };
        let mut members = Vec::new();
        for endpoint in &options.endpoints {
            let api = connection(endpoint, tls.as_ref())
                .map_err(|error| refused(endpoint, EtcdFailure::Connection(error)))?;
            members.push(Member {
                endpoint: endpoint.as_str().into(),
                api,
            });
        }
        if members.is_empty() {
            let failure = EtcdFailure::Malformed("the list of servers is empty");
            return Err(refused("no endpoint", failure));
        }
        Ok(Members {
            members,
            preferred: AtomicUsize::new(0),
            patience: options.patience,
            probe_key: format!("{}/health", options.prefix.trim_end_matches('/')).into(),
        })
    }

    /// The newest revision of the cluster.
    pub(super) async fn revision(&self) -> Result<Revision> {
        let operation = "tell its revision";
        let request = RangeRequest {
            key: self.probe_key.clone(),
            keys_only: true,
            ..RangeRequest::default()
        };
        let answer = self.read(operation, |api| api.range(request.clone())).await?;
        header_revision(answer.header.as_ref()).map_err(|failure| self.failed(operation, failure))
    }

    /// A key that may be read, and need not exist.
    pub(super) fn probe_key(&self) -> Bytes {
        self.probe_key.clone()
    }

    /// A request that may be sent twice.
    pub(super) async fn read<T, F>(&self, operation: &'static str, request: impl Fn(Api) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, Status>>,
    {
        self.ask(operation, true, request).await
    }

    /// A request that goes to a second member only if the first has certainly not executed it.
    pub(super) async fn write<T, F>(&self, operation: &'static str, request: impl Fn(Api) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, Status>>,
    {
        self.ask(operation, false, request).await
    }

    async fn ask<T, F>(
        &self,
        operation: &'static str,
        repeatable: bool,
        request: impl Fn(Api) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let deadline = Instant::now() + self.patience;
        let mut failures = 0;
        loop {
            let index = self.preferred.load(Ordering::Relaxed) % self.members.len();
            let member = &self.members[index];
            let (failure, meaning) = match tokio::time::timeout(ATTEMPT, request(member.api.clone())).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => {
                    let meaning = Meaning::of(&status);
                    (EtcdFailure::Status(status), meaning)
                }
                Err(_) => (EtcdFailure::Timeout(ATTEMPT), Meaning::Unknown),
            };
            let next = (index + 1) % self.members.len();
            if meaning != Meaning::Refused {
                tracing::debug!(endpoint = %member.endpoint, %failure, "etcd member failed");
                // Whoever failed at the same time has moved on already.
                let _ = self
                    .preferred
                    .compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
            }
            let again = match meaning {
                Meaning::Refused => false,
                Meaning::NotExecuted => true,
                Meaning::Unknown => repeatable,
            };
            if !again || Instant::now() >= deadline {
                return Err(Error::Etcd {
                    endpoint: member.endpoint.clone(),
                    operation,
                    source: Arc::new(failure),
                });
            }
            failures += 1;
            if failures % self.members.len() == 0 {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// An answer that came but cannot be used.
    pub(super) fn failed(&self, operation: &'static str, failure: EtcdFailure) -> Error {
        let index = self.preferred.load(Ordering::Relaxed) % self.members.len();
        Error::Etcd {
            endpoint: self.members[index].endpoint.clone(),
            operation,
            source: Arc::new(failure),
        }
    }
}

/// What a failed request tells about its execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// The cluster has decided; asking again gives the same answer.
    Refused,
    /// It did not reach the cluster's log.
    NotExecuted,
    /// It may have been executed, or may be yet.
    Unknown,
}

impl Meaning {
    fn of(status: &Status) -> Meaning {
        let before_executing = ["etcdserver: no leader", "etcdserver: too many requests"];
        if before_executing.contains(&status.message()) || never_connected(status) {
            return Meaning::NotExecuted;
        }
        match status.code() {
            Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled | Code::DeadlineExceeded => {
                Meaning::Unknown
            }
            _ => Meaning::Refused,
        }
    }
}

fn never_connected(status: &Status) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Which way a revision was out of etcd's range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OutOfRange {
    Compacted,
    Future,
}

/// Whether the error is that of a revision etcd cannot serve.
pub(super) fn out_of_range(error: &Error) -> Option<OutOfRange> {
    let Error::Etcd { source, .. } = error else {
        return None;
    };
    let EtcdFailure::Status(status) = &**source else {
        return None;
    };
    match status.code() {
        Code::OutOfRange if status.message().contains("compacted") => Some(OutOfRange::Compacted),
        Code::OutOfRange if status.message().contains("future") => Some(OutOfRange::Future),
        _ => None,
    }
}

/// Whether a put named a lease that is no more.
pub(super) fn is_unknown_lease(failure: &EtcdFailure) -> bool {
    matches!(failure, EtcdFailure::Status(status) if status.code() == Code::NotFound)
}

/// The store's revision, which comes with every answer.
pub(super) fn header_revision(header: Option<&ResponseHeader>) -> Result<Revision, EtcdFailure> {
    let header = header.ok_or(EtcdFailure::Malformed("it has no header"))?;
    revision(header.revision)
}

/// The read that a transaction falls back to.
pub(super) fn first_range(responses: Vec<ResponseOp>) -> Result<RangeResponse, EtcdFailure> {
    let first = responses.into_iter().next().and_then(|response| response.range);
    first.ok_or(EtcdFailure::Malformed(
        "a failed transaction does not tell the key",
    ))
}

fn connection(endpoint: &str, tls: Option<&ClientTlsConfig>) -> Result<Api, tonic::transport::Error> {
    let mut server = Endpoint::from_shared(endpoint.to_owned())?
        .connect_timeout(Duration::from_secs(2))
        // Upstream's: a member that vanished without a word is noticed after 40 s.
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    if let Some(tls) = tls
        && server.uri().scheme_str() == Some("https")
    {
        server = server.tls_config(tls.clone())?;
    }
    Ok(Api::new(server.connect_lazy()))
}

fn read_tls(tls: &EtcdTls) -> Result<ClientTlsConfig> {
    let mut options = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&tls.ca_file)?));
    if let Some((certificate, key)) = &tls.client_files {
        options = options.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(options)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| Error::ReadFile {
        path: path.to_owned(),
        source: Arc::new(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meaning_of_failures() {
        for (code, message, expected) in [
            (Code::Unavailable, "etcdserver: no leader", Meaning::NotExecuted),
            (
                Code::Unavailable,
                "etcdserver: request timed out",
                Meaning::Unknown,
            ),
            (Code::Unavailable, "etcdserver: leader changed", Meaning::Unknown),
            (Code::Unknown, "transport error", Meaning::Unknown),
            (
                Code::ResourceExhausted,
                "etcdserver: too many requests",
                Meaning::NotExecuted,
            ),
            (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
                Meaning::Refused,
            ),
            (
                Code::NotFound,
                "etcdserver: requested lease not found",
                Meaning::Refused,
            ),
        ] {
            assert_eq!(Meaning::of(&Status::new(code, message)), expected, "{message}");
        }
        let mut refused = Status::new(Code::Unavailable, "tcp connect error");
        refused.set_source(Arc::new(tonic::ConnectError("refused".into())));
        assert_eq!(Meaning::of(&refused), Meaning::NotExecuted);
    }
}
