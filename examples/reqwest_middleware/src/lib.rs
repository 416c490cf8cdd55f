//! Anyreach authentication as a `reqwest_middleware::Middleware`, without tower: small enough to paste.
//!
//! Build the client below it with `redirect(Policy::none())`: what reqwest follows by itself, this does not see. Put a retry middleware
//! outside, and let it leave errors of `tower_anyreach` alone.

use reqwest::{Body, Request, Response};
use reqwest_middleware::{Error, Middleware, Next, Result};
use tower_anyreach::{Answer, AnyreachAuthLayer, Error as AnyreachError};

/// Authenticates each request, turns a 401 or 403 of Anyreach into an error, and sends a request once more after a 401 if the store has
/// another credential by then.
#[derive(Debug, Clone)]
pub struct AnyreachMiddleware(pub AnyreachAuthLayer);

#[async_trait::async_trait]
impl Middleware for AnyreachMiddleware {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut http::Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        // `None` for a body that streams, which cannot be sent twice.
        let replay = request.try_clone();
        let outcome = self.attempt(request, extensions, next.clone()).await;
        let error = outcome.as_ref().err().and_then(anyreach_error);
        let unauthorized = error.filter(|error| error.is_unauthorized());
        let Some(denial) = unauthorized.and_then(AnyreachError::denial) else {
            return outcome;
        };
        match (replay, denial.renewed().await) {
            (Some(replay), true) => self.attempt(replay, extensions, next).await,
            _ => outcome,
        }
    }
}

impl AnyreachMiddleware {
    async fn attempt(
        &self,
        request: Request,
        extensions: &mut http::Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        let (mut head, body) = http::Request::<Body>::try_from(request)?.into_parts();
        // What the caller said of this request: an organization, a credential or store of its own, `Anonymous`.
        head.extensions.extend(extensions.clone());
        let authorized = self.0.authorize(&mut head).map_err(middleware_error)?;
        let request = Request::try_from(http::Request::from_parts(head, body))?;
        let response = next.run(request, extensions).await?;
        match authorized.on_response(response.status(), response.headers(), response.extensions()) {
            Answer::Pass => Ok(response),
            Answer::Denied(unread) => {
                let body = http::Response::<Body>::from(response).into_body();
                Err(middleware_error(unread.read(body).await))
            }
            Answer::Refused(refusal) => Err(middleware_error(AnyreachError::Refused(refusal))),
            // `Answer` may grow; what this code does not know is not a success.
            _ => Err(Error::Middleware(anyhow::anyhow!(
                "an answer of a later version"
            ))),
        }
    }
}

fn middleware_error(error: AnyreachError) -> Error {
    Error::Middleware(anyhow::Error::new(error))
}

/// Finds the error of `tower_anyreach` in an error of the client.
#[must_use]
pub fn anyreach_error(error: &Error) -> Option<&AnyreachError> {
    match error {
        Error::Middleware(error) => error.downcast_ref(),
        Error::Reqwest(_) => None,
    }
}
