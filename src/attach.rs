//! Setting the headers of a request as it was decided.
//!
//! A room of its own, in which no header is looked up: so the compiler sees each of the two inserts in one place only,
//! takes it in, and knows its hash. `benches/peers/instructions.sh` shows what that is worth.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use crate::authorize::{Attached, CallerHeaders, ORGANIZATION, brings, remove_organization, strip};
use crate::error::Error;
use crate::organization::OrganizationId;

/// Sets and removes headers as decided, or says which of them must not be there.
#[inline]
pub(crate) fn attach(
    headers: &mut HeaderMap,
    attached: &Attached,
    caller_headers: CallerHeaders,
) -> Result<(), Box<Error>> {
    // What was decided is not shown to a function that is not inlined, so that it can stay in registers.
    match attached.ours() {
        Ok(credential) => {
            let organization = attached.organization().map(OrganizationId::header_value);
            set(
                headers,
                credential.header_value(),
                organization,
                caller_headers,
            )
        }
        Err(whose) => {
            strip(headers, whose);
            Ok(())
        }
    }
}

fn set(
    headers: &mut HeaderMap,
    authorization: &HeaderValue,
    organization: Option<&HeaderValue>,
    caller_headers: CallerHeaders,
) -> Result<(), Box<Error>> {
    let callers_authorization = headers
        .insert(&AUTHORIZATION, authorization.clone())
        .is_some();
    let callers_organization = match organization {
        Some(organization) => headers.insert(ORGANIZATION, organization.clone()).is_some(),
        None => brings(headers, &ORGANIZATION) && remove_organization(headers),
    };
    if caller_headers == CallerHeaders::Reject && (callers_authorization || callers_organization) {
        // The headers are spoilt by now, and the request is dropped with them.
        let name = if callers_authorization {
            AUTHORIZATION
        } else {
            ORGANIZATION
        };
        return Err(Box::new(Error::CallerHeader(name)));
    }
    Ok(())
}
