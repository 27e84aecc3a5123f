//! Seeds in JSON. Many readers keep numbers as f64, which rounds those above 2^53: these seeds are text. Both forms are read.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The largest integer up to which f64 has all of them.
const EXACT: u64 = 1 << 53;

/// A seed as a number, or as text above 2^53.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(seed: &u64, to: S) -> Result<S::Ok, S::Error> {
    if *seed <= EXACT { seed.serialize(to) } else { seed.to_string().serialize(to) }
}

/// A seed in either form.
///
/// # Errors
/// Anything that is no seed.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Number(u64),
        Text(String),
    }
    match Form::deserialize(from)? {
        Form::Number(seed) => Ok(seed),
        Form::Text(text) => {
            text.parse().map_err(|_| serde::de::Error::custom(format!("`{text}` is no seed: 0 to 2^64 - 1")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Holder(#[serde(with = "super")] u64);

    #[test]
    fn large_seeds_are_text_and_both_forms_are_read() {
        for (seed, json) in [
            (0, "0"),
            (1 << 53, "9007199254740992"),
            ((1 << 53) + 1, "\"9007199254740993\""),
            (u64::MAX, "\"18446744073709551615\""),
        ] {
            assert_eq!(serde_json::to_string(&Holder(seed)).unwrap(), json);
            assert_eq!(serde_json::from_str::<Holder>(json).unwrap(), Holder(seed));
            assert_eq!(serde_json::from_str::<Holder>(&format!("\"{seed}\"")).unwrap(), Holder(seed));
            assert_eq!(serde_json::from_str::<Holder>(&seed.to_string()).unwrap(), Holder(seed));
        }
        for bad in ["-1", "1.5", "\"x\"", "null", "18446744073709551616"] {
            assert!(serde_json::from_str::<Holder>(bad).is_err(), "{bad}");
        }
    }
}
