//! The device that a command runs on: its options, and opening it so that a signal can interrupt it.

use adacache::device::{Device, DeviceError};

use crate::interrupt;

/// What is taken where no device is named.
const AUTO: &str = "auto";

/// Which device.
#[derive(clap::Args)]
#[group(id = "device_choice")]
pub(crate) struct Choice {
    /// auto, vm, vm:checked, cuda, cuda:N
    ///
    /// auto takes a GPU if a driver answers, else the virtual GPU. There are also vm:truncate, vm:adverse:SEED and vm:sm_90. $ADACACHE_DEVICE takes the place of a missing --device.
    #[arg(long, env = "ADACACHE_DEVICE", default_value = AUTO, hide_env = true)]
    device: String,
}

/// Which device, for commands that run whole models.
#[derive(clap::Args)]
#[group(id = "device_options")]
pub(crate) struct Options {
    #[command(flatten)]
    choice: Choice,
    /// Submit every launch on its own, without CUDA graphs. The results are the same; try it if a driver has trouble with graphs
    #[arg(long, hide_short_help = true)]
    no_graphs: bool,
}

impl Choice {
    pub(crate) fn open(&self) -> anyhow::Result<Device> {
        // An empty variable is none.
        open(if self.device.is_empty() { AUTO } else { &self.device })
    }
}

impl Options {
    pub(crate) fn open(&self) -> anyhow::Result<Device> {
        Ok(self.set(self.choice.open()?))
    }

    /// The devices of these names in its place, or itself if there are none.
    pub(crate) fn open_all(&self, names: &[String]) -> anyhow::Result<Vec<Device>> {
        if names.is_empty() {
            return Ok(vec![self.open()?]);
        }
        names.iter().map(|name| Ok(self.set(open(name.trim())?))).collect()
    }

    /// `device` with these settings.
    fn set(&self, device: Device) -> Device {
        device.use_graphs(!self.no_graphs);
        device
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
    use adacache::quality::QualityError;
    macro_rules! any_of {
        ($($kind:ty),*) => { $(error.downcast_ref::<$kind>().is_some_and(<$kind>::is_stop))||* };
    }
    any_of!(PipelineError, CalibrateError, CheckError, QualityError, ModelError, OpError, DeviceError)
}
