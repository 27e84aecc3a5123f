//! What the counters tell of `wgmma`: operations once for each warpgroup, and what is read from shared memory.

use super::product::{Format, PLAIN, Place, Product};
use ptx_vm::{Counters, VmConfig};

fn counters(product: Product) -> Counters {
    let config = VmConfig { threads: 1, counters: true, ..VmConfig::default() };
    product.run(&product.kernel(&product.body()), config).unwrap().1.counters.unwrap()
}

#[test]
fn operations_and_operands_are_counted() {
    let base = Product::new(Format::Bf16, Format::Bf16, 24);
    let without = Product { place_a: None, ..base };
    let others = [Format::Tf32, Format::E4m3, Format::S8].map(|f| Product::new(f, f, 24));
    for (product, k, a) in
        [(base, 16, 2048), (without, 16, 0), (others[0], 8, 2048), (others[1], 32, 2048), (others[2], 32, 2048)]
    {
        let c = counters(product);
        assert_eq!(c.tensor_flops, 2 * 64 * 24 * k, "{product:?}");
        // Four warps read A, each its rows; one of them reads B.
        assert_eq!(c.shared.load_bytes, a + 24 * 32, "{product:?}");
        assert_eq!(c.shared.conflicts, 0, "{product:?}");
    }
}

#[test]
fn no_layout_has_conflicts() {
    for mn_major in [false, true] {
        for swizzle in [16, 32, 64, 128] {
            let place = Place { swizzle, mn_major, ..PLAIN };
            let product =
                Product { place_a: Some(place), place_b: place, ..Product::new(Format::F16, Format::F16, 64) };
            let c = counters(product);
            assert_eq!((c.shared.conflicts, c.shared.load_bytes), (0, 64 * 32 * 2), "{place:?}");
        }
    }
}
