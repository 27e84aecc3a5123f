//! Downloads that break off, in every way: what came stays, nothing wrong is written behind it, and the rest is fetched.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::text;
use crate::server::{COMMIT, Framing, Reply, Repositories, Request, Server, etag, file};
use crate::{MODEL, repositories};

/// The file that things happen to.
const REPO: &str = "hpcai-tech/OpenSora-STDiT-v3";
const FILE: &str = "OpenSora-STDiT-v3/resolve/main/model.safetensors";

/// A folder, and the repositories that a server has.
pub(crate) struct Scene {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) repositories: Repositories,
}

impl Scene {
    pub(crate) fn new() -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let repositories = Repositories::of(&repositories(dir.path()));
        Scene { dir, repositories }
    }

    /// The bytes of the file that things happen to.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.repositories.file(&format!("/{REPO}/resolve/main/model.safetensors")).unwrap().clone()
    }

    /// A server that answers questions for that file with `answer`, which is given the bytes and the number of the question.
    fn serve(&self, answer: impl Fn(&Request, &[u8], usize) -> Reply + Send + Sync + 'static) -> Server {
        let (repositories, bytes) = (self.repositories.clone(), self.bytes());
        Server::new(move |request, before| match request.target.ends_with(FILE) {
            true => answer(request, &bytes, before),
            false => repositories.answer(request),
        })
    }

    pub(crate) fn command(&self, url: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adacache"));
        command.current_dir(self.dir.path()).env_clear().env("HOME", self.dir.path());
        command.env("HF_ENDPOINT", url).env("HF_HOME", self.dir.path().join("hf"));
        // Nobody waits for long here.
        command.env("HF_HUB_ETAG_TIMEOUT", "1").env("HF_HUB_DOWNLOAD_TIMEOUT", "1");
        command.args(["pull", "opensora-v1.2", "--dir", "cache"]).args(args);
        command
    }

    pub(crate) fn pull(&self, url: &str) -> Output {
        self.command(url, &[]).output().unwrap()
    }

    /// The model's file as it is now.
    fn got(&self) -> Vec<u8> {
        fs::read(self.dir.path().join(MODEL).join("transformer/model.safetensors")).unwrap()
    }

    pub(crate) fn blob(&self, bytes: &[u8]) -> PathBuf {
        let folder = format!("hf/hub/models--{}/blobs", REPO.replace('/', "--"));
        self.dir.path().join(folder).join(etag(bytes))
    }

    fn part(&self) -> PathBuf {
        self.blob(&self.bytes()).with_extension("part")
    }

    fn write_part(&self, bytes: &[u8]) {
        fs::create_dir_all(self.part().parent().unwrap()).unwrap();
        fs::write(self.part(), bytes).unwrap();
    }
}

#[track_caller]
pub(crate) fn worked(output: &Output) {
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// The message of a pull that failed.
#[track_caller]
pub(crate) fn failed(output: &Output, words: &[&str]) -> String {
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    for word in words {
        assert!(message.contains(word), "`{word}` is missing in: {message}");
    }
    assert!(!message.contains("panicked"), "{message}");
    message
}

/// The first answer with the file itself breaks off in the middle.
fn cut_first(reply: Reply, request: &Request, before: usize) -> Reply {
    let half = reply.body.len() / 2;
    if request.start().is_some() && before == 0 { reply.cut(half) } else { reply }
}

#[test]
fn a_broken_transfer_goes_on_where_it_broke() {
    type Kind = fn(Reply, &Request) -> Reply;
    let kinds: [(&str, Kind); 9] = [
        ("with a length", |reply, _| reply),
        ("in chunks", |reply, _| Reply { framing: Framing::Chunked, ..reply }),
        ("until it is closed", |reply, _| Reply { framing: Framing::Close, ..reply }),
        ("wrong beginning", |mut reply, request| {
            if request.start().is_some_and(|start| start > 0) {
                // More than is there is skipped.
                let wrong = format!("bytes {}-9/10", request.start().unwrap() + 1);
                reply.headers.retain(|(name, _)| name != "Content-Range");
                reply.headers.push(("Content-Range".into(), wrong));
            }
            reply
        }),
        ("no beginning", |mut reply, _| {
            reply.headers.retain(|(name, _)| name != "Content-Range");
            reply
        }),
        ("another size", |mut reply, request| {
            if request.start().is_some_and(|start| start > 0) {
                reply.headers.retain(|(name, _)| name != "Content-Range");
                let (first, last) = (request.start().unwrap(), reply.body.len());
                reply
                    .headers
                    .push(("Content-Range".into(), format!("bytes {first}-{}/{}", first + last, first + last + 1)));
            }
            reply
        }),
        (
            "no parts at all",
            |reply, request| {
                if request.start() == Some(0) { reply } else { Reply::new(416, &[], b"") }
            },
        ),
        (
            "busy",
            |reply, request| {
                if request.start() == Some(0) { reply } else { Reply::new(503, &[("Retry-After", "0")], b"") }
            },
        ),
        ("earlier than asked", |reply, _| reply),
    ];
    for (what, kind) in kinds {
        let scene = Scene::new();
        let busy = Mutex::new(0);
        let server = scene.serve(move |request, bytes, before| {
            let early = what == "earlier than asked" && request.start().is_some_and(|start| start > 0);
            let reply = if early {
                let range = format!("bytes 7-{}/{}", bytes.len() - 1, bytes.len());
                let tag = format!("\"{}\"", etag(bytes));
                let headers = [("Content-Range", range.as_str()), ("ETag", &tag), ("X-Repo-Commit", COMMIT)];
                Reply::new(206, &headers, &bytes[7..])
            } else {
                file(request, bytes)
            };
            let mut times = busy.lock().unwrap();
            if what == "busy" && request.start() != Some(0) {
                *times += 1;
                // Of three questions one is answered.
                if *times % 3 == 0 {
                    return reply;
                }
            }
            let tag = format!("\"{}\"", etag(bytes));
            let mut reply = cut_first(kind(reply, request), request, before);
            // What identifies the file is said in every answer, also in one that says nothing else.
            if !reply.headers.iter().any(|(name, _)| name == "ETag") && reply.status == 416 {
                reply.headers.push(("ETag".into(), tag));
                reply.headers.push(("X-Repo-Commit".into(), COMMIT.into()));
            }
            reply
        });
        let output = scene.pull(&server.url);
        assert!(output.status.success(), "{what}: {}", text(&output.stderr));
        assert!(scene.got() == scene.bytes(), "{what}");
        let half = scene.bytes().len() / 2;
        let starts = server.starts(FILE);
        assert_eq!(starts[0], 0, "{what}");
        assert!(starts[1..].contains(&half), "{what}: the first half is not asked for again: {starts:?}");
        if ["with a length", "in chunks", "until it is closed", "earlier than asked"].contains(&what) {
            assert_eq!(starts, [0, half], "{what}");
        }
        assert!(!scene.part().exists(), "{what}");
    }
}

/// Neither ranges, nor a length: only SHA-256 says when it is whole.
#[test]
fn servers_that_ignore_ranges_break_nothing() {
    for framing in [Framing::Length, Framing::Close] {
        let scene = Scene::new();
        let server = scene.serve(move |request, bytes, before| {
            let tag = format!("\"{}\"", etag(bytes));
            let reply = Reply::new(200, &[("ETag", &tag), ("X-Repo-Commit", COMMIT)], bytes);
            cut_first(Reply { framing, ..reply }, request, before)
        });
        worked(&scene.pull(&server.url));
        assert!(scene.got() == scene.bytes());
    }
}

#[test]
fn what_an_earlier_run_left_is_used_or_found_wrong() {
    let half = |scene: &Scene| scene.bytes()[..scene.bytes().len() / 2].to_vec();
    type Left = fn(&Scene) -> Vec<u8>;
    let lefts: [(&str, Left, Option<usize>); 5] = [
        ("all of it", |scene| scene.bytes(), None),
        ("the first half", |scene| scene.bytes()[..scene.bytes().len() / 2].to_vec(), Some(1)),
        ("more than all of it", |scene| [scene.bytes(), b"and more".to_vec()].concat(), None),
        ("as much of something else", |scene| vec![7; scene.bytes().len()], Some(0)),
        ("less of something else", |scene| vec![7; scene.bytes().len() / 2], Some(2)),
    ];
    for (what, left, asked) in lefts {
        let scene = Scene::new();
        scene.write_part(&left(&scene));
        let server = scene.serve(|request, bytes, _| file(request, bytes));
        let output = scene.pull(&server.url);
        assert!(output.status.success(), "{what}: {}", text(&output.stderr));
        assert!(scene.got() == scene.bytes(), "{what}");
        let middle = half(&scene).len();
        let expected: &[usize] = match asked {
            None => &[],
            Some(0) => &[0],
            Some(1) => &[middle],
            _ => &[middle, 0],
        };
        assert_eq!(server.starts(FILE), expected, "{what}");
    }
}

#[test]
fn content_that_changes_meanwhile_is_not_mixed() {
    let scene = Scene::new();
    let old = vec![b'x'; scene.bytes().len() + 5];
    let first = old.clone();
    let server = scene.serve(move |request, bytes, before| {
        // The second question for bytes is for the rest of the old content.
        let is_old = before == 0;
        cut_first(file(request, if is_old { &first } else { bytes }), request, before)
    });
    worked(&scene.pull(&server.url));
    assert!(scene.got() == scene.bytes());
    let kept = fs::read(scene.blob(&old).with_extension("part")).unwrap();
    assert!(kept == old[..old.len() / 2], "what came of the old content is not touched");
}

#[test]
fn silence_ends_and_is_asked_again() {
    let scene = Scene::new();
    let server = scene.serve(|request, bytes, before| {
        let reply = cut_first(file(request, bytes), request, before);
        if before == 0 { Reply { silence: Duration::from_secs(5), ..reply } } else { reply }
    });
    let output = scene.pull(&server.url);
    worked(&output);
    assert!(text(&output.stderr).contains("asking again"), "{}", text(&output.stderr));
    assert!(scene.got() == scene.bytes());

    // Nothing ever comes: the message says so, and what to do.
    let silent = Server::new(|_, _| Reply { silence: Duration::from_secs(5), ..Reply::new(200, &[], b"{}").cut(0) });
    let message = failed(&Scene::new().pull(&silent.url), &["cannot download", "in time", "resumes"]);
    assert!(message.contains(silent.url.trim_start_matches("http://")), "{message}");
}

#[test]
fn a_server_that_is_too_busy_is_given_up() {
    let scene = Scene::new();
    let server = scene.serve(|_, _, _| Reply::new(429, &[("Retry-After", "0")], b""));
    failed(&scene.pull(&server.url), &["429", "asked 6 times", "model.safetensors", REPO]);
    let server = scene.serve(|_, _, _| Reply::new(503, &[("Retry-After", "86400")], b""));
    failed(&scene.pull(&server.url), &["503", "86400 seconds"]);
    // What no later try changes is not tried again.
    let server = scene.serve(|_, _, _| Reply::new(400, &[("X-Error-Message", "you have no teapot")], b""));
    failed(&scene.pull(&server.url), &["400", "you have no teapot"]);
    assert_eq!(server.requests().iter().filter(|request| request.target.ends_with(FILE)).count(), 1);
}

#[test]
fn a_full_disk_is_told_and_leaves_what_there_is() {
    if !Path::new("/dev/full").exists() {
        eprintln!("left out: this system has no /dev/full");
        return;
    }
    let scene = Scene::new();
    fs::create_dir_all(scene.part().parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", scene.part()).unwrap();
    let server = scene.serve(|request, bytes, _| file(request, bytes));
    failed(&scene.pull(&server.url), &["No space left", "HF_HUB_CACHE", "resumes"]);
    assert!(scene.part().is_symlink());
}

/// Waits until `done`, and not forever.
fn until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..600 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{what} does not happen");
}

fn ended(mut child: Child) -> Output {
    let mut stderr = vec![];
    child.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
    Output { status: child.wait().unwrap(), stdout: vec![], stderr }
}

#[test]
fn interrupts_leave_what_came() {
    let scene = Scene::new();
    let half = scene.bytes().len() / 2;
    let slow = scene.serve(move |request, bytes, _| match request.start() {
        None => file(request, bytes),
        Some(_) => Reply { silence: Duration::from_secs(60), ..file(request, bytes).cut(half) },
    });
    let mut command = scene.command(&slow.url, &[]);
    command.env("HF_HUB_DOWNLOAD_TIMEOUT", "60").stderr(Stdio::piped()).stdout(Stdio::null());
    let child = command.spawn().unwrap();
    until("the first half", || fs::metadata(scene.part()).is_ok_and(|m| m.len() == half as u64));
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let output = ended(child);
    assert!(!output.status.success());
    assert!(fs::read(scene.part()).unwrap() == scene.bytes()[..half]);

    let server = scene.serve(|request, bytes, _| file(request, bytes));
    worked(&scene.pull(&server.url));
    assert_eq!(server.starts(FILE), [half]);
    assert!(scene.got() == scene.bytes());
}

#[test]
fn two_pulls_at_once_fetch_a_file_once() {
    let scene = Arc::new(Scene::new());
    let server = scene.serve(|request, bytes, _| {
        // The first one is at it while the second one comes.
        if request.start().is_some() {
            std::thread::sleep(Duration::from_millis(500));
        }
        file(request, bytes)
    });
    let pull = || {
        let mut command = scene.command(&server.url, &[]);
        command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    };
    let children = [pull(), pull()];
    for child in children {
        worked(&ended(child));
    }
    assert_eq!(server.starts(FILE), [0]);
    assert!(scene.got() == scene.bytes());
}

#[test]
fn downloads_lie_where_the_hubs_client_looks() {
    let scene = Scene::new();
    let server = scene.serve(|request, bytes, _| file(request, bytes));
    worked(&scene.pull(&server.url));
    let repo = scene.dir.path().join("hf/hub/models--hpcai-tech--OpenSora-STDiT-v3");
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    let link = fs::read_link(repo.join("snapshots").join(COMMIT).join("model.safetensors")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(etag(&scene.bytes())));

    // What other programs downloaded is used: the same folder under the name of another variable, and no server.
    fs::remove_dir_all(scene.dir.path().join("cache")).unwrap();
    fs::rename(scene.dir.path().join("hf/hub"), scene.dir.path().join("theirs")).unwrap();
    let offline = |name: &str, args: &[&str]| {
        let mut command = scene.command("http://127.0.0.1:9", args);
        command.env("HF_HUB_CACHE", "theirs").env(name, "1").output().unwrap()
    };
    worked(&offline("HF_HUB_OFFLINE", &[]));
    assert!(scene.got() == scene.bytes());
    fs::remove_dir_all(scene.dir.path().join("theirs")).unwrap();
    fs::remove_dir_all(scene.dir.path().join("cache")).unwrap();
    failed(&offline("HF_HUB_OFFLINE", &[]), &["HF_HUB_OFFLINE forbids", "--from DIR"]);
    failed(&offline("ANY", &["--offline"]), &["--offline forbids"]);
    // Files of a folder need no server.
    worked(&offline("HF_HUB_OFFLINE", &["--from", "files"]));
    worked(&offline("ANY", &["--from", "files", "--offline"]));
}

#[test]
fn a_new_commit_with_the_same_files_costs_no_download() {
    let scene = Scene::new();
    let server = scene.serve(|request, bytes, _| file(request, bytes));
    worked(&scene.pull(&server.url));
    fs::remove_dir_all(scene.dir.path().join("cache")).unwrap();
    let newer = "fedcba9876543210fedcba9876543210fedcba98";
    let repositories = scene.repositories.clone();
    let server = Server::new(move |request, _| {
        let mut reply = repositories.answer(request);
        reply.body = if request.target.starts_with("/api/") {
            text(&reply.body).replace(COMMIT, newer).into_bytes()
        } else {
            reply.body
        };
        reply.headers.iter_mut().filter(|(_, value)| value == COMMIT).for_each(|(_, value)| *value = newer.to_owned());
        reply
    });
    worked(&scene.pull(&server.url));
    assert!(server.requests().iter().all(|request| request.target.starts_with("/api/") || request.start().is_none()));
    assert!(scene.got() == scene.bytes());
}
