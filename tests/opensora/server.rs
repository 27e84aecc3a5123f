//! A server of this machine that plays the hub, the servers that the hub sends to, a proxy, and what can go wrong with each.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adacache::family::opensora::PUBLISHED;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::common::names;
use crate::golden;

/// The commit of every repository.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What a client asked.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) target: String,
    headers: BTreeMap<String, String>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first byte asked for, of requests that want more than one.
    pub(crate) fn start(&self) -> Option<usize> {
        match self.header("range") {
            None => Some(0),
            Some("bytes=0-0") => None,
            Some(range) => range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok(),
        }
    }
}

/// How a body ends.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Framing {
    Length,
    Chunked,
    Close,
}

/// What a server says.
#[derive(Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) framing: Framing,
    /// The bytes that are sent before the connection breaks.
    pub(crate) sent: Option<usize>,
    /// Nothing more comes, for this long, before the connection breaks.
    pub(crate) silence: Duration,
}

impl Reply {
    pub(crate) fn new(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (body, framing) = (body.to_vec(), Framing::Length);
        Reply { status, headers, body, framing, sent: None, silence: Duration::ZERO }
    }

    /// Breaks off after `sent` bytes.
    pub(crate) fn cut(self, sent: usize) -> Reply {
        Reply { sent: Some(sent), ..self }
    }

    fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {} As it is\r\nConnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        match self.framing {
            Framing::Length => head += &format!("Content-Length: {}\r\n", self.body.len()),
            Framing::Chunked => head += "Transfer-Encoding: chunked\r\n",
            Framing::Close => {}
        }
        out.write_all(format!("{head}\r\n").as_bytes())?;
        let sent = &self.body[..self.sent.unwrap_or(self.body.len()).min(self.body.len())];
        if self.framing == Framing::Chunked {
            for chunk in sent.chunks(1000) {
                write!(out, "{:x}\r\n", chunk.len())?;
                out.write_all(chunk)?;
                out.write_all(b"\r\n")?;
            }
            if self.sent.is_none() {
                out.write_all(b"0\r\n\r\n")?;
            }
        } else {
            out.write_all(sent)?;
        }
        out.flush()?;
        std::thread::sleep(self.silence);
        Ok(())
    }
}

/// A server, and what it was asked.
pub(crate) struct Server {
    pub(crate) url: String,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Answers each request with what `answer` makes of it and of the number of requests like it before.
    pub(crate) fn new(answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Server {
        Server::with(None, answer)
    }

    /// As [`Server::new`], with a certificate that `tests/opensora/tls/ca.pem` has signed, for 127.0.0.1 and localhost.
    pub(crate) fn encrypted(answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Server {
        let tls = |name: &str| golden("../../opensora/tls").join(name);
        let certificate = CertificateDer::from_pem_file(tls("server.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(tls("server.key")).unwrap();
        let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
        Server::with(Some(Arc::new(config.unwrap())), answer)
    }

    fn with(
        tls: Option<Arc<rustls::ServerConfig>>,
        answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let log = Arc::<Mutex<Vec<Request>>>::default();
        let (answer, requests) = (Arc::new(answer), log.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (tls, answer, requests) = (tls.clone(), answer.clone(), requests.clone());
                std::thread::spawn(move || {
                    // A client that hangs up is part of the test.
                    let _ = match tls {
                        None => serve(stream, &*answer, &requests),
                        Some(tls) => {
                            let session = rustls::ServerConnection::new(tls).unwrap();
                            serve(rustls::StreamOwned::new(session, stream), &*answer, &requests)
                        }
                    };
                });
            }
        });
        Server { url, log }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// Where the answers for targets with this end began.
    pub(crate) fn starts(&self, end: &str) -> Vec<usize> {
        self.requests().iter().filter(|request| request.target.ends_with(end)).filter_map(Request::start).collect()
    }
}

fn serve<S: Read + Write>(
    mut stream: S,
    answer: &dyn Fn(&Request, usize) -> Reply,
    log: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(&mut stream);
    let mut line = || -> std::io::Result<String> {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let (_method, target) = (word(), word());
    let mut headers = BTreeMap::new();
    while let Some((name, value)) = line()?.split_once(": ") {
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let request = Request { target, headers };
    let before = {
        let mut log = log.lock().unwrap();
        let alike =
            log.iter().filter(|r| r.target == request.target && r.start().is_some() == request.start().is_some());
        let before = alike.count();
        log.push(request.clone());
        before
    };
    answer(&request, before).write(&mut stream)
}

/// A proxy. What it was asked for is in `asked`.
pub(crate) struct Proxy {
    pub(crate) url: String,
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Everything leads to `to`, an address of a host and a port, whatever is asked for: through a tunnel if it makes some, or forwarded.
    pub(crate) fn new(to: &str, tunnels: bool) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://user:pass@{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let (log, to) = (asked.clone(), to.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, to) = (log.clone(), to.clone());
                std::thread::spawn(move || connect(stream, &to, tunnels, &log));
            }
        });
        Proxy { url, asked }
    }
}

fn connect(stream: TcpStream, to: &str, tunnels: bool, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    log.lock().unwrap().push(head.clone());
    let server = TcpStream::connect(to)?;
    let (mut up, mut down) = (server.try_clone()?, stream.try_clone()?);
    match head.strip_prefix("GET http://").and_then(|rest| rest.split_once('/')) {
        Some((_, rest)) => up.write_all(format!("GET /{rest}").as_bytes())?,
        None if tunnels && head.starts_with("CONNECT ") => down.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?,
        None => return Reply::new(405, &[], b"").write(&mut down),
    }
    std::thread::spawn(move || std::io::copy(&mut reader, &mut up));
    std::io::copy(&mut &server, &mut down)?;
    stream.shutdown(std::net::Shutdown::Both)
}

/// The published repositories, small ones: files by repository and name.
#[derive(Clone)]
pub(crate) struct Repositories(pub(crate) BTreeMap<(String, String), Vec<u8>>);

impl Repositories {
    pub(crate) fn of(folder: &std::path::Path) -> Repositories {
        let mut files = BTreeMap::new();
        for part in PUBLISHED.parts {
            let folder = folder.join(part.repo.rsplit('/').next().unwrap());
            for name in names(&folder).into_iter().filter(|name| !name.starts_with("reference")) {
                let bytes = std::fs::read(folder.join(&name)).unwrap();
                let place = match name.as_str() {
                    "tokenizer.json" => ("lmz/mt5-tokenizers".to_owned(), "t5-v1_1-xxl.tokenizer.json".to_owned()),
                    _ => (part.repo.to_owned(), name),
                };
                files.insert(place, bytes);
            }
        }
        Repositories(files)
    }

    /// The file at `target`.
    pub(crate) fn file(&self, target: &str) -> Option<&Vec<u8>> {
        let (repo, name) = target.trim_start_matches('/').split_once("/resolve/main/")?;
        self.0.get(&(repo.to_owned(), name.to_owned()))
    }

    /// As a hub without faults answers.
    pub(crate) fn answer(&self, request: &Request) -> Reply {
        if let Some(repo) = request.target.strip_prefix("/api/models/").and_then(|t| t.strip_suffix("/revision/main")) {
            let files: Vec<Value> =
                self.0.keys().filter(|(r, _)| r == repo).map(|(_, name)| json!({ "rfilename": name })).collect();
            if files.is_empty() {
                return Reply::new(404, &[("X-Error-Code", "RepoNotFound")], b"{}");
            }
            return Reply::new(200, &[], json!({ "sha": COMMIT, "siblings": files }).to_string().as_bytes());
        }
        match self.file(&request.target) {
            Some(bytes) => file(request, bytes),
            None => Reply::new(404, &[("X-Error-Code", "EntryNotFound")], b""),
        }
    }
}

/// The etag of a large file.
pub(crate) fn etag(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A file, or the part of it that is asked for.
pub(crate) fn file(request: &Request, bytes: &[u8]) -> Reply {
    let tag = format!("\"{}\"", etag(bytes));
    let headers = [("ETag", tag.as_str()), ("X-Repo-Commit", COMMIT)];
    let range = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let Some((first, last)) = range else { return Reply::new(200, &headers, bytes) };
    let first: usize = first.parse().unwrap();
    let last = last.parse::<usize>().unwrap_or(bytes.len()).min(bytes.len().saturating_sub(1));
    if first >= bytes.len() {
        let range = format!("bytes */{}", bytes.len());
        return Reply::new(416, &[&headers[..], &[("Content-Range", range.as_str())]].concat(), b"");
    }
    let range = format!("bytes {first}-{last}/{}", bytes.len());
    Reply::new(206, &[&headers[..], &[("Content-Range", range.as_str())]].concat(), &bytes[first..=last])
}
