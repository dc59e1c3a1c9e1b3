//! [`Code`]: the stable name of a kind of error, and what `blt-run explain` prints of it.

/// A kind of error or warning of a pipeline. [`code!`](crate::code!) makes one, beside what reports
/// it; its doc comment is the text.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    /// `BLT0203`: it stays what it is when messages change.
    pub id: &'static str,
    /// The lines of the doc comment, as the macro finds them.
    pub lines: &'static [&'static str],
}

impl Code {
    /// What the error means and what to do, in Markdown. The first line is its name.
    pub fn text(&self) -> String {
        let line = |line: &&str| line.strip_prefix(' ').unwrap_or(line).to_owned();
        self.lines.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// The first line of the text, without its full stop.
    pub fn name(&self) -> String {
        let text = self.text();
        text.lines().next().unwrap_or_default().trim_end_matches('.').to_owned()
    }
}

/// A code that [`code!`](crate::code!) has made known.
#[doc(hidden)]
pub struct Known(pub &'static Code);

inventory::collect!(Known);

/// Makes a [`Code`]: `code! { /// What it means. pub UNKNOWN_COLOR = "MY0001" }`
#[macro_export]
macro_rules! code {
    ($(#[doc = $line:literal])+ $vis:vis $name:ident = $id:literal) => {
        $(#[doc = $line])+
        $vis static $name: $crate::code::Code =
            $crate::code::Code { id: $id, lines: &[$($line),+] };
        $crate::inventory::submit! { $crate::code::Known(&$name) }
    };
}

/// Every code of the program, plugins included, by its id.
pub fn codes() -> Vec<&'static Code> {
    let mut codes: Vec<_> = inventory::iter::<Known>.into_iter().map(|known| known.0).collect();
    codes.sort_by_key(|code| code.id);
    codes
}
