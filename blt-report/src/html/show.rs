//! How a variant is shown wherever the page names it.

use super::facts::Variant;
use super::svg::Look;
use minijinja::{Value, context};

/// The variant's colour and mark, the same in every chart.
pub fn look(variant: &Variant) -> Look {
    Look { index: variant.index, hollow: variant.lookahead }
}

/// HTML that the template does not escape.
pub fn safe(html: String) -> Value {
    Value::from_safe_string(html)
}

/// For the template: the swatch and the name.
pub fn named(variant: &Variant) -> Value {
    // What stands in no chart has no colour.
    let swatch = if variant.reference { String::new() } else { look(variant).swatch() };
    context! { swatch => safe(swatch), name => variant.name.as_str(), lookahead => variant.lookahead }
}
