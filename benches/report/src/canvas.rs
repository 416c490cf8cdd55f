//! The frame that all pictures share: size, colours, fonts, title and footer.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use textwrap::{Options, WordSplitter};

/// A part of a picture, in pixels.
pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The colour of the page, of text, of lesser text, and of lines behind the figures.
const PAGE: RGBColor = RGBColor(255, 255, 255);
pub(crate) const INK: RGBColor = RGBColor(31, 35, 40);
pub(crate) const FAINT: RGBColor = RGBColor(89, 99, 110);
pub(crate) const GRID: RGBColor = RGBColor(225, 229, 234);

/// The colour of this crate, of its second form, and of all others where they need not be told apart.
pub(crate) const OURS: RGBColor = RGBColor(9, 105, 218);
pub(crate) const OURS_TOO: RGBColor = RGBColor(10, 48, 105);
pub(crate) const OTHERS: RGBColor = RGBColor(175, 184, 193);

/// The sizes of text, in pixels.
const TITLE: f64 = 18.0;
pub(crate) const TEXT: f64 = 12.0;
pub(crate) const SMALL: f64 = 11.0;

/// The room between a chart and what stands below it, in pixels.
pub(crate) const BELOW: i32 = 14;

const WIDTH: u32 = 800;
const MARGIN: i32 = 24;
const HEADER: u32 = 64;
const LINE: u32 = 15;
/// As many characters as fit into the width, in wide fonts too.
const CHARACTERS: usize = 118;
/// Fonts that the reader's system has.
const FONTS: &str = "system-ui, -apple-system, Segoe UI, Noto Sans, Helvetica, Arial, sans-serif";

/// What stands above and below the figures.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) title: &'a str,
    pub(crate) subtitle: &'a str,
    /// What made the figures, to be kept together as far as possible.
    pub(crate) footer: &'a [String],
}

impl Frame<'_> {
    /// A picture whose figures take up `height`, and are drawn by `draw`.
    pub(crate) fn picture(
        &self,
        height: u32,
        draw: impl FnOnce(&Area<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<String> {
        let footer = self.footer.iter().map(|part| {
            // Lines are broken between parts, or after a comma.
            part.replace(' ', "\u{a0}").replace(",\u{a0}", ", ")
        });
        let footer = footer.collect::<Vec<_>>().join("\u{a0}· ");
        let footer = textwrap::wrap(
            &footer,
            Options::new(CHARACTERS).word_splitter(WordSplitter::NoHyphenation),
        );
        let footer_top = i32::try_from(HEADER + height)?;
        let footer_height = LINE * u32::try_from(footer.len())? + LINE;

        let mut svg = String::new();
        let size = (WIDTH, HEADER + height + footer_height);
        let page = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        page.fill(&PAGE)?;
        page.draw(&Text::new(self.title, (MARGIN, 16), bold(TITLE, INK)))?;
        page.draw(&Text::new(self.subtitle, (MARGIN, 42), plain(TEXT, FAINT)))?;
        for (line, top) in footer.iter().zip((footer_top..).step_by(LINE as usize)) {
            page.draw(&Text::new(&**line, (MARGIN, top), plain(SMALL, FAINT)))?;
        }
        draw(&page.clone().shrink((0, HEADER), (WIDTH, height)))?;
        page.present()?;
        drop(page);
        // The fonts are named once, rather than with each text.
        let fonts = format!(" font-family=\"{FONTS}\"");
        let svg = svg.replace(&fonts, "");
        Ok(svg.replacen("<svg", &format!("<svg{fonts}"), 1))
    }
}

/// Text of this size, in pixels.
pub(crate) fn plain(size: f64, colour: RGBColor) -> TextStyle<'static> {
    // The library takes points of its own.
    (FONTS, size * 1.24).into_font().color(&colour)
}

/// Bold text of this size, in pixels.
pub(crate) fn bold(size: f64, colour: RGBColor) -> TextStyle<'static> {
    (FONTS, size * 1.24, FontStyle::Bold)
        .into_font()
        .color(&colour)
}

/// Where text begins, ends, or has its middle, its height being centred on the point.
pub(crate) const STARTS: Pos = at(HPos::Left);
pub(crate) const ENDS: Pos = at(HPos::Right);
pub(crate) const MIDDLE: Pos = at(HPos::Center);

const fn at(h_pos: HPos) -> Pos {
    Pos {
        h_pos,
        v_pos: VPos::Center,
    }
}
