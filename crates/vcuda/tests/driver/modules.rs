//! Modules from text, files and fatbins; what the compiler says of broken ones; the linker; libraries.

use super::client::{code::*, *};
use std::ffi::{CStr, c_char, c_void};

/// A fatbin as the tools of the CUDA toolkit make it: entries of kind, architecture, flags, bytes, and size when unpacked.
fn fatbin(entries: &[(u16, u32, u64, Vec<u8>, usize)]) -> Vec<u8> {
    let mut body = vec![];
    for (kind, arch, flags, bytes, unpacked) in entries {
        let mut payload = bytes.clone();
        payload.resize(payload.len().next_multiple_of(8), 0);
        let mut header = [0u8; 64];
        header[0..2].copy_from_slice(&kind.to_le_bytes());
        header[2..4].copy_from_slice(&0x101u16.to_le_bytes());
        header[4..8].copy_from_slice(&64u32.to_le_bytes());
        header[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        header[16..20].copy_from_slice(&(if *flags == 0 { 0 } else { bytes.len() as u32 }).to_le_bytes());
        header[28..32].copy_from_slice(&arch.to_le_bytes());
        header[40..48].copy_from_slice(&flags.to_le_bytes());
        header[56..64].copy_from_slice(&(*unpacked as u64).to_le_bytes());
        body.extend(header);
        body.extend(payload);
    }
    let mut all = vec![];
    all.extend(0xba55_ed50u32.to_le_bytes());
    all.extend(1u16.to_le_bytes());
    all.extend(16u16.to_le_bytes());
    all.extend((body.len() as u64).to_le_bytes());
    all.extend(body);
    all
}

/// What `fatbinary` of CUDA 13.5 makes of a small PTX file for sm_80 (`--compress-mode=speed`).
const BY_NVIDIA: &str = "\
    50ed55ba01001000c80000000000000001000101500000007800000000000000780000004000000000000800500000000000000000000000\
    11200000000000000000000000000000b10000000000000048000000000000000000000000000000f7472e76657273696f6e20382e300a2e\
    74617267657420736d5f38300a2e616464726573735f73697a652036340a2e76697369626c65202e676c6f62616c202e616c69676e203420\
    2e753332206e756d626572203d20373b2b00ff04656e74727920662829207b207265743b207d0a010025500a0a0a0a00\
";

fn text_entry(arch: u32, text: &str) -> (u16, u32, u64, Vec<u8>, usize) {
    (1, arch, 0, [text.as_bytes(), b"\0"].concat(), 0)
}

fn load(image: &[u8]) -> (u32, u64) {
    let mut module = 0;
    (cu("cuModuleLoadData", (&mut module, image.as_ptr())), module)
}

/// What `number` of a module is: a mark of which text was taken.
fn number(module: u64) -> u32 {
    let (name, mut at, mut bytes) = (c("number"), 0u64, 0usize);
    ok("cuModuleGetGlobal_v2", (&mut at, &mut bytes, module, name.as_ptr()));
    assert_eq!(bytes, 4);
    download::<u32>(at, 1)[0]
}

fn marked(number: u32) -> String {
    PTX.replace("number = 7", &format!("number = {number}"))
}

/// Loads with a log of errors; the code, the log, and how much of the buffer was used.
fn load_with_log(text: &str, bytes: usize) -> (u32, String, usize) {
    let (text, mut log) = (c(text), vec![0x55u8; bytes + 8]);
    // Error buffer and its size, info buffer and its size.
    let (options, mut info) = ([5u32, 6, 3, 4], [0u8; 64]);
    let mut values: [*mut c_void; 4] =
        [log.as_mut_ptr().cast(), bytes as *mut c_void, info.as_mut_ptr().cast(), 64 as *mut c_void];
    let code = cu("cuModuleLoadDataEx", (&mut 0u64, text.as_ptr(), 4u32, &options, &mut values));
    assert_eq!(log[bytes..], [0x55; 8], "behind the buffer");
    let said = CStr::from_bytes_until_nul(&log).unwrap().to_str().unwrap().to_owned();
    (code, said, values[1] as usize)
}

scenarios! {
    modules_from_text [] {
        start();
        let module = module(PTX);
        assert_eq!(number(module), 7);
        let function = function(module, "fill");
        let (name, mut text, mut of) = (c("nothing"), std::ptr::null::<c_char>(), 0u64);
        fails(NOT_FOUND, "cuModuleGetFunction", (&mut of, module, name.as_ptr()));
        fails(NOT_FOUND, "cuModuleGetGlobal_v2", (&mut of, NULL, module, name.as_ptr()));
        fails(NOT_FOUND, "cuModuleGetTexRef", (&mut of, module, name.as_ptr()));
        ok("cuFuncGetName", (&mut text, function));
        assert_eq!(words(text), "fill");
        ok("cuFuncGetModule", (&mut of, function));
        assert_eq!(of, module);
        let mut count = 0u32;
        ok("cuModuleGetFunctionCount", (&mut count, module));
        assert_eq!(count, 9);
        let mut all = [0u64; 9];
        ok("cuModuleEnumerateFunctions", (&mut all, 9u32, module));
        assert!(all.contains(&function));
        ok("cuModuleUnload", (module,));
        fails(INVALID_HANDLE, "cuModuleUnload", (module,));
        fails(INVALID_HANDLE, "cuModuleGetFunction", (&mut of, module, name.as_ptr()));
        fails(INVALID_HANDLE, "cuFuncGetName", (&mut text, function));
        assert_eq!(try_launch(function, 1, 1, 0, NULL, &[P(0), U(0)]), INVALID_HANDLE);
    }

    modules_from_files [] {
        start();
        let path = std::env::temp_dir().join(format!("vcuda-test-{}.ptx", std::process::id()));
        let name = c(path.to_str().unwrap());
        fails(FILE_NOT_FOUND, "cuModuleLoad", (&mut 0u64, name.as_ptr()));
        std::fs::write(&path, marked(11)).unwrap();
        let module = made(|out| cu("cuModuleLoad", (out, name.as_ptr())));
        assert_eq!(number(module), 11);
        std::fs::write(&path, fatbin(&[text_entry(80, &marked(12))])).unwrap();
        let module = made(|out| cu("cuModuleLoad", (out, name.as_ptr())));
        assert_eq!(number(module), 12);
        // Cut short.
        std::fs::write(&path, &fatbin(&[text_entry(80, PTX)])[..100]).unwrap();
        assert_ne!(cu("cuModuleLoad", (&mut 0u64, name.as_ptr())), 0);
        std::fs::remove_file(&path).unwrap();
    }

    fatbins [] {
        start();
        let (code, module) = load(&fatbin(&[text_entry(80, &marked(1))]));
        assert_eq!((code, number(module)), (0, 1));
        // As programs of nvcc have it: a wrapper with a pointer.
        #[repr(C)]
        struct Wrapper { magic: u32, version: u32, data: *const u8, file: *const c_void }
        let inner = fatbin(&[text_entry(80, &marked(2))]);
        let wrapper = Wrapper { magic: 0x4662_43b1, version: 1, data: inner.as_ptr(), file: std::ptr::null() };
        let module = made(|out| cu("cuModuleLoadFatBinary", (out, &wrapper)));
        assert_eq!(number(module), 2);
        // Machine code beside it is passed over.
        let code = (2, 80, 0, vec![0x7f; 24], 0);
        let (result, module) = load(&fatbin(&[code.clone(), text_entry(80, &marked(3))]));
        assert_eq!((result, number(module)), (0, 3));
        assert_eq!(load(&fatbin(&[code])).0, NO_BINARY_FOR_GPU);
        assert_eq!(load(&fatbin(&[])).0, NO_BINARY_FOR_GPU);
        // Packed.
        let text = format!("{}\0", marked(4));
        let packed = lz4_flex::block::compress(text.as_bytes());
        let (code, module) = load(&fatbin(&[(1, 80, 0x2000, packed.clone(), text.len())]));
        assert_eq!((code, number(module)), (0, 4));
        let digits = BY_NVIDIA.as_bytes().chunks(2);
        let bytes: Vec<u8> = digits.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect();
        let (code, module) = load(&bytes);
        assert_eq!((code, number(module)), (0, 7));
        let mut broken = packed;
        broken.truncate(40);
        assert_ne!(load(&fatbin(&[(1, 80, 0x2000, broken, text.len())])).0, 0);
        // The newest that the device can have; what is for newer devices is no use.
        let newer = text_entry(90, &marked(6).replace("sm_80", "sm_90"));
        let (code, module) = load(&fatbin(&[text_entry(75, &marked(5).replace("sm_80", "sm_75")), newer.clone()]));
        assert_eq!((code, number(module)), (0, 5));
        assert_eq!(load(&fatbin(&[newer])).0, NO_BINARY_FOR_GPU);
    }

    machine_code_is_refused [] {
        start();
        let mut elf = vec![0u8; 64];
        elf[..4].copy_from_slice(b"\x7fELF");
        assert_eq!(load(&elf).0, NO_BINARY_FOR_GPU);
        fails(INVALID_VALUE, "cuModuleLoadData", (&mut 0u64, NULL));
        fails(INVALID_VALUE, "cuModuleLoadData", (0u64, elf.as_ptr()));
    }

    broken_text_has_a_log [] {
        start();
        let broken = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry f() {\n  store %rd3;\n  ret;\n}\n";
        let (code, log, used) = load_with_log(broken, 4096);
        assert_eq!(code, INVALID_PTX);
        assert!(log.starts_with("ptxas ") && log.contains("module.ptx") && log.contains("store"), "{log}");
        assert_eq!(used, log.len());
        // A small buffer gets what fits.
        let (code, short, used) = load_with_log(broken, 16);
        assert_eq!((code, short.len(), used), (INVALID_PTX, 15, 15));
        assert!(log.starts_with(&short));
        let (code, log, used) = load_with_log(PTX, 64);
        assert_eq!((code, log.as_str(), used), (0, "", 0));
        let (code, log, _) = load_with_log(&PTX.replace(".version 8.0", ".version 9.9"), 4096);
        assert_eq!(code, UNSUPPORTED_PTX_VERSION);
        assert!(log.contains("9.9"), "{log}");
        let (code, log, _) = load_with_log(&PTX.replace("sm_80", "sm_90"), 4096);
        assert_eq!(code, NO_BINARY_FOR_GPU);
        assert!(log.contains("sm_90"), "{log}");
        let text = c(PTX);
        fails(INVALID_VALUE, "cuModuleLoadDataEx", (&mut 0u64, text.as_ptr(), 1u32, NULL, NULL));
        fails(INVALID_VALUE, "cuModuleLoadDataEx", (&mut 0u64, text.as_ptr(), 1u32, &[999u32], &mut [0u64]));
    }

    the_linker [] {
        start();
        let caller = ".version 8.0\n.target sm_80\n.address_size 64\n\
            .extern .func (.param .b32 out) seven();\n\
            .visible .entry kernel(.param .u64 to) {\n\
              .reg .b32 %r<2>; .reg .b64 %rd<2>;\n\
              ld.param.u64 %rd1, [to];\n\
              { .param .b32 got; call (got), seven, (); ld.param.b32 %r1, [got]; }\n\
              st.global.u32 [%rd1], %r1;\n\
              ret;\n}\n";
        let callee = ".version 8.0\n.target sm_80\n.address_size 64\n\
            .visible .func (.param .b32 out) seven() {\n\
              .reg .b32 %r<2>;\n\
              mov.u32 %r1, 7;\n\
              st.param.b32 [out], %r1;\n\
              ret;\n}\n";
        let link = made(|out| cu("cuLinkCreate_v2", (0u32, NULL, NULL, out)));
        for part in [caller, callee] {
            let (text, name) = (c(part), c("part"));
            ok("cuLinkAddData_v2", (link, 1u32, text.as_ptr(), part.len() + 1, name.as_ptr(), 0u32, NULL, NULL));
        }
        let (mut image, mut bytes) = (0u64, 0usize);
        ok("cuLinkComplete", (link, &mut image, &mut bytes));
        assert!(bytes > 0);
        let module = made(|out| cu("cuModuleLoadData", (out, image)));
        ok("cuLinkDestroy", (link,));
        fails(INVALID_HANDLE, "cuLinkDestroy", (link,));
        let memory = alloc(4);
        launch(function(module, "kernel"), 1, 1, NULL, &[P(memory)]);
        assert_eq!(download::<u32>(memory, 1), [7]);
        // With errors, which are told when they come, and machine code.
        let mut log = [0u8; 512];
        let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), 512 as *mut c_void];
        let options = [5u32, 6];
        let link = made(|out| cu("cuLinkCreate_v2", (2u32, &options, &mut values, out)));
        let text = c("nonsense");
        fails(INVALID_PTX, "cuLinkAddData_v2", (link, 1u32, text.as_ptr(), 9usize, NULL, 0u32, NULL, NULL));
        assert!(CStr::from_bytes_until_nul(&log).unwrap().to_str().unwrap().contains("ptxas"));
        fails(NO_BINARY_FOR_GPU, "cuLinkAddData_v2", (link, 0u32, text.as_ptr(), 9usize, NULL, 0u32, NULL, NULL));
        fails(INVALID_HANDLE, "cuLinkAddData_v2", (NULL, 1u32, text.as_ptr(), 9usize, NULL, 0u32, NULL, NULL));
        ok("cuLinkDestroy", (link,));
    }

    libraries [VCUDA_DEVICES = "sm_80,sm_80"] {
        ok("cuInit", (0u32,));
        // Before there is a context.
        let text = c(PTX);
        let library = made(|out| cu("cuLibraryLoadData", (out, text.as_ptr(), NULL, NULL, 0u32, NULL, NULL, 0u32)));
        let name = c("fill");
        let kernel = made(|out| cu("cuLibraryGetKernel", (out, library, name.as_ptr())));
        assert_eq!(made(|out| cu("cuLibraryGetKernel", (out, library, name.as_ptr()))), kernel);
        let mut count = 0u32;
        ok("cuLibraryGetKernelCount", (&mut count, library));
        assert_eq!(count, 9);
        let mut all = [0u64; 9];
        ok("cuLibraryEnumerateKernels", (&mut all, 9u32, library));
        assert!(all.contains(&kernel));
        assert_eq!(made(|out| cu("cuKernelGetLibrary", (out, kernel))), library);
        let mut text: *const c_char = std::ptr::null();
        ok("cuKernelGetName", (&mut text, kernel));
        assert_eq!(words(text), "fill");
        let name = c("nothing");
        fails(NOT_FOUND, "cuLibraryGetKernel", (&mut 0u64, library, name.as_ptr()));
        // A kernel is launched in whatever context is current.
        for device in [0, 1] {
            let own = context(device);
            let memory = alloc(64);
            launch(kernel, 1, 16, NULL, &[P(memory), U(3)]);
            assert_eq!(download::<u32>(memory, 16), [3; 16]);
            let function = made(|out| cu("cuKernelGetFunction", (out, kernel)));
            launch(function, 1, 16, NULL, &[P(memory), U(4)]);
            let module = made(|out| cu("cuLibraryGetModule", (out, library)));
            assert_eq!(number(module), 7);
            fails(NOT_PERMITTED, "cuModuleUnload", (module,));
            let (name, mut at, mut bytes) = (c("number"), 0u64, 0usize);
            ok("cuLibraryGetGlobal", (&mut at, &mut bytes, library, name.as_ptr()));
            assert_eq!(download::<u32>(at, 1), [7]);
            ok("cuCtxDestroy_v2", (own,));
        }
        assert_eq!(words(text), "fill", "the name is the library's");
        ok("cuLibraryUnload", (library,));
        fails(INVALID_HANDLE, "cuLibraryUnload", (library,));
        fails(INVALID_HANDLE, "cuKernelGetLibrary", (&mut 0u64, kernel));
        let broken = c(".version 8.0\nnonsense");
        fails(INVALID_PTX, "cuLibraryLoadData", (&mut 0u64, broken.as_ptr(), NULL, NULL, 0u32, NULL, NULL, 0u32));
    }

    /// A module waits for its kernels; a graph with a kernel of a module that went is refused.
    a_module_that_goes [VCUDA_SCHEDULE = "late"] {
        start();
        let memory = alloc(64);
        let module = module(PTX);
        let fill = function(module, "fill");
        let s = stream(0);
        launch(fill, 1, 16, s, &[P(memory), U(3)]);
        begin_capture(s, RELAXED);
        launch(fill, 1, 16, s, &[P(memory), U(4)]);
        let exec = instantiate(end_capture(s));
        ok("cuModuleUnload", (module,));
        assert_eq!(download::<u32>(memory, 16), [3; 16]);
        fails(INVALID_HANDLE, "cuGraphLaunch", (exec, s));
    }
}
