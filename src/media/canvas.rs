//! Pictures with transparency: drawing the frames of an animation over one another, and what is seen of them over white.

/// What happens to the canvas after a frame was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// The frame stays.
    Keep,
    /// Its rectangle becomes transparent.
    Clear,
    /// Its rectangle becomes what it was.
    Restore,
}

/// A rectangle of pixels to draw.
pub(super) struct Patch<'a> {
    pub(super) left: usize,
    pub(super) top: usize,
    pub(super) width: usize,
    /// RGBA, line by line.
    pub(super) rgba: &'a [u8],
    /// Drawn over what is there, else in its place.
    pub(super) over: bool,
    pub(super) after: After,
}

/// The canvas of an animation, transparent at first.
pub(super) struct Canvas {
    width: usize,
    rgba: Vec<u8>,
}

impl Canvas {
    pub(super) fn new(width: usize, height: usize) -> Canvas {
        Canvas { width, rgba: vec![0; width * height * 4] }
    }

    /// Draws a frame, appends what is seen to `rgb`, and undoes what is to be undone. What lies outside of the canvas is not drawn. Whether
    /// anything is transparent.
    pub(super) fn show(&mut self, patch: &Patch<'_>, rgb: &mut Vec<u8>) -> bool {
        let before = (patch.after == After::Restore).then(|| self.rgba.clone());
        self.lines(patch, |to, from| {
            if patch.over {
                blend(to, from);
            } else {
                to.copy_from_slice(from);
            }
        });
        let transparent = over_white(&self.rgba, rgb);
        match (patch.after, before) {
            (After::Clear, _) => self.lines(patch, |to, _| to.fill(0)),
            (_, Some(before)) => self.rgba = before,
            _ => {}
        }
        transparent
    }

    /// Calls `draw` with each pixel of the canvas below the patch, and the patch's.
    fn lines(&mut self, patch: &Patch<'_>, draw: impl Fn(&mut [u8], &[u8])) {
        let left = patch.left.min(self.width);
        let across = patch.width.min(self.width - left);
        let lines = self.rgba.chunks_exact_mut((self.width * 4).max(1)).skip(patch.top);
        for (line, drawn) in lines.zip(patch.rgba.chunks_exact((patch.width * 4).max(1))) {
            let pixels = line[left * 4..][..across * 4].chunks_exact_mut(4).zip(drawn.chunks_exact(4));
            pixels.for_each(|(to, from)| draw(to, from));
        }
    }
}

/// The pixel `from` over `to`, both RGBA with colours that are not multiplied by alpha.
fn blend(to: &mut [u8], from: &[u8]) {
    let [under, over] = [u32::from(to[3]), u32::from(from[3])];
    if over == 255 || under == 0 {
        to.copy_from_slice(from);
        return;
    }
    // In units of 1/255².
    let (of_over, of_under) = (over * 255, under * (255 - over));
    let alpha = of_over + of_under;
    for (to, from) in to[..3].iter_mut().zip(from) {
        *to = ((u32::from(*from) * of_over + u32::from(*to) * of_under + alpha / 2) / alpha) as u8;
    }
    to[3] = ((alpha + 127) / 255) as u8;
}

/// RGBA over white, appended to `rgb`; whether anything of it is transparent.
pub(super) fn over_white(rgba: &[u8], rgb: &mut Vec<u8>) -> bool {
    let mut transparent = false;
    for pixel in rgba.chunks_exact(4) {
        let alpha = u32::from(pixel[3]);
        transparent |= alpha < 255;
        rgb.extend(pixel[..3].iter().map(|c| ((u32::from(*c) * alpha + 255 * (255 - alpha) + 127) / 255) as u8));
    }
    transparent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transparency_by_hand() {
        let mut rgb = vec![];
        assert!(over_white(&[10, 20, 30, 255, 10, 20, 30, 0, 0, 100, 255, 51], &mut rgb));
        // A fifth of the colour and four fifths of white.
        assert_eq!(rgb, [10, 20, 30, 255, 255, 255, 204, 224, 255]);
        assert!(!over_white(&[1, 2, 3, 255], &mut vec![]));

        let mut pixel = [100, 0, 200, 255];
        blend(&mut pixel, &[200, 100, 0, 51]);
        assert_eq!(pixel, [120, 20, 160, 255]);
        // Half over half: 3/4 opaque, two thirds of it the upper colour.
        let mut pixel = [0, 0, 0, 128];
        blend(&mut pixel, &[150, 0, 0, 128]);
        assert_eq!(pixel, [100, 0, 0, 192]);
    }
}
