//! Draws what `instructions.sh` prints: reads its table from standard input and writes an SVG to standard output.
//!
//! The only argument says how the figures were made. The background is transparent, and every color is one that can be
//! read on white and on GitHub's dark background.
#![allow(clippy::print_stdout, reason = "the picture is the result")]

use std::error::Error;
use std::io;
use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const TEXT: RGBColor = RGBColor(0x75, 0x7c, 0x85);
/// The ways of calling that are drawn: as the table names them, as the picture does, and their color.
const WAYS: [(&str, &str, RGBColor); 2] = [
    (
        "oneshot",
        "client.clone().oneshot(request)",
        RGBColor(0x3b, 0x82, 0xf6),
    ),
    (
        "held",
        "ready and call on one service",
        RGBColor(0x9a, 0xa4, 0xb2),
    ),
];
/// The contenders, as the table names them and as the picture does.
const NAMES: [(&str, &str); 8] = [
    ("by_hand", "two inserts by hand"),
    ("anyreach_ak", "tower-anyreach, ak_"),
    ("anyreach_pat", "tower-anyreach, pat_"),
    ("tower_http", "tower-http"),
    ("kube_client", "kube-client"),
    ("octocrab", "octocrab"),
    ("tonic", "tonic"),
    ("cf_gears", "cf-gears-toolkit-auth"),
];
const WIDTH: i32 = 800;
const TOP: i32 = 92;
const ROW: i32 = 46;
const BARS: Range<i32> = 190..670;

/// Net instructions, and their ratio over by hand.
type Figure = (f64, f64);

fn main() -> Result<(), Box<dyn Error>> {
    let footnote = std::env::args()
        .nth(1)
        .ok_or("expected how the figures were made")?;
    let table = io::read_to_string(io::stdin())?;
    let mut rows = Vec::new();
    for (name, shown) in NAMES {
        let [first, second] = WAYS.map(|(way, _, _)| figure(&table, way, name));
        rows.push((shown, [first?, second?]));
    }
    rows.sort_by(|(_, one), (_, other)| one[0].0.total_cmp(&other[0].0));

    let mut svg = String::new();
    let height = TOP + ROW * i32::try_from(rows.len())? + 40;
    let root = SVGBackend::with_string(&mut svg, (WIDTH.cast_unsigned(), height.cast_unsigned()))
        .into_drawing_area();
    draw(&root, &rows, &footnote, height)?;
    root.present()?;
    drop(root);
    println!("{}", svg.trim_end());
    Ok(())
}

/// Finds a row of case `h8`: case, way, contender, total, net, ratio.
fn figure(table: &str, way: &str, name: &str) -> Result<Figure, Box<dyn Error>> {
    for line in table.lines() {
        if let ["h8", found, contender, _, net, ratio] =
            line.split_whitespace().collect::<Vec<_>>()[..]
            && (found, contender) == (way, name)
        {
            return Ok((net.parse()?, ratio.parse()?));
        }
    }
    Err(format!("the table has no row h8 {way} {name}").into())
}

fn draw(
    root: &DrawingArea<SVGBackend<'_>, Shift>,
    rows: &[(&str, [Figure; 2])],
    footnote: &str,
    height: i32,
) -> Result<(), Box<dyn Error>> {
    let text = |size: i32, horizontal| {
        ("sans-serif", size)
            .into_font()
            .color(&TEXT)
            .pos(Pos::new(horizontal, VPos::Center))
    };
    let bold = ("sans-serif", 22)
        .into_font()
        .style(FontStyle::Bold)
        .color(&TEXT);
    let title = "Instructions that attaching the headers adds to a request";
    root.draw_text(title, &bold, (20, 16))?;
    let mut left = 20;
    for (_, shown, color) in WAYS {
        let corners = [(left, 54), (left + 12, 66)];
        root.draw(&Rectangle::new(corners, color.filled()))?;
        root.draw_text(shown, &text(16, HPos::Left), (left + 18, 60))?;
        left += 260;
    }
    root.draw_text(footnote, &text(15, HPos::Left), (20, height - 18))?;

    let figures = rows.iter().flat_map(|(_, figures)| figures);
    let most = figures.map(|figure| figure.0).fold(0.0, f64::max);
    let count = f64::from(u32::try_from(rows.len())?);
    let pixels = (BARS, TOP..height - 40);
    let scale = Cartesian2d::<RangedCoordf64, RangedCoordf64>::new(0.0..most, 0.0..count, pixels);
    let area = root.clone().apply_coord_spec(scale);
    for (row, (name, figures)) in (0_u32..).map(f64::from).zip(rows) {
        let label = Text::new((*name).to_owned(), (-10, 0), text(17, HPos::Right));
        area.draw(&(EmptyElement::at((0.0, row + 0.43)) + label))?;
        for (bar, (figure, (_, _, color))) in [0.06, 0.45].into_iter().zip(figures.iter().zip(WAYS))
        {
            let corners = [(0.0, row + bar), (figure.0, row + bar + 0.36)];
            area.draw(&Rectangle::new(corners, color.filled()))?;
            let value = format!("{} ({:.2} ×)", figure.0, figure.1);
            let value = Text::new(value, (8, 0), text(15, HPos::Left));
            area.draw(&(EmptyElement::at((figure.0, row + bar + 0.18)) + value))?;
        }
    }
    Ok(())
}
