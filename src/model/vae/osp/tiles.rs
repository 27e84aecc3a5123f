//! Decoding in tiles as Open-Sora-Plan published it: squares of latents that overlap and are blended, and chunks of time that share a frame.
//! It takes less memory and changes the picture.

/// The tiles. The default is the published one.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct CausalTiling {
    /// Side of a tile in latents.
    pub latents: usize,
    /// Side of a tile in pixels.
    pub pixels: usize,
    /// Latent frames of a chunk, of which it shares one with the next.
    pub frames: usize,
    /// The part of a tile that the next one covers too.
    pub overlap: f64,
}

impl Default for CausalTiling {
    fn default() -> Self {
        CausalTiling { latents: 32, pixels: 256, frames: 17, overlap: 0.25 }
    }
}

impl CausalTiling {
    /// Tiles of `latents` × `latents` latents, each `factor` pixels wide, and `frames` latent frames.
    pub fn new(latents: usize, factor: usize, frames: usize, overlap: f64) -> CausalTiling {
        CausalTiling { latents, pixels: latents.saturating_mul(factor), frames, overlap }
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        let Self { latents, pixels, frames, overlap } = *self;
        let whole = (0.0..1.0).contains(&overlap) && self.step() > 0 && self.blended() < pixels;
        if whole && frames > 1 {
            return Ok(());
        }
        Err(format!(
            "tiles of {latents} latents and {frames} frames that overlap by {overlap} do not cover a video; expected at least 2 frames, and \
             an overlap from 0 to below 1 that leaves a step of at least 1 latent"
        ))
    }

    /// Latents from one tile to the next.
    fn step(&self) -> usize {
        (self.latents as f64 * (1.0 - self.overlap)) as usize
    }

    /// Pixels over which neighbours are blended.
    fn blended(&self) -> usize {
        (self.pixels as f64 * self.overlap) as usize
    }

    /// Whether latents of this shape `[T, h, w]` are larger than a tile.
    pub(super) fn splits(&self, [t, h, w]: [usize; 3]) -> bool {
        t > self.frames || h > self.latents || w > self.latents
    }

    /// The chunks of `t` latent frames: the first of each, and the one behind its last.
    pub(super) fn chunks(&self, t: usize) -> Vec<[usize; 2]> {
        let starts: Vec<usize> = (0..t).step_by(self.frames - 1).collect();
        let mut chunks: Vec<[usize; 2]> = starts.windows(2).map(|pair| [pair[0], (pair[1] + 1).min(t)]).collect();
        match chunks.last() {
            // What is left is what the last chunk shares.
            Some(&[_, end]) if end >= t => {}
            _ => chunks.extend(starts.last().map(|&start| [start, t])),
        }
        chunks
    }

    /// Where tiles begin along a side, and their latents.
    pub(super) fn along(&self, side: usize) -> Vec<[usize; 2]> {
        (0..side).step_by(self.step()).map(|first| [first, self.latents.min(side - first)]).collect()
    }

    /// Puts tiles together: `tiles[row][column]` are pixels `[frames, H, W, 3]` of equal frames, with their sides. Gives the pixels and their
    /// sides.
    pub(super) fn joined(&self, frames: usize, mut tiles: Vec<Vec<Tile>>) -> Tile {
        let (blended, kept) = (self.blended(), self.pixels - self.blended());
        for row in 0..tiles.len() {
            for column in 0..tiles[row].len() {
                if row > 0 {
                    let (above, below) = tiles.split_at_mut(row);
                    below[0][column].blend_rows(&above[row - 1][column], frames, blended);
                }
                if column > 0 {
                    let (left, right) = tiles[row].split_at_mut(column);
                    right[0].blend_columns(&left[column - 1], frames, blended);
                }
            }
        }
        let height: usize = tiles.iter().map(|row| row[0].height.min(kept)).sum();
        let width: usize = tiles[0].iter().map(|tile| tile.width.min(kept)).sum();
        let mut pixels = Vec::with_capacity(frames * height * width * 3);
        for frame in 0..frames {
            for row in &tiles {
                for y in 0..row[0].height.min(kept) {
                    for tile in row {
                        let start = tile.at(frame, y, 0);
                        pixels.extend_from_slice(&tile.pixels[start..start + tile.width.min(kept) * 3]);
                    }
                }
            }
        }
        Tile { pixels, height, width }
    }
}

/// Pixels `[frames, height, width, 3]`.
pub(super) struct Tile {
    pub(super) pixels: Vec<f32>,
    pub(super) height: usize,
    pub(super) width: usize,
}

impl Tile {
    fn at(&self, frame: usize, y: usize, x: usize) -> usize {
        ((frame * self.height + y) * self.width + x) * 3
    }

    /// The first rows become, one after the other, less of the tile above and more of this one.
    fn blend_rows(&mut self, above: &Tile, frames: usize, blended: usize) {
        let extent = blended.min(above.height).min(self.height);
        for frame in 0..frames {
            for y in 0..extent {
                let (from, to) = (above.at(frame, above.height - extent + y, 0), self.at(frame, y, 0));
                for i in 0..self.width.min(above.width) * 3 {
                    self.pixels[to + i] = mixed(above.pixels[from + i], self.pixels[to + i], y, extent);
                }
            }
        }
    }

    /// As [`Tile::blend_rows`], with the tile on the left.
    fn blend_columns(&mut self, left: &Tile, frames: usize, blended: usize) {
        let extent = blended.min(left.width).min(self.width);
        for frame in 0..frames {
            for y in 0..self.height.min(left.height) {
                for x in 0..extent {
                    let (from, to) = (left.at(frame, y, left.width - extent + x), self.at(frame, y, x));
                    for i in 0..3 {
                        self.pixels[to + i] = mixed(left.pixels[from + i], self.pixels[to + i], x, extent);
                    }
                }
            }
        }
    }
}

fn mixed(before: f32, here: f32, step: usize, steps: usize) -> f32 {
    let share = step as f32 / steps as f32;
    before * (1.0 - share) + here * share
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the published loop has them.
    #[test]
    fn chunks_share_a_frame() {
        let tiling = |frames| CausalTiling { frames, ..CausalTiling::default() };
        assert_eq!(tiling(17).chunks(17), [[0, 17]]);
        assert_eq!(tiling(17).chunks(16), [[0, 16]]);
        assert_eq!(tiling(17).chunks(18), [[0, 17], [16, 18]]);
        assert_eq!(tiling(17).chunks(33), [[0, 17], [16, 33]]);
        assert_eq!(tiling(2).chunks(3), [[0, 2], [1, 3]]);
        assert_eq!(tiling(17).chunks(1), [[0, 1]]);
        assert_eq!(CausalTiling::default().along(64), [[0, 32], [24, 32], [48, 16]]);
    }

    #[test]
    fn equal_tiles_join_without_a_seam() {
        let tiling = CausalTiling::new(4, 2, 17, 0.25);
        let tile = |h, w| Tile { pixels: vec![0.5; h * w * 3], height: h, width: w };
        // 7 latents: tiles at 0, 3 and 6.
        let sides: Vec<usize> = tiling.along(7).iter().map(|[_, n]| n * 2).collect();
        assert_eq!(sides, [8, 8, 2]);
        let tiles = sides.iter().map(|&h| sides.iter().map(|&w| tile(h, w)).collect()).collect();
        let Tile { pixels, height, width } = tiling.joined(1, tiles);
        assert_eq!([height, width], [14; 2]);
        assert!(pixels == vec![0.5; 14 * 14 * 3]);
    }

    #[test]
    fn tiles_that_do_not_cover_are_refused() {
        for (latents, frames, overlap) in
            [(32, 1, 0.25), (32, 17, 1.0), (1, 17, 0.25), (32, 17, f64::NAN), (0, 17, 0.0)]
        {
            assert!(CausalTiling::new(latents, 8, frames, overlap).validate().is_err(), "{latents} {frames} {overlap}");
        }
        CausalTiling::default().validate().unwrap();
    }
}
