//! An axis that says something at given positions, and nowhere else.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::Ranged;

/// Where something is written, and what. The library's own axis with key points cannot have a mesh.
pub(crate) struct Ticks {
    scale: RangedCoordf64,
    texts: Vec<(f64, String)>,
}

impl Ticks {
    pub(crate) fn new(range: Range<f64>, texts: Vec<(f64, String)>) -> Self {
        Self {
            scale: range.into(),
            texts,
        }
    }
}

impl Ranged for Ticks {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.scale.map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.texts.iter().map(|(position, _)| *position).collect()
    }

    fn range(&self) -> Range<f64> {
        self.scale.range()
    }
}

impl ValueFormatter<f64> for Ticks {
    fn format_ext(&self, value: &f64) -> String {
        self.texts
            .iter()
            .find(|(position, _)| position.total_cmp(value).is_eq())
            .map(|(_, text)| text.clone())
            .unwrap_or_default()
    }
}
