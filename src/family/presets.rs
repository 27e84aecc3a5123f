//! Cache presets that belong to a model.

use std::path::Path;

use crate::cache::Presets;
use crate::model::ModelError;
use crate::pipeline::PipelineError;

/// The cache presets in a model's `codebooks.json`, or `otherwise` if there is no such file.
pub(super) fn presets_in(path: &Path, otherwise: Presets) -> Result<Presets, PipelineError> {
    let file = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => presets_of(&text, file),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(otherwise),
        Err(source) => Err(ModelError::Io { file, source }.into()),
    }
}

/// The cache presets in `text`, the content of `file`.
pub(super) fn presets_of(text: &str, file: String) -> Result<Presets, PipelineError> {
    serde_json::from_str(text.trim_start_matches('\u{feff}'))
        .map_err(|e| ModelError::Config { file, reason: format!("not a set of codebooks: {e}") }.into())
}
