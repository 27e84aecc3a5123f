//! A virtual NVML: what `libnvidia-ml.so.1` answers on a machine with the GPUs that `VCUDA_DEVICES` names.
//!
//! Names, memory, PCI ids and UUIDs are those of the virtual driver (`spec.rs` is the same file). What a sensor would tell is plausible
//! and constant: a GPU that is half busy at its full clocks, cool, with nothing that throttles it. No process is ever seen, and no memory is
//! used but what the system has reserved: NVML looks from outside, and the virtual driver lives inside of the processes that use it.
//!
//! What is not here answers `NVML_ERROR_NOT_SUPPORTED` (`unsupported.rs`).

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::sync::{PoisonError, RwLock};

use spec::Spec;

#[path = "../../src/spec.rs"]
pub mod spec;

/// `nvmlReturn_t`: 0, or the number of a [`Fault`].
type Return = c_uint;

/// The errors of nvml.h that occur here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Fault {
    Uninitialized = 1,
    InvalidArgument = 2,
    NotSupported = 3,
    NotFound = 6,
    InsufficientSize = 7,
    VersionMismatch = 25,
    GpuNotFound = 28,
    Unknown = 999,
}

type Result<T> = std::result::Result<T, Fault>;

/// Memory of the caller for one `T`, or null.
#[repr(transparent)]
struct Out<T>(*mut T);

impl<T> Out<T> {
    fn put(&self, value: T) -> Result<()> {
        if self.0.is_null() {
            return Err(Fault::InvalidArgument);
        }
        // SAFETY: only C callers make an `Out`; nvml.h has them give memory for a `T`, or null.
        unsafe { self.0.write(value) };
        Ok(())
    }

    fn get(&self) -> Result<T>
    where
        T: Copy,
    {
        // SAFETY: as above; where nvml.h has a function read what it is given, the caller has written it.
        if self.0.is_null() { Err(Fault::InvalidArgument) } else { Ok(unsafe { self.0.read() }) }
    }
}

impl Out<c_char> {
    /// Writes a C string into a buffer of `length` bytes.
    fn text(&self, length: c_uint, text: &str) -> Result<()> {
        if self.0.is_null() {
            return Err(Fault::InvalidArgument);
        }
        if (length as usize) <= text.len() {
            return Err(Fault::InsufficientSize);
        }
        // SAFETY: nvml.h has the caller give a buffer of `length` bytes, which is more than the text has.
        unsafe {
            self.0.copy_from_nonoverlapping(text.as_ptr().cast(), text.len());
            self.0.add(text.len()).write(0);
        }
        Ok(())
    }
}

/// A C string of the caller, or null.
#[repr(transparent)]
struct Text(*const c_char);

impl Text {
    fn get(&self) -> Result<&str> {
        if self.0.is_null() {
            return Err(Fault::InvalidArgument);
        }
        // SAFETY: only C callers make a `Text`; nvml.h has them give a string that ends in 0, or null.
        unsafe { CStr::from_ptr(self.0) }.to_str().map_err(|_| Fault::InvalidArgument)
    }
}

/// `nvmlDevice_t`: a GPU's ordinal and 1, so that null is none. It is never followed.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Device(*mut c_void);

impl Device {
    fn of(gpu: &Spec) -> Device {
        Device(std::ptr::without_provenance_mut(gpu.ordinal as usize + 1))
    }
}

/// NVML while it is initialized.
struct Nvml {
    /// Calls of `nvmlInit` that no `nvmlShutdown` has undone.
    users: usize,
    gpus: Vec<Spec>,
    /// CUDA version.
    driver: u32,
}

impl Nvml {
    fn gpu(&self, device: Device) -> Result<&Spec> {
        device.0.addr().checked_sub(1).and_then(|ordinal| self.gpus.get(ordinal)).ok_or(Fault::InvalidArgument)
    }

    /// The handle of the GPU that `is` says yes to.
    fn find(&self, is: impl Fn(&Spec) -> bool) -> Result<Device> {
        self.gpus.iter().find(|gpu| is(gpu)).map(Device::of).ok_or(Fault::NotFound)
    }

    /// The version as NVIDIA's tools show it; the patch level is nobody's.
    fn version(&self) -> String {
        format!("{}.00", spec::branch(self.driver))
    }
}

static NVML: RwLock<Option<Nvml>> = RwLock::new(None);

fn number(result: Result<()>) -> Return {
    result.map_or_else(|fault| fault as Return, |()| 0)
}

/// Answers a question to an initialized NVML.
fn answer(question: impl FnOnce(&Nvml) -> Result<()>) -> Return {
    let nvml = NVML.read().unwrap_or_else(PoisonError::into_inner);
    number(nvml.as_ref().ok_or(Fault::Uninitialized).and_then(question))
}

/// Functions of the whole system.
macro_rules! of_system {
    ($(fn $name:ident($($argument:ident: $type:ty),*) |$nvml:pat_param| $body:expr;)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name($($argument: $type),*) -> Return {
            answer(|$nvml| $body)
        }
    )*};
}

/// Functions of one GPU, which is their first argument.
macro_rules! of_gpu {
    ($(fn $name:ident($($argument:ident: $type:ty),*) |$gpu:pat_param| $body:expr;)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name(device: Device, $($argument: $type),*) -> Return {
            answer(|nvml| {
                let $gpu = nvml.gpu(device)?;
                $body
            })
        }
    )*};
}

/// Functions that are not there.
macro_rules! not_supported {
    ($($name:ident)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name() -> $crate::Return {
            $crate::answer(|_| Err($crate::Fault::NotSupported))
        }
    )*};
}
mod unsupported;

const NO_GPUS: c_uint = 1;
const NO_ATTACH: c_uint = 2;

#[unsafe(no_mangle)]
extern "C" fn nvmlInitWithFlags(flags: c_uint) -> Return {
    number(init(flags))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlInit_v2() -> Return {
    number(init(0))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlInit() -> Return {
    number(init(0))
}

fn init(flags: c_uint) -> Result<()> {
    if flags & !(NO_GPUS | NO_ATTACH) != 0 {
        return Err(Fault::InvalidArgument);
    }
    let mut nvml = NVML.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(nvml) = nvml.as_mut() {
        nvml.users += 1;
        return Ok(());
    }
    let (gpus, driver) = spec::from_environment().map_err(|error| {
        // A number is all that NVML can answer with: the words go where a person may find them.
        eprintln!("vcuda: {error}");
        Fault::Unknown
    })?;
    if gpus.is_empty() && flags & NO_GPUS == 0 {
        return Err(Fault::GpuNotFound);
    }
    *nvml = Some(Nvml { users: 1, gpus, driver });
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn nvmlShutdown() -> Return {
    let mut nvml = NVML.write().unwrap_or_else(PoisonError::into_inner);
    match nvml.as_mut() {
        None => Fault::Uninitialized as Return,
        Some(Nvml { users: 1, .. }) => {
            *nvml = None;
            0
        }
        Some(nvml) => {
            nvml.users -= 1;
            0
        }
    }
}

/// The text of an error; one that is not known has a text too. It needs no initialization.
#[unsafe(no_mangle)]
extern "C" fn nvmlErrorString(result: Return) -> *const c_char {
    let text = match result {
        0 => c"Success",
        1 => c"Uninitialized",
        2 => c"Invalid Argument",
        3 => c"Not Supported",
        4 => c"Insufficient Permissions",
        5 => c"Already Initialized",
        6 => c"Not Found",
        7 => c"Insufficient Size",
        8 => c"Insufficient External Power",
        9 => c"Driver Not Loaded",
        10 => c"Timeout",
        11 => c"Interrupt Request Issue",
        12 => c"NVML Shared Library Not Found",
        13 => c"Function Not Found",
        14 => c"Corrupted infoROM",
        15 => c"GPU is lost",
        16 => c"GPU requires reset",
        17 => c"GPU access blocked by the operating system",
        18 => c"Driver/library version mismatch",
        19 => c"In use by another client",
        20 => c"Insufficient Memory",
        21 => c"No Data",
        22 => c"Operation not supported on this vGPU while ECC is enabled",
        23 => c"Insufficient Resources",
        24 => c"Requested Frequency Is Not Supported",
        25 => c"Argument Version Mismatch",
        26 => c"Deprecated",
        27 => c"System Not Ready",
        28 => c"No GPUs Were Found",
        29 => c"Invalid State",
        _ => c"Unknown Error",
    };
    text.as_ptr()
}

of_system! {
    fn nvmlSystemGetDriverVersion(version: Out<c_char>, length: c_uint) |nvml| version.text(length, &nvml.version());
    fn nvmlSystemGetNVMLVersion(version: Out<c_char>, length: c_uint) |nvml| {
        version.text(length, &format!("{}.{}", nvml.driver / 1000, nvml.version()))
    };
    fn nvmlSystemGetCudaDriverVersion(version: Out<c_int>) |nvml| version.put(nvml.driver as c_int);
    fn nvmlSystemGetCudaDriverVersion_v2(version: Out<c_int>) |nvml| version.put(nvml.driver as c_int);
    fn nvmlDeviceGetCount(count: Out<c_uint>) |nvml| count.put(nvml.gpus.len() as c_uint);
    fn nvmlDeviceGetCount_v2(count: Out<c_uint>) |nvml| count.put(nvml.gpus.len() as c_uint);
    fn nvmlUnitGetCount(count: Out<c_uint>) |_| count.put(0);
    fn nvmlGetExcludedDeviceCount(count: Out<c_uint>) |_| count.put(0);

    fn nvmlDeviceGetHandleByIndex(index: c_uint, device: Out<Device>) |nvml| by_index(nvml, index, device);
    fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: Out<Device>) |nvml| by_index(nvml, index, device);
    fn nvmlDeviceGetHandleByPciBusId(id: Text, device: Out<Device>) |nvml| by_bus(nvml, id, device);
    fn nvmlDeviceGetHandleByPciBusId_v2(id: Text, device: Out<Device>) |nvml| by_bus(nvml, id, device);
    fn nvmlDeviceGetHandleByUUID(uuid: Text, device: Out<Device>) |nvml| {
        let uuid = uuid.get()?;
        device.put(nvml.find(|gpu| gpu.uuid_text() == uuid)?)
    };
    fn nvmlDeviceGetHandleBySerial(number: Text, device: Out<Device>) |nvml| {
        let number = number.get()?;
        device.put(nvml.find(|gpu| serial(gpu) == number)?)
    };
    fn nvmlDeviceOnSameBoard(one: Device, other: Device, same: Out<c_int>) |nvml| {
        same.put((nvml.gpu(one)?.ordinal == nvml.gpu(other)?.ordinal).into())
    };
}

fn by_index(nvml: &Nvml, index: c_uint, device: Out<Device>) -> Result<()> {
    device.put(nvml.gpus.get(index as usize).map(Device::of).ok_or(Fault::InvalidArgument)?)
}

fn by_bus(nvml: &Nvml, id: Text, device: Out<Device>) -> Result<()> {
    let (domain, bus, slot) = bus_id(id.get()?).ok_or(Fault::InvalidArgument)?;
    device.put(nvml.find(|gpu| (domain, bus, slot) == (0, gpu.pci_bus(), 0))?)
}

/// `[domain:]bus:device[.function]`, all hexadecimal.
fn bus_id(text: &str) -> Option<(u32, u32, u32)> {
    let hex = |digits: &str| {
        let digits_only = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        digits_only.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
    };
    let (place, function) = text.split_once('.').unwrap_or((text, "0"));
    hex(function).filter(|function| *function < 8)?;
    let numbers = place.split(':').map(hex).collect::<Option<Vec<_>>>()?;
    match numbers[..] {
        [bus, slot] => Some((0, bus, slot)),
        [domain, bus, slot] => Some((domain, bus, slot)),
        _ => None,
    }
}

fn serial(gpu: &Spec) -> String {
    format!("{:013}", gpu.ordinal)
}

of_gpu! {
    fn nvmlDeviceGetName(name: Out<c_char>, length: c_uint) |gpu| name.text(length, &gpu.name);
    fn nvmlDeviceGetUUID(uuid: Out<c_char>, length: c_uint) |gpu| uuid.text(length, &gpu.uuid_text());
    fn nvmlDeviceGetSerial(text: Out<c_char>, length: c_uint) |gpu| text.text(length, &serial(gpu));
    fn nvmlDeviceGetVbiosVersion(version: Out<c_char>, length: c_uint) |_| version.text(length, "vcuda");
    fn nvmlDeviceGetIndex(index: Out<c_uint>) |gpu| index.put(gpu.ordinal);
    fn nvmlDeviceGetMinorNumber(number: Out<c_uint>) |gpu| number.put(gpu.ordinal);
    fn nvmlDeviceGetBoardId(board: Out<c_uint>) |gpu| board.put(gpu.pci_bus() << 8);
    fn nvmlDeviceGetMultiGpuBoard(several: Out<c_uint>) |_| several.put(0);
    fn nvmlDeviceGetBrand(brand: Out<c_uint>) |_| brand.put(BRAND_NVIDIA);
    fn nvmlDeviceGetArchitecture(architecture: Out<c_uint>) |gpu| architecture.put(architecture_of(gpu));
    fn nvmlDeviceGetNumGpuCores(cores: Out<c_uint>) |gpu| cores.put(gpu.units * gpu.chip.lanes_per_unit);
    fn nvmlDeviceGetMemoryBusWidth(bits: Out<c_uint>) |gpu| bits.put(gpu.chip.bus_width);
    fn nvmlDeviceGetCudaComputeCapability(major: Out<c_int>, minor: Out<c_int>) |gpu| {
        major.put(gpu.capability.0 as c_int)?;
        minor.put(gpu.capability.1 as c_int)
    };

    // The older forms of the structure are its beginning.
    fn nvmlDeviceGetPciInfo(info: Out<PciInfoV1>) |gpu| info.put(PciInfo::of(gpu).v2.v1);
    fn nvmlDeviceGetPciInfo_v2(info: Out<PciInfoV2>) |gpu| info.put(PciInfo::of(gpu).v2);
    fn nvmlDeviceGetPciInfo_v3(info: Out<PciInfo>) |gpu| info.put(PciInfo::of(gpu));
    fn nvmlDeviceGetBusType(bus: Out<c_uint>) |_| bus.put(BUS_PCIE);
    fn nvmlDeviceGetMaxPcieLinkGeneration(generation: Out<c_uint>) |gpu| generation.put(pcie_generation(gpu));
    fn nvmlDeviceGetGpuMaxPcieLinkGeneration(generation: Out<c_uint>) |gpu| generation.put(pcie_generation(gpu));
    fn nvmlDeviceGetCurrPcieLinkGeneration(generation: Out<c_uint>) |gpu| generation.put(pcie_generation(gpu));
    fn nvmlDeviceGetMaxPcieLinkWidth(lanes: Out<c_uint>) |_| lanes.put(16);
    fn nvmlDeviceGetCurrPcieLinkWidth(lanes: Out<c_uint>) |_| lanes.put(16);

    fn nvmlDeviceGetMemoryInfo(info: Out<Memory>) |gpu| {
        let (total, reserved) = (gpu.memory, reserved(gpu));
        // Here what is reserved counts as used.
        info.put(Memory { total, free: total - reserved, used: reserved })
    };
    fn nvmlDeviceGetMemoryInfo_v2(info: Out<MemoryV2>) |gpu| {
        let version = versioned::<MemoryV2>(2);
        if info.get()?.version != version {
            return Err(Fault::VersionMismatch);
        }
        let (total, reserved) = (gpu.memory, reserved(gpu));
        info.put(MemoryV2 { version, total, reserved, free: total - reserved, used: 0 })
    };
    fn nvmlDeviceGetBAR1MemoryInfo(info: Out<Bar1Memory>) |gpu| {
        info.put(Bar1Memory { total: gpu.memory, free: gpu.memory, used: 0 })
    };

    fn nvmlDeviceGetPowerUsage(milliwatts: Out<c_uint>) |gpu| milliwatts.put(gpu.chip.power_limit / 2);
    fn nvmlDeviceGetPowerManagementMode(enabled: Out<c_uint>) |_| enabled.put(1);
    fn nvmlDeviceGetPowerManagementLimit(milliwatts: Out<c_uint>) |gpu| milliwatts.put(gpu.chip.power_limit);
    fn nvmlDeviceGetPowerManagementDefaultLimit(milliwatts: Out<c_uint>) |gpu| milliwatts.put(gpu.chip.power_limit);
    fn nvmlDeviceGetEnforcedPowerLimit(milliwatts: Out<c_uint>) |gpu| milliwatts.put(gpu.chip.power_limit);
    fn nvmlDeviceGetPowerManagementLimitConstraints(least: Out<c_uint>, most: Out<c_uint>) |gpu| {
        least.put(gpu.chip.power_limit / 2)?;
        most.put(gpu.chip.power_limit)
    };
    fn nvmlDeviceGetPerformanceState(state: Out<c_uint>) |_| state.put(0);
    fn nvmlDeviceGetPowerState(state: Out<c_uint>) |_| state.put(0);

    fn nvmlDeviceGetClockInfo(clock: c_uint, megahertz: Out<c_uint>) |gpu| megahertz.put(clock_of(gpu, clock)?);
    fn nvmlDeviceGetMaxClockInfo(clock: c_uint, megahertz: Out<c_uint>) |gpu| megahertz.put(clock_of(gpu, clock)?);
    fn nvmlDeviceGetApplicationsClock(clock: c_uint, megahertz: Out<c_uint>) |gpu| megahertz.put(clock_of(gpu, clock)?);
    fn nvmlDeviceGetDefaultApplicationsClock(clock: c_uint, megahertz: Out<c_uint>) |gpu| {
        megahertz.put(clock_of(gpu, clock)?)
    };
    fn nvmlDeviceGetMaxCustomerBoostClock(clock: c_uint, megahertz: Out<c_uint>) |gpu| {
        megahertz.put(clock_of(gpu, clock)?)
    };
    fn nvmlDeviceGetClock(clock: c_uint, which: c_uint, megahertz: Out<c_uint>) |gpu| {
        if which >= CLOCK_IDS {
            return Err(Fault::InvalidArgument);
        }
        megahertz.put(clock_of(gpu, clock)?)
    };
    fn nvmlDeviceGetSupportedMemoryClocks(count: Out<c_uint>, clocks: Out<c_uint>) |gpu| {
        only(count, clocks, clock_of(gpu, CLOCK_MEMORY)?)
    };
    fn nvmlDeviceGetSupportedGraphicsClocks(memory: c_uint, count: Out<c_uint>, clocks: Out<c_uint>) |gpu| {
        if memory != clock_of(gpu, CLOCK_MEMORY)? {
            return Err(Fault::NotFound);
        }
        only(count, clocks, clock_of(gpu, CLOCK_GRAPHICS)?)
    };
    fn nvmlDeviceGetCurrentClocksThrottleReasons(reasons: Out<c_ulonglong>) |_| reasons.put(0);
    fn nvmlDeviceGetCurrentClocksEventReasons(reasons: Out<c_ulonglong>) |_| reasons.put(0);
    fn nvmlDeviceGetSupportedClocksThrottleReasons(reasons: Out<c_ulonglong>) |_| reasons.put(CLOCK_REASONS);
    fn nvmlDeviceGetSupportedClocksEventReasons(reasons: Out<c_ulonglong>) |_| reasons.put(CLOCK_REASONS);

    fn nvmlDeviceGetUtilizationRates(utilization: Out<Utilization>) |_| utilization.put(Utilization { gpu: 50, memory: 25 });
    fn nvmlDeviceGetEncoderUtilization(percent: Out<c_uint>, period: Out<c_uint>) |_| idle(percent, period);
    fn nvmlDeviceGetDecoderUtilization(percent: Out<c_uint>, period: Out<c_uint>) |_| idle(percent, period);
    fn nvmlDeviceGetTemperature(sensor: c_uint, celsius: Out<c_uint>) |_| celsius.put(temperature(sensor)? as c_uint);
    fn nvmlDeviceGetTemperatureV(reading: Out<TemperatureV1>) |_| {
        let TemperatureV1 { version, sensor, .. } = reading.get()?;
        if version != versioned::<TemperatureV1>(1) {
            return Err(Fault::VersionMismatch);
        }
        reading.put(TemperatureV1 { version, sensor, celsius: temperature(sensor)? })
    };
    fn nvmlDeviceGetTemperatureThreshold(threshold: c_uint, celsius: Out<c_uint>) |_| match threshold {
        0 => celsius.put(95),                // Shutdown.
        1 => celsius.put(90),                // Slowdown.
        2 => celsius.put(95),                // Largest of the memory.
        3 => celsius.put(85),                // Largest of the GPU.
        4..8 => Err(Fault::NotSupported),    // Of noise, and of notebooks.
        _ => Err(Fault::InvalidArgument),
    };
    fn nvmlDeviceGetNumFans(count: Out<c_uint>) |_| count.put(0);

    fn nvmlDeviceGetComputeMode(mode: Out<c_uint>) |_| mode.put(0);
    fn nvmlDeviceGetPersistenceMode(enabled: Out<c_uint>) |_| enabled.put(1);
    fn nvmlDeviceGetDisplayMode(enabled: Out<c_uint>) |_| enabled.put(0);
    fn nvmlDeviceGetDisplayActive(active: Out<c_uint>) |_| active.put(0);
    fn nvmlDeviceGetVirtualizationMode(mode: Out<c_uint>) |_| mode.put(0);
    fn nvmlDeviceIsMigDeviceHandle(is: Out<c_uint>) |_| is.put(0);
    fn nvmlDeviceGetEccMode(now: Out<c_uint>, then: Out<c_uint>) |gpu| {
        now.put(gpu.chip.ecc.into())?;
        then.put(gpu.chip.ecc.into())
    };

    fn nvmlDeviceGetComputeRunningProcesses(count: Out<c_uint>, _infos: Out<c_void>) |_| no_process(count);
    fn nvmlDeviceGetComputeRunningProcesses_v2(count: Out<c_uint>, _infos: Out<c_void>) |_| no_process(count);
    fn nvmlDeviceGetComputeRunningProcesses_v3(count: Out<c_uint>, _infos: Out<c_void>) |_| no_process(count);
    fn nvmlDeviceGetGraphicsRunningProcesses(count: Out<c_uint>, _infos: Out<c_void>) |_| no_process(count);
    fn nvmlDeviceGetGraphicsRunningProcesses_v2(count: Out<c_uint>, _infos: Out<c_void>) |_| no_process(count);
    fn nvmlDeviceGetGraphicsRunningProcesses_v3(count: Out<c_uint>, _infos: Out<c_void>) |_| no_process(count);
    fn nvmlDeviceGetMPSComputeRunningProcesses(count: Out<c_uint>, _infos: Out<c_void>) |_| no_process(count);
    fn nvmlDeviceGetMPSComputeRunningProcesses_v2(count: Out<c_uint>, _infos: Out<c_void>) |_| no_process(count);
    fn nvmlDeviceGetMPSComputeRunningProcesses_v3(count: Out<c_uint>, _infos: Out<c_void>) |_| no_process(count);
}

const BRAND_NVIDIA: c_uint = 14;
const BUS_PCIE: c_uint = 2;
const CLOCK_GRAPHICS: c_uint = 0;
const CLOCK_MEMORY: c_uint = 2;
/// Kinds of a clock: as it is now, its target, its default, its largest.
const CLOCK_IDS: c_uint = 4;
/// Every reason that nvml.h has for a clock below its largest.
const CLOCK_REASONS: c_ulonglong = 0x1ff;

fn architecture_of(gpu: &Spec) -> c_uint {
    match gpu.capability {
        (7, _) => 6, // Turing.
        (8, 9) => 8, // Ada.
        (8, _) => 7, // Ampere.
        (9, _) => 9, // Hopper.
        _ => 10,     // Blackwell.
    }
}

fn pcie_generation(gpu: &Spec) -> c_uint {
    match gpu.capability.0 {
        7 => 3,
        8 => 4,
        _ => 5,
    }
}

/// Graphics, multiprocessors, memory, video: in MHz. All but the memory run at one clock.
fn clock_of(gpu: &Spec, clock: c_uint) -> Result<c_uint> {
    match clock {
        CLOCK_MEMORY => Ok(gpu.chip.memory_clock / 1000),
        CLOCK_GRAPHICS | 1 | 3 => Ok(gpu.chip.clock / 1000),
        _ => Err(Fault::InvalidArgument),
    }
}

/// In degrees Celsius. The GPU's sensor is the only one that nvml.h has.
fn temperature(sensor: c_uint) -> Result<c_int> {
    if sensor == 0 { Ok(45) } else { Err(Fault::InvalidArgument) }
}

/// Memory that the system keeps for itself.
fn reserved(gpu: &Spec) -> u64 {
    gpu.memory / 128
}

/// A list of one value. `count` is the room there is before the call, and the length of the list after it.
fn only(count: Out<c_uint>, list: Out<c_uint>, value: c_uint) -> Result<()> {
    let room = count.get()?;
    count.put(1)?;
    if room == 0 { Err(Fault::InsufficientSize) } else { list.put(value) }
}

/// An encoder's or decoder's utilization, and the microseconds it was sampled for.
fn idle(percent: Out<c_uint>, period: Out<c_uint>) -> Result<()> {
    percent.put(0)?;
    period.put(167_000)
}

fn no_process(count: Out<c_uint>) -> Result<()> {
    count.put(0)
}

/// The version that a structure of nvml.h carries: its size, and its number in the upper 8 bits.
fn versioned<T>(number: c_uint) -> c_uint {
    size_of::<T>() as c_uint | number << 24
}

/// The first form of `nvmlPciInfo_t`.
#[derive(Clone, Copy)]
#[repr(C)]
struct PciInfoV1 {
    /// `0000:01:00.0`
    bus_id: [c_char; 16],
    domain: c_uint,
    bus: c_uint,
    device: c_uint,
    /// Device and vendor.
    pci_device_id: c_uint,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct PciInfoV2 {
    v1: PciInfoV1,
    subsystem_id: c_uint,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct PciInfo {
    v2: PciInfoV2,
    /// `00000000:01:00.0`
    bus_id: [c_char; 32],
}

impl PciInfo {
    fn of(gpu: &Spec) -> PciInfo {
        let (bus_id, id) = (gpu.pci_bus_id(), gpu.pci_device_id());
        let v1 = PciInfoV1 { bus_id: chars(&bus_id), domain: 0, bus: gpu.pci_bus(), device: 0, pci_device_id: id };
        PciInfo { v2: PciInfoV2 { v1, subsystem_id: id }, bus_id: chars(&format!("0000{}", bus_id.to_uppercase())) }
    }
}

/// A C string in an array that is longer than it.
fn chars<const N: usize>(text: &str) -> [c_char; N] {
    let mut chars = [0; N];
    for (char, byte) in chars[..N - 1].iter_mut().zip(text.bytes()) {
        *char = byte as c_char;
    }
    chars
}

#[repr(C)]
struct Memory {
    total: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct MemoryV2 {
    version: c_uint,
    total: c_ulonglong,
    reserved: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

#[repr(C)]
struct Bar1Memory {
    total: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

/// In percent of the time.
#[repr(C)]
struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct TemperatureV1 {
    version: c_uint,
    sensor: c_uint,
    celsius: c_int,
}
