//! Tests and profiles a CUDA kernel from Rust, without a GPU: `cargo run -p ptx-vm --example saxpy`.

use ptx_vm::{Launch, Module, Vm, VmConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // nvcc -O3 -arch=sm_80 -lineinfo -ptx saxpy.cu
    let kernel = Module::parse("saxpy.ptx", include_str!("saxpy.ptx"))?.kernel("saxpy")?;
    let vm = Vm::new(VmConfig { checked: true, profile: true, ..VmConfig::default() });

    let n = 1000;
    let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let xs: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let (x, y) = (vm.alloc(4 * n)?, vm.alloc(4 * n)?);
    vm.write(x, &bytes(&xs))?;
    vm.write(y, &bytes(&vec![1.0; n]))?;

    // One argument for each parameter of the kernel, as the bytes the device would see.
    let params = kernel.pack(&[&(n as i32).to_le_bytes(), &2f32.to_le_bytes(), &x.to_le_bytes(), &y.to_le_bytes()])?;
    let launch = Launch::new([n.div_ceil(128) as u32, 1, 1], [128, 1, 1]);
    // A fault (an access out of bounds, a race ...) would be an error that says where and why.
    let stats = vm.launch(&kernel, &launch, &params)?;

    let mut got = vec![0; 4 * n];
    vm.read(y, &mut got)?;
    let want: Vec<f32> = xs.iter().map(|x| 2.0 * x + 1.0).collect();
    assert_eq!(got, bytes(&want));

    // Performance can be tested too, as far as it can be counted: every access of this kernel is coalesced.
    let counters = stats.counters.unwrap_or_default();
    assert_eq!(counters.flops, 2 * n as u64);
    assert_eq!(counters.global.load_bytes + counters.global.store_bytes, 12 * n as u64);
    println!("{:?}", counters.ratios());
    for line in stats.profile.unwrap_or_default().lines {
        let place = line.source.iter().map(ToString::to_string).collect::<Vec<_>>().join(", inlined at ");
        println!(
            "{:>4} {:>4} x  {:<36} {place}",
            line.line,
            line.counters.warp_instructions,
            line.text.replace('\t', " ")
        );
    }
    Ok(())
}
