//! The files that paths and patterns name: a pattern's in the order of their names.

use std::path::PathBuf;

use aqueduct_runtime::{OperatorError, Result};

/// The files of `paths`, each a file or a pattern such as `data/*.csv`. Whether they exist is not looked at, but a
/// pattern matches at least one.
///
/// # Errors
///
/// A pattern that is none or matches nothing, a folder that cannot be listed, or no path at all.
pub(crate) fn find(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = vec![];
    for path in paths {
        let pattern = path.to_str().filter(|text| text.contains(['*', '?', '[']) && !path.exists());
        let Some(pattern) = pattern else {
            files.push(path.clone());
            continue;
        };
        let found = glob::glob(pattern).map_err(|e| OperatorError::new(format!("pattern `{pattern}`: {e}")))?;
        let mut found = found
            .map(|entry| entry.map_err(|e| OperatorError::io("listing", e.path().to_path_buf(), e.into())))
            .filter(|entry| !entry.as_ref().is_ok_and(|path: &PathBuf| path.is_dir()))
            .collect::<Result<Vec<_>>>()?;
        if found.is_empty() {
            return Err(OperatorError::new(format!("no file matches `{pattern}`")));
        }
        found.sort();
        files.extend(found);
    }
    if files.is_empty() {
        return Err(OperatorError::new("a source of files needs at least one"));
    }
    Ok(files)
}
