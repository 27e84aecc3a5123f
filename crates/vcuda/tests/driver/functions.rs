//! Functions: attributes, limits, occupancy; launches in all forms.

use super::client::{code::*, *};
use std::ffi::c_void;

fn attribute(function: u64, which: u32) -> i32 {
    let mut value = -99;
    ok("cuFuncGetAttribute", (&mut value, which, function));
    value
}

const DYNAMIC: u32 = 8;

scenarios! {
    attributes [] {
        start();
        let module = module(PTX);
        let (fill, shared, small) = (function(module, "fill"), function(module, "shared"), function(module, "small"));
        assert_eq!(attribute(fill, 0), 1024);
        assert_eq!(attribute(small, 0), 64);
        assert_eq!((attribute(fill, 1), attribute(shared, 1)), (0, 1024));
        assert!((1..=255).contains(&attribute(fill, 4)));
        assert_eq!((attribute(fill, 5), attribute(fill, 6)), (80, 80));
        assert_eq!(attribute(shared, DYNAMIC), (48 << 10) - 1024);
        // 163 KiB of an sm_80, of which the function has 1 KiB already.
        ok("cuFuncSetAttribute", (shared, DYNAMIC, 162i32 << 10));
        assert_eq!(attribute(shared, DYNAMIC), 162 << 10);
        fails(INVALID_VALUE, "cuFuncSetAttribute", (shared, DYNAMIC, (162i32 << 10) + 1));
        fails(INVALID_VALUE, "cuFuncSetAttribute", (shared, DYNAMIC, -1i32));
        ok("cuFuncSetAttribute", (shared, 9u32, 100i32));
        assert_eq!(attribute(shared, 9), 100);
        fails(INVALID_VALUE, "cuFuncSetAttribute", (shared, 9u32, 101i32));
        // Not to be set, not there, and no function.
        fails(INVALID_VALUE, "cuFuncSetAttribute", (shared, 0u32, 1i32));
        fails(INVALID_VALUE, "cuFuncGetAttribute", (&mut 0i32, 99u32, fill));
        fails(INVALID_HANDLE, "cuFuncGetAttribute", (&mut 0i32, 0u32, NULL));
        ok("cuFuncSetCacheConfig", (fill, 1u32));
        fails(INVALID_VALUE, "cuFuncSetCacheConfig", (fill, 4u32));
        let parts = function(module, "parts");
        let info = |index: usize| {
            let (mut offset, mut bytes) = (0usize, 0usize);
            (cu("cuFuncGetParamInfo", (parts, index, &mut offset, &mut bytes)), offset, bytes)
        };
        assert_eq!([0, 1, 2].map(info), [(0, 0, 1), (0, 8, 8), (0, 16, 2)]);
        assert_eq!(info(3).0, INVALID_VALUE);
    }

    launch_limits [] {
        start();
        let module = module(PTX);
        let (memory, fill) = (alloc(4096), function(module, "fill"));
        let run = |grid: [u32; 3], block: [u32; 3], shared: u32| {
            let params = params(&[P(memory), U(1)]);
            let ([gx, gy, gz], [bx, by, bz]) = (grid, block);
            cu("cuLaunchKernel", (fill, gx, gy, gz, bx, by, bz, shared, NULL, params.list.as_ptr(), NULL))
        };
        assert_eq!(run([1; 3], [1024, 1, 1], 0), 0);
        for (grid, block) in [
            ([0, 1, 1], [1, 1, 1]),
            ([1, 1, 1], [1, 0, 1]),
            ([1 << 31, 1, 1], [1, 1, 1]),
            ([1, 65536, 1], [1, 1, 1]),
            ([1, 1, 65536], [1, 1, 1]),
            ([1, 1, 1], [1025, 1, 1]),
            ([1, 1, 1], [32, 33, 1]),
            ([1, 1, 1], [1, 1, 65]),
        ] {
            assert_eq!(run(grid, block, 0), INVALID_VALUE, "{grid:?} {block:?}");
        }
        assert_eq!(run([1; 3], [1; 3], 48 << 10), 0);
        assert_eq!(run([1; 3], [1; 3], (48 << 10) + 1), INVALID_VALUE, "more than it was opted in to");
        ok("cuFuncSetAttribute", (fill, DYNAMIC, 163i32 << 10));
        assert_eq!(run([1; 3], [1; 3], 163 << 10), 0);
        assert_eq!(run([1; 3], [1; 3], (163 << 10) + 4), INVALID_VALUE);
        let small = function(module, "small");
        assert_eq!(try_launch(small, 1, 64, 0, NULL, &[]), 0);
        assert_eq!(try_launch(small, 1, 65, 0, NULL, &[]), LAUNCH_OUT_OF_RESOURCES);
        ok("cuCtxSynchronize", ());
    }

    parameters [] {
        start();
        let module = module(PTX);
        let (memory, parts) = (alloc(8), function(module, "parts"));
        let (a, c): (u8, u16) = (0xaa, 0xbbcc);
        // As a list of pointers.
        let list: [*const c_void; 3] =
            [std::ptr::from_ref(&a).cast(), std::ptr::from_ref(&memory).cast(), std::ptr::from_ref(&c).cast()];
        ok("cuLaunchKernel", (parts, 1u32, 1u32, 1u32, 1u32, 1u32, 1u32, 0u32, NULL, list.as_ptr(), NULL));
        assert_eq!(download::<u32>(memory, 2), [0xaa, 0xbbcc]);
        // Packed, with and without the padding at the end.
        #[repr(C)]
        struct Packed { a: u8, b: u64, c: u16 }
        let packed = Packed { a: 1, b: memory, c: 2 };
        let run = |size: usize, both: bool| {
            // The pointer to the buffer, the pointer to its size, the end.
            let extra = [1, std::ptr::from_ref(&packed) as usize, 2, std::ptr::from_ref(&size) as usize, 0];
            let list = if both { list.as_ptr() } else { std::ptr::null() };
            cu("cuLaunchKernel", (parts, 1u32, 1u32, 1u32, 1u32, 1u32, 1u32, 0u32, NULL, list, extra.as_ptr()))
        };
        assert_eq!((run(18, false), run(24, false)), (0, 0));
        assert_eq!(download::<u32>(memory, 2), [1, 2]);
        assert_eq!((packed.a, packed.c), (1, 2));
        for wrong in [0, 8, 17, 40] {
            assert_eq!(run(wrong, false), INVALID_VALUE, "{wrong}");
        }
        assert_eq!(run(18, true), INVALID_VALUE, "both forms at once");
        // None where some are wanted, and a hole.
        fails(INVALID_VALUE, "cuLaunchKernel", (parts, 1u32, 1u32, 1u32, 1u32, 1u32, 1u32, 0u32, NULL, NULL, NULL));
        let hole = [list[0], std::ptr::null(), list[2]];
        fails(INVALID_VALUE, "cuLaunchKernel", (parts, 1u32, 1u32, 1u32, 1u32, 1u32, 1u32, 0u32, NULL, hole.as_ptr(), NULL));
        let unknown = [9, list[0] as usize, 0];
        fails(INVALID_VALUE, "cuLaunchKernel", (parts, 1u32, 1u32, 1u32, 1u32, 1u32, 1u32, 0u32, NULL, NULL, unknown.as_ptr()));
    }

    launches_with_a_configuration [] {
        start();
        #[repr(C)]
        struct Attribute { id: u32, pad: u32, value: [u64; 8] }
        #[repr(C)]
        struct Config { grid: [u32; 3], block: [u32; 3], shared: u32, stream: u64, attributes: *const Attribute, count: u32 }
        let (memory, fill) = (alloc(64), function(module(PTX), "fill"));
        let params = params(&[P(memory), U(9)]);
        let attribute = |id: u32, first: u64| Attribute { id, pad: 0, value: [first, 1, 0, 0, 0, 0, 0, 0] };
        let run = |grid: u32, attributes: &[Attribute]| {
            let config = Config {
                grid: [grid, 1, 1], block: [16, 1, 1], shared: 0, stream: 0,
                attributes: attributes.as_ptr(), count: attributes.len() as u32,
            };
            cu("cuLaunchKernelEx", (&config, fill, params.list.as_ptr(), NULL))
        };
        assert_eq!(run(1, &[]), 0);
        assert_eq!(run(1, &[attribute(2, 1), attribute(4, 1 | 1 << 32)]), 0);
        assert_eq!(download::<u32>(memory, 16), [9; 16]);
        assert_eq!(run(1_000_000, &[attribute(2, 1)]), COOPERATIVE_LAUNCH_TOO_LARGE);
        assert_eq!(run(2, &[attribute(4, 2 | 1 << 32)]), NOT_SUPPORTED, "clusters");
        fails(INVALID_VALUE, "cuLaunchKernelEx", (NULL, fill, params.list.as_ptr(), NULL));
    }

    clusters [VCUDA_DEVICES = "sm_90:1GiB:132sm"] {
        start();
        #[repr(C)]
        struct Attribute { id: u32, pad: u32, value: [u64; 8] }
        #[repr(C)]
        struct Config { grid: [u32; 3], block: [u32; 3], shared: u32, stream: u64, attributes: *const Attribute, count: u32 }
        let kernel = |name: &str, directive: &str| format!(
            ".visible .entry {name}(.param .u64 to) {directive} {{ .reg .b32 %r<6>; .reg .b64 %rd<4>; .shared .b32 own;
             ld.param.u64 %rd1, [to]; mov.u32 %r1, %cluster_ctarank; mov.u32 %r2, %cluster_nctarank; st.shared.u32 [own], %r1;
             barrier.cluster.arrive; barrier.cluster.wait;
             add.u32 %r3, %r1, 1; rem.u32 %r3, %r3, %r2; mapa.shared::cluster.u32 %r4, own, %r3; ld.shared::cluster.u32 %r4, [%r4];
             mad.lo.u32 %r4, %r2, 100, %r4; mov.u32 %r5, %ctaid.x; mul.wide.u32 %rd2, %r5, 4; add.u64 %rd2, %rd2, %rd1;
             st.global.u32 [%rd2], %r4; barrier.cluster.arrive; barrier.cluster.wait; ret; }}\n"
        );
        let text = [".version 8.0\n.target sm_90\n.address_size 64\n".to_owned(), kernel("any", ""), kernel("two", ".reqnctapercluster 2"),
            kernel("four", ".maxclusterrank 4"), kernel("explicit", ".explicitcluster")].concat();
        let module = module(&text);
        let [any, two, four, explicit] = ["any", "two", "four", "explicit"].map(|name| function(module, name));
        let memory = alloc(64);
        let params = params(&[P(memory)]);
        let with = |grid: u32, cluster: Option<u32>, f: &mut dyn FnMut(&Config) -> u32| {
            let attributes = cluster.map(|x| Attribute { id: 4, pad: 0, value: [u64::from(x) | 1 << 32, 1, 0, 0, 0, 0, 0, 0] });
            let (attributes, count) = attributes.as_ref().map_or((std::ptr::null(), 0), |one| (std::ptr::from_ref(one), 1));
            f(&Config { grid: [grid, 1, 1], block: [1, 1, 1], shared: 0, stream: 0, attributes, count })
        };
        let run = |function: u64, grid: u32, cluster: Option<u32>| {
            with(grid, cluster, &mut |config| cu("cuLaunchKernelEx", (config, function, params.list.as_ptr(), NULL)))
        };
        let made = |blocks: u32| -> Vec<u32> { (0..blocks).map(|i| blocks * 100 + (i + 1) % blocks).collect() };
        for blocks in [2, 4, 8] {
            assert_eq!(run(any, blocks, Some(blocks)), 0);
            assert_eq!(download::<u32>(memory, blocks as usize), made(blocks));
        }
        // By what the kernel says, in a launch that says nothing.
        ok("cuLaunchKernel", (two, 2u32, 1u32, 1u32, 1u32, 1u32, 1u32, 0u32, NULL, params.list.as_ptr(), NULL));
        assert_eq!(download::<u32>(memory, 2), made(2));
        for (function, grid, cluster) in [
            (any, 3, Some(2)), (any, 2, Some(0)), (any, 16, Some(16)), (two, 4, Some(4)), (two, 3, None), (four, 8, Some(8)), (explicit, 2, None),
        ] {
            assert_eq!(run(function, grid, cluster), INVALID_CLUSTER_SIZE, "{grid} {cluster:?}");
        }
        assert_eq!((run(four, 4, Some(4)), run(explicit, 2, Some(1))), (0, 0));
        assert_eq!([any, two, four, explicit].map(|f| [10, 11, 12, 13, 14].map(|which| attribute(f, which))),
            [[0; 5], [1, 2, 1, 1, 0], [0; 5], [1, 0, 0, 0, 0]]);
        let sizes = |function: u64, cluster: u32| {
            let (mut most, mut active) = (-1, -1);
            let told = with(cluster, Some(cluster), &mut |config| {
                cu("cuOccupancyMaxPotentialClusterSize", (&mut most, function, config)) | cu("cuOccupancyMaxActiveClusters", (&mut active, function, config))
            });
            (told, most, active)
        };
        // 32 blocks of one thread on each of 132 multiprocessors, which stand together by 16.
        assert_eq!([sizes(any, 1), sizes(any, 2), sizes(any, 8)], [(0, 8, 32 * 132), (0, 8, 16 * 132), (0, 8, 4 * 132)]);
        assert_eq!(sizes(any, 16).0, INVALID_CLUSTER_SIZE);
        ok("cuFuncSetAttribute", (any, 14u32, 1i32));
        assert_eq!((sizes(any, 16), attribute(any, 14)), ((0, 16, 2 * 132), 1));
        assert_eq!(run(any, 16, Some(16)), 0);
        // What the program requires; what the kernel does stays.
        fails(NOT_PERMITTED, "cuFuncSetAttribute", (two, 11u32, 4i32));
        [11u32, 12, 13].iter().zip([4i32, 1, 1]).for_each(|(which, n)| ok("cuFuncSetAttribute", (four, *which, n)));
        ok("cuLaunchKernel", (four, 4u32, 1u32, 1u32, 1u32, 1u32, 1u32, 0u32, NULL, params.list.as_ptr(), NULL));
        assert_eq!(download::<u32>(memory, 4), made(4));
        assert_eq!(run(four, 4, Some(2)), INVALID_CLUSTER_SIZE);
        ok("cuCtxSynchronize", ());
    }

    cooperative_launches [VCUDA_DEVICES = "sm_80:1GiB:2sm"] {
        start();
        let (memory, fill) = (alloc(4 << 14), function(module(PTX), "fill"));
        let params = params(&[P(memory), U(9)]);
        let run = |grid: u32| {
            cu("cuLaunchCooperativeKernel", (fill, grid, 1u32, 1u32, 1024u32, 1u32, 1u32, 0u32, NULL, params.list.as_ptr()))
        };
        let mut blocks = 0;
        ok("cuOccupancyMaxActiveBlocksPerMultiprocessor", (&mut blocks, fill, 1024i32, 0usize));
        assert_eq!(run(2 * blocks as u32), 0);
        assert_eq!(run(2 * blocks as u32 + 1), COOPERATIVE_LAUNCH_TOO_LARGE);
        ok("cuCtxSynchronize", ());
    }

    occupancy [] {
        start();
        let module = module(PTX);
        let (fill, small) = (function(module, "fill"), function(module, "small"));
        let blocks = |function: u64, threads: i32, shared: usize| {
            let mut blocks = -1;
            ok("cuOccupancyMaxActiveBlocksPerMultiprocessor", (&mut blocks, function, threads, shared));
            blocks
        };
        // 2048 threads, 32 blocks, 164 KiB of shared memory of which each block takes 1 KiB more.
        assert_eq!(blocks(fill, 1024, 0), 2);
        assert_eq!(blocks(fill, 32, 0), 32);
        assert_eq!(blocks(fill, 32, 40 << 10), 4);
        assert_eq!(blocks(small, 128, 0), 0, "more threads than it can have");
        fails(INVALID_VALUE, "cuOccupancyMaxActiveBlocksPerMultiprocessor", (&mut 0i32, fill, 0i32, 0usize));
        fails(INVALID_VALUE, "cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags", (&mut 0i32, fill, 32i32, 0usize, 2u32));
        let mut free = 0usize;
        ok("cuOccupancyAvailableDynamicSMemPerBlock", (&mut free, fill, 4i32, 32i32));
        assert_eq!(free, 40 << 10);
        let (mut grid, mut block) = (0, 0);
        ok("cuOccupancyMaxPotentialBlockSize", (&mut grid, &mut block, fill, NULL, 0usize, 0i32));
        assert_eq!((grid * block, block % 32), (108 * 2048, 0));
        ok("cuOccupancyMaxPotentialBlockSize", (&mut grid, &mut block, fill, NULL, 0usize, 128i32));
        assert!(block <= 128);
        // The program's own function tells the shared memory; it may use the driver meanwhile.
        extern "C" fn shared(threads: i32) -> usize {
            let mut version = 0;
            ok("cuDriverGetVersion", (&mut version,));
            if threads > 256 { 1 << 20 } else { 0 }
        }
        ok("cuOccupancyMaxPotentialBlockSize", (&mut grid, &mut block, fill, shared as extern "C" fn(i32) -> usize, 0usize, 0i32));
        assert_eq!((grid, block), (108 * 8, 256));
    }
}
