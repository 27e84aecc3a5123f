//! Memory that devices share: of each other, of modules, of the host program.

use ptx_vm::{DevicePtr, Fault, FaultKind, Kernel, Launch, MemoryError, Module, Region, Vm, VmConfig};
use std::sync::Arc;

/// Adds 1 to each word at `data`, and the word `bias` of constant memory; counts its threads in `count`.
const PTX: &str = ".version 8.0\n.target sm_80\n.address_size 64
.visible .global .align 4 .u32 count = 5;
.visible .const .align 4 .u32 bias[2] = {100, 7};
.visible .entry k(.param .u64 data) {
  .reg .b32 %r<5>; .reg .b64 %rd<4>;
  ld.param.u64 %rd1, [data];
  mov.u32 %r1, %tid.x;
  mul.wide.u32 %rd2, %r1, 4;
  add.s64 %rd3, %rd1, %rd2;
  ld.global.u32 %r2, [%rd3];
  ld.const.u32 %r3, [bias];
  add.u32 %r2, %r2, %r3;
  add.u32 %r2, %r2, 1;
  st.global.u32 [%rd3], %r2;
  red.global.add.u32 [count], 1;
  ret;
}";

fn module() -> (Module, Arc<Kernel>) {
    let module = Module::parse("t.ptx", PTX).unwrap();
    let kernel = module.kernel("k").unwrap();
    (module, kernel)
}

fn run(vm: &Vm, kernel: &Kernel, data: DevicePtr, threads: u32) -> Result<(), Fault> {
    let launch = Launch::new([1, 1, 1], [threads, 1, 1]);
    vm.launch(kernel, &launch, &data.to_le_bytes()).map(|_| ())
}

fn words(vm: &Vm, ptr: DevicePtr, n: usize) -> Result<Vec<u32>, MemoryError> {
    let mut bytes = vec![0; 4 * n];
    vm.read(ptr, &mut bytes)?;
    Ok(bytes.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect())
}

fn vms() -> [Vm; 3] {
    [(false, false), (true, false), (false, true)]
        .map(|(checked, counters)| Vm::new(VmConfig { checked, counters, ..VmConfig::default() }))
}

/// A region over words of the host.
fn over(words: &mut [u32], label: &str) -> Region {
    // SAFETY: the tests let launches end and drop the region before they look at the words or drop them.
    unsafe { Region::of_host(words.as_mut_ptr().cast(), 4 * words.len(), label) }.unwrap()
}

#[test]
fn a_device_uses_the_memory_of_another_while_it_is_mapped() {
    let (_module, kernel) = module();
    for vm in vms() {
        let owner = Vm::new(VmConfig { checked: true, ..VmConfig::default() });
        let data = owner.alloc_labelled(128, "latents").unwrap();
        owner.fill(data, 0, 128).unwrap();
        assert_eq!(run(&vm, &kernel, data, 32).map_err(|f| f.kind), Err(FaultKind::OutOfBounds));

        let region = owner.region(data + 127).unwrap();
        assert_eq!((region.ptr(), region.bytes(), region.label()), (data, 128, "latents"));
        assert!(owner.region(data + 128).is_none() && vm.region(data).is_none());
        vm.map(&region).unwrap();
        vm.map(&region.clone()).unwrap();
        owner.map(&region).unwrap();
        run(&vm, &kernel, data, 32).unwrap();
        run(&owner, &kernel, data, 32).unwrap();
        assert_eq!(words(&owner, data, 32).unwrap(), [202; 32]);
        assert_eq!(words(&vm, data, 32).unwrap(), [202; 32]);
        vm.fill(data, 1, 4).unwrap();
        vm.copy(data + 4, data, 4).unwrap();
        assert_eq!(words(&owner, data, 3).unwrap(), [0x01010101, 0x01010101, 202]);

        // It is no allocation of this device.
        assert_eq!((vm.allocated_bytes(), vm.peak_bytes(), vm.live().len()), (0, 0, 0));
        assert_eq!(vm.free(data), Err(MemoryError::Mapped { ptr: data }));
        assert_eq!(vm.unmap(data + 4), Err(MemoryError::NotMapped { ptr: data + 4 }));
        assert_eq!(owner.unmap(data), Err(MemoryError::NotMapped { ptr: data }));
        assert_eq!(vm.region(data).unwrap().ptr(), data);

        vm.unmap(data).unwrap();
        assert_eq!(vm.unmap(data), Err(MemoryError::NotMapped { ptr: data }));
        assert_eq!(vm.free(data), Err(MemoryError::NotAllocated { ptr: data }));
        let fault = run(&vm, &kernel, data, 32).unwrap_err();
        let stale =
            format!("0 bytes into the region {data:#x}..{:#x} (128 bytes), which has been unmapped", data + 128);
        assert!(fault.kind == FaultKind::OutOfBounds && fault.message.contains(&stale), "{fault}");
        assert!(words(&vm, data, 1).unwrap_err().to_string().contains(&stale));
        run(&owner, &kernel, data, 32).unwrap();
        owner.free(data).unwrap();
        vm.close().unwrap();
        owner.close().unwrap();
    }
}

#[test]
fn mapped_memory_outlives_its_device() {
    let (_module, kernel) = module();
    let vm = Vm::new(VmConfig::default());
    let owner = Vm::new(VmConfig::default());
    let data = owner.alloc(4).unwrap();
    owner.fill(data, 0, 4).unwrap();
    vm.map(&owner.region(data).unwrap()).unwrap();
    owner.free(data).unwrap();
    drop(owner);
    run(&vm, &kernel, data, 1).unwrap();
    assert_eq!(words(&vm, data, 1).unwrap(), [101]);
}

#[test]
fn variables_of_modules_are_known_by_name() {
    let (module, kernel) = module();
    let [(first, count), (second, bias)] = module.variables().collect::<Vec<_>>().try_into().unwrap();
    assert_eq!((first, count.bytes(), count.label()), ("count", 4, "count"));
    assert_eq!((second, bias.bytes(), bias.label()), ("bias", 8, "bias"));
    assert_eq!(module.variable("bias").map(|r| r.ptr()), Some(bias.ptr()));
    assert!(module.variable("data").is_none());
    for (launches, vm) in vms().into_iter().enumerate() {
        assert!(words(&vm, count.ptr(), 1).is_err());
        vm.map(&count).unwrap();
        vm.map(&bias).unwrap();
        assert_eq!(words(&vm, bias.ptr(), 2).unwrap(), [100 + launches as u32, 7]);
        assert_eq!(words(&vm, count.ptr(), 1).unwrap(), [5 + 32 * launches as u32]);
        vm.write(bias.ptr(), &(101 + launches as u32).to_le_bytes()).unwrap();
        let data = vm.alloc(128).unwrap();
        vm.fill(data, 0, 128).unwrap();
        run(&vm, &kernel, data, 32).unwrap();
        assert_eq!(words(&vm, data, 32).unwrap(), [102 + launches as u32; 32]);
        assert_eq!(words(&vm, count.ptr(), 1).unwrap(), [37 + 32 * launches as u32]);
        // Kernels of the module have their variables all the same.
        vm.unmap(bias.ptr()).unwrap();
        run(&vm, &kernel, data, 32).unwrap();
        vm.write(count.ptr(), &(37 + 32 * launches as u32).to_le_bytes()).unwrap();
    }
}

#[test]
fn kernels_work_on_memory_of_the_host() {
    let (_module, kernel) = module();
    for vm in vms() {
        let mut memory = [3u32; 40];
        let address = memory.as_ptr() as u64;
        let region = over(&mut memory[..32], "pinned");
        let at = region.ptr();
        assert_eq!((at, region.bytes(), region.label()), (address, 128, "pinned"));
        vm.map(&region).unwrap();
        run(&vm, &kernel, at, 32).unwrap();
        vm.write(at, &9u32.to_le_bytes()).unwrap();
        let fault = run(&vm, &kernel, at, 33).unwrap_err();
        assert_eq!((fault.kind, fault.thread), (FaultKind::OutOfBounds, Some([32, 0, 0])));
        assert!(fault.message.contains("4 bytes past the end of the allocation `pinned`"), "{fault}");

        // What is there now counts, not what was there before.
        vm.unmap(at).unwrap();
        assert!(run(&vm, &kernel, at, 1).unwrap_err().message.contains("which has been unmapped"));
        drop(region);
        let part = over(&mut memory[..2], "part");
        vm.map(&part).unwrap();
        let error = vm.read(at + 4, &mut [0; 8]).unwrap_err().to_string();
        assert!(error.contains("4 bytes past the end of the allocation `part`"), "{error}");
        assert!(vm.read(at + 8, &mut [0; 4]).unwrap_err().to_string().contains("which has been unmapped"));
        drop((vm, part));
        // The first warp of the launch that failed had run.
        assert_eq!(memory[..2], [110, 205]);
        assert_eq!(memory[30..], [205, 205, 3, 3, 3, 3, 3, 3, 3, 3]);
    }
}

#[test]
fn regions_of_the_host_need_not_be_aligned() {
    let vm = Vm::new(VmConfig { checked: true, ..VmConfig::default() });
    let ptx = PTX.replace("u32 %r2, [%rd3]", "u8 %r2, [%rd3]").replace("u32 [%rd3], %r2", "u8 [%rd3], %r2");
    let kernel = Module::parse("t.ptx", &ptx).unwrap().kernel("k").unwrap();
    let mut memory = vec![1u8; 200];
    // SAFETY: the region is gone before the bytes are looked at.
    let region = unsafe { Region::of_host(memory.as_mut_ptr().wrapping_add(1), 129, "") }.unwrap();
    vm.map(&region).unwrap();
    run(&vm, &kernel, region.ptr(), 33).unwrap();
    drop((vm, region));
    let changed: Vec<usize> = (0..200).filter(|i| memory[*i] == 102).collect();
    assert_eq!(changed, (0..33).map(|i| 1 + 4 * i).collect::<Vec<_>>());
}

#[test]
fn regions_do_not_overlap() {
    let vm = Vm::new(VmConfig::default());
    let mut memory = vec![0u32; 64];
    let at = memory.as_mut_ptr();
    let part = |first: usize, n: usize| {
        // SAFETY: nothing uses the memory.
        unsafe { Region::of_host(at.wrapping_add(first).cast(), 4 * n, "") }.unwrap()
    };
    let [middle, left, right, inner, around, again, before, after] =
        [(20, 20), (10, 11), (39, 2), (25, 5), (0, 64), (20, 20), (0, 20), (40, 24)].map(|(i, n)| part(i, n));
    vm.map(&middle).unwrap();
    for other in [left, right, inner, around, again] {
        let (ptr, len) = (other.ptr(), other.bytes());
        let overlap = MemoryError::Overlap { ptr, len, other: middle.ptr(), other_len: 80 };
        assert_eq!(vm.map(&other), Err(overlap));
    }
    vm.map(&before).unwrap();
    vm.map(&after).unwrap();
    vm.unmap(middle.ptr()).unwrap();
    vm.map(&part(20, 20)).unwrap();
    assert_eq!(vm.region(at as u64 + 4 * 39).map(|r| r.bytes()), Some(80));
}

#[test]
fn addresses_that_devices_have_are_not_those_of_the_host() {
    let vm = Vm::new(VmConfig::default());
    let device = vm.alloc(16).unwrap();
    // Windows, null, what a device has given out, and ranges without an end.
    for (ptr, bytes) in [(0x1000, 16), (0, 16), ((1 << 40) - 1, 16), (device, 16), (1 << 40, 16), (u64::MAX - 15, 16)] {
        // SAFETY: the region is refused.
        assert!(unsafe { Region::of_host(ptr as *mut u8, bytes, "") }.is_none(), "{ptr:#x}");
    }
    let mut byte = 0u8;
    // SAFETY: nothing is used.
    assert!(unsafe { Region::of_host(&raw mut byte, 0, "") }.is_none());
    // SAFETY: the one byte is not used.
    assert!(unsafe { Region::of_host(&raw mut byte, 1, "") }.is_some());
}
