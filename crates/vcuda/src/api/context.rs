//! Contexts: primary ones and own ones, the stack of each thread, limits.

use crate::code::{Answer, Code};
use crate::driver::Driver;
use crate::enter::{api, put, put_if};
use crate::made::{Id, Made};
use crate::thread::THREAD;
use crate::world::push_context;
use std::ffi::c_void;

fn create(d: &mut Driver, out: *mut Id, flags: u32, device: i32) -> Answer {
    let device = d.device(device)?;
    if out.is_null() {
        return Err(Code::INVALID_VALUE);
    }
    check_flags(flags)?;
    let made = maker(d);
    let context = d.new_context(device, flags, false, made);
    push_context(context);
    put(out, context)
}

fn maker(d: &Driver) -> impl Fn() -> Made + use<> {
    let (call, number, wanted) = (d.call, d.number, d.settings.report.is_some());
    move || Made { call, number, trace: wanted.then(std::backtrace::Backtrace::force_capture) }
}

/// The flags that a context can have: one way of waiting, and others that change nothing here.
fn check_flags(flags: u32) -> Answer {
    const WAITING: u32 = 7;
    const ALL: u32 = 0xff;
    if flags & !ALL == 0 && matches!(flags & WAITING, 0 | 1 | 2 | 4) { Ok(()) } else { Err(Code::INVALID_VALUE) }
}

/// Everything in a context ends, after the work that is queued.
fn end(d: &mut Driver, context: Id) {
    let _ = d.drain(context);
    d.pause();
    d.destroy_context(context);
}

fn synchronize(d: &mut Driver, context: Id) -> Answer {
    let capturing: Vec<Id> = d.captures.iter().filter(|(_, c)| c.context == context).map(|(id, _)| *id).collect();
    if !capturing.is_empty() {
        capturing.into_iter().for_each(|capture| d.invalidate(capture));
        return Err(Code::STREAM_CAPTURE_UNSUPPORTED);
    }
    d.forbid_in_capture()?;
    d.drain(context)
}

const LIMITS: u32 = 9;

fn default_limit(limit: u32) -> usize {
    match limit {
        0 => 1024,
        1 => 1 << 20,
        2 => 8 << 20,
        3 => 2,
        4 => 2048,
        5 => 128,
        _ => 0,
    }
}

api! {
    Init fn cuDevicePrimaryCtxRetain(d, out: *mut Id, device: i32) {
        let device = d.device(device)?;
        if out.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        let context = match d.devices[device].primary {
            Some(context) => context,
            None => {
                let (flags, made) = (d.devices[device].primary_flags, maker(d));
                let context = d.new_context(device, flags, true, made);
                d.devices[device].primary = Some(context);
                context
            }
        };
        d.devices[device].primary_uses += 1;
        put(out, context)
    }
    Init fn cuDevicePrimaryCtxRelease_v2(d, device: i32) {
        let device = d.device(device)?;
        match d.devices[device].primary_uses {
            0 => return Err(Code::INVALID_CONTEXT),
            uses => d.devices[device].primary_uses = uses - 1,
        }
        if d.devices[device].primary_uses == 0
            && let Some(context) = d.devices[device].primary.take()
        {
            end(d, context);
        }
        Ok(())
    }
    Init fn cuDevicePrimaryCtxReset_v2(d, device: i32) {
        let device = d.device(device)?;
        // Who has retained it releases it all the same.
        if let Some(context) = d.devices[device].primary.take() {
            end(d, context);
        }
        Ok(())
    }
    Init fn cuDevicePrimaryCtxSetFlags_v2(d, device: i32, flags: u32) {
        let device = d.device(device)?;
        check_flags(flags)?;
        d.devices[device].primary_flags = flags;
        Ok(())
    }
    Init fn cuDevicePrimaryCtxGetState(d, device: i32, flags: *mut u32, active: *mut i32) {
        let device = d.device(device)?;
        put(flags, d.devices[device].primary_flags)?;
        put(active, i32::from(d.devices[device].primary.is_some()))
    }
    Init fn cuCtxCreate_v2(d, out: *mut Id, flags: u32, device: i32) {
        create(d, out, flags, device)
    }
    Init fn cuCtxCreate_v3(d, out: *mut Id, affinity: *const c_void, count: i32, flags: u32, device: i32) {
        if count != 0 || !affinity.is_null() {
            return Err(Code::UNSUPPORTED_EXEC_AFFINITY);
        }
        create(d, out, flags, device)
    }
    Init fn cuCtxCreate_v4(d, out: *mut Id, parameters: *const c_void, flags: u32, device: i32) {
        // Affinity and graphics interoperation.
        if !parameters.is_null() {
            return Err(Code::NOT_SUPPORTED);
        }
        create(d, out, flags, device)
    }
    Init fn cuCtxDestroy_v2(d, context: Id) {
        let known = d.contexts.get(&context).ok_or(Code::INVALID_CONTEXT)?;
        if known.primary {
            return Err(Code::INVALID_CONTEXT);
        }
        end(d, context);
        THREAD.with(|thread| {
            let mut stack = thread.contexts.borrow_mut();
            if stack.last() == Some(&context) {
                stack.pop();
            }
        });
        Ok(())
    }
    Init fn cuCtxPushCurrent_v2(d, context: Id) {
        if !d.contexts.contains_key(&context) {
            return Err(Code::INVALID_CONTEXT);
        }
        push_context(context);
        Ok(())
    }
    Init fn cuCtxPopCurrent_v2(d, out: *mut Id) {
        let popped = THREAD.with(|thread| thread.contexts.borrow_mut().pop()).ok_or(Code::INVALID_CONTEXT)?;
        put_if(out, popped);
        Ok(())
    }
    Init fn cuCtxSetCurrent(d, context: Id) {
        if context != 0 && !d.contexts.contains_key(&context) {
            return Err(Code::INVALID_CONTEXT);
        }
        THREAD.with(|thread| thread.contexts.borrow_mut().pop());
        if context != 0 {
            push_context(context);
        }
        Ok(())
    }
    Init fn cuCtxGetCurrent(d, out: *mut Id) {
        put(out, THREAD.with(|thread| thread.contexts.borrow().last().copied()).unwrap_or(0))
    }
    Init fn cuCtxGetDevice(d, device: *mut i32) {
        put(device, d.current_device()? as i32)
    }
    Init fn cuCtxGetDevice_v2(d, device: *mut i32, context: Id) {
        let context = if context == 0 { d.current()? } else { context };
        put(device, d.contexts.get(&context).ok_or(Code::INVALID_CONTEXT)?.device as i32)
    }
    Init fn cuCtxGetFlags(d, flags: *mut u32) {
        put(flags, d.contexts[&d.current()?].flags)
    }
    Init fn cuCtxSetFlags(d, flags: u32) {
        let context = d.current()?;
        check_flags(flags)?;
        d.contexts.get_mut(&context).ok_or(Code::INVALID_CONTEXT)?.flags = flags;
        Ok(())
    }
    Init fn cuCtxGetId(d, context: Id, out: *mut u64) {
        let context = if context == 0 { d.current()? } else { context };
        if !d.contexts.contains_key(&context) {
            return Err(Code::CONTEXT_IS_DESTROYED);
        }
        put(out, context)
    }
    Context fn cuCtxSynchronize(d) {
        let context = d.current()?;
        synchronize(d, context)
    }
    Init fn cuCtxSynchronize_v2(d, context: Id) {
        let context = if context == 0 { d.current()? } else { context };
        if !d.contexts.contains_key(&context) {
            return Err(Code::INVALID_CONTEXT);
        }
        synchronize(d, context)
    }
    Context fn cuCtxGetLimit(d, value: *mut usize, limit: u32) {
        if limit >= LIMITS {
            return Err(Code::UNSUPPORTED_LIMIT);
        }
        let context = &d.contexts[&d.current()?];
        put(value, context.limits.get(&limit).copied().unwrap_or_else(|| default_limit(limit)))
    }
    Context fn cuCtxSetLimit(d, limit: u32, value: usize) {
        if limit >= LIMITS {
            return Err(Code::UNSUPPORTED_LIMIT);
        }
        let context = d.current()?;
        d.contexts.get_mut(&context).ok_or(Code::INVALID_CONTEXT)?.limits.insert(limit, value);
        Ok(())
    }
    Context fn cuCtxGetCacheConfig(d, config: *mut u32) {
        put(config, d.contexts[&d.current()?].cache_config)
    }
    Context fn cuCtxSetCacheConfig(d, config: u32) {
        let context = d.current()?;
        d.contexts.get_mut(&context).ok_or(Code::INVALID_CONTEXT)?.cache_config = config;
        Ok(())
    }
    Context fn cuCtxGetSharedMemConfig(d, config: *mut u32) {
        put(config, d.contexts[&d.current()?].shared_config)
    }
    Context fn cuCtxSetSharedMemConfig(d, config: u32) {
        let context = d.current()?;
        d.contexts.get_mut(&context).ok_or(Code::INVALID_CONTEXT)?.shared_config = config;
        Ok(())
    }
    Context fn cuCtxGetStreamPriorityRange(d, least: *mut i32, greatest: *mut i32) {
        put_if(least, 0);
        put_if(greatest, -5);
        Ok(())
    }
    Context fn cuCtxResetPersistingL2Cache(d) {
        Ok(())
    }
    Init fn cuCtxGetApiVersion(d, context: Id, version: *mut u32) {
        if context != 0 && !d.contexts.contains_key(&context) {
            return Err(Code::INVALID_CONTEXT);
        }
        put(version, 3020)
    }
    Init fn cuCtxAttach(d, out: *mut Id, flags: u32) {
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        put(out, d.current()?)
    }
    Init fn cuCtxDetach(d, context: Id) {
        if d.current()? == context { Ok(()) } else { Err(Code::INVALID_CONTEXT) }
    }
}
