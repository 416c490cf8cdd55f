//! What a request costs with the layer, beside no layer, two inserts by hand, and tower-http's layers.
//!
//! All wrap the same ready service, in one process. `bare` is to be subtracted: it makes the request too. More
//! contenders, and threads, are in `benches/peers`.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

mod contenders;

use contenders::{Case, Contender, Inner, Judge};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};

struct Timing<'a, 'c> {
    case: &'a Case,
    group: BenchmarkGroup<'c, WallTime>,
}

impl<I: Inner> Judge<I> for Timing<'_, '_> {
    fn judge<S: Contender>(
        &mut self,
        name: &'static str,
        inner: &I,
        wrap: impl Fn(I) -> S + Send + Sync + 'static,
    ) {
        let mut service = wrap(inner.clone());
        self.group.bench_function(name, |bencher| {
            bencher.iter(|| self.case.call(&mut service));
        });
    }
}

fn overhead(criterion: &mut Criterion) {
    for case in &contenders::cases() {
        let group = criterion.benchmark_group(case.name);
        let mut timing = Timing { case, group };
        contenders::judge_all(&case.inner(), &mut timing);
        timing.group.finish();
    }
}

criterion_group!(benches, overhead);
criterion_main!(benches);
