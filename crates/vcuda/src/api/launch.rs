//! Functions: their attributes and limits, launches, occupancy.

use crate::code::{Answer, Code};
use crate::driver::Driver;
use crate::enter::{api, put, put_if};
use crate::made::Id;
use crate::spec::Chip;
use crate::work::{Launch, Work};
use ptx_vm::Kernel;
use std::ffi::{c_char, c_void};

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct LaunchConfig {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: Id,
    attributes: *const LaunchAttribute,
    count: u32,
}

impl LaunchConfig {
    /// Threads of a block.
    fn threads(&self) -> u32 {
        self.block.iter().fold(1, |all: u32, n| all.saturating_mul(*n))
    }
}

/// 64 bytes of value behind the number.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct LaunchAttribute {
    id: u32,
    pad: u32,
    value: [u64; 8],
}

/// A launch for several devices at once.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct LaunchParams {
    function: Id,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: Id,
    params: *const *const c_void,
}

const MAX_DYNAMIC_SHARED: u32 = 8;
const CARVEOUT: u32 = 9;
const NEEDS_CLUSTER: u32 = 10;
/// Width, height and depth of the cluster.
const CLUSTER: std::ops::RangeInclusive<u32> = 11..=13;
const LARGE_CLUSTERS: u32 = 14;
const CLUSTER_POLICY: u32 = 15;

/// Blocks of a cluster that every device takes that takes any, and that these take if they are asked.
const PORTABLE: u32 = 8;
const LARGEST: u32 = 16;
/// Multiprocessors that a cluster may be spread over: those of a cluster of processors.
const UNITS_OF_CLUSTER: u32 = 16;

impl Driver {
    /// Registers of a thread: nothing allocates any here, so that this is a figure to go on with, never above what blocks of the kernel's own
    /// limit could have.
    pub(crate) fn registers(&self, function: Id) -> i32 {
        let kernel = &self.functions[&function].kernel;
        let most = kernel.max_threads().unwrap_or(u64::from(Chip::THREADS_PER_BLOCK)).clamp(32, 1024);
        let room = (u64::from(Chip::REGISTERS) / most).min(255) & !7;
        (kernel.register_bytes() as u64 / 128).clamp(16, room.max(16)) as i32
    }

    fn most_threads(&self, function: Id) -> u32 {
        let kernel = &self.functions[&function].kernel;
        let required = kernel.required_block().map(|block| block.iter().product::<u32>());
        required
            .or(kernel.max_threads().map(|n| n as u32))
            .unwrap_or(Chip::THREADS_PER_BLOCK)
            .min(Chip::THREADS_PER_BLOCK)
    }

    fn chip_of(&self, function: Id) -> &'static Chip {
        let device = self.contexts.get(&self.functions[&function].context).map_or(0, |context| context.device);
        self.devices[device].spec.chip
    }

    fn function_attribute(&self, function: Id, attribute: u32) -> Answer<i32> {
        let known = &self.functions[&function];
        let module = self.modules.get(&known.module).ok_or(Code::INVALID_HANDLE)?;
        Ok(match attribute {
            0 => self.most_threads(function) as i32,
            1 => known.kernel.static_shared() as i32,
            2 => 0,
            3 => known.kernel.local_bytes() as i32,
            4 => self.registers(function),
            5 => {
                let (major, minor) = module.source.version();
                (major * 10 + minor) as i32
            }
            6 => {
                let (major, minor) = self.devices[self.contexts[&known.context].device].spec.capability;
                (major * 10 + minor) as i32
            }
            7 => 0,
            MAX_DYNAMIC_SHARED => known.dynamic_shared,
            CARVEOUT => known.carveout,
            NEEDS_CLUSTER => i32::from(known.kernel.needs_cluster() || known.kernel.required_cluster().is_some()),
            axis if CLUSTER.contains(&axis) => {
                let required = known.kernel.required_cluster().map(|size| size.map(|n| n as i32));
                required.unwrap_or(known.cluster)[(axis - CLUSTER.start()) as usize]
            }
            LARGE_CLUSTERS => i32::from(known.large_clusters),
            CLUSTER_POLICY => 0,
            _ => return Err(Code::INVALID_VALUE),
        })
    }

    fn set_function_attribute(&mut self, function: Id, attribute: u32, value: i32) -> Answer {
        let chip = self.chip_of(function);
        let known = self.functions.get_mut(&function).ok_or(Code::INVALID_HANDLE)?;
        match attribute {
            MAX_DYNAMIC_SHARED => {
                let most = chip.shared_per_block_optin as i32 - known.kernel.static_shared() as i32;
                if !(0..=most).contains(&value) {
                    return Err(Code::INVALID_VALUE);
                }
                known.dynamic_shared = value;
                Ok(())
            }
            CARVEOUT if (-1..=100).contains(&value) => {
                known.carveout = value;
                Ok(())
            }
            axis if CLUSTER.contains(&axis) => match known.kernel.required_cluster() {
                Some(_) => Err(Code::NOT_PERMITTED),
                None if value < 0 => Err(Code::INVALID_VALUE),
                None => {
                    known.cluster[(axis - CLUSTER.start()) as usize] = value;
                    Ok(())
                }
            },
            LARGE_CLUSTERS => {
                known.large_clusters = value != 0;
                Ok(())
            }
            CLUSTER_POLICY if (0..=2).contains(&value) => Ok(()),
            _ => Err(Code::INVALID_VALUE),
        }
    }

    /// The cluster of a launch, when there is to be one: what the launch says, or else the kernel or the program.
    fn cluster_of(&self, function: Id, given: Option<[u32; 3]>) -> Answer<Option<[u32; 3]>> {
        let known = &self.functions[&function];
        let set = (known.cluster != [0; 3]).then(|| known.cluster.map(|n| n as u32));
        let required = known.kernel.required_cluster().or(set);
        if required.is_some() && given.is_some() && required != given {
            return Err(Code::INVALID_CLUSTER_SIZE);
        }
        let Some(size) = required.or(given) else {
            return if known.kernel.needs_cluster() { Err(Code::INVALID_CLUSTER_SIZE) } else { Ok(None) };
        };
        let blocks = size.iter().fold(1u64, |all, n| all.saturating_mul(u64::from(*n)));
        let most = known.kernel.max_cluster().unwrap_or(LARGEST).min(self.largest_cluster(function));
        match blocks {
            1 => Ok(Some(size)),
            _ if self.chip_capability(function) < (9, 0) => Err(Code::NOT_SUPPORTED),
            n if n == 0 || n > u64::from(most) => Err(Code::INVALID_CLUSTER_SIZE),
            _ => Ok(Some(size)),
        }
    }

    fn chip_capability(&self, function: Id) -> (u32, u32) {
        let device = self.contexts.get(&self.functions[&function].context).map_or(0, |context| context.device);
        self.devices[device].spec.capability
    }

    /// The most blocks of a cluster of a function.
    fn largest_cluster(&self, function: Id) -> u32 {
        match self.chip_capability(function) {
            capability if capability < (9, 0) => 1,
            _ if self.functions[&function].large_clusters => LARGEST,
            _ => PORTABLE,
        }
    }

    /// How many clusters of a launch the device holds at a time: each on the multiprocessors that stand together.
    fn active_clusters(&self, function: Id, config: &LaunchConfig) -> Answer<u32> {
        let size = self.cluster_of(function, options(config)?.cluster)?.unwrap_or([1; 3]).iter().product::<u32>();
        let each = self.blocks_per_unit(function, config.threads(), config.shared as usize)?;
        let units = self.devices[self.current_device()?].spec.units;
        let (whole, rest) = (units / UNITS_OF_CLUSTER, units % UNITS_OF_CLUSTER);
        Ok(whole * (UNITS_OF_CLUSTER * each / size) + rest * each / size)
    }

    /// A launch with its arguments copied, held against every limit.
    pub(crate) fn launch_of(&mut self, handle: Id, mut shape: ptx_vm::Launch, arguments: Arguments) -> Answer<Launch> {
        let ptx_vm::Launch { grid, block, dynamic_shared: shared, .. } = shape;
        let function = self.launchable(handle)?;
        let known = &self.functions[&function];
        if known.context != self.current()? {
            return Err(Code::INVALID_HANDLE);
        }
        let kernel = known.kernel.clone();
        let threads: u64 = block.iter().map(|n| u64::from(*n)).product();
        let [gx, gy, gz] = grid;
        if grid.contains(&0) || threads == 0 || gx > i32::MAX as u32 || gy > 65535 || gz > 65535 {
            return Err(Code::INVALID_VALUE);
        }
        if threads > 1024 || block[2] > 64 || kernel.required_block().is_some_and(|wanted| wanted != block) {
            return Err(Code::INVALID_VALUE);
        }
        let chip = self.chip_of(function);
        if i64::from(shared) > i64::from(known.dynamic_shared)
            || shared as usize + kernel.static_shared() > chip.shared_per_block_optin as usize
        {
            return Err(Code::INVALID_VALUE);
        }
        if threads > u64::from(self.most_threads(function))
            || threads * self.registers(function) as u64 > u64::from(Chip::REGISTERS)
        {
            return Err(Code::LAUNCH_OUT_OF_RESOURCES);
        }
        shape.cluster = self.cluster_of(function, shape.cluster)?;
        if shape.cluster.is_some_and(|size| (0..3).any(|i| !grid[i].is_multiple_of(size[i]))) {
            return Err(Code::INVALID_CLUSTER_SIZE);
        }
        let params = arguments.copied(&kernel)?;
        Ok(Launch { kernel, function, shape, params })
    }

    fn submit_launch(&mut self, launch: Launch, stream: Id, cooperative: bool) -> Answer {
        let stream = self.own_stream(stream)?;
        if cooperative {
            let threads = launch.shape.block.iter().product::<u32>();
            let blocks = self.blocks_per_unit(launch.function, threads, launch.shape.dynamic_shared as usize)?;
            let units = self.devices[self.current_device()?].spec.units;
            let wanted: u64 = launch.shape.grid.iter().map(|n| u64::from(*n)).product();
            if wanted > u64::from(blocks) * u64::from(units) {
                return Err(Code::COOPERATIVE_LAUNCH_TOO_LARGE);
            }
        }
        self.submit(stream, Work::Launch(launch)).map(drop)
    }

    /// Blocks that a multiprocessor holds at a time.
    fn blocks_per_unit(&self, function: Id, threads: u32, shared: usize) -> Answer<u32> {
        if threads == 0 || threads > self.most_threads(function) {
            return if threads == 0 { Err(Code::INVALID_VALUE) } else { Ok(0) };
        }
        let chip = self.chip_of(function);
        let warps = threads.div_ceil(Chip::WARP);
        // A warp's registers come in pieces of 256.
        let registers = (self.registers(function) as u32 * Chip::WARP).next_multiple_of(256) * warps;
        let used = self.functions[&function].kernel.static_shared() + shared;
        if used > chip.shared_per_block_optin as usize {
            return Ok(0);
        }
        let by_shared = (chip.shared_per_unit as usize / (used + chip.shared_reserved as usize).max(1)) as u32;
        Ok((chip.threads_per_unit / (warps * Chip::WARP))
            .min(chip.blocks_per_unit)
            .min(Chip::REGISTERS / registers.max(1))
            .min(by_shared))
    }

    fn best_block(
        &mut self,
        grid: *mut i32,
        block: *mut i32,
        function: Id,
        shared_of: Option<unsafe extern "C" fn(i32) -> usize>,
        shared: usize,
        limit: i32,
    ) -> Answer {
        let function = self.launchable(function)?;
        let most = self.most_threads(function);
        let most = if limit > 0 { most.min(limit as u32) } else { most };
        let mut best = (0, 0, 0);
        for threads in (1..=most / 32).rev().map(|warps| warps * 32) {
            // SAFETY: the program's function, which tells the shared memory of a block size. It may call the driver.
            let shared = shared_of.map_or(shared, |of| self.unlocked(|| unsafe { of(threads as i32) }));
            if !self.functions.contains_key(&function) {
                return Err(Code::INVALID_HANDLE);
            }
            let blocks = self.blocks_per_unit(function, threads, shared)?;
            if blocks * threads > best.0 {
                best = (blocks * threads, threads, blocks);
            }
        }
        let units = self.devices[self.current_device()?].spec.units;
        put(block, best.1 as i32)?;
        put(grid, (best.2 * units) as i32)
    }
}

/// The arguments of a launch as programs give them: one by one, or packed.
#[derive(Clone, Copy)]
pub(crate) struct Arguments {
    pub(crate) params: *const *const c_void,
    pub(crate) extra: *const *const c_void,
}

impl Arguments {
    /// The parameter block, copied.
    fn copied(self, kernel: &Kernel) -> Answer<Vec<u8>> {
        let Arguments { params, extra } = self;
        match (params.is_null(), extra.is_null()) {
            (false, false) => Err(Code::INVALID_VALUE),
            (false, true) => one_by_one(params, kernel),
            (true, false) => packed(extra, kernel.param_bytes()),
            (true, true) if kernel.param_bytes() == 0 => Ok(vec![]),
            (true, true) => Err(Code::INVALID_VALUE),
        }
    }
}

/// The parameters that a list points to.
fn one_by_one(params: *const *const c_void, kernel: &Kernel) -> Answer<Vec<u8>> {
    let mut bytes = vec![0; kernel.param_bytes()];
    for (i, param) in kernel.params().iter().enumerate() {
        // SAFETY: the program gives a pointer for each parameter, to as many bytes as it has.
        unsafe {
            let from = *params.add(i);
            if from.is_null() {
                return Err(Code::INVALID_VALUE);
            }
            let to = bytes.as_mut_ptr().add(param.offset);
            std::ptr::copy_nonoverlapping(from.cast::<u8>(), to, param.size);
        }
    }
    Ok(bytes)
}

/// The packed parameters of `extra`: a list of names and values that ends with null.
fn packed(extra: *const *const c_void, wanted: usize) -> Answer<Vec<u8>> {
    const POINTER: usize = 1;
    const SIZE: usize = 2;
    let (mut at, mut size) = (std::ptr::null::<u8>(), None);
    let mut i = 0;
    loop {
        // SAFETY: the program's list ends with a null name; names and values come in turn.
        let (name, value) = unsafe {
            let name = *extra.add(i) as usize;
            if name == 0 {
                break;
            }
            (name, *extra.add(i + 1))
        };
        match name {
            POINTER => at = value.cast(),
            // SAFETY: a pointer to the size.
            SIZE if !value.is_null() => size = Some(unsafe { value.cast::<usize>().read_unaligned() }),
            _ => return Err(Code::INVALID_VALUE),
        }
        i += 2;
    }
    // A structure may end in padding: no type has a larger alignment than 16.
    let padded = wanted..=wanted.next_multiple_of(16);
    let size = size.filter(|size| padded.contains(size)).ok_or(Code::INVALID_VALUE)?;
    if at.is_null() && wanted > 0 {
        return Err(Code::INVALID_VALUE);
    }
    let mut bytes = crate::api::list(at, size)?;
    bytes.truncate(wanted);
    Ok(bytes)
}

/// What of a launch's attributes matters here; the others are hints.
#[derive(Clone, Copy, Default)]
struct Options {
    cooperative: bool,
    cluster: Option<[u32; 3]>,
}

fn options(config: &LaunchConfig) -> Answer<Options> {
    const COOPERATIVE: u32 = 2;
    const CLUSTER: u32 = 4;
    let mut options = Options::default();
    for attribute in crate::api::list(config.attributes, config.count as usize)? {
        match attribute.id {
            COOPERATIVE => options.cooperative = attribute.value[0] as u32 != 0,
            CLUSTER => {
                let [x, y, z] = [attribute.value[0], attribute.value[0] >> 32, attribute.value[1]].map(|n| n as u32);
                options.cluster = Some([x, y, z]);
            }
            _ => {}
        }
    }
    Ok(options)
}

api! {
    Context fn cuLaunchKernel / cuLaunchKernel_ptsz (
        d,
        function: Id,
        gx: u32,
        gy: u32,
        gz: u32,
        bx: u32,
        by: u32,
        bz: u32,
        shared: u32,
        stream: Id,
        params: *const *const c_void,
        extra: *const *const c_void,
    ) {
        let shape = ptx_vm::Launch::new([gx, gy, gz], [bx, by, bz]).dynamic_shared(shared);
        let launch = d.launch_of(function, shape, Arguments { params, extra })?;
        d.submit_launch(launch, stream, false)
    }
    Context fn cuLaunchKernelEx / cuLaunchKernelEx_ptsz (
        d,
        config: *const LaunchConfig,
        function: Id,
        params: *const *const c_void,
        extra: *const *const c_void,
    ) {
        if config.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the program's structure.
        let config = unsafe { config.read_unaligned() };
        let options = options(&config)?;
        let mut shape = ptx_vm::Launch::new(config.grid, config.block).dynamic_shared(config.shared);
        shape.cluster = options.cluster;
        let launch = d.launch_of(function, shape, Arguments { params, extra })?;
        d.submit_launch(launch, config.stream, options.cooperative)
    }
    Context fn cuLaunchCooperativeKernel / cuLaunchCooperativeKernel_ptsz (
        d,
        function: Id,
        gx: u32,
        gy: u32,
        gz: u32,
        bx: u32,
        by: u32,
        bz: u32,
        shared: u32,
        stream: Id,
        params: *const *const c_void,
    ) {
        let shape = ptx_vm::Launch::new([gx, gy, gz], [bx, by, bz]).dynamic_shared(shared);
        let launch = d.launch_of(function, shape, Arguments { params, extra: std::ptr::null() })?;
        d.submit_launch(launch, stream, true)
    }
    Context fn cuFuncGetAttribute(d, value: *mut i32, attribute: u32, function: Id) {
        let function = d.launchable(function)?;
        put(value, d.function_attribute(function, attribute)?)
    }
    Context fn cuFuncSetAttribute(d, function: Id, attribute: u32, value: i32) {
        let function = d.launchable(function)?;
        d.set_function_attribute(function, attribute, value)
    }
    Context fn cuFuncSetCacheConfig(d, function: Id, config: u32) {
        d.launchable(function)?;
        if config > 3 { Err(Code::INVALID_VALUE) } else { Ok(()) }
    }
    Context fn cuFuncSetSharedMemConfig(d, function: Id, config: u32) {
        d.launchable(function)?;
        if config > 2 { Err(Code::INVALID_VALUE) } else { Ok(()) }
    }
    Context fn cuFuncGetModule(d, out: *mut Id, function: Id) {
        put(out, d.functions.get(&function).ok_or(Code::INVALID_HANDLE)?.module)
    }
    Context fn cuFuncGetName(d, out: *mut *const c_char, function: Id) {
        put(out, d.functions.get(&function).ok_or(Code::INVALID_HANDLE)?.name.as_ptr())
    }
    Context fn cuFuncGetParamInfo(d, function: Id, index: usize, offset: *mut usize, bytes: *mut usize) {
        let function = d.launchable(function)?;
        let param = d.functions[&function].kernel.params().get(index).cloned().ok_or(Code::INVALID_VALUE)?;
        put(offset, param.offset)?;
        put_if(bytes, param.size);
        Ok(())
    }
    Context fn cuFuncIsLoaded(d, state: *mut u32, function: Id) {
        d.launchable(function)?;
        put(state, 1)
    }
    Context fn cuFuncLoad(d, function: Id) {
        d.launchable(function).map(drop)
    }
    Init fn cuKernelGetName(d, out: *mut *const c_char, kernel: Id) {
        put(out, d.kernels.get(&kernel).ok_or(Code::INVALID_HANDLE)?.1.as_ptr())
    }
    Context fn cuKernelGetParamInfo(d, kernel: Id, index: usize, offset: *mut usize, bytes: *mut usize) {
        let function = d.launchable(kernel)?;
        let param = d.functions[&function].kernel.params().get(index).cloned().ok_or(Code::INVALID_VALUE)?;
        put(offset, param.offset)?;
        put_if(bytes, param.size);
        Ok(())
    }
    Context fn cuKernelGetAttribute(d, value: *mut i32, attribute: u32, kernel: Id, device: i32) {
        d.device(device)?;
        let function = d.launchable(kernel)?;
        put(value, d.function_attribute(function, attribute)?)
    }
    Context fn cuKernelSetAttribute(d, attribute: u32, value: i32, kernel: Id, device: i32) {
        d.device(device)?;
        let function = d.launchable(kernel)?;
        d.set_function_attribute(function, attribute, value)
    }
    Context fn cuKernelSetCacheConfig(d, kernel: Id, config: u32, device: i32) {
        d.device(device)?;
        d.launchable(kernel)?;
        if config > 3 { Err(Code::INVALID_VALUE) } else { Ok(()) }
    }
    Context fn cuOccupancyMaxActiveBlocksPerMultiprocessor(d, blocks: *mut i32, function: Id, threads: i32, shared: usize) {
        let function = d.launchable(function)?;
        put(blocks, d.blocks_per_unit(function, threads.max(0) as u32, shared)? as i32)
    }
    Context fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        d,
        blocks: *mut i32,
        function: Id,
        threads: i32,
        shared: usize,
        flags: u32,
    ) {
        if flags > 1 {
            return Err(Code::INVALID_VALUE);
        }
        let function = d.launchable(function)?;
        put(blocks, d.blocks_per_unit(function, threads.max(0) as u32, shared)? as i32)
    }
    Context fn cuOccupancyMaxPotentialBlockSize(
        d,
        grid: *mut i32,
        block: *mut i32,
        function: Id,
        shared_of: Option<unsafe extern "C" fn(i32) -> usize>,
        shared: usize,
        limit: i32,
    ) {
        d.best_block(grid, block, function, shared_of, shared, limit)
    }
    Context fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        d,
        grid: *mut i32,
        block: *mut i32,
        function: Id,
        shared_of: Option<unsafe extern "C" fn(i32) -> usize>,
        shared: usize,
        limit: i32,
        flags: u32,
    ) {
        if flags > 1 {
            return Err(Code::INVALID_VALUE);
        }
        d.best_block(grid, block, function, shared_of, shared, limit)
    }
    Context fn cuOccupancyAvailableDynamicSMemPerBlock(d, bytes: *mut usize, function: Id, blocks: i32, threads: i32) {
        let function = d.launchable(function)?;
        if blocks <= 0 || threads <= 0 {
            return Err(Code::INVALID_VALUE);
        }
        let (chip, fixed) = (d.chip_of(function), d.functions[&function].kernel.static_shared());
        let each = chip.shared_per_unit as usize / blocks as usize;
        let free = each.saturating_sub(chip.shared_reserved as usize).min(chip.shared_per_block_optin as usize);
        put(bytes, free.saturating_sub(fixed))
    }
    Context fn cuOccupancyMaxPotentialClusterSize(d, size: *mut i32, function: Id, config: *const LaunchConfig) {
        let function = d.launchable(function)?;
        if config.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the program's structure.
        let config = unsafe { config.read_unaligned() };
        let each = d.blocks_per_unit(function, config.threads(), config.shared as usize)?;
        put(size, if each == 0 { 0 } else { d.largest_cluster(function) as i32 })
    }
    Context fn cuOccupancyMaxActiveClusters(d, clusters: *mut i32, function: Id, config: *const LaunchConfig) {
        let function = d.launchable(function)?;
        if config.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: the program's structure.
        let config = unsafe { config.read_unaligned() };
        put(clusters, d.active_clusters(function, &config)? as i32)
    }
    Context fn cuLaunchCooperativeKernelMultiDevice(d, list: *const LaunchParams, count: u32, flags: u32) {
        let _ = (list, count, flags);
        // Removed from the API in CUDA 13.
        Err(Code::NOT_SUPPORTED)
    }
}
