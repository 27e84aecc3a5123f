//! Connections: time-outs, proxies and certificates.
//!
//! **Proxies.** They are asked for a tunnel; one that makes none to servers without encryption is given the requests for those. `https_proxy` for addresses that begin with https, `http_proxy` for the others, `all_proxy` for both, in small or capital letters;
//! `http://`, `https://`, `socks4://` and `socks5://`. `no_proxy` lists hosts that are asked directly: `host`, which stands for what is below it
//! too, `host:port`, `*`.
//!
//! **Certificates.** `SSL_CERT_FILE` and `SSL_CERT_DIR`, else `REQUESTS_CA_BUNDLE` or `CURL_CA_BUNDLE`, else those of the system, else Mozilla's.

use std::cell::{Cell, OnceCell};
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_native_certs::{CertificateResult, load_certs_from_paths, load_native_certs};
use ureq::config::Config;
use ureq::http::header::{HeaderName, PROXY_AUTHORIZATION};
use ureq::http::{Response, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body, Error, Proxy, ProxyProtocol};

use super::error::HubError;
use super::forward;
use super::settings::Env;

const USER_AGENT: &str = concat!("adacache/", env!("CARGO_PKG_VERSION"));

/// Opens connections.
pub(super) struct Net<'a> {
    env: Env<'a>,
    answer: Duration,
    body: Duration,
    /// Reading certificates takes a while, and not every server has one.
    roots: OnceCell<RootCerts>,
    /// Whether the proxy forwards what it makes no tunnel for.
    forwards: Cell<bool>,
}

type Headers<'h> = &'h [(HeaderName, String)];

impl<'a> Net<'a> {
    /// Waits `answer` for an answer to begin, and `body` for more of it.
    pub(super) fn new(env: Env<'a>, answer: Duration, body: Duration) -> Net<'a> {
        Net { env, answer, body, roots: OnceCell::new(), forwards: Cell::new(false) }
    }

    /// Asks the server of `uri`. Every status is an answer, redirects too.
    pub(super) fn get(&self, uri: &Uri, headers: Headers<'_>) -> Result<Result<Response<Body>, Error>, HubError> {
        let proxy = proxy(uri, self.env)?;
        let plain = |proxy: &&Proxy| proxy.protocol() == ProxyProtocol::Http && uri.scheme_str() == Some("http");
        let forwarding = proxy.clone().as_ref().filter(plain).cloned();
        if let Some(proxy) = forwarding.as_ref().filter(|_| self.forwards.get()) {
            return self.forwarded(uri, proxy, headers);
        }
        let agent = self.config(uri, proxy)?.new_agent();
        let answer = sent(&agent, uri, headers);
        match (&answer, &forwarding) {
            (Err(Error::ConnectProxyFailed(_)), Some(proxy)) => {
                let answer = self.forwarded(uri, proxy, headers)?;
                self.forwards.set(answer.is_ok());
                Ok(answer)
            }
            _ => Ok(answer),
        }
    }

    /// Has the proxy ask the server of `uri`.
    fn forwarded(
        &self,
        uri: &Uri,
        proxy: &Proxy,
        headers: Headers<'_>,
    ) -> Result<Result<Response<Body>, Error>, HubError> {
        let mut headers = headers.to_vec();
        if let Some(user) = proxy.username() {
            let secret = STANDARD.encode(format!("{user}:{}", proxy.password().unwrap_or_default()));
            headers.push((PROXY_AUTHORIZATION, format!("Basic {secret}")));
        }
        Ok(sent(&forward::agent(self.config(uri, None)?, proxy.uri()), uri, &headers))
    }

    fn config(&self, uri: &Uri, proxy: Option<Proxy>) -> Result<Config, HubError> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(USER_AGENT)
            // Ranges count bytes of the file.
            .accept_encoding("identity")
            .timeout_resolve(Some(self.answer))
            .timeout_connect(Some(self.answer))
            .timeout_send_request(Some(self.answer))
            .timeout_recv_response(Some(self.answer))
            .timeout_per_read(Some(self.body));
        if uri.scheme_str() == Some("https") || proxy.as_ref().is_some_and(|p| p.protocol() == ProxyProtocol::Https) {
            config = config.tls_config(TlsConfig::builder().root_certs(self.roots()?).build());
        }
        Ok(config.proxy(proxy).build())
    }

    fn roots(&self) -> Result<RootCerts, HubError> {
        if let Some(roots) = self.roots.get() {
            return Ok(roots.clone());
        }
        let roots = trusted(self.env)?.unwrap_or(RootCerts::WebPki);
        Ok(self.roots.get_or_init(|| roots).clone())
    }
}

fn sent(agent: &Agent, uri: &Uri, headers: Headers<'_>) -> Result<Response<Body>, Error> {
    headers.iter().fold(agent.get(uri.clone()), |request, (name, value)| request.header(name, value)).call()
}

/// The certificates to trust; `None`: this system has none.
fn trusted(env: Env<'_>) -> Result<Option<RootCerts>, HubError> {
    let set = |names: &[&'static str]| names.iter().copied().find_map(|name| Some((name, PathBuf::from(env(name)?))));
    let ours = set(&["SSL_CERT_FILE", "SSL_CERT_DIR"]);
    let bundle = set(&["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]);
    let found: CertificateResult = match (&ours, &bundle) {
        (None, Some((_, path))) if path.is_dir() => load_certs_from_paths(None, Some(path)),
        (None, Some((_, path))) => load_certs_from_paths(Some(path), None),
        _ => load_native_certs(),
    };
    let certificates = found.certs.iter().map(|der| Certificate::from_der(der).to_owned());
    match (ours.or(bundle), found.certs.is_empty()) {
        (_, false) => Ok(Some(certificates.collect::<Vec<_>>().into_iter().into())),
        (None, true) => Ok(None),
        (Some((name, path)), true) => {
            let reason = found.errors.first().map_or_else(|| "it holds none".to_owned(), ToString::to_string);
            Err(HubError::Certificates { name, path, reason })
        }
    }
}

/// The proxy between us and `uri`.
fn proxy(uri: &Uri, env: Env<'_>) -> Result<Option<Proxy>, HubError> {
    // Small letters first, as everywhere.
    let either = |name: &'static str| {
        [name.to_owned(), name.to_uppercase()].into_iter().find_map(|name| Some((env(&name)?, name)))
    };
    let own = if uri.scheme_str() == Some("https") { "https_proxy" } else { "http_proxy" };
    let Some((address, name)) = either(own).or_else(|| either("all_proxy")) else { return Ok(None) };
    if either("no_proxy").is_some_and(|(list, _)| bypassed(uri, &list)) {
        return Ok(None);
    }
    let expected = "the address of a proxy, as http://host:port";
    // The address can hold a password: it is not shown.
    let wrong = |_| HubError::Setting { name, value: "…".into(), expected };
    Proxy::new(&address).map(Some).map_err(wrong)
}

/// Whether the list of `no_proxy` names the host of `uri`.
fn bypassed(uri: &Uri, list: &str) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_lowercase();
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    list.split(',').map(|entry| entry.trim().to_lowercase()).filter(|entry| !entry.is_empty()).any(|entry| {
        let (name, wanted) = match entry.rsplit_once(':') {
            Some((name, digits)) if !name.contains(':') && digits.parse::<u16>().is_ok() => {
                (name, digits.parse::<u16>().ok())
            }
            _ => (entry.as_str(), None),
        };
        let name = name.trim_matches(['[', ']']).trim_start_matches("*.").trim_start_matches('.');
        let same = name == "*" || host == name || host.strip_suffix(name).is_some_and(|front| front.ends_with('.'));
        same && wanted.is_none_or(|wanted| wanted == port)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_chosen_by_scheme_and_host() {
        let of = |uri: &str, variables: &[(&str, &str)]| {
            let env = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            proxy(&uri.parse().unwrap(), &env).unwrap().map(|proxy| proxy.uri().to_string())
        };
        let both = [("HTTP_PROXY", "http://a:1"), ("https_proxy", "http://b:2"), ("HTTPS_PROXY", "http://c:3")];
        assert_eq!(of("http://hub/x", &both).as_deref(), Some("http://a:1/"));
        assert_eq!(of("https://hub/x", &both).as_deref(), Some("http://b:2/"));
        assert_eq!(of("https://hub/x", &both[..1]), None);
        assert_eq!(of("https://hub/x", &[("ALL_PROXY", "socks5://d:4")]).as_deref(), Some("socks5://d:4/"));
        let with = |list: &'static str| [("all_proxy", "http://a:1"), ("NO_PROXY", list)];
        for (uri, list, direct) in [
            ("https://hub.org/x", "hub.org", true),
            ("https://cdn.hub.org/x", "hub.org", true),
            ("https://cdn.hub.org/x", "other, .hub.org", true),
            ("https://cdn.hub.org/x", "*.hub.org", true),
            ("https://myhub.org/x", "hub.org", false),
            ("https://hub.org/x", "hub.org:443", true),
            ("https://hub.org/x", "hub.org:80", false),
            ("http://[::1]:80/x", "::1", true),
            ("http://127.0.0.1:80/x", "localhost,127.0.0.1", true),
            ("https://hub.org/x", "*", true),
            ("https://hub.org/x", "", false),
        ] {
            assert_eq!(of(uri, &with(list)).is_none(), direct, "{uri} with no_proxy={list}");
        }
        let env = |name: &str| (name == "HTTP_PROXY").then(|| "http://user:secret@".to_owned());
        let error = proxy(&"http://hub/x".parse().unwrap(), &env).unwrap_err().to_string();
        assert!(error.contains("HTTP_PROXY") && !error.contains("secret"), "{error}");
    }
}
