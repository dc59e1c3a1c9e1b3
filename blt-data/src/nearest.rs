//! "did you mean": the name that is most like a misspelt one.

/// The name in `names` that is nearest to `name`, if it is near enough to be meant.
pub(crate) fn nearest(name: &str, names: &[String]) -> Option<String> {
    let distance =
        |other: &String| strsim::damerau_levenshtein(&other.to_lowercase(), &name.to_lowercase());
    let near = |other: &&String| {
        distance(other) <= 1 + other.chars().count().min(name.chars().count()) / 3
    };
    names.iter().filter(near).min_by_key(|other| (distance(other), *other)).cloned()
}
