//! Imports that most of these tests need.

pub(crate) use std::convert::Infallible;
pub(crate) use std::future::{pending, ready};
pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
pub(crate) use std::sync::{Arc, Mutex};
pub(crate) use std::task::{Context, Poll};
pub(crate) use std::time::Duration;
pub(crate) use std::{io, thread};

pub(crate) use bytes::Bytes;
pub(crate) use http::header::AUTHORIZATION;
pub(crate) use http::{HeaderValue, Method, Request, Response, StatusCode};
pub(crate) use http_body_util::{BodyExt, Full};
pub(crate) use tokio::task::{JoinSet, yield_now};
pub(crate) use tokio::time::{Instant, sleep, timeout};
pub(crate) use tokio_test::task;
pub(crate) use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
#[cfg(feature = "retry")]
pub(crate) use tower_anyreach::retry::RefreshPolicy;
pub(crate) use tower_anyreach::{
    Anonymous, Answer, AnyreachAuthLayer, BoxError, CallerHeaders, Credential, CredentialSource,
    CredentialStore, Denial, DenialReason, DeniedResponses, Error, ForeignRequests, OrganizationId,
    Origin, PersonalAccessToken, Refreshed, RefusalReason, RelativeUris, SourceError,
    SourceErrorReason,
};

#[allow(unused_imports, reason = "without features, no test needs it")]
pub(crate) use crate::scripted::key;
pub(crate) use crate::scripted::{
    Fetch, Script, Server, assert_in_force, denied, key_of, settle, tasks, unread,
};
#[cfg(feature = "retry")]
pub(crate) use crate::scripted::{client, denied_attempt, replaying, revoked};
pub(crate) use support::bodies::{Scripted, Step};
pub(crate) use support::{
    KEY, MILLI, ORG, Recorder, SECOND, TOKEN, answer, answer_with, assert_carries,
    assert_carries_nothing, credential, denial, get, get_agents, layer, now, once_more,
    organization, send, send_to, token_for, with, with_headers,
};

pub(crate) const FORWARD: ForeignRequests = ForeignRequests::ForwardWithoutCredentials;
