//! Questions to the hub and their answers.
//!
//! The hub's own clients do not fit. `hf-hub` 0.5 continues a file without looking at what the answer says it is, sends the token to another port of the
//! same host, reads neither `HF_TOKEN` nor `HF_HUB_CACHE` nor a proxy, has no time-outs, and trusts Mozilla's certificates alone; 1.0 brings an
//! asynchronous runtime, reqwest and hf-xet, some two hundred packages. So this is a thin client on ureq and rustls, of the two questions that `pull`
//! has: the list of a repository's files, and a file. A redirect is followed here, because the hub says in the redirect what the file is, and because
//! the token belongs to the hub alone: to its scheme, host and port.

use std::cell::Cell;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE, LOCATION};
use ureq::http::header::{CONTENT_LENGTH, RANGE, RETRY_AFTER, TRANSFER_ENCODING};
use ureq::http::{HeaderMap, Response, Uri};
use ureq::{Body, Timeout};

use super::error::HubError;
use super::net::Net;
use super::settings::{Env, Settings};

/// The branch whose files are fetched.
pub(super) const REVISION: &str = "main";
const REDIRECTS: usize = 10;
/// How often a question is asked again while no byte comes: of a server that answered before, and of one that was never reached.
const RETRIES: [u32; 2] = [5, 2];
/// The first pause between two tries; each is twice the one before, up to the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(8)];
/// A server that asks to wait longer is not waited for.
const LONGEST_WAIT: u64 = 600;

/// Why a question has no answer.
pub(super) enum Fault {
    /// It may have one later, after the time that the server named.
    Passing(String, Option<(u16, String, u64)>),
    /// It has none.
    Final(HubError),
}

impl From<HubError> for Fault {
    fn from(error: HubError) -> Fault {
        Fault::Final(error)
    }
}

/// A passing fault.
pub(super) fn passing(reason: impl Into<String>) -> Fault {
    Fault::Passing(reason.into(), None)
}

/// A user of the hub.
pub(super) struct Client<'a> {
    settings: Settings,
    net: Net<'a>,
    /// Whether the hub has answered.
    reached: Cell<bool>,
}

/// The first part of an answer; the rest of it is in `body`.
pub(super) struct Answer {
    /// 200, 206 or 416.
    pub(super) status: u16,
    /// The server that answered.
    pub(super) host: String,
    /// The commit that the hub named.
    pub(super) commit: Option<String>,
    /// What identifies the content: for large files their SHA-256.
    pub(super) etag: Option<String>,
    /// The tag of the server that sends it, as `If-Range` takes it.
    pub(super) tag: Option<String>,
    /// The first byte of a partial answer.
    pub(super) start: Option<u64>,
    /// The bytes of the whole file.
    pub(super) size: Option<u64>,
    /// Whether the end of the body is marked, so that an early end is an error.
    pub(super) framed: bool,
    /// Whether it is a web page.
    pub(super) page: bool,
    pub(super) body: Body,
}

/// What is asked for, for messages.
pub(super) struct Wanted<'a> {
    pub(super) repo: &'a str,
    /// `None`: the list of files.
    pub(super) file: Option<&'a str>,
}

impl Wanted<'_> {
    fn name(&self) -> String {
        match self.file {
            Some(file) => format!("{file} in {} at revision {REVISION}", self.repo),
            None => format!("repository {} with revision {REVISION}", self.repo),
        }
    }
}

/// A repository's commit and files.
#[derive(Deserialize)]
pub(super) struct Listing {
    #[serde(default)]
    pub(super) sha: Option<String>,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Listing {
    pub(super) fn names(&self) -> Vec<String> {
        self.siblings.iter().map(|file| file.rfilename.clone()).collect()
    }
}

impl<'a> Client<'a> {
    pub(super) fn new(env: Env<'a>) -> Result<Client<'a>, HubError> {
        let settings = Settings::new(env)?;
        let net = Net::new(env, settings.answer, settings.body);
        Ok(Client { settings, net, reached: Cell::new(false) })
    }

    /// A repository's files.
    pub(super) fn list(&self, repo: &str) -> Result<Listing, HubError> {
        let url = format!("{}/api/models/{repo}/revision/{REVISION}", self.settings.endpoint);
        let mut patience = self.patience();
        loop {
            let answer = self.get(&url, &Wanted { repo, file: None }, None, None).and_then(|mut answer| {
                if answer.page {
                    return Err(Fault::Final(web_page(&answer.host)));
                }
                let broken = |e| passing(format!("{}: {}", answer.host, broken_off(e)));
                let text = answer.body.read_to_string().map_err(broken)?;
                let wrong =
                    |e| HubError::Wrong(format!("{} does not answer as a hub: its list of files: {e}", answer.host));
                Ok(serde_json::from_str(&text).map_err(wrong)?)
            });
            match answer {
                Ok(listing) => return Ok(listing),
                Err(fault) => patience.wait(fault)?,
            }
        }
    }

    /// The address of a file.
    pub(super) fn url(&self, repo: &str, file: &str) -> String {
        // Names of files can hold whatever; repositories' names cannot.
        let escaped: Vec<String> =
            file.split('/').map(|part| percent_encoding::utf8_percent_encode(part, UNSAFE).to_string()).collect();
        format!("{}/{repo}/resolve/{REVISION}/{}", self.settings.endpoint, escaped.join("/"))
    }

    pub(super) fn patience(&self) -> Patience<'_> {
        Patience { reached: &self.reached, tries: 0 }
    }

    /// Asks for `url`, or for a part of it; follows redirects.
    pub(super) fn get(
        &self,
        url: &str,
        wanted: &Wanted<'_>,
        range: Option<String>,
        if_range: Option<&str>,
    ) -> Result<Answer, Fault> {
        let hub = origin(&self.uri(&self.settings.endpoint)?);
        let mut uri = self.uri(url)?;
        let mut told = Told::default();
        for _ in 0..REDIRECTS {
            let ours = origin(&uri) == hub;
            let response = self.ask(&uri, ours, range.as_deref(), if_range)?;
            if ours {
                told.hear(response.headers());
            }
            let status = response.status().as_u16();
            let next =
                text(response.headers(), LOCATION.as_str()).filter(|_| matches!(status, 301 | 302 | 303 | 307 | 308));
            let Some(next) = next else { return self.answer(response, &uri, ours, told, wanted) };
            let next = self.uri(&joined(&uri, &next))?;
            if uri.scheme_str() == Some("https") && next.scheme_str() != Some("https") && !told.is_checked() {
                let (from, to) = (host(&uri), host(&next));
                let reason =
                    format!("{from} sends us to {to} without encryption, and nothing tells what the file has to be");
                return Err(HubError::Wrong(reason).into());
            }
            uri = next;
        }
        Err(HubError::Wrong(format!("{} redirects {REDIRECTS} times", host(&uri))).into())
    }

    fn ask(&self, uri: &Uri, ours: bool, range: Option<&str>, if_range: Option<&str>) -> Result<Response<Body>, Fault> {
        let token = self.settings.token.as_ref().filter(|_| ours);
        let given = [
            token.map(|token| (AUTHORIZATION, format!("Bearer {}", token.text))),
            range.map(|range| (RANGE, range.to_owned())),
            if_range.map(|tag| (IF_RANGE, tag.to_owned())),
        ];
        let headers: Vec<_> = given.into_iter().flatten().collect();
        let response = self.net.get(uri, &headers)?.map_err(|error| unanswered(uri, error))?;
        self.reached.set(true);
        Ok(response)
    }

    /// The answer that is not a redirect.
    fn answer(
        &self,
        response: Response<Body>,
        uri: &Uri,
        ours: bool,
        told: Told,
        wanted: &Wanted<'_>,
    ) -> Result<Answer, Fault> {
        let (status, host, headers) = (response.status().as_u16(), host(uri), response.headers());
        let said = text(headers, "x-error-message").map_or_else(String::new, |said| format!(": {said}"));
        match status {
            200 | 206 | 416 => {}
            401 | 403 if ours => return Err(self.gated(wanted.repo, status, said).into()),
            404 if ours => return Err(HubError::NotFound { host, what: wanted.name(), said }.into()),
            // The address that the hub gave for the file has expired.
            401 | 403 | 404 | 410 | 408 | 429 | 500 | 502 | 503 | 504 => {
                let after = text(headers, RETRY_AFTER.as_str()).and_then(|text| text.trim().parse().ok());
                let reason = format!("{host} answers {status}{said}");
                return Err(Fault::Passing(reason, after.map(|seconds| (status, host, seconds))));
            }
            407 => {
                let reason = "the proxy wants to know who asks: HTTPS_PROXY=http://NAME:PASSWORD@HOST:PORT";
                return Err(HubError::Wrong(reason.into()).into());
            }
            _ => return Err(HubError::Status { host, status, said }.into()),
        }
        if let Some(coding) = text(headers, CONTENT_ENCODING.as_str()).filter(|coding| coding != "identity") {
            return Err(
                HubError::Wrong(format!("{host} sends the file packed ({coding}), which nobody asked for")).into()
            );
        }
        let range = text(headers, CONTENT_RANGE.as_str());
        let range = range.as_deref().and_then(|range| range.strip_prefix("bytes ")?.split_once('/'));
        let length = text(headers, CONTENT_LENGTH.as_str()).and_then(|length| length.parse::<u64>().ok());
        let whole = if status == 200 { length } else { range.and_then(|(_, size)| size.parse().ok()) };
        let tag = text(headers, ETAG.as_str());
        Ok(Answer {
            status,
            commit: told.commit,
            etag: told
                .linked
                .or_else(|| tag.clone().filter(|_| ours))
                .or(told.etag)
                .or_else(|| tag.clone())
                .map(|t| bare(&t)),
            // A weak tag says that the content is alike, not the same.
            tag: tag.filter(|tag| !tag.starts_with("W/")),
            start: range.and_then(|(range, _)| range.split_once('-')?.0.trim().parse().ok()),
            size: whole.or(told.size.filter(|_| status != 416)),
            framed: length.is_some() || headers.contains_key(TRANSFER_ENCODING),
            page: text(headers, CONTENT_TYPE.as_str()).is_some_and(|kind| kind.starts_with("text/html")),
            host,
            body: response.into_body(),
        })
    }

    fn gated(&self, repo: &str, status: u16, said: String) -> HubError {
        let sent = match &self.settings.token {
            Some(token) => format!("the token of {} does not open it", token.source),
            None => "no token was sent".to_owned(),
        };
        HubError::Gated { repo: repo.to_owned(), status, sent, said }
    }

    fn uri(&self, url: &str) -> Result<Uri, Fault> {
        let uri: Option<Uri> = url.parse().ok();
        let known = uri.filter(|uri| uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https")));
        known.ok_or_else(|| HubError::Wrong(format!("`{url}` is no address of the web")).into())
    }
}

/// What stays as it is in the path of an address.
const UNSAFE: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'+').remove(b'=');

/// What the hub says of a file on the way to it.
#[derive(Default)]
struct Told {
    commit: Option<String>,
    linked: Option<String>,
    etag: Option<String>,
    size: Option<u64>,
}

impl Told {
    fn hear(&mut self, headers: &HeaderMap) {
        let newer = |name, old: &mut Option<String>| *old = text(headers, name).or(old.take());
        newer("x-repo-commit", &mut self.commit);
        newer("x-linked-etag", &mut self.linked);
        newer(ETAG.as_str(), &mut self.etag);
        self.size = text(headers, "x-linked-size").and_then(|size| size.parse().ok()).or(self.size);
    }

    /// Whether the content can be checked, wherever it comes from.
    fn is_checked(&self) -> bool {
        self.linked.as_deref().is_some_and(|etag| is_sha256(&bare(etag)))
    }
}

/// Whether an etag is the content's SHA-256, as it is for large files.
pub(super) fn is_sha256(etag: &str) -> bool {
    etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Waits between tries, and gives up in the end.
pub(super) struct Patience<'a> {
    reached: &'a Cell<bool>,
    tries: u32,
}

impl Patience<'_> {
    /// Bytes came: the next fault is the first again.
    pub(super) fn progressed(&mut self) {
        self.tries = 0;
    }

    /// Waits before the next try.
    ///
    /// # Errors
    /// The fault, if it is final, or if there were enough tries.
    pub(super) fn wait(&mut self, fault: Fault) -> Result<(), HubError> {
        let (reason, after) = match fault {
            Fault::Final(error) => return Err(error),
            Fault::Passing(reason, after) => (reason, after),
        };
        self.tries += 1;
        if self.tries > RETRIES[usize::from(!self.reached.get())] {
            return Err(HubError::Gone { reason, tries: self.tries });
        }
        let pause = match after {
            Some((status, host, seconds)) if seconds > LONGEST_WAIT => {
                return Err(HubError::Later { host, status, seconds });
            }
            Some((_, _, seconds)) => Duration::from_secs(seconds),
            None => (PAUSES[0] * 2u32.pow(self.tries - 1)).min(PAUSES[1]),
        };
        tracing::warn!("{reason}; asking again in {:.1} s", pause.as_secs_f64());
        std::thread::sleep(pause);
        Ok(())
    }
}

/// Why there is no answer at all.
fn unanswered(uri: &Uri, error: ureq::Error) -> Fault {
    let host = host(uri);
    let words = error.to_string();
    match error {
        ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
            passing(format!("{host} cannot be reached: no connection in time (HF_HUB_ETAG_TIMEOUT)"))
        }
        ureq::Error::Timeout(_) => passing(format!("{host} does not answer in time (HF_HUB_ETAG_TIMEOUT)")),
        ureq::Error::HostNotFound => passing(format!("{host} cannot be reached: no such host")),
        ureq::Error::ConnectProxyFailed(_) => {
            Fault::Final(HubError::Wrong(format!("the proxy does not let us to {host}: {words}")))
        }
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) => Fault::Final(untrusted(&host, &words)),
        ureq::Error::Io(io) if io.kind() == std::io::ErrorKind::InvalidData => Fault::Final(untrusted(&host, &words)),
        ureq::Error::Io(io) => passing(format!("{host} cannot be reached: {io}")),
        _ => passing(format!("{host} cannot be reached: {words}")),
    }
}

/// Why an answer has no end.
pub(super) fn broken_off(error: ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => "nothing more came in time (HF_HUB_DOWNLOAD_TIMEOUT)".into(),
        ureq::Error::Io(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => "the connection broke off".into(),
        other => other.to_string(),
    }
}

fn untrusted(host: &str, words: &str) -> HubError {
    HubError::Wrong(format!(
        "{host} is not trusted: {words}\nif a proxy or a mirror has a certificate of its own, name its file: SSL_CERT_FILE=FILE.pem"
    ))
}

/// For an answer that is meant for a browser.
pub(super) fn web_page(host: &str) -> HubError {
    HubError::Wrong(format!(
        "{host} answers with a web page: is it the login page of a network, or is HF_ENDPOINT not the address of a hub?"
    ))
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// An etag without its quotes.
fn bare(etag: &str) -> String {
    etag.trim().trim_start_matches("W/").trim_matches('"').to_owned()
}

/// Scheme, host and port: whom a token is for.
fn origin(uri: &Uri) -> (String, String, u16) {
    let scheme = uri.scheme_str().unwrap_or_default().to_lowercase();
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    (scheme, uri.host().unwrap_or_default().to_lowercase(), port)
}

/// Host and port as an address has them.
fn host(uri: &Uri) -> String {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    authority.rsplit('@').next().unwrap_or_default().to_owned()
}

/// Where a redirect from `uri` to `location` leads.
fn joined(uri: &Uri, location: &str) -> String {
    let scheme = uri.scheme_str().unwrap_or_default();
    let origin = format!("{scheme}://{}", uri.authority().map_or("", |authority| authority.as_str()));
    let beside = |name: &str| match location {
        "" => name.to_owned(),
        _ => format!("{}/{location}", name.rsplit_once('/').map_or("", |(folder, _)| folder)),
    };
    if location.contains("://") && !location.starts_with('/') {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        origin + location
    } else {
        origin + &beside(uri.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_they_say() {
        let from: Uri = "https://hub:8443/a/b?x=1".parse().unwrap();
        for (location, to) in [
            ("http://cdn/x?sig=https://y", "http://cdn/x?sig=https://y"),
            ("//cdn/x", "https://cdn/x"),
            ("/api/x?from=http://y", "https://hub:8443/api/x?from=http://y"),
            ("c", "https://hub:8443/a/c"),
        ] {
            assert_eq!(joined(&from, location), to);
        }
        let of = |uri: &str| origin(&uri.parse().unwrap());
        assert_eq!(of("https://Hub/x"), of("https://hub:443/y"));
        for other in ["http://hub/x", "https://hub:8443/x", "https://hub.evil/x", "https://evil@hub2/x"] {
            assert_ne!(of("https://hub/x"), of(other));
        }
    }
}
