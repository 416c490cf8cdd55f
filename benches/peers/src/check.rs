//! Sees that every contender sends what it is there to send: who does less would be measured as fast.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use tower::Service;

use crate::building::{self, Building};
use crate::contenders::{
    Body, Case, Contender, Inner, Judge, KEY, ORGANIZATION, TOKEN, X_ANYREACH_ORG, cases,
};
use crate::peers;

/// Keeps the headers that arrive.
#[derive(Clone, Default)]
struct Witness(Arc<Mutex<HeaderMap>>);

impl Witness {
    fn take(&self) -> HeaderMap {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Service<Request<Body>> for Witness {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (head, body) = request.into_parts();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = head.headers;
        ready(Ok(Response::new(body)))
    }
}

struct Check<'a> {
    case: &'a Case,
    witness: Witness,
}

impl<I: Inner> Judge<I> for Check<'_> {
    fn judge<S: Contender>(
        &mut self,
        name: &'static str,
        inner: &I,
        wrap: impl Fn(I) -> S + Send + Sync + 'static,
    ) {
        self.case.call(&mut wrap(inner.clone()));
        assert_sent(name, self.case, &self.witness.take());
    }
}

fn assert_sent(name: &str, case: &Case, sent: &HeaderMap) {
    let (credential, organization) = match name {
        "bare" | "reqwest_bare" => (None, None),
        "anyreach_ak" => (Some(KEY), None),
        _ => (Some(TOKEN), Some(ORGANIZATION)),
    };
    let bearer = credential.map(|credential| format!("Bearer {credential}"));
    let mut expected = case.headers.clone();
    expected.extend(bearer.map(|bearer| (AUTHORIZATION, bearer.parse().expect("visible ASCII"))));
    expected.extend(organization.map(|organization| {
        let organization = organization.parse().expect("visible ASCII");
        (X_ANYREACH_ORG.clone(), organization)
    }));
    assert!(*sent == expected, "{name} sends something else");
}

/// Panics unless all do.
pub(crate) fn check_all() {
    for case in &cases() {
        let witness = Witness::default();
        let mut check = Check {
            case,
            witness: witness.clone(),
        };
        peers::judge_all(&witness, &mut check);
        for name in building::NAMES {
            assert_sent(name, case, &Building::new(case, name).build());
        }
    }
}
