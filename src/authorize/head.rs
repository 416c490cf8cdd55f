//! Access to the head of a request, by itself or with its body.

use http::request::Parts;
use http::{Extensions, HeaderMap, Method, Request, Uri};

/// The head of a request: [`Parts`], or a [`Request`] with its body.
///
/// `http` gives mutable access to one part of a `Request` at a time. Taking the request apart and
/// building it again would copy the head twice, which costs 58 instructions.
pub(crate) trait Head {
    fn view(&self) -> View<'_>;
    fn uri_mut(&mut self) -> &mut Uri;
    fn headers_mut(&mut self) -> &mut HeaderMap;
    #[cfg_attr(not(feature = "retry"), expect(dead_code, reason = "for `Replay`"))]
    fn extensions_mut(&mut self) -> &mut Extensions;
}

/// The parts of a head that the decision depends on.
pub(crate) struct View<'a> {
    pub(super) method: &'a Method,
    pub(super) uri: &'a Uri,
    pub(super) headers: &'a HeaderMap,
    pub(super) extensions: &'a Extensions,
}

impl Head for Parts {
    fn view(&self) -> View<'_> {
        View {
            method: &self.method,
            uri: &self.uri,
            headers: &self.headers,
            extensions: &self.extensions,
        }
    }

    fn uri_mut(&mut self) -> &mut Uri {
        &mut self.uri
    }

    fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.headers
    }

    fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.extensions
    }
}

impl<B> Head for Request<B> {
    fn view(&self) -> View<'_> {
        View {
            method: self.method(),
            uri: self.uri(),
            headers: self.headers(),
            extensions: self.extensions(),
        }
    }

    fn uri_mut(&mut self) -> &mut Uri {
        self.uri_mut()
    }

    fn headers_mut(&mut self) -> &mut HeaderMap {
        self.headers_mut()
    }

    fn extensions_mut(&mut self) -> &mut Extensions {
        self.extensions_mut()
    }
}
