//! The names of parts.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Component, Path};

/// The names of the parts of these spans of input. A name depends on the input's name and its row
/// groups (None: all) alone, unless two would be the same.
///
/// `in/a.parquet` stays `in/a.parquet` (and `s3://bucket/in/a.parquet` is `bucket/in/a.parquet`),
/// its row groups 0 to 11 are `in/a.00000-00011.parquet`; other endings get `.parquet` after them.
/// `..` and `/`, which lead out of the folder, are left out. A folder `lang=en` becomes `lang-en`: its
/// value is a column of the part, and readers that also make one of the folder's name complain of
/// two.
pub fn names<'a>(
    inputs: impl IntoIterator<Item = (&'a str, Option<&'a Range<usize>>)>,
) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let mut name = |(input, groups): (&str, Option<&Range<usize>>)| {
        let input = input.split_once("://").map_or(input, |(_, below)| below);
        let normal = Path::new(input).components().filter_map(|c| match c {
            Component::Normal(part) => Some(part.to_string_lossy().into_owned()),
            _ => None,
        });
        let mut normal: Vec<String> = normal.collect();
        let file = normal.pop().unwrap_or_default();
        let folders = normal.into_iter().map(|folder| folder.replace('=', "-"));
        let path = folders.chain([file]).collect::<Vec<_>>().join("/");
        let mut stem = path.strip_suffix(".parquet").unwrap_or(&path).to_owned();
        if let Some(groups) = groups {
            stem += &format!(".{:05}-{:05}", groups.start, groups.end.saturating_sub(1));
        }
        let tries = std::iter::once(format!("{stem}.parquet"))
            .chain((2..).map(|n| format!("{stem}~{n}.parquet")));
        let free = tries.into_iter().find(|name| !taken.contains(name)).unwrap_or_default();
        taken.insert(free.clone());
        free
    };
    inputs.into_iter().map(&mut name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_inputs_and_stay_inside() {
        let (first, second) = (0..12, 12..13);
        let inputs = [
            ("in/a.parquet", None, "in/a.parquet"),
            ("in/a.parquet", Some(&first), "in/a.00000-00011.parquet"),
            ("in/a.parquet", Some(&second), "in/a.00012-00012.parquet"),
            ("in/b.txt", None, "in/b.txt.parquet"),
            ("../x/a.parquet", None, "x/a.parquet"),
            ("/x/a.parquet", None, "x/a~2.parquet"),
            ("in/year=2024/a=b.arrow", None, "in/year-2024/a=b.arrow.parquet"),
            ("in/year=2024/a=b.arrow", Some(&first), "in/year-2024/a=b.arrow.00000-00011.parquet"),
            ("x/a.parquet", None, "x/a~3.parquet"),
            ("s3://bucket/in/year=2024/a.parquet", None, "bucket/in/year-2024/a.parquet"),
        ];
        let found = names(inputs.iter().map(|(input, groups, _)| (*input, *groups)));
        assert_eq!(found, inputs.map(|(.., expected)| expected));
        for (input, groups, expected) in inputs.into_iter().take(5) {
            assert_eq!(names([(input, groups)]), [expected]);
        }
    }
}
