//! How large services and their futures are, net of the inner ones.

use std::mem::size_of;

use http::Request;
use tower::Service;

use crate::contenders::{Body, Contender, Inner, Judge, cases};
use crate::peers;
use crate::table::Table;

impl<I: Inner> Judge<I> for Table {
    fn judge<S: Contender>(
        &mut self,
        name: &'static str,
        _: &I,
        _: impl Fn(I) -> S + Send + Sync + 'static,
    ) {
        let net = |size: usize, of_inner: usize| {
            // A boxed future is smaller than what is in the box.
            format!("{:+}", size.cast_signed() - of_inner.cast_signed())
        };
        self.set(name, "service", &net(size_of::<S>(), size_of::<I>()));
        let future = size_of::<<S as Service<Request<Body>>>::Future>();
        let of_inner = size_of::<<I as Service<Request<Body>>>::Future>();
        self.set(name, "future", &net(future, of_inner));
    }
}

pub(crate) fn run() -> Table {
    let mut table = Table::new("Bytes of a service and of its future, net of the inner ones");
    let [case, ..] = cases();
    peers::judge_all(&case.inner(), &mut table);
    table
}
