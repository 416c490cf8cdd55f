//! Anyreach authentication as a `reqwest_middleware::Middleware`, without tower, in one file to be copied.
//!
//! Build the client below it with `redirect(Policy::none())`: this middleware does not see the redirects that reqwest follows. Put
//! a retry middleware outside, and configure it not to retry errors of `tower_anyreach`.

use reqwest::{Body, Request, Response};
use reqwest_middleware::{Error, Middleware, Next, Result};
use tower_anyreach::{Answer, AnyreachAuthLayer, Error as AnyreachError};

/// Authenticates each request, and returns a 401 or 403 from Anyreach as an error. After a 401, sends the request once more if the
/// store has another credential by then.
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
        // `None` for a streamed body, which cannot be sent twice.
        let replay = request.try_clone();
        let outcome = self.attempt(request, extensions, next.clone()).await;
        let error = outcome.as_ref().err().and_then(anyreach_error);
        let unauthorized = error.filter(|error| error.is_unauthorized());
        let Some(denial) = unauthorized.and_then(AnyreachError::denial) else {
            return outcome;
        };
        let Some(replay) = replay else {
            return outcome;
        };
        if !denial.renewed().await {
            return outcome;
        }
        match self.attempt(replay, extensions, next).await {
            // The new credential does not suit the request's organization.
            Err(error) if anyreach_error(&error).is_some_and(AnyreachError::is_refused) => outcome,
            replayed => replayed,
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
        // The caller's overrides: an organization, a credential, a store or `Anonymous`.
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
            // `Answer` is non-exhaustive. An unknown variant is not a success.
            _ => Err(Error::Middleware(anyhow::anyhow!("unknown answer"))),
        }
    }
}

fn middleware_error(error: AnyreachError) -> Error {
    Error::Middleware(anyhow::Error::new(error))
}

/// Returns the error of `tower_anyreach` inside an error of the client.
#[must_use]
pub fn anyreach_error(error: &Error) -> Option<&AnyreachError> {
    match error {
        Error::Middleware(error) => error.downcast_ref(),
        Error::Reqwest(_) => None,
    }
}
