//! How little a bulk connection keeps in flight, so that what control sends never waits long behind it.
//!
//! A transfer that may fill the kernel's send buffer (4 MiB) also fills the queue of the slowest hop, and every
//! heartbeat then waits behind all of it: at 20 Mbit/s for longer than an election takes. A socket with a small send
//! buffer has no more than that under way, whatever the congestion control of the kernel and the load of the
//! processors are.

use std::net::IpAddr;
use std::time::Duration;

use libp2p::tcp::tokio::TcpStream;
use rustix::net::sockopt;

use crate::admission::PlaneKind;
use crate::links::Links;

/// Under way at once on the shortest path: 26 ms of a link of 20 Mbit/s, and over 1 Gbit/s at 0.5 ms of round trip.
const SHORT_PATH_BYTES: u64 = 64 << 10;
/// Per second of round trip besides: 100 Mbit/s on a long path, as far as `net.core.wmem_max` lets it.
const LONG_PATH_BYTES_PER_SECOND: u64 = 12_500_000;
/// The kernel books twice the size that it is asked for, and full segments use nearly all of it.
const KERNEL_FACTOR: u64 = 2;
/// `IPTOS_THROUGHPUT`: the last band of a host's own queue.
const BULK_SERVICE: u8 = 0x08;
/// `IPTOS_LOWDELAY`: the first band of a host's own queue.
const CONTROL_SERVICE: u8 = 0x10;

/// Prepares a fresh TCP connection of a plane. `control` knows the round trips to the hosts of members.
pub(crate) fn prepare(plane: PlaneKind, stream: &TcpStream, control: &Links) {
    let TcpStream(stream) = stream;
    let Ok(peer) = stream.peer_addr() else {
        return; // Gone already.
    };
    let service = match plane {
        PlaneKind::Control => CONTROL_SERVICE,
        PlaneKind::Bulk => BULK_SERVICE,
    };
    let set = if peer.is_ipv4() {
        sockopt::set_ip_tos(stream, service)
    } else {
        sockopt::set_ipv6_tclass(stream, u32::from(service))
    };
    if let Err(error) = set {
        // A hint to routers and the own queue; the send buffer below is what counts.
        tracing::debug!(%error, "type of service not set");
    }
    if plane == PlaneKind::Bulk {
        let host = peer.ip().to_canonical();
        if let Some(bytes) = in_flight_bytes(host, control.shortest_round_trip(host)) {
            hold_little(stream, bytes);
        }
    }
}

/// Lets no more than this be under way on a connection.
fn hold_little(stream: &tokio::net::TcpStream, bytes: u64) {
    let bytes = usize::try_from(bytes / KERNEL_FACTOR).unwrap_or(usize::MAX);
    if let Err(error) = sockopt::set_socket_send_buffer_size(stream, bytes) {
        tracing::warn!(%error, "send buffer of a bulk connection not set; a transfer may delay heartbeats");
    }
}

/// What may be under way at once on a path; none on the machine itself: there is no hop to fill, and one segment there
/// is as large as all of this, so that each would wait 40 ms for its acknowledgement.
fn in_flight_bytes(host: IpAddr, round_trip: Option<Duration>) -> Option<u64> {
    if host.is_loopback() {
        return None;
    }
    let micros = round_trip.map_or(0, |round_trip| round_trip.as_micros());
    let micros = u64::try_from(micros).unwrap_or(u64::MAX);
    let long = micros.saturating_mul(LONG_PATH_BYTES_PER_SECOND) / 1_000_000;
    Some(SHORT_PATH_BYTES.saturating_add(long))
}

/// The host part of an address of the control plane.
pub(crate) fn host_of(address: &libp2p::Multiaddr) -> Option<IpAddr> {
    use libp2p::multiaddr::Protocol;
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => Some(IpAddr::V4(ip)),
        Some(Protocol::Ip6(ip)) => Some(IpAddr::V6(ip).to_canonical()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use libp2p::PeerId;
    use libp2p::swarm::ConnectionId;

    use super::*;

    #[tokio::test]
    async fn a_bulk_socket_holds_little_and_more_on_a_long_path() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let fresh = async || TcpStream(tokio::net::TcpStream::connect(address).await.unwrap());
        let booked = |stream: &TcpStream| sockopt::socket_send_buffer_size(&stream.0).unwrap();
        let links = Links::default();
        let control = fresh().await;
        let before = booked(&control);
        prepare(PlaneKind::Control, &control, &links);
        assert_eq!(booked(&control), before);
        assert_eq!(sockopt::ip_tos(&control.0).unwrap(), CONTROL_SERVICE);

        let own = fresh().await;
        prepare(PlaneKind::Bulk, &own, &links);
        assert_eq!(booked(&own), before, "on this machine there is no hop");
        assert_eq!(sockopt::ip_tos(&own.0).unwrap(), BULK_SERVICE);

        let host = IpAddr::from([10, 0, 0, 1]);
        let near = in_flight_bytes(host, None).expect("a limit");
        hold_little(&own.0, near);
        assert_eq!(booked(&own), 64 << 10);

        let (peer, id) = (PeerId::random(), ConnectionId::new_unchecked(1));
        links.connected(peer, id, "/ip4/10.0.0.1/tcp/1".parse().unwrap());
        for millis in [9, 8, 90] {
            links.answered(&peer, id, Duration::from_millis(millis));
        }
        let far = in_flight_bytes(host, links.shortest_round_trip(host));
        assert_eq!(far, Some((64 << 10) + 100_000), "8 ms at 100 Mbit/s");
        assert_eq!(in_flight_bytes([127, 0, 0, 1].into(), None), None);
    }
}
