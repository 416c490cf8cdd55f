//! Bodies of denials that come in pieces: the verdict is that of the whole, and no more is held than allowed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use support::bodies::{Scripted, Step};
use support::respond;
use tower_anyreach::Denial;

use super::denials::{JSON_WORDS, Who, denied};
use super::script::Script;

/// Long enough for four of them to outlast the limit, and for none to end with it.
const PAUSE: Duration = Duration::from_millis(300);
const LIMIT: Duration = Duration::from_secs(1);
/// So many frames that bring nothing are borne.
const IDLE_FRAMES: usize = 128;

/// Returns a body that takes these steps and ends, and the number of steps that it has taken.
fn body(steps: Vec<Step>) -> (Scripted, Arc<AtomicUsize>) {
    let taken = Arc::<AtomicUsize>::default();
    let counter = Arc::clone(&taken);
    let steps = steps.into_iter().inspect(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    (Scripted::new(steps), taken)
}

pub(crate) fn error_body_streaming(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let status = script.choose(&[StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN]);
    let who = script.choose(&[Who::Key, Who::Token]);
    let claims_json = script.byte().is_multiple_of(2);
    let limit = script.choose(&[8192, 8192, 64, 16, 1, 0]);
    let text = script.spelled(JSON_WORDS);
    let steps = steps(&mut script, &text);
    let expected = Expected::of(&steps, limit);

    let runtime = support::runtime::paused();
    let denied = |limit: usize, body: Scripted| -> Denial {
        let mut response = respond(status, body);
        if claims_json {
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
        }
        let layer = who
            .layer()
            .error_body_limit(limit)
            .error_body_timeout(LIMIT);
        runtime.block_on(denied(layer, response))
    };

    let (in_steps, taken) = body(steps.clone());
    let denial = denied(limit, in_steps);
    assert_eq!(denial.body(), &expected.kept, "{steps:?}");
    assert_eq!(denial.is_body_truncated(), expected.cut, "{steps:?}");
    assert!(denial.body().len() <= limit);
    assert_eq!(
        taken.load(Ordering::Relaxed),
        expected.polled,
        "dropped, not drained"
    );

    // Cut, the head alone decides; else it is as if it had come in one piece.
    let other = if expected.cut {
        denied(0, body(vec![Step::Data(text.into())]).0)
    } else {
        denied(1 << 20, body(vec![Step::Data(expected.kept)]).0)
    };
    assert_eq!(denial.reason(), other.reason(), "{steps:?}");
    assert_eq!(denial.detail(), other.detail(), "{steps:?}");
}

/// The text in pieces, and what else the script has to say.
fn steps(script: &mut Script<'_>, mut text: &[u8]) -> Vec<Step> {
    let mut steps = Vec::new();
    while !script.is_over() && steps.len() < 256 {
        let byte = script.byte();
        match byte % 16 {
            0 => steps.push(Step::Data(Bytes::new())),
            1 => steps.extend(vec![Step::Data(Bytes::new()); (byte >> 1).into()]),
            2 => steps.push(Step::Wait(PAUSE)),
            3 => steps.push(Step::Trailers),
            4 if byte > 0xc0 => steps.push(Step::Fail),
            _ => {
                let len = usize::from(byte >> 2).min(text.len());
                steps.push(Step::Data(Bytes::copy_from_slice(&text[..len])));
                text = &text[len..];
            }
        }
    }
    // Ends early now and then.
    if !matches!(steps.last(), Some(Step::Trailers)) {
        steps.push(Step::Data(Bytes::copy_from_slice(text)));
    }
    steps
}

/// What is to come of it.
#[derive(Debug)]
struct Expected {
    kept: Bytes,
    cut: bool,
    /// How many steps were taken.
    polled: usize,
}

impl Expected {
    fn of(steps: &[Step], limit: usize) -> Self {
        let mut kept = Vec::new();
        let (mut paused, mut idle, mut polled) = (Duration::ZERO, 0, 0);
        let mut cut = limit == 0;
        for step in steps {
            if cut {
                break;
            }
            polled += 1;
            let before = kept.len();
            match step {
                Step::Data(data) => {
                    let room = limit - before;
                    kept.extend_from_slice(&data[..room.min(data.len())]);
                    cut = data.len() > room;
                }
                Step::Fail => cut = true,
                Step::Wait(_) => {
                    paused += PAUSE;
                    cut = paused > LIMIT;
                    continue;
                }
                Step::Trailers | Step::Hang => {}
            }
            if kept.len() == before {
                idle += 1;
                cut |= idle > IDLE_FRAMES;
            }
        }
        Self {
            kept: kept.into(),
            cut,
            polled,
        }
    }
}
