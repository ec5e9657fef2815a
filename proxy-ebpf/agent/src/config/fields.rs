//! Every field of KubeProxyConfiguration, as of v1.37 (kube-proxy's `config/v1alpha1/types.go`).

/// A field.
pub(super) struct Field {
    /// Its name after those of the objects that it is in, with dots between.
    pub(super) path: &'static str,
    pub(super) kind: Kind,
    /// Why it may be set and changes nothing; `None`: it has an effect, or says what is so anyway.
    pub(super) without_effect: Option<&'static str>,
}

/// What a field may hold.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Text,
    Bool,
    Integer,
    Number,
    /// A number with a unit, as Go writes durations.
    Duration,
    Texts,
    /// Names of features, switched on or off.
    Gates,
    /// An object that means nothing here.
    Anything,
}

const fn used(path: &'static str, kind: Kind) -> Field {
    Field {
        path,
        kind,
        without_effect: None,
    }
}

const fn unused(path: &'static str, kind: Kind, reason: &'static str) -> Field {
    Field {
        path,
        kind,
        without_effect: Some(reason),
    }
}

const OTHER_MODE: &str = "it belongs to another way of proxying";
const WATCHES: &str = "the agent only watches, over one connection";
const OWN_CONNTRACK: &str = "connections are tracked in BPF maps, not by the kernel's conntrack";
const OWN_PODS: &str = "which traffic is a pod's own is known from the device that it comes from";
const NO_RESYNC: &str = "nothing is written anew unless it changed";
const WINDOWS: &str = "this is Linux";
const NOT_HERE: &str = "there is nothing of the kind here";

/// All fields.
pub(super) const FIELDS: &[Field] = &[
    used("apiVersion", Kind::Text),
    used("kind", Kind::Text),
    unused("featureGates", Kind::Gates, NOT_HERE),
    used("clientConnection.kubeconfig", Kind::Text),
    unused("clientConnection.acceptContentTypes", Kind::Text, WATCHES),
    unused("clientConnection.contentType", Kind::Text, WATCHES),
    unused("clientConnection.qps", Kind::Number, WATCHES),
    unused("clientConnection.burst", Kind::Integer, WATCHES),
    unused("logging.format", Kind::Text, "the log is text"),
    unused(
        "logging.flushFrequency",
        Kind::Anything,
        "the log is not buffered",
    ),
    used("logging.verbosity", Kind::Integer),
    unused("logging.vmodule", Kind::Anything, "RUST_LOG chooses by module"),
    unused("logging.options", Kind::Anything, "the log is text"),
    used("hostnameOverride", Kind::Text),
    used("bindAddress", Kind::Text),
    used("healthzBindAddress", Kind::Text),
    used("metricsBindAddress", Kind::Text),
    used("bindAddressHardFail", Kind::Bool),
    unused("enableProfiling", Kind::Bool, NOT_HERE),
    unused("showHiddenMetricsForVersion", Kind::Text, NOT_HERE),
    used("mode", Kind::Text),
    unused("iptables.masqueradeBit", Kind::Integer, OTHER_MODE),
    unused("iptables.masqueradeAll", Kind::Bool, OTHER_MODE),
    unused(
        "iptables.localhostNodePorts",
        Kind::Bool,
        "nodePortAddresses says whether loopback has node ports",
    ),
    unused("iptables.snatNodeInternalIP", Kind::Bool, OTHER_MODE),
    unused("iptables.syncPeriod", Kind::Duration, OTHER_MODE),
    unused("iptables.minSyncPeriod", Kind::Duration, OTHER_MODE),
    unused("ipvs.syncPeriod", Kind::Duration, OTHER_MODE),
    unused("ipvs.minSyncPeriod", Kind::Duration, OTHER_MODE),
    unused("ipvs.scheduler", Kind::Text, OTHER_MODE),
    unused("ipvs.excludeCIDRs", Kind::Texts, OTHER_MODE),
    unused("ipvs.strictARP", Kind::Bool, OTHER_MODE),
    unused("ipvs.tcpTimeout", Kind::Duration, OTHER_MODE),
    unused("ipvs.tcpFinTimeout", Kind::Duration, OTHER_MODE),
    unused("ipvs.udpTimeout", Kind::Duration, OTHER_MODE),
    unused("nftables.masqueradeBit", Kind::Integer, OTHER_MODE),
    unused("nftables.masqueradeAll", Kind::Bool, OTHER_MODE),
    unused("nftables.syncPeriod", Kind::Duration, OTHER_MODE),
    unused("nftables.minSyncPeriod", Kind::Duration, OTHER_MODE),
    unused("winkernel.networkName", Kind::Text, WINDOWS),
    unused("winkernel.sourceVip", Kind::Text, WINDOWS),
    unused("winkernel.enableDSR", Kind::Bool, WINDOWS),
    unused("winkernel.rootHnsEndpointName", Kind::Text, WINDOWS),
    unused("winkernel.forwardHealthCheckVip", Kind::Bool, WINDOWS),
    unused("detectLocalMode", Kind::Text, OWN_PODS),
    unused("detectLocal.bridgeInterface", Kind::Text, OWN_PODS),
    unused("detectLocal.interfaceNamePrefix", Kind::Text, OWN_PODS),
    unused("clusterCIDR", Kind::Text, OWN_PODS),
    used("nodePortAddresses", Kind::Texts),
    used("oomScoreAdj", Kind::Integer),
    unused("conntrack.maxPerCore", Kind::Integer, OWN_CONNTRACK),
    unused("conntrack.min", Kind::Integer, OWN_CONNTRACK),
    unused("conntrack.tcpEstablishedTimeout", Kind::Duration, OWN_CONNTRACK),
    unused("conntrack.tcpCloseWaitTimeout", Kind::Duration, OWN_CONNTRACK),
    unused("conntrack.tcpBeLiberal", Kind::Bool, OWN_CONNTRACK),
    unused("conntrack.udpTimeout", Kind::Duration, OWN_CONNTRACK),
    unused("conntrack.udpStreamTimeout", Kind::Duration, OWN_CONNTRACK),
    unused("configSyncPeriod", Kind::Duration, NO_RESYNC),
    unused("portRange", Kind::Text, OTHER_MODE),
    unused("windowsRunAsService", Kind::Bool, WINDOWS),
];
