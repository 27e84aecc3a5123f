//! The files of a sprites model: inside the program, or in a folder.

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::OnceLock;

use flate2::read::ZlibDecoder;

use crate::model::{ModelError, Weights};
use crate::pipeline::{FileContent, ModelFile};

/// The files of a model inside the program.
#[derive(Debug)]
pub struct Embedded {
    /// The model's name.
    pub(super) name: &'static str,
    files: [(&'static str, &'static [u8]); 4],
    model: Packed,
}

/// The transformer's weights as build.rs packs them.
#[derive(Debug)]
struct Packed {
    zlib: &'static [u8],
    content: OnceLock<Vec<u8>>,
}

macro_rules! embedded {
    ($name:literal) => {
        embedded!(@ $name, "config.json", "codebooks.json", "decoder.safetensors", "text.safetensors")
    };
    (@ $name:literal, $($file:literal),*) => {
        Embedded {
            name: $name,
            files: [$(($file, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/", $name, "/", $file)))),*],
            model: Packed {
                zlib: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".zlib")),
                content: OnceLock::new(),
            },
        }
    };
}

/// `models/sprites`.
pub(super) static STDIT3: Embedded = embedded!("sprites");
/// `models/sprites-wan`.
pub(super) static WAN: Embedded = embedded!("sprites-wan");

/// The file of the transformer's weights in the program.
const MODEL_FILE: &str = "model.gguf";
/// What it may be called in a folder, the first that is there before the second.
pub(super) const MODEL_FILES: [&str; 2] = ["model.safetensors", MODEL_FILE];

impl Embedded {
    fn get(&'static self, name: &str) -> Option<&'static [u8]> {
        if name == MODEL_FILE {
            return Some(self.model.content());
        }
        self.files.iter().find(|(file, _)| *file == name).map(|(_, content)| *content)
    }

    fn file(&'static self, name: &str) -> &'static [u8] {
        self.get(name).unwrap_or_default()
    }
}

impl Packed {
    /// The file, unpacked once.
    fn content(&self) -> &[u8] {
        self.content.get_or_init(|| {
            let mut content = vec![];
            ZlibDecoder::new(self.zlib).read_to_end(&mut content).expect("the build script packed it");
            content
        })
    }
}

/// The location of the model's files.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Program(&'static Embedded),
    Folder(PathBuf),
}

impl Place {
    /// The name of one of the files for messages.
    pub(super) fn name_of(&self, file: &str) -> String {
        match self {
            Place::Program(embedded) => format!("{}/{file}", embedded.name),
            Place::Folder(folder) => folder.join(file).display().to_string(),
        }
    }

    pub(super) fn text(&self, file: &str) -> Result<String, ModelError> {
        match self {
            Place::Program(embedded) => Ok(String::from_utf8_lossy(embedded.file(file)).into_owned()),
            Place::Folder(folder) => std::fs::read_to_string(folder.join(file))
                .map_err(|source| ModelError::Io { file: self.name_of(file), source }),
        }
    }

    pub(super) fn weights(&self, file: &str) -> Result<Weights<'static>, ModelError> {
        match self {
            Place::Program(embedded) => Weights::from_bytes(&self.name_of(file), embedded.file(file)),
            Place::Folder(folder) => Weights::open(&folder.join(file)),
        }
    }

    /// The file of the transformer's weights.
    pub(super) fn model(&self) -> &'static str {
        match self {
            Place::Program(_) => MODEL_FILE,
            Place::Folder(_) => {
                MODEL_FILES.into_iter().find(|name| self.file(name).is_some()).unwrap_or(MODEL_FILES[0])
            }
        }
    }

    /// One of the files, if it is there.
    pub(super) fn file(&self, name: &str) -> Option<ModelFile> {
        let content = match self {
            Place::Program(embedded) => FileContent::Embedded(embedded.get(name)?),
            Place::Folder(folder) => FileContent::OnDisk(Some(folder.join(name)).filter(|path| path.is_file())?),
        };
        Some(ModelFile { name: name.into(), content })
    }

    /// The folder of the video autoencoder, if the model has one.
    pub(super) fn vae(&self) -> Option<PathBuf> {
        match self {
            Place::Program(_) => None,
            Place::Folder(folder) => Some(folder.join("vae")).filter(|vae| vae.is_dir()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpacked_weights_are_those_of_the_file() {
        for embedded in [&STDIT3, &WAN] {
            let file = std::path::Path::new("models").join(embedded.name).join(MODEL_FILE);
            assert!(embedded.model.content() == std::fs::read(&file).unwrap(), "{}", file.display());
        }
    }
}
