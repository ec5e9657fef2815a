//! gRPC probes: `grpc.health.v1.Health/Check`.

use std::{net::IpAddr, time::Duration};

use http::uri::PathAndQuery;
use tonic::{Code, transport::Endpoint};
use tonic_prost::ProstCodec;

use super::check::{Answer, host_port};

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// The only answer that counts as healthy.
const SERVING: i32 = 1;

/// Asks the health service of a pod's port.
pub(super) async fn check(pod_ip: IpAddr, port: u16, service: &str, timeout: Duration) -> Answer {
    let address = host_port(None, pod_ip, port);
    let endpoint = match Endpoint::from_shared(format!("http://{address}"))
        .and_then(|endpoint| endpoint.user_agent(super::http_get::USER_AGENT))
    {
        Ok(endpoint) => endpoint,
        Err(error) => return Answer::Errored(error.to_string()),
    };
    let deadline = tokio::time::Instant::now() + timeout;
    let channel = match tokio::time::timeout_at(deadline, endpoint.connect()).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(_)) | Err(_) => {
            return Answer::Failure(format!(
                "timeout: failed to connect service \"{address}\" within {}s: context deadline exceeded",
                timeout.as_secs()
            ));
        }
    };
    let mut client = tonic::client::Grpc::new(channel);
    let request = tonic::Request::new(HealthCheckRequest {
        service: service.to_owned(),
    });
    let call = async {
        client
            .ready()
            .await
            .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let codec: ProstCodec<HealthCheckRequest, HealthCheckResponse> = ProstCodec::default();
        client.unary(request, path, codec).await
    };
    match tokio::time::timeout_at(deadline, call).await {
        Ok(Ok(response)) => verdict(response.get_ref().status),
        Ok(Err(status)) if status.code() == Code::Unimplemented => Answer::Failure(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            status.message()
        )),
        Ok(Err(status)) if status.code() != Code::DeadlineExceeded => Answer::Failure(format!(
            "error: health rpc probe failed: rpc error: code = {:?} desc = {}",
            status.code(),
            status.message()
        )),
        Ok(Err(_)) | Err(_) => Answer::Failure(format!(
            "timeout: health rpc did not complete within {}s",
            timeout.as_secs()
        )),
    }
}

fn verdict(status: i32) -> Answer {
    let name = match status {
        SERVING => return Answer::Success,
        0 => "UNKNOWN".to_owned(),
        2 => "NOT_SERVING".to_owned(),
        3 => "SERVICE_UNKNOWN".to_owned(),
        other => other.to_string(),
    };
    Answer::Failure(format!("service unhealthy (responded with \"{name}\")"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        assert_eq!(verdict(1), Answer::Success);
        let rows = [(0, "UNKNOWN"), (2, "NOT_SERVING"), (9, "9")];
        for (status, name) in rows {
            let expect = format!("service unhealthy (responded with \"{name}\")");
            assert_eq!(verdict(status), Answer::Failure(expect));
        }
    }
}
