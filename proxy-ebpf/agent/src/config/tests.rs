use super::*;

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

fn parse(rest: &str) -> Result<ProxyConfiguration, Vec<String>> {
    ProxyConfiguration::parse(&format!("{HEAD}{rest}")).map_err(|ConfigurationError(errors)| errors)
}

fn address(text: &str) -> Option<SocketAddr> {
    Some(text.parse().unwrap())
}

#[test]
fn what_is_absent_is_as_upstream_has_it() {
    let expected = ProxyConfiguration {
        kubeconfig: None,
        hostname_override: None,
        healthz_bind_address: address("0.0.0.0:10256"),
        metrics_bind_address: address("127.0.0.1:10249"),
        bind_address_hard_fail: false,
        node_port_addresses: NodePortAddresses::All,
        oom_score_adj: None,
        verbosity: 0,
        warnings: Vec::new(),
    };
    assert_eq!(parse(""), Ok(expected));
}

/// What kubeadm v1.33 writes into the ConfigMap kube-proxy: every field, most of them empty.
#[test]
fn the_config_map_of_a_cluster_made_by_kubeadm_is_understood() {
    let configuration = parse(
        "bindAddress: 0.0.0.0\n\
         bindAddressHardFail: false\n\
         clientConnection: {acceptContentTypes: '', burst: 0, contentType: '', kubeconfig: /var/lib/kube-proxy/kubeconfig.conf, qps: 0}\n\
         clusterCIDR: 10.244.0.0/16\n\
         configSyncPeriod: 0s\n\
         conntrack: {maxPerCore: null, min: null, tcpBeLiberal: false, tcpCloseWaitTimeout: null, tcpEstablishedTimeout: null, udpStreamTimeout: 0s, udpTimeout: 0s}\n\
         detectLocal: {bridgeInterface: '', interfaceNamePrefix: ''}\n\
         detectLocalMode: ''\n\
         enableProfiling: false\n\
         healthzBindAddress: ''\n\
         hostnameOverride: ''\n\
         iptables: {localhostNodePorts: null, masqueradeAll: false, masqueradeBit: null, minSyncPeriod: 0s, syncPeriod: 0s}\n\
         ipvs: {excludeCIDRs: null, minSyncPeriod: 0s, scheduler: '', strictARP: false, syncPeriod: 0s, tcpFinTimeout: 0s, tcpTimeout: 0s, udpTimeout: 0s}\n\
         logging: {flushFrequency: 0, options: {json: {infoBufferSize: '0'}, text: {infoBufferSize: '0'}}, verbosity: 0}\n\
         metricsBindAddress: ''\n\
         mode: ''\n\
         nftables: {masqueradeAll: false, masqueradeBit: null, minSyncPeriod: 0s, syncPeriod: 0s}\n\
         nodePortAddresses: null\n\
         oomScoreAdj: null\n\
         portRange: ''\n\
         showHiddenMetricsForVersion: ''\n\
         winkernel: {enableDSR: false, forwardHealthCheckVip: false, networkName: '', rootHnsEndpointName: '', sourceVip: ''}\n",
    )
    .unwrap();
    assert_eq!(
        configuration.kubeconfig,
        Some("/var/lib/kube-proxy/kubeconfig.conf".into())
    );
    assert_eq!(configuration.healthz_bind_address, address("0.0.0.0:10256"));
    let warnings = configuration
        .warnings
        .iter()
        .map(|warning| warning.split(' ').next());
    assert_eq!(
        warnings.collect::<Vec<_>>(),
        [Some("clusterCIDR"), Some("logging.options")]
    );
}

#[test]
fn what_has_an_effect_is_read() {
    let configuration = parse(
        "bindAddress: '::'\n\
         bindAddressHardFail: true\n\
         hostnameOverride: node-7\n\
         healthzBindAddress: 10.0.0.1\n\
         nodePortAddresses: [localhost, 10.0.0.0/8]\n\
         oomScoreAdj: -999\n\
         logging: {verbosity: 5}\n",
    )
    .unwrap();
    let expected = ProxyConfiguration {
        kubeconfig: None,
        hostname_override: Some("node-7".to_owned()),
        healthz_bind_address: address("10.0.0.1:10256"),
        metrics_bind_address: address("[::1]:10249"),
        bind_address_hard_fail: true,
        node_port_addresses: "127.0.0.0/8,::1/128,10.0.0.0/8".parse().unwrap(),
        oom_score_adj: Some(-999),
        verbosity: 5,
        warnings: Vec::new(),
    };
    assert_eq!(configuration, expected);
}

#[test]
fn what_belongs_to_other_modes_is_named_in_a_warning() {
    let warnings = parse("mode: ipvs\nipvs: {scheduler: rr}\nconntrack: {maxPerCore: 32768}\n")
        .unwrap()
        .warnings;
    let expected = [
        "conntrack.maxPerCore has no effect: connections are tracked in BPF maps, not by the kernel's conntrack",
        "ipvs.scheduler has no effect: it belongs to another way of proxying",
        "mode ipvs has no effect: Services are always proxied by eBPF",
    ];
    let mut warnings = warnings;
    warnings.sort();
    assert_eq!(warnings, expected);
}

#[test]
fn every_mistake_is_named_at_once() {
    let rows: [(&str, &[&str]); 9] = [
        (
            "nonsense: 1\niptables: {masqueradeBits: 14}\n",
            &[
                "iptables.masqueradeBits: unknown field",
                "nonsense: unknown field",
            ],
        ),
        (
            "mode: userspace\n",
            &["mode: \"userspace\" is none of those of Linux: ebpf, iptables, ipvs, nftables"],
        ),
        (
            "bindAddressHardFail: yes please\n",
            &["bindAddressHardFail: true or false is needed"],
        ),
        ("iptables: 7\n", &["iptables: an object is needed"]),
        (
            "nodePortAddresses: 10.0.0.0/8\n",
            &["nodePortAddresses: a list of texts is needed"],
        ),
        (
            "nodePortAddresses: [here]\n",
            &[
                "nodePortAddresses: `here` is no network such as 10.0.0.0/8, nor `localhost` or `all`; nor is it `primary` on its own",
            ],
        ),
        (
            "configSyncPeriod: 15\noomScoreAdj: 1001\n",
            &[
                "configSyncPeriod: a duration such as \"30s\" or \"1h30m\" is needed",
                "oomScoreAdj: a number from -1000 to 1000 is needed",
            ],
        ),
        (
            "metricsBindAddress: here\n",
            &["metricsBindAddress: \"here\" is no address such as 0.0.0.0:10249"],
        ),
        (
            "clusterCIDR: 10.244.0.0/16,x\n",
            &["clusterCIDR: \"x\" is no network"],
        ),
    ];
    for (text, expected) in rows {
        let mut errors = parse(text).expect_err(text);
        errors.sort();
        assert_eq!(errors, expected, "{text}");
    }
    let ConfigurationError(errors) = ProxyConfiguration::parse("kind: Pod\n").unwrap_err();
    assert_eq!(
        errors,
        [
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1 is needed",
            "kind: KubeProxyConfiguration is needed"
        ]
    );
    assert!(ProxyConfiguration::parse("[1]").is_err());
    assert!(ProxyConfiguration::parse("a: [").is_err());
}

#[test]
fn durations_are_written_as_in_go() {
    for (text, expected) in [
        ("0", true),
        ("0s", true),
        ("1h30m", true),
        ("1.5s", true),
        ("100ms", true),
        ("-5s", true),
        ("", false),
        ("15", false),
        ("s", false),
        ("1d", false),
        ("5s!", false),
    ] {
        assert_eq!(is_duration(text), expected, "{text:?}");
    }
}
