//! Who may have what, and the way to the hub: tokens, licences, redirects, proxies, certificates.

use std::fs;
use std::process::Command;
use std::sync::Arc;

use crate::common::text;
use crate::downloads::{Scene, failed, worked};
use crate::golden;
use crate::server::{COMMIT, Proxy, Reply, Request, Server, etag, file};

const REPO: &str = "hpcai-tech/OpenSora-STDiT-v3";

fn authorized(request: &Request) -> Option<&str> {
    request.header("authorization")
}

/// A server for contents, and a hub that sends there for every large file, from the address `hub` to the address `cdn`.
fn hub_and_storage(scene: &Scene) -> [Arc<Server>; 2] {
    let repositories = scene.repositories.clone();
    let files = repositories.clone();
    let storage = Arc::new(Server::new(move |request, _| {
        let path = request.target.split_once('?').map_or("", |(path, _)| path);
        let bytes = files.file(path.trim_start_matches("/storage")).expect("it is asked for files of the hub");
        let mut reply = file(request, bytes);
        // It knows nothing of commits, and has tags of its own.
        reply.headers.retain(|(name, _)| name != "X-Repo-Commit" && name != "ETag");
        reply.headers.push(("ETag".into(), "\"storage-7\"".into()));
        reply
    }));
    let url = storage.url.clone();
    let hub = Server::new(move |request, _| {
        let Some(bytes) = repositories.file(&request.target).filter(|_| request.target.ends_with(".safetensors"))
        else {
            // Small files are somewhere else on the same host.
            return match request.target.strip_prefix("/moved") {
                None if request.target.ends_with("config.json") => {
                    Reply::new(307, &[("Location", &format!("/moved{}", request.target))], b"")
                }
                Some(target) => file(request, repositories.file(target).unwrap()),
                None => repositories.answer(request),
            };
        };
        let (linked, size) = (format!("\"{}\"", etag(bytes)), bytes.len().to_string());
        let location = format!("{url}/storage{}?signature=http://x/y", request.target);
        let headers = [
            ("X-Linked-Etag", linked.as_str()),
            ("X-Linked-Size", &size),
            ("X-Repo-Commit", COMMIT),
            ("Location", &location),
        ];
        Reply::new(302, &headers, b"elsewhere")
    });
    [Arc::new(hub), storage]
}

#[test]
fn the_token_is_for_the_hub_alone() {
    let scene = Scene::new();
    let [hub, storage] = hub_and_storage(&scene);
    let output = scene.command(&hub.url, &[]).env("HF_TOKEN", "hf_secret").output().unwrap();
    worked(&output);
    // The other one is another port of the same host.
    assert!(!storage.requests().is_empty() && storage.requests().iter().all(|request| authorized(request).is_none()));
    assert!(hub.requests().iter().all(|request| authorized(request) == Some("Bearer hf_secret")));
    assert!(hub.requests().iter().any(|request| request.target.starts_with("/moved/")));
    // The hub's own tag names the content, not that of the storage.
    assert!(scene.blob(&scene.bytes()).exists());
    assert!(!text(&output.stderr).contains("hf_secret"));
}

#[test]
fn the_token_is_found_where_the_hubs_client_keeps_it() {
    let sent = |set: &dyn Fn(&mut Command)| {
        let scene = Scene::new();
        let hub = Server::new(|_, _| Reply::new(500, &[("Retry-After", "0")], b""));
        fs::create_dir_all(scene.dir.path().join("hf")).unwrap();
        fs::write(scene.dir.path().join("hf/token"), "hf_file\n").unwrap();
        fs::write(scene.dir.path().join("other"), "hf_other").unwrap();
        let mut command = scene.command(&hub.url, &[]);
        set(&mut command);
        assert!(!command.output().unwrap().status.success());
        hub.requests().first().and_then(|request| authorized(request).map(str::to_owned)).unwrap_or_default()
    };
    assert_eq!(sent(&|_| {}), "Bearer hf_file");
    assert_eq!(
        sent(&|command| {
            command.env("HF_TOKEN_PATH", "other");
        }),
        "Bearer hf_other"
    );
    assert_eq!(
        sent(&|command| {
            command.env("HUGGING_FACE_HUB_TOKEN", "hf_old");
        }),
        "Bearer hf_old"
    );
    assert_eq!(
        sent(&|command| {
            command.env("HF_TOKEN", "hf_new");
        }),
        "Bearer hf_new"
    );
    assert_eq!(
        sent(&|command| {
            command.env("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1");
        }),
        ""
    );
}

#[test]
fn gated_repositories_say_what_to_do() {
    let scene = Scene::new();
    let accept = format!("gated: accept the licence at https://huggingface.co/{REPO}, then set HF_TOKEN");
    for status in [401, 403] {
        let hub = Server::new(move |_, _| Reply::new(status, &[("X-Error-Code", "GatedRepo")], b""));
        let message = failed(&scene.pull(&hub.url), &[&accept, &status.to_string(), "no token was sent"]);
        assert!(!message.contains("resumes"), "{message}");
        assert_eq!(hub.requests().len(), 1, "it is not asked again");
        let output = scene.command(&hub.url, &[]).env("HF_TOKEN", "hf_secret").output().unwrap();
        let message = failed(&output, &[&accept, "the token of HF_TOKEN does not open it"]);
        assert!(!message.contains("hf_secret"), "{message}");
    }
    // The list is for everybody, the files are not.
    let repositories = scene.repositories.clone();
    let hub = Server::new(move |request, _| match request.target.starts_with("/api/") {
        true => repositories.answer(request),
        false => Reply::new(403, &[], b""),
    });
    failed(&scene.pull(&hub.url), &[&accept, "config.json"]);
}

#[test]
fn what_is_not_there_is_named() {
    let scene = Scene::new();
    let repositories = scene.repositories.clone();
    let hub =
        Server::new(move |request, _| match request.target.ends_with("STDiT-v3/resolve/main/model.safetensors") {
            true => Reply::new(404, &[("X-Error-Message", "Entry not found")], b""),
            false => repositories.answer(request),
        });
    failed(&scene.pull(&hub.url), &["404", "model.safetensors", REPO, "main", "Entry not found"]);
    let output = scene.command(&hub.url, &["--text-repo", "some/body"]).output().unwrap();
    failed(&output, &["404"]);
}

#[test]
fn what_is_no_hub_and_no_file_is_named() {
    let scene = Scene::new();
    let page = b"<!DOCTYPE html><html>please log in</html>";
    let portal = Server::new(|_, _| Reply::new(200, &[("Content-Type", "text/html; charset=utf-8")], page));
    failed(&scene.pull(&portal.url), &["web page", "HF_ENDPOINT"]);

    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2345\n";
    for (bytes, words) in [(&page[..], "web page"), (&pointer[..], "Git LFS pointer")] {
        let repositories = scene.repositories.clone();
        let hub = Server::new(move |request, _| {
            if !request.target.ends_with("STDiT-v3/resolve/main/model.safetensors") {
                return repositories.answer(request);
            }
            // A small file has no SHA-256 for its tag.
            let mut reply = file(request, bytes);
            reply.headers.iter_mut().filter(|(name, _)| name == "ETag").for_each(|(_, tag)| *tag = "\"abc\"".into());
            reply
        });
        failed(&scene.pull(&hub.url), &[words, "model.safetensors"]);
        // Nor is it kept.
        let output = scene.command(&hub.url, &["--offline"]).output().unwrap();
        failed(&output, &["model.safetensors", "never downloaded"]);
    }
    failed(&scene.pull("mirror.example"), &["HF_ENDPOINT", "mirror.example", "https://"]);
}

#[test]
fn proxies_are_used_and_passed_by() {
    let scene = Scene::new();
    let repositories = scene.repositories.clone();
    let hub = Server::new(move |request, _| repositories.answer(request));
    let tunnel = Proxy::new(hub.url.trim_start_matches("http://"), true);
    // A name that only the proxy knows.
    let through = |name: &str| scene.command("http://hub.test", &[]).env(name, &tunnel.url).output().unwrap();
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy"] {
        worked(&through(name));
        let asked = std::mem::take(&mut *tunnel.asked.lock().unwrap());
        assert!(!asked.is_empty() && asked.iter().all(|head| head.starts_with("CONNECT hub.test:80 ")), "{asked:?}");
        assert!(asked[0].contains("Proxy-Authorization: Basic dXNlcjpwYXNz"), "{asked:?}");
        fs::remove_dir_all(scene.dir.path().join("cache")).unwrap();
        fs::remove_dir_all(scene.dir.path().join("hf")).unwrap();
    }
    // One for the other scheme, and one that is passed by.
    failed(&through("https_proxy"), &["hub.test"]);
    let output = scene.command(&hub.url, &[]).env("HTTP_PROXY", &tunnel.url).env("NO_PROXY", "127.0.0.1").output();
    worked(&output.unwrap());
    assert!(tunnel.asked.lock().unwrap().is_empty());
    fs::remove_dir_all(scene.dir.path().join("cache")).unwrap();
    fs::remove_dir_all(scene.dir.path().join("hf")).unwrap();

    // Many make no tunnels to servers without encryption: the first question finds out.
    let forwards = Proxy::new(hub.url.trim_start_matches("http://"), false);
    worked(&scene.command("http://hub.test", &[]).env("http_proxy", &forwards.url).output().unwrap());
    let asked = forwards.asked.lock().unwrap();
    assert!(asked[0].starts_with("CONNECT hub.test:80 "), "{asked:?}");
    assert!(asked[1..].iter().all(|head| head.starts_with("GET http://hub.test/")), "{asked:?}");
    assert!(
        asked[1..].iter().all(|head| head.to_lowercase().contains("proxy-authorization: basic dxnlcjpwyxnz")),
        "{asked:?}"
    );
}

#[test]
fn certificates_are_those_that_the_user_trusts() {
    let scene = Scene::new();
    let repositories = scene.repositories.clone();
    let hub = Server::encrypted(move |request, _| repositories.answer(request));
    let tls = golden("../../opensora/tls");
    failed(&scene.pull(&hub.url), &["is not trusted", "SSL_CERT_FILE"]);
    let with = |name: &str, path: &str| scene.command(&hub.url, &[]).env(name, tls.join(path)).output().unwrap();
    failed(&with("SSL_CERT_FILE", "none.pem"), &["SSL_CERT_FILE", "none.pem"]);
    failed(&with("SSL_CERT_FILE", "README.md"), &["SSL_CERT_FILE", "README.md"]);
    for (name, path) in [("SSL_CERT_FILE", "ca.pem"), ("SSL_CERT_DIR", ""), ("REQUESTS_CA_BUNDLE", "ca.pem")] {
        worked(&with(name, path));
        fs::remove_dir_all(scene.dir.path().join("cache")).unwrap();
        fs::remove_dir_all(scene.dir.path().join("hf")).unwrap();
    }
    // Through a proxy, which sees the host's name alone.
    let tunnel = Proxy::new(hub.url.trim_start_matches("https://"), true);
    let mut command = scene.command("https://hub.test", &[]);
    worked(&command.env("HTTPS_PROXY", &tunnel.url).env("SSL_CERT_FILE", tls.join("ca.pem")).output().unwrap());
    assert!(tunnel.asked.lock().unwrap().iter().all(|head| head.starts_with("CONNECT hub.test:443 ")));
}
