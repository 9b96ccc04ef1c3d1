//! What the ranks of a gang are told of each other: the variables that torchrun sets for its workers, and those that it
//! reads itself.

use std::net::{IpAddr, Ipv4Addr, TcpListener};

use types::{NodeId, WantedAttempt};

use crate::error::{ErrorKind, ServiceError};
use crate::handle::Handle;

impl Handle {
    /// The variables by which the ranks of an attempt find each other, without those that its submitter set; none for an
    /// only rank.
    ///
    /// # Errors
    /// This is the node of the first rank, and the port where it is to listen is taken: another attempt gets another.
    pub fn gang_variables(
        &self,
        wanted: &WantedAttempt,
    ) -> Result<Vec<(String, String)>, ServiceError> {
        let Some(first) = wanted.gang.first() else {
            return Ok(Vec::new());
        };
        let port = wanted.master_port();
        let mut variables = variables(wanted, &self.meeting_host(first), port);
        let own = &wanted.spec.variables;
        variables.retain(|(name, _)| own.iter().all(|(set, _)| set != name));
        if wanted.rank == 0 && variables.iter().any(|(name, _)| name == "MASTER_PORT") {
            check_free(port)?;
        }
        Ok(variables)
    }

    /// Where this node reaches another one, or itself.
    fn meeting_host(&self, node: &NodeId) -> String {
        let facts = self.member_facts();
        let addresses = |node: &NodeId| {
            let facts = facts.get(node);
            let texts = facts.map_or(&[][..], |facts| &facts.control_addresses);
            texts.iter().filter_map(|text| host_of(text)).collect()
        };
        let theirs: Vec<_> = addresses(node);
        let is_here = node == self.node_id();
        let mine = if is_here {
            Vec::new()
        } else {
            addresses(self.node_id())
        };
        choose_host(&theirs, &mine).unwrap_or_else(|| Ipv4Addr::LOCALHOST.to_string())
    }
}

/// Nobody listens there now. Somebody may a moment later: then the first rank fails with that message.
fn check_free(port: u16) -> Result<(), ServiceError> {
    match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
        Ok(_closed_at_once) => Ok(()),
        Err(error) => {
            let message = format!(
                "port {port}, where its ranks were to meet, cannot be used on this machine: {error}"
            );
            let error = ServiceError::new(ErrorKind::Unavailable, "port-taken", message);
            Err(error.hint(
                "the next attempt takes another port; --env MASTER_PORT=NUMBER sets one for all",
            ))
        }
    }
}

fn variables(wanted: &WantedAttempt, host: &str, port: u16) -> Vec<(String, String)> {
    let (rank, nodes) = (wanted.rank.to_string(), wanted.gang.len().to_string());
    // One worker for each GPU is what torchrun needs to be told; without GPUs it starts one.
    let workers = wanted.resources.gpus.len().max(1).to_string();
    let (host, port) = (host.to_owned(), port.to_string());
    let named = [
        ("MASTER_ADDR", host.clone()),
        ("MASTER_PORT", port.clone()),
        ("WORLD_SIZE", nodes.clone()),
        ("RANK", rank.clone()),
        ("NODE_RANK", rank.clone()),
        ("LOCAL_RANK", "0".to_owned()),
        ("LOCAL_WORLD_SIZE", "1".to_owned()),
        ("PET_NNODES", nodes),
        ("PET_NODE_RANK", rank),
        ("PET_NPROC_PER_NODE", workers),
        ("PET_MASTER_ADDR", host),
        ("PET_MASTER_PORT", port),
    ];
    named
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// The host of an address such as `/ip4/10.0.0.5/tcp/7001`.
fn host_of(address: &str) -> Option<String> {
    let mut parts = address.split('/').skip(1);
    match (parts.next()?, parts.next()?) {
        ("ip4" | "ip6" | "dns" | "dns4" | "dns6", host) => Some(host.to_owned()),
        _ => None,
    }
}

/// The address of another machine that is most surely reached from one with these addresses: not one that both have, such
/// as that of a bridge for containers, IPv4 before IPv6, and of several the one in the network that both are in. Without
/// others the machines are one, and meet at what both have.
fn choose_host(theirs: &[String], mine: &[String]) -> Option<String> {
    let usable = theirs.iter().filter(|host| match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => !address.is_loopback() && !address.is_link_local(),
        Ok(IpAddr::V6(address)) => !address.is_loopback() && !address.is_unicast_link_local(),
        Err(_a_name) => true,
    });
    let far = usable.filter(|host| !mine.contains(host));
    let best = far.max_by_key(|host| {
        let alike = mine.iter().map(|own| alike_bits(own, host)).max();
        // The first among equals: nodes list the address of their configuration first.
        let place = theirs.iter().position(|one| one == *host);
        (!host.contains(':'), alike, std::cmp::Reverse(place))
    });
    best.or(theirs.first()).cloned()
}

/// How many bits two addresses begin with in common; none for names and for those of differing kinds.
fn alike_bits(one: &str, other: &str) -> u32 {
    match (one.parse(), other.parse()) {
        (Ok(IpAddr::V4(one)), Ok(IpAddr::V4(other))) => {
            (one.to_bits() ^ other.to_bits()).leading_zeros()
        }
        (Ok(IpAddr::V6(one)), Ok(IpAddr::V6(other))) => {
            (one.to_bits() ^ other.to_bits()).leading_zeros()
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn chosen(theirs: &[&str], mine: &[&str]) -> String {
        choose_host(&hosts(theirs), &hosts(mine)).unwrap()
    }

    #[test]
    fn machines_meet_in_the_network_that_both_are_in() {
        let theirs = ["127.0.0.1", "172.17.0.1", "192.168.7.4", "10.0.0.5"];
        let mine = ["127.0.0.1", "172.17.0.1", "10.0.0.9"];
        assert_eq!(chosen(&theirs, &mine), "10.0.0.5");
        assert_eq!(chosen(&theirs, &["192.168.7.9"]), "192.168.7.4");
        assert_eq!(
            chosen(&["fe80::1", "2001:db8::5"], &["2001:db8::9"]),
            "2001:db8::5"
        );
        assert_eq!(
            chosen(&["2001:db8::5", "10.0.0.5"], &["2001:db8::9"]),
            "10.0.0.5"
        );
        assert_eq!(chosen(&["10.0.0.5", "192.168.7.4"], &[]), "10.0.0.5");
    }

    #[test]
    fn nodes_on_one_machine_meet_at_what_both_have() {
        assert_eq!(chosen(&["127.0.0.1"], &["127.0.0.1"]), "127.0.0.1");
        assert_eq!(chosen(&["10.0.0.5"], &["10.0.0.5"]), "10.0.0.5");
        assert_eq!(choose_host(&[], &hosts(&["10.0.0.5"])), None);
    }

    #[test]
    fn hosts_are_read_out_of_addresses() {
        assert_eq!(host_of("/ip4/10.0.0.5/tcp/7001/p2p/x").unwrap(), "10.0.0.5");
        assert_eq!(host_of("/ip6/::1/udp/7001/quic-v1").unwrap(), "::1");
        assert_eq!(host_of("/dns4/anna.lab/tcp/7001").unwrap(), "anna.lab");
        assert_eq!(host_of("/memory/7"), None);
        assert_eq!(host_of(""), None);
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_refused_with_what_to_do() {
        let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = check_free(port).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable, "it is tried elsewhere");
        assert!(error.message.contains(&port.to_string()), "{error}");
        assert!(error.hint.contains("MASTER_PORT"), "{error:?}");
    }
}
