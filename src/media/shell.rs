//! File names in commands that a message tells.

use std::path::Path;

/// `path` as one word of a POSIX shell that ffmpeg and others take for a file: a relative one that looks like an option or an address
/// (`-x.mp4`, `12:30.mp4`) begins with `./`.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let text = if text.starts_with('-') || text.split('/').next().is_some_and(|first| first.contains(':')) {
        format!("./{text}")
    } else {
        text
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "_%+=:,./-@".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        for name in [
            "a.mp4",
            "my video.mp4",
            "it's.mp4",
            "a\"b$HOME`x`.mp4",
            "a\nb.mp4",
            "*?[x].mp4",
            "a;b&c|d>e.mp4",
            "~.mp4",
            "a\\b",
        ] {
            let command = format!("printf %s {}", quoted(Path::new(name)));
            let output = std::process::Command::new("sh").args(["-c", &command]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), name);
        }
        for (name, word) in [
            ("-x.mp4", "./-x.mp4"),
            ("12:30 h.mp4", "'./12:30 h.mp4'"),
            ("/a:b/c.mp4", "/a:b/c.mp4"),
            ("a/b:c.mp4", "a/b:c.mp4"),
            ("", "''"),
        ] {
            assert_eq!(quoted(Path::new(name)), word);
        }
    }
}
