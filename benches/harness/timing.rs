//! Interleaved timing: every round times each contender once, in random order, so that a disturbance of the machine
//! affects all of them alike. A contender's figure is the median of its rounds.

use std::time::Instant;

use super::{CASES, Contender, Way};

/// Enough rounds for stable medians.
pub(crate) const FULL: usize = 3_000;
/// Shows that everything runs; the figures mean nothing.
pub(crate) const SHORT: usize = 3;

const CALLS_IN_A_ROUND: u32 = 64;

/// Prints nanoseconds for every case and way, and for cloning a service.
pub(crate) fn print_times(contenders: &[Contender], rounds: usize) {
    println!(
        "Nanoseconds net of the bare service (whose row is in full), and their ratio over by_hand"
    );
    let mut columns = Vec::new();
    for (index, case) in CASES.iter().enumerate() {
        for way in Way::CALLS {
            columns.push((
                format!("{} {}", case.name, way.name()),
                medians(contenders, index, way, rounds),
            ));
        }
    }
    columns.push((
        "clone".to_owned(),
        medians(contenders, 0, Way::Clone, rounds),
    ));

    print!("{:<14}", "contender");
    for (title, _) in &columns {
        print!("{title:>18}");
    }
    println!();
    for (row, contender) in contenders.iter().enumerate() {
        print!("{:<14}", contender.name);
        for (_, values) in &columns {
            let net = values[row] - values[0];
            if row == 0 {
                print!("{:>18.1}", values[row]);
            } else {
                print!("{net:>12.1} {:>5.2}", net / (values[1] - values[0]));
            }
        }
        println!();
    }
}

/// Returns the median nanoseconds of a call for each contender.
fn medians(contenders: &[Contender], case: usize, way: Way, rounds: usize) -> Vec<f64> {
    let mut handles: Vec<_> = contenders
        .iter()
        .flat_map(|contender| contender.build(1))
        .collect();
    let mut samples = vec![Vec::with_capacity(rounds); handles.len()];
    let mut order: Vec<_> = (0..handles.len()).collect();
    let mut random = 1;
    for _ in 0..rounds {
        shuffle(&mut order, &mut random);
        for &index in &order {
            let start = Instant::now();
            handles[index].counted(&CASES[case], way, CALLS_IN_A_ROUND);
            let nanoseconds = start.elapsed().as_secs_f64() * 1e9;
            samples[index].push(nanoseconds / f64::from(CALLS_IN_A_ROUND));
        }
    }
    samples.into_iter().map(median).collect()
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Shuffles by Fisher and Yates; a linear congruential generator is random enough for an order.
fn shuffle(order: &mut [usize], random: &mut u64) {
    for last in (1..order.len()).rev() {
        *random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let chosen = (*random >> 33) % (last as u64 + 1);
        order.swap(last, usize::try_from(chosen).expect("an index"));
    }
}
