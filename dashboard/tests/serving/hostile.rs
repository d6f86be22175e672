//! What no browser of ours sends: each gets a clear answer, nothing leaks, and the job goes on.

use std::io::{BufReader, Read, Write};
use std::time::{Duration, Instant};

use aqueduct_dashboard::DashboardConfig;
use aqueduct_runtime::metrics::JobState;
use aqueduct_runtime::testing::Gate;

use crate::{Events, answer, ask, cluster, connect, get, held_up, raw, serve, serve_as};

#[test]
fn only_hosts_of_ours_are_served() {
    let cluster = cluster();
    let dashboard = serve(&cluster);
    let with = |host: &str| ask(dashboard.address(), "GET", "/api/overview", &[("host", host)]);
    for ours in ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:8787", "127.0.0.9"] {
        assert_eq!(with(ours).status, 200, "{ours}");
    }
    for theirs in [
        "evil.example",
        "evil.example:8787",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "8.8.8.8",
        "0.0.0.0",
        "[::2]",
        ":80",
        "",
        "localhost:port",
        "localhost:99999",
        "user@localhost",
        "localhost/",
    ] {
        let answer = with(theirs);
        assert_eq!(answer.status, 400, "{theirs}");
        assert!(!answer.body.contains("workers"), "{theirs}");
    }
    for request in [
        "GET /api/overview HTTP/1.1\r\n\r\n",
        "GET /api/overview HTTP/1.0\r\n\r\n",
        "GET /api/overview HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n\r\n",
        "GET http://evil.example/api/overview HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ] {
        assert_eq!(raw(dashboard.address(), request.as_bytes()).status, 400, "{request}");
    }
}

#[test]
fn other_methods_paths_and_bodies_are_refused() {
    let cluster = cluster();
    let dashboard = serve(&cluster);
    for method in ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "HEAD", "CONNECT", "BREW"] {
        let stream = ask(dashboard.address(), if method == "HEAD" { "PATCH" } else { method }, "/api/overview", &[]);
        assert!([400, 405].contains(&stream.status), "{method}: {}", stream.status);
    }
    for path in [
        "/nothing",
        "/api",
        "/api/jobs/",
        "/api/jobs/x",
        "/api/jobs/-1",
        "/api/jobs/99999999999999999999999",
        "/api/jobs/0/nodes/x",
        "/api/jobs/0",
        "/assets/",
        "/assets/../src/lib.rs",
        "/assets/%2e%2e/%2e%2e/etc/passwd",
        "/../../etc/passwd",
        "//etc/passwd",
        "/%00",
        "/%ff%fe",
        "/events?job=99",
        "/api/jobs%2F0",
    ] {
        let answer = get(&dashboard, path);
        assert!([400, 404].contains(&answer.status), "{path}: {}", answer.status);
        assert!(!answer.body.contains("root:"), "{path}");
        assert!(!answer.error().is_empty(), "{path}: every refusal says why, as JSON");
    }
    for path in ["/events?job=x", "/api/jobs?state[]=1&state=2&state=3", "/api/jobs?state=done"] {
        assert_eq!(get(&dashboard, path).status, 400, "{path}");
    }
    assert_eq!(get(&dashboard, &format!("/{}", "a".repeat(3000))).status, 414);
    let large = [("content-length", "1000000000")];
    assert_eq!(ask(dashboard.address(), "POST", "/api/jobs/0/cancel", &large).status, 413);
    let endless = [("transfer-encoding", "chunked")];
    assert_eq!(ask(dashboard.address(), "POST", "/api/jobs/0/cancel", &endless).status, 411);
    assert_eq!(ask(dashboard.address(), "GET", "/health", &endless).status, 411);
    assert_eq!(get(&dashboard, "/health").status, 200);
}

#[test]
fn huge_heads_are_refused() {
    let cluster = cluster();
    let dashboard = serve(&cluster);
    let large = "x".repeat(20_000);
    assert_eq!(ask(dashboard.address(), "GET", "/health", &[("x-large", &*large)]).status, 431);
    let names: Vec<String> = (0..200).map(|index| format!("x-{index}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), "1")).collect();
    assert!([400, 431].contains(&ask(dashboard.address(), "GET", "/health", &many).status));
    // A head without an end is cut off long before it fills the memory.
    let mut stream = connect(dashboard.address());
    let _ = write!(stream, "GET /health HTTP/1.1\r\nhost: localhost\r\nx-endless: ");
    let mut sent = 0_usize;
    while sent < 64 << 20 && stream.write_all(&[b'x'; 65_536]).is_ok() {
        sent += 65_536;
    }
    assert!(sent < 64 << 20, "it takes whatever comes");
    assert_eq!(get(&dashboard, "/health").status, 200);
}

#[test]
fn what_is_no_request_is_answered_or_cut_off() {
    let cluster = cluster();
    let dashboard = serve(&cluster);
    for request in [
        &b"\x00\x01\x02\x03\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nhost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
    ] {
        let mut stream = connect(dashboard.address());
        stream.write_all(request).expect("it listens");
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text);
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{:?}: {text}", String::from_utf8_lossy(request));
    }
    assert_eq!(get(&dashboard, "/health").status, 200);
}

#[test]
fn without_the_token_nothing_is_told() {
    let cluster = cluster();
    let token = "a-token-that-nobody-guesses";
    let dashboard = serve_as(&cluster, DashboardConfig::default().token(token));
    assert_eq!(dashboard.link(), format!("http://{}/?token={token}", dashboard.address()));
    let with = |path: &str, headers: &[(&str, &str)]| ask(dashboard.address(), "GET", path, headers);
    for path in
        ["/", "/assets/app.js", "/events", "/metrics", "/openapi.json", "/api/overview", "/api/session", "/nothing"]
    {
        let answer = with(path, &[]);
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{path}");
        assert!(answer.error().contains("token") && !answer.body.contains(token));
    }
    assert_eq!(with("/health", &[]).status, 200);
    for guess in ["", "a", "a-token-that-nobody-guesse", "a-token-that-nobody-guessesX", &token.to_uppercase()] {
        let bearer = format!("Bearer {guess}");
        let cookie = format!("aqueduct_token={guess}");
        let query = format!("/?token={guess}");
        assert_eq!(with("/", &[("authorization", &bearer)]).status, 401, "{guess}");
        assert_eq!(with("/", &[("cookie", &cookie)]).status, 401, "{guess}");
        assert_eq!(with(&query, &[]).status, 401, "{guess}");
    }
    let bearer = format!("Bearer {token}");
    assert_eq!(with("/metrics", &[("authorization", &bearer)]).status, 200);
    // The link puts the token in a cookie, and out of sight.
    let answer = with(&format!("//evil.example?token={token}"), &[]);
    assert_eq!((answer.status, answer.header("location")), (303, Some("/evil.example")));
    let answer = with(&format!("/?token={token}"), &[]);
    assert_eq!((answer.status, answer.header("location")), (303, Some("/")));
    let cookie = answer.header("set-cookie").expect("a cookie");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let cookie = format!("other=1; {}", cookie.split(';').next().expect("a value"));
    assert_eq!(with("/", &[("cookie", &cookie)]).status, 200);
    // With a cookie a page of ours must ask; with the header whoever knows the token may.
    let post = |headers: &[(&str, &str)]| ask(dashboard.address(), "POST", "/api/jobs/5/cancel", headers).status;
    assert_eq!(post(&[]), 401);
    assert_eq!(post(&[("cookie", &cookie)]), 403);
    assert_eq!(post(&[("authorization", &bearer)]), 404);
}

#[test]
fn slow_and_silent_clients_hold_nobody_up_and_are_cut_off() {
    let cluster = cluster();
    let dashboard = serve(&cluster);
    let gate = Gate::shut();
    let job = held_up(&cluster, &gate);
    let mut slow = connect(dashboard.address());
    slow.write_all(b"GET /hea").expect("it listens");
    let start = Instant::now();
    // Events that nobody reads.
    let unread: Vec<_> = (0..20).map(|_| Events::open(dashboard.address(), "/events?job=0")).collect();
    let mut read = Events::open(dashboard.address(), "/events?job=0");
    for _ in 0..50 {
        read.next("job");
        assert_eq!(get(&dashboard, "/health").status, 200);
    }
    // Half a request is answered after a while with what is wrong, or cut off.
    let mut text = String::new();
    let _ = slow.read_to_string(&mut text);
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 408"), "{text}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    drop((unread, read));
    assert_eq!(job.state(), JobState::Running);
}

#[test]
fn those_who_watch_are_so_many_and_no_more() {
    let cluster = cluster();
    let dashboard = serve(&cluster);
    let watching: Vec<_> = (0..32).map(|_| Events::open(dashboard.address(), "/events")).collect();
    let answer = get(&dashboard, "/events");
    assert_eq!(answer.status, 503);
    assert!(answer.error().contains("too many"), "{}", answer.body);
    assert_eq!(get(&dashboard, "/api/overview").status, 200);
    drop(watching);
    aqueduct_runtime::testing::eventually("there is room again", || {
        let mut stream = connect(dashboard.address());
        write!(stream, "GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("it listens");
        let mut line = String::new();
        std::io::BufRead::read_line(&mut BufReader::new(stream), &mut line).expect("an answer");
        line.contains("200")
    });
}

#[test]
fn several_requests_on_one_connection_are_answered_in_order() {
    let cluster = cluster();
    let dashboard = serve(&cluster);
    let mut stream = connect(dashboard.address());
    let request = "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\nGET /nothing HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("it listens");
    let mut reader = BufReader::new(stream);
    assert_eq!([answer(&mut reader).status, answer(&mut reader).status], [200, 404]);
}
