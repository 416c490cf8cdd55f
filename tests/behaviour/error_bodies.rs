//! Reading the body of a denial: within its limits of bytes, time and frames, and always to a typed error.

use std::convert::Infallible;
use std::future::ready;
use std::time::{self, Duration};

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use tokio::time::Instant;
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_anyreach::DenialReason::{InvalidCredential, MissingCredential};
use tower_anyreach::{Answer, AnyreachAuthLayer, Denial, future::ResponseFuture};

use crate::scripted::current_thread;
use support::bodies::{Record, Scripted, Step};
use support::{MILLI, SECOND, denial, get_agents, layer};

const LIMIT: usize = 8 * 1024;

type Call<B> = ResponseFuture<std::future::Ready<Result<Response<B>, Infallible>>, B>;

/// The call whose answer is a 401 that claims to be JSON, with this body.
fn call<B: Body>(layer: &AnyreachAuthLayer, body: B) -> Call<B> {
    let mut body = Some(body);
    let mut service = layer.layer(service_fn(move |_: Request<String>| {
        let response = Response::builder()
            .status(401)
            .header("content-type", "application/json")
            .body(body.take().unwrap());
        ready(Ok::<_, Infallible>(response.unwrap()))
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
    let room = " ".repeat(len - end.len() - 1);
    format!("{{{room}{end}").into()
}

#[tokio::test(start_paused = true)]
async fn an_endless_ready_body_is_cut_at_the_limit_and_dropped_undrained() {
    let body = Scripted::endless(|| Step::data(vec![b'x'; 1024]));
    let (denial, elapsed, record) = read_with(&layer(), body).await;
    assert_eq!(denial.body().len(), LIMIT);
    assert!(denial.is_body_truncated());
    assert_eq!(denial.reason(), InvalidCredential);
    assert_eq!(denial.detail(), None);
    assert_eq!(elapsed, Duration::ZERO);
    assert_eq!(
        record.polls(),
        9,
        "eight frames fill it, the ninth shows that there is more"
    );
}

#[test]
fn an_always_ready_body_ends_with_its_time_limit_and_does_not_block_its_thread() {
    let limit = 50 * MILLI;
    let layer = layer()
        .error_body_limit(usize::MAX)
        .error_body_timeout(limit);
    let read = |work: Duration| {
        let begun = time::Instant::now();
        let body = Scripted::endless(move || {
            assert!(begun.elapsed() < 10 * SECOND, "read without end");
            if !work.is_zero() {
                std::thread::sleep(work);
            }
            Step::data("x")
        });
        let runtime = current_thread();
        runtime.block_on(async {
            let (sender, receiver) = std::sync::mpsc::channel();
            let other = tokio::spawn(async move {
                loop {
                    let start = time::Instant::now();
                    tokio::task::yield_now().await;
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
    for work in [Duration::ZERO, MILLI / 2] {
        // A busy machine may stop the thread at any time, so the best of ten attempts counts.
        let mut attempts = Vec::new();
        while attempts.len() < 10 {
            let (taken, waited) = read(work);
            attempts.push((taken, waited));
            if taken <= 60 * MILLI && waited <= 20 * MILLI {
                break;
            }
        }
        assert!(attempts.len() < 10, "{attempts:?}");
    }
}

#[test]
fn reading_yields_after_16_frames_in_one_poll() {
    let body = Scripted::endless(|| Step::data("x"));
    let record = body.record();
    let mut call = task::spawn(call(&layer(), body));
    for polls in 1..=3 {
        assert_pending!(call.poll());
        assert!(call.is_woken());
        assert_eq!(record.polls(), 16 * polls);
    }
}

#[test]
fn a_body_that_the_client_read_is_cut_and_classified_like_one_that_the_layer_reads() {
    let layer = layer().error_body_limit(64);
    for (len, complete, is_whole) in [(64, true, true), (64, false, false), (65, true, false)] {
        let mut head = get_agents().into_parts().0;
        let authorized = layer.authorize(&mut head).unwrap();
        let json = HeaderValue::from_static("application/json");
        let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, json)]);
        let (status, extensions) = (StatusCode::UNAUTHORIZED, Extensions::new());
        let Answer::Denied(unread) = authorized.on_response(status, &headers, &extensions) else {
            panic!("not denied");
        };
        assert_eq!((unread.status(), unread.body_limit()), (status, 64));
        let denial = denial(Err::<(), _>(unread.with_body(known_text(len), complete)));
        assert_eq!(denial.body().len(), 64);
        assert_eq!(denial.is_body_truncated(), !is_whole, "{len}");
        let reason = if is_whole {
            MissingCredential
        } else {
            InvalidCredential
        };
        assert_eq!(denial.reason(), reason, "{len}");
    }
}

#[tokio::test(start_paused = true)]
async fn at_most_128_idle_frames_are_read() {
    for step in [(|| Step::data("")) as fn() -> Step, || Step::Trailers] {
        for (empty, is_read) in [(128, true), (129, false)] {
            let steps = (0..empty).map(move |_| step()).chain([Step::data("x")]);
            let (denial, _, _) = read_with(&layer(), Scripted::new(steps)).await;
            assert_eq!(denial.body() == "x", is_read, "{empty}");
            assert_eq!(denial.is_body_truncated(), !is_read, "{empty}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_limit_is_for_the_whole_body_and_not_for_each_byte() {
    let trickle = |every: Duration| {
        let mut wait = true;
        Scripted::endless(move || {
            wait = !wait;
            if wait {
                Step::Wait(every)
            } else {
                Step::data("x")
            }
        })
    };
    for (every, limit, read) in [
        // The first byte comes at once.
        (Duration::from_millis(400), SECOND, 3),
        (SECOND, Duration::from_millis(5500), 6),
        (SECOND, Duration::from_millis(100), 1),
        (Duration::from_millis(1), Duration::from_millis(1500), 1500),
    ] {
        let layer = if limit == SECOND {
            layer()
        } else {
            layer().error_body_timeout(limit)
        };
        let (denial, elapsed, _) = read_with(&layer, trickle(every)).await;
        assert_eq!(elapsed, limit, "{every:?}");
        assert!(
            denial.body().len().abs_diff(read) <= 1,
            "{every:?}: {}",
            denial.body().len()
        );
        assert!(denial.is_body_truncated());
        assert_eq!(denial.reason(), InvalidCredential);
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_limit_may_be_nothing_or_longer_than_any_clock_runs() {
    let steps = || [Step::data("{"), Step::Wait(SECOND * 3600), Step::data("}")];
    let none = layer().error_body_timeout(Duration::ZERO);
    let (cut, elapsed, _) = read_with(&none, Scripted::new(steps())).await;
    assert!(cut.body().len() <= 1, "{cut:?}");
    assert!(elapsed <= Duration::from_millis(1), "{elapsed:?}");
    let all = layer().error_body_timeout(Duration::MAX);
    let (whole, elapsed, _) = read_with(&all, Scripted::new(steps())).await;
    assert_eq!((whole.body(), elapsed), (&"{}".into(), SECOND * 3600));
}

#[tokio::test(start_paused = true)]
async fn the_time_limit_starts_with_the_body() {
    let service = service_fn(async |_: Request<String>| {
        tokio::time::sleep(SECOND * 60).await;
        let body = Scripted::new([Step::Wait(SECOND / 2), Step::data(r#"{"detail": "Nope"}"#)]);
        Ok::<_, Infallible>(Response::builder().status(401).body(body).unwrap())
    });
    let denial = denial(layer().layer(service).oneshot(get_agents()).await);
    assert_eq!(denial.detail(), Some("Nope"));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_midway_keeps_what_was_read_and_its_classification() {
    let known = r#"{"detail": "Missing Bearer token"}"#;
    for (name, steps, read) in [
        ("at once", vec![Step::Fail], ""),
        (
            "after a part",
            vec![Step::data(r#"{"detail": "#), Step::Fail],
            r#"{"detail": "#,
        ),
        (
            "after the whole",
            vec![Step::data(known), Step::Fail],
            known,
        ),
        (
            "after a wait",
            vec![Step::data("{"), Step::Wait(SECOND / 2), Step::Fail],
            "{",
        ),
    ] {
        let (denial, _, _) = read_with(&layer(), Scripted::new(steps)).await;
        assert_eq!(denial.body(), read, "{name}");
        assert!(denial.is_body_truncated(), "{name}");
        assert_eq!(denial.reason(), InvalidCredential, "{name}");
        assert_eq!(denial.detail(), None, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_of_the_limit_is_whole_and_one_byte_more_is_not() {
    for (limit, layer) in [
        (LIMIT, layer()),
        (64, layer().error_body_limit(64)),
        (1 << 20, layer().error_body_limit(1 << 20)),
    ] {
        let text = known_text(limit);
        for parts in [1, 2, 8] {
            let size = limit / parts;
            let text = text.clone();
            let frames =
                (0..parts).map(move |part| Step::Data(text.slice(part * size..(part + 1) * size)));
            let (whole, _, _) = read_with(&layer, Scripted::new(frames.clone())).await;
            assert!(!whole.is_body_truncated(), "{limit} in {parts}");
            assert_eq!(whole.body().len(), limit);
            assert_eq!(whole.reason(), MissingCredential);

            let (cut, _, _) =
                read_with(&layer, Scripted::new(frames.chain([Step::data(" ")]))).await;
            assert!(cut.is_body_truncated(), "{limit} in {parts}");
            assert_eq!(cut.body(), whole.body());
            assert_eq!((cut.reason(), cut.detail()), (InvalidCredential, None));
        }
    }
    // A body that knows its size.
    for (len, is_truncated) in [(LIMIT - 1, false), (LIMIT, false), (LIMIT + 1, true)] {
        let denial = denial(call(&layer(), Full::new(known_text(len))).await);
        assert_eq!(denial.is_body_truncated(), is_truncated, "{len}");
        assert_eq!(denial.body().len(), len.min(LIMIT));
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_limit_of_0_the_body_is_not_polled() {
    let layer = layer().error_body_limit(0);
    let (denial, elapsed, record) = read_with(&layer, Scripted::new([Step::Hang])).await;
    assert!(denial.is_body_truncated() && denial.body().is_empty());
    assert_eq!(denial.reason(), InvalidCredential);
    assert_eq!((elapsed, record.polls()), (Duration::ZERO, 0));
}

#[tokio::test(start_paused = true)]
async fn trailers_are_neither_kept_nor_in_the_way() {
    let steps = [Step::data(r#"{"detail": "Nope"}"#), Step::Trailers];
    let (denial, _, record) = read_with(&layer(), Scripted::new(steps)).await;
    assert!(!denial.is_body_truncated());
    assert_eq!(denial.detail(), Some("Nope"));
    assert_eq!(denial.body(), r#"{"detail": "Nope"}"#);
    assert!(
        Step::trailers()
            .keys()
            .all(|name| !denial.headers().contains_key(name))
    );
    assert_eq!(record.polls(), 3, "data, trailers, end");
}

#[test]
fn without_a_runtime_a_pending_body_is_cut() {
    let body = Scripted::new([
        Step::data(r#"{"detail": "#),
        Step::Hang,
        Step::data("never"),
    ]);
    let record = body.record();
    let mut call = task::spawn(call(&layer(), body));
    let denial = denial(assert_ready!(call.poll()));
    assert_eq!(denial.body(), r#"{"detail": "#);
    assert!(denial.is_body_truncated());
    assert_eq!(denial.reason(), InvalidCredential);
    assert_eq!(record.polls(), 2);
    assert!(record.is_dropped(), "before the future is");
}

#[tokio::test(start_paused = true)]
async fn dropping_the_call_while_it_reads_drops_the_body() {
    let body = Scripted::new([Step::data("{"), Step::Hang]);
    let record = body.record();
    let mut call = task::spawn(call(&layer(), body));
    assert_pending!(call.poll());
    assert_eq!(record.polls(), 2);
    assert!(!record.is_dropped());
    drop(call);
    assert!(record.is_dropped());
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
