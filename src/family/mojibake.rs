//! Repairs text that was written as UTF-8 and read as Latin-1 or Windows-1252 (`â€œ` for `“`), and simplifies the characters that come with
//! it. The published cleaning uses the `ftfy` library for this; this module implements as much of it as lower-case captions can need.
//!
//! Of the lead bytes of UTF-8 only those of three- and four-byte sequences (E0 to F4) are lower-case letters in both encodings: two-byte
//! sequences are lost once a caption is lower-case, with `ftfy` too. Captions that keep their case (Wan's) may have them, and there they stay
//! as they are, where `ftfy` repairs some.

use unicode_normalization::UnicodeNormalization;

/// Bytes 80 to 9F in Windows-1252; its five undefined bytes map to themselves.
#[rustfmt::skip]
const WINDOWS: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}',
    '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];
/// Characters that indicate a wrong encoding next to an accented letter.
const TELLING: &str = "¢£¥€¦¤¬¯¸ƒˆ˜†‡‰";
/// The maximum number of repairs for text that was decoded wrongly several times.
const ROUNDS: usize = 16;

/// The repaired text, with straight quotes, ligatures and full-width letters replaced, accents composed, and control characters removed.
pub(super) fn repaired(text: &str) -> String {
    let mut text = text.to_owned();
    for _ in 0..ROUNDS {
        let next = round(&text);
        if next == text {
            break;
        }
        text = next;
    }
    text
}

fn round(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let (mut plain, mut at) = (String::with_capacity(text.len()), 0);
    while let Some(&c) = chars.get(at) {
        let (length, read) = sequence(&chars[at..]).unwrap_or((1, c));
        simplify(read, &mut plain);
        at += length;
    }
    plain.nfc().collect()
}

/// The byte that a character has in either encoding.
fn byte(c: char) -> Option<u8> {
    match WINDOWS.iter().position(|w| *w == c) {
        Some(i) => Some(0x80 + i as u8),
        None => u8::try_from(u32::from(c)).ok().filter(|byte| *byte >= 0x80),
    }
}

/// The UTF-8 sequence at the start of `chars`, if there is one: its length and the character.
fn sequence(chars: &[char]) -> Option<(usize, char)> {
    let lead = byte(*chars.first()?)?;
    let length = match lead {
        0xE0..=0xEF => 3,
        0xF0..=0xF4 => 4,
        _ => return None,
    };
    let chars = chars.get(..length)?;
    let mut bytes = vec![lead];
    for (i, c) in chars.iter().enumerate().skip(1) {
        bytes.push(match c {
            // Somebody has taken byte A0 for a space before: believed where what stands before it tells of a wrong encoding.
            ' ' if i + 1 == length && told(lead, chars[1]) => 0xA0,
            _ => byte(*c).filter(|byte| (0x80..=0xBF).contains(byte))?,
        });
    }
    Some((length, std::str::from_utf8(&bytes).ok()?.chars().next()?))
}

fn told(lead: u8, second: char) -> bool {
    (lead <= 0xE3 || lead == 0xF0)
        && second != '\u{85}'
        && (('\u{80}'..='\u{9f}').contains(&second) || TELLING.contains(second))
}

/// Appends one character in the form the model was trained with.
fn simplify(c: char, plain: &mut String) {
    // Controls above ASCII are letters of Windows-1252.
    let c = if ('\u{80}'..='\u{9f}').contains(&c) { WINDOWS[(u32::from(c) - 0x80) as usize] } else { c };
    match c {
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => plain.push('\''),
        '\u{201c}'..='\u{201f}' => plain.push('"'),
        'ĳ' | 'ŉ' | 'ǆ' | 'ǉ' | 'ǌ' | 'ǳ' => plain.extend(c.nfkc()),
        '\u{fb00}'..='\u{fb06}' | '\u{ff01}'..='\u{ffef}' | '\u{3000}' => plain.extend(c.nfkc()),
        '\t' | '\n' | '\r' => plain.push(c),
        '\u{206a}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' => {}
        _ if c.is_ascii_control() => {}
        _ => plain.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_read_in_both_encodings_and_nothing_else_is() {
        for (text, expected) in [
            ("â\u{80}\u{9c}nice\u{e2}\u{80}\u{9d} â€” stopâ€¦ â‚¬5", "\"nice\" — stop… €5"),
            ("emoji ð\u{9f}\u{8e}¬ cat ðŸ˜€", "emoji 🎬 cat 😀"),
            // Twice over: the dash, read wrongly as â€”, written again.
            ("\u{e2}\u{80}\u{93}", "–"),
            ("itâ€ s", "it†s"),
            ("fi ﬁ ＡＢ ĳ „low“ ‚low‘ e\u{301}\u{7}", "fi fi AB ij \"low\" 'low' é"),
            ("x\u{85}y \u{80}5", "x…y €5"),
        ] {
            assert_eq!(repaired(text), expected, "of {text:?}");
        }
        for text in ["à la carte à ° x, são ± 2", "âge, côte, île ß × 3", "привет", "â€", "ð", "日本"]
        {
            assert_eq!(repaired(text), text);
        }
    }
}
