//! The perceptual networks there are.

/// Which network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// LPIPS 0.1 on AlexNet. The file's names: torchvision's `features.0.weight` … `features.10.bias`, and `lin0.model.1.weight` …
    /// `lin4.model.1.weight` of the package `lpips`.
    Lpips,
    /// ST-LPIPS on its own AlexNet. The file's names are those of the package `stlpips-pytorch`: `net.slice1.0.weight` …
    /// `net.slice5.13.bias`, `lin0.model.1.weight` … `lin4.model.1.weight`.
    ShiftTolerant,
}

impl Form {
    /// Its name among people.
    pub fn name(self) -> &'static str {
        match self {
            Form::Lpips => "LPIPS",
            Form::ShiftTolerant => "ST-LPIPS",
        }
    }

    /// The name of its weights in the folder of models (see [`cache_dir`](crate::hub::cache_dir)).
    pub fn file(self) -> &'static str {
        match self {
            Form::Lpips => "lpips.safetensors",
            Form::ShiftTolerant => "stlpips.safetensors",
        }
    }

    /// The shell commands that make its weights.
    pub fn made_by(self) -> &'static str {
        match self {
            Form::Lpips => {
                "pip install --no-deps lpips && python tools/perceptual_weights.py lpips --alexnet alexnet-owt-7be5be79.pth"
            }
            Form::ShiftTolerant => {
                "pip install --no-deps stlpips-pytorch && python tools/perceptual_weights.py stlpips"
            }
        }
    }

    /// Where its convolutions are in the file.
    pub(super) fn convolutions(self) -> [&'static str; 5] {
        match self {
            Form::Lpips => ["features.0", "features.3", "features.6", "features.8", "features.10"],
            Form::ShiftTolerant => ["net.slice1.0", "net.slice2.5", "net.slice3.9", "net.slice4.11", "net.slice5.13"],
        }
    }

    /// What is constant and may lie in the file as well, since the package's own file has it.
    pub(super) fn constants(self) -> &'static [&'static str] {
        match self {
            Form::Lpips => &[],
            Form::ShiftTolerant => &[
                "scaling_layer.shift",
                "scaling_layer.scale",
                "net.slice1.1.filt",
                "net.slice2.4.filt",
                "net.slice3.8.filt",
            ],
        }
    }

    /// Pixels on the shorter side of the smallest picture that every layer has something to look at.
    pub fn least(self) -> usize {
        match self {
            Form::Lpips => 31,
            Form::ShiftTolerant => 21,
        }
    }
}
