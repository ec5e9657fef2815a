//! HTTP probes.
//!
//! One connection per request, closed afterwards; certificates are not verified, since a pod's certificate says nothing
//! about its health. Redirects are followed on the same host only: following others would let a pod send the kubelet
//! anywhere.

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::AbortOnDropHandle;

use super::check::{Answer, dial, host_port, text};

/// How probes present themselves.
pub(super) const USER_AGENT: &str = "kube-probe/1.37";
/// How lifecycle hooks present themselves.
const HOOK_USER_AGENT: &str = "kube-lifecycle/1.37";
const REDIRECTS_MAX: usize = 10;
const BODY_BYTES_MAX: usize = 10 * 1024;

/// A response as far as a probe reads it.
struct Answered {
    status: StatusCode,
    location: Option<String>,
    body: Vec<u8>,
}

/// Sends the request and judges the answer: 200 to 399 is a success.
pub(super) async fn check(action: &HTTPGetAction, pod_ip: IpAddr, port: u16, timeout: Duration) -> Answer {
    let (start, headers) = match prepare(action, pod_ip, port, USER_AGENT) {
        Ok(prepared) => prepared,
        Err(error) => return Answer::Errored(error),
    };
    match tokio::time::timeout(timeout, follow(&start, &headers, pod_ip, timeout)).await {
        Ok(answer) => answer,
        Err(_) => Answer::Failure(timed_out(&start)),
    }
}

/// Sends a lifecycle hook's request. Any answer will do, as upstream has it; redirects are not followed.
pub(super) async fn send(
    action: &HTTPGetAction,
    pod_ip: IpAddr,
    port: u16,
    timeout: Duration,
) -> Result<(), String> {
    let (target, headers) = prepare(action, pod_ip, port, HOOK_USER_AGENT)?;
    match tokio::time::timeout(timeout, get(&target, &headers, pod_ip, timeout)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("Get \"{target}\": {error}")),
        Err(_) => Err(timed_out(&target)),
    }
}

fn timed_out(target: &Uri) -> String {
    format!("Get \"{target}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)")
}

/// Where the request goes and what it carries.
fn prepare(
    action: &HTTPGetAction,
    pod_ip: IpAddr,
    port: u16,
    user_agent: &'static str,
) -> Result<(Uri, HeaderMap), String> {
    let host = action.host.clone().filter(|host| !host.is_empty());
    let https = action
        .scheme
        .as_deref()
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    let scheme = if https { "https" } else { "http" };
    let path = action.path.as_deref().unwrap_or_default();
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let target = format!("{scheme}://{}{path}", host_port(host.as_deref(), pod_ip, port));
    let target = target
        .parse()
        .map_err(|error| format!("parse \"{target}\": {error}"))?;
    Ok((target, headers(action, user_agent)?))
}

async fn follow(start: &Uri, headers: &HeaderMap, pod_ip: IpAddr, timeout: Duration) -> Answer {
    let mut target = start.clone();
    for _ in 0..=REDIRECTS_MAX {
        let answered = match get(&target, headers, pod_ip, timeout).await {
            Ok(answered) => answered,
            Err(error) => return Answer::Failure(format!("Get \"{target}\": {error}")),
        };
        let redirect = answered
            .location
            .as_deref()
            .filter(|_| is_redirect(answered.status))
            .and_then(|location| resolve(&target, location));
        match redirect {
            None => return verdict(&answered),
            Some(next) if next.host() == start.host() => target = next,
            Some(_) => {
                return Answer::Warning(format!(
                    "Probe terminated redirects, Response body: {}",
                    text(&answered.body)
                ));
            }
        }
    }
    Answer::Failure(format!(
        "Get \"{target}\": stopped after {REDIRECTS_MAX} redirects"
    ))
}

fn verdict(answered: &Answered) -> Answer {
    if (200..400).contains(&answered.status.as_u16()) {
        Answer::Success
    } else {
        Answer::Failure(format!(
            "HTTP probe failed with statuscode: {}",
            answered.status.as_u16()
        ))
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// The target of a redirect: an absolute URL, or a path on the same server.
fn resolve(from: &Uri, location: &str) -> Option<Uri> {
    let scheme = from.scheme_str()?;
    let authority = from.authority()?;
    let absolute = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.contains("://") {
        location.to_owned()
    } else {
        let directory = from
            .path()
            .rsplit_once('/')
            .map_or("", |(directory, _)| directory);
        format!("{scheme}://{authority}{directory}/{location}")
    };
    absolute.parse().ok()
}

/// The action's headers over the defaults. An empty `Accept` or `User-Agent` leaves that header out.
fn headers(action: &HTTPGetAction, user_agent: &'static str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for given in action.http_headers.iter().flatten() {
        let name = HeaderName::try_from(given.name.as_str())
            .map_err(|_| format!("invalid header name \"{}\"", given.name))?;
        let value = HeaderValue::try_from(given.value.as_str())
            .map_err(|_| format!("invalid value of header \"{}\"", given.name))?;
        headers.append(name, value);
    }
    for (name, default) in [(header::USER_AGENT, user_agent), (header::ACCEPT, "*/*")] {
        match headers.get(&name) {
            None => {
                headers.insert(name, HeaderValue::from_static(default));
            }
            Some(value) if value.is_empty() => {
                headers.remove(&name);
            }
            Some(_) => {}
        }
    }
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(headers)
}

async fn get(
    target: &Uri,
    headers: &HeaderMap,
    pod_ip: IpAddr,
    timeout: Duration,
) -> Result<Answered, String> {
    let https = target.scheme_str() == Some("https");
    let port = target.port_u16().unwrap_or(if https { 443 } else { 80 });
    let host = target
        .host()
        .unwrap_or_default()
        .trim_matches(['[', ']'])
        .to_owned();
    let stream = dial(
        Some(&host)
            .filter(|host| **host != pod_ip.to_string())
            .map(String::as_str),
        pod_ip,
        port,
        timeout,
    )
    .await?;
    let mut request = Request::get(target.path_and_query().map_or("/", |path| path.as_str()))
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    *request.headers_mut() = headers.clone();
    if !headers.contains_key(header::HOST)
        && let Some(authority) = target.authority()
        && let Ok(value) = HeaderValue::try_from(authority.as_str())
    {
        request.headers_mut().insert(header::HOST, value);
    }
    if https {
        let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(trusting_tls());
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(|error| error.to_string())?;
        exchange(stream, request).await
    } else {
        exchange(stream, request).await
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<Answered, String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| go_error(&error))?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(async move {
        // Its errors reach us through the request.
        let _ = connection.await;
    }));
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| go_error(&error))?;
    let status = response.status();
    let location = response
        .headers()
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let mut body = Vec::new();
    let mut incoming = response.into_body();
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|error| go_error(&error))?;
        if let Some(data) = frame.data_ref() {
            body.extend_from_slice(&data[..data.len().min(BODY_BYTES_MAX - body.len())]);
        }
        if body.len() >= BODY_BYTES_MAX {
            break;
        }
    }
    Ok(Answered {
        status,
        location,
        body,
    })
}

/// A connection that ends early is `EOF` to whoever knows kubelet events.
fn go_error(error: &hyper::Error) -> String {
    if error.is_incomplete_message() {
        "EOF".into()
    } else {
        error.to_string()
    }
}

/// TLS that takes any certificate, made once: every handshake shares its parts.
fn trusting_tls() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    CONFIG
        .get_or_init(|| {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let verifier = Arc::new(AnyCertificate(provider.clone()));
            let versions = rustls::ALL_VERSIONS;
            let config = ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(versions)
                .expect("ring supports every version rustls knows")
                .dangerous()
                .with_custom_certificate_verifier(verifier)
                .with_no_client_auth();
            Arc::new(config)
        })
        .clone()
}

/// Accepts every certificate but still checks that the server holds its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::HTTPHeader;

    use super::*;

    #[test]
    fn redirects() {
        let from: Uri = "http://10.0.0.1:80/a/b".parse().expect("a URI");
        let rows = [
            ("/x", "http://10.0.0.1:80/x"),
            ("x", "http://10.0.0.1:80/a/x"),
            ("https://10.0.0.1/y", "https://10.0.0.1/y"),
            ("//other/z", "http://other/z"),
        ];
        for (location, expect) in rows {
            assert_eq!(
                resolve(&from, location).map(|uri| uri.to_string()).as_deref(),
                Some(expect)
            );
        }
    }

    #[test]
    fn default_headers_and_overrides() {
        let action = |given: &[(&str, &str)]| HTTPGetAction {
            http_headers: Some(
                given
                    .iter()
                    .map(|(name, value)| HTTPHeader {
                        name: (*name).into(),
                        value: (*value).into(),
                    })
                    .collect(),
            ),
            ..Default::default()
        };
        let plain = headers(&action(&[]), USER_AGENT).expect("headers");
        assert_eq!(plain[header::USER_AGENT], USER_AGENT);
        assert_eq!(plain[header::ACCEPT], "*/*");
        let given = action(&[("User-Agent", "x"), ("Accept", ""), ("X-A", "1"), ("X-A", "2")]);
        let given = headers(&given, USER_AGENT).expect("headers");
        assert_eq!(given[header::USER_AGENT], "x");
        assert!(!given.contains_key(header::ACCEPT));
        assert_eq!(given.get_all("x-a").iter().count(), 2);
        assert!(headers(&action(&[("bad name", "x")]), USER_AGENT).is_err());
    }
}
