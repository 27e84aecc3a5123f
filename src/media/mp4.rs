//! ISO base media file (MP4) around one H.264 track: the index precedes the data, so that the file plays while loading.

use super::frames::Metadata;
use super::h264::H264Video;
use super::settings;

/// Ticks per frame; the track's timescale is frames per second times this.
const FRAME_TICKS: u32 = 1000;
/// Identity transformation in 16.16 and 2.30 fixed point.
const IDENTITY: [u32; 9] = [0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x4000_0000];

/// The whole file. Nothing in it depends on the clock: equal videos give equal bytes.
pub(super) fn mux(video: &H264Video, metadata: &Metadata) -> Vec<u8> {
    let ftyp = boxed(b"ftyp", |b| {
        b.extend(b"isom");
        u32(b, 512);
        b.extend(b"isomiso2avc1mp41");
    });
    // The index holds the offset of the data, which follows the index: its size does not depend on the offset's value.
    let index_size = moov(video, metadata, 0).len();
    let offset = ftyp.len() + index_size + 8;
    let mut file = ftyp;
    file.extend(moov(video, metadata, offset as u32));
    file.extend(boxed(b"mdat", |b| video.samples.iter().for_each(|s| b.extend(&s.data))));
    file
}

fn moov(video: &H264Video, metadata: &Metadata, data_offset: u32) -> Vec<u8> {
    let timescale = (video.fps * f64::from(FRAME_TICKS)).round() as u32;
    let duration = video.samples.len() as u32 * FRAME_TICKS;
    boxed(b"moov", |b| {
        b.extend(full_box(b"mvhd", 0, 0, |b| {
            u32s(b, &[0, 0, timescale, duration]);
            u32(b, 0x10000); // rate 1
            u16(b, 0x100); // volume 1
            b.extend([0; 10]);
            u32s(b, &IDENTITY);
            b.extend([0; 24]);
            u32(b, 2); // next track
        }));
        b.extend(boxed(b"trak", |b| {
            b.extend(full_box(b"tkhd", 0, 3, |b| {
                u32s(b, &[0, 0, 1, 0, duration, 0, 0]);
                b.extend([0; 8]); // layer, group, volume
                u32s(b, &IDENTITY);
                u32s(b, &[(video.width as u32) << 16, (video.height as u32) << 16]);
            }));
            b.extend(boxed(b"mdia", |b| {
                b.extend(full_box(b"mdhd", 0, 0, |b| {
                    u32s(b, &[0, 0, timescale, duration]);
                    u16(b, 0x55C4); // language: undetermined
                    u16(b, 0);
                }));
                b.extend(handler(b"vide", b"VideoHandler\0"));
                b.extend(boxed(b"minf", |b| {
                    b.extend(full_box(b"vmhd", 0, 1, |b| b.extend([0; 8])));
                    b.extend(boxed(b"dinf", |b| {
                        b.extend(full_box(b"dref", 0, 0, |b| {
                            u32(b, 1);
                            b.extend(full_box(b"url ", 0, 1, |_| {})); // in this file
                        }));
                    }));
                    b.extend(sample_table(video, data_offset));
                }));
            }));
        }));
        b.extend(user_data(metadata));
    })
}

fn sample_table(video: &H264Video, data_offset: u32) -> Vec<u8> {
    let count = video.samples.len() as u32;
    boxed(b"stbl", |b| {
        b.extend(full_box(b"stsd", 0, 0, |b| {
            u32(b, 1);
            b.extend(boxed(b"avc1", |b| {
                b.extend([0; 6]);
                u16(b, 1); // data reference
                b.extend([0; 16]);
                u16(b, video.width as u16);
                u16(b, video.height as u16);
                u32s(b, &[0x48_0000, 0x48_0000, 0]); // 72 dpi
                u16(b, 1); // frames per sample
                b.extend([0; 32]); // compressor name
                u16(b, 24); // depth
                b.extend(0xFFFFu16.to_be_bytes());
                b.extend(boxed(b"avcC", |b| {
                    b.extend([1, video.sps[1], video.sps[2], video.sps[3]]);
                    b.push(0xFF); // NAL lengths have 4 bytes
                    b.push(0xE1); // one SPS
                    u16(b, video.sps.len() as u16);
                    b.extend(&video.sps);
                    b.push(1); // one PPS
                    u16(b, video.pps.len() as u16);
                    b.extend(&video.pps);
                }));
                b.extend(boxed(b"colr", |b| {
                    b.extend(b"nclx");
                    [1, 1, 1].into_iter().for_each(|bt709| u16(b, bt709));
                    b.push(0); // limited range
                }));
                b.extend(boxed(b"pasp", |b| u32s(b, &[1, 1])));
            }));
        }));
        b.extend(full_box(b"stts", 0, 0, |b| u32s(b, &[1, count, FRAME_TICKS])));
        b.extend(full_box(b"stss", 0, 0, |b| {
            let keyframes: Vec<u32> =
                (1..).zip(&video.samples).filter(|(_, s)| s.is_keyframe).map(|(number, _)| number).collect();
            u32(b, keyframes.len() as u32);
            u32s(b, &keyframes);
        }));
        b.extend(full_box(b"stsc", 0, 0, |b| u32s(b, &[1, 1, count, 1])));
        b.extend(full_box(b"stsz", 0, 0, |b| {
            u32s(b, &[0, count]);
            video.samples.iter().for_each(|s| u32(b, s.data.len() as u32));
        }));
        b.extend(full_box(b"stco", 0, 0, |b| u32s(b, &[1, data_offset])));
    })
}

/// Title, comment and tool, in the iTunes form, which every player reads.
fn user_data(metadata: &Metadata) -> Vec<u8> {
    let data = |value: &str| {
        boxed(b"data", |b| {
            u32s(b, &[1, 0]); // UTF-8, any locale
            b.extend(value.as_bytes());
        })
    };
    let text = |name: &[u8; 4], value: &str| boxed(name, |b| b.extend(data(value)));
    boxed(b"udta", |b| {
        b.extend(full_box(b"meta", 0, 0, |b| {
            b.extend(handler(b"mdir", b"\0"));
            b.extend(boxed(b"ilst", |b| {
                b.extend(text(b"\xA9nam", &metadata.prompt));
                b.extend(text(b"\xA9cmt", &metadata.comment()));
                b.extend(text(b"\xA9too", concat!("adacache ", env!("CARGO_PKG_VERSION"))));
                if !metadata.settings.is_empty() {
                    // A field with a name of its own.
                    b.extend(boxed(b"----", |b| {
                        b.extend(full_box(b"mean", 0, 0, |b| b.extend(settings::OWNER)));
                        b.extend(full_box(b"name", 0, 0, |b| b.extend(settings::NAME.as_bytes())));
                        b.extend(data(&metadata.settings));
                    }));
                }
            }));
        }));
    })
}

fn handler(kind: &[u8; 4], name: &[u8]) -> Vec<u8> {
    full_box(b"hdlr", 0, 0, |b| {
        u32(b, 0);
        b.extend(kind);
        b.extend([0; 12]);
        b.extend(name);
    })
}

fn boxed(name: &[u8; 4], content: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend(name);
    content(&mut bytes);
    let size = (bytes.len() as u32).to_be_bytes();
    bytes[..4].copy_from_slice(&size);
    bytes
}

fn full_box(name: &[u8; 4], version: u8, flags: u32, content: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    boxed(name, |b| {
        u32(b, u32::from(version) << 24 | flags);
        content(b);
    })
}

fn u16(bytes: &mut Vec<u8>, value: u16) {
    bytes.extend(value.to_be_bytes());
}

fn u32(bytes: &mut Vec<u8>, value: u32) {
    bytes.extend(value.to_be_bytes());
}

fn u32s(bytes: &mut Vec<u8>, values: &[u32]) {
    values.iter().for_each(|&value| u32(bytes, value));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{Frames, h264};

    /// The content of the box at a path of names, looked up as a player does.
    fn find<'a>(mut bytes: &'a [u8], path: &[(&[u8; 4], usize)]) -> &'a [u8] {
        'level: for &(name, header) in path {
            while !bytes.is_empty() {
                let size = be32(bytes, 0) as usize;
                if &bytes[4..8] == name {
                    bytes = &bytes[8 + header..size];
                    continue 'level;
                }
                bytes = &bytes[size..];
            }
            panic!("no box {}", String::from_utf8_lossy(name));
        }
        bytes
    }

    fn be32(bytes: &[u8], at: usize) -> u32 {
        u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    /// A disc moving over a checkerboard.
    fn clip(width: usize, height: usize, count: usize) -> Frames {
        let mut rgb = vec![];
        for t in 0..count {
            for y in 0..height {
                for x in 0..width {
                    let inside = (x as f64 - 20.0 - 3.0 * t as f64).hypot(y as f64 - 24.0) < 12.0;
                    let square = if (x / 8 + y / 8) % 2 == 0 { 60 } else { 130 };
                    rgb.extend(if inside { [230, 38, 38] } else { [square; 3] });
                }
            }
        }
        Frames { width, height, fps: 8.0, rgb }
    }

    /// Reads the file by its index, decodes it, and compares it with the input.
    #[test]
    fn what_went_in_comes_out() {
        let frames = clip(64, 48, 10).enlarged(2);
        let metadata =
            Metadata { prompt: "a disc".into(), facts: vec![("seed".into(), "7".into())], settings: "{}".into() };
        let file = mux(&h264::encode(&frames).unwrap(), &metadata);

        let table: &[(&[u8; 4], usize)] = &[(b"moov", 0), (b"trak", 0), (b"mdia", 0), (b"minf", 0), (b"stbl", 0)];
        let leaf = |name| find(&file, &[table, &[(name, 4)]].concat());
        let avcc = find(&file, &[table, &[(b"stsd", 8), (b"avc1", 78), (b"avcC", 0)]].concat());
        let sps_len = usize::from(u16::from_be_bytes([avcc[6], avcc[7]]));
        let (sps, rest) = avcc[8..].split_at(sps_len);
        let pps = &rest[3..];
        assert_eq!((avcc[1], avcc[2] & 0xC0), (66, 0xC0), "Constrained Baseline");

        let mut at = be32(leaf(b"stco"), 4) as usize;
        let sizes = leaf(b"stsz");
        assert_eq!(be32(sizes, 4) as usize, frames.count());
        let mut stream = [&[0, 0, 0, 1], sps, &[0, 0, 0, 1], pps].concat();
        for i in 0..frames.count() {
            let end = at + be32(sizes, 8 + 4 * i) as usize;
            while at < end {
                let length = be32(&file, at) as usize;
                stream.extend([0, 0, 0, 1]);
                stream.extend(&file[at + 4..at + 4 + length]);
                at += 4 + length;
            }
            assert_eq!(at, end);
        }
        assert_eq!(at, file.len(), "the last sample ends the file");
        assert_eq!(be32(leaf(b"stss"), 4), 1, "the first frame is a keyframe");

        let decoded = rusty_h264_decoder::Decoder::new().decode_stream(&stream).unwrap();
        assert_eq!(decoded.len(), frames.count());
        for (got, rgb) in decoded.iter().zip(frames.iter()) {
            let sent = h264::to_yuv(rgb, frames.width, frames.height);
            for (got, sent) in [(&got.y, &sent.y), (&got.u, &sent.u), (&got.v, &sent.v)] {
                assert_eq!(got.len(), sent.len());
                let square = |(a, b): (&u8, &u8)| (f64::from(*a) - f64::from(*b)).powi(2);
                let mean = got.iter().zip(sent).map(square).sum::<f64>() / sent.len() as f64;
                assert!(mean < 2.0, "mean squared error {mean}");
            }
        }
        let list = find(&file, &[(b"moov", 0), (b"udta", 0), (b"meta", 4), (b"ilst", 0)]);
        assert_eq!(&find(list, &[(b"\xA9nam", 0), (b"data", 8)]), b"a disc");
        assert_eq!(&find(list, &[(b"\xA9cmt", 0), (b"data", 8)]), b"seed 7");
    }
}
