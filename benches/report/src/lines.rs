//! A panel of lines, each labelled where it ends.

use plotters::prelude::*;

use crate::canvas::{
    Area, BELOW, FAINT, GRID, INK, OURS, OURS_TOO, SMALL, STARTS, TEXT, bold, plain,
};
use crate::names;
use crate::ticks::Ticks;

/// How far apart two labels are at least, in pixels.
const APART: i32 = 15;
/// Colours for the others, to be told apart from ours and from one another.
const COLOURS: [RGBColor; 10] = [
    RGBColor(87, 96, 106),
    RGBColor(188, 76, 0),
    RGBColor(26, 127, 55),
    RGBColor(130, 80, 223),
    RGBColor(191, 57, 137),
    RGBColor(154, 103, 0),
    RGBColor(27, 124, 131),
    RGBColor(207, 34, 46),
    RGBColor(111, 78, 55),
    RGBColor(87, 138, 10),
];

/// One panel: its texts, its scale and its curves.
#[derive(Debug)]
pub(crate) struct Panel<'a> {
    pub(crate) title: String,
    pub(crate) x_title: String,
    pub(crate) y_title: &'a str,
    /// Where on the horizontal axis something is written, and what.
    pub(crate) ticks: Vec<(f64, String)>,
    /// The vertical axis begins at 0 and goes at least this far.
    pub(crate) reaches: f64,
    /// The room for labels to the right of the lines, in pixels.
    pub(crate) label_width: i32,
    pub(crate) curves: Vec<Curve>,
}

/// One line and how it is told from others.
#[derive(Debug)]
pub(crate) struct Curve {
    pub(crate) label: String,
    pub(crate) colour: RGBColor,
    pub(crate) ours: bool,
    pub(crate) points: Vec<(f64, f64)>,
}

impl Panel<'_> {
    pub(crate) fn draw(&self, area: &Area<'_>) -> anyhow::Result<()> {
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let top = points().fold(self.reaches, |top, (_, y)| top.max(y * 1.1));
        let positions = || points().map(|(x, _)| *x);
        let positions = positions().chain(self.ticks.iter().map(|(x, _)| *x));
        let (left, right) = positions.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, r), x| {
            (l.min(x), r.max(x))
        });
        // A single point stands in the middle.
        let side = ((right - left) * 0.04).max(0.1);

        area.draw(&Text::new(
            &*self.title,
            (24, 10),
            bold(TEXT, INK).pos(STARTS),
        ))?;
        let mut chart = ChartBuilder::on(area)
            .margin_top(26)
            .margin_left(16)
            .margin_right(self.label_width)
            .margin_bottom(BELOW)
            .set_label_area_size(LabelAreaPosition::Left, 54)
            .set_label_area_size(LabelAreaPosition::Bottom, 44)
            .build_cartesian_2d(
                Ticks::new(left - side..right + side, self.ticks.clone()),
                0.0..top,
            )?;
        chart
            .configure_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(GRID)
            .disable_x_mesh()
            .y_labels(6)
            .y_label_formatter(&|value| names::tick(*value))
            .label_style(plain(SMALL, FAINT))
            .x_desc(&self.x_title)
            .y_desc(self.y_title)
            .axis_desc_style(plain(TEXT, INK))
            .draw()?;
        let plot = chart.plotting_area();

        // Ours are drawn last, above the others.
        let (ours, others): (Vec<_>, Vec<_>) = self.curves.iter().partition(|curve| curve.ours);
        for curve in others.into_iter().chain(ours) {
            let (width, radius) = if curve.ours { (3, 4) } else { (2, 3) };
            plot.draw(&PathElement::new(
                curve.points.clone(),
                curve.colour.stroke_width(width),
            ))?;
            for point in &curve.points {
                plot.draw(&Circle::new(*point, radius, curve.colour.filled()))?;
            }
        }

        let ends = self.curves.iter().filter_map(|curve| curve.points.last());
        let ends: Vec<i32> = ends.map(|end| chart.backend_coord(end).1).collect();
        let (_, rows) = plot.get_pixel_range();
        let labels = spread(&ends, rows.end);
        for ((curve, end), label) in self.curves.iter().zip(ends).zip(labels) {
            let Some(point) = curve.points.last() else {
                continue;
            };
            let style = if curve.ours { bold } else { plain };
            let down = label - end;
            plot.draw(
                &(EmptyElement::at(*point)
                    + PathElement::new([(6, 0), (20, down), (25, down)], curve.colour.mix(0.5))
                    + Text::new(
                        curve.label.clone(),
                        (29, down),
                        style(SMALL, curve.colour).pos(STARTS),
                    )),
            )?;
        }
        Ok(())
    }
}

/// The colour of each contender, given all of a picture, in order.
pub(crate) fn colours<'a>(contenders: &[&'a str]) -> Vec<(&'a str, RGBColor)> {
    let mut ours = [OURS, OURS_TOO].into_iter().cycle();
    let mut others = COLOURS.into_iter().cycle();
    let colour = |name: &&'a str| {
        let next = if names::is_ours(name) {
            ours.next()
        } else {
            others.next()
        };
        (*name, next.unwrap_or(INK))
    };
    contenders.iter().map(colour).collect()
}

/// Moves labels so that none covers another and none is below `bottom`; as near to their lines as that allows.
fn spread(ends: &[i32], bottom: i32) -> Vec<i32> {
    let mut order: Vec<usize> = (0..ends.len()).collect();
    order.sort_by_key(|index| ends[*index]);

    let mut labels = ends.to_vec();
    let mut above = i32::MIN;
    for index in &order {
        labels[*index] = labels[*index].max(above.saturating_add(APART));
        above = labels[*index];
    }
    let mut below = bottom.saturating_add(APART);
    for index in order.iter().rev() {
        labels[*index] = labels[*index].min(below - APART);
        below = labels[*index];
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_keep_their_distance_and_their_order() {
        for (name, ends, labels) in [
            ("apart already", &[10, 40, 90][..], &[10, 40, 90][..]),
            ("on one spot", &[50, 50, 50], &[50, 65, 80]),
            ("in disorder", &[55, 50], &[65, 50]),
            ("at the bottom", &[98, 99, 100], &[70, 85, 100]),
            ("none", &[], &[]),
        ] {
            assert_eq!(spread(ends, 100), labels, "{name}");
        }
    }
}
