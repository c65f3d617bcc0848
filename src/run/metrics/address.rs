//! Where metrics are served: a port of this machine alone, unless an address says otherwise.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

/// An address to listen at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricsAddress(pub SocketAddr);

impl FromStr for MetricsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let local = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let port = text.strip_prefix("localhost:").unwrap_or(text);
        let address = port.parse().map(local).ok().or_else(|| text.parse().ok());
        // `:9400` is no port alone: to many programs it means all addresses of the machine.
        address.map(MetricsAddress).ok_or_else(|| {
            "expected a port, which only this machine can reach, or ADDRESS:PORT such as `0.0.0.0:9400`".to_string()
        })
    }
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_port_is_this_machines_alone() {
        let parse = |text: &str| text.parse::<MetricsAddress>().map(|address| address.to_string());
        assert_eq!(parse("9400").as_deref(), Ok("127.0.0.1:9400"));
        assert_eq!(parse("localhost:9400").as_deref(), Ok("127.0.0.1:9400"));
        assert_eq!(parse("0.0.0.0:9400").as_deref(), Ok("0.0.0.0:9400"));
        assert_eq!(parse("[::1]:9400").as_deref(), Ok("[::1]:9400"));
        for wrong in [":9400", "70000", "here", "10.0.0.1", ""] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
