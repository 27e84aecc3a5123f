//! H.264 encoding and decoding. The output is Constrained Baseline, 4:2:0, BT.709 limited range, which every player and browser decodes.
//!
//! The codec is `rusty_h264`, chosen because it is pure Rust (the usual OpenH264 bindings build C++). Its encoder writes no VUI, without
//! which players guess the colour matrix from the picture size, so this module writes the sequence parameter set itself.

use rusty_h264_common::nal::emulation_unprevent;
use rusty_h264_common::{BitWriter, NalUnit, NalUnitType, YuvFrame};
use rusty_h264_decoder::Decoder;
use rusty_h264_encoder::{Encoder, EncoderConfig, Preset, Sps};

use super::colours::{Colours, Usability};
use super::demux::Track;
use super::frames::{Frames, Shown};
use super::pool::Ticker;

/// Quantiser: visually lossless on flat colours, and still only kilobytes per frame.
const QUANTIZER: u8 = 16;
/// Frames from one keyframe to the next: seeking works in long videos, and two seconds of video keep two threads busy.
const KEYFRAME_INTERVAL: u32 = 24;

/// An encoded video, ready for a container: NAL units without start codes.
pub(super) struct H264Video {
    /// Width in pixels (even).
    pub(super) width: usize,
    /// Height in pixels (even).
    pub(super) height: usize,
    /// Frames per second.
    pub(super) fps: f64,
    /// Sequence parameter set.
    pub(super) sps: Vec<u8>,
    /// Picture parameter set.
    pub(super) pps: Vec<u8>,
    /// The frames in decoding order, which equals display order.
    pub(super) samples: Vec<Sample>,
}

/// One frame: its NAL units, each preceded by its 4-byte length.
pub(super) struct Sample {
    pub(super) data: Vec<u8>,
    pub(super) is_keyframe: bool,
}

/// How the frames of a video are encoded: every [`KEYFRAME_INTERVAL`] of them by themselves, by an encoder of their own, so that threads can
/// share the work. The result does not depend on how they do.
#[derive(Clone)]
pub(super) struct Sequence {
    /// The raw frames' size.
    raw: Frames,
    /// Their enlargement.
    scale: usize,
    config: EncoderConfig,
}

/// Frames from one keyframe to the next, encoded.
pub(super) struct Gop {
    pps: Vec<u8>,
    samples: Vec<Sample>,
}

impl Sequence {
    /// Of frames like `frames`, which may be none, enlarged. Odd sides are extended by one repeated line, since 4:2:0 requires even sides.
    pub(super) fn new(frames: &Frames, scale: usize) -> Result<Sequence, String> {
        let side = |n: usize| n.checked_mul(scale).and_then(|n| n.checked_next_multiple_of(2)).unwrap_or(usize::MAX);
        let (width, height) = (side(frames.width), side(frames.height));
        if width > 4096 || height > 2304 {
            return Err(format!("{width}x{height} is larger than H.264 level 5.2 allows; write PNG frames instead"));
        }
        let mut config = EncoderConfig::baseline(width, height);
        config.preset = Preset::Quality;
        config.qp = QUANTIZER;
        config.gop_size = KEYFRAME_INTERVAL;
        config.framerate = frames.fps as f32;
        Ok(Sequence { raw: Frames { rgb: vec![], ..*frames }, scale, config })
    }

    /// Bytes of a raw frame.
    pub(super) fn frame_bytes(&self) -> usize {
        self.raw.width * self.raw.height * 3
    }

    /// Bytes of the raw frames from one keyframe to the next.
    pub(super) fn gop_bytes(&self) -> usize {
        self.frame_bytes() * KEYFRAME_INTERVAL as usize
    }

    /// Encodes raw frames that follow each other; the first becomes a keyframe.
    pub(super) fn encode(&self, rgb: &[u8], ticker: &Ticker) -> Result<Gop, String> {
        let mut encoder = Encoder::new(self.config.clone()).map_err(|e| e.to_string())?;
        let mut gop = Gop { pps: vec![], samples: vec![] };
        for rgb in rgb.chunks_exact(self.frame_bytes()) {
            let frame = Frames { rgb: rgb.to_vec(), ..self.raw }.enlarged(self.scale);
            let unit = encoder.try_encode(&to_yuv(&frame.rgb, frame.width, frame.height)).map_err(|e| e.to_string())?;
            let mut sample = Sample { data: vec![], is_keyframe: false };
            for nal in nal_units(&unit) {
                match nal[0] & 31 {
                    7 => {}
                    8 => gop.pps = nal.to_vec(),
                    kind => {
                        sample.is_keyframe |= kind == 5;
                        sample.data.extend((nal.len() as u32).to_be_bytes());
                        sample.data.extend_from_slice(nal);
                    }
                }
            }
            gop.samples.push(sample);
            ticker.frame().ok_or("stopped")?;
        }
        // One unit per frame is what this configuration (no look-ahead) promises; a container with other counts would not play.
        if gop.pps.is_empty() || gop.samples.iter().any(|s| s.data.is_empty()) || !gop.samples[0].is_keyframe {
            return Err("the H.264 encoder returned an incomplete stream".into());
        }
        Ok(gop)
    }

    /// The video of these parts, in order.
    pub(super) fn video(&self, gops: Vec<Gop>) -> Result<H264Video, String> {
        let pps = gops.first().map(|gop| gop.pps.clone()).ok_or("a video has at least one frame")?;
        // One parameter set stands for all.
        if gops.iter().any(|gop| gop.pps != pps) {
            return Err("the H.264 encoder changed its parameters within the video".into());
        }
        Ok(H264Video {
            width: self.config.width,
            height: self.config.height,
            fps: self.raw.fps,
            sps: sps_with_vui(&Sps::from_config(&self.config), self.raw.fps),
            pps,
            samples: gops.into_iter().flat_map(|gop| gop.samples).collect(),
        })
    }
}

/// Encodes all frames, one after the other.
#[cfg(test)]
pub(super) fn encode(frames: &Frames) -> Result<H264Video, String> {
    let sequence = Sequence::new(frames, 1)?;
    let gops = frames.rgb.chunks(sequence.gop_bytes()).map(|rgb| sequence.encode(rgb, &Ticker::default()));
    sequence.video(gops.collect::<Result<_, _>>()?)
}

/// Full-range RGB to limited-range BT.709 4:2:0, chroma averaged over 2x2 pixels.
pub(super) fn to_yuv(rgb: &[u8], width: usize, height: usize) -> YuvFrame {
    let (even_width, even_height) = (width.next_multiple_of(2), height.next_multiple_of(2));
    let pixel = |x: usize, y: usize| {
        let at = (y.min(height - 1) * width + x.min(width - 1)) * 3;
        [f32::from(rgb[at]), f32::from(rgb[at + 1]), f32::from(rgb[at + 2])]
    };
    let luma = |[r, g, b]: [f32; 3]| 0.2126 * r + 0.7152 * g + 0.0722 * b;
    let mut frame = YuvFrame { width: even_width, height: even_height, y: vec![], u: vec![], v: vec![] };
    for y in 0..even_height {
        frame.y.extend((0..even_width).map(|x| (16.5 + luma(pixel(x, y)) * (219.0 / 255.0)) as u8));
    }
    for y in (0..even_height).step_by(2) {
        for x in (0..even_width).step_by(2) {
            let mut mean = [0.0; 3];
            for [r, g, b] in [pixel(x, y), pixel(x + 1, y), pixel(x, y + 1), pixel(x + 1, y + 1)] {
                mean = [mean[0] + r / 4.0, mean[1] + g / 4.0, mean[2] + b / 4.0];
            }
            let luma = luma(mean);
            frame.u.push((128.5 + (mean[2] - luma) / 1.8556 * (224.0 / 255.0)) as u8);
            frame.v.push((128.5 + (mean[0] - luma) / 1.5748 * (224.0 / 255.0)) as u8);
        }
    }
    frame
}

/// Larger pictures are not decoded: this is the limit of level 6.2.
const MAX_PIXELS: usize = 139_264 * 256;

/// Decodes the frames that are shown, in the order in which they are, as they are viewed.
///
/// # Errors
/// Features that the decoder does not support, damage, missing frames or frames of several sizes.
pub(super) fn decode(track: Track<'_>) -> Result<Shown, String> {
    let Track { parameter_sets, samples, timing, mut remarks, .. } = track;
    let (mut stream, mut said, mut cut) = (vec![], Usability::default(), None);
    for nal in parameter_sets.iter().chain(samples.iter().flatten()) {
        // Before the decoder makes room for it.
        if nal[0] & 31 == 7 {
            let bits = emulation_unprevent(&nal[1..]);
            let sps = rusty_h264_decoder::Sps::parse(&bits).map_err(|e| e.to_string())?;
            if sps.pic_width_in_mbs.saturating_mul(sps.pic_height_in_mbs) > MAX_PIXELS / 256 {
                let (width, height) = (sps.coded_width(), sps.coded_height());
                return Err(format!("pictures of {width}x{height} are larger than any level allows"));
            }
            said = Usability::of_sps(&bits);
            // The decoder cuts on the right and below alone.
            let corner = [2 * sps.frame_crop_left as usize, sps.crop_unit_y() * sps.frame_crop_top as usize];
            if cut.replace(corner).is_some_and(|before| before != corner) {
                return Err("its frames are of several sizes".into());
            }
        }
        stream.extend([0, 0, 0, 1]);
        stream.extend_from_slice(nal);
    }
    let decoded = Decoder::new().decode_stream(&stream).map_err(|e| e.to_string())?;
    if decoded.len() != samples.len() {
        return Err(format!("{} of {} frames can be decoded", decoded.len(), samples.len()));
    }
    let (width, height) = decoded.first().map_or((0, 0), |frame| (frame.width, frame.height));
    if decoded.iter().any(|frame| (frame.width, frame.height) != (width, height)) {
        return Err("its frames are of several sizes".into());
    }
    // A stream that speaks for itself is believed before its container.
    let colours = Colours::new(said.coded.or(track.colours), height, &mut remarks)?;
    let mut frames = Frames { width, height, fps: timing.fps, rgb: vec![] };
    for place in timing.shown {
        colours.to_rgb(&decoded[place], &mut frames.rgb);
    }
    let [left, top] = cut.unwrap_or([0, 0]);
    if left + top > 0 {
        frames = frames.cropped(left, top, width - left, height - top);
    }
    if let Some(aperture) = track.aperture {
        let (width, height) = (frames.width, frames.height);
        match aperture.corner(width, height) {
            Some([left, top]) => {
                frames = frames.cropped(left, top, aperture.size[0] as usize, aperture.size[1] as usize);
            }
            None => remarks.push("its clean aperture is not one of whole pixels: read without it".into()),
        }
    }
    if let Some((across, down)) =
        track.aspect.or(said.aspect).filter(|(across, down)| across != down && across * down > 0)
    {
        remarks.push(format!(
            "its pixels are {across}:{down} as wide as high: read as squares, not stretched as players do"
        ));
    }
    Ok(Shown { frames: track.turn.applied(frames), remarks })
}

/// The NAL units between the start codes of an Annex B stream.
fn nal_units(stream: &[u8]) -> Vec<&[u8]> {
    let starts: Vec<usize> =
        stream.windows(3).enumerate().filter(|(_, w)| *w == [0, 0, 1]).map(|(i, _)| i + 3).collect();
    let ends = starts.iter().skip(1).map(|s| s - 3).chain([stream.len()]);
    let trimmed = |mut nal: &[u8]| -> usize {
        while let [rest @ .., 0] = nal {
            nal = rest;
        }
        nal.len()
    };
    starts.iter().zip(ends).map(|(&s, e)| &stream[s..s + trimmed(&stream[s..e])]).filter(|n| !n.is_empty()).collect()
}

/// The encoder's sequence parameter set (ITU-T H.264 7.3.2.1.1) with video usability information (E.1.1) added.
fn sps_with_vui(sps: &Sps, fps: f64) -> Vec<u8> {
    let mut w = BitWriter::new();
    w.write_bits(u32::from(sps.profile_idc), 8);
    w.write_bits(0b1100_0000, 8); // constraint sets 0 and 1: Constrained Baseline
    w.write_bits(u32::from(sps.level_idc), 8);
    w.write_ue(sps.seq_parameter_set_id);
    w.write_ue(sps.log2_max_frame_num_minus4);
    w.write_ue(sps.pic_order_cnt_type);
    w.write_ue(sps.log2_max_pic_order_cnt_lsb_minus4);
    w.write_ue(sps.max_num_ref_frames);
    w.write_bit(false); // gaps_in_frame_num_value_allowed_flag
    w.write_ue(sps.pic_width_in_mbs_minus1);
    w.write_ue(sps.pic_height_in_map_units_minus1);
    w.write_bit(true); // frame_mbs_only_flag
    w.write_bit(true); // direct_8x8_inference_flag
    let cropped = sps.frame_crop_right != 0 || sps.frame_crop_bottom != 0;
    w.write_bit(cropped);
    if cropped {
        for offset in [0, sps.frame_crop_right, 0, sps.frame_crop_bottom] {
            w.write_ue(offset);
        }
    }
    w.write_bit(true); // vui_parameters_present_flag
    w.write_bit(true); // aspect_ratio_info_present_flag
    w.write_bits(1, 8); // square pixels
    w.write_bit(false); // overscan_info_present_flag
    w.write_bit(true); // video_signal_type_present_flag
    w.write_bits(5, 3); // video_format: unspecified
    w.write_bit(false); // video_full_range_flag: 16..235
    w.write_bit(true); // colour_description_present_flag
    for _ in ["primaries", "transfer", "matrix"] {
        w.write_bits(1, 8); // BT.709
    }
    w.write_bit(false); // chroma_loc_info_present_flag
    w.write_bit(true); // timing_info_present_flag
    w.write_bits(1000, 32); // num_units_in_tick; a frame is two ticks
    w.write_bits((fps * 2000.0).round() as u32, 32); // time_scale
    w.write_bit(true); // fixed_frame_rate_flag
    w.write_bit(false); // nal_hrd_parameters_present_flag
    w.write_bit(false); // vcl_hrd_parameters_present_flag
    w.write_bit(false); // pic_struct_present_flag
    w.write_bit(true); // bitstream_restriction_flag: lets decoders show frames at once
    w.write_bit(true); // motion_vectors_over_pic_boundaries_flag
    w.write_ue(0); // max_bytes_per_pic_denom: unlimited
    w.write_ue(0); // max_bits_per_mb_denom: unlimited
    w.write_ue(16); // log2_max_mv_length_horizontal
    w.write_ue(16); // log2_max_mv_length_vertical
    w.write_ue(0); // max_num_reorder_frames
    w.write_ue(sps.max_num_ref_frames); // max_dec_frame_buffering
    w.rbsp_trailing_bits();
    let annex_b = NalUnit::new(3, NalUnitType::Sps, w.into_bytes()).to_annex_b();
    nal_units(&annex_b).concat()
}
