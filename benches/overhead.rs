//! What a request costs with the layer, beside no layer, two inserts by hand, and tower-http's layers.
//!
//! All wrap the same ready service, in one process. `bare` is to be subtracted: it makes the request too.
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

mod contenders;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};

impl contenders::Judge for BenchmarkGroup<'_, WallTime> {
    fn judge(&mut self, name: &'static str, mut call: impl FnMut()) {
        self.bench_function(name, |bencher| bencher.iter(&mut call));
    }
}

fn overhead(criterion: &mut Criterion) {
    for (name, headers) in contenders::cases() {
        let mut group = criterion.benchmark_group(name);
        contenders::judge_all(&headers, &mut group);
        group.finish();
    }
}

criterion_group!(benches, overhead);
criterion_main!(benches);
