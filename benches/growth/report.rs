//! The curves as a table and as figures, and whether they are flat.

use std::io;

use crate::curves::Curve;
use crate::figures::Figures;

/// A curve is flat if no point of it is further than this from its first.
const TOLERANCE: f64 = 0.05;

/// What one point came to, for each request or rotation.
#[derive(Clone)]
pub(crate) struct Point {
    pub(crate) x: u32,
    pub(crate) net: f64,
    pub(crate) rotation: Option<f64>,
}

/// In what the curves are measured.
pub(crate) struct Unit {
    /// The metric of a request, net of bare.
    pub(crate) net: &'static str,
    pub(crate) rotation: &'static str,
}

/// Prints a curve and adds it to the figures. Returns whether it is flat.
pub(crate) fn report(
    curve: &Curve,
    unit: &Unit,
    points: &[Point],
    figures: &mut Figures,
) -> io::Result<bool> {
    let first = points.first().map_or(0.0, |point| point.net);
    let mut is_flat = true;
    println!("\n{:<22} {:>18} {:>8}", curve.case, unit.net, "ratio");
    for point in points {
        let ratio = point.net / first;
        is_flat &= (ratio - 1.0).abs() <= TOLERANCE;
        print!("{:>22} {:>18.1} {ratio:>8.3}", point.x, point.net);
        let mut add =
            |metric, value| figures.add(curve.case, curve.contender, Some(point.x), metric, value);
        add(unit.net, point.net)?;
        if let Some(rotation) = point.rotation {
            print!("   the rotation itself: {rotation:.0}");
            add(unit.rotation, rotation)?;
        }
        println!();
    }
    Ok(is_flat)
}
