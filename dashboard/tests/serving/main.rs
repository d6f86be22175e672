//! The dashboard from the outside: over sockets, with nothing between.

mod alone;
mod api;
mod browser;
mod bytes;
mod ends;
mod hostile;
mod overrun;
mod prometheus;
mod report;
mod trace;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use aqueduct_dashboard::{Dashboard, DashboardConfig};
use aqueduct_runtime::testing::{CountingSink, EndlessSource, Gate, NumbersSource, eventually};
use aqueduct_runtime::{Cluster, ClusterConfig, Graph, Job};

const MIB: usize = 1 << 20;

fn cluster() -> Cluster {
    let config = ClusterConfig { workers: 2, memory_limit_bytes: 64 * MIB, ..ClusterConfig::default() };
    Cluster::start(config).expect("the cluster starts")
}

fn serve(cluster: &Cluster) -> Dashboard {
    serve_as(cluster, DashboardConfig::default())
}

fn serve_as(cluster: &Cluster, config: DashboardConfig) -> Dashboard {
    Dashboard::start(cluster.observer(), config.port(0).interval(Duration::from_millis(20))).expect("it starts")
}

/// A job that is held up at `gate`.
fn held_up(cluster: &Cluster, gate: &Gate) -> Job {
    let mut graph = Graph::new();
    let source = graph.source("a \"quoted\"\\ name", EndlessSource::new());
    let work = graph.map("work", source.hash(["n"]), Ok);
    graph.sink("write", CountingSink::new().gated(gate), work);
    let job = cluster.run(&graph).expect("it starts");
    eventually("it runs", || job.metrics().edges[0].queued_bytes > 0);
    job
}

fn short(cluster: &Cluster) {
    let mut graph = Graph::new();
    let source = graph.source("numbers", NumbersSource::new(1000));
    graph.sink("write", CountingSink::new(), source);
    cluster.run(&graph).expect("it starts").wait().expect("it ends well");
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The message of a refusal.
    fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_else(|| panic!("no error: {}", self.body)).to_string()
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
    stream
}

/// Sends `request` as it is, and reads one answer.
fn raw(address: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = connect(address);
    // Whoever refuses may close before all is sent.
    let _ = stream.write_all(request);
    answer(&mut BufReader::new(stream))
}

fn head(reader: &mut impl BufRead) -> (u16, Vec<(String, String)>) {
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).expect("an answer");
        line.trim_end().to_string()
    };
    let status = line();
    let status = status.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{status}"));
    let mut headers = Vec::new();
    loop {
        let line = line();
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_string(), value.trim().to_string()));
    }
    (status, headers)
}

fn answer(reader: &mut impl BufRead) -> Answer {
    let (status, headers) = head(reader);
    let mut answer = Answer { status, headers, body: String::new() };
    let length = answer.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    std::io::Read::read_exact(reader, &mut body).expect("the whole body");
    answer.body = String::from_utf8(body).expect("text");
    answer
}

fn ask(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let host = format!("127.0.0.1:{}", address.port());
    let mut request = format!("{method} {path} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| *name == "host") {
        request += &format!("host: {host}\r\n");
    }
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    raw(address, format!("{request}connection: close\r\n\r\n").as_bytes())
}

fn get(dashboard: &Dashboard, path: &str) -> Answer {
    ask(dashboard.address(), "GET", path, &[])
}

/// A stream of events.
struct Events(BufReader<TcpStream>);

impl Events {
    fn open(address: SocketAddr, path: &str) -> Self {
        let mut stream = connect(address);
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("it listens");
        let mut reader = BufReader::new(stream);
        let (status, headers) = head(&mut reader);
        assert_eq!(status, 200, "{headers:?}");
        Self(reader)
    }

    /// The next event of this name.
    fn next(&mut self, name: &str) -> serde_json::Value {
        let mut wanted = false;
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).expect("an event") > 0, "the stream has ended");
            if let Some(event) = line.trim_end().strip_prefix("event: ") {
                wanted = event == name;
            }
            if let Some(data) = line.strip_prefix("data: ")
                && wanted
            {
                return serde_json::from_str(data).expect("JSON");
            }
        }
    }
}
