//! Working on requests as they come, several at a time.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use creto_envelope::RejectCode;
use creto_envelope::request::ANSWER_BODY_BYTES_MAX;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tracing::Instrument as _;

use super::IncomingRequest;
use crate::client::Agent;
use crate::error::{LookupError, PrekeyError, ReceiveError, RespondError, SendError};
use crate::limits::{SERVE_CONCURRENCY, SERVE_CONCURRENCY_MAX};
use crate::receiver::{Delivery, Subscription};

/// That a request could not be done, for whoever asked: [`RequestError::Failed`](crate::RequestError::Failed) there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The application's own number. From [`Failure::RESERVED`] on they are the SDK's.
    pub code: u32,
    /// What happened, for people; 1,024 bytes of it are kept.
    pub message: String,
}

impl Failure {
    /// The first number that an application must not use.
    pub const RESERVED: u32 = 0xffff_ff00;
    /// The handler panicked.
    pub const PANICKED: u32 = Self::RESERVED + 1;
    /// The handler gave an answer that is larger than a message may be.
    pub const TOO_LARGE: u32 = Self::RESERVED + 2;

    /// A failure with this number.
    pub fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// How requests are worked on. `ServeOptions::default()` is the usual.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServeOptions {
    /// Requests that are worked on at a time, 1 to 1,024. Default 64. Others wait in the window, and then at the node.
    pub concurrency: usize,
    /// Where whatever is no request goes. While nobody takes it there, no requests come either. Without, it is left at the node,
    /// and comes again on the next connection.
    pub others: Option<mpsc::Sender<Delivery>>,
    /// Ends after so many requests that were begun. Default: never.
    pub requests_max: Option<u64>,
    /// Where it is told what became of each request, when that is so. While nobody takes it there, the place of the request is
    /// not free for another one. Default: nowhere.
    pub report: Option<mpsc::Sender<Served>>,
}

/// What became of a request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Served {
    /// The request.
    pub request: IncomingRequest,
    /// What became of it.
    pub outcome: ServeOutcome,
    /// How long it took from the handler's begin.
    pub took: Duration,
}

/// See [`Served`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServeOutcome {
    /// Its answer, of so many bytes, is on the node's disk.
    Answered {
        /// Bytes of the answer.
        bytes: usize,
    },
    /// That it failed is on the node's disk.
    Failed(Failure),
    /// Its deadline passed before.
    TooLate,
    /// Whoever asked takes no answer from this agent; it is acknowledged.
    NotTaken,
    /// The answer does not get through now: it comes again.
    Again,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self { concurrency: SERVE_CONCURRENCY, others: None, requests_max: None, report: None }
    }
}

impl ServeOptions {
    /// The same, with so many requests at a time.
    #[must_use]
    pub fn concurrency(self, concurrency: usize) -> Self {
        Self { concurrency, ..self }
    }

    /// The same, and what is no request goes there.
    #[must_use]
    pub fn others(self, others: mpsc::Sender<Delivery>) -> Self {
        Self { others: Some(others), ..self }
    }

    /// The same, and it ends after so many requests that were begun.
    #[must_use]
    pub fn requests_max(self, requests_max: u64) -> Self {
        Self { requests_max: Some(requests_max), ..self }
    }

    /// The same, and what becomes of each request is told there.
    #[must_use]
    pub fn report(self, report: mpsc::Sender<Served>) -> Self {
        Self { report: Some(report), ..self }
    }
}

/// Requests that are being worked on. When it is dropped that ends at once, and what is not answered comes again;
/// [`stop`](Self::stop) ends it in good order.
#[derive(Debug)]
pub struct Server {
    stop: watch::Sender<bool>,
    work: JoinHandle<Result<(), ReceiveError>>,
    outcome: Option<Result<(), ReceiveError>>,
}

impl Server {
    /// Takes no more requests, waits until all that are being worked on are answered, and leaves the others at the node. The agent
    /// may subscribe again then.
    ///
    /// # Errors
    /// [`ReceiveError`] when receiving had ended before.
    pub async fn stop(mut self) -> Result<(), ReceiveError> {
        self.stop.send_replace(true);
        self.ended().await
    }

    /// Waits until it ends by itself: because the agent was closed, another process of it receives, or as many requests were
    /// worked on as it was to ([`ServeOptions::requests_max`]). Cancel-safe.
    ///
    /// # Errors
    /// Why.
    pub async fn ended(&mut self) -> Result<(), ReceiveError> {
        if self.outcome.is_none() {
            // An error means that the runtime is shutting down.
            self.outcome = Some((&mut self.work).await.unwrap_or(Err(ReceiveError::Closed)));
        }
        self.outcome.clone().expect("it was set just now")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.work.abort();
    }
}

impl Agent {
    /// Works on requests as they come, with one call of `handler` for each, several at a time. What it returns is the answer; the
    /// request is acknowledged when that is on the node's disk. Requests whose deadlines have passed are dropped and counted
    /// ([`Stats::requests_expired`](crate::Stats::requests_expired)), before the handler sees them. A handler that panics fails its
    /// request with [`Failure::PANICKED`]. One that is still at work at the deadline is not interrupted.
    ///
    /// It takes the agent's subscription for as long as it lasts. A handler may make requests of its own with a clone of the agent.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/node.rs"));
    /// # fn main() -> Result<(), Box<dyn Error>> { with_node(async |node| {
    /// # use std::time::Duration;
    /// # use creto_agent::{AgentName, Failure, ServeOptions};
    /// # let agent = node.connect("planner").await?;
    /// let server = agent.serve(ServeOptions::default(), async |request| {
    ///     let text = std::str::from_utf8(&request.payload).map_err(|_| Failure::new(1, "not text"))?;
    ///     Ok(text.to_uppercase().into())
    /// })?;
    /// # let answer = agent.request(agent.name(), "loud", Duration::from_secs(5)).await?;
    /// # assert_eq!(answer.payload, "LOUD");
    /// server.stop().await?; // answers what it has begun
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`ReceiveError::AlreadySubscribed`] while there is a subscription.
    pub fn serve<H, F>(&self, options: ServeOptions, handler: H) -> Result<Server, ReceiveError>
    where
        H: Fn(IncomingRequest) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Bytes, Failure>> + Send + 'static,
    {
        let mailbox = self.subscribe()?;
        let (stop, stopped) = watch::channel(false);
        let work = tokio::spawn(work(mailbox, options, Arc::new(handler), stopped));
        Ok(Server { stop, work, outcome: None })
    }
}

async fn work<H, F>(
    mut mailbox: Subscription,
    options: ServeOptions,
    handler: Arc<H>,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), ReceiveError>
where
    H: Fn(IncomingRequest) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Bytes, Failure>> + Send + 'static,
{
    let at_a_time = options.concurrency.clamp(1, SERVE_CONCURRENCY_MAX);
    let mut under_way = JoinSet::new();
    let mut left = options.requests_max.unwrap_or(u64::MAX);
    let ended = loop {
        if left == 0 {
            break Ok(());
        }
        let delivery = tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => break Ok(()),
            Some(done) = under_way.join_next() => {
                done.expect("what a handler does is caught");
                continue;
            }
            delivery = mailbox.next(), if under_way.len() < at_a_time => delivery,
        };
        match delivery {
            Some(Ok(delivery)) => match delivery.request() {
                Some(request) if request.remaining().is_zero() => {
                    if let Some(inbox) = delivery.token.inbox() {
                        delivery.expire(&inbox);
                    }
                }
                Some(request) => {
                    left -= 1;
                    let (handler, report) = (Arc::clone(&handler), options.report.clone());
                    under_way.spawn(async move {
                        let begin = Instant::now();
                        let outcome = work_on(&delivery, request.clone(), handler).await;
                        if let Some(report) = report {
                            // Whoever wanted to know may be gone.
                            let _ = report.send(Served { request, outcome, took: begin.elapsed() }).await;
                        }
                    });
                }
                None => {
                    let Some(others) = &options.others else {
                        let Delivery { from, message_id, kind, .. } = &delivery;
                        tracing::warn!(%from, %message_id, ?kind, "no request, so it is left at the node");
                        if let Some(inbox) = delivery.token.inbox() {
                            inbox.counters.left_unserved.add(1);
                        }
                        continue;
                    };
                    tokio::select! {
                        _ = stopped.wait_for(|stopped| *stopped) => break Ok(()),
                        // Nobody takes them any more: they are left, too.
                        _ = others.send(delivery) => {}
                    }
                }
            },
            Some(Err(error)) => break Err(error),
            None => break Err(ReceiveError::Closed),
        }
    };
    // From here on somebody else may subscribe, and gets what this one has not taken.
    drop(mailbox);
    while let Some(done) = under_way.join_next().await {
        done.expect("what a handler does is caught");
    }
    ended
}

/// One request, from its handler to its answer.
async fn work_on<H, F>(delivery: &Delivery, request: IncomingRequest, handler: Arc<H>) -> ServeOutcome
where
    H: Fn(IncomingRequest) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Bytes, Failure>> + Send + 'static,
{
    let (from, message_id) = (request.from.clone(), request.message_id);
    // In a set of its own, so that it ends with this, and a panic of it stays there, also one before its first wait.
    let mut at_work = JoinSet::new();
    at_work.spawn(async move { handler(request).await }.instrument(delivery.span().clone()));
    let result = match at_work.join_next().await.expect("it was spawned just now") {
        Ok(Ok(answer)) if answer.len() > ANSWER_BODY_BYTES_MAX => {
            let message = format!("the answer has {} bytes; at most {ANSWER_BODY_BYTES_MAX} fit", answer.len());
            Err(Failure::new(Failure::TOO_LARGE, message))
        }
        Ok(result) => result,
        Err(panic) => {
            tracing::error!(%from, %message_id, %panic, "a handler of requests panicked");
            Err(Failure::new(Failure::PANICKED, "the handler of this request panicked; see its log"))
        }
    };
    let span = delivery.span().clone();
    let (answered, outcome) = match result {
        Ok(answer) => {
            let bytes = answer.len();
            (delivery.respond(answer).instrument(span).await, ServeOutcome::Answered { bytes })
        }
        Err(failure) => {
            (delivery.fail(failure.code, &failure.message).instrument(span).await, ServeOutcome::Failed(failure))
        }
    };
    match answered {
        Ok(_) => outcome,
        Err(RespondError::TooLate) => ServeOutcome::TooLate,
        Err(RespondError::Send(error)) if !is_final(&error) => {
            tracing::warn!(%from, %message_id, %error, "a request is not answered now, and comes again");
            delivery.nack();
            ServeOutcome::Again
        }
        Err(error) => {
            tracing::warn!(%from, %message_id, %error, "an answer is not taken");
            if let Some(inbox) = delivery.token.inbox() {
                inbox.counters.responses_refused.add(1);
            }
            delivery.token.discard();
            ServeOutcome::NotTaken
        }
    }
}

/// Whether no later attempt can get the answer through. Whatever is in doubt comes again: its time is bounded.
fn is_final(error: &SendError) -> bool {
    let is_code_final = |code: &RejectCode| !code.is_retryable();
    // The node's own state, also in a version to come.
    let is_number_final = |number: &u16| !(500..600).contains(number);
    match error {
        SendError::Refused { code, .. } | SendError::Recipient { source: LookupError::Refused(code), .. } => {
            is_code_final(code)
        }
        SendError::RefusedWith { code, .. } | SendError::Recipient { source: LookupError::RefusedWith(code), .. } => {
            is_number_final(code)
        }
        SendError::NoPrekey { source: source @ (PrekeyError::Refused(_) | PrekeyError::RefusedWith(_)), .. } => {
            !source.is_retryable()
        }
        SendError::TooLarge { .. } => true,
        _ => false,
    }
}
