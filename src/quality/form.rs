//! The perceptual networks.

/// A perceptual network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Form {
    /// LPIPS 0.1 on AlexNet. Tensor names in the file: torchvision's `features.0.weight` … `features.10.bias`, and `lin0.model.1.weight` …
    /// `lin4.model.1.weight` of the package `lpips`.
    Lpips,
    /// ST-LPIPS on its own AlexNet. Tensor names in the file are those of the package `stlpips-pytorch`: `net.slice1.0.weight` …
    /// `net.slice5.13.bias`, `lin0.model.1.weight` … `lin4.model.1.weight`.
    ShiftTolerant,
}

impl Form {
    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Form::Lpips => "LPIPS",
            Form::ShiftTolerant => "ST-LPIPS",
        }
    }

    /// The file name of its weights in the folder of models (see [`cache_dir`](crate::hub::cache_dir)).
    pub fn file(self) -> &'static str {
        match self {
            Form::Lpips => "lpips.safetensors",
            Form::ShiftTolerant => "stlpips.safetensors",
        }
    }

    /// The shell commands that create its weights.
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

    /// The names of its convolutions in the file.
    pub(super) fn convolutions(self) -> [&'static str; 5] {
        match self {
            Form::Lpips => ["features.0", "features.3", "features.6", "features.8", "features.10"],
            Form::ShiftTolerant => ["net.slice1.0", "net.slice2.5", "net.slice3.9", "net.slice4.11", "net.slice5.13"],
        }
    }

    /// Constant tensors that the file may contain as well, since the package's own file does.
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

    /// The shorter side in pixels of the smallest picture for which no layer is empty.
    pub fn least(self) -> usize {
        match self {
            Form::Lpips => 31,
            Form::ShiftTolerant => 21,
        }
    }
}
