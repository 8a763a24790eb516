//! URLs as a tenant may write them to get inside.

use proptest::prelude::*;

use super::*;

/// What the standard library calls an address that is not everybody's. It says less than IANA,
/// and shares no table with the policy.
fn is_surely_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_broadcast()
                || ip.is_documentation()
                || ip.is_unspecified()
                || ip.is_multicast()
        }
        IpAddr::V6(ip) => {
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_unique_local()
                || ip.is_unicast_link_local()
                || ip
                    .to_ipv4_mapped()
                    .is_some_and(|ip| is_surely_private(ip.into()))
        }
    }
}

/// Addresses everywhere, and many of the networks that matter.
fn any_v4() -> impl Strategy<Value = Ipv4Addr> {
    let net = prop::sample::select(&BLOCKED_V4[..]);
    let inside = (net, any::<u32>()).prop_map(|(net, host)| {
        Ipv4Addr::from(u32::from(net.network()) | (host & u32::from(net.hostmask())))
    });
    prop_oneof![any::<Ipv4Addr>(), inside]
}

fn any_v6() -> impl Strategy<Value = Ipv6Addr> {
    let net = prop::sample::select(&BLOCKED_V6[..]);
    let inside = (net, any::<u128>()).prop_map(|(net, host)| {
        Ipv6Addr::from(u128::from(net.network()) | (host & u128::from(net.hostmask())))
    });
    prop_oneof![
        any::<Ipv6Addr>(),
        inside,
        any_v4().prop_map(|ip| ip.to_ipv6_mapped())
    ]
}

/// One address in the forms that some reader of URLs takes for it.
fn spellings(ip: Ipv4Addr) -> Vec<String> {
    let ([a, b, c, d], whole) = (ip.octets(), u32::from(ip));
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let dotted = ip.to_string();
    let encoded: String = dotted.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let wide: String = dotted
        .chars()
        .map(|c| match c.to_digit(10) {
            Some(digit) => char::from_u32(0xff10 + digit).expect("a wide digit"),
            None => c,
        })
        .collect();
    vec![
        dotted.clone(),
        format!("{dotted}."),
        whole.to_string(),
        format!("{whole:#x}"),
        format!("{whole:#X}").replace("0X", "0x"),
        format!("0{whole:o}"),
        format!("{a}.{b}.{low}"),
        format!("{a}.{}", (u32::from(b) << 16) | u32::from(low)),
        format!("{a:#x}.{b:#x}.{c:#x}.{d:#x}"),
        format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        format!("0x000{a:x}.{b}.{c}.00{d:o}"),
        encoded,
        wide,
        dotted.replace('.', "。"),
        format!("[::ffff:{dotted}]"),
        format!("[::ffff:{high:x}:{low:x}]"),
        format!("[0:0:0:0:0:ffff:{high:04X}:{low:04X}]"),
    ]
}

fn check(policy: &EgressPolicy, text: &str) -> Result<Url, RefusedUrl> {
    let checked = policy.check(text);
    if let Ok(url) = &checked {
        assert!(matches!(url.scheme(), "http" | "https"), "{text}");
        assert!(
            url.username().is_empty() && url.password().is_none(),
            "{text}"
        );
        assert_eq!(url.fragment(), None, "{text}");
        // The HTTP client gets the URL as it prints, and must see the same host.
        assert_eq!(Url::parse(url.as_str()).as_ref(), Ok(url), "{text}");
        let ip = match url.host().expect("it has one") {
            Host::Ipv4(ip) => Some(IpAddr::V4(ip)),
            Host::Ipv6(ip) => Some(IpAddr::V6(ip)),
            Host::Domain(name) => {
                assert!(name.parse::<IpAddr>().is_err(), "{text}");
                None
            }
        };
        assert!(!ip.is_some_and(is_surely_private), "{text}");
    }
    checked
}

proptest! {
    #[test]
    fn any_text_is_a_url_that_may_be_called_or_an_error(
        text in prop_oneof![
            "(?s).{0,60}",
            "https?:/{0,4}[a-z0-9@:.\\\\/?#\\[\\]%é。 \\x00-]{0,40}",
            "(https?|ftp|HTTP)://([a-z0-9]{0,5}(:[a-z0-9]{0,5})?@)?[a-z0-9.-]{0,20}(:[0-9]{0,6})?(/[!-~]{0,10})?(\\?[!-~]{0,10})?(#[a-z]{0,3})?",
        ],
    ) {
        let error = check(&EgressPolicy::default(), &text).err().map(|error| error.to_string());
        prop_assert!(error.is_none_or(|error| error.starts_with("url: ")));
    }

    #[test]
    fn an_address_is_judged_alike_however_it_is_written(ip in any_v4(), scheme in "https?", tail in "(:8080)?/|(:8080)?\\?q|") {
        let policy = EgressPolicy::default();
        let expected = policy.check_address(ip.into());
        for host in spellings(ip) {
            let url = format!("{scheme}://{host}{tail}");
            let checked = check(&policy, &url).map(drop);
            prop_assert_eq!(checked, expected.clone().map_err(RefusedUrl::from), "{}", url);
        }
    }

    #[test]
    fn an_address_of_six_is_judged_as_it_is(ip in any_v6()) {
        let policy = EgressPolicy::default();
        let expected = policy.check_address(ip.into());
        let [a, b, c, d, e, f, g, h] = ip.segments();
        for url in [
            format!("http://[{ip}]/"),
            format!("https://[{a:X}:{b:04x}:{c:x}:{d:x}:{e:x}:{f:x}:{g:x}:{h:04X}]:8443"),
        ] {
            prop_assert_eq!(check(&policy, &url).map(drop), expected.clone().map_err(RefusedUrl::from), "{}", url);
        }
    }

    #[test]
    fn what_is_surely_private_is_blocked(v4 in any_v4(), v6 in any_v6()) {
        for ip in [IpAddr::V4(v4), IpAddr::V6(v6)] {
            let blocked = EgressPolicy::default().check_address(ip).is_err();
            prop_assert!(blocked || !is_surely_private(ip), "{ip}");
        }
    }

    #[test]
    fn an_allowed_network_opens_what_is_in_it_and_nothing_else(
        net in any_v4(), prefix in 0..=32u8, ip in any_v4(),
    ) {
        let text = format!(" {net}/{prefix} ");
        let allow = parse_allow(&text).expect("a network");
        let is_in = allow[0].contains(&IpAddr::V4(ip));
        let open = EgressPolicy::new(allow).check_address(ip.into()).is_ok();
        let public = EgressPolicy::default().check_address(ip.into()).is_ok();
        prop_assert_eq!(open, public || is_in);
    }

    #[test]
    fn any_text_is_a_list_of_networks_or_an_error(
        text in prop_oneof!["(?s).{0,40}", "([0-9a-f.:]{1,12}/[0-9]{1,3}[, ]{0,2}){0,4}"],
    ) {
        for net in parse_allow(&text).unwrap_or_default() {
            prop_assert_eq!(net, net.trunc());
        }
    }
}
