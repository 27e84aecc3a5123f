//! The device that a command runs on: its options, and opening it so that a signal can interrupt it.

use adacache::device::{Device, DeviceError};

use crate::interrupt;

/// Which device.
#[derive(clap::Args)]
#[group(id = "device_choice")]
pub(crate) struct Choice {
    /// Device to run on: auto (a GPU if a driver answers, else the virtual GPU), vm, vm:checked, vm:truncate, vm:adverse:SEED, cuda or cuda:N
    #[arg(long, env = "ADACACHE_DEVICE", default_value = "auto")]
    device: String,
}

/// Which device, for commands that run whole models.
#[derive(clap::Args)]
#[group(id = "device_options")]
pub(crate) struct Options {
    #[command(flatten)]
    choice: Choice,
    /// Submit every launch on its own, without CUDA graphs. The results are the same; try it if a driver has trouble with graphs
    #[arg(long)]
    no_graphs: bool,
}

impl Choice {
    pub(crate) fn open(&self) -> anyhow::Result<Device> {
        open(&self.device)
    }
}

impl Options {
    pub(crate) fn open(&self) -> anyhow::Result<Device> {
        let device = self.choice.open()?;
        device.use_graphs(!self.no_graphs);
        Ok(device)
    }
}

/// Opens a device by its name. From now on Ctrl-C and SIGTERM interrupt it.
pub(crate) fn open(name: &str) -> anyhow::Result<Device> {
    interrupt::install()?;
    let device = Device::open(name)?;
    interrupt::watch(&device);
    Ok(device)
}

/// Whether a command failed because its device was interrupted, or its callback stopped it.
pub(crate) fn is_stop(error: &anyhow::Error) -> bool {
    use adacache::calibrate::CalibrateError;
    use adacache::check::CheckError;
    use adacache::model::ModelError;
    use adacache::ops::OpError;
    use adacache::pipeline::PipelineError;
    macro_rules! any_of {
        ($($kind:ty),*) => { $(error.downcast_ref::<$kind>().is_some_and(<$kind>::is_stop))||* };
    }
    any_of!(PipelineError, CalibrateError, CheckError, ModelError, OpError, DeviceError)
}
