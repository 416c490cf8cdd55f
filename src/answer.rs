//! Decides what a response means for its request, and reads the body of a denial within limits.
//!
//! [`Authorized`] belongs to one request that was sent. [`Authorized::on_response`] gets the head
//! of the response and returns an [`Answer`]. [`UnreadDenial::read`] then reads the body of a
//! denial, or [`UnreadDenial::with_body`] takes one that the client has read. None of this needs
//! Tower. Only reading a body needs a runtime, for its time limit.
//!
//! The body may be hostile, so reading is limited by bytes, by time since the first poll, by the
//! number of frames without data, and by the number of frames per poll. The clock is read before
//! each frame, and a timer is armed only while the body is pending. A timer alone does not suffice:
//! a body that is always ready never lets it fire, and held its thread for a second in a test.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http::header::LOCATION;
use http::uri::Scheme;
use http::{Extensions, HeaderMap, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::runtime::Handle;
use tokio::time::{Sleep, sleep};

use crate::authorize::{Carried, CarriedCredential, Decision, RedirectGuard};
use crate::classify::{CapturedBody, classify};
use crate::config::DeniedResponses;
use crate::denial::{Denial, Reported};
use crate::error::Error;
use crate::events;
use crate::origin::is_plainly_elsewhere;
use crate::redact::with_redaction;
use crate::refusal::{Details, Refusal, RefusalReason};

/// The result of [`AnyreachAuthLayer::authorize`](crate::AnyreachAuthLayer::authorize), which
/// interprets the response to the request.
///
/// It belongs to one attempt. Pass it the head of that attempt's response, or drop it if there is
/// none.
///
/// # Examples
///
/// [Without Tower](crate::without_tower) shows a complete client.
#[must_use = "pass the response to `on_response`, which detects denials"]
pub struct Authorized(Decision);

/// The meaning of a response, returned by [`Authorized::on_response`].
#[derive(Debug)]
#[must_use = "a denial or refusal is an error"]
#[non_exhaustive]
pub enum Answer {
    /// The response belongs to the caller, unchanged.
    Pass,
    /// Anyreach answered 401 or 403 to a credential of this layer.
    Denied(UnreadDenial),
    /// The response is a redirect from another host that may lead to the origin. The reason is
    /// always [`ForeignRedirect`](RefusalReason::ForeignRedirect).
    Refused(Refusal),
}

impl Authorized {
    pub(crate) fn new(decision: Decision) -> Self {
        Self(decision)
    }

    /// Decides what the head of a response means, and reports a 401 to the store of the credential.
    ///
    /// 1. A 401 or 403 to a request that carried a credential of this layer is
    ///    [`Denied`](Answer::Denied). The exception is a response whose extensions hold
    ///    tower-http's `RequestUri` of another host (feature `follow-redirect`).
    /// 2. A 301, 302, 303, 307 or 308 from another host, to a request without credentials, is
    ///    [`Refused`](Answer::Refused) unless its `Location` certainly leads to a host other than
    ///    the origin's. Otherwise that host could choose the path of a request that carries
    ///    credentials.
    /// 3. Any other response passes.
    pub fn on_response(
        self,
        status: StatusCode,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Answer {
        if self.0.passes(status, extensions) {
            return Answer::Pass;
        }
        self.0.examine(status, headers)
    }
}

impl Decision {
    /// Returns whether the response certainly belongs to the caller, as nearly every response does.
    #[inline]
    pub(crate) fn passes(&self, status: StatusCode, extensions: &Extensions) -> bool {
        match self {
            Self::Authenticate(carried) => {
                !is_denied(status) || !carried.may_be_answered_by(extensions)
            }
            Self::Anonymous => true,
            Self::Elsewhere(_) => !is_redirect(status),
        }
    }

    /// Examines a response for which [`passes`](Self::passes) returned `false`, and reports a 401
    /// to the store.
    pub(crate) fn examine(self, status: StatusCode, headers: &HeaderMap) -> Answer {
        match self {
            Self::Authenticate(carried) => Answer::Denied(UnreadDenial(Box::new(Unread {
                reported: carried.report(status),
                carried,
                status,
                headers: headers.clone(),
            }))),
            Self::Anonymous => Answer::Pass,
            Self::Elsewhere(guard) => guard.check_redirect(headers),
        }
    }
}

impl Carried {
    #[cfg(feature = "follow-redirect")]
    fn may_be_answered_by(&self, extensions: &Extensions) -> bool {
        self.origin.may_have_answered(extensions)
    }

    #[cfg(not(feature = "follow-redirect"))]
    #[expect(clippy::unused_self, reason = "as with the feature")]
    fn may_be_answered_by(&self, _: &Extensions) -> bool {
        true
    }
}

impl Carried {
    /// Reports a 401 to the store, which may start a fetch.
    fn report(&self, status: StatusCode) -> Reported {
        match &self.credential {
            CarriedCredential::FromStore(snapshot) if status == StatusCode::UNAUTHORIZED => {
                let (is_first, report) = snapshot.report_denied();
                Reported { is_first, report }
            }
            CarriedCredential::FromStore(_) | CarriedCredential::OfRequest(_) => {
                Reported::default()
            }
        }
    }
}

impl RedirectGuard {
    fn check_redirect(self, headers: &HeaderMap) -> Answer {
        let host = self.origin.host();
        let mut locations = headers.get_all(LOCATION).iter();
        let suspect = locations.find(|location| {
            !is_plainly_elsewhere(location.as_bytes(), host, self.answered_by_near_miss)
        });
        let Some(location) = suspect else {
            return Answer::Pass;
        };
        let visible = location.to_str().ok().filter(|location| {
            let mut bytes = location.bytes();
            bytes.all(|byte| byte.is_ascii_graphic())
        });
        let absolute = visible.and_then(|location| location.split_once("://"));
        let absolute = absolute.filter(|(scheme, _)| scheme.parse::<Scheme>().is_ok());
        let destination = absolute.map(|(scheme, rest)| {
            let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
            with_redaction(None, |redaction| {
                redaction.destination(Some(scheme), &rest[..end])
            })
        });
        let refusal = Refusal::new(Details {
            reason: RefusalReason::ForeignRedirect,
            credential: None,
            organization: None,
            header: None,
            destination,
            origin: *self.origin,
        });
        events::refused(&refusal);
        Answer::Refused(refusal)
    }
}

fn is_denied(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// Returns whether tower-http, reqwest and browsers follow this status.
fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

impl fmt::Debug for Authorized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Authorized");
        if let Decision::Authenticate(carried) = &self.0 {
            debug
                .field("credential", carried.credential().id())
                .field("organization", &carried.organization());
        }
        debug.finish_non_exhaustive()
    }
}

/// A 401 or 403 whose body has not been read.
///
/// Turn it into an [`Error`] with [`read`](Self::read), or with [`with_body`](Self::with_body) if
/// the client reads bodies itself.
#[must_use = "turn it into an error with `read` or `with_body`"]
pub struct UnreadDenial(Box<Unread>);

struct Unread {
    carried: Carried,
    status: StatusCode,
    headers: HeaderMap,
    reported: Reported,
}

impl UnreadDenial {
    /// Returns the status, 401 or 403.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    pub(crate) fn passes_through(&self) -> bool {
        self.0.carried.denied_responses == DeniedResponses::PassThrough
    }

    /// Returns the maximum number of body bytes kept, as set by
    /// [`error_body_limit`](crate::AnyreachAuthLayer::error_body_limit).
    #[must_use]
    pub fn body_limit(&self) -> usize {
        self.0.carried.limits.bytes
    }

    /// Reads the body within the layer's limits of bytes and time, and drops the rest.
    ///
    /// # Panics
    ///
    /// The future panics if the body is pending inside a tokio runtime whose timer is not enabled,
    /// or was pending inside one that has ended. Outside a tokio runtime, reading stops where the
    /// body is pending, and the body counts as truncated.
    pub fn read<B: Body>(self, body: B) -> ReadDenial<B> {
        ReadDenial {
            body: Some(body),
            timer: None,
            unread: Some(self),
            begun: None,
            read: Vec::new(),
            idle_frames: 0,
        }
    }

    /// Creates the error from a body that the client has read.
    ///
    /// `complete` says that the body was read to its end. Bytes beyond
    /// [`body_limit`](Self::body_limit) are cut off.
    #[must_use]
    pub fn with_body(self, body: Bytes, complete: bool) -> Error {
        let status = self.0.status;
        let denial = self.denied(body, complete);
        if status == StatusCode::UNAUTHORIZED {
            Error::Unauthorized(denial)
        } else {
            Error::Forbidden(denial)
        }
    }

    pub(crate) fn denied(self, mut body: Bytes, complete: bool) -> Denial {
        let Unread {
            carried,
            status,
            headers,
            reported,
        } = *self.0;
        let limits = carried.limits;
        // The response to HEAD has the headers of a body, but no body (RFC 9110 section 9.3.2).
        let truncated = !complete || body.len() > limits.bytes || carried.is_head;
        body.truncate(limits.bytes);
        let body = CapturedBody {
            // Copied, because a part of a client's buffer would keep all of it alive.
            bytes: Bytes::copy_from_slice(&body),
            truncated,
        };
        let denial = classify(&carried, status, headers, body, reported);
        events::denied(&denial);
        denial
    }
}

impl fmt::Debug for UnreadDenial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnreadDenial")
            .field("status", &self.0.status.as_u16())
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// Future of [`UnreadDenial::read`], which resolves to the [`Error`].
    ///
    /// # Panics
    ///
    /// Panics if it is polled after it has completed, and as described at [`UnreadDenial::read`].
    #[must_use = "futures do nothing unless polled"]
    pub struct ReadDenial<B> {
        #[pin]
        body: Option<B>,
        // Armed while the body is pending.
        #[pin]
        timer: Option<Sleep>,
        unread: Option<UnreadDenial>,
        // The time of the first poll of the body.
        begun: Option<Instant>,
        read: Vec<u8>,
        // The number of frames without data. A body that consists of them has to end too.
        idle_frames: u32,
    }
}

const MAX_IDLE_FRAMES: u32 = 128;
const MAX_FRAMES_PER_POLL: u32 = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    Cut,
}

impl<B: Body> Future for ReadDenial<B> {
    type Output = Error;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Error> {
        let end = ready!(self.as_mut().poll_body(cx));
        let mut this = self.project();
        // The rest of the body is dropped, not drained.
        this.body.set(None);
        this.timer.set(None);
        let unread = this
            .unread
            .take()
            .expect("`ReadDenial` polled after it completed");
        let body = Bytes::from(std::mem::take(this.read));
        Poll::Ready(unread.with_body(body, end == End::Whole))
    }
}

impl<B: Body> ReadDenial<B> {
    /// Reads within the limits. The bytes read so far are kept even if the body fails.
    fn poll_body(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        let mut this = self.project();
        let (Some(mut body), Some(unread)) = (this.body.as_mut().as_pin_mut(), this.unread) else {
            return Poll::Ready(End::Cut);
        };
        let limits = unread.0.carried.limits;
        match (body.is_end_stream(), limits.bytes) {
            (true, _) => return Poll::Ready(End::Whole),
            (false, 0) => return Poll::Ready(End::Cut),
            (false, _) => {}
        }
        let begun = *this.begun.get_or_insert_with(Instant::now);
        for _ in 0..MAX_FRAMES_PER_POLL {
            let Some(left) = limits.time().checked_sub(begun.elapsed()) else {
                return Poll::Ready(End::Cut);
            };
            match body.as_mut().poll_frame(cx) {
                Poll::Ready(None) => return Poll::Ready(End::Whole),
                Poll::Ready(Some(Err(_))) => return Poll::Ready(End::Cut),
                Poll::Ready(Some(Ok(frame))) => {
                    let before = this.read.len();
                    let fits = match frame.into_data() {
                        Ok(data) => append(this.read, data, limits.bytes - before),
                        Err(_trailers) => true,
                    };
                    *this.idle_frames += u32::from(this.read.len() == before);
                    if !fits || *this.idle_frames > MAX_IDLE_FRAMES {
                        return Poll::Ready(End::Cut);
                    }
                }
                Poll::Pending => return poll_timer(this.timer, left, cx).map(|()| End::Cut),
            }
        }
        // Yields, so that other tasks of this thread run.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Arms the timer if it is not armed yet, and polls it. Without a runtime there is no timer, and a
/// pending body is cut.
fn poll_timer(
    mut timer: Pin<&mut Option<Sleep>>,
    left: Duration,
    cx: &mut Context<'_>,
) -> Poll<()> {
    if timer.is_none() && Handle::try_current().is_ok() {
        timer.set(Some(sleep(left)));
    }
    match timer.as_pin_mut() {
        Some(timer) => timer.poll(cx),
        None => Poll::Ready(()),
    }
}

/// Keeps as much of the data as fits into `capacity` bytes, and returns whether that is all of it.
fn append(read: &mut Vec<u8>, data: impl Buf, capacity: usize) -> bool {
    let fits = data.remaining() <= capacity;
    let mut data = data.take(capacity);
    while data.has_remaining() {
        let chunk = data.chunk();
        read.extend_from_slice(chunk);
        let len = chunk.len();
        data.advance(len);
    }
    fits
}

impl<B> fmt::Debug for ReadDenial<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadDenial").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::{Anonymous, AnyreachAuthLayer, Credential};

    fn answer(request: http::request::Builder, response: http::response::Builder) -> Answer {
        let layer = AnyreachAuthLayer::new(Credential::parse("ak_k.s").expect("a key"));
        let (mut head, ()) = request.body(()).expect("a request").into_parts();
        let authorized = layer.authorize(&mut head).expect("no refusal");
        let (head, ()) = response.body(()).expect("a response").into_parts();
        authorized.on_response(head.status, &head.headers, &head.extensions)
    }

    #[test]
    fn a_refused_redirect_shows_scheme_and_host_of_its_destination_alone() {
        let (near, storage) = ("http://api.anyreach.ai/x", "https://storage.example/x");
        let home = Some("https://API.anyreach.ai");
        for (uri, location, destination) in [
            (storage, "https://API.anyreach.ai/a?signature=s", home),
            (storage, "https://a:secret@API.anyreach.ai?s", home),
            (
                storage,
                "//api.anyreach.ai/a?s&next=https://evil.example/",
                None,
            ),
            (near, "/login?token=s&next=https://evil.example/", None),
            (storage, "https://a b/", None),
            (storage, "https://API.anyreach.ai\\@evil.example/", home),
            (storage, "https://API.anyreach.ai/<path>?q=[\"x\"]", home),
            (storage, "https://API.anyreach.ai/\u{e9}", None),
        ] {
            let redirect = http::Response::builder()
                .status(302)
                .header(LOCATION, location);
            let answer = answer(Request::get(uri).extension(Anonymous), redirect);
            let is_shown = matches!(
                &answer,
                Answer::Refused(refusal) if refusal.destination() == destination,
            );
            assert!(is_shown, "{location}: {answer:?}");
        }
    }

    #[test]
    fn a_denial_keeps_no_buffer_of_the_client_alive() {
        struct Buffer(#[allow(dead_code, reason = "counts the holders")] std::sync::Arc<()>);

        impl AsRef<[u8]> for Buffer {
            fn as_ref(&self) -> &[u8] {
                &[b'x'; 16_384]
            }
        }

        let holders = std::sync::Arc::new(());
        let body = Bytes::from_owner(Buffer(std::sync::Arc::clone(&holders)));
        let denied = http::Response::builder().status(403);
        let denied = answer(Request::get("https://api.anyreach.ai/"), denied);
        let Answer::Denied(unread) = denied else {
            unreachable!()
        };
        let error = unread.with_body(body.slice(..100), true);
        drop(body);
        assert_eq!(error.denial().map(|denial| denial.body().len()), Some(100));
        assert_eq!(std::sync::Arc::strong_count(&holders), 1);
    }
}
