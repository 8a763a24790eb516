//! Where webhooks may go: tenants choose the URLs, so a URL must not lead into the operator's own
//! network.
//!
//! The decision is made about addresses and never about names. A host that is an IP literal is
//! checked in [`EgressPolicy::check`], when a job is handed in and again before it is sent, because
//! the HTTP client connects to literals without asking its resolver. A name is looked up when a
//! connection is made, and the client gets exactly the addresses that passed
//! [`EgressPolicy::permit`]: no second look-up could answer otherwise.
//! Redirects, the third way in, are never followed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::{Host, Url};

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

/// What IANA lists as not globally reachable, and one address that a cloud made special.
const BLOCKED_V4: [Ipv4Net; 16] = [
    v4(0, 0, 0, 0, 8),        // "this" network; Linux connects 0.0.0.0 to itself
    v4(10, 0, 0, 0, 8),       // private
    v4(100, 64, 0, 0, 10),    // carrier-grade NAT; metadata services of some clouds
    v4(127, 0, 0, 0, 8),      // loopback
    v4(168, 63, 129, 16, 32), // Azure's host, from inside its virtual machines
    v4(169, 254, 0, 0, 16),   // link-local; metadata services of most clouds
    v4(172, 16, 0, 0, 12),    // private
    v4(192, 0, 0, 0, 24),     // protocol assignments; metadata service of Oracle's cloud
    v4(192, 0, 2, 0, 24),     // documentation
    v4(192, 88, 99, 0, 24),   // 6to4 relays
    v4(192, 168, 0, 0, 16),   // private
    v4(198, 18, 0, 0, 15),    // benchmarks
    v4(198, 51, 100, 0, 24),  // documentation
    v4(203, 0, 113, 0, 24),   // documentation
    v4(224, 0, 0, 0, 4),      // multicast
    v4(240, 0, 0, 0, 4),      // reserved, broadcast
];

/// The same for IPv6. Networks that embed IPv4 addresses are blocked whole.
const BLOCKED_V6: [Ipv6Net; 13] = [
    v6(0, 0, 0, 96),          // unspecified, loopback, and the former IPv4-compatible
    v6(0x64, 0xff9b, 0, 96),  // NAT64
    v6(0x64, 0xff9b, 1, 48),  // NAT64, local
    v6(0x100, 0, 0, 64),      // discard
    v6(0x2001, 0, 0, 23),     // protocol assignments: Teredo, benchmarks, ORCHID
    v6(0x2001, 0xdb8, 0, 32), // documentation
    v6(0x2002, 0, 0, 16),     // 6to4
    v6(0x3fff, 0, 0, 20),     // documentation
    v6(0x5f00, 0, 0, 16),     // segment routing
    v6(0xfc00, 0, 0, 7),      // private
    v6(0xfe80, 0, 0, 10),     // link-local
    v6(0xfec0, 0, 0, 10),     // the former site-local
    v6(0xff00, 0, 0, 8),      // multicast
];

/// The longest name that DNS can carry.
const HOST_BYTES_MAX: usize = 253;

/// And the longest part of it, between two dots.
const LABEL_BYTES_MAX: usize = 63;

/// Longer than any sane one, and shorter than what the HTTP client takes.
const URL_BYTES_MAX: usize = 8 * 1024;

/// Which addresses may be connected to: every public one, and the networks that are allowed
/// although they are not.
#[derive(Clone, Debug, Default)]
pub struct EgressPolicy {
    allow: Arc<[IpNet]>,
}

/// No address of a host may be connected to. Does not say which addresses they are: whoever chose
/// the name must not learn what it means inside.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "url: the host is in a private or reserved network that POSTROAD_WEBHOOK_ALLOW does not open"
)]
pub struct BlockedAddress;

/// Why a URL is not one to send to. Does not repeat the URL, which may hold a credential.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedUrl {
    /// It cannot be read as a URL.
    #[error("url: not a URL")]
    Syntax(#[from] url::ParseError),
    /// It has characters that readers of URLs disagree about.
    #[error("url: has a backslash, a space or a control character")]
    Ambiguous,
    /// Not HTTP.
    #[error("url: the scheme must be https or http, not `{0}`")]
    Scheme(String),
    /// `user:password@`, which hides the host and would be a credential in the job's args.
    #[error("url: user and password are not taken; use a header")]
    Credentials,
    /// `#…`, which is never sent.
    #[error("url: a fragment is never sent")]
    Fragment,
    /// No name that DNS could know.
    #[error("url: the host must be an address or a name of letters, digits, `-`, `_` and `.`")]
    Host,
    /// Longer than anything that has to be.
    #[error("url: longer than {URL_BYTES_MAX} bytes")]
    Length,
    /// An IP address in a blocked network.
    #[error(transparent)]
    Blocked(#[from] BlockedAddress),
}

/// A text that is no list of networks.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a network such as 10.1.0.0/16 or fd00::/8")]
pub struct InvalidNetwork(String);

/// Reads networks separated by commas. An address alone is the network of that address.
pub fn parse_allow(text: &str) -> Result<Vec<IpNet>, InvalidNetwork> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    text.split(',').map(str::trim).map(parse_network).collect()
}

fn parse_network(text: &str) -> Result<IpNet, InvalidNetwork> {
    let net = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    net.map(|net| net.trunc())
        .map_err(|_| InvalidNetwork(text.to_owned()))
}

/// `Url` takes more, but what it takes beyond this neither DNS nor the HTTP client knows.
fn is_host_name(name: &str) -> bool {
    let rooted = name.strip_suffix('.').unwrap_or(name);
    name.len() <= HOST_BYTES_MAX && rooted.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    (1..=LABEL_BYTES_MAX).contains(&label.len())
        && label.bytes().all(plain)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl EgressPolicy {
    /// Public addresses, and those in `allow`.
    pub fn new(allow: Vec<IpNet>) -> Self {
        Self {
            allow: allow.into(),
        }
    }

    /// Reads a URL that a tenant chose. What its name resolves to is checked when connecting.
    pub fn check(&self, text: &str) -> Result<Url, RefusedUrl> {
        if text.len() > URL_BYTES_MAX {
            return Err(RefusedUrl::Length);
        }
        // `Url` mends these as browsers do; others that read the same job may see another host.
        if text
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || c == '\\')
        {
            return Err(RefusedUrl::Ambiguous);
        }
        let url = Url::parse(text)?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err(RefusedUrl::Scheme(url.scheme().to_owned()));
        }
        // Also an empty one (`https://@host/`), which `Url` drops.
        let authority = text.split(['/', '?', '#']).nth(2).unwrap_or_default();
        if authority.contains('@') || !url.username().is_empty() || url.password().is_some() {
            return Err(RefusedUrl::Credentials);
        }
        if url.fragment().is_some() {
            return Err(RefusedUrl::Fragment);
        }
        match url.host() {
            Some(Host::Ipv4(ip)) => self.check_address(ip.into())?,
            Some(Host::Ipv6(ip)) => self.check_address(ip.into())?,
            Some(Host::Domain(name)) if is_host_name(name) => {}
            _ => return Err(RefusedUrl::Host),
        }
        Ok(url)
    }

    fn check_address(&self, ip: IpAddr) -> Result<(), BlockedAddress> {
        // An IPv4 address written as IPv6 is judged as what it is.
        let ip = ip.to_canonical();
        let blocked = match ip {
            IpAddr::V4(ip) => BLOCKED_V4.iter().any(|net| net.contains(&ip)),
            IpAddr::V6(ip) => BLOCKED_V6.iter().any(|net| net.contains(&ip)),
        };
        if blocked && !self.allow.iter().any(|net| net.contains(&ip)) {
            return Err(BlockedAddress);
        }
        Ok(())
    }

    /// Those of the addresses that may be connected to; an error if that is none.
    pub fn permit(
        &self,
        found: impl Iterator<Item = SocketAddr>,
    ) -> Result<Vec<SocketAddr>, BlockedAddress> {
        let permitted: Vec<_> = found
            .filter(|address| self.check_address(address.ip()).is_ok())
            .collect();
        if permitted.is_empty() {
            Err(BlockedAddress)
        } else {
            Ok(permitted)
        }
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> Option<RefusedUrl> {
        EgressPolicy::default().check(url).err()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn literals_of_blocked_networks_are_refused_however_they_are_written() {
        let urls = [
            // One address, in every form that inet_aton reads.
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0x7f.0.0.1/",
            "http://0177.0.0.1/",
            "http://017700000001/",
            "http://127.1/",
            "http://127.0.1/",
            "http://0/",
            "http://127.0.0.1./",
            "http://%31%32%37.0.0.1/",
            "http://１２７.０.０.１/",
            "http://127。0。0。1/",
            // The networks of IPv4, at their first and last address.
            "http://0.0.0.0/",
            "http://0.255.255.255/",
            "http://10.0.0.0/",
            "http://10.255.255.255/",
            "http://100.64.0.0/",
            "http://100.127.255.255/",
            "http://127.255.255.255/",
            "http://168.63.129.16/",
            "http://169.254.169.254/latest/meta-data/",
            "http://172.16.0.0/",
            "http://172.31.255.255/",
            "http://192.0.0.192/",
            "http://192.0.2.1/",
            "http://192.88.99.1/",
            "http://192.168.0.0/",
            "http://192.168.255.255/",
            "http://198.18.0.0/",
            "http://198.19.255.255/",
            "http://198.51.100.1/",
            "http://203.0.113.1/",
            "http://224.0.0.1/",
            "http://239.255.255.255/",
            "http://240.0.0.1/",
            "http://255.255.255.255/",
            // And of IPv6, with the ways to say an IPv4 address.
            "http://[::]/",
            "http://[::1]/",
            "http://[0:0:0:0:0:0:0:1]/",
            "http://[::127.0.0.1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:a9fe:a9fe]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[64:ff9b:1::a00:1]/",
            "http://[100::1]/",
            "http://[2001::1]/",
            "http://[2001:db8::1]/",
            "http://[2002:7f00:1::]/",
            "http://[3fff::1]/",
            "http://[5f00::1]/",
            "http://[fc00::1]/",
            "http://[fd00:ec2::254]/",
            "http://[fe80::1]/",
            "http://[febf::1]/",
            "http://[fec0::1]/",
            "http://[ff02::1]/",
            "https://127.0.0.1:8443/",
        ];
        for url in urls {
            assert_eq!(
                refusal(url),
                Some(RefusedUrl::Blocked(BlockedAddress)),
                "{url}"
            );
        }
    }

    #[test]
    fn urls_that_are_not_plain_are_refused() {
        let scheme = |name: &str| RefusedUrl::Scheme(name.to_owned());
        let cases = [
            ("https://user@example.com/", RefusedUrl::Credentials),
            ("https://user:secret@example.com/", RefusedUrl::Credentials),
            ("https://example.com@127.0.0.1/", RefusedUrl::Credentials),
            ("https://@example.com/", RefusedUrl::Credentials),
            ("https://:@example.com/", RefusedUrl::Credentials),
            ("https:example.com@127.0.0.1/", RefusedUrl::Credentials),
            ("https:///a@127.0.0.1/", RefusedUrl::Credentials),
            ("https://example.com\\@127.0.0.1/", RefusedUrl::Ambiguous),
            ("https:\\\\example.com/", RefusedUrl::Ambiguous),
            ("https://exam\tple.com/", RefusedUrl::Ambiguous),
            ("https://example.com/\r\nhost: evil", RefusedUrl::Ambiguous),
            (" https://example.com/", RefusedUrl::Ambiguous),
            ("https://example.com/\0", RefusedUrl::Ambiguous),
            ("https://example.com/#top", RefusedUrl::Fragment),
            ("https://example.com#@127.0.0.1/", RefusedUrl::Fragment),
            ("file:///etc/passwd", scheme("file")),
            ("ftp://example.com/", scheme("ftp")),
            ("gopher://example.com/", scheme("gopher")),
            ("data:text/plain,hi", scheme("data")),
            ("ws://example.com/", scheme("ws")),
            ("javascript:alert(1)", scheme("javascript")),
        ];
        for (url, expected) in cases {
            assert_eq!(refusal(url), Some(expected), "{url}");
        }
        let unreadable = [
            "",
            "/relative",
            "example.com",
            "//example.com/",
            "https://",
            "https://[::1%25eth0]/",
            "https://[::1%eth0]/",
            "https://[::1",
            "https://1.2.3.4.5/",
            "https://256.0.0.1/",
            "https://example.com:65536/",
            "https://example.com:port/",
            "https://exa%00mple.com/",
            "https://exa%2fmple.com/",
            "https://xn--/",
        ];
        for url in unreadable {
            assert!(
                matches!(refusal(url), Some(RefusedUrl::Syntax(_))),
                "{url}: {:?}",
                refusal(url)
            );
        }
        let long = format!("https://{}com/", "a.".repeat(126));
        for url in [
            long.as_str(),
            "https://a{b}.example/",
            "https://a`b.example/",
            "https://a\"b/",
            "https://./",
            "https://。/",
            "https://a..example/",
            "https://.example/",
            "https://example../",
            "https://-a.example/",
            "https://a-.example/",
            &format!("https://{}.example/", "a".repeat(64)),
        ] {
            assert_eq!(refusal(url), Some(RefusedUrl::Host), "{url}");
        }
        let long = |length| format!("https://example.com/{}", "x".repeat(length));
        assert_eq!(refusal(&long(URL_BYTES_MAX)), Some(RefusedUrl::Length));
        assert_eq!(refusal(&long(8000)), None);
    }

    #[test]
    fn public_urls_pass_and_names_wait_for_their_look_up() {
        let urls = [
            "https://example.com/hook?key=value",
            "HTTPS://EXAMPLE.COM:8443/",
            "http://example.com:8080/a@b",
            "https://example.com/?to=a@b",
            "https://bücher.example/",
            "https://xn--bcher-kva.example/",
            "https://example.com./",
            "https://8.8.8.8/",
            "https://100.63.255.255/",
            "https://100.128.0.0/",
            "https://172.15.255.255/",
            "https://172.32.0.0/",
            "https://[2606:4700::1111]/",
            "https://localhost/",
            "https://127.0.0.1.example/",
        ];
        for url in urls {
            assert_eq!(refusal(url), None, "{url}");
        }
    }

    #[test]
    fn an_allowed_network_opens_just_itself() {
        let allow = parse_allow("127.0.0.1, 10.1.2.3/16,fd00::/8").expect("networks");
        let policy = EgressPolicy::new(allow);
        for open in ["127.0.0.1", "::ffff:127.0.0.1", "10.1.255.255", "fd12::1"] {
            assert_eq!(policy.check_address(ip(open)), Ok(()), "{open}");
        }
        for closed in ["127.0.0.2", "10.2.0.0", "::1", "fc00::1", "169.254.169.254"] {
            assert_eq!(
                policy.check_address(ip(closed)),
                Err(BlockedAddress),
                "{closed}"
            );
        }
    }

    #[test]
    fn a_name_with_public_and_private_addresses_is_reached_at_the_public_ones() {
        let policy = EgressPolicy::default();
        let found = |ips: &[&str]| {
            ips.iter()
                .map(|text| SocketAddr::new(ip(text), 0))
                .collect::<Vec<_>>()
                .into_iter()
        };
        let permitted = policy.permit(found(&["10.0.0.1", "8.8.8.8", "::1", "2606:4700::1111"]));
        assert_eq!(
            permitted,
            Ok(found(&["8.8.8.8", "2606:4700::1111"]).collect())
        );
        assert_eq!(
            policy.permit(found(&["10.0.0.1", "::ffff:127.0.0.1"])),
            Err(BlockedAddress)
        );
        assert_eq!(policy.permit(found(&[])), Err(BlockedAddress));
    }

    #[test]
    fn a_list_of_networks_is_read_or_names_what_is_wrong() {
        let read = |text| parse_allow(text).map(|nets| nets.iter().map(IpNet::to_string).collect());
        let nets = |texts: &[&str]| Ok(texts.iter().map(ToString::to_string).collect::<Vec<_>>());
        let wrong = |text: &str| Err(InvalidNetwork(text.to_owned()));
        assert_eq!(read(""), nets(&[]));
        assert_eq!(read(" "), nets(&[]));
        assert_eq!(read("10.0.0.0/8"), nets(&["10.0.0.0/8"]));
        assert_eq!(read(" ::1 ,10.9.9.9/8"), nets(&["::1/128", "10.0.0.0/8"]));
        assert_eq!(read("10.0.0.0/33"), wrong("10.0.0.0/33"));
        assert_eq!(read("10.0.0.0/8,"), wrong(""));
        assert_eq!(read("localhost"), wrong("localhost"));
    }
}
