//! What messages are made of: the word that was probably meant.

/// The word of `known` that differs least from `word` by typing errors (a letter too few, too many, wrong, or two swapped), if it differs
/// by few of them.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Of a short word half could be replaced otherwise.
    let most = match word.chars().count() {
        0 | 1 => 0,
        2..=4 => 1,
        5..=7 => 2,
        _ => 3,
    };
    let away = known.into_iter().map(|known| (strsim::damerau_levenshtein(word, known), known));
    let near = away.filter(|(errors, _)| *errors <= most);
    let similar = |known: &str| strsim::jaro_winkler(word, known);
    near.min_by(|a, b| a.0.cmp(&b.0).then(similar(b.1).total_cmp(&similar(a.1)))).map(|(_, known)| known)
}

/// `; did you mean …?` if there is such a word.
pub(crate) fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!("; did you mean `{nearest}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_are_seen_through() {
        let known = ["red", "green", "gradient", "gray", "large", "fast", "triangle", "up", "blue"];
        for (word, meant) in [
            ("rde", "red"),
            ("gren", "green"),
            ("grey", "gray"),
            ("lagre", "large"),
            ("fats", "fast"),
            ("tirangel", "triangle"),
            ("gradeint", "gradient"),
            ("pu", "up"),
            ("bleu", "blue"),
        ] {
            assert_eq!(nearest(word, known), Some(meant), "{word}");
        }
        for word in ["", "a", "cat", "moon", "xylophone", "on"] {
            assert_eq!(nearest(word, known), None, "{word}");
        }
    }
}
