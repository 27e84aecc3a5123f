//! Names of the colour profiles (ICC) in pictures.

/// The name of a profile other than sRGB. Damaged ones have no name.
fn other_than_srgb(icc: &[u8]) -> Option<String> {
    let name = name(icc).unwrap_or_else(|| "without a name".into());
    (!name.contains("sRGB")).then_some(name)
}

/// What is said of a picture with this profile.
pub(super) fn remark(icc: &[u8]) -> Option<String> {
    other_than_srgb(icc).map(|name| format!("its colours follow the profile `{name}`, but are read as sRGB"))
}

/// The text of tag `desc` (ICC.1:2022, 9.2.41), in the forms of versions 2 and 4.
fn name(icc: &[u8]) -> Option<String> {
    let number = |at: usize| Some(u32::from_be_bytes(*icc.get(at..)?.first_chunk()?) as usize);
    let tags = (0..number(128)?.min(100)).map(|i| 132 + 12 * i);
    let at = number(tags.into_iter().find(|at| icc.get(*at..at + 4) == Some(b"desc"))? + 4)?;
    let text = match icc.get(at..at + 4)? {
        b"desc" => String::from_utf8_lossy(icc.get(at + 12..at + 12 + number(at + 8)?)?).into_owned(),
        b"mluc" => {
            let start = at + number(at + 24)?;
            let units = icc.get(start..start + number(at + 20)?)?.chunks_exact(2);
            String::from_utf16_lossy(&units.map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect::<Vec<_>>())
        }
        _ => return None,
    };
    Some(text.trim_end_matches('\0').chars().filter(|c| !c.is_control()).collect())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A profile that is a name and nothing else, in the form of version 2 or 4.
    pub(in crate::media) fn profile(name: &str, version: u8) -> Vec<u8> {
        let (kind, text): (&[u8; 4], Vec<u8>) = match version {
            2 => {
                let count = (name.len() + 1) as u32;
                (b"desc", [&count.to_be_bytes()[..], name.as_bytes(), &[0]].concat())
            }
            _ => {
                let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_be_bytes).collect();
                let numbers: Vec<u8> =
                    [1, 12, 0, units.len() as u32, 28].iter().flat_map(|n: &u32| n.to_be_bytes()).collect();
                (b"mluc", [numbers, units].concat())
            }
        };
        let tag = [&kind[..], &[0; 4], &text].concat();
        let numbers: Vec<u8> = [144, tag.len() as u32].iter().flat_map(|n: &u32| n.to_be_bytes()).collect();
        [&[0; 128][..], &1u32.to_be_bytes(), b"desc", &numbers, &tag].concat()
    }

    #[test]
    fn names_are_found_and_srgb_is_not_told() {
        for version in [2, 4] {
            let remark = remark(&profile("Display P3", version)).unwrap();
            assert!(remark.contains("`Display P3`"), "{remark}");
            assert_eq!(super::remark(&profile("sRGB IEC61966-2.1", version)), None);
            let whole = profile("Adobe RGB (1998)", version);
            for cut in 0..whole.len() {
                assert!(super::remark(&whole[..cut]).is_some());
            }
        }
    }
}
