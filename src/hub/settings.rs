//! The environment as the hub's own client, `huggingface_hub`, reads it: which server, as whom, how long to wait, and where files are kept.
//!
//! | variable | what it sets |
//! |--|--|
//! | `HF_ENDPOINT` | the hub's address |
//! | `HF_TOKEN`, then `HUGGING_FACE_HUB_TOKEN`, then the file `HF_TOKEN_PATH` (`$HF_HOME/token`) | the token |
//! | `HF_HUB_DISABLE_IMPLICIT_TOKEN` | no token is sent |
//! | `HF_HUB_OFFLINE`, else `TRANSFORMERS_OFFLINE` | no server is asked |
//! | `HF_HUB_CACHE`, then `HUGGINGFACE_HUB_CACHE`, then `$HF_HOME/hub` | the cache |
//! | `HF_HOME`, else `$XDG_CACHE_HOME/huggingface`, else `~/.cache/huggingface` | the folder of both |
//! | `HF_HUB_ETAG_TIMEOUT`, `HF_HUB_DOWNLOAD_TIMEOUT` | seconds to wait for an answer, and for more of a file |
//!
//! An empty variable is one that is not set.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::error::HubError;

const ENDPOINT: &str = "https://huggingface.co";
/// The hub's own client waits as long.
const TIMEOUT: u64 = 10;

/// Reads a variable; `None` if it is not set, or empty.
pub(super) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The variables of this process.
pub(super) fn process(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The token, and where it came from.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) source: String,
}

/// What the environment says.
pub(super) struct Settings {
    /// The hub's address, without a slash at the end.
    pub(super) endpoint: String,
    pub(super) token: Option<Token>,
    /// The time to wait for an answer.
    pub(super) answer: Duration,
    /// The time to wait for more of a file.
    pub(super) body: Duration,
}

/// The cache of the hub's own client.
pub(super) struct HubCache {
    /// Its folder.
    pub(super) folder: PathBuf,
    /// Whether a variable of the hub names it.
    pub(super) named: bool,
}

impl Settings {
    /// # Errors
    /// [`HubError::Setting`] if a variable has a value that means nothing.
    pub(super) fn new(env: Env<'_>) -> Result<Settings, HubError> {
        let endpoint = env("HF_ENDPOINT").map_or_else(|| ENDPOINT.to_owned(), |e| e.trim_end_matches('/').to_owned());
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            let expected = "an address that begins with https:// (or http://)";
            return Err(HubError::Setting { name: "HF_ENDPOINT".into(), value: endpoint, expected });
        }
        Ok(Settings {
            endpoint,
            token: token(env)?,
            answer: seconds(env, "HF_HUB_ETAG_TIMEOUT")?,
            body: seconds(env, "HF_HUB_DOWNLOAD_TIMEOUT")?,
        })
    }
}

/// The variable that forbids to ask a server, if one does.
pub(super) fn offline(env: Env<'_>) -> Option<&'static str> {
    // The first one that is set decides, even if it says no.
    let name = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().find(|name| env(name).is_some())?;
    is_true(env, name).then_some(name)
}

/// The cache that the hub's own client uses.
pub(super) fn hub_cache(env: Env<'_>) -> HubCache {
    let named = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"].into_iter().find_map(env);
    HubCache {
        named: named.is_some() || env("HF_HOME").is_some(),
        folder: named.map_or_else(|| home(env).join("hub"), |path| expanded(&path, env)),
    }
}

/// The folder of the token and the cache.
fn home(env: Env<'_>) -> PathBuf {
    let cache = || match env("XDG_CACHE_HOME") {
        Some(path) => PathBuf::from(path),
        None => std::env::home_dir().unwrap_or_else(|| PathBuf::from(".")).join(".cache"),
    };
    env("HF_HOME").map_or_else(|| cache().join("huggingface"), |path| expanded(&path, env))
}

fn token(env: Env<'_>) -> Result<Option<Token>, HubError> {
    if is_true(env, "HF_HUB_DISABLE_IMPLICIT_TOKEN") {
        return Ok(None);
    }
    let clean = |text: String| {
        let text = text.replace(['\r', '\n'], "").trim().to_owned();
        (!text.is_empty()).then_some(text)
    };
    let variable = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].into_iter().find_map(|name| Some((name, env(name)?)));
    let variable = variable.and_then(|(name, text)| Some(Token { text: clean(text)?, source: name.to_owned() }));
    let file = || {
        let path = env("HF_TOKEN_PATH").map_or_else(|| home(env).join("token"), |path| expanded(&path, env));
        let text = clean(fs::read_to_string(&path).ok()?)?;
        Some(Token { text, source: path.display().to_string() })
    };
    let token = variable.or_else(file);
    match token {
        Some(token) if !token.text.bytes().all(|b| b.is_ascii_graphic()) => {
            // A token is a secret: it is not shown.
            Err(HubError::Setting { name: token.source, value: "…".into(), expected: "a token, one word of ASCII" })
        }
        token => Ok(token),
    }
}

fn is_true(env: Env<'_>, name: &str) -> bool {
    env(name).is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str()))
}

fn seconds(env: Env<'_>, name: &str) -> Result<Duration, HubError> {
    let Some(value) = env(name) else { return Ok(Duration::from_secs(TIMEOUT)) };
    match value.trim().parse() {
        // As in the hub's own client.
        Ok(0) => Ok(Duration::from_secs(TIMEOUT)),
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => Err(HubError::Setting { name: name.into(), value, expected: "a whole number of seconds" }),
    }
}

/// `path` with `~`, `$NAME` and `${NAME}` replaced; a name that is not set stays.
fn expanded(path: &str, env: Env<'_>) -> PathBuf {
    let mut text = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('$') {
        let (name, end) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some((name, end)) => (name, end),
            None => after.split_at(after.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(after.len())),
        };
        let written = &rest[before.len()..rest.len() - end.len()];
        text += before;
        text += &env(name).unwrap_or_else(|| written.to_owned());
        rest = end;
    }
    text += rest;
    match (text.strip_prefix('~'), std::env::home_dir()) {
        (Some(""), Some(home)) => home,
        (Some(below), Some(home)) if below.starts_with('/') => home.join(&below[1..]),
        _ => PathBuf::from(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An environment of these variables alone.
    fn with<'a>(variables: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| variables.iter().find(|(n, v)| *n == name && !v.is_empty()).map(|(_, v)| (*v).to_owned())
    }

    fn token_of(variables: &[(&str, &str)]) -> Option<String> {
        Settings::new(&with(variables)).unwrap().token.map(|token| token.text)
    }

    #[test]
    fn the_token_comes_from_the_first_place_that_has_one() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("token"), " hf_file\n").unwrap();
        fs::write(dir.path().join("other"), "hf_other").unwrap();
        let home = ("HF_HOME", dir.path().to_str().unwrap());
        assert_eq!(token_of(&[home]).as_deref(), Some("hf_file"));
        assert_eq!(token_of(&[home, ("HF_TOKEN_PATH", "$HF_HOME/other")]).as_deref(), Some("hf_other"));
        assert_eq!(token_of(&[home, ("HUGGING_FACE_HUB_TOKEN", "hf_old")]).as_deref(), Some("hf_old"));
        let both = [home, ("HUGGING_FACE_HUB_TOKEN", "hf_old"), ("HF_TOKEN", "hf_new\r\n")];
        assert_eq!(token_of(&both).as_deref(), Some("hf_new"));
        // What has no text in it is none.
        assert_eq!(token_of(&[home, ("HF_TOKEN", " ")]).as_deref(), Some("hf_file"));
        assert_eq!(token_of(&[home, ("HF_TOKEN", "hf_x"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "yes")]), None);
        let error = Settings::new(&with(&[("HF_TOKEN", "hf secret")])).err().unwrap().to_string();
        assert!(error.contains("HF_TOKEN") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn folders_and_switches_are_read_as_the_hubs_client_does() {
        let cache = |variables: &[(&str, &str)]| hub_cache(&with(variables)).folder;
        assert_eq!(cache(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")]), PathBuf::from("/c"));
        assert_eq!(cache(&[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/c")]), PathBuf::from("/c"));
        assert_eq!(cache(&[("HF_HOME", "/h")]), PathBuf::from("/h/hub"));
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/x")]), PathBuf::from("/x/huggingface/hub"));
        assert_eq!(cache(&[("HF_HUB_CACHE", "${SCRATCH}/a$SCRATCH$b"), ("SCRATCH", "/s")]), PathBuf::from("/s/a/s$b"));
        assert_eq!(cache(&[("HF_HUB_CACHE", "~/c")]), std::env::home_dir().unwrap().join("c"));
        assert!(hub_cache(&with(&[("HF_HOME", "/h")])).named && !hub_cache(&with(&[("XDG_CACHE_HOME", "/x")])).named);
        for (variables, name) in [
            (&[("HF_HUB_OFFLINE", "1")][..], Some("HF_HUB_OFFLINE")),
            (&[("HF_HUB_OFFLINE", "true"), ("TRANSFORMERS_OFFLINE", "1")], Some("HF_HUB_OFFLINE")),
            (&[("TRANSFORMERS_OFFLINE", "ON")], Some("TRANSFORMERS_OFFLINE")),
            (&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")], None),
            (&[], None),
        ] {
            assert_eq!(offline(&with(variables)), name, "{variables:?}");
        }
        let settings =
            Settings::new(&with(&[("HF_ENDPOINT", "http://mirror/hf/"), ("HF_HUB_ETAG_TIMEOUT", "3")])).unwrap();
        assert_eq!(
            (settings.endpoint.as_str(), settings.answer.as_secs(), settings.body.as_secs()),
            ("http://mirror/hf", 3, 10)
        );
        for wrong in [("HF_ENDPOINT", "mirror"), ("HF_HUB_DOWNLOAD_TIMEOUT", "soon")] {
            let error = Settings::new(&with(&[wrong])).err().unwrap().to_string();
            assert!(error.contains(wrong.0) && error.contains(wrong.1), "{error}");
        }
    }
}
