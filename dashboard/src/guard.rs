//! Who may ask what: looked at before any route, for every request.
//!
//! - The host must be one of ours: else a page elsewhere could have its own name point here (DNS rebinding).
//! - Only `GET`, and `POST` for what changes something, which must come from a page of ours or with the token.
//! - Heads, paths and bodies are small.
//! - Where there is a token, all but `/health` needs it: as a header, a cookie, or once in the link.

#![expect(clippy::result_large_err, reason = "a refusal is an answer, made once for a request")]

use std::net::IpAddr;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode, Version};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{Error, HttpResponse};
use serde_json::json;

use crate::server::Context;

/// Bytes of all headers together.
const HEAD_BYTES: usize = 16 << 10;
/// Bytes of a path with its query.
const PATH_BYTES: usize = 2048;
/// Bytes of a body: nothing that can be asked for needs one.
const BODY_BYTES: u64 = 1024;
/// The cookie that a browser keeps the token in.
const COOKIE: &str = "aqueduct_token";

/// What every answer says of itself.
const HEADERS: [(&str, &str); 9] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("cache-control", "no-store"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("server", "aqueduct"),
];

/// Checks a request, has it answered, and marks the answer.
pub(crate) async fn guard<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let mut response = match check(&request) {
        Ok(()) => next.call(request).await?.map_into_left_body(),
        Err(refusal) => request.into_response(refusal).map_into_right_body(),
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    Ok(response)
}

/// An answer that is a message.
pub(crate) fn refusal(status: StatusCode, message: &str) -> HttpResponse {
    HttpResponse::build(status).json(json!({ "error": message }))
}

fn check(request: &ServiceRequest) -> Result<(), HttpResponse> {
    let Some(context) = request.app_data::<Data<Context>>() else {
        return Err(refusal(StatusCode::INTERNAL_SERVER_ERROR, "no context"));
    };
    let headers = request.headers();
    let head_bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if head_bytes > HEAD_BYTES {
        return Err(refusal(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the headers are too large"));
    }
    if request.uri().path_and_query().map_or(0, |path| path.as_str().len()) > PATH_BYTES {
        return Err(refusal(StatusCode::URI_TOO_LONG, "the path is too long"));
    }
    check_host(request, context.settings.loopback)?;
    if ![Method::GET, Method::POST].contains(request.method()) {
        let mut answer = refusal(StatusCode::METHOD_NOT_ALLOWED, "only GET, and POST to cancel a job");
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, POST"));
        return Err(answer);
    }
    check_body(headers)?;
    let by_header = check_token(request, context)?;
    if *request.method() == Method::POST && !by_header {
        check_origin(request, context)?;
    }
    Ok(())
}

/// The value of a header that may be there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name);
    let value = values.next()?;
    if values.next().is_some() { None } else { value.to_str().ok() }
}

fn check_host(request: &ServiceRequest, loopback: bool) -> Result<(), HttpResponse> {
    let refused = || Err(refusal(StatusCode::BAD_REQUEST, "this host is not served here"));
    if request.head().version < Version::HTTP_10 {
        return refused();
    }
    let Some(host) = only(request.headers(), &header::HOST) else { return refused() };
    // A request may name the host twice: in its first line and in a header.
    if request.uri().authority().is_some_and(|authority| authority.as_str() != host) {
        return refused();
    }
    let (name, port) = match host.rfind(':') {
        Some(colon) if !host.ends_with(']') => (&host[..colon], &host[colon + 1..]),
        _ => (host, ""),
    };
    let is_port = port.is_empty() || port.parse::<u16>().is_ok();
    // A name that somebody else can have point here is of no use to them where a token is needed.
    let is_ours = !loopback || name.eq_ignore_ascii_case("localhost") || is_loopback(name);
    if is_port && is_ours && !name.is_empty() { Ok(()) } else { refused() }
}

fn is_loopback(name: &str) -> bool {
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn check_body(headers: &HeaderMap) -> Result<(), HttpResponse> {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(refusal(StatusCode::LENGTH_REQUIRED, "a body must say how long it is"));
    }
    match headers.get(header::CONTENT_LENGTH).map(|length| length.to_str().unwrap_or("").parse::<u64>()) {
        None | Some(Ok(0..=BODY_BYTES)) => Ok(()),
        Some(_) => Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, "no body is needed")),
    }
}

/// Whether the token came in a header, which no page elsewhere can send.
fn check_token(request: &ServiceRequest, context: &Context) -> Result<bool, HttpResponse> {
    let Some(token) = &context.settings.token else { return Ok(false) };
    let headers = request.headers();
    let bearer = only(headers, &header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    if bearer.is_some_and(|guess| token.is(guess)) {
        return Ok(true);
    }
    if request.path() == "/health" {
        return Ok(false);
    }
    let cookies = headers.get_all(header::COOKIE).filter_map(|value| value.to_str().ok());
    let mut cookies = cookies.flat_map(|value| value.split(';')).filter_map(|cookie| cookie.trim().split_once('='));
    if cookies.any(|(name, guess)| name == COOKIE && token.is(guess)) {
        return Ok(false);
    }
    let mut query = request.query_string().split('&').filter_map(|pair| pair.split_once('='));
    if *request.method() == Method::GET && query.any(|(name, guess)| name == "token" && token.is(guess)) {
        // From now on the browser has it, and the link that is shown does not.
        let cookie = format!("{COOKIE}={}; HttpOnly; SameSite=Strict; Path=/", token.text());
        // `//name` would be another host.
        let path = format!("/{}", request.path().trim_start_matches('/'));
        return Err(HttpResponse::SeeOther()
            .insert_header((header::SET_COOKIE, cookie))
            .insert_header((header::LOCATION, path))
            .finish());
    }
    let mut answer = refusal(
        StatusCode::UNAUTHORIZED,
        "a token is needed: open the link that was printed at start, or send `Authorization: Bearer TOKEN`",
    );
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    Err(answer)
}

/// What changes something must come from a page that was served here.
fn check_origin(request: &ServiceRequest, context: &Context) -> Result<(), HttpResponse> {
    let refused =
        || Err(refusal(StatusCode::FORBIDDEN, "only a page of this dashboard, or who has its token, may do this"));
    let headers = request.headers();
    let host = only(headers, &header::HOST).unwrap_or_default();
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        let origin = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        if origin != Some(host) {
            return refused();
        }
    }
    let site = HeaderName::from_static("sec-fetch-site");
    if headers.get(&site).is_some_and(|site| site != "same-origin") {
        return refused();
    }
    let guess = only(headers, &HeaderName::from_static("x-aqueduct-csrf"));
    if guess.is_some_and(|guess| context.settings.csrf.is(guess)) { Ok(()) } else { refused() }
}
