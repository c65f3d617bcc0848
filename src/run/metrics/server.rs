//! A listener that answers `GET /metrics`, one request a connection, and nothing else. It only ever reads numbers, so whoever asks
//! cannot disturb the run.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::address::MetricsAddress;
use super::exposition::CONTENT_TYPE;
use crate::error::{Error, ErrorKind, Location, Result};

/// How long a client may take for its request or the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest request.
const REQUEST: usize = 8 << 10;

/// Serves until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at `address`; `text` gives the answer.
    ///
    /// # Errors
    /// Kind `Usage`: the port is in use, or the address is not this machine's.
    pub fn start(address: MetricsAddress, text: impl Fn() -> String + Send + 'static) -> Result<Server> {
        let listener = TcpListener::bind(address.0).map_err(|error| cannot_listen(address, error))?;
        let address = listener.local_addr().map_err(|error| cannot_listen(address, error))?;
        let over = Arc::new(AtomicBool::new(false));
        let is_over = over.clone();
        let thread = thread::spawn(move || {
            for connection in listener.incoming() {
                if is_over.load(Ordering::Acquire) {
                    break;
                }
                // A client that goes away or talks nonsense is its own business.
                let _ = connection.and_then(|connection| answer(connection, &text));
            }
        });
        Ok(Server { address, over, thread: Some(thread) })
    }

    /// Returns the address, with the port that was given out where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        // Wakes the thread, which waits for a connection.
        let mut own = self.address;
        if own.ip().is_unspecified() {
            own.set_ip(if own.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
        }
        let woken = TcpStream::connect_timeout(&own, PATIENCE).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            let _ = thread.join();
        }
    }
}

fn cannot_listen(address: MetricsAddress, error: io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => "another program, or another run, has this port: give a free one, or 0 for any",
        _ => "give a port alone to listen on 127.0.0.1, or an address of this machine",
    };
    Error::new(ErrorKind::Usage, "metrics_addr", format!("cannot listen for metrics: {error}"))
        .at(Location::file(format!("--metrics-addr {address}")))
        .hint(hint)
        .source(error)
}

fn answer(mut connection: TcpStream, text: &dyn Fn() -> String) -> io::Result<()> {
    connection.set_write_timeout(Some(PATIENCE))?;
    let request = read_request(&mut connection)?;
    let (status, kind, body) = match request.split(' ').collect::<Vec<_>>()[..] {
        ["GET", "/metrics", ..] => ("200 OK", CONTENT_TYPE, text()),
        ["GET", ..] => ("404 Not Found", "text/plain", "see /metrics\n".to_string()),
        _ => ("405 Method Not Allowed", "text/plain", "only GET\n".to_string()),
    };
    let length = body.len();
    write!(
        connection,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// Reads a request to the end of its headers; returns its first line.
fn read_request(connection: &mut TcpStream) -> io::Result<String> {
    let deadline = Instant::now() + PATIENCE;
    let (mut request, mut buffer) = (Vec::new(), [0; 1024]);
    while !request.windows(4).any(|four| four == b"\r\n\r\n") && request.len() < REQUEST {
        let left = deadline.saturating_duration_since(Instant::now());
        connection.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match connection.read(&mut buffer)? {
            0 => break,
            read => request.extend_from_slice(&buffer[..read]),
        }
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn get(address: SocketAddr, request: &str) -> String {
        let mut connection = TcpStream::connect(address).unwrap();
        connection.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn it_answers_scrapes_and_frees_its_port() {
        let server = Server::start("0".parse().unwrap(), || "a 1\n".to_string()).unwrap();
        let address = server.address();
        let answer = get(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\na 1\n"), "{answer}");
        assert!(answer.contains("text/plain; version=0.0.4"), "{answer}");
        assert!(get(address, "GET / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 404"));
        assert!(get(address, "POST /metrics HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 405"));
        let taken = Server::start(MetricsAddress(address), String::new).unwrap_err();
        assert_eq!((taken.kind(), taken.code()), (ErrorKind::Usage, "metrics_addr"));
        assert!(taken.how_to_fix().unwrap().contains("another program"), "{taken}");
        drop(server);
        Server::start(MetricsAddress(address), String::new).unwrap();
    }
}
