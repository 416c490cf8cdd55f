//! One contender so many times, for an outside counter such as callgrind.

use crate::building::{self, Building};
use crate::contenders::{Case, Contender, Inner, Judge, cases};
use crate::peers;

/// Prints all names, each with the contender to subtract.
pub(crate) fn print_contenders() {
    struct Names;

    impl<I: Inner> Judge<I> for Names {
        fn judge<S: Contender>(
            &mut self,
            name: &'static str,
            _: &I,
            _: impl Fn(I) -> S + Send + Sync + 'static,
        ) {
            println!("{name} bare");
        }
    }

    let [case, ..] = cases();
    peers::judge_all(&case.inner(), &mut Names);
    let [name, bare] = building::NAMES;
    println!("{name} {bare}");
}

struct Only<'a> {
    case: &'a Case,
    name: &'a str,
    times: u32,
}

impl<I: Inner> Judge<I> for Only<'_> {
    fn judge<S: Contender>(
        &mut self,
        name: &'static str,
        inner: &I,
        wrap: impl Fn(I) -> S + Send + Sync + 'static,
    ) {
        if name == self.name {
            let mut service = wrap(inner.clone());
            (0..self.times).for_each(|_| self.case.call(&mut service));
        }
    }
}

pub(crate) fn count(name_of_case: &str, name: &str, times: u32) {
    for case in cases().iter().filter(|case| case.name == name_of_case) {
        if building::NAMES.contains(&name) {
            let building = Building::new(case, name);
            (0..times).for_each(|_| building.run());
        }
        peers::judge_all(&case.inner(), &mut Only { case, name, times });
    }
}
