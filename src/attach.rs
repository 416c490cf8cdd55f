//! Setting the headers of a request as it was decided.
//!
//! A room of its own, in which no header is looked up: so the compiler sees each of the two inserts in one place only,
//! takes it in, and knows its hash. `benches/peers/instructions.sh` shows what that is worth.

use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::authorize::{Attached, CallerHeaders, ORGANIZATION, brings, remove_organization, strip};
use crate::error::Error;

/// Sets and removes headers as decided, or says which of them must not be there.
pub(crate) fn attach(
    headers: &mut HeaderMap,
    attached: &Attached,
    caller_headers: CallerHeaders,
) -> Result<(), Box<Error>> {
    let Some(credential) = attached.credential() else {
        strip(headers, &attached.credentials);
        return Ok(());
    };
    let authorization = credential.header_value().clone();
    let callers_authorization = headers.insert(&AUTHORIZATION, authorization).is_some();
    let callers_organization = match attached.organization() {
        Some(organization) => {
            let organization = organization.header_value().clone();
            headers.insert(ORGANIZATION, organization).is_some()
        }
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
