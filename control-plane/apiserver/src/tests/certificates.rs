//! Requests for certificates through their subresources: who may say what, when, and what nobody may say any more.

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer, KeyPair,
};
use serde_json::{Value, json};

use super::Fixture;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const OF_PODS: &str = "/apis/certificates.k8s.io/v1/namespaces/default/podcertificaterequests";

/// A request for a certificate with a new key.
fn request(organization: &str) -> rcgen::CertificateSigningRequest {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.distinguished_name.push(DnType::CommonName, "someone");
    parameters
        .distinguished_name
        .push(DnType::OrganizationName, organization);
    parameters
        .serialize_request(&KeyPair::generate().unwrap())
        .unwrap()
}

fn signing_request(name: &str, signer: &str, organization: &str) -> Value {
    let pem = request(organization).pem().unwrap();
    json!({"metadata": {"name": name}, "spec": {
        "request": STANDARD.encode(pem), "signerName": signer, "usages": ["client auth"], "username": "root",
    }})
}

/// An authority, which signs for as long as it is told to.
struct Authority(Issuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(Issuer::new(parameters, KeyPair::generate().unwrap()))
    }

    /// A certificate in PEM.
    fn sign(&self, request: &rcgen::CertificateSigningRequest, from: Timestamp, until: Timestamp) -> String {
        let mut asked = CertificateSigningRequestParams::from_der(request.der()).unwrap();
        let time = |at: Timestamp| {
            (std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(at.as_second() as u64)).into()
        };
        asked.params.not_before = time(from);
        asked.params.not_after = time(until);
        asked.signed_by(&self.0).unwrap().pem()
    }
}

fn messages(status: &Value) -> Vec<String> {
    let causes = status["details"]["causes"].as_array().into_iter().flatten();
    causes
        .map(|cause| {
            format!(
                "{}: {}",
                cause["field"].as_str().unwrap(),
                cause["message"].as_str().unwrap()
            )
        })
        .collect()
}

#[tokio::test]
async fn an_approval_is_of_what_was_asked_for() {
    let fixture = Fixture::new().await;
    let created = fixture
        .ok("POST", REQUESTS, signing_request("a", "example.com/s", "dev"))
        .await;
    assert_eq!(created["spec"]["username"], "admin");
    let path = format!("{REQUESTS}/a");

    // The request itself stays what it is, whichever way it is written.
    let other = signing_request("a", "example.com/other", "ops")["spec"].clone();
    let mut changed = created.clone();
    changed["spec"] = other;
    changed["status"] =
        json!({"certificate": "eA==", "conditions": [{"type": "Approved", "status": "True"}]});
    changed["metadata"]["labels"] = json!({"a": "b"});
    let put = fixture.ok("PUT", &path, changed.clone()).await;
    assert_eq!(put["spec"], created["spec"]);
    assert_eq!(put["status"], created["status"]);
    assert_eq!(put["metadata"]["labels"], json!({"a": "b"}));

    // Who signs cannot approve.
    changed["metadata"]["resourceVersion"] = Value::Null;
    changed["status"] = json!({"conditions": [{"type": "Approved", "status": "True"}]});
    let (code, refused) = fixture
        .call("PUT", &format!("{path}/status"), changed.clone())
        .await;
    assert_eq!(code, 422, "{refused}");
    assert_eq!(
        messages(&refused),
        ["status.conditions: Forbidden: updates may not add a condition of type \"Approved\""]
    );

    // Who approves cannot sign, and is told when.
    changed["status"]["certificate"] = "eA==".into();
    let approved = fixture
        .ok("PUT", &format!("{path}/approval"), changed.clone())
        .await;
    assert_eq!(approved["spec"], created["spec"]);
    assert!(approved["status"]["certificate"].is_null(), "{approved}");
    let condition = &approved["status"]["conditions"][0];
    assert_eq!(
        (condition["type"].as_str(), condition["status"].as_str()),
        (Some("Approved"), Some("True"))
    );
    assert!(condition["lastUpdateTime"].is_string() && condition["lastTransitionTime"].is_string());
    for (status, expect) in [
        (
            json!({"conditions": []}),
            "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\"",
        ),
        (
            json!({"conditions": [condition.clone(), {"type": "Denied", "status": "True"}]}),
            "status.conditions[1].type: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive",
        ),
        (
            json!({"conditions": [{"type": "Approved", "status": "False"}]}),
            "status.conditions[0].status: Unsupported value: \"False\": supported values: \"True\"",
        ),
    ] {
        changed["status"] = status;
        let (code, refused) = fixture
            .call("PUT", &format!("{path}/approval"), changed.clone())
            .await;
        assert_eq!(
            (code, messages(&refused)),
            (422, vec![expect.to_owned()]),
            "{refused}"
        );
    }

    // The signer may word the approval otherwise, which changes nothing, but not leave it out.
    let certificate = Authority::new().sign(
        &request("dev"),
        Timestamp::now(),
        Timestamp::now() + SignedDuration::from_hours(2),
    );
    let certificate = STANDARD.encode(certificate);
    changed["status"] = json!({"certificate": certificate, "conditions": []});
    let (code, refused) = fixture
        .call("PUT", &format!("{path}/status"), changed.clone())
        .await;
    assert_eq!(code, 422, "{refused}");
    changed["status"]["conditions"] = json!([{"type": "Approved", "status": "True", "reason": "Mine"}]);
    changed["status"]["certificate"] = "eA==".into();
    let (code, refused) = fixture
        .call("PUT", &format!("{path}/status"), changed.clone())
        .await;
    assert_eq!(
        (code, messages(&refused)),
        (
            422,
            vec!["status.certificate: Invalid value: \"<certificate data>\": must contain at least one CERTIFICATE PEM block".to_owned()]
        )
    );
    changed["status"]["certificate"] = certificate.clone().into();
    let signed = fixture
        .ok("PUT", &format!("{path}/status"), changed.clone())
        .await;
    assert_eq!(signed["status"]["conditions"], approved["status"]["conditions"]);
    assert_eq!(signed["status"]["certificate"], certificate);
    let more = STANDARD.encode(format!(
        "{}{}",
        "a note\n",
        String::from_utf8(STANDARD.decode(&certificate).unwrap()).unwrap()
    ));
    changed["status"]["certificate"] = more.into();
    let (code, refused) = fixture.call("PUT", &format!("{path}/status"), changed).await;
    assert_eq!(
        (code, messages(&refused)),
        (
            422,
            vec![
                "status.certificate: Forbidden: updates may not modify existing certificate content"
                    .to_owned()
            ]
        )
    );
}

#[tokio::test]
async fn masters_are_made_by_hand() {
    let fixture = Fixture::new().await;
    for (signer, organization, expect) in [
        ("kubernetes.io/kube-apiserver-client", "system:masters", 403),
        ("kubernetes.io/kube-apiserver-client", "dev", 201),
        ("example.com/s", "system:masters", 201),
    ] {
        let name = format!("a{expect}{}", signer.len());
        let (code, status) = fixture
            .call("POST", REQUESTS, signing_request(&name, signer, organization))
            .await;
        assert_eq!(code, expect, "{status}");
        if code == 403 {
            assert_eq!(
                status["message"],
                format!(
                    "certificatesigningrequests.certificates.k8s.io \"{name}\" is forbidden: use of \
                     kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"
                )
            );
        }
    }
}

#[tokio::test]
async fn a_pods_certificate_is_for_its_key() {
    let fixture = Fixture::new().await;
    let asked = request("pods");
    let object = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {
            "signerName": "example.com/s", "podName": "p", "podUID": "1", "serviceAccountName": "s",
            "serviceAccountUID": "2", "nodeName": "n", "nodeUID": "3", "maxExpirationSeconds": 7200,
            "stubPKCS10Request": STANDARD.encode(asked.der()),
        }})
    };
    let created = fixture.ok("POST", OF_PODS, object("a")).await;
    let mut forged = object("b");
    let mut der = asked.der().to_vec();
    *der.last_mut().unwrap() ^= 1;
    forged["spec"]["stubPKCS10Request"] = STANDARD.encode(der).into();
    let (code, refused) = fixture.call("POST", OF_PODS, forged).await;
    assert_eq!(
        (code, messages(&refused)),
        (
            422,
            vec![
                "spec.stubPKCS10Request: Invalid value: could not verify proof-of-possession signature"
                    .to_owned()
            ]
        )
    );
    let mut changed = created.clone();
    changed["spec"]["podName"] = "q".into();
    let (code, refused) = fixture.call("PUT", &format!("{OF_PODS}/a"), changed).await;
    assert_eq!(
        (code, refused["details"]["causes"][0]["field"].as_str()),
        (422, Some("spec"))
    );

    let authority = Authority::new();
    let (now, hour) = (
        Timestamp::from_second(Timestamp::now().as_second()).unwrap(),
        SignedDuration::from_hours(1),
    );
    let minutes = SignedDuration::from_mins;
    let show = api::meta::format_time;
    let issued = json!([{"type": "Issued", "status": "True", "reason": "Signed", "message": "", "lastTransitionTime": show(now)}]);
    let answer = |chain: &str, from: Timestamp, until: Timestamp, refresh: Timestamp| {
        json!({
            "certificateChain": chain, "conditions": issued,
            "notBefore": show(from), "notAfter": show(until), "beginRefreshAt": show(refresh),
        })
    };
    let chain = |until: SignedDuration| authority.sign(&asked, now, now + until);
    let good = answer(&chain(hour), now, now + hour, now + minutes(30));
    let without = |field: &str| {
        let mut status = good.clone();
        status.as_object_mut().unwrap().remove(field);
        status
    };
    let set = async |status: Value| {
        let mut object = created.clone();
        object["status"] = status;
        object["metadata"]["resourceVersion"] =
            fixture.ok("GET", &format!("{OF_PODS}/a"), None).await["metadata"]["resourceVersion"].clone();
        fixture.call("PUT", &format!("{OF_PODS}/a/status"), object).await
    };
    let others = authority.sign(&request("pods"), now, now + hour);
    for (status, expect) in [
        (
            without("conditions"),
            "status: Invalid value: status is immutable unless",
        ),
        (
            without("certificateChain"),
            "issued certificate chain must contain at least one certificate",
        ),
        (without("notBefore"), "status.notBefore: Required value"),
        (without("beginRefreshAt"), "status.beginRefreshAt: Required value"),
        (
            answer(&others, now, now + hour, now + minutes(30)),
            "leaf certificate was not issued to the requested public key",
        ),
        (
            answer(&chain(hour), now, now + hour + minutes(1), now + minutes(30)),
            "must be set to the NotAfter time encoded in the leaf certificate",
        ),
        (
            answer(&chain(minutes(59)), now, now + minutes(59), now + minutes(30)),
            "leaf certificate lifetime must be >= 1 hour",
        ),
        (
            answer(&chain(hour * 3), now, now + hour * 3, now + minutes(30)),
            "leaf certificate lifetime must be <= spec.maxExpirationSeconds (7200)",
        ),
        (
            answer(&chain(hour), now, now + hour, now + minutes(9)),
            "must be at least 10 minutes after status.notBefore",
        ),
        (
            answer(&chain(hour), now, now + hour, now + minutes(51)),
            "must be at least 10 minutes before status.notAfter",
        ),
        (
            {
                let from = now - hour;
                answer(&authority.sign(&asked, from, now + hour), from, now + hour, now)
            },
            "status.notBefore: Invalid value",
        ),
        (
            answer(
                "-----BEGIN X-----\neA==\n-----END X-----\n",
                now,
                now + hour,
                now + minutes(30),
            ),
            "issued certificate chain must consist entirely of CERTIFICATE PEM blocks",
        ),
        (
            {
                let mut status = good.clone();
                status["conditions"][0]["type"] = "Denied".into();
                status
            },
            "non-condition status fields must be empty when denying or failing",
        ),
    ] {
        let (code, refused) = set(status).await;
        let got = messages(&refused);
        assert!(
            code == 422 && got.len() == 1 && got[0].contains(expect),
            "{expect}: {code} {refused}"
        );
    }
    let (code, done) = set(good.clone()).await;
    assert_eq!(code, 200, "{done}");
    assert_eq!(done["spec"], created["spec"]);
    // Once.
    let (code, refused) = set(json!({"conditions": good["conditions"]})).await;
    assert_eq!(
        (code, messages(&refused)),
        (
            422,
            vec![
                "status: Invalid value: immutable after PodCertificateRequest is issued, denied, or failed"
                    .to_owned()
            ]
        )
    );
}
