//! Traces: what this command and the agents that it talks to did, told to a collector by OTLP (HTTP and protobuf).
//!
//! Off unless `--otlp` or one of OpenTelemetry's own variables names a collector. Spans are the SDK's ([`creto_agent::trace`]); who
//! collects them sees names of agents and ids of messages, and no payload. A collector that is away costs no message: it is said, once,
//! when the command ends.

use std::io::Write as _;
use std::str::FromStr as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use creto_agent::trace::{Propagation, TraceContext};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState, TracerProvider as _,
};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Span;
use tracing::level_filters::LevelFilter;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

use crate::args::TraceArgs;
use crate::exit::{Exit, Failure};
use crate::terminal::CAUTION;

/// What the spans of the SDK are called by.
const TARGET: &str = "creto";
/// How long a collector may take for one batch of spans, all told, and for the last one when the command ends.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// What a collector answers is not longer.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Where spans go on a collector (OTLP 1, section on HTTP).
const PATH: &str = "/v1/traces";

static SPANS: OnceLock<Arc<Spans>> = OnceLock::new();

/// Who knows the traces of this process, if they are collected.
pub(crate) fn propagation() -> Option<Arc<dyn Propagation>> {
    SPANS.get().map(|spans| Arc::clone(spans) as Arc<dyn Propagation>)
}

/// Collects spans until it is dropped.
pub(crate) struct Traces {
    provider: Option<(SdkTracerProvider, String)>,
}

impl Traces {
    /// Begins, if somebody asked for it.
    pub(crate) fn begin(args: &TraceArgs) -> Result<Self, Failure> {
        let given = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let Some(collector) = wanted(args.otlp.as_deref(), given)? else { return Ok(Self { provider: None }) };
        let failed = |error: &dyn std::fmt::Display| {
            let next = "check --otlp and the variables that begin with OTEL_";
            Failure::new(Exit::Usage, format!("traces cannot be collected: {error}"), next)
        };
        let exporter = SpanExporter::builder().with_http().with_http_client(Collector).with_timeout(EXPORT_TIMEOUT);
        // Without one the library reads the variables itself.
        let exporter = if args.otlp.is_some() { exporter.with_endpoint(collector.as_str()) } else { exporter };
        let exporter = exporter.build().map_err(|error| failed(&error))?;
        let resource = Resource::builder();
        let resource = match given("OTEL_SERVICE_NAME") {
            Some(_) => resource,
            None => resource.with_service_name(TARGET),
        };
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build();
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer(TARGET))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(Targets::new().with_target(TARGET, LevelFilter::INFO));
        tracing_subscriber::registry().with(layer).try_init().map_err(|error| failed(&error))?;
        SPANS.get_or_init(|| Arc::new(Spans));
        Ok(Self { provider: Some((provider, collector)) })
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        let Some((provider, collector)) = self.provider.take() else { return };
        let flushed = provider.force_flush();
        let ended = provider.shutdown_with_timeout(EXPORT_TIMEOUT);
        if let Err(error) = flushed.and(ended) {
            let what = format!("the last spans were not taken by {collector}: {error}");
            let _ = writeln!(anstream::stderr().lock(), "{CAUTION}note{CAUTION:#}: {what}");
        }
    }
}

/// The collector to tell, if there is to be one; as it is known from the option or from the variables of OpenTelemetry's specification.
fn wanted(otlp: Option<&str>, given: impl Fn(&str) -> Option<String>) -> Result<Option<String>, Failure> {
    let refused = |what: String, next: &str| Err(Failure::new(Exit::Usage, what, next));
    let collector = match otlp {
        Some(url) => whole(url),
        None => {
            let exporter = given("OTEL_TRACES_EXPORTER");
            let disabled = given("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
            let named = given("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
            let named = named.or_else(|| {
                given("OTEL_EXPORTER_OTLP_ENDPOINT").map(|base| format!("{}{PATH}", base.trim_end_matches('/')))
            });
            match (exporter.as_deref(), named) {
                _ if disabled => return Ok(None),
                (Some("none"), _) | (None, None) => return Ok(None),
                (Some("otlp"), None) => format!("http://localhost:4318{PATH}"),
                (Some("otlp") | None, Some(named)) => named,
                (Some(other), _) => {
                    let what = format!("OTEL_TRACES_EXPORTER is `{other}`, and this command knows otlp alone");
                    return refused(what, "set it to otlp or none, and let a collector pass spans on");
                }
            }
        }
    };
    let protocol = given("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").or_else(|| given("OTEL_EXPORTER_OTLP_PROTOCOL"));
    if let Some(protocol) = protocol.filter(|protocol| protocol != "http/protobuf") {
        let what = format!("the protocol of OTLP is set to `{protocol}`, and this command speaks http/protobuf alone");
        return refused(
            what,
            "set OTEL_EXPORTER_OTLP_PROTOCOL to http/protobuf, and name the collector's port for it (4318)",
        );
    }
    match collector.parse::<Uri>() {
        Ok(uri) if uri.scheme_str() == Some("http") && uri.host().is_some() => Ok(Some(collector)),
        _ => refused(
            format!("`{collector}` is no collector that this command can tell"),
            "give http://HOST:PORT of a collector on this machine or behind a proxy with TLS; it passes spans on to others",
        ),
    }
}

/// The address with the path of spans, unless it has one.
fn whole(url: &str) -> String {
    let has_path = url.parse::<Uri>().is_ok_and(|uri| uri.path().len() > 1);
    if has_path { url.to_owned() } else { format!("{}{PATH}", url.trim_end_matches('/')) }
}

/// The spans of this process, by what collects them.
#[derive(Debug)]
struct Spans;

impl Propagation for Spans {
    fn context_of(&self, span: &Span) -> Option<TraceContext> {
        let context = span.context();
        let span = context.span();
        let it = span.span_context();
        let (trace_id, span_id) = (it.trace_id().to_bytes(), it.span_id().to_bytes());
        TraceContext::new(trace_id, span_id, it.trace_flags().to_u8(), &it.trace_state().header()).ok()
    }

    fn continue_from(&self, span: &Span, context: &TraceContext) {
        // A tracestate that only others understand is passed on where it is of its form.
        let state = TraceState::from_str(context.tracestate()).unwrap_or_default();
        let (trace_id, span_id) = (TraceId::from_bytes(context.trace_id()), SpanId::from_bytes(context.span_id()));
        let flags = TraceFlags::new(context.flags()) & TraceFlags::SAMPLED;
        let remote = SpanContext::new(trace_id, span_id, flags, true, state);
        // It was just begun.
        let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(remote));
    }
}

/// Posts spans, on the thread of whoever collects them.
#[derive(Debug)]
struct Collector;

#[async_trait::async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // That thread belongs to no runtime and waits for this.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { tokio::time::timeout(EXPORT_TIMEOUT, post(request)).await? })
    }
}

async fn post(request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let (mut parts, body) = request.into_parts();
    let host = parts.uri.host().ok_or("the collector's address has no host")?.to_owned();
    let port = parts.uri.port_u16().unwrap_or(80);
    // As the address of a URI has it, and as a socket has it.
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let stream = tokio::net::TcpStream::connect((bare, port)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    parts.headers.insert(HOST, HeaderValue::from_str(&format!("{host}:{port}"))?);
    parts.uri = parts.uri.path_and_query().ok_or("the collector's address has no path")?.as_str().parse()?;
    let response = sender.send_request(Request::from_parts(parts, Full::new(body))).await?;
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
    connection.abort();
    Ok(Response::from_parts(parts, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(otlp: Option<&str>, variables: &[(&str, &str)], expect: Result<Option<&str>, &str>) {
        let given =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let found = wanted(otlp, given).map_err(|failure| format!("{failure:?}"));
        match (found, expect) {
            (Ok(found), Ok(expect)) => assert_eq!(found.as_deref(), expect),
            (Err(found), Err(expect)) => assert!(found.contains(expect), "{found}"),
            (found, expect) => panic!("{found:?} is not {expect:?}"),
        }
    }

    #[test]
    fn nothing_is_collected_unless_somebody_asks_for_it() {
        check(None, &[], Ok(None));
        check(None, &[("OTEL_TRACES_EXPORTER", "none"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:1")], Ok(None));
        check(None, &[("OTEL_SDK_DISABLED", "true"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:1")], Ok(None));
    }

    #[test]
    fn a_collector_is_named_by_the_option_or_by_the_variables_of_opentelemetry() {
        check(Some("http://a:1"), &[], Ok(Some("http://a:1/v1/traces")));
        check(Some("http://a:1/"), &[("OTEL_SDK_DISABLED", "true")], Ok(Some("http://a:1/v1/traces")));
        check(Some("http://a:1/x"), &[], Ok(Some("http://a:1/x")));
        check(None, &[("OTEL_TRACES_EXPORTER", "otlp")], Ok(Some("http://localhost:4318/v1/traces")));
        check(None, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:1/")], Ok(Some("http://a:1/v1/traces")));
        let both =
            [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:1"), ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://b:2/x")];
        check(None, &both, Ok(Some("http://b:2/x")));
    }

    #[test]
    fn what_cannot_be_told_is_refused_before_anything_is_sent() {
        check(Some("https://a:1"), &[], Err("https://a:1/v1/traces"));
        check(Some("a:1"), &[], Err("no collector"));
        check(Some("nonsense"), &[], Err("no collector"));
        check(None, &[("OTEL_TRACES_EXPORTER", "zipkin")], Err("zipkin"));
        check(Some("http://a:1"), &[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], Err("grpc"));
    }
}
