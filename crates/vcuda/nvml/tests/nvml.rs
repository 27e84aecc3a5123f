//! The library as programs see it: by the crate `nvml-wrapper`, and by its bare functions.
//!
//! Its GPUs are the environment's, so that each test runs in a process of its own.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::ptr::null_mut;

use libloading::{Library, Symbol};
use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::InitFlags;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{
    Clock, ClockId, EccCounter, MemoryError, PerformanceState, TemperatureSensor,
};
use nvml_wrapper::enums::device::DeviceArchitecture;
use nvml_wrapper::error::NvmlError;

const GIB: u64 = 1 << 30;

/// Where cargo has put the library: beside the tests, or one folder above.
fn library() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let mut places = tests.ancestors().skip(1).take(2).map(|folder| folder.join("libvnvml.so"));
    places.find(|path| path.exists()).expect("cargo builds libvnvml.so before its tests")
}

fn nvml() -> Nvml {
    Nvml::builder().lib_path(library().as_os_str()).init().unwrap()
}

/// Runs `body` in a process of its own, with these variables and no others of vcuda; `name` is the test that calls this.
fn alone(name: &str, variables: &[(&str, &str)], body: fn()) -> Output {
    const INSIDE: &str = "VNVML_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        body();
        std::process::exit(0);
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    for variable in ["VCUDA_DEVICES", "VCUDA_MEMORY", "VCUDA_DRIVER"] {
        command.env_remove(variable);
    }
    command.args(["--exact", name, "--nocapture"]).env(INSIDE, "1").envs(variables.iter().copied());
    let output = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    // The process ends inside of the test: where it comes to the end, no test has had that name.
    assert!(!text.contains("test result"), "no test is called {name}: {text}");
    output
}

#[test]
fn a_client_sees_the_gpus_that_the_variables_name() {
    let variables = [("VCUDA_DEVICES", "sm_80:2GiB,sm_90a:141GiB:114sm"), ("VCUDA_DRIVER", "11080")];
    alone("a_client_sees_the_gpus_that_the_variables_name", &variables, || {
        let nvml = nvml();
        assert_eq!(nvml.sys_driver_version().unwrap(), "520.00");
        assert_eq!(nvml.sys_nvml_version().unwrap(), "11.520.00");
        assert_eq!(nvml.sys_cuda_driver_version().unwrap(), 11080);
        assert_eq!(nvml.device_count().unwrap(), 2);
        assert_eq!(nvml.unit_count().unwrap(), 0);
        assert!(matches!(nvml.device_by_index(2), Err(NvmlError::InvalidArg)));

        let gpu = nvml.device_by_index(1).unwrap();
        assert_eq!((gpu.index().unwrap(), gpu.minor_number().unwrap()), (1, 1));
        assert_eq!(gpu.name().unwrap(), "Virtual GPU sm_90 (vcuda)");
        assert_eq!(gpu.uuid().unwrap(), "GPU-76637564-6100-8000-8000-000000000001");
        assert_eq!(gpu.architecture().unwrap(), DeviceArchitecture::Hopper);
        let capability = gpu.cuda_compute_capability().unwrap();
        assert_eq!((capability.major, capability.minor), (9, 0));
        assert_eq!(gpu.num_cores().unwrap(), 114 * 128);
        assert_eq!(gpu.memory_bus_width().unwrap(), 5120);
        let pci = gpu.pci_info().unwrap();
        assert_eq!((pci.domain, pci.bus, pci.device, pci.bus_id.as_str()), (0, 2, 0, "00000000:02:00.0"));
        assert_eq!((pci.pci_device_id, pci.pci_sub_system_id), (0x0090_10de, Some(0x0090_10de)));

        let memory = gpu.memory_info().unwrap();
        assert_eq!((memory.total, memory.used), (141 * GIB, 0));
        assert_eq!(memory.free + memory.reserved, memory.total);
        assert_eq!(nvml.device_by_index(0).unwrap().memory_info().unwrap().total, 2 * GIB);

        assert_eq!(gpu.power_management_limit().unwrap(), 700_000);
        assert_eq!(gpu.power_management_limit_default().unwrap(), 700_000);
        assert_eq!(gpu.enforced_power_limit().unwrap(), 700_000);
        let limits = gpu.power_management_limit_constraints().unwrap();
        let power = gpu.power_usage().unwrap();
        assert!((limits.min_limit..=limits.max_limit).contains(&power), "{power} {limits:?}");
        assert_eq!(gpu.power_usage().unwrap(), power);
        assert_eq!(gpu.performance_state().unwrap(), PerformanceState::Zero);
        for (clock, megahertz) in
            [(Clock::Graphics, 1830), (Clock::SM, 1830), (Clock::Video, 1830), (Clock::Memory, 2619)]
        {
            assert_eq!(gpu.clock_info(clock).unwrap(), megahertz, "{clock:?}");
            assert_eq!(gpu.max_clock_info(clock).unwrap(), megahertz, "{clock:?}");
            assert_eq!(gpu.applications_clock(clock).unwrap(), megahertz, "{clock:?}");
            assert_eq!(gpu.clock(clock, ClockId::Current).unwrap(), megahertz, "{clock:?}");
        }
        assert_eq!(gpu.supported_memory_clocks().unwrap(), [2619]);
        assert_eq!(gpu.supported_graphics_clocks(2619).unwrap(), [1830]);
        assert!(matches!(gpu.supported_graphics_clocks(1000), Err(NvmlError::NotFound)));
        assert_eq!(gpu.current_throttle_reasons_strict().unwrap(), ThrottleReasons::empty());
        assert!(gpu.supported_throttle_reasons_strict().unwrap().contains(ThrottleReasons::SW_POWER_CAP));
        let utilization = gpu.utilization_rates().unwrap();
        assert_eq!((utilization.gpu, utilization.memory), (50, 25));
        assert_eq!(gpu.temperature(TemperatureSensor::Gpu).unwrap(), 45);
        assert!(gpu.is_ecc_enabled().unwrap().currently_enabled);
        assert_eq!((gpu.current_pcie_link_gen().unwrap(), gpu.current_pcie_link_width().unwrap()), (5, 16));

        assert!(gpu.running_compute_processes().unwrap().is_empty());
        assert!(gpu.running_graphics_processes().unwrap().is_empty());
        assert_eq!(gpu.num_fans().unwrap(), 0);
        assert!(matches!(gpu.fan_speed(0), Err(NvmlError::NotSupported)));
        let errors = gpu.total_ecc_errors(MemoryError::Corrected, EccCounter::Volatile);
        assert!(matches!(errors, Err(NvmlError::NotSupported)));
        nvml.shutdown().unwrap();
    });
}

#[test]
fn a_gpu_is_found_by_what_the_driver_calls_it() {
    let name = "a_gpu_is_found_by_what_the_driver_calls_it";
    alone(name, &[("VCUDA_DEVICES", "sm_75,sm_86,sm_89,sm_100,sm_120"), ("VCUDA_MEMORY", "3GiB")], || {
        let nvml = nvml();
        for index in 0..5 {
            let gpu = nvml.device_by_index(index).unwrap();
            assert_eq!(gpu.memory_info().unwrap().total, 3 * GIB);
            let bus = format!("0000:{:02x}:00.0", index + 1);
            for id in [bus.clone(), format!("0000{bus}"), bus[5..].into(), bus[..10].into()] {
                assert_eq!(nvml.device_by_pci_bus_id(id.as_str()).unwrap().index().unwrap(), index, "{id}");
            }
            let uuid = gpu.uuid().unwrap();
            assert_eq!(nvml.device_by_uuid(uuid.as_str()).unwrap().index().unwrap(), index, "{uuid}");
        }
        for absent in ["0000:00:00.0", "0000:06:00.0", "0000:01:01.0", "0001:01:00.0"] {
            assert!(matches!(nvml.device_by_pci_bus_id(absent), Err(NvmlError::NotFound)), "{absent}");
        }
        for wrong in ["", ":", "1", "0000:01:00.8", "0000:+1:00.0", "0:0:0:0", "bus", "0000:01:00.", "0000:01:00.0.0"] {
            assert!(matches!(nvml.device_by_pci_bus_id(wrong), Err(NvmlError::InvalidArg)), "{wrong}");
        }
        for absent in ["", "GPU-76637564-6100-8000-8000-000000000005"] {
            assert!(matches!(nvml.device_by_uuid(absent), Err(NvmlError::NotFound)), "{absent}");
        }
        let architectures = [6, 7, 8, 10, 10].map(|number| DeviceArchitecture::try_from(number).unwrap());
        for (index, architecture) in (0..).zip(architectures) {
            assert_eq!(nvml.device_by_index(index).unwrap().architecture().unwrap(), architecture);
        }
    });
}

#[test]
fn one_sm_80_and_a_driver_of_cuda_12_8_where_nothing_is_said() {
    alone("one_sm_80_and_a_driver_of_cuda_12_8_where_nothing_is_said", &[], || {
        let nvml = nvml();
        assert_eq!(nvml.sys_driver_version().unwrap(), "570.00");
        assert_eq!(nvml.sys_cuda_driver_version().unwrap(), 12080);
        assert_eq!(nvml.device_count().unwrap(), 1);
        let gpu = nvml.device_by_pci_bus_id("0000:01:00.0").unwrap();
        assert_eq!(
            (gpu.name().unwrap().as_str(), gpu.memory_info().unwrap().total),
            ("Virtual GPU sm_80 (vcuda)", 80 * GIB)
        );
    });
}

#[test]
fn a_variable_that_cannot_be_understood_is_named_on_stderr() {
    let name = "a_variable_that_cannot_be_understood_is_named_on_stderr";
    let said = |variable: (&str, &str)| {
        let output = alone(name, &[variable], || {
            let failed = Nvml::builder().lib_path(library().as_os_str()).init();
            assert!(matches!(failed, Err(NvmlError::Unknown)), "{:?}", failed.err());
        });
        String::from_utf8(output.stderr).unwrap()
    };
    let devices = said(("VCUDA_DEVICES", "sm_80,A100"));
    assert!(devices.contains("vcuda: VCUDA_DEVICES: 'A100'"), "{devices}");
    let driver = said(("VCUDA_DRIVER", "11.8"));
    assert!(driver.contains("vcuda: VCUDA_DRIVER: '11.8'"), "{driver}");
}

#[test]
fn without_a_gpu_only_who_expects_that_gets_in() {
    alone("without_a_gpu_only_who_expects_that_gets_in", &[("VCUDA_DEVICES", "none")], || {
        let path = library();
        let mut builder = Nvml::builder();
        builder.lib_path(path.as_os_str());
        let failed = builder.init();
        assert!(matches!(failed, Err(NvmlError::UnexpectedVariant(28))), "{:?}", failed.err());
        let nvml = builder.flags(InitFlags::NO_GPUS).init().unwrap();
        assert_eq!(nvml.device_count().unwrap(), 0);
        assert!(matches!(nvml.device_by_index(0), Err(NvmlError::InvalidArg)));
    });
}

/// The bare library. Handles are any pointers.
struct Bare(Library);

const UNINITIALIZED: c_uint = 1;
const INVALID_ARGUMENT: c_uint = 2;
const NOT_SUPPORTED: c_uint = 3;
const INSUFFICIENT_SIZE: c_uint = 7;
const VERSION_MISMATCH: c_uint = 25;

impl Bare {
    fn open() -> Bare {
        // SAFETY: the library has no initializers.
        Bare(unsafe { Library::new(library()) }.unwrap())
    }

    fn symbol<F>(&self, name: &str) -> Symbol<'_, F> {
        // SAFETY: callers give the type that nvml.h has for the name.
        unsafe { self.0.get(name.as_bytes()) }.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn call(&self, name: &str) -> c_uint {
        let function: Symbol<'_, extern "C" fn() -> c_uint> = self.symbol(name);
        function()
    }

    /// A function of a device and one pointer.
    fn ask<T>(&self, name: &str, device: *mut c_void, out: *mut T) -> c_uint {
        let function: Symbol<'_, extern "C" fn(*mut c_void, *mut T) -> c_uint> = self.symbol(name);
        function(device, out)
    }

    fn first(&self) -> *mut c_void {
        let mut device = null_mut();
        let function: Symbol<'_, extern "C" fn(c_uint, *mut *mut c_void) -> c_uint> =
            self.symbol("nvmlDeviceGetHandleByIndex_v2");
        assert_eq!(function(0, &mut device), 0);
        device
    }
}

#[test]
fn nothing_is_answered_before_the_first_and_after_the_last_user() {
    alone("nothing_is_answered_before_the_first_and_after_the_last_user", &[], || {
        let bare = Bare::open();
        let count = |expected| {
            let mut count = 77;
            let function: Symbol<'_, extern "C" fn(*mut c_uint) -> c_uint> = bare.symbol("nvmlDeviceGetCount_v2");
            assert_eq!(function(&mut count), expected);
            count
        };
        assert_eq!(count(UNINITIALIZED), 77);
        assert_eq!(bare.call("nvmlShutdown"), UNINITIALIZED);
        assert_eq!(bare.call("nvmlDeviceGetFanSpeed"), UNINITIALIZED);
        assert_eq!(bare.call("nvmlInit_v2"), 0);
        assert_eq!(bare.call("nvmlInit"), 0);
        assert_eq!(bare.call("nvmlShutdown"), 0);
        assert_eq!(count(0), 1);
        assert_eq!(bare.call("nvmlShutdown"), 0);
        count(UNINITIALIZED);
        let flags: Symbol<'_, extern "C" fn(c_uint) -> c_uint> = bare.symbol("nvmlInitWithFlags");
        assert_eq!(flags(4), INVALID_ARGUMENT);
        assert_eq!(flags(3), 0);
        assert_eq!(count(0), 1);
    });
}

#[test]
fn null_and_foreign_handles_are_refused() {
    alone("null_and_foreign_handles_are_refused", &[], || {
        let bare = Bare::open();
        assert_eq!(bare.call("nvmlInit_v2"), 0);
        let device = bare.first();
        let mut value: c_uint = 77;
        assert_eq!(bare.ask("nvmlDeviceGetPowerUsage", device, &mut value), 0);
        assert_eq!(value, 200_000);
        assert_eq!(bare.ask("nvmlDeviceGetPowerUsage", device, null_mut::<c_uint>()), INVALID_ARGUMENT);
        for handle in [0, 2, 0x1000, usize::MAX] {
            let handle = std::ptr::without_provenance_mut(handle);
            assert_eq!(bare.ask("nvmlDeviceGetPowerUsage", handle, &mut value), INVALID_ARGUMENT);
        }
        let clock: Symbol<'_, extern "C" fn(*mut c_void, c_uint, *mut c_uint) -> c_uint> =
            bare.symbol("nvmlDeviceGetClockInfo");
        assert_eq!(clock(device, 4, &mut value), INVALID_ARGUMENT);
        let find: Symbol<'_, extern "C" fn(*const c_char, *mut *mut c_void) -> c_uint> =
            bare.symbol("nvmlDeviceGetHandleByUUID");
        assert_eq!(find(null_mut(), &mut null_mut()), INVALID_ARGUMENT);
        assert_eq!(find(c"\xff".as_ptr(), &mut null_mut()), INVALID_ARGUMENT);

        let name: Symbol<'_, extern "C" fn(*mut c_void, *mut c_char, c_uint) -> c_uint> =
            bare.symbol("nvmlDeviceGetName");
        let expected = c"Virtual GPU sm_80 (vcuda)";
        let length = expected.to_bytes_with_nul().len();
        let mut text = [0x55 as c_char; 64];
        assert_eq!(name(device, null_mut(), 64), INVALID_ARGUMENT);
        assert_eq!(name(device, text.as_mut_ptr(), length as c_uint - 1), INSUFFICIENT_SIZE);
        assert_eq!(text, [0x55; 64]);
        assert_eq!(name(device, text.as_mut_ptr(), length as c_uint), 0);
        // SAFETY: the function has ended the text with a 0.
        assert_eq!(unsafe { CStr::from_ptr(text.as_ptr()) }, expected);
        assert_eq!(text[length..], [0x55; 64][length..]);

        let serial: Symbol<'_, extern "C" fn(*mut c_void, *mut c_char, c_uint) -> c_uint> =
            bare.symbol("nvmlDeviceGetSerial");
        let find: Symbol<'_, extern "C" fn(*const c_char, *mut *mut c_void) -> c_uint> =
            bare.symbol("nvmlDeviceGetHandleBySerial");
        let mut found = null_mut();
        assert_eq!(serial(device, text.as_mut_ptr(), 30), 0);
        assert_eq!((find(text.as_ptr(), &mut found), found), (0, device));
    });
}

#[test]
fn structures_of_every_version_are_filled_as_far_as_they_reach() {
    alone("structures_of_every_version_are_filled_as_far_as_they_reach", &[("VCUDA_MEMORY", "1GiB")], || {
        let bare = Bare::open();
        assert_eq!(bare.call("nvmlInit_v2"), 0);
        let device = bare.first();
        for (name, bytes) in
            [("nvmlDeviceGetPciInfo", 32), ("nvmlDeviceGetPciInfo_v2", 36), ("nvmlDeviceGetPciInfo_v3", 68)]
        {
            let mut words = [0x5555_5555_u32; 20];
            assert_eq!(bare.ask(name, device, words.as_mut_ptr()), 0);
            assert_eq!(words[bytes / 4..], [0x5555_5555; 20][bytes / 4..], "{name}");
            // Domain, bus, slot, and the ids of device and vendor.
            assert_eq!(words[4..8], [0, 1, 0, 0x0080_10de], "{name}");
        }
        let mut memory = [0_u64; 3];
        assert_eq!(bare.ask("nvmlDeviceGetMemoryInfo", device, memory.as_mut_ptr()), 0);
        let [total, free, used] = memory;
        assert_eq!((total, free + used), (GIB, GIB));
        // Version, total, reserved, free, used.
        let mut memory = [0_u64; 5];
        assert_eq!(bare.ask("nvmlDeviceGetMemoryInfo_v2", device, memory.as_mut_ptr()), VERSION_MISMATCH);
        memory[0] = 2 << 24 | 40;
        assert_eq!(bare.ask("nvmlDeviceGetMemoryInfo_v2", device, memory.as_mut_ptr()), 0);
        assert_eq!(memory, [2 << 24 | 40, GIB, used, free, 0]);
        // Version, sensor, degrees.
        let mut temperature = [1 << 24 | 12, 0, 0];
        assert_eq!(bare.ask("nvmlDeviceGetTemperatureV", device, temperature.as_mut_ptr()), 0);
        assert_eq!(temperature, [1 << 24 | 12, 0, 45]);
        assert_eq!(bare.ask("nvmlDeviceGetTemperatureV", device, [1 << 24 | 12, 1, 0].as_mut_ptr()), INVALID_ARGUMENT);
        assert_eq!(bare.ask("nvmlDeviceGetTemperatureV", device, [12, 0, 0].as_mut_ptr()), VERSION_MISMATCH);
        let (mut major, mut minor): (c_int, c_int) = (0, 77);
        type Capability = extern "C" fn(*mut c_void, *mut c_int, *mut c_int) -> c_uint;
        let capability: Symbol<'_, Capability> = bare.symbol("nvmlDeviceGetCudaComputeCapability");
        assert_eq!((capability(device, &mut major, &mut minor), major, minor), (0, 8, 0));
    });
}

#[test]
fn what_is_not_there_says_so_and_every_number_has_a_text() {
    alone("what_is_not_there_says_so_and_every_number_has_a_text", &[], || {
        let bare = Bare::open();
        assert_eq!(bare.call("nvmlInit_v2"), 0);
        let names: Vec<_> = include_str!("../src/unsupported.rs")
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with("nvml"))
            .collect();
        assert!(names.len() > 300, "{}", names.len());
        for name in names {
            assert_eq!(bare.call(name), NOT_SUPPORTED, "{name}");
        }
        let text: Symbol<'_, extern "C" fn(c_uint) -> *const c_char> = bare.symbol("nvmlErrorString");
        let texts: Vec<_> = (0..=30)
            // SAFETY: the texts are constants that end in 0.
            .map(|number| unsafe { CStr::from_ptr(text(number)) }.to_str().unwrap())
            .collect();
        assert_eq!((texts[0], texts[3], texts[30]), ("Success", "Not Supported", "Unknown Error"));
        let mut different = texts.clone();
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), texts.len());
    });
}

#[test]
#[cfg(target_os = "linux")]
fn the_library_calls_itself_by_the_name_of_nvml() {
    let bytes = std::fs::read(library()).unwrap();
    let name = b"\0libnvidia-ml.so.1\0";
    assert!(bytes.windows(name.len()).any(|window| window == name));
}
