//! Bodies of denials in pieces: the result is that of the whole body, and no more than the limit is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use support::bodies::{Scripted, Step};
use tower_anyreach::Denial;

use super::denials::{ALL, JSON_WORDS, Scene, denied};
use super::script::Script;

/// Four of them outlast the limit. Three do not, even if the machine stops this thread for 200 ms of the limit's real clock.
const PAUSE: Duration = Duration::from_millis(255);
const LIMIT: Duration = Duration::from_secs(1);
/// How many frames without data are read.
const IDLE_FRAMES: usize = 128;

pub(crate) fn error_body_streaming(bytes: &[u8]) {
    let mut script = Script::new(bytes);
    let scene = Scene::read(&mut script, &ALL[..2]);
    let limit = script.choose(&[8192, 8192, 64, 16, 1, 0]);
    let text = script.spelled(JSON_WORDS);
    let steps = steps(&mut script, &text);
    let (kept, is_cut, steps_taken) = expected(&steps, limit);

    let runtime = support::runtime::paused();
    let denied = |limit: usize, body: Scripted| -> Denial {
        let layer = scene.layer().error_body_limit(limit);
        let response = scene.answer("application/json", body);
        runtime.block_on(denied(layer.error_body_timeout(LIMIT), response))
    };

    let taken = Arc::<AtomicUsize>::default();
    let counter = Arc::clone(&taken);
    let script = steps.clone().into_iter().inspect(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let denial = denied(limit, Scripted::new(script));
    assert_eq!(denial.body(), &kept, "{steps:?}");
    assert_eq!(denial.is_body_truncated(), is_cut, "{steps:?}");
    let taken = taken.load(Ordering::Relaxed);
    assert_eq!(taken, steps_taken, "dropped, not drained");

    // If the body was cut, the head alone decides; otherwise pieces and time make no difference.
    let (limit, whole) = if is_cut {
        (0, text.into())
    } else {
        (1 << 20, kept)
    };
    let other = denied(limit, Scripted::new([Step::Data(whole)]));
    assert_eq!(denial.reason(), other.reason(), "{steps:?}");
    assert_eq!(denial.detail(), other.detail(), "{steps:?}");
}

/// Returns the text in pieces, with pauses, failures, trailers and empty frames between them.
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
    // A script that ends with trailers leaves out the rest of the text.
    if !matches!(steps.last(), Some(Step::Trailers)) {
        steps.push(Step::Data(Bytes::copy_from_slice(text)));
    }
    steps
}

/// Returns the bytes that the layer must keep of these steps, whether it cuts the body, and the number of steps that it takes.
fn expected(steps: &[Step], limit: usize) -> (Bytes, bool, usize) {
    let mut kept = Vec::new();
    let (mut paused, mut idle, mut taken) = (Duration::ZERO, 0, 0);
    let mut is_cut = limit == 0;
    for step in steps {
        if is_cut {
            break;
        }
        taken += 1;
        match step {
            Step::Data(data) if !data.is_empty() => {
                let len = data.len().min(limit - kept.len());
                kept.extend_from_slice(&data[..len]);
                is_cut = len < data.len();
            }
            Step::Wait(_) => {
                paused += PAUSE;
                is_cut = paused > LIMIT;
            }
            step => {
                idle += 1;
                is_cut = idle > IDLE_FRAMES || matches!(step, Step::Fail);
            }
        }
    }
    (kept.into(), is_cut, taken)
}
