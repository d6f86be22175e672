//! A report of a job is one file that needs nothing else, however the job ended and whatever its nodes are called.

use aqueduct_runtime::testing::{CountingSink, Failure, Gate, NumbersSource, SinkMoment, eventually};
use aqueduct_runtime::{Cluster, Graph};

use crate::{cluster, get, held_up, serve};

/// A name that wants to be more than that.
pub(crate) const HOSTILE: &str =
    "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'&{{data}}";

/// A job of hostile names that fails, and one of a plan that is described.
pub(crate) fn failed(cluster: &Cluster) {
    let mut graph = Graph::new();
    let source = graph.source(HOSTILE, NumbersSource::new(100_000));
    let work = graph.map("work", source.hash(["n"]), Ok);
    graph.sink(HOSTILE.to_owned() + "2", CountingSink::new().failing(Failure::Error, SinkMoment::Close), work);
    graph.describe("query <b>", "select '</pre><script>document.title=\"owned\"</script>'");
    cluster.run(&graph).expect("it starts").wait().expect_err("it fails");
}

/// What may be in a report and what may not.
fn check(page: &str) {
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    assert!(page.contains("content=\"default-src 'none'; script-src 'nonce-"));
    // Its own two, and none that a name has made.
    assert_eq!((page.matches("<script").count(), page.matches("</script").count()), (2, 2));
    assert!(!page.contains("<img") && !page.contains("<b>\"") && !page.contains("</pre><script"));
    let places = page.replace("http://www.w3.org/", "").replace("\"http://\"", "");
    assert!(!places.contains("http://") && !places.contains("https://"));
    assert!(!page.contains(" src=") || page.contains("src=x onerror"), "nothing is loaded");
    assert!(!page.contains("<link") && !page.contains("@import") && !page.contains("import "));
}

#[test]
fn a_failed_job_of_hostile_names_is_told_of_as_text() {
    let cluster = cluster();
    let dashboard = serve(&cluster);
    failed(&cluster);
    let answer = get(&dashboard, "/api/jobs/0/report");
    assert_eq!((answer.status, answer.header("content-disposition")), (200, Some("attachment; filename=job-0.html")));
    let page = &answer.body;
    check(page);
    assert!(page.contains("class=\"callout failed\"") && page.contains("failed as asked"));
    assert!(page.contains("&lt;/script&gt;&lt;script&gt;document.title=&#39;owned&#39;"));
    assert!(page.contains("query &lt;b&gt;") && page.contains("select &#39;&lt;/pre&gt;"));
    let data = page.split("id=\"data\">").nth(1).and_then(|rest| rest.split("</script>").next()).expect("data");
    let data: serde_json::Value = serde_json::from_str(data).expect("JSON");
    let job = &data["jobs"][0];
    assert_eq!(
        (&job["shape"]["nodes"][0]["name"], &job["frame"]["summary"]["state"]),
        (&HOSTILE.into(), &"failed".into())
    );
    assert!(job["life"]["threads"].as_array().is_some_and(|threads| threads.len() == 2));
    assert!(job["life"]["memory"].as_array().is_some_and(|looks| !looks.is_empty()));
}

#[test]
fn a_running_job_and_a_cancelled_one_are_told_of_and_none_that_is_not_there() {
    let cluster = cluster();
    let dashboard = serve(&cluster);
    let gate = Gate::shut();
    let job = held_up(&cluster, &gate);
    let running = get(&dashboard, "/api/jobs/0/report");
    assert!(running.status == 200 && running.body.contains("<span class=\"pill running\">"));
    check(&running.body);
    job.cancel();
    eventually("it has ended", || get(&dashboard, "/api/jobs?state=cancelled").body.len() > 2);
    let page = get(&dashboard, "/api/jobs/0/report").body;
    check(&page);
    assert!(page.contains("<b>Cancelled.</b> the job was cancelled") && page.contains("cancelled after"));
    assert_eq!(get(&dashboard, "/api/jobs/1/report").status, 404);
    check(&aqueduct_dashboard::report(&cluster.observer(), &[]));
}
