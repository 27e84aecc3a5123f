//! The virtual GPUs: what `VCUDA_DEVICES` says, and all that follows from a compute capability.
//!
//! This file needs nothing but the standard library: the virtual driver and the virtual NVML both have it as their module, so that they
//! tell the same of a GPU.

use std::error::Error;
use std::fmt;

/// What a compute capability means: limits from the tables of NVIDIA's CUDA programming guide ("Compute Capabilities"), the rest as one
/// product of that capability has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chip {
    /// Compute capability.
    pub capability: (u32, u32),
    /// The product whose figures these are.
    pub product: &'static str,
    /// Device memory in bytes, unless it is said.
    pub memory: u64,
    /// Multiprocessors, unless it is said.
    pub units: u32,
    /// Clock of the multiprocessors in kHz.
    pub clock: u32,
    /// Clock of the memory in kHz; two transfers a cycle.
    pub memory_clock: u32,
    /// Width of the memory's bus in bits.
    pub bus_width: u32,
    /// L2 cache in bytes.
    pub l2: u32,
    /// Shared memory of a multiprocessor in bytes.
    pub shared_per_unit: u32,
    /// Shared memory that a block may have when its kernel asks for it, in bytes. Without asking it is [`Chip::SHARED_PER_BLOCK`].
    pub shared_per_block_optin: u32,
    /// Shared memory that every block takes for the system, in bytes.
    pub shared_reserved: u32,
    /// Resident threads of a multiprocessor.
    pub threads_per_unit: u32,
    /// Resident blocks of a multiprocessor.
    pub blocks_per_unit: u32,
    /// f32 lanes of a multiprocessor, which NVIDIA calls cores.
    pub lanes_per_unit: u32,
    /// f32 operations in the time of one of f64.
    pub single_to_double: u32,
    /// Whether the memory corrects errors.
    pub ecc: bool,
    /// Power limit in milliwatts.
    pub power_limit: u32,
}

impl Chip {
    /// Threads of a warp.
    pub const WARP: u32 = 32;
    /// Threads of a block.
    pub const THREADS_PER_BLOCK: u32 = 1024;
    /// Shared memory in bytes that a block may have without asking for more.
    pub const SHARED_PER_BLOCK: u32 = 48 << 10;
    /// 32-bit registers of a multiprocessor, which one block may have all of.
    pub const REGISTERS: u32 = 64 << 10;

    /// By compute capability: the one of [`CHIPS`] that is the nearest below; none is below the oldest.
    pub fn of(capability: (u32, u32)) -> Option<&'static Chip> {
        CHIPS.iter().rev().find(|chip| chip.capability <= capability)
    }

    /// Resident warps of a multiprocessor.
    pub fn warps_per_unit(&self) -> u32 {
        self.threads_per_unit / Chip::WARP
    }

    /// Bytes of L2 that can be set aside for persisting accesses; since 8.0 there is such a thing.
    pub fn persisting_l2(&self) -> u32 {
        if self.capability >= (8, 0) { self.l2 / 4 * 3 } else { 0 }
    }
}

/// Oldest first.
pub const CHIPS: [Chip; 8] = [
    Chip {
        capability: (7, 5),
        product: "T4",
        memory: 16 << 30,
        units: 40,
        clock: 1_590_000,
        memory_clock: 5_001_000,
        bus_width: 256,
        l2: 4 << 20,
        shared_per_unit: 64 << 10,
        shared_per_block_optin: 64 << 10,
        shared_reserved: 0,
        threads_per_unit: 1024,
        blocks_per_unit: 16,
        lanes_per_unit: 64,
        single_to_double: 32,
        ecc: true,
        power_limit: 70_000,
    },
    Chip {
        capability: (8, 0),
        product: "A100 SXM 80 GB",
        memory: 80 << 30,
        units: 108,
        clock: 1_410_000,
        memory_clock: 1_593_000,
        bus_width: 5120,
        l2: 40 << 20,
        shared_per_unit: 164 << 10,
        shared_per_block_optin: 163 << 10,
        shared_reserved: 1 << 10,
        threads_per_unit: 2048,
        blocks_per_unit: 32,
        lanes_per_unit: 64,
        single_to_double: 2,
        ecc: true,
        power_limit: 400_000,
    },
    Chip {
        capability: (8, 6),
        product: "A40",
        memory: 48 << 30,
        units: 84,
        clock: 1_740_000,
        memory_clock: 7_251_000,
        bus_width: 384,
        l2: 6 << 20,
        shared_per_unit: 100 << 10,
        shared_per_block_optin: 99 << 10,
        shared_reserved: 1 << 10,
        threads_per_unit: 1536,
        blocks_per_unit: 16,
        lanes_per_unit: 128,
        single_to_double: 64,
        ecc: true,
        power_limit: 300_000,
    },
    Chip {
        capability: (8, 7),
        product: "Jetson AGX Orin 64 GB",
        memory: 64 << 30,
        units: 16,
        clock: 1_300_000,
        memory_clock: 3_200_000,
        bus_width: 256,
        l2: 4 << 20,
        shared_per_unit: 164 << 10,
        shared_per_block_optin: 163 << 10,
        shared_reserved: 1 << 10,
        threads_per_unit: 1536,
        blocks_per_unit: 16,
        lanes_per_unit: 128,
        single_to_double: 64,
        ecc: false,
        power_limit: 60_000,
    },
    Chip {
        capability: (8, 9),
        product: "L40S",
        memory: 48 << 30,
        units: 142,
        clock: 2_520_000,
        memory_clock: 9_001_000,
        bus_width: 384,
        l2: 96 << 20,
        shared_per_unit: 100 << 10,
        shared_per_block_optin: 99 << 10,
        shared_reserved: 1 << 10,
        threads_per_unit: 1536,
        blocks_per_unit: 24,
        lanes_per_unit: 128,
        single_to_double: 64,
        ecc: true,
        power_limit: 350_000,
    },
    Chip {
        capability: (9, 0),
        product: "H100 SXM",
        memory: 80 << 30,
        units: 132,
        clock: 1_830_000,
        memory_clock: 2_619_000,
        bus_width: 5120,
        l2: 50 << 20,
        shared_per_unit: 228 << 10,
        shared_per_block_optin: 227 << 10,
        shared_reserved: 1 << 10,
        threads_per_unit: 2048,
        blocks_per_unit: 32,
        lanes_per_unit: 128,
        single_to_double: 2,
        ecc: true,
        power_limit: 700_000,
    },
    Chip {
        capability: (10, 0),
        product: "B200",
        memory: 180 << 30,
        units: 148,
        clock: 1_850_000,
        memory_clock: 3_906_000,
        bus_width: 8192,
        l2: 126 << 20,
        shared_per_unit: 228 << 10,
        shared_per_block_optin: 227 << 10,
        shared_reserved: 1 << 10,
        threads_per_unit: 2048,
        blocks_per_unit: 32,
        lanes_per_unit: 128,
        single_to_double: 2,
        ecc: true,
        power_limit: 1_000_000,
    },
    Chip {
        capability: (12, 0),
        product: "RTX PRO 6000 Blackwell",
        memory: 96 << 30,
        units: 188,
        clock: 2_617_000,
        memory_clock: 14_001_000,
        bus_width: 512,
        l2: 128 << 20,
        shared_per_unit: 100 << 10,
        shared_per_block_optin: 99 << 10,
        shared_reserved: 1 << 10,
        threads_per_unit: 1536,
        blocks_per_unit: 24,
        lanes_per_unit: 128,
        single_to_double: 64,
        ecc: true,
        power_limit: 600_000,
    },
];

/// A virtual GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// Its place among the GPUs, from 0.
    pub ordinal: u32,
    /// What it is called.
    pub name: String,
    /// Compute capability.
    pub capability: (u32, u32),
    /// Device memory in bytes.
    pub memory: u64,
    /// Multiprocessors.
    pub units: u32,
    /// What follows from the capability. Its memory and units are the product's: those above are the GPU's.
    pub chip: &'static Chip,
}

/// Why a variable cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    /// The variable.
    pub variable: &'static str,
    /// The part of it that is meant.
    pub entry: String,
    /// What is wrong with that, and what is allowed.
    pub reason: String,
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: '{}': {}", self.variable, self.entry, self.reason)
    }
}

impl Error for SpecError {}

/// The variable that names the GPUs.
pub const DEVICES: &str = "VCUDA_DEVICES";
/// The variable that gives all of them the same memory.
pub const MEMORY: &str = "VCUDA_MEMORY";
/// The variable that says which CUDA version the driver is of.
pub const DRIVER: &str = "VCUDA_DRIVER";
/// The CUDA version (12.8) of a driver of which nothing is said.
pub const DEFAULT_DRIVER: u32 = 12080;

/// The driver branches by the CUDA version that came with them, oldest first.
pub const RELEASES: [(u32, u32); 21] = [
    (11000, 450),
    (11010, 455),
    (11020, 460),
    (11030, 465),
    (11040, 470),
    (11050, 495),
    (11060, 510),
    (11070, 515),
    (11080, 520),
    (12000, 525),
    (12010, 530),
    (12020, 535),
    (12030, 545),
    (12040, 550),
    (12050, 555),
    (12060, 560),
    (12070, 565),
    (12080, 570),
    (12090, 575),
    (13000, 580),
    (13010, 590),
];

/// As many as there are numbers of PCI buses.
const MOST: usize = 255;
const MOST_UNITS: u32 = 1024;
const SIZE: &str = "a size is a whole number above 0 and B, KiB, MiB, GiB or TiB, such as 80GiB";
const ENTRY: &str = "an entry is sm_XY[a][:MEMORY][:Nsm], such as sm_90:80GiB:132sm";

/// The GPUs of the two variables' values, each `None` where it is not set.
///
/// `devices` is a list of entries `sm_XY[a][:MEMORY][:Nsm]`, separated by commas: `sm_80:80GiB,sm_90:141GiB:132sm`. Memory and
/// multiprocessors that are not said are those of a product ([`CHIPS`]); `a` is allowed and changes nothing, as every GPU of a capability has
/// its architecture-specific features. A capability that is not in the table has the figures of the nearest below. `none` means no
/// GPU; not set means one sm_80. `memory` is one size that every GPU has, whatever its entry says.
///
/// # Errors
///
/// The entry that is wrong, why, and what is allowed.
pub fn parse(devices: Option<&str>, memory: Option<&str>) -> Result<Vec<Spec>, SpecError> {
    let memory = memory
        .map(|text| size(text.trim()).map_err(|reason| SpecError { variable: MEMORY, entry: text.into(), reason }))
        .transpose()?;
    let devices = devices.unwrap_or("sm_80").trim();
    if devices == "none" {
        return Ok(vec![]);
    }
    let fault = |entry: &str, reason| SpecError { variable: DEVICES, entry: entry.into(), reason };
    let mut specs = vec![];
    for (ordinal, text) in devices.split(',').enumerate() {
        if ordinal == MOST {
            return Err(fault(text, format!("there can be at most {MOST} GPUs")));
        }
        let mut spec = entry(ordinal as u32, text.trim()).map_err(|reason| fault(text, reason))?;
        spec.memory = memory.unwrap_or(spec.memory);
        specs.push(spec);
    }
    Ok(specs)
}

/// The CUDA version of the driver, as `VCUDA_DRIVER` says it: 1000 times the major, 10 times the minor version; `None` where it is not set.
///
/// # Errors
///
/// Anything but such a number, from the oldest of [`RELEASES`] on.
pub fn parse_driver(driver: Option<&str>) -> Result<u32, SpecError> {
    let Some(text) = driver else { return Ok(DEFAULT_DRIVER) };
    let version = whole(text.trim()).and_then(|version| u32::try_from(version).ok());
    version.filter(|version| (RELEASES[0].0..20000).contains(version) && version.is_multiple_of(10)).ok_or_else(|| {
        let reason =
            "no CUDA version: 1000 times the major and 10 times the minor version, such as 11080 for 11.8, from 11000";
        SpecError { variable: DRIVER, entry: text.into(), reason: reason.into() }
    })
}

/// The driver branch, such as 570, of a CUDA version: that of the newest of [`RELEASES`] not newer than it.
pub fn branch(driver: u32) -> u32 {
    let newest = RELEASES.iter().rev().find(|(cuda, _)| *cuda <= driver);
    newest.unwrap_or(&RELEASES[0]).1
}

/// What the environment says: the GPUs, as [`parse`] understands them, and the driver's CUDA version, as [`parse_driver`] does.
///
/// # Errors
///
/// Theirs, and a variable that is not Unicode.
pub fn from_environment() -> Result<(Vec<Spec>, u32), SpecError> {
    let read = |variable| match std::env::var_os(variable) {
        None => Ok(None),
        Some(text) => text.into_string().map(Some).map_err(|text| SpecError {
            variable,
            entry: text.to_string_lossy().into_owned(),
            reason: "this is not Unicode".into(),
        }),
    };
    Ok((parse(read(DEVICES)?.as_deref(), read(MEMORY)?.as_deref())?, parse_driver(read(DRIVER)?.as_deref())?))
}

fn entry(ordinal: u32, text: &str) -> Result<Spec, String> {
    if text.is_empty() {
        return Err(format!("an empty entry; {ENTRY}; 'none' stands for no GPU"));
    }
    let mut parts = text.split(':').map(str::trim);
    let capability = capability(parts.next().unwrap_or_default())?;
    let chip = Chip::of(capability).ok_or_else(|| {
        let (major, minor) = CHIPS[0].capability;
        format!("the oldest compute capability there can be is sm_{major}{minor}")
    })?;
    let (mut memory, mut units) = (None, None);
    for part in parts {
        let twice = if let Some(count) = part.strip_suffix("sm") {
            let count = whole(count).and_then(|count| u32::try_from(count).ok());
            let count = count.filter(|count| (1..=MOST_UNITS).contains(count));
            let count =
                count.ok_or_else(|| format!("'{part}' is no count of multiprocessors: 1sm to {MOST_UNITS}sm"))?;
            units.replace(count).is_some()
        } else {
            memory.replace(size(part).map_err(|reason| format!("'{part}': {reason}; {ENTRY}"))?).is_some()
        };
        if twice {
            return Err(format!("'{part}' says a second time what is said already; {ENTRY}"));
        }
    }
    Ok(Spec {
        ordinal,
        name: format!("Virtual GPU sm_{}{} (vcuda)", capability.0, capability.1),
        capability,
        memory: memory.unwrap_or(chip.memory),
        units: units.unwrap_or(chip.units),
        chip,
    })
}

/// `sm_90` and `sm_90a`: the last digit is the minor version.
fn capability(text: &str) -> Result<(u32, u32), String> {
    let digits = text.strip_prefix("sm_").map(|digits| digits.strip_suffix('a').unwrap_or(digits));
    let digits = digits.filter(|digits| (2..=3).contains(&digits.len()) && !digits.starts_with('0'));
    match digits.and_then(whole) {
        Some(number) => Ok((number as u32 / 10, number as u32 % 10)),
        None => Err(format!("'{text}' is no compute capability such as sm_80 or sm_90a; {ENTRY}")),
    }
}

/// A number of digits only: neither sign nor spaces.
fn whole(digits: &str) -> Option<u64> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// A size in bytes.
fn size(text: &str) -> Result<u64, String> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40), ("B", 0)];
    let (digits, shift) = units
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))
        .ok_or_else(|| format!("no unit of size; {SIZE}"))?;
    let count = whole(digits.trim_end()).filter(|count| *count > 0).ok_or_else(|| format!("no such size; {SIZE}"))?;
    // The largest that the driver's signed sizes can hold.
    count
        .checked_mul(1 << shift)
        .filter(|bytes| *bytes <= i64::MAX as u64)
        .ok_or_else(|| "this is too much memory".into())
}

impl Spec {
    /// PCI bus id, as the driver writes it: `0000:01:00.0`, `0000:02:00.0`, …
    pub fn pci_bus_id(&self) -> String {
        format!("0000:{:02x}:00.0", self.pci_bus())
    }

    /// Number of its PCI bus: each GPU has its own.
    pub fn pci_bus(&self) -> u32 {
        self.ordinal + 1
    }

    /// PCI device in the upper 16 bits, vendor (NVIDIA's) in the lower. The device is no product's: it is the compute capability.
    pub fn pci_device_id(&self) -> u32 {
        let (major, minor) = self.capability;
        (major << 4 | minor) << 16 | 0x10de
    }

    /// The same at every start: it depends on the ordinal alone.
    pub fn uuid(&self) -> [u8; 16] {
        // Marked as a UUID of version 8: bytes of one's own meaning.
        let mut bytes = *b"vcuda\0\x80\0\x80\0\0\0\0\0\0\0";
        bytes[12..].copy_from_slice(&self.ordinal.to_be_bytes());
        bytes
    }

    /// The UUID as NVIDIA's tools write it: `GPU-76637564-6100-8000-8000-000000000000`.
    pub fn uuid_text(&self) -> String {
        let hex: String = self.uuid().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("GPU-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }

    /// The value of a `CUdevice_attribute`, by its number in `cuda.h` of CUDA 13.5; `None` for numbers that are no attribute.
    ///
    /// What the virtual driver cannot do is 0. Textures and arrays have the limits that all GPUs of today have.
    pub fn attribute(&self, attribute: i32) -> Option<i32> {
        let chip = self.chip;
        // Long, as it is a table. Sizes and counts fit: the largest is a clock.
        let value = match attribute {
            1 => Chip::THREADS_PER_BLOCK,      // MAX_THREADS_PER_BLOCK
            2 | 3 => 1024,                     // MAX_BLOCK_DIM_X, _Y
            4 => 64,                           // MAX_BLOCK_DIM_Z
            5 => i32::MAX as u32,              // MAX_GRID_DIM_X
            6 | 7 => 65535,                    // MAX_GRID_DIM_Y, _Z
            8 => Chip::SHARED_PER_BLOCK,       // MAX_SHARED_MEMORY_PER_BLOCK
            9 => 64 << 10,                     // TOTAL_CONSTANT_MEMORY
            10 => Chip::WARP,                  // WARP_SIZE
            11 => i32::MAX as u32,             // MAX_PITCH
            12 => Chip::REGISTERS,             // MAX_REGISTERS_PER_BLOCK
            13 => chip.clock,                  // CLOCK_RATE
            14 => 512,                         // TEXTURE_ALIGNMENT
            15 => 1,                           // GPU_OVERLAP
            16 => self.units,                  // MULTIPROCESSOR_COUNT
            17 => 0,                           // KERNEL_EXEC_TIMEOUT
            18 => 0,                           // INTEGRATED
            19 => 1,                           // CAN_MAP_HOST_MEMORY
            20 => 0,                           // COMPUTE_MODE: default
            21 => 131_072,                     // MAXIMUM_TEXTURE1D_WIDTH
            22 => 131_072,                     // MAXIMUM_TEXTURE2D_WIDTH
            23 => 65_536,                      // MAXIMUM_TEXTURE2D_HEIGHT
            24..=26 => 16_384,                 // MAXIMUM_TEXTURE3D_WIDTH, _HEIGHT, _DEPTH
            27 | 28 => 32_768,                 // MAXIMUM_TEXTURE2D_LAYERED_WIDTH, _HEIGHT
            29 => 2048,                        // MAXIMUM_TEXTURE2D_LAYERED_LAYERS
            30 => 512,                         // SURFACE_ALIGNMENT
            31 => 1,                           // CONCURRENT_KERNELS
            32 => chip.ecc.into(),             // ECC_ENABLED
            33 => self.pci_bus(),              // PCI_BUS_ID
            34 => 0,                           // PCI_DEVICE_ID: the slot on the bus
            35 => 0,                           // TCC_DRIVER: of Windows
            36 => chip.memory_clock,           // MEMORY_CLOCK_RATE
            37 => chip.bus_width,              // GLOBAL_MEMORY_BUS_WIDTH
            38 => chip.l2,                     // L2_CACHE_SIZE
            39 => chip.threads_per_unit,       // MAX_THREADS_PER_MULTIPROCESSOR
            40 => 2,                           // ASYNC_ENGINE_COUNT
            41 => 1,                           // UNIFIED_ADDRESSING
            42 => 32_768,                      // MAXIMUM_TEXTURE1D_LAYERED_WIDTH
            43 => 2048,                        // MAXIMUM_TEXTURE1D_LAYERED_LAYERS
            44 => 1,                           // CAN_TEX2D_GATHER
            45 | 46 => 32_768,                 // MAXIMUM_TEXTURE2D_GATHER_WIDTH, _HEIGHT
            47 | 48 => 8192,                   // MAXIMUM_TEXTURE3D_WIDTH_ALTERNATE, _HEIGHT_ALTERNATE
            49 => 32_768,                      // MAXIMUM_TEXTURE3D_DEPTH_ALTERNATE
            50 => 0,                           // PCI_DOMAIN_ID
            51 => 32,                          // TEXTURE_PITCH_ALIGNMENT
            52 | 53 => 32_768,                 // MAXIMUM_TEXTURECUBEMAP_WIDTH, _LAYERED_WIDTH
            54 => 2046,                        // MAXIMUM_TEXTURECUBEMAP_LAYERED_LAYERS
            55 => 32_768,                      // MAXIMUM_SURFACE1D_WIDTH
            56 => 131_072,                     // MAXIMUM_SURFACE2D_WIDTH
            57 => 65_536,                      // MAXIMUM_SURFACE2D_HEIGHT
            58..=60 => 16_384,                 // MAXIMUM_SURFACE3D_WIDTH, _HEIGHT, _DEPTH
            61 => 32_768,                      // MAXIMUM_SURFACE1D_LAYERED_WIDTH
            62 => 2048,                        // MAXIMUM_SURFACE1D_LAYERED_LAYERS
            63 | 64 => 32_768,                 // MAXIMUM_SURFACE2D_LAYERED_WIDTH, _HEIGHT
            65 => 2048,                        // MAXIMUM_SURFACE2D_LAYERED_LAYERS
            66 | 67 => 32_768,                 // MAXIMUM_SURFACECUBEMAP_WIDTH, _LAYERED_WIDTH
            68 => 2046,                        // MAXIMUM_SURFACECUBEMAP_LAYERED_LAYERS
            69 => 1 << 28,                     // MAXIMUM_TEXTURE1D_LINEAR_WIDTH
            70 => 131_072,                     // MAXIMUM_TEXTURE2D_LINEAR_WIDTH
            71 => 65_000,                      // MAXIMUM_TEXTURE2D_LINEAR_HEIGHT
            72 => 2_097_120,                   // MAXIMUM_TEXTURE2D_LINEAR_PITCH
            73 | 74 => 32_768,                 // MAXIMUM_TEXTURE2D_MIPMAPPED_WIDTH, _HEIGHT
            75 => self.capability.0,           // COMPUTE_CAPABILITY_MAJOR
            76 => self.capability.1,           // COMPUTE_CAPABILITY_MINOR
            77 => 32_768,                      // MAXIMUM_TEXTURE1D_MIPMAPPED_WIDTH
            78 => 1,                           // STREAM_PRIORITIES_SUPPORTED
            79 | 80 => 1,                      // GLOBAL_L1_CACHE_SUPPORTED, LOCAL_L1_CACHE_SUPPORTED
            81 => chip.shared_per_unit,        // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
            82 => Chip::REGISTERS,             // MAX_REGISTERS_PER_MULTIPROCESSOR
            83 => 1,                           // MANAGED_MEMORY
            84 => 0,                           // MULTI_GPU_BOARD
            85 => self.ordinal,                // MULTI_GPU_BOARD_GROUP_ID: each on a board of its own
            86 => 0,                           // HOST_NATIVE_ATOMIC_SUPPORTED
            87 => chip.single_to_double,       // SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO
            88 => 0,                           // PAGEABLE_MEMORY_ACCESS
            89 => 1,                           // CONCURRENT_MANAGED_ACCESS: as under Linux
            90 => 1,                           // COMPUTE_PREEMPTION_SUPPORTED
            91 => 1,                           // CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM
            92..=94 => 0,                      // CAN_USE_STREAM_MEM_OPS_V1, _64_BIT_…_V1, _WAIT_VALUE_NOR_V1
            95 => 1,                           // COOPERATIVE_LAUNCH
            96 => 0,                           // COOPERATIVE_MULTI_DEVICE_LAUNCH
            97 => chip.shared_per_block_optin, // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
            98 => 0,                           // CAN_FLUSH_REMOTE_WRITES
            99 => 1,                           // HOST_REGISTER_SUPPORTED
            100 | 101 => 0,                    // PAGEABLE_…_USES_HOST_PAGE_TABLES, DIRECT_MANAGED_MEM_ACCESS_FROM_HOST
            102..=105 => 0,                    // VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, HANDLE_TYPE_…_SUPPORTED
            106 => chip.blocks_per_unit,       // MAX_BLOCKS_PER_MULTIPROCESSOR
            107 => 0,                          // GENERIC_COMPRESSION_SUPPORTED
            108 => chip.persisting_l2(),       // MAX_PERSISTING_L2_CACHE_SIZE
            109 if chip.persisting_l2() == 0 => 0,
            109 => 134_213_632,                          // MAX_ACCESS_POLICY_WINDOW_SIZE
            110 => 0,                                    // GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED
            111 => chip.shared_reserved,                 // RESERVED_SHARED_MEMORY_PER_BLOCK
            112 => 0,                                    // SPARSE_CUDA_ARRAY_SUPPORTED
            113 => 1,                                    // READ_ONLY_HOST_REGISTER_SUPPORTED
            114 => 0,                                    // TIMELINE_SEMAPHORE_INTEROP_SUPPORTED
            115 => 1,                                    // MEMORY_POOLS_SUPPORTED
            116..=118 => 0, // GPU_DIRECT_RDMA_SUPPORTED, _FLUSH_WRITES_OPTIONS, _WRITES_ORDERING
            119 => 0,       // MEMPOOL_SUPPORTED_HANDLE_TYPES
            120 => u32::from(self.capability >= (9, 0)), // CLUSTER_LAUNCH
            121 => 0,       // DEFERRED_MAPPING_CUDA_ARRAY_SUPPORTED
            122 | 123 => 0, // CAN_USE_64_BIT_STREAM_MEM_OPS, _STREAM_WAIT_VALUE_NOR
            124 | 125 => 0, // DMA_BUF_SUPPORTED, IPC_EVENT_SUPPORTED
            126 => 1,       // MEM_SYNC_DOMAIN_COUNT
            127 => u32::from(self.capability >= (9, 0)), // TENSOR_MAP_ACCESS_SUPPORTED
            128 => 0,       // HANDLE_TYPE_FABRIC_SUPPORTED
            129 => 0,       // UNIFIED_FUNCTION_POINTERS
            130 | 131 => 0, // NUMA_CONFIG: none, NUMA_ID
            132 | 133 => 0, // MULTICAST_SUPPORTED, MPS_ENABLED
            134 => return Some(-1), // HOST_NUMA_ID: without NUMA it is -1
            135..=138 => 0, // D3D12_CIG_SUPPORTED, MEM_DECOMPRESS_…, VULKAN_CIG_SUPPORTED
            139 | 140 => self.pci_device_id(), // GPU_PCI_DEVICE_ID, GPU_PCI_SUBSYSTEM_ID
            141..=146 => 0, // HOST_NUMA_…, HOST_MEMORY_POOLS_…, HOST_VIRTUAL_…, HOST_ALLOC_DMA_BUF_SUPPORTED
            147 | 148 => 0, // ONLY_PARTIAL_HOST_NATIVE_ATOMIC_SUPPORTED, ATOMIC_REDUCTION_SUPPORTED
            149 => 1,       // LOCALITY_DOMAIN_COUNT
            150 => 0,       // MAX_OVERSIZED_SHARED_MEMORY_PER_BLOCK
            151..=156 => 0, // D3D12_CIG_STREAMS_…, DMA_BUF_MMAP_…, LOGICAL_ENDPOINT_…_SUPPORTED
            157 => self.units, // LOCALITY_DOMAIN_MULTIPROCESSOR_COUNT
            158 | 159 => 0, // LOGICAL_ENDPOINT_SUPPORTED_HANDLE_TYPES, VULKAN_CIG_STREAMS_SUPPORTED
            160 => i32::MAX as u32, // TENSOR_MAP_LARGE_TENSOR_MIN_SIZE: no large tensors
            161 => 0,       // GPU_DIRECT_RDMA_WITH_LOCALIZED_MEMORY_SUPPORTED
            _ => return None,
        };
        Some(value as i32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn parsed(devices: &str) -> Vec<Spec> {
        parse(Some(devices), None).unwrap()
    }

    fn refused(devices: &str) -> String {
        parse(Some(devices), None).unwrap_err().to_string()
    }

    #[test]
    fn one_sm_80_where_nothing_is_said() {
        let [gpu] = parse(None, None).unwrap().try_into().unwrap();
        assert_eq!(gpu, parsed("sm_80")[0]);
        assert_eq!((gpu.name.as_str(), gpu.capability), ("Virtual GPU sm_80 (vcuda)", (8, 0)));
        assert_eq!((gpu.memory, gpu.units, gpu.chip.warps_per_unit()), (80 * GIB, 108, 64));
    }

    #[test]
    fn entries_say_memory_and_multiprocessors() {
        let gpus =
            parsed("sm_80:2GiB, sm_90a:141GiB:132sm,sm_120:7sm,sm_75:512MiB,sm_86:3sm:64KiB,sm_100:1TiB,sm_89:4096 B");
        let said: Vec<_> = gpus.iter().map(|gpu| (gpu.ordinal, gpu.capability, gpu.memory, gpu.units)).collect();
        let expected = [
            (0, (8, 0), 2 * GIB, 108),
            (1, (9, 0), 141 * GIB, 132),
            (2, (12, 0), 96 * GIB, 7),
            (3, (7, 5), 512 << 20, 40),
            (4, (8, 6), 64 << 10, 3),
            (5, (10, 0), 1024 * GIB, 148),
            (6, (8, 9), 4096, 142),
        ];
        assert_eq!(said, expected);
        assert_eq!(parsed("none"), []);
    }

    #[test]
    fn one_size_for_all_overrides_what_the_entries_say() {
        let gpus = parse(Some("sm_80:80GiB,sm_90"), Some("2GiB")).unwrap();
        assert_eq!(gpus.iter().map(|gpu| gpu.memory).collect::<Vec<_>>(), [2 * GIB; 2]);
        let error = parse(None, Some("2GB")).unwrap_err();
        assert_eq!((error.variable, error.entry.as_str()), (MEMORY, "2GB"));
        assert!(error.to_string().contains("GiB or TiB"), "{error}");
    }

    #[test]
    fn a_capability_between_two_is_like_the_one_below() {
        for (said, like) in
            [("sm_88", (8, 7)), ("sm_103", (10, 0)), ("sm_110", (10, 0)), ("sm_121", (12, 0)), ("sm_999", (12, 0))]
        {
            let gpu = &parsed(said)[0];
            assert_eq!(gpu.chip.capability, like, "{said}");
            assert_ne!(gpu.capability, like, "{said}");
        }
        assert!(refused("sm_70").contains("oldest compute capability there can be is sm_75"));
    }

    #[test]
    fn a_refusal_names_the_entry_and_what_is_allowed() {
        for (text, entry, hint) in [
            ("", "", "'none' stands for no GPU"),
            ("sm_80,", "", "an entry is sm_XY"),
            ("sm_80,sm_9", "sm_9", "such as sm_80 or sm_90a"),
            ("sm_90b", "sm_90b", "such as sm_80 or sm_90a"),
            ("sm_080", "sm_080", "such as sm_80"),
            ("sm_", "sm_", "such as sm_80"),
            ("A100", "A100", "such as sm_80"),
            ("sm_-8", "sm_-8", "such as sm_80"),
            ("sm_80:80GB,sm_90", "sm_80:80GB", "such as 80GiB"),
            ("sm_80:80", "sm_80:80", "no unit of size"),
            ("sm_80:0GiB", "sm_80:0GiB", "above 0"),
            ("sm_80:1.5GiB", "sm_80:1.5GiB", "whole number"),
            ("sm_80:-1GiB", "sm_80:-1GiB", "whole number"),
            ("sm_80:GiB", "sm_80:GiB", "whole number"),
            ("sm_80:99999999TiB", "sm_80:99999999TiB", "too much"),
            ("sm_80:18446744073709551616B", "sm_80:18446744073709551616B", "no such size"),
            ("sm_80:0sm", "sm_80:0sm", "1sm to 1024sm"),
            ("sm_80:1025sm", "sm_80:1025sm", "1sm to 1024sm"),
            ("sm_80:sm", "sm_80:sm", "1sm to 1024sm"),
            ("sm_80:1GiB:2GiB", "sm_80:1GiB:2GiB", "second time"),
            ("sm_80:1sm:2sm", "sm_80:1sm:2sm", "second time"),
            ("none,sm_80", "none", "such as sm_80"),
        ] {
            let error = parse(Some(text), None).unwrap_err();
            assert_eq!((error.variable, error.entry.as_str()), (DEVICES, entry), "{text}");
            assert!(error.to_string().contains(hint), "{text}: {error}");
        }
        let many = vec!["sm_80"; 256].join(",");
        assert!(refused(&many).contains("at most 255"), "{}", refused(&many));
        assert_eq!(parsed(&many[..many.len() - 6]).len(), 255);
    }

    #[test]
    fn the_driver_is_of_a_cuda_version() {
        assert_eq!(parse_driver(None), Ok(12080));
        assert_eq!(parse_driver(Some("11080")), Ok(11080));
        for wrong in ["", "11.8", "11", "10020", "12085", "-12080", "120800"] {
            let error = parse_driver(Some(wrong)).unwrap_err();
            assert_eq!((error.variable, error.entry.as_str()), (DRIVER, wrong));
            assert!(error.to_string().contains("such as 11080 for 11.8"), "{error}");
        }
        assert_eq!([11000, 11080, 12060, 12080, 13000, 19990].map(branch), [450, 520, 560, 570, 580, 590]);
    }

    #[test]
    fn every_gpu_has_its_own_bus_and_uuid() {
        let gpus = parsed(&vec!["sm_80"; 255].join(","));
        assert_eq!((gpus[0].pci_bus_id(), gpus[1].pci_bus_id()), ("0000:01:00.0".into(), "0000:02:00.0".into()));
        assert_eq!(gpus[254].pci_bus_id(), "0000:ff:00.0");
        assert_eq!(gpus[0].uuid_text(), "GPU-76637564-6100-8000-8000-000000000000");
        assert_eq!(gpus[17].uuid_text(), "GPU-76637564-6100-8000-8000-000000000011");
        // Of the ordinal alone.
        assert_eq!(parsed("sm_90,sm_75:1GiB:1sm")[1].uuid(), gpus[1].uuid());
    }

    /// The table is consistent: what the driver promises of a chip fits on it.
    #[test]
    fn the_limits_of_a_chip_agree_with_each_other() {
        for pair in CHIPS.windows(2) {
            assert!(pair[0].capability < pair[1].capability);
        }
        for chip in &CHIPS {
            let product = chip.product;
            assert!(chip.shared_per_block_optin + chip.shared_reserved <= chip.shared_per_unit, "{product}");
            assert!(Chip::SHARED_PER_BLOCK <= chip.shared_per_block_optin, "{product}");
            assert!(chip.threads_per_unit.is_multiple_of(Chip::WARP), "{product}");
            assert!(
                chip.threads_per_unit >= Chip::THREADS_PER_BLOCK && chip.blocks_per_unit <= chip.warps_per_unit(),
                "{product}"
            );
        }
        // The products' bandwidths, from their data sheets.
        for (capability, gigabytes) in
            [((7, 5), 320), ((8, 0), 2039), ((8, 6), 696), ((8, 9), 864), ((9, 0), 3352), ((12, 0), 1792)]
        {
            let chip = Chip::of(capability).unwrap();
            let bandwidth = 2 * u64::from(chip.memory_clock) * 1000 * u64::from(chip.bus_width / 8);
            assert!(bandwidth.abs_diff(gigabytes * 1_000_000_000) < 1_000_000_000, "{}: {bandwidth}", chip.product);
        }
    }

    #[test]
    fn every_attribute_has_a_value_and_nothing_else_has() {
        let gpus = parsed("sm_75,sm_80,sm_86,sm_87,sm_89,sm_90:141GiB:132sm,sm_100,sm_120");
        for gpu in &gpus {
            for attribute in 1..=161 {
                let value =
                    gpu.attribute(attribute).unwrap_or_else(|| panic!("{}: no attribute {attribute}", gpu.name));
                // Without NUMA the host's node is -1: the one value below 0.
                assert!(value >= 0 || attribute == 134, "{}: attribute {attribute} is {value}", gpu.name);
            }
            for attribute in [i32::MIN, -1, 0, 162, i32::MAX] {
                assert_eq!(gpu.attribute(attribute), None);
            }
        }
        let of = |attribute| gpus.iter().map(|gpu| gpu.attribute(attribute).unwrap()).collect::<Vec<_>>();
        assert_eq!(of(16), [40, 108, 84, 16, 142, 132, 148, 188]);
        assert_eq!(of(33), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(of(39), [1024, 2048, 1536, 1536, 1536, 2048, 2048, 1536]);
        assert_eq!(of(75), [7, 8, 8, 8, 8, 9, 10, 12]);
        assert_eq!(of(76), [5, 0, 6, 7, 9, 0, 0, 0]);
        assert_eq!(of(97), [64, 163, 99, 163, 99, 227, 227, 99].map(|kib| kib << 10));
        assert_eq!(of(106), [16, 32, 16, 16, 24, 32, 32, 24]);
        assert_eq!(of(111), [0, 1, 1, 1, 1, 1, 1, 1].map(|kib| kib << 10));
        assert_eq!(of(120), [0, 0, 0, 0, 0, 1, 1, 1]);
        // Virtual memory management and multicast are not there.
        for missing in [102, 132] {
            assert_eq!(of(missing), [0; 8]);
        }
    }
}
