//! Everything by which a value may end up in a log: `Debug`, `Display`, sources, anyhow, a panic.

use std::error::Error;
use std::fmt::{Debug, Display};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tower_anyreach::Denial;

pub(crate) fn debug(name: &str, value: &(impl Debug + ?Sized)) {
    println!("{name}: {value:?}\n{value:#?}");
}

pub(crate) fn display(name: &str, value: &(impl Display + ?Sized)) {
    println!("{name}: {value}\n{value:#}\n{value:>200}");
}

/// An error and all its sources.
pub(crate) fn error(name: &str, error: &(dyn Error + 'static)) {
    let mut next = Some(error);
    while let Some(error) = next {
        display(name, error);
        debug(name, error);
        tracing::error!(error, %error, "shown");
        next = error.source();
    }
    if let Some(denial) = tower_anyreach::Error::find(error).and_then(tower_anyreach::Error::denial)
    {
        self::denial(denial);
    }
}

/// A denial, without `headers` and `body`, which are server-written and documented as such.
pub(crate) fn denial(denial: &Denial) {
    debug("denial", denial);
    display("denial", denial);
    debug("detail", &denial.detail());
    debug("scopes", &denial.required_scopes().collect::<Vec<_>>());
    debug("credential", &denial.credential());
    debug("organization", &denial.organization());
    display("reason", &format!("{:?}", denial.reason()));
}

/// An error in anyhow and in the panic of an `unwrap`.
pub(crate) fn panic(error: impl Error + Send + Sync + 'static) {
    let error = anyhow::Error::new(error).context("the call failed");
    println!("{error} {error:#} {error:?} {error:#?}");
    // The panic hook prints it, with a backtrace.
    unwrapped(Err(error)).unwrap_err();
}

/// Unwraps the result, and returns the payload of the panic.
pub(crate) fn unwrapped(result: Result<(), impl Debug>) -> std::thread::Result<()> {
    catch_unwind(AssertUnwindSafe(|| result.unwrap()))
}
