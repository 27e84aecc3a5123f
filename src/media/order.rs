//! The order of files in a folder: natural order, in which 2 comes before 10; and whether the pictures of a folder are one series.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Endings of the pictures that a folder is read for.
const PICTURES: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

/// A part of a name: the significant digits of a number (with their count in front, so that the order is that of the numbers), or text
/// between numbers in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(usize, String),
    Text(String),
}

fn parts(name: &str) -> Vec<Part> {
    let mut parts = vec![];
    let mut rest = name;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (part, after) = if digits > 0 {
            let (number, after) = rest.split_at(digits);
            let number = number.trim_start_matches('0');
            (Part::Number(number.len(), number.into()), after)
        } else {
            let (text, after) = rest.split_at(rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len()));
            (Part::Text(text.to_lowercase()), after)
        };
        parts.push(part);
        rest = after;
    }
    parts
}

fn text(name: Option<&OsStr>) -> String {
    name.unwrap_or_default().to_string_lossy().into_owned()
}

/// Natural order of two paths by their last names without ending: runs of digits compare as whole numbers, numbers come before letters, and
/// letters compare without their case. What is equal so far compares by the whole name, last by its bytes: `01` before `1`, `A` before `a`.
pub fn natural_order(a: &Path, b: &Path) -> Ordering {
    let key = |path: &Path| (parts(&text(path.file_stem())), parts(&text(path.file_name())));
    key(a).cmp(&key(b)).then_with(|| a.file_name().cmp(&b.file_name()))
}

/// The entries of a folder in natural order, without hidden ones, whose names start with a dot.
///
/// # Errors
/// The folder cannot be read.
pub(crate) fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let paths: io::Result<Vec<PathBuf>> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths?;
    paths.retain(|path| !text(path.file_name()).starts_with('.'));
    paths.sort_by(|a, b| natural_order(a, b));
    Ok(paths)
}

/// Whether the name has the ending of a picture.
pub(crate) fn is_picture(path: &Path) -> bool {
    path.extension().is_some_and(|ending| PICTURES.iter().any(|known| ending.eq_ignore_ascii_case(known)))
}

/// The pictures of a folder in natural order, and remarks about it.
///
/// # Errors
/// No pictures, or those of several series.
pub(super) fn pictures(folder: &Path) -> Result<(Vec<PathBuf>, Vec<String>), String> {
    let all = entries(folder).map_err(|e| e.to_string())?;
    let (pictures, others): (Vec<PathBuf>, Vec<PathBuf>) = all.into_iter().partition(|path| is_picture(path));
    if pictures.is_empty() {
        return Err("the folder holds no .png, .jpg or .webp files".into());
    }
    let mut remarks = vec![];
    if !others.is_empty() {
        let names: Vec<String> = others.iter().map(|path| text(path.file_name())).collect();
        remarks.push(format!(
            "{} not read, as it is no picture by its name: {}",
            some(&names),
            PICTURES.map(|e| format!(".{e}")).join(", ")
        ));
    }
    let names: Vec<String> = pictures.iter().map(|path| text(path.file_name())).collect();
    remarks.extend(one_series(&names)?);
    Ok((pictures, remarks))
}

/// The first of some names, and how many others there are.
pub(super) fn some(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => format!("`{one}`"),
        [first, others @ ..] => {
            format!("`{first}` and {} other{}", others.len(), if others.len() > 1 { "s" } else { "" })
        }
    }
}

fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// Checks names in natural order; a remark if their order needs an explanation.
///
/// # Errors
/// Names that are equal but for their numbers, and others beside them: no order of these is a video.
fn one_series(names: &[String]) -> Result<Option<String>, String> {
    let mut series: BTreeMap<Vec<Part>, Vec<&str>> = BTreeMap::new();
    for name in names {
        let mut pattern = parts(stem(name));
        for part in &mut pattern {
            if let Part::Number(..) = part {
                *part = Part::Text("#".into());
            }
        }
        series.entry(pattern).or_default().push(name);
    }
    if series.len() > 1 {
        if series.values().all(|of| of.len() == 1) {
            return Ok(None);
        }
        let listed: Vec<String> = series.values().take(4).map(|of| format!("`{}` ({})", of[0], of.len())).collect();
        let more = if series.len() > 4 { format!(" and {} more", series.len() - 4) } else { String::new() };
        return Err(format!(
            "its pictures are of {} series, which begin with {}{more}: put those of one video in a folder of their own",
            series.len(),
            listed.join(", ")
        ));
    }
    Ok(numbering(names))
}

/// A remark about names that differ only in their numbers.
fn numbering(names: &[String]) -> Option<String> {
    let numbers: Vec<Vec<Part>> = names
        .iter()
        .map(|name| parts(stem(name)).into_iter().filter(|part| matches!(part, Part::Number(..))).collect())
        .collect();
    if let Some(i) = numbers.windows(2).position(|pair| pair[0] == pair[1]) {
        return Some(format!("`{}` and `{}` have the same number: read in this order", names[i], names[i + 1]));
    }
    let changes = |at: &usize| numbers.iter().any(|of| of[*at] != numbers[0][*at]);
    let changing: Vec<usize> = (0..numbers[0].len()).filter(changes).collect();
    let [at] = changing[..] else {
        return (changing.len() > 1).then(|| {
            format!(
                "{} numbers of the names change: read from `{}` to `{}`",
                changing.len(),
                names[0],
                names[names.len() - 1]
            )
        });
    };
    let value = |of: &Vec<Part>| match &of[at] {
        Part::Number(_, digits) => format!("0{digits}").parse::<u128>().ok(),
        Part::Text(_) => None,
    };
    let values: Vec<u128> = numbers.iter().map(value).collect::<Option<_>>()?;
    let steps: Vec<u128> = values.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let usual = steps.iter().min()?;
    let gap = steps.iter().position(|step| step != usual)?;
    Some(format!("`{}` is followed by `{}`: is a picture missing?", names[gap], names[gap + 1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(names: &[&str]) -> Vec<String> {
        let mut paths: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
        paths.sort_by(|a, b| natural_order(a, b));
        paths.iter().map(|path| path.display().to_string()).collect()
    }

    /// Each list is in order; it has to come out of its reverse, and of its order as text.
    #[test]
    fn numbers_compare_as_numbers() {
        for expected in [
            &["1.png", "2.png", "10.png", "100.png"][..],
            &["frame_1.png", "frame_2.jpg", "frame_10.png"],
            &["a2b1.png", "a2b10.png", "a10b1.png"],
            // Equal numbers by text; letters without their case.
            &["0.png", "00.png", "01.png", "1.png", "002.png", "02.png", "2.png"],
            &["A1.png", "a2.png", "B3.png", "b4.png"],
            &["1.png", "a.png", "a1.png", "a1b.png"],
            &["frame.png", "frame1.png"],
            &["v1.9", "v1.10", "v2.1"],
            &["99999999999999999999999999999999999999998.png", "99999999999999999999999999999999999999999.png"],
            &["é1.png", "É2.png", "é10.png"],
        ] {
            let mut names = expected.to_vec();
            names.reverse();
            assert_eq!(sorted(&names), expected);
            names.sort_unstable();
            assert_eq!(sorted(&names), expected);
        }
    }

    #[test]
    fn folders_of_several_series_are_refused() {
        let check = |names: &[&str]| one_series(&sorted(names));
        let remark = |names: &[&str]| check(names).unwrap().unwrap_or_default();
        for fine in [
            &["1.png"][..],
            &["1.png", "2.png"],
            &["f_08.png", "f_09.jpg", "F_10.png"],
            &["0.png", "10.png", "20.png"],
            &["cat.png", "dog.png", "emu2.png"],
            &["shot2_1.png", "shot2_2.png"],
        ] {
            assert_eq!(check(fine), Ok(None), "{fine:?}");
        }
        for mixed in [
            &["a1.png", "a2.png", "b1.png", "b2.png"][..],
            &["frame_1.png", "frame_2.png", "cover.png"],
            &["1.png", "1_mask.png", "2.png", "2_mask.png"],
        ] {
            let error = check(mixed).unwrap_err();
            assert!(error.contains("2 series") && error.contains(mixed[0]), "{error}");
        }
        assert!(remark(&["1.png", "01.png", "2.png"]).starts_with("`01.png` and `1.png` have the same number"));
        assert!(remark(&["1.png", "1.jpg"]).contains("the same number"));
        assert!(remark(&["1.png", "2.png", "4.png"]).starts_with("`2.png` is followed by `4.png`"));
        assert!(remark(&["t1_1.png", "t1_2.png", "t2_1.png"]).starts_with("2 numbers of the names change"));
    }

    #[test]
    fn what_is_no_picture_is_told() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["2.PNG", "10.png", ".1.png", "notes.txt"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        fs::create_dir(dir.path().join("more")).unwrap();
        let (files, remarks) = pictures(dir.path()).unwrap();
        let names: Vec<String> = files.iter().map(|path| text(path.file_name())).collect();
        assert_eq!(names, ["2.PNG", "10.png"]);
        assert!(remarks[0].starts_with("`more` and 1 other not read"), "{remarks:?}");
        assert_eq!(remarks.len(), 1);
    }
}
