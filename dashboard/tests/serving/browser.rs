//! The pages in a real browser: the graph moves, the bottleneck is read off the page, a job is cancelled, and nothing is
//! asked of another host. Needs Debian's `chromium` and `chromium-driver`; left out, with a line that says so, without.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use aqueduct_runtime::Graph;
use aqueduct_runtime::metrics::JobState;
use aqueduct_runtime::testing::{CountingSink, EndlessSource, SlowOperator, eventually};
use serde_json::{Value, json};

use crate::{answer, cluster, connect, serve, short};

/// A browser without a window, driven by its driver.
pub(crate) struct Browser {
    driver: Child,
    /// Kept open: it may have more to say.
    _output: BufReader<ChildStdout>,
    address: SocketAddr,
    session: String,
}

impl Browser {
    /// `None` if there is no driver, or it has no browser.
    pub(crate) fn open(width: u32) -> Option<Self> {
        let spawned = Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let Ok(mut driver) = spawned else {
            eprintln!("LEFT OUT: there is no chromedriver: apt-get install chromium chromium-driver");
            return None;
        };
        let mut output = BufReader::new(driver.stdout.take().expect("piped"));
        let lines = output.by_ref().lines();
        let port = lines
            .map_while(Result::ok)
            .find_map(|line| line.split("successfully on port ").nth(1)?.trim_end_matches('.').parse().ok());
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.expect("it says its port")));
        let mut browser = Self { driver, _output: output, address, session: String::new() };
        let window = format!("--window-size={width},900");
        let options =
            json!({ "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", window] });
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let session = browser.post("/session", &wanted);
        let Some(id) = session["sessionId"].as_str() else {
            eprintln!("LEFT OUT: there is no browser: {session}");
            return None;
        };
        browser.session = format!("/session/{id}");
        Some(browser)
    }

    fn request(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut stream = connect(self.address);
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a time limit");
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n", self.address);
        let length = format!("content-length: {}\r\nconnection: close\r\n\r\n", body.len());
        stream.write_all(format!("{head}{length}{body}").as_bytes()).expect("it listens");
        answer(&mut BufReader::new(stream)).json()["value"].take()
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.request("POST", &format!("{}{path}", self.session), body)
    }

    pub(crate) fn go(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    pub(crate) fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Its console is empty.
    pub(crate) fn complains_of_nothing(&self) {
        let complaints = self.post("/se/log", &json!({ "type": "browser" }));
        assert_eq!(complaints, json!([]), "the console");
    }

    /// What is written in the first element that `selector` finds.
    pub(crate) fn text(&self, selector: &str) -> String {
        let found = self.run(&format!("return document.querySelector({})?.textContent ?? ''", json!(selector)));
        found.as_str().unwrap_or_default().to_string()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() && !std::thread::panicking() {
            self.request("DELETE", &self.session.clone(), &Value::Null);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

#[test]
fn a_person_sees_what_holds_a_job_up_and_cancels_it() {
    let Some(browser) = Browser::open(1280) else { return };
    let cluster = cluster();
    let dashboard = serve(&cluster);
    short(&cluster);
    let mut graph = Graph::new();
    let read = graph.source("read", EndlessSource::new().batch_rows(500));
    let heavy = graph.operator("heavy", SlowOperator::new(Duration::from_millis(4)), read.round_robin());
    graph.sink("write", CountingSink::new(), heavy);
    let job = cluster.run(&graph).expect("it starts");

    browser.go(dashboard.link());
    eventually("the job is there", || browser.text(".job h3").contains("read → write"));
    assert!(browser.text("#link") == "live" && browser.text(".worker h3") == "Worker 0");
    browser.run("document.querySelector('.job h3 a').click()");
    eventually("the bottleneck is named", || browser.text("#bottleneck code") == "heavy");
    assert!(browser.text("#bottleneck").contains("is busy"), "{}", browser.text("#bottleneck"));
    eventually("it is marked", || browser.text(".node.guilty .name") == "heavy");
    let rows = || browser.text(".node.sink .rows");
    let first = rows();
    eventually("the graph moves", || rows() != first);
    browser.run("document.querySelectorAll('.node')[1].dispatchEvent(new MouseEvent('click', { bubbles: true }))");
    eventually("partitions unfold", || browser.text(".below h2") == "Partitions of heavy");

    browser.run("document.querySelector('[data-cancel]').click()");
    eventually("it is asked whether that is meant", || {
        browser.post("/alert/accept", &json!({}));
        job.state() == JobState::Cancelled
    });
    eventually("the page says so", || browser.text(".jobhead .pill") == "cancelled");
    browser.go(&format!("{}#/jobs", dashboard.link()));
    eventually("history has both", || browser.run("return document.querySelectorAll('tbody tr').length") == 2);
    for page in ["memory", "timeline", "jobs/1/analysis", "jobs/1/plan"] {
        browser.go(&format!("{}#/{page}", dashboard.link()));
        eventually(page, || browser.text("main").len() > 50);
    }
    // It fits, it complains of nothing, and it has asked nobody else.
    assert_eq!(browser.run("return document.documentElement.scrollWidth <= innerWidth"), true);
    let asked = browser.run("return performance.getEntriesByType('resource').map((entry) => entry.name)");
    let asked = asked.as_array().expect("a list");
    assert!(
        !asked.is_empty() && asked.iter().all(|url| url.as_str().is_some_and(|url| url.starts_with(dashboard.link())))
    );
    browser.complains_of_nothing();
}

#[test]
fn a_report_is_drawn_from_a_file_and_hostile_names_do_nothing() {
    let Some(browser) = Browser::open(1280) else { return };
    let cluster = cluster();
    short(&cluster);
    crate::report::failed(&cluster);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("report.html");
    let observer = cluster.observer();
    std::fs::write(&path, aqueduct_dashboard::report(&observer, &observer.jobs())).expect("there is room");
    browser.go(&format!("file://{}", path.display()));
    for job in ["#job-0", "#job-1"] {
        for picture in ["picture-graph svg .node", "picture-timeline svg rect", "picture-memory svg polyline"] {
            eventually("it is drawn", || {
                browser.run(&format!("return !!document.querySelector('{job} .{picture}')")) == true
            });
        }
    }
    assert_eq!(browser.text("#job-1 .node .name").chars().take(9).collect::<String>(), "</script>");
    assert_eq!(browser.run("return document.title"), "2 jobs · Aqueduct");
    assert_eq!(browser.run("return document.images.length + document.scripts.length"), 2);
    assert_eq!(browser.run("return performance.getEntriesByType('resource').length"), 0, "nothing is loaded");
    assert_eq!(browser.run("return document.documentElement.scrollWidth <= innerWidth"), true);
    // Nor do they on the live pages.
    let dashboard = serve(&cluster);
    for page in ["", "jobs", "jobs/1", "jobs/1/analysis", "jobs/1/plan"] {
        browser.go(&format!("{}#/{page}", dashboard.link()));
        eventually(page, || browser.text("main").contains("</script><script>"));
        assert_eq!(
            browser.run("return document.title.includes('owned') || document.querySelectorAll('main img').length > 0"),
            false
        );
    }
    browser.complains_of_nothing();
}

#[test]
fn on_a_phone_every_page_fits() {
    let Some(browser) = Browser::open(500) else { return };
    let cluster = cluster();
    let dashboard = serve(&cluster);
    let mut graph = Graph::new();
    let read = graph.source("read", EndlessSource::new().batch_rows(500));
    let last = (0..6).fold(read, |input, index| graph.map(format!("map {index}"), input.hash(["n"]), Ok));
    graph.sink("write", CountingSink::new(), last);
    let _job = cluster.run(&graph).expect("it starts");
    browser.post("/window/rect", &json!({ "width": 500, "height": 844 }));
    for page in ["", "jobs", "jobs/0", "jobs/0/analysis", "jobs/0/plan", "memory", "timeline"] {
        browser.go(&format!("{}#/{page}", dashboard.link()));
        eventually(page, || browser.text("main").len() > 50);
        assert_eq!(browser.run("return document.documentElement.scrollWidth <= innerWidth"), true, "{page}");
    }
    // The graph runs from top to bottom, and is read without scrolling sideways.
    browser.go(&format!("{}#/jobs/0", dashboard.link()));
    eventually("it is drawn", || browser.run("return document.querySelectorAll('.node').length") == 8);
    let fits = "const canvas = document.querySelector('.canvas'); return canvas.scrollWidth <= canvas.clientWidth + 1";
    assert_eq!(browser.run(fits), true);
    browser.run("document.querySelector('[data-zoom=in]').click()");
    eventually("it is larger", || {
        browser.run("return +document.querySelector('.graph').style.width.slice(0, -2)").as_f64() > Some(270.0)
    });
    browser.complains_of_nothing();
}
