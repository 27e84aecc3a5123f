//! Preparation of a prompt for the text encoder: appends the scores, then applies the caption cleaning that the model was trained with.

use crate::family::clean::cleaned;
use crate::pipeline::Scores;

/// The prompt with the scores appended, except those it contains already.
fn appended(scores: &Scores, prompt: &str) -> String {
    let mut text = prompt.to_owned();
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|_| !prompt.contains(name)) {
            text += &format!(" {name} {value}.");
        }
    };
    add("aesthetic score:", scores.aesthetic.map(|score| format!("{score:.1}")));
    add("motion score:", scores.motion.map(|score| format!("{score:.1}")));
    add("camera motion:", scores.camera.clone());
    text
}

/// The text that the encoder reads: scores appended, cleaned twice.
pub fn prepare_prompt(prompt: &str, scores: &Scores) -> String {
    cleaned(&appended(scores, prompt))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_appended_unless_they_are_there() {
        let all = Scores { aesthetic: Some(6.5), motion: Some(3.0), camera: Some("pan left".into()) };
        let long = "a cat aesthetic score: 6.5. motion score: 3.0. camera motion: pan left.";
        assert_eq!(prepare_prompt("A cat", &all), long);
        assert_eq!(prepare_prompt(long, &all), long);
        assert_eq!(
            prepare_prompt("a cat. motion score: 9.", &Scores::default()),
            "a cat. motion score: 9. aesthetic score: 6.5."
        );
        assert!(Scores { motion: Some(f32::NAN), ..Scores::default() }.check().is_err());
        assert!(Scores { aesthetic: Some(-1.0), ..Scores::default() }.check().is_err());
        assert!(all.check().is_ok());
    }
}
