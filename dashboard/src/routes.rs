//! What can be asked for. Whether it may be was checked by the guard.

use std::time::Duration;

use actix_web::error::InternalError;
use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_DISPOSITION;
use actix_web::rt::time::sleep;
use actix_web::web::{self, Data, Path, PathConfig, Query, QueryConfig, ServiceConfig};
use actix_web::{HttpResponse, Resource, Responder, Route};
use aqueduct_runtime::Observer;
use aqueduct_runtime::metrics::JobState;
use aqueduct_runtime::observe::{ObservedJob, Timeline};
use serde::Deserialize;
use serde_json::json;

use crate::guard::refusal;
use crate::prometheus;
use crate::sample::Sampler;
use crate::server::Context;
use crate::trace;
use crate::view::{self, JobDetail, JobFrame, JobSummary, WorkerView};

const PAGE: &str = include_str!("../assets/index.html");
const SCRIPTS: [(&str, &str, &str); 7] = [
    ("/assets/app.css", "text/css; charset=utf-8", include_str!("../assets/app.css")),
    ("/assets/app.js", "text/javascript; charset=utf-8", include_str!("../assets/app.js")),
    ("/assets/format.js", "text/javascript; charset=utf-8", include_str!("../assets/format.js")),
    ("/assets/graph.js", "text/javascript; charset=utf-8", include_str!("../assets/graph.js")),
    ("/assets/pages.js", "text/javascript; charset=utf-8", include_str!("../assets/pages.js")),
    ("/assets/timeline.js", "text/javascript; charset=utf-8", include_str!("../assets/timeline.js")),
    ("/assets/icon.svg", "image/svg+xml", include_str!("../assets/icon.svg")),
];
const OPENAPI: &str = include_str!("../assets/openapi.json");

/// Asking for a timeline has it recorded for so long.
const RECORDED: Duration = Duration::from_secs(5);

/// The longest time that one request records.
const LONGEST: Duration = Duration::from_secs(60);

/// Holders that an answer has of each worker: those that hold most.
const HOLDERS: usize = 500;

/// Steps that one answer has about, of all threads together: the newest.
const STEPS: usize = 16_000;
/// Steps that a trace has about.
const TRACED_STEPS: usize = 256_000;
/// Steps of each thread that an answer has at the least.
const LEAST_STEPS: usize = 100;

pub(crate) fn configure(service: &mut ServiceConfig) {
    for (path, kind, text) in SCRIPTS {
        let script = move || async move { HttpResponse::Ok().content_type(kind).body(text) };
        service.service(at(path, web::get().to(script)));
    }
    service
        .app_data(PathConfig::default().error_handler(|error, _| {
            let answer = refusal(StatusCode::NOT_FOUND, "there is nothing here: jobs and nodes have numbers");
            InternalError::from_response(error, answer).into()
        }))
        .app_data(QueryConfig::default().error_handler(|error, _| {
            let answer = refusal(StatusCode::BAD_REQUEST, &format!("what follows the `?` is wrong: {error}"));
            InternalError::from_response(error, answer).into()
        }))
        .service(at("/", web::get().to(page)))
        .service(at("/events", web::get().to(events)))
        .service(at("/health", web::get().to(health)))
        .service(at("/metrics", web::get().to(metrics)))
        .service(at("/openapi.json", web::get().to(|| async { json_text(OPENAPI) })))
        .service(at("/api/session", web::get().to(session)))
        .service(at("/api/overview", web::get().to(overview)))
        .service(at("/api/memory", web::get().to(memory)))
        .service(at("/api/timeline", web::get().to(timeline)))
        .service(at("/api/timeline/trace", web::get().to(trace)))
        .service(at("/api/jobs", web::get().to(jobs)))
        .service(at("/api/jobs/{id}", web::get().to(job)))
        .service(at("/api/jobs/{id}/analysis", web::get().to(analysis)))
        .service(at("/api/jobs/{id}/analysis.txt", web::get().to(analysis_text)))
        .service(at("/api/jobs/{id}/plan.txt", web::get().to(plan_text)))
        .service(at("/api/jobs/{id}/plan.dot", web::get().to(plan_dot)))
        .service(at("/api/jobs/{id}/plan.mmd", web::get().to(plan_mermaid)))
        .service(at("/api/jobs/{id}/report", web::get().to(report)))
        .service(at("/api/jobs/{id}/nodes/{node}", web::get().to(node)))
        .service(at("/api/jobs/{id}/cancel", web::post().to(cancel)))
        .default_service(web::to(|| async { refusal(StatusCode::NOT_FOUND, "there is nothing here") }));
}

/// One path, for one method.
fn at(path: &str, route: Route) -> Resource {
    let other = || async { refusal(StatusCode::METHOD_NOT_ALLOWED, "not with this method") };
    web::resource(path).route(route).default_service(web::to(other))
}

fn json_text(text: &'static str) -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(text)
}

fn text(text: String) -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; charset=utf-8").body(text)
}

async fn page(context: Data<Context>) -> impl Responder {
    let page = PAGE.replace("{{csrf}}", context.settings.csrf.text());
    HttpResponse::Ok().content_type("text/html; charset=utf-8").body(page)
}

async fn health(context: Data<Context>) -> impl Responder {
    let (status, state) =
        if context.observer.is_closed() { (StatusCode::SERVICE_UNAVAILABLE, "closed") } else { (StatusCode::OK, "ok") };
    HttpResponse::build(status).json(json!({ "status": state }))
}

async fn metrics(context: Data<Context>) -> impl Responder {
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .body(prometheus::text(&context.observer))
}

/// What a program needs to cancel a job.
async fn session(context: Data<Context>) -> impl Responder {
    HttpResponse::Ok().json(json!({
        "csrf": context.settings.csrf.text(),
        "interval_ms": context.settings.interval.as_millis() as u64,
        "looks": context.live.looks(),
        "version": env!("CARGO_PKG_VERSION"),
    }))
}

async fn overview(context: Data<Context>) -> impl Responder {
    // A look of its own, so that rates are those since the start of each job.
    HttpResponse::Ok().json(Sampler::new(context.observer.clone()).look(&[]).0)
}

async fn memory(context: Data<Context>) -> impl Responder {
    let workers = context.observer.memory();
    let workers: Vec<_> = workers.into_iter().map(|worker| WorkerView::of(worker, Vec::new(), HOLDERS)).collect();
    HttpResponse::Ok().json(json!({ "workers": workers, "history": context.live.history() }))
}

/// States that jobs can be asked for by.
const STATES: [JobState; 5] =
    [JobState::Waiting, JobState::Running, JobState::Finished, JobState::Failed, JobState::Cancelled];

/// Which jobs are asked for.
#[derive(Debug, Deserialize)]
struct Filter {
    state: Option<String>,
}

async fn jobs(context: Data<Context>, filter: Query<Filter>) -> impl Responder {
    let observer = &context.observer;
    if filter.state.as_deref().is_some_and(|wanted| STATES.iter().all(|state| state.name() != wanted)) {
        let states = STATES.map(JobState::name).join(", ");
        return refusal(StatusCode::BAD_REQUEST, &format!("a job's state is one of {states}"));
    }
    let summaries = observer.jobs().into_iter().rev().map(|job| {
        let metrics = job.metrics();
        JobSummary::of(observer, &job, &metrics, &metrics)
    });
    let wanted = |summary: &JobSummary| filter.state.as_deref().is_none_or(|state| state == summary.state.name());
    HttpResponse::Ok().json(summaries.filter(wanted).collect::<Vec<_>>())
}

/// Which job's events are asked for.
#[derive(Debug, Deserialize)]
struct Watch {
    job: Option<u64>,
}

async fn events(context: Data<Context>, watch: Query<Watch>) -> impl Responder {
    if watch.job.is_some_and(|id| context.observer.job(id).is_none()) {
        return no_such_job();
    }
    match context.live.watch(watch.job) {
        Some(events) => HttpResponse::Ok().content_type("text/event-stream").body(events),
        None => refusal(StatusCode::SERVICE_UNAVAILABLE, "too many watch already"),
    }
}

fn no_such_job() -> HttpResponse {
    refusal(StatusCode::NOT_FOUND, "there is no such job, or it ended so long ago that it is forgotten")
}

fn with_job(context: &Context, id: u64, show: impl FnOnce(&ObservedJob) -> HttpResponse) -> HttpResponse {
    context.observer.job(id).map_or_else(no_such_job, |job| show(&job))
}

async fn job(context: Data<Context>, id: Path<u64>) -> impl Responder {
    with_job(&context, *id, |job| {
        let (shape, metrics) = (job.shape(), job.metrics());
        let frame = JobFrame::of(&context.observer, job, &metrics, &metrics);
        HttpResponse::Ok().json(JobDetail { shape: &shape, explain: shape.to_string(), frame })
    })
}

async fn node(context: Data<Context>, path: Path<(u64, usize)>) -> impl Responder {
    let (id, node) = *path;
    with_job(&context, id, |job| match view::partitions(&job.metrics(), node) {
        Some(partitions) => HttpResponse::Ok().json(partitions),
        None => refusal(StatusCode::NOT_FOUND, "the job has no such node"),
    })
}

async fn analysis(context: Data<Context>, id: Path<u64>) -> impl Responder {
    with_job(&context, *id, |job| HttpResponse::Ok().json(job.analysis()))
}

async fn analysis_text(context: Data<Context>, id: Path<u64>) -> impl Responder {
    with_job(&context, *id, |job| text(job.analysis().to_string()))
}

async fn plan_text(context: Data<Context>, id: Path<u64>) -> impl Responder {
    with_job(&context, *id, |job| text(job.shape().to_string()))
}

async fn plan_dot(context: Data<Context>, id: Path<u64>) -> impl Responder {
    with_job(&context, *id, |job| text(job.shape().to_dot()))
}

async fn plan_mermaid(context: Data<Context>, id: Path<u64>) -> impl Responder {
    with_job(&context, *id, |job| text(job.shape().to_mermaid()))
}

/// To be kept, so it is not shown in place.
async fn report(context: Data<Context>, id: Path<u64>) -> impl Responder {
    with_job(&context, *id, |job| {
        let name = format!("attachment; filename=job-{}.html", job.id());
        HttpResponse::Ok()
            .content_type("text/html; charset=utf-8")
            .insert_header((CONTENT_DISPOSITION, name))
            .body(crate::report(&context.observer, std::slice::from_ref(job)))
    })
}

async fn cancel(context: Data<Context>, id: Path<u64>) -> impl Responder {
    match (context.observer.cancel(*id), context.observer.job(*id)) {
        (true, _) => HttpResponse::Accepted().json(json!({ "cancelled": *id })),
        (false, Some(_)) => refusal(StatusCode::CONFLICT, "the job has ended already"),
        (false, None) => no_such_job(),
    }
}

async fn timeline(context: Data<Context>) -> impl Responder {
    HttpResponse::Ok().json(recorded(&context.observer, STEPS))
}

/// What was recorded, with about so many steps; it goes on.
fn recorded(observer: &Observer, steps: usize) -> Timeline {
    observer.record_timeline(RECORDED);
    let mut timeline = observer.timeline();
    timeline.keep_newest((steps / timeline.threads.len().max(1)).max(LEAST_STEPS));
    timeline
}

/// How long to record before the answer.
#[derive(Debug, Deserialize)]
struct Length {
    seconds: Option<u8>,
}

/// For `chrome://tracing` and Perfetto.
async fn trace(context: Data<Context>, length: Query<Length>) -> impl Responder {
    let seconds = Duration::from_secs(length.seconds.unwrap_or(0).into());
    if seconds > LONGEST {
        return refusal(StatusCode::BAD_REQUEST, "at most 60 seconds are recorded");
    }
    if !seconds.is_zero() {
        context.observer.record_timeline(seconds + RECORDED);
        sleep(seconds).await;
    }
    let trace = trace::text(&recorded(&context.observer, TRACED_STEPS));
    HttpResponse::Ok()
        .content_type("application/json")
        .insert_header((CONTENT_DISPOSITION, "attachment; filename=aqueduct-trace.json"))
        .body(trace)
}
