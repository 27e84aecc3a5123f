//! Numbers that JSON has no form for, and JSON in pages.
//!
//! `serde_json` writes infinite numbers and NaN as `null`, silently, and cannot read that back. Fields that may hold one are marked
//! `#[serde(with = "crate::json::float")]` instead: such a number becomes one of the words `"Infinity"`, `"-Infinity"` and `"NaN"`, which
//! JavaScript's and Python's functions for reading numbers know. All other numbers of our JSON are finite.

/// A page with `data` in place of `mark`, in a script element, which no text may end.
pub(crate) fn in_page(page: &str, mark: &str, data: &serde_json::Value) -> String {
    page.replace(mark, &data.to_string().replace('<', "\\u003c"))
}

/// Numbers, or the words for those that are not finite.
pub(crate) mod float {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    #[derive(Deserialize, Serialize)]
    #[serde(untagged)]
    enum Form {
        Number(f64),
        Word(String),
    }

    pub(crate) fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
        let word = match *value {
            finite if finite.is_finite() => return Form::Number(finite).serialize(to),
            infinite if infinite == f64::INFINITY => "Infinity",
            infinite if infinite == f64::NEG_INFINITY => "-Infinity",
            _ => "NaN",
        };
        Form::Word(word.into()).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        match Form::deserialize(from)? {
            Form::Number(number) => Ok(number),
            Form::Word(word) => {
                word.parse().map_err(|_| de::Error::custom(format!("`{word}` is no number, nor Infinity or NaN")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Debug, Deserialize, Serialize)]
    struct One(#[serde(with = "super::float")] f64);

    #[test]
    fn no_number_becomes_null() {
        for (value, json) in [
            (1.5, "1.5"),
            (0.1, "0.1"),
            (f64::INFINITY, "\"Infinity\""),
            (f64::NEG_INFINITY, "\"-Infinity\""),
            (f64::NAN, "\"NaN\""),
        ] {
            assert_eq!(serde_json::to_string(&One(value)).unwrap(), json);
            let One(back) = serde_json::from_str(json).unwrap();
            assert!(back == value || back.is_nan() && value.is_nan(), "{json}");
        }
        assert!(serde_json::from_str::<One>("null").is_err());
        assert!(serde_json::from_str::<One>("\"many\"").unwrap_err().to_string().contains("`many`"));
    }
}
