//! Is the request meant for this node, and not sent by a page of another site?
//!
//! A browser on the machine can be made to talk to loopback: by DNS rebinding (then `Host` carries the
//! attacker's name) or from a foreign page (then `Origin` does). Both are refused before anything is read.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, Uri, header};

use crate::error::Refusal;

/// Names under which this node answers over TCP.
#[derive(Clone, Debug)]
pub(crate) struct HostNames(Vec<String>);

impl HostNames {
    /// The loopback names and `configured` ones.
    pub(crate) fn new(configured: &[String]) -> Self {
        let loopback = ["127.0.0.1", "localhost", "[::1]"].map(str::to_owned);
        Self(
            loopback
                .into_iter()
                .chain(configured.iter().cloned())
                .collect(),
        )
    }

    /// Refuses a `Host` that is missing, repeated or not ours. The address `local` that the client reached is ours: no
    /// name was resolved to it, so none was rebound.
    pub(crate) fn check(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        local: Option<IpAddr>,
    ) -> Result<(), Refusal> {
        let ours = |authority: &str| {
            let name = without_port(authority);
            let literal = name
                .trim_start_matches('[')
                .trim_end_matches(']')
                .parse()
                .ok(); // a name
            let is_this_end = literal
                .is_some_and(|ip: IpAddr| local.is_some_and(|local| local.to_canonical() == ip));
            is_this_end || self.0.iter().any(|own| own.eq_ignore_ascii_case(name))
        };
        let host = only_host(headers).ok_or_else(Refusal::wrong_host)?;
        let target = uri.authority().map(axum::http::uri::Authority::as_str);
        if ours(host) && target.is_none_or(ours) {
            Ok(())
        } else {
            Err(Refusal::wrong_host())
        }
    }
}

/// Header by which a browser says where a request comes from, also where it sends no `Origin` (an image, a link).
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Refuses an `Origin` that differs from `Host`, and what a browser says another site caused; requests with neither
/// come from no page.
pub(crate) fn check_origin(headers: &HeaderMap) -> Result<(), Refusal> {
    let sites = headers.get_all(FETCH_SITE).iter();
    // "none": a person typed the address.
    let mut sites = sites.map(axum::http::HeaderValue::as_bytes);
    if !sites.all(|site| matches!(site, b"same-origin" | b"none")) {
        return Err(Refusal::foreign_origin());
    }
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let Some(origin) = origins.next() else {
        return Ok(());
    };
    let origin = origin.to_str().unwrap_or_default();
    let authority = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    match (authority, only_host(headers), origins.next()) {
        (Some(authority), Some(host), None) if authority.eq_ignore_ascii_case(host) => Ok(()),
        _ => Err(Refusal::foreign_origin()),
    }
}

fn only_host(headers: &HeaderMap) -> Option<&str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next()?.to_str().ok()?;
    hosts.next().is_none().then_some(host)
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn own_names_with_any_port_pass_and_others_do_not() {
        let names = HostNames::new(&["gpu-1.lab".to_owned()]);
        let path = Uri::from_static("/");
        for good in [
            "127.0.0.1",
            "127.0.0.1:7717",
            "LOCALHOST:9",
            "[::1]",
            "[::1]:7717",
            "gpu-1.lab:80",
        ] {
            assert!(
                names
                    .check(&path, &headers(&[("host", good)]), None)
                    .is_ok(),
                "{good}"
            );
        }
        for bad in [
            "evil.test",
            "evil.test:7717",
            "127.0.0.1.evil.test",
            "localhost@evil.test",
            "::1",
            "",
            "localhost:80:80",
            "10.0.0.1",
        ] {
            assert!(
                names
                    .check(&path, &headers(&[("host", bad)]), None)
                    .is_err(),
                "{bad}"
            );
        }
        assert!(names.check(&path, &headers(&[]), None).is_err());
        let two = headers(&[("host", "localhost"), ("host", "evil.test")]);
        assert!(names.check(&path, &two, None).is_err());
    }

    #[test]
    fn an_absolute_target_must_be_ours_too() {
        let names = HostNames::new(&[]);
        let target = Uri::from_static("http://evil.test/api/v1/nodes");
        assert!(
            names
                .check(&target, &headers(&[("host", "localhost")]), None)
                .is_err()
        );
    }

    #[test]
    fn the_address_that_was_reached_is_a_name_of_ours() {
        let names = HostNames::new(&[]);
        let passes = |host, local: &str| {
            let local = Some(local.parse().unwrap());
            let headers = headers(&[("host", host)]);
            names.check(&Uri::from_static("/"), &headers, local).is_ok()
        };
        assert!(passes("10.0.0.1:7717", "10.0.0.1"));
        assert!(passes("10.0.0.1", "::ffff:10.0.0.1"));
        assert!(passes("[fd00::1]:7717", "fd00::1"));
        assert!(!passes("10.0.0.2:7717", "10.0.0.1"));
        assert!(!passes("evil.test", "10.0.0.1"));
    }

    #[test]
    fn only_the_same_origin_passes() {
        let host = ("host", "localhost:7717");
        assert!(check_origin(&headers(&[host])).is_ok());
        assert!(check_origin(&headers(&[host, ("origin", "http://localhost:7717")])).is_ok());
        for bad in [
            "null",
            "",
            "http://localhost",
            "http://localhost:1",
            "http://evil.test",
            "localhost:7717",
            "http://localhost:7717.evil.test",
            "ftp://localhost:7717",
        ] {
            assert!(
                check_origin(&headers(&[host, ("origin", bad)])).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn what_another_site_caused_is_refused_though_it_has_no_origin() {
        let host = ("host", "localhost:7717");
        for good in ["same-origin", "none"] {
            assert!(check_origin(&headers(&[host, ("sec-fetch-site", good)])).is_ok());
        }
        // "same-site" is another port of the same host: a page of whoever listens there.
        for bad in ["cross-site", "same-site", "", "Same-Origin"] {
            let headers = headers(&[host, ("sec-fetch-site", bad)]);
            assert!(check_origin(&headers).is_err(), "{bad}");
        }
        let both = [
            host,
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-site", "cross-site"),
        ];
        assert!(check_origin(&headers(&both)).is_err());
    }
}
