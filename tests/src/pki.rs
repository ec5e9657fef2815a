//! Keys and certificates of a cluster, as kubeadm lays them out: separate authorities for the API and for kubelets.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::layout::{CONTROL_PLANE_IP, CONTROL_PLANE_IP6, Layout};

/// Who a certificate speaks for.
pub(crate) struct Subject<'a> {
    /// The file's stem below the PKI directory.
    pub(crate) file: &'a str,
    /// The user name.
    pub(crate) common_name: &'a str,
    /// The user's group.
    pub(crate) organization: Option<&'a str>,
    /// Names and addresses of a server; none for a client.
    pub(crate) names: Vec<SanType>,
}

/// The PKI directory of a cluster; a file that exists is kept.
pub(crate) struct Pki {
    directory: PathBuf,
}

impl Pki {
    /// Opens the directory and makes what every cluster needs: the authorities, the API server's certificates, the
    /// administrator's, and the key that signs service-account tokens.
    pub(crate) fn open(layout: &Layout) -> Result<Pki> {
        Pki::control_plane(layout.pki())
    }

    /// As [`open`](Self::open), in any directory.
    pub(crate) fn control_plane(directory: PathBuf) -> Result<Pki> {
        let pki = Pki::empty(directory)?;
        pki.authority("ca", "kubernetes")?;
        pki.authority("kubelet-ca", "kubelet")?;
        pki.key("sa")?;
        pki.issue(
            "ca",
            &Subject {
                file: "apiserver",
                common_name: "kube-apiserver",
                organization: None,
                names: api_names(),
            },
        )?;
        pki.issue(
            "ca",
            &client(
                "apiserver-kubelet-client",
                "kube-apiserver-kubelet-client",
                Some("system:masters"),
            ),
        )?;
        pki.issue("ca", &client("admin", "kubernetes-admin", Some("system:masters")))?;
        pki.issue("ca", &client("proxy", "system:kube-proxy", None))?;
        Ok(pki)
    }

    /// The directory without anything in it, unless that is there already.
    pub(crate) fn empty(directory: PathBuf) -> Result<Pki> {
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        Ok(Pki { directory })
    }

    /// Makes a node's certificates: one to speak to the API server, one to serve.
    pub(crate) fn node(&self, layout: &Layout, index: usize) -> Result<()> {
        let name = layout.node_name(index);
        let user = format!("system:node:{name}");
        self.issue(
            "ca",
            &client(&format!("{name}-kubelet"), &user, Some("system:nodes")),
        )?;
        let names = vec![
            SanType::DnsName(name.as_str().try_into()?),
            SanType::IpAddress(layout.node_ip(index).into()),
            SanType::IpAddress(layout.node_ip6(index).into()),
        ];
        let file = format!("{name}-kubelet-server");
        self.issue(
            "kubelet-ca",
            &Subject {
                file: &file,
                common_name: &user,
                organization: Some("system:nodes"),
                names,
            },
        )
    }

    /// The path of `<file>.crt`.
    pub(crate) fn certificate(&self, file: &str) -> PathBuf {
        self.directory.join(format!("{file}.crt"))
    }

    /// The path of `<file>.key`.
    pub(crate) fn private_key(&self, file: &str) -> PathBuf {
        self.directory.join(format!("{file}.key"))
    }

    /// Makes an authority.
    pub(crate) fn authority(&self, file: &str, common_name: &str) -> Result<()> {
        if self.certificate(file).exists() {
            return Ok(());
        }
        let key = self.key(file)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let certificate = params
            .self_signed(&key)
            .with_context(|| format!("sign the authority {common_name}"))?;
        write_private(&self.certificate(file), &certificate.pem())
    }

    /// Makes a certificate that an authority signs.
    pub(crate) fn issue(&self, authority: &str, subject: &Subject<'_>) -> Result<()> {
        if self.certificate(subject.file).exists() {
            return Ok(());
        }
        let authority_key = self.key(authority)?;
        let authority_pem = fs::read_to_string(self.certificate(authority)).context("read an authority")?;
        let issuer = Issuer::from_ca_cert_pem(&authority_pem, authority_key).context("parse an authority")?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, subject.common_name);
        if let Some(organization) = subject.organization {
            params
                .distinguished_name
                .push(DnType::OrganizationName, organization);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if !subject.names.is_empty() {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.subject_alt_names.clone_from(&subject.names);
        params.use_authority_key_identifier_extension = true;
        let key = self.key(subject.file)?;
        let certificate = params
            .signed_by(&key, &issuer)
            .with_context(|| format!("sign {}", subject.common_name))?;
        // The certificate is written after its key, so that its presence says that both are there.
        write_private(&self.certificate(subject.file), &certificate.pem())
    }

    /// Reads or makes a private key (ECDSA on P-256).
    fn key(&self, file: &str) -> Result<KeyPair> {
        let path = self.private_key(file);
        if let Ok(pem) = fs::read_to_string(&path) {
            return KeyPair::from_pem(&pem).with_context(|| format!("parse {}", path.display()));
        }
        let key = KeyPair::generate().context("generate a key")?;
        write_private(&path, &key.serialize_pem())?;
        if file == "sa" {
            fs::write(self.directory.join("sa.pub"), key.public_key_pem()).context("write sa.pub")?;
        }
        Ok(key)
    }
}

fn client<'a>(file: &'a str, common_name: &'a str, organization: Option<&'a str>) -> Subject<'a> {
    Subject {
        file,
        common_name,
        organization,
        names: Vec::new(),
    }
}

/// The names under which the API server is reached: in the cluster, on its bridge, and on the host's loopback.
fn api_names() -> Vec<SanType> {
    let dns = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
    ];
    let addresses: [IpAddr; 4] = [
        CONTROL_PLANE_IP.into(),
        CONTROL_PLANE_IP6.into(),
        Ipv4Addr::new(10, 96, 0, 1).into(),
        Ipv4Addr::LOCALHOST.into(),
    ];
    let dns = dns
        .into_iter()
        .filter_map(|name| Some(SanType::DnsName(name.try_into().ok()?)));
    dns.chain(addresses.into_iter().map(SanType::IpAddress)).collect()
}

/// Writes a file that only root may read, whole or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<()> {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, text).with_context(|| format!("write {}", temporary.display()))?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600)).context("restrict a private file")?;
    fs::rename(&temporary, path).with_context(|| format!("rename to {}", path.display()))
}
