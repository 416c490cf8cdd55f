//! Instructions per request, of one contender: to be run under callgrind, by `benches/instructions.sh`.
#![allow(
    clippy::print_stdout,
    reason = "the script reads the contenders' names"
)]

mod contenders;

use std::env;

use contenders::{Case, Contender, Inner, Judge};

/// Calls one contender a number of times, or prints the names of all.
struct Only<'a> {
    case: &'a Case,
    name: Option<&'a str>,
    times: u32,
}

impl<I: Inner> Judge<I> for Only<'_> {
    fn judge<S: Contender>(
        &mut self,
        name: &'static str,
        inner: &I,
        wrap: impl Fn(I) -> S + Send + Sync + 'static,
    ) {
        match self.name {
            None => println!("{name}"),
            Some(only) if only == name => {
                let mut service = wrap(inner.clone());
                (0..self.times).for_each(|_| self.case.call(&mut service));
            }
            Some(_) => {}
        }
    }
}

fn main() {
    let mut arguments = env::args().skip(1).filter(|argument| argument != "--bench");
    let name_of_case = arguments
        .next()
        .unwrap_or_else(|| "eight_headers".to_owned());
    let name = arguments.next();
    let times = arguments
        .next()
        .map_or(0, |times| times.parse().expect("a number of calls"));
    for case in &contenders::cases() {
        if case.name == name_of_case {
            let mut only = Only {
                case,
                name: name.as_deref(),
                times,
            };
            contenders::judge_all(&case.inner(), &mut only);
        }
    }
}
