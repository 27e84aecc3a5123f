//! Preparation of a prompt for the text encoder, as published: broken characters are repaired, entities are replaced, white space is
//! collapsed. The case stays.

use crate::family::mojibake::repaired;

/// The official negative prompt.
pub const NEGATIVE_PROMPT: &str = "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走";

/// The text that the encoder reads.
pub fn prepare_prompt(prompt: &str) -> String {
    let text = htmlize::unescape(htmlize::unescape(repaired(prompt))).into_owned();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `ftfy.fix_text`, `html.unescape` twice, and `re.sub(r"\s+", " ", …).strip()` give.
    #[test]
    fn prompts_are_cleaned_as_published() {
        for (prompt, cleaned) in [
            ("  Two  Cats\n\tfight ", "Two Cats fight"),
            ("fish &amp;amp; chips &quot;hot&quot;", "fish & chips \"hot\""),
            ("“Ｈｅｌｌｏ”，ﬁsh", "\"Hello\",fish"),
            ("itâ€™s a cafe\u{301}", "it's a café"),
        ] {
            assert_eq!(prepare_prompt(prompt), cleaned);
        }
        assert!(prepare_prompt(NEGATIVE_PROMPT).starts_with("色调艳丽,过曝,"));
    }
}
