//! What it costs to clone a service and drop the clone, net of the inner service's.

use std::hint::black_box;
use std::io;

use crate::contenders::{Contender, Inner, Judge, cases};
use crate::figures::Figures;
use crate::peers;
use crate::stopwatch::{Effort, Runner, interleave, median};
use crate::table::Table;

struct Collect(Vec<Runner>);

impl<I: Inner> Judge<I> for Collect {
    fn judge<S: Contender>(
        &mut self,
        name: &'static str,
        inner: &I,
        wrap: impl Fn(I) -> S + Send + Sync + 'static,
    ) {
        let service = wrap(inner.clone());
        self.0.push(Runner::new(name, move || {
            drop(black_box(black_box(&service).clone()));
        }));
    }
}

pub(crate) fn run(effort: Effort, figures: &mut Figures) -> io::Result<Table> {
    let [case, ..] = cases();
    let mut collect = Collect(Vec::new());
    peers::judge_all(&case.inner(), &mut collect);
    let Collect(mut runners) = collect;
    let blocks = interleave(&mut runners, effort);

    let mut table = Table::new("Cloning a service and dropping the clone: ns net of the inner one");
    let bare = runners.iter().position(|runner| runner.name == "bare");
    let bare = bare.expect("a contender");
    for (index, runner) in runners
        .iter()
        .enumerate()
        .filter(|(index, _)| *index != bare)
    {
        let net = median(blocks.iter().map(|block| block[index] - block[bare]));
        figures.add("service_clone", runner.name, None, "ns_net", net)?;
        table.set(runner.name, "service_clone", &format!("{net:.1}"));
    }
    Ok(table)
}
