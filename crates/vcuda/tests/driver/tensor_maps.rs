//! Tensor maps: made by the driver, passed by value, used by a kernel; and what is refused.

use super::client::{code::*, *};

/// The maps' home, aligned as they have to be.
#[repr(align(64))]
struct Map([u8; 128]);

/// Copies the box of 4 × 2 words at (3, 1) to `out`: the map is a parameter, or in global memory.
const KERNEL: &str = ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry load(.param .align 64 .b8 map[128], .param .u64 out) {
    .reg .pred %p<3>; .reg .b32 %r<4>; .reg .b64 %rd<6>;
    .shared .align 8 .b64 mbar; .shared .align 128 .b8 tile[128];
    mov.b64 %rd0, map; cvta.param.u64 %rd1, %rd0;
    ld.param.u64 %rd2, [out];
    mov.u32 %r0, %tid.x; setp.eq.u32 %p1, %r0, 0;
    @%p1 mbarrier.init.shared.b64 [mbar], 1; bar.sync 0;
    @%p1 mbarrier.arrive.expect_tx.shared.b64 %rd3, [mbar], 32;
    @%p1 cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [tile], [%rd1, {3, 1}], [mbar];
    WAIT: mbarrier.try_wait.parity.shared.b64 %p2, [mbar], 0; @!%p2 bra WAIT;
    shl.b32 %r1, %r0, 2; cvt.u64.u32 %rd4, %r1; add.u64 %rd4, %rd4, %rd2;
    mov.u32 %r2, tile; add.u32 %r2, %r2, %r1;
    ld.shared.u32 %r3, [%r2]; st.global.u32 [%rd4], %r3; ret;
}";

/// `cuTensorMapEncodeTiled` of a tensor of 5 × 3 words at `address`, in rows of 32 bytes and boxes of 4 × 2; each argument may be another.
struct Tiled {
    ty: u32,
    axes: u32,
    address: u64,
    stride: u64,
    boxes: [u32; 2],
    interleave: u32,
    swizzle: u32,
    fill: u32,
}

impl Tiled {
    fn new(address: u64) -> Tiled {
        Tiled { ty: 2, axes: 2, address, stride: 32, boxes: [4, 2], interleave: 0, swizzle: 0, fill: 0 }
    }

    fn encode(&self, map: *mut u8) -> u32 {
        let (sizes, strides, steps) = ([5u64, 3], [self.stride], [1u32, 1]);
        let Tiled { ty, axes, address, interleave, swizzle, fill, .. } = *self;
        let [sizes, strides] = [sizes.as_ptr(), strides.as_ptr()];
        let (boxes, steps) = (self.boxes.as_ptr(), steps.as_ptr());
        cu(
            "cuTensorMapEncodeTiled",
            (map, ty, axes, address, sizes, strides, boxes, steps, interleave, swizzle, 0u32, fill),
        )
    }
}

scenarios! {
    a_box_of_a_tensor [VCUDA_DEVICES = "sm_90"] {
        start();
        let load = function(module(KERNEL), "load");
        let (tensor, out) = (alloc(96), alloc(32));
        upload(tensor, &(0..24u32).collect::<Vec<_>>());
        let mut map = Map([0; 128]);
        assert_eq!(Tiled::new(tensor).encode(map.0.as_mut_ptr()), 0);
        let run = |map: &Map| {
            let list = [map.0.as_ptr().cast::<u8>(), (&raw const out).cast()];
            ok("cuLaunchKernel", (load, 1u32, 1u32, 1u32, 8u32, 1u32, 1u32, 0u32, NULL, list.as_ptr(), NULL));
            ok("cuCtxSynchronize", ());
            download::<u32>(out, 8)
        };
        // Rows 1 and 2 of three, columns 3 and 4 of five.
        assert_eq!(run(&map), [11, 12, 0, 0, 19, 20, 0, 0]);
        let other = alloc(96);
        upload(other, &(100..124u32).collect::<Vec<_>>());
        ok("cuTensorMapReplaceAddress", (map.0.as_mut_ptr(), other));
        assert_eq!(run(&map), [111, 112, 0, 0, 119, 120, 0, 0]);
        let mut has = 0;
        ok("cuDeviceGetAttribute", (&mut has, 127u32, 0i32));
        assert_eq!(has, 1);
    }

    maps_that_are_refused [VCUDA_DEVICES = "sm_90"] {
        start();
        let tensor = alloc(96);
        let mut map = Map([7; 128]);
        let at = map.0.as_mut_ptr();
        let good = || Tiled::new(tensor);
        for wrong in [
            Tiled { axes: 0, ..good() },
            Tiled { axes: 6, ..good() },
            Tiled { address: tensor + 8, ..good() },
            Tiled { stride: 20, ..good() },
            Tiled { boxes: [4, 0], ..good() },
            Tiled { boxes: [3, 2], ..good() },
            Tiled { boxes: [16, 2], swizzle: 1, ..good() },
            Tiled { fill: 2, ..good() },
        ] {
            assert_eq!(wrong.encode(at), INVALID_VALUE);
        }
        for beyond in [Tiled { ty: 99, ..good() }, Tiled { interleave: 1, ..good() }, Tiled { swizzle: 9, ..good() }] {
            assert_eq!(beyond.encode(at), NOT_SUPPORTED);
        }
        assert_eq!(good().encode(at.wrapping_add(8)), INVALID_VALUE);
        assert_eq!(good().encode(std::ptr::null_mut()), INVALID_VALUE);
        assert!(map.0.iter().all(|byte| *byte == 7));
        fails(INVALID_VALUE, "cuTensorMapReplaceAddress", (at, tensor));
    }

    older_gpus_have_none [VCUDA_DEVICES = "sm_80"] {
        start();
        let mut map = Map([0; 128]);
        assert_eq!(Tiled::new(alloc(96)).encode(map.0.as_mut_ptr()), NOT_SUPPORTED);
    }
}
