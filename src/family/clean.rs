//! The caption cleaning of DeepFloyd IF, with which Open-Sora, Latte and Open-Sora-Plan were trained and which their pipelines apply to
//! prompts: the rules and their order are those of the published code.

use std::sync::LazyLock;

use regex::Regex;

use super::mojibake::repaired;

/// A caption, cleaned twice, as every published pipeline does.
pub(super) fn cleaned(caption: &str) -> String {
    clean(&clean(caption))
}

/// A pattern and its replacement.
type Rule = (Regex, &'static str);

fn rules(list: &[(&str, &'static str)]) -> Vec<Rule> {
    list.iter().map(|(pattern, by)| (Regex::new(pattern).expect("the patterns are constants"), *by)).collect()
}

/// An address: a scheme, or a name that ends in one of the domains; not before an @, which is asked for as what follows, outside of the groups.
macro_rules! address {
    ($scheme:literal) => {
        concat!(
            r"\b(?:(",
            $scheme,
            r":(?:/{1,3}|[a-zA-Z0-9%]))|([a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?)(?:[^@]|$))"
        )
    };
}

/// Cut out before markup is removed.
static ADDRESSES: LazyLock<[Regex; 2]> = LazyLock::new(|| {
    [address!("https?"), address!("www")].map(|pattern| Regex::new(pattern).expect("the patterns are constants"))
});

/// Tags, comments and declarations.
static MARKUP: LazyLock<Vec<Rule>> =
    LazyLock::new(|| rules(&[(r"(?s)<!--.*?-->|</?[a-z](?:[^>\x22']|\x22[^\x22]*\x22|'[^']*')*>|<[!?][^>]*>", "")]));

/// From nicknames to lone full stops.
static SYMBOLS: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    rules(&[
        (r"@[\w\d]+\b", ""),
        // CJK strokes, Katakana extensions, enclosed letters, compatibility, extension A, hexagrams, unified ideographs.
        (r"[\u{31c0}-\u{31ef}]+", ""),
        (r"[\u{31f0}-\u{31ff}]+", ""),
        (r"[\u{3200}-\u{4dbf}]+", ""),
        (r"[\u{4dc0}-\u{4dff}]+", ""),
        (r"[\u{4e00}-\u{9fff}]+", ""),
        (
            r"[\-\u{58a}\u{5be}\u{1400}\u{1806}\u{2010}-\u{2015}\u{2e17}\u{2e1a}\u{2e3a}\u{2e3b}\u{2e40}\u{301c}\u{3030}\u{30a0}\u{fe31}\u{fe32}\u{fe58}\u{fe63}\u{ff0d}]+",
            "-",
        ),
        ("[`´«»“”¨]", "\""),
        ("[‘’]", "'"),
        ("&quot;?", ""),
        ("&amp", ""),
        (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),
        (r"\d:\d\d\s+$", ""),
        (r"\\n", " "),
        (r"#\d{1,3}\b", ""),
        (r"#\d{5,}\b", ""),
        (r"\b\d{6,}\b", ""),
        (r"\S+\.(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)", ""),
        (r#"["']{2,}"#, "\""),
        (r"\.{2,}", " "),
        (r"[#®•©™&@·º½¾¿¡§~)(\]\[}{|\\/*]+", " "),
        (r"\s+\.\s+", " "),
    ])
});

/// The joints in words-like-these.
static JOINTS: LazyLock<Regex> = LazyLock::new(|| Regex::new("[-_]").expect("the pattern is a constant"));
/// With more than this many, the joints become spaces.
const MAX_JOINTS: usize = 3;

/// From article numbers to the ends of the text.
static WORDS: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    rules(&[
        (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),
        (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
        (r"\b\d+[a-zA-Z]+\d+\b", ""),
        (r"(worldwide\s+)?(free\s+)?shipping", ""),
        (r"(free\s)?download(\sfree)?", ""),
        (r"\bclick\b\s(?:for|on)\s\w+", ""),
        (r"\b(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)(\simages?)?", ""),
        (r"\bpage\s+\d+\b", ""),
        (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
        (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),
        (r"\b\s+:\s+", ": "),
        (r"(\D[,./])\b", "$1 "),
        (r"\s+", " "),
        (r#"^["']([\w\W]+)["']$"#, "$1"),
        (r"^['_,\-:;]", ""),
        (r"['_,\-:+]$", ""),
        (r"^\.\S+$", ""),
    ])
});

/// One pass of it.
fn clean(caption: &str) -> String {
    let text = caption.replace('+', " ");
    let text = percent_encoding::percent_decode_str(&text).decode_utf8_lossy();
    let text = text.trim().to_lowercase().replace("<person>", "person");
    let text = ADDRESSES.iter().fold(text, |text, address| without(address, &text));
    let text = htmlize::unescape(apply(&MARKUP, text)).into_owned();
    let mut text = apply(&SYMBOLS, text);
    if JOINTS.find_iter(&text).count() > MAX_JOINTS {
        text = JOINTS.replace_all(&text, " ").into_owned();
    }
    let text = htmlize::unescape(htmlize::unescape(repaired(&text))).into_owned();
    apply(&WORDS, text.trim().to_owned()).trim().to_owned()
}

fn apply(rules: &[Rule], mut text: String) -> String {
    for (pattern, by) in rules {
        text = pattern.replace_all(&text, *by).into_owned();
    }
    text
}

/// The text without what the groups of a pattern match.
fn without(pattern: &Regex, text: &str) -> String {
    let (mut kept, mut at) = (String::new(), 0);
    while let Some(group) = pattern.captures_at(text, at).and_then(|found| found.iter().skip(1).flatten().next()) {
        kept += &text[at..group.start()];
        at = group.end();
    }
    kept + &text[at..]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with the published code's cleaning (with ftfy and BeautifulSoup), run twice.
    #[rustfmt::skip]
    const CLEANED: [(&str, &str); 66] = [
        ("A White CAT walking, through tall-grass.  aesthetic score: 6.5.",
         "a white cat walking, through tall-grass. aesthetic score: 6.5."),
        ("see https://example.com/a?b=1 and www.foo.org/x now",
         "see ?b=1 and now"),
        ("mail me@foo.com or @nick_name!",
         "mail me or !"),
        ("<b>bold</b> &amp; <i class=\"x>y\">it</i> <person> a < b",
         "bold it person a < b"),
        ("中文 cat ㍿ dog 㐀",
         "cat dog"),
        ("em—dash – and “quotes” ‘single’ «x» `y`",
         "em-dash - and \"quotes\" 'single' \"x\" \"y\""),
        ("fish &amp chips &quot;hi&quot; 3 &lt; 4 &amp;amp; x",
         "fish chips \"hi\" 3 < 4 ; x"),
        ("at 192.168.0.1 #12 #1234 #123456 7654321 12345",
         "at 1234 12345"),
        ("photo.JPG of a dog ... and cat.mp4 !!! \"\"\"x\"\"\" ***wow***",
         "of a dog and !!! \"x\" wow"),
        ("this-is-my-cute-cat and this_is",
         "this is my cute cat and this is"),
        ("this-is-my cat",
         "this-is-my cat"),
        ("abc123 jc6640vc 6640vc231 j2d1a2a x 4k",
         "x 4k"),
        ("free shipping worldwide free shipping download free click for more page 12 png images",
         ""),
        ("1920x1080 3.5×2 a : b",
         "a: b"),
        ("one,two.three/four 3.5 and 1,000",
         "one, two. three four 3.5 and 1,000"),
        ("\"quoted whole\"",
         "quoted whole"),
        ("'-leading and trailing-",
         "leading and trailing"),
        (".hidden",
         ""),
        ("100% real + fake %20 %E4%BD%A0",
         "100% real fake"),
        ("ﬁne ﬂow ＡＢＣ café cafe\u{301}",
         "fine flow abc café café"),
        ("time 3:45  ",
         "time 3:45"),
        ("a \\n b\nnew\tline",
         "a b new line"),
        ("Étoile ÜBER straße ΑΣ",
         "étoile über straße ας"),
        ("aesthetic score: 5.0. motion score: 4.0. camera motion: pan left.",
         "aesthetic score: 5.0. motion score: 4.0. camera motion: pan left."),
        ("x . y .. z",
         "x y z"),
        ("",
         ""),
        ("   ",
         ""),
        ("#cat (with) [brackets] {and} pipes | slash / back \\ star *",
         "cat with brackets and pipes slash back star"),
        ("a<!-- comment -->b <br/> c <unclosed",
         "ab c <unclosed"),
        ("don't stop; it's 8 o'clock -- really",
         "don't stop; it's 8 o'clock - really"),
        ("“Smart,” she said… ok",
         "\"smart,\" she said… ok"),
        ("foo.it/bar baz.co uk",
         "uk"),
        ("e.g. i.e. U.S.A. 3.14.15",
         "e. g. i. e. u. s. a. 3.14.15"),
        ("tall grass,golden light.cinematic",
         "tall grass, golden light. cinematic"),
        ("nested \"'mixed'\" 'q'",
         "nested \"mixed\" 'q"),
        // UTF-8 that was read as Latin-1 or Windows-1252; what is left of it is left by ftfy too.
        ("itâ\u{80}\u{99}s a â\u{80}\u{9c}niceâ\u{80}\u{9d} day â\u{80}\u{94} reallyâ\u{80}¦",
         "it's a \"nice\" day - really…"),
        ("itâ€™s a â€œniceâ€\u{9d} day â€” reallyâ€¦",
         "it†s a \"nice\" day â€\" really…"),
        ("cafÃ© crÃ¨me brÃ»lÃ©e",
         "cafã crã\"me brã\"lã e"),
        ("cafÃ© crÃ¨me brÃ»lÃ©e",
         "cafã crã\"me brã\"lã e"),
        ("Ð\u{9c}Ð¾Ñ\u{81}ÐºÐ²Ð° Ð·Ð¸Ð¼Ð¾Ð¹",
         "ðœð ñ\u{81}ð ð²ð° ð ð¸ð¼ð ð¹"),
        ("ÐœÐ¾Ñ\u{81}ÐºÐ²Ð° Ð·Ð¸Ð¼Ð¾Ð¹",
         "ðœð ñ\u{81}ð ð²ð° ð ð¸ð¼ð ð¹"),
        ("emoji ð\u{9f}\u{8e}¬ cat ð\u{9f}\u{98}\u{80}",
         "emoji 🎬 cat 😀"),
        ("emoji ðŸŽ¬ cat ðŸ˜€",
         "emoji ðÿž¬ cat ðÿ˜€"),
        ("price â\u{82}¬5 Â£3",
         "price €5 â£3"),
        ("price â‚¬5 Â£3",
         "price €5 â£3"),
        ("lâ\u{80}\u{99}Ã©tÃ© Ã\u{a0} la plage",
         "l'ã tã ã la plage"),
        ("lâ€™Ã©tÃ© Ã\u{a0} la plage",
         "l†ã tã ã la plage"),
        ("donâ\u{80}\u{99}t â\u{80}\u{94} stopâ\u{80}¦",
         "don't - stop…"),
        ("donâ€™t â€” stopâ€¦",
         "don†t â€\" stop…"),
        ("â\u{99}¥ love â\u{98}\u{80} sun",
         "♥ love ☀ sun"),
        ("â\u{86}\u{92} arrow â\u{9c}\u{93}",
         "→ arrow ✓"),
        ("â†’ arrow âœ“",
         "â†' arrow âœ\""),
        ("à¤¸à¥\u{82}à¤°à¥\u{8d}à¤¯à¤¾à¤¸à¥\u{8d}à¤¤",
         "सूर्यठस्त"),
        ("à¤¸à¥‚à¤°à¥\u{8d}à¤¯à¤¾à¤¸à¥\u{8d}à¤¤",
         "सूर्यठस्त"),
        ("â\u{80}\u{9c}Helloâ\u{80}\u{9d} she said",
         "\"hello\" she said"),
        ("â€œHelloâ€\u{9d} she said",
         "\"hello\" she said"),
        ("Å\u{82}Ã³dÅº Å¼Ã³Å\u{82}Ä\u{87}",
         "å'ã³då å¼ã³å'ä‡"),
        ("Å‚Ã³dÅº Å¼Ã³Å‚Ä‡",
         "å'ã³då å¼ã³å'ä‡"),
        ("â\u{80}\u{9c}Smartâ\u{80}\u{9d} cafÃ©, â\u{80}\u{98}naÃ¯veâ\u{80}\u{99}",
         "smart\" cafã , 'naã¯ve"),
        ("â€œSmartâ€\u{9d} cafÃ©, â€˜naÃ¯veâ€™",
         "\"smart\" cafã , 'naã¯ve†"),
        ("a „german“ quote and ‚low‘ ones",
         "a \"german\" quote and 'low' ones"),
        ("ĳs ŉ ǆ",
         "ijs 'n dž"),
        ("déjà-vu: garçon à la plage, são",
         "déjà-vu: garçon à la plage, são"),
        ("à 5 €, â ° x",
         "à 5 €, â ° x"),
        ("5° ± 2 × 3",
         "5° ± 2 × 3"),
        ("ﬃ ligature ！",
         "ffi ligature !"),
    ];

    #[test]
    fn captions_are_cleaned_as_published() {
        for (caption, expected) in CLEANED {
            assert_eq!(cleaned(caption), expected, "of {caption:?}");
        }
    }

    /// What Python's `re` leaves with the published patterns, whose last condition looks ahead.
    #[test]
    fn addresses_before_an_at_are_cut_as_published() {
        for (text, left) in [
            ("a.com.net@x y", ".net@x y"),
            ("x.com@y.com z", "x.com@ z"),
            ("a.co b.com@c d.org/e/@f", " b.com@c /@f"),
            ("m.it,n.ru@o.net", ",n.ru@"),
        ] {
            assert_eq!(ADDRESSES.iter().fold(text.to_owned(), |text, address| without(address, &text)), left);
        }
    }
}
