//! Nothing is left: no thread, however many are connected; and an end is quick.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use aqueduct_dashboard::{Dashboard, DashboardConfig, DashboardError};
use aqueduct_runtime::testing::{Gate, assert_no_threads_left, eventually, our_threads};

use crate::{Events, cluster, connect, get, held_up, serve};

/// Well under this an end is quick.
const QUICK: Duration = Duration::from_millis(500);

#[test]
fn an_end_is_quick_and_leaves_no_thread_whoever_is_connected() {
    let cluster = cluster();
    let gate = Gate::shut();
    let job = held_up(&cluster, &gate);
    let dashboard = serve(&cluster);
    eventually("the thread has its name", || our_threads().iter().any(|name| name == "aq-dashboard"));
    let mut watching: Vec<_> = (0..10).map(|_| Events::open(dashboard.address(), "/events?job=0")).collect();
    watching.iter_mut().for_each(|events| drop(events.next("job")));
    let silent = connect(dashboard.address());
    let start = Instant::now();
    dashboard.close();
    let took = start.elapsed();
    assert!(took < QUICK, "{took:?}");
    assert!(!our_threads().iter().any(|name| name.starts_with("aq-dash") || name.starts_with("actix-server")));
    drop((silent, watching));
    // The job goes on.
    assert_eq!(job.state(), aqueduct_runtime::metrics::JobState::Running);
    drop(job);
    cluster.close();
    assert_no_threads_left();
}

#[test]
fn a_dashboard_outlives_its_cluster_and_says_so() {
    let cluster = cluster();
    let dashboard = serve(&cluster);
    let mut events = Events::open(dashboard.address(), "/events");
    assert_eq!(get(&dashboard, "/health").json()["status"], "ok");
    cluster.close();
    let answer = get(&dashboard, "/health");
    assert_eq!((answer.status, answer.json()["status"].as_str()), (503, Some("closed")));
    while events.next("overview")["closed"] == false {}
    assert_eq!(get(&dashboard, "/metrics").status, 200);
    dashboard.close();
    assert_no_threads_left();
}

#[test]
fn a_port_in_use_is_an_error_if_it_was_asked_for_and_else_the_next_is_taken() {
    let cluster = cluster();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let error = Dashboard::start(cluster.observer(), DashboardConfig::default().port(port)).expect_err("in use");
    assert!(matches!(error, DashboardError::Address { .. }));
    assert!(error.to_string().contains(&port.to_string()), "{error}");
    let many: Vec<_> = (0..25)
        .map(|_| Dashboard::start(cluster.observer(), DashboardConfig::default()).expect("any that is free"))
        .collect();
    let mut ports: Vec<_> = many.iter().map(|dashboard| dashboard.address().port()).collect();
    assert!(many.iter().all(|dashboard| dashboard.link() == format!("http://{}/", dashboard.address())));
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 25);
}

#[test]
fn any_address_but_loopback_has_a_token() {
    let cluster = cluster();
    let everywhere = || DashboardConfig::default().address(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).port(0);
    let dashboard = Dashboard::start(cluster.observer(), everywhere()).expect("it starts");
    let token = dashboard.link().split("token=").nth(1).expect("a token in the link").to_string();
    assert_eq!(token.len(), 32);
    assert_eq!(get(&dashboard, "/api/overview").status, 401);
    assert_eq!(get(&dashboard, &format!("/api/overview?token={token}")).status, 303);
    for token in ["", "short", "with spaces in it, and commas"] {
        let error = Dashboard::start(cluster.observer(), everywhere().token(token)).expect_err("no token");
        assert!(matches!(error, DashboardError::Token), "{error}");
    }
}
