//! ISO base media file (MP4) around one H.264 track: the index before the data, so that it plays while loading.

use super::Metadata;
use super::h264::H264Video;

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
            let keyframes: Vec<u32> = (1..)
                .zip(&video.samples)
                .filter(|(_, s)| s.is_keyframe)
                .map(|(number, _)| number)
                .collect();
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

/// Title, comment and tool, in the form iTunes introduced and every player reads.
fn user_data(metadata: &Metadata) -> Vec<u8> {
    let text = |name: &[u8; 4], value: &str| {
        boxed(name, |b| {
            b.extend(boxed(b"data", |b| {
                u32s(b, &[1, 0]); // UTF-8, any locale
                b.extend(value.as_bytes());
            }));
        })
    };
    boxed(b"udta", |b| {
        b.extend(full_box(b"meta", 0, 0, |b| {
            b.extend(handler(b"mdir", b"\0"));
            b.extend(boxed(b"ilst", |b| {
                b.extend(text(b"\xA9nam", &metadata.prompt));
                b.extend(text(b"\xA9cmt", &metadata.comment()));
                b.extend(text(b"\xA9too", concat!("adacache ", env!("CARGO_PKG_VERSION"))));
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
