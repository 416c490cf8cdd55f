//! Reading the body of a denial: within its limits of bytes, time and frames, and always to a typed error.

use std::time;

use http_body::Body;
use tokio_test::{assert_pending, assert_ready};
use tower_anyreach::DenialReason::{InvalidCredential, MissingCredential};
use tower_anyreach::future::ResponseFuture;

use crate::prelude::*;
use support::bodies::Record;
use support::runtime::current_thread;

const LIMIT: usize = 8 * 1024;
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];
const KNOWN: &str = r#"{"detail": "Missing Bearer token"}"#;

type Call<B> = ResponseFuture<std::future::Ready<Result<Response<B>, Infallible>>, B>;

/// The call whose answer is a 401 that claims to be JSON, with this body.
fn call<B: Body>(layer: &AnyreachAuthLayer, body: B) -> Call<B> {
    let mut response = Some(answer_with(401, &JSON, body));
    let mut service = layer.layer(service_fn(move |_: Request<String>| {
        ready(Ok::<_, Infallible>(response.take().unwrap()))
    }));
    service.call(get_agents())
}

/// The denial, the time that reading took, and how the body was treated.
async fn read_with(layer: &AnyreachAuthLayer, body: Scripted) -> (Denial, Duration, Record) {
    let record = body.record();
    let start = Instant::now();
    let denial = denial(call(layer, body).await);
    assert!(record.is_dropped());
    (denial, start.elapsed(), record)
}

fn known_text(len: usize) -> Bytes {
    let end = r#""detail": "Missing Bearer token"}"#;
    let blanks = " ".repeat(len - end.len() - 1);
    format!("{{{blanks}{end}").into()
}

#[tokio::test(start_paused = true)]
async fn a_body_is_read_within_its_limits_and_dropped_undrained() {
    let data = |text: &'static str| Step::data(text);
    let (no_time, half) = (Duration::ZERO, SECOND / 2);
    let limit = |bytes| layer().error_body_limit(bytes);
    let time = |limit| layer().error_body_timeout(limit);
    let idle = |step: Step, count| [vec![step; count], vec![Step::data("x")]].concat();
    let hour = SECOND * 3600;
    let late = || vec![data("{"), Step::Wait(hour), data("}")];
    let first = r#"{"detail": "#;
    let trickle = vec![vec![data("x"), Step::Wait(MILLI * 400)]; 9].concat();
    let full = "x".repeat(LIMIT);
    // The steps of a body, and how much of it is read: the text, whether that is all, the time it took, and the polls.
    #[rustfmt::skip]
    let cases = [
        // The ninth frame shows that there is more.
        ("endless", layer(), vec![Step::data(vec![b'x'; 1024]); 100], &*full, false, no_time, 9),
        ("a limit of nothing", limit(0), vec![Step::Hang], "", false, no_time, 0),
        ("one byte more", limit(4), vec![data("{\"a"), data("\"}")], "{\"a\"", false, no_time, 2),
        ("128 empty frames", layer(), idle(data(""), 128), "x", true, no_time, 130),
        ("129 empty frames", layer(), idle(data(""), 129), "", false, no_time, 129),
        ("128 trailers", layer(), idle(Step::Trailers, 128), "x", true, no_time, 130),
        ("129 trailers", layer(), idle(Step::Trailers, 129), "", false, no_time, 129),
        ("fails at once", layer(), vec![Step::Fail], "", false, no_time, 1),
        ("fails after a part", layer(), vec![data(first), Step::Fail], first, false, no_time, 2),
        ("fails after the whole", layer(), vec![data(KNOWN), Step::Fail], KNOWN, false, no_time, 2),
        ("fails after a wait", layer(), vec![data("{"), Step::Wait(half), Step::Fail], "{", false, half, 3),
        ("ends in time", layer(), vec![Step::Wait(half), data("{}")], "{}", true, half, 3),
        ("trickles", layer(), trickle, "xxx", false, SECOND, 7),
        ("hangs", layer(), vec![data("{"), Step::Hang], "{", false, SECOND, 3),
        ("hangs, with a limit", time(half), vec![data("{"), Step::Hang], "{", false, half, 3),
        ("no time", time(no_time), late(), "", false, no_time, 0),
        ("more time than any clock has", time(Duration::MAX), late(), "{}", true, hour, 4),
    ];
    for (name, layer, steps, read, is_whole, took, polls) in cases {
        let (denial, elapsed, record) = read_with(&layer, Scripted::new(steps)).await;
        assert_eq!(denial.body(), read, "{name}");
        assert_eq!(denial.is_body_truncated(), !is_whole, "{name}");
        // What is not whole is judged by its content type, and has no detail.
        assert!(is_whole || denial.reason() == InvalidCredential, "{name}");
        assert_eq!(denial.detail(), None, "{name}");
        assert_eq!(denial.headers().len(), 1, "{name}");
        let allowed = took..=took + MILLI;
        assert!(allowed.contains(&elapsed), "{name}: {elapsed:?}");
        assert_eq!(record.polls(), polls, "{name}");
    }
}

#[test]
fn an_always_ready_body_ends_with_its_time_limit_and_does_not_block_its_thread() {
    let limit = 50 * MILLI;
    let layer = layer().error_body_limit(usize::MAX);
    let layer = layer.error_body_timeout(limit);
    let read = |work: Duration| {
        let begun = time::Instant::now();
        let body = Scripted::endless(move || {
            assert!(begun.elapsed() < 10 * SECOND, "read without end");
            let busy = time::Instant::now();
            while busy.elapsed() < work {}
            Step::data("x")
        });
        current_thread().block_on(async {
            let (sender, receiver) = std::sync::mpsc::channel();
            let other = tokio::spawn(async move {
                loop {
                    let start = time::Instant::now();
                    yield_now().await;
                    sender.send(start.elapsed()).unwrap();
                }
            });
            let start = time::Instant::now();
            let denial = denial(call(&layer, body).await);
            let taken = start.elapsed();
            other.abort();
            assert!(denial.is_body_truncated() && !denial.body().is_empty());
            assert!(taken >= limit, "{taken:?}");
            (taken, receiver.try_iter().max().unwrap_or(taken))
        })
    };
    for work in [Duration::ZERO, MILLI / 2, MILLI * 4] {
        // A busy machine may stop the thread at any time, so the best of ten attempts counts.
        let is_in_time = |_| {
            let (taken, waited) = read(work);
            taken <= 60 * MILLI && waited <= 20 * MILLI + 16 * work
        };
        assert!((0..10).any(is_in_time), "{work:?}");
    }
}

#[test]
fn reading_yields_after_16_frames_in_one_poll_and_ends_with_the_call() {
    let body = Scripted::endless(|| Step::data("x"));
    let record = body.record();
    let mut call = task::spawn(call(&layer(), body));
    for polls in 1..=3 {
        assert_pending!(call.poll());
        assert!(call.is_woken());
        assert_eq!(record.polls(), 16 * polls);
    }
    assert!(!record.is_dropped());
    drop(call);
    assert!(record.is_dropped());
}

#[test]
fn a_body_that_the_client_read_is_cut_and_classified_like_one_that_the_layer_reads() {
    let layer = layer().error_body_limit(64);
    for (len, complete, is_whole) in [(64, true, true), (64, false, false), (65, true, false)] {
        let mut head = get_agents().into_parts().0;
        let authorized = layer.authorize(&mut head).unwrap();
        let (head, ()) = answer_with(401, &JSON, ()).into_parts();
        let answer = authorized.on_response(head.status, &head.headers, &head.extensions);
        let unread = unread(answer);
        assert_eq!((unread.status(), unread.body_limit()), (head.status, 64));
        let denial = denial(Err::<(), _>(unread.with_body(known_text(len), complete)));
        assert_eq!(denial.body().len(), 64);
        assert_eq!(denial.is_body_truncated(), !is_whole, "{len}");
        assert_eq!(denial.reason() == MissingCredential, is_whole, "{len}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_limit_starts_with_the_body() {
    let service = service_fn(async |_: Request<String>| {
        sleep(SECOND * 60).await;
        let body = Scripted::new([Step::Wait(SECOND / 2), Step::data(KNOWN)]);
        Ok::<_, Infallible>(answer_with(401, &JSON, body))
    });
    let denial = denial(layer().layer(service).oneshot(get_agents()).await);
    assert_eq!(denial.reason(), MissingCredential);
}

#[test]
fn a_pending_body_is_cut_outside_of_a_runtime() {
    let body = Scripted::new([Step::data("{"), Step::Hang, Step::data("never")]);
    let record = body.record();
    let mut call = task::spawn(call(&layer(), body));
    let denial = denial(assert_ready!(call.poll()));
    assert!(denial.body() == "{" && denial.is_body_truncated());
    assert_eq!((denial.reason(), record.polls()), (InvalidCredential, 2));
    assert!(record.is_dropped(), "before the future is");
}

#[tokio::test(start_paused = true)]
async fn a_reading_call_is_woken_by_the_body_and_by_the_time_limit() {
    for (step, read) in [(Step::Wait(SECOND / 4), "{}"), (Step::Hang, "")] {
        let mut call = task::spawn(call(&layer(), Scripted::new([step, Step::data("{}")])));
        assert_pending!(call.poll());
        assert!(!call.is_woken());
        tokio::time::advance(SECOND / 4).await;
        assert_eq!(call.is_woken(), !read.is_empty());
        if read.is_empty() {
            assert_pending!(call.poll());
            tokio::time::advance(SECOND * 3 / 4).await;
            assert!(call.is_woken());
        }
        assert_eq!(denial(assert_ready!(call.poll())).body(), read);
    }
}
