//! What a request costs with each contender, net of the inner service, and as a ratio to two inserts by hand.

use std::io;

use http::StatusCode;

use crate::building::{self, Building};
use crate::contenders::{Case, Contender, Inner, Judge, cases};
use crate::figures::Figures;
use crate::peers;
use crate::stopwatch::{Effort, Runner, interleave, median};
use crate::table::Table;

struct Collect {
    case: Case,
    runners: Vec<Runner>,
}

impl<I: Inner> Judge<I> for Collect {
    fn judge<S: Contender>(
        &mut self,
        name: &'static str,
        inner: &I,
        wrap: impl Fn(I) -> S + Send + Sync + 'static,
    ) {
        let case = self.case.clone();
        let mut service = wrap(inner.clone());
        self.runners
            .push(Runner::new(name, move || case.call(&mut service)));
    }
}

pub(crate) fn run(effort: Effort, figures: &mut Figures) -> io::Result<Table> {
    let mut table = Table::new(
        "One request: ns net of the bare service (which is in full), and as a multiple of by_hand",
    );
    for case in all_cases() {
        let mut collect = Collect {
            case: case.clone(),
            runners: Vec::new(),
        };
        peers::judge_all(&case.inner(), &mut collect);
        let mut runners = collect.runners;
        // It builds a request, whatever the answer will be.
        if case.status == StatusCode::OK {
            for name in building::NAMES {
                let building = Building::new(&case, name);
                runners.push(Runner::new(name, move || building.run()));
            }
        }
        let blocks = interleave(&mut runners, effort);

        let names: Vec<_> = runners.iter().map(|runner| runner.name).collect();
        let place = |name| names.iter().position(|&known| known == name);
        let bare = place("bare").expect("a contender");
        let by_hand = place("by_hand").expect("a contender");
        for (index, &name) in names.iter().enumerate() {
            let baseline = match name {
                "bare" => {
                    let value = median(blocks.iter().map(|block| block[index]));
                    table.set(name, case.name, &format!("{value:.0}"));
                    continue;
                }
                "reqwest_bare" => continue,
                "reqwest" => place("reqwest_bare").expect("a contender"),
                _ => bare,
            };
            let net = median(blocks.iter().map(|block| block[index] - block[baseline]));
            let over_by_hand =
                median(blocks.iter().map(|block| {
                    (block[index] - block[baseline]) / (block[by_hand] - block[bare])
                }));
            figures.add(case.name, name, None, "ns_net", net)?;
            figures.add(case.name, name, None, "ns_over_by_hand", over_by_hand)?;
            table.set(name, case.name, &format!("{net:.0} {over_by_hand:5.2}x"));
        }
    }
    Ok(table)
}

/// All that is asked, answered with 200 and with 401.
fn all_cases() -> impl Iterator<Item = Case> {
    let denied = cases()
        .into_iter()
        .zip(["no_headers_401", "eight_headers_401"]);
    let denied = denied.map(|(mut case, name)| {
        case.name = name;
        case.status = StatusCode::UNAUTHORIZED;
        case
    });
    cases().into_iter().chain(denied)
}
