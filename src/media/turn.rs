//! How a stored picture is turned and mirrored for viewing: EXIF's orientation of pictures, the matrix of videos.

use super::frames::Frames;

/// One of the eight ways to lay a rectangle on its place: both coordinates are exchanged, then each may count from the other end of the
/// stored picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Turn {
    exchanged: bool,
    from_right: bool,
    from_below: bool,
}

impl Turn {
    /// Of EXIF's orientation: 1 is upright, 2 to 8 are not; other numbers mean nothing.
    fn numbered(orientation: usize) -> Turn {
        Turn {
            exchanged: (5..=8).contains(&orientation),
            from_right: [2, 3, 7, 8].contains(&orientation),
            from_below: [3, 4, 6, 7].contains(&orientation),
        }
    }

    /// Of EXIF data: a TIFF header and its first directory, behind `Exif\0\0` or not.
    ///
    /// # Errors
    /// Damaged data.
    pub(super) fn of_exif(bytes: &[u8]) -> Result<Turn, String> {
        const ORIENTATION: usize = 0x0112;
        let tiff = bytes.strip_prefix(b"Exif\0\0").unwrap_or(bytes);
        let big = match tiff.get(..4) {
            Some(b"MM\0*") => true,
            Some(b"II*\0") => false,
            _ => return Err("its EXIF data are damaged".into()),
        };
        let number = |at: usize, size: usize| -> Result<usize, String> {
            let bytes = at.checked_add(size).and_then(|end| tiff.get(at..end)).ok_or("its EXIF data are cut off")?;
            let digits: Vec<u8> = if big { bytes.to_vec() } else { bytes.iter().rev().copied().collect() };
            Ok(digits.iter().fold(0, |value, digit| value << 8 | usize::from(*digit)))
        };
        let directory = number(4, 4)?;
        for entry in 0..number(directory, 2)? {
            let at = directory + 2 + 12 * entry;
            if number(at, 2)? == ORIENTATION {
                // A number of 16 bits, or of 32.
                let size = if number(at + 2, 2)? == 4 { 4 } else { 2 };
                return Ok(Turn::numbered(number(at + 8, size)?));
            }
        }
        Ok(Turn::default())
    }

    /// Of the matrix by which the point (x, y) is shown at (a·x + c·y, b·x + d·y); nothing if the sides of the picture would be slanted.
    pub(super) fn of_matrix([a, b, c, d]: [f64; 4]) -> Option<Turn> {
        if b == 0.0 && c == 0.0 && a != 0.0 && d != 0.0 {
            Some(Turn { exchanged: false, from_right: a < 0.0, from_below: d < 0.0 })
        } else if a == 0.0 && d == 0.0 && b != 0.0 && c != 0.0 {
            Some(Turn { exchanged: true, from_right: b < 0.0, from_below: c < 0.0 })
        } else {
            None
        }
    }

    /// Whether width and height are exchanged.
    pub(super) fn exchanges(self) -> bool {
        self.exchanged
    }

    /// The frames as they are viewed.
    pub(super) fn applied(self, frames: Frames) -> Frames {
        if self == Turn::default() {
            return frames;
        }
        let (across, down) = (frames.width, frames.height);
        let (width, height) = if self.exchanged { (down, across) } else { (across, down) };
        let mut rgb = Vec::with_capacity(frames.rgb.len());
        for stored in frames.iter() {
            for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
                let (mut from_x, mut from_y) = if self.exchanged { (y, x) } else { (x, y) };
                if self.from_right {
                    from_x = across - 1 - from_x;
                }
                if self.from_below {
                    from_y = down - 1 - from_y;
                }
                rgb.extend_from_slice(&stored[(from_y * across + from_x) * 3..][..3]);
            }
        }
        Frames { width, height, fps: frames.fps, rgb }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// EXIF data with an orientation, as `size` bytes of a number.
    pub(in crate::media) fn exif(orientation: u8, big: bool, size: u8) -> Vec<u8> {
        let number = |value: u8, size: usize| {
            let mut bytes = vec![0; size];
            bytes[if big { size - 1 } else { 0 }] = value;
            bytes
        };
        let mut bytes = if big { b"MM\0*".to_vec() } else { b"II*\0".to_vec() };
        bytes.extend(number(8, 4));
        bytes.extend(number(2, 2));
        for (tag, kind, value) in [([1, 0], 2, 0), ([1, 0x12], if size == 4 { 4 } else { 3 }, orientation)] {
            bytes.extend(if big { tag } else { [tag[1], tag[0]] });
            bytes.extend(number(kind, 2));
            bytes.extend(number(1, 4));
            bytes.extend([number(value, usize::from(size)), vec![0; 4 - usize::from(size)]].concat());
        }
        bytes.extend([0; 4]);
        bytes
    }

    /// The letters of a picture of 3x2, as they are viewed.
    fn viewed(turn: Turn) -> Vec<String> {
        let rgb = b"abcdef".iter().flat_map(|letter| [*letter; 3]).collect();
        let frames = turn.applied(Frames { width: 3, height: 2, fps: 1.0, rgb });
        let lines = frames.rgb.chunks(frames.width * 3);
        lines.map(|line| line.chunks(3).map(|pixel| char::from(pixel[0])).collect()).collect()
    }

    /// By the figures of the EXIF standard.
    #[test]
    fn every_orientation_by_hand() {
        let expected: [&[&str]; 9] = [
            &["abc", "def"],
            &["abc", "def"],
            &["cba", "fed"],
            &["fed", "cba"],
            &["def", "abc"],
            &["ad", "be", "cf"],
            &["da", "eb", "fc"],
            &["fc", "eb", "da"],
            &["cf", "be", "ad"],
        ];
        for (orientation, expected) in (0..).zip(expected) {
            for (big, size) in [(true, 2), (false, 2), (true, 4), (false, 4)] {
                let bytes = exif(orientation, big, size);
                assert_eq!(viewed(Turn::of_exif(&bytes).unwrap()), expected, "{orientation}");
                assert_eq!(Turn::of_exif(&[b"Exif\0\0", &bytes[..]].concat()), Turn::of_exif(&bytes));
                for cut in 0..bytes.len() {
                    let _ = Turn::of_exif(&bytes[..cut]);
                }
            }
        }
        assert_eq!(Turn::of_exif(&exif(9, true, 2)), Ok(Turn::default()));
        assert!(Turn::of_exif(b"x").is_err() && Turn::of_exif(b"MM\0*\xFF\xFF\xFF\xFF").is_err());
    }

    #[test]
    fn matrices_by_hand() {
        for (matrix, orientation) in [
            ([1.0, 0.0, 0.0, 1.0], 1),
            ([-1.0, 0.0, 0.0, 1.0], 2),
            ([-1.0, 0.0, 0.0, -1.0], 3),
            ([1.0, 0.0, 0.0, -1.0], 4),
            ([0.0, 1.0, 1.0, 0.0], 5),
            ([0.0, 1.0, -1.0, 0.0], 6),
            ([0.0, -1.0, -1.0, 0.0], 7),
            ([0.0, -1.0, 1.0, 0.0], 8),
        ] {
            assert_eq!(Turn::of_matrix(matrix), Some(Turn::numbered(orientation)), "{matrix:?}");
        }
        for slanted in [[0.7, 0.7, -0.7, 0.7], [0.0; 4], [1.0, 0.0, 0.0, 0.0]] {
            assert_eq!(Turn::of_matrix(slanted), None);
        }
    }
}
