//! Host memory: mapped for the program, and read and written where it may be gone.

/// Reads host memory that may be gone: the system is asked, because a plain read would end the process.
pub(crate) fn read(at: usize, into: &mut [u8]) -> Result<(), String> {
    transfer(
        at,
        into.len(),
        |local, remote| {
            // SAFETY: both describe one range each; the kernel checks the remote one.
            unsafe { libc::process_vm_readv(libc::getpid(), local, 1, remote, 1, 0) }
        },
        into.as_mut_ptr(),
        || {
            // SAFETY: the program says that the memory is there.
            unsafe { std::ptr::copy_nonoverlapping(at as *const u8, into.as_ptr().cast_mut(), into.len()) };
        },
    )
}

pub(crate) fn write(at: usize, bytes: &[u8]) -> Result<(), String> {
    transfer(
        at,
        bytes.len(),
        |local, remote| {
            // SAFETY: as in `read`.
            unsafe { libc::process_vm_writev(libc::getpid(), local, 1, remote, 1, 0) }
        },
        bytes.as_ptr().cast_mut(),
        || {
            // SAFETY: as in `read`.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at as *mut u8, bytes.len()) };
        },
    )
}

fn transfer(
    at: usize,
    bytes: usize,
    ask: impl Fn(*const libc::iovec, *const libc::iovec) -> isize,
    own: *mut u8,
    plain: impl FnOnce(),
) -> Result<(), String> {
    let mut done = 0;
    while done < bytes {
        let part = |base: usize| libc::iovec { iov_base: (base + done) as *mut libc::c_void, iov_len: bytes - done };
        let (local, remote) = (part(own as usize), part(at));
        match ask(&local, &remote) {
            moved if moved > 0 => done += moved as usize,
            _ => match std::io::Error::last_os_error().raw_os_error() {
                Some(libc::EFAULT) => {
                    return Err(format!("host memory at {:#x} is not there (any more)", at + done));
                }
                // Not allowed in this sandbox.
                _ => {
                    plain();
                    return Ok(());
                }
            },
        }
    }
    Ok(())
}

/// New host memory, every byte 0xff.
pub(crate) fn map(bytes: usize) -> Option<u64> {
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new private mapping.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes.max(1), prot, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: just mapped, with this length.
    unsafe { at.cast::<u8>().write_bytes(0xff, bytes) };
    Some(at as u64)
}

/// Whether the process has memory at all of these addresses.
pub(crate) fn is_mapped(at: u64, bytes: usize) -> bool {
    // SAFETY: asks for a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(1) as u64;
    let first = at & !(page - 1);
    let length = (at - first) as usize + bytes;
    let mut pages = vec![0u8; length.div_ceil(page as usize)];
    // SAFETY: asks about addresses without using them; there is a byte for each page.
    unsafe { libc::mincore(first as *mut libc::c_void, length, pages.as_mut_ptr()) == 0 }
}

pub(crate) fn unmap(at: u64, bytes: usize) {
    // SAFETY: mapped by `map` with this length; nothing of the driver's points there any more.
    unsafe { libc::munmap(at as *mut libc::c_void, bytes.max(1)) };
}
