//! Any bytes at all, as what a client sends: the fuzz target `requests`, whose corpus is replayed here.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::LazyLock;
use std::time::Duration;

use aqueduct_dashboard::{Dashboard, DashboardConfig};
use aqueduct_runtime::testing::{CountingSink, NumbersSource};
use aqueduct_runtime::{Cluster, ClusterConfig, Graph};

/// A cluster with one job behind it, and its page.
static SERVED: LazyLock<(Cluster, Dashboard)> = LazyLock::new(|| {
    let config = ClusterConfig { workers: 1, memory_limit_bytes: 64 << 20, ..ClusterConfig::default() };
    let cluster = Cluster::start(config).expect("the cluster starts");
    let mut graph = Graph::new();
    let source = graph.source("numbers", NumbersSource::new(1000));
    graph.sink("write", CountingSink::new(), source);
    cluster.run(&graph).expect("it starts").wait().expect("it ends well");
    let config = DashboardConfig::default().port(0).interval(Duration::from_millis(20));
    let dashboard = Dashboard::start(cluster.observer(), config).expect("it starts");
    (cluster, dashboard)
});

/// Sends `data`, and nothing more: what comes back is no answer or one that begins as answers do, the server has no
/// trouble of its own with it, and nothing is cancelled by who does not know the page's secret.
pub(crate) fn requests(data: &[u8]) {
    let mut stream = TcpStream::connect(SERVED.1.address()).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time limit");
    // Whoever refuses may close before all is sent.
    let _ = stream.write_all(data);
    let _ = stream.shutdown(Shutdown::Write);
    let mut said = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => said.extend_from_slice(&piece[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            // A fuzzer's clock.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => panic!("no end of an answer: {error}: {}", String::from_utf8_lossy(&said)),
        }
        // Events go on for as long as somebody listens.
        if said.windows(17).any(|piece| piece == b"text/event-stream") {
            break;
        }
    }
    if said.is_empty() {
        return;
    }
    let status = said.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5));
    let status = status.and_then(|status| std::str::from_utf8(status).ok()?.parse::<u16>().ok());
    let shown = || String::from_utf8_lossy(&said).into_owned();
    let status = status.unwrap_or_else(|| panic!("no answer: {}", shown()));
    assert!(status < 500 || status == 503, "{}", shown());
    // Done, or too late: either was allowed.
    assert!(status != 202 && status != 409, "a stranger cancels: {}", shown());
}

#[cfg(not(fuzzing))]
#[test]
fn the_corpus_of_the_fuzz_target_is_answered() {
    aqueduct_runtime::testing::hostile::replay("requests", requests);
    requests(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
}
