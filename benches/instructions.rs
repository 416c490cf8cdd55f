//! Instructions per request, of one contender: to be run under callgrind, by `benches/instructions.sh`.
#![allow(
    clippy::print_stdout,
    reason = "the script reads the contenders' names"
)]

mod contenders;

use std::env;

/// Calls one contender a number of times, or prints the names of all.
struct Only {
    name: Option<String>,
    times: u32,
}

impl contenders::Judge for Only {
    fn judge(&mut self, name: &'static str, mut call: impl FnMut()) {
        match &self.name {
            None => println!("{name}"),
            Some(only) if only == name => (0..self.times).for_each(|_| call()),
            Some(_) => {}
        }
    }
}

fn main() {
    let mut arguments = env::args().skip(1).filter(|argument| argument != "--bench");
    let case = arguments
        .next()
        .unwrap_or_else(|| "eight_headers".to_owned());
    let name = arguments.next();
    let times = arguments
        .next()
        .map_or(0, |times| times.parse().expect("a number of calls"));
    for (known, headers) in contenders::cases() {
        if known == case {
            contenders::judge_all(
                &headers,
                &mut Only {
                    name: name.clone(),
                    times,
                },
            );
        }
    }
}
