//! What programs give to be loaded: PTX text and fatbins that hold PTX; what the linker makes of several; and where to say what is wrong.

use crate::code::{Answer, Code};
use std::ffi::{c_char, c_void};
use std::sync::Arc;

/// The PTX of an image that a program gives, by the compute capability that it is for: 80 for 8.0; 0 for text alone, whose header says that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image(Vec<(u32, Arc<str>)>);

impl Image {
    /// The newest that a device can have.
    pub(crate) fn text_for(&self, (major, minor): (u32, u32)) -> Answer<Arc<str>> {
        let fit = self.0.iter().filter(|(arch, _)| *arch <= major * 10 + minor);
        fit.max_by_key(|(arch, _)| *arch).map(|(_, text)| text.clone()).ok_or(Code::NO_BINARY_FOR_GPU)
    }

    /// The newest: which kernels there are is the same in all.
    pub(crate) fn newest(&self) -> Answer<Arc<str>> {
        self.text_for((u32::MAX / 10, 0))
    }
}

/// The PTX of an image that a program gives: text, or a fatbin with text in it. The image tells its own length.
///
/// # Safety
/// `image` is NUL-terminated text, a fatbin or an ELF file, whole.
pub(crate) unsafe fn ptx_of(image: *const u8) -> Answer<Image> {
    if image.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    // SAFETY: every kind of image has at least four bytes; text may be shorter, but then ends with NUL, which is looked at byte by byte.
    let byte = |at: usize| unsafe { image.add(at).read() };
    let mut magic = [0u8; 4];
    for (at, slot) in magic.iter_mut().enumerate() {
        *slot = byte(at);
        if *slot == 0 {
            break;
        }
    }
    match u32::from_le_bytes(magic) {
        ELF => Err(Code::NO_BINARY_FOR_GPU),
        WRAPPER => {
            // SAFETY: the wrapper of cuda's fatbins: magic, version, pointer.
            let inner = unsafe { image.add(8).cast::<*const u8>().read_unaligned() };
            // SAFETY: it points to a fatbin.
            unsafe { ptx_of(inner) }
        }
        FATBIN => {
            // SAFETY: a fatbin's header is 16 bytes and tells the length behind it.
            let bytes = unsafe {
                let header = std::slice::from_raw_parts(image, 16);
                let length = u64_at(header, 8).ok_or(Code::INVALID_IMAGE)? as usize;
                std::slice::from_raw_parts(image, u16_at(header, 6).ok_or(Code::INVALID_IMAGE)? as usize + length)
            };
            ptx_in_fatbin(bytes)
        }
        _ => {
            // SAFETY: text, by the API NUL-terminated.
            let text = unsafe { std::ffi::CStr::from_ptr(image.cast()) };
            let text = text.to_str().map_err(|_| Code::INVALID_IMAGE)?;
            Ok(Image(vec![(0, text.into())]))
        }
    }
}

const ELF: u32 = 0x464c_457f;
const WRAPPER: u32 = 0x4662_43b1;
const FATBIN: u32 = 0xba55_ed50;

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

/// All PTX of a fatbin; machine code alone has nothing for a virtual GPU.
///
/// Layout: a header (magic, version, its size, bytes behind it), then entries: kind (1 PTX, 2 ELF), version, header size, payload size,
/// compressed size, …, architecture at 28, flags at 40, size when unpacked at 56.
fn ptx_in_fatbin(bytes: &[u8]) -> Answer<Image> {
    let mut at = u16_at(bytes, 6).ok_or(Code::INVALID_IMAGE)? as usize;
    let mut found: Vec<(u32, Arc<str>)> = vec![];
    while at + 64 <= bytes.len() {
        let entry = &bytes[at..];
        let field = |offset| u32_at(entry, offset).map(|n| n as usize).ok_or(Code::INVALID_IMAGE);
        let (header, payload) = (field(4)?, u64_at(entry, 8).ok_or(Code::INVALID_IMAGE)? as usize);
        let end =
            header.checked_add(payload).filter(|end| *end <= entry.len() && header >= 64).ok_or(Code::INVALID_IMAGE)?;
        if u16_at(entry, 0) == Some(1) {
            let arch = field(28)? as u32;
            let (flags, unpacked) = (u64_at(entry, 40).unwrap_or(0), u64_at(entry, 56).unwrap_or(0) as usize);
            let text = if flags & (LZ4 | ZSTD) != 0 {
                let packed = entry.get(header..header + field(16)?).ok_or(Code::INVALID_IMAGE)?;
                unpack(packed, flags, unpacked).ok_or(Code::INVALID_IMAGE)?
            } else {
                entry[header..end].to_vec()
            };
            let text = text.split(|b| *b == 0).next().unwrap_or_default();
            let text = std::str::from_utf8(text).map_err(|_| Code::INVALID_IMAGE)?;
            found.push((arch, text.into()));
        }
        at += end;
    }
    if found.is_empty() { Err(Code::NO_BINARY_FOR_GPU) } else { Ok(Image(found)) }
}

/// nvcc up to 12 packs so, and later ones with `--compress-mode=speed`.
const LZ4: u64 = 0x2000;
const ZSTD: u64 = 0x8000;

fn unpack(packed: &[u8], flags: u64, unpacked: usize) -> Option<Vec<u8>> {
    // A damaged size shall not cost memory.
    if unpacked > 1 << 30 {
        return None;
    }
    if flags & LZ4 != 0 {
        return lz4_flex::block::decompress(packed, unpacked).ok();
    }
    let mut text = Vec::with_capacity(unpacked);
    ruzstd::decoding::FrameDecoder::new().decode_all_to_vec(packed, &mut text).ok()?;
    Some(text)
}

/// A fatbin with one piece of PTX: what the linker gives.
pub(crate) fn fatbin_of(ptx: &str) -> Vec<u8> {
    let mut payload = ptx.as_bytes().to_vec();
    payload.push(0);
    payload.resize(payload.len().next_multiple_of(8), 0);
    let mut entry = vec![0u8; 64];
    entry[0..2].copy_from_slice(&1u16.to_le_bytes());
    entry[2..4].copy_from_slice(&0x101u16.to_le_bytes());
    entry[4..8].copy_from_slice(&64u32.to_le_bytes());
    entry[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
    let mut out = Vec::new();
    out.extend(FATBIN.to_le_bytes());
    out.extend(1u16.to_le_bytes());
    out.extend(16u16.to_le_bytes());
    out.extend((64 + payload.len() as u64).to_le_bytes());
    out.extend(entry);
    out.extend(payload);
    out
}

/// One module of several: the newest of their headers, and declarations of what another one defines left out.
pub(crate) fn join(parts: &[String]) -> String {
    let header =
        |line: &str| [".version", ".target", ".address_size"].iter().any(|word| line.trim_start().starts_with(word));
    let number = |part: &str, word: &str| {
        let line =
            part.lines().find_map(|line| line.trim_start().strip_prefix(word).map(|rest| rest.trim().to_owned()));
        line.unwrap_or_default()
    };
    let version = parts.iter().map(|part| number(part, ".version")).max_by(|a, b| {
        let parse = |v: &str| {
            v.split_once('.').map(|(a, b)| (a.parse().unwrap_or(0), b.parse().unwrap_or(0))).unwrap_or((0u32, 0u32))
        };
        parse(a).cmp(&parse(b))
    });
    let target = parts.iter().map(|part| number(part, ".target")).max();
    let mut text =
        format!(".version {}\n.target {}\n.address_size 64\n", version.unwrap_or_default(), target.unwrap_or_default());
    for part in parts {
        for line in part.lines().filter(|line| !header(line)) {
            text += line;
            text.push('\n');
        }
    }
    text
}

/// Where a program wants to read what the compiler said.
#[derive(Clone, Copy)]
pub(crate) struct Log {
    info: (*mut c_char, usize),
    error: (*mut c_char, usize),
    options: *const u32,
    values: *mut *mut c_void,
    count: u32,
}
// SAFETY: the pointers are the program's, which answers for their living as long as the API says.
unsafe impl Send for Log {}

const INFO_BUFFER: u32 = 3;
const INFO_BYTES: u32 = 4;
const ERROR_BUFFER: u32 = 5;
const ERROR_BYTES: u32 = 6;
const WALL_TIME: u32 = 2;

impl Log {
    /// From the options of a call: numbers, and values that are pointers or numbers in a pointer's place.
    pub(crate) fn new(count: u32, options: *const u32, values: *mut *mut c_void) -> Answer<Log> {
        let none = (std::ptr::null_mut(), 0);
        let mut log = Log { info: none, error: none, options, values, count };
        if count > 0 && (options.is_null() || values.is_null()) {
            return Err(Code::INVALID_VALUE);
        }
        for i in 0..count as usize {
            // SAFETY: the program says that there are `count` of each.
            let (option, value) = unsafe { (*options.add(i), *values.add(i)) };
            match option {
                INFO_BUFFER => log.info.0 = value.cast(),
                INFO_BYTES => log.info.1 = value as u32 as usize,
                ERROR_BUFFER => log.error.0 = value.cast(),
                ERROR_BYTES => log.error.1 = value as u32 as usize,
                // Everything else steers code generation, of which there is none; up to the newest option known.
                0..=40 => {}
                _ => return Err(Code::INVALID_VALUE),
            }
        }
        Ok(log)
    }

    /// Whether the program wants to read errors.
    pub(crate) fn takes_errors(&self) -> bool {
        !self.error.0.is_null()
    }

    /// Fills the buffers, and gives back how much of them was used, as the driver does.
    pub(crate) fn write(&self, info: &str, error: &str) {
        let put = |(buffer, bytes): (*mut c_char, usize), text: &str| {
            if buffer.is_null() || bytes == 0 {
                return 0;
            }
            let used = text.len().min(bytes - 1);
            // SAFETY: the program's buffer has that many bytes.
            unsafe {
                std::ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast::<u8>(), used);
                buffer.add(used).write(0);
            }
            used
        };
        let (info, error) = (put(self.info, info), put(self.error, error));
        for i in 0..self.count as usize {
            // SAFETY: as in `new`.
            unsafe {
                match *self.options.add(i) {
                    INFO_BYTES => *self.values.add(i) = info as *mut c_void,
                    ERROR_BYTES => *self.values.add(i) = error as *mut c_void,
                    WALL_TIME => *self.values.add(i) = std::ptr::null_mut(),
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;

    const PTX: &str = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry f() { ret; }\n";

    #[test]
    fn images() {
        let text = CString::new(PTX).unwrap();
        // SAFETY: whole images, alive during the call.
        unsafe {
            assert_eq!(&*ptx_of(text.as_ptr().cast()).unwrap().newest().unwrap(), PTX);
            assert_eq!(&*ptx_of(fatbin_of(PTX).as_ptr()).unwrap().newest().unwrap(), PTX);
            assert_eq!(ptx_of([0x7f, b'E', b'L', b'F', 2, 1].as_ptr()), Err(Code::NO_BINARY_FOR_GPU));
            assert_eq!(ptx_of(std::ptr::null()), Err(Code::INVALID_VALUE));
        }
    }

    #[test]
    fn damaged_fatbins_are_errors() {
        let whole = fatbin_of(PTX);
        assert!(ptx_in_fatbin(&whole[..40]).is_err());
        let mut long = whole.clone();
        long[16 + 8..16 + 16].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(ptx_in_fatbin(&long), Err(Code::INVALID_IMAGE));
        let mut other = whole;
        other[16] = 2;
        assert_eq!(ptx_in_fatbin(&other), Err(Code::NO_BINARY_FOR_GPU));
    }

    /// What nvcc 13.2 makes of tools/nvcc_cases/saxpy.cu with `-fatbin -gencode arch=compute_80,code=compute_80`, by default and with
    /// `--compress-mode=speed`.
    #[test]
    fn packed_fatbins() {
        let zstd = include_bytes!("../tests/fatbins/saxpy_zstd.fatbin");
        let lz4 = include_bytes!("../tests/fatbins/saxpy_lz4.fatbin");
        let [one, other] = [&zstd[..], lz4].map(|fatbin| ptx_in_fatbin(fatbin).unwrap());
        assert_eq!(one, other);
        assert_eq!(one.text_for((7, 5)), Err(Code::NO_BINARY_FOR_GPU));
        let module = ptx_vm::Module::parse("saxpy", &one.text_for((8, 0)).unwrap()).unwrap();
        assert_eq!((module.entries().collect::<Vec<_>>(), module.decode_all().len()), (vec!["saxpy"], 0));
        for whole in [&zstd[..], lz4] {
            for at in 16..whole.len() {
                let mut damaged = whole.to_vec();
                damaged[at] ^= 0xff;
                let _ = ptx_in_fatbin(&damaged);
            }
        }
    }

    #[test]
    fn joined_modules_have_one_header() {
        let joined = join(&[PTX.into(), PTX.replace("8.0", "8.10").replace("entry f", "entry g")]);
        assert_eq!(joined.matches(".version").count(), 1);
        assert!(joined.starts_with(".version 8.10\n") && joined.contains("entry f") && joined.contains("entry g"));
        assert!(ptx_vm::Module::parse("x", &joined).is_ok());
    }
}
