//! Checkpoints that are not whole, and downloads that break off.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use adacache::family::opensora::PUBLISHED;
use adacache::hub::Pull;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::common::{names, text};
use crate::{GENERATE, MODEL, PROMPT, fails, repositories, succeeds};

#[test]
fn incomplete_checkpoints_name_the_file_and_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let generate = [&GENERATE[..], &["x.safetensors"]].concat();
    let command = "adacache pull opensora-v1.2";
    fails(
        folder,
        &generate,
        &["transformer/config.json", "transformer/model.safetensors", "text/tokenizer.json", command],
    );
    fails(folder, &["pull", "opensora-v1.2", "--offline"], &["OpenSora-STDiT-v3", "--offline", "--from DIR"]);
    fails(folder, &["pull", "opensora-v1.2"], &["cannot download", "OpenSora-STDiT-v3", "resumes"]);
    fails(folder, &["pull", "opensora-v1.2", "--from", "nowhere"], &["nowhere", "OpenSora-STDiT-v3"]);
    assert!(succeeds(folder, &["models"]).contains("missing"));

    let files = repositories(folder);
    let model = files.join("OpenSora-STDiT-v3/model.safetensors");
    let t5 = files.join("t5-v1_1-xxl");
    let whole = fs::read(&model).unwrap();
    let pull = ["pull", "opensora-v1.2", "--from", "files"];
    fs::remove_file(&model).unwrap();
    fails(folder, &pull, &["no model.safetensors of hpcai-tech/OpenSora-STDiT-v3"]);
    fs::write(&model, &whole[..whole.len() / 2]).unwrap();
    fails(folder, &pull, &["transformer/model.safetensors", "not a complete safetensors file"]);
    fs::write(&model, &whole).unwrap();
    succeeds(folder, &pull);

    // What is complete stays: nothing is asked of the hub, and a pull that fails takes nothing away.
    succeeds(folder, &["pull", "opensora-v1.2"]);
    fails(folder, &["pull", "opensora-v1.2", "--text-repo", "somebody/else"], &["cannot download", "somebody/else"]);
    fails(folder, &["pull", "opensora-v1.2", "--from", "nowhere"], &["nowhere"]);
    succeeds(folder, &["pull", "opensora-v1.2", "--offline"]);

    // What changes behind the links is found when it is used.
    type Damage<'a> = (&'a Path, &'a dyn Fn(&mut Vec<(String, Dtype, Vec<usize>, Vec<u8>)>), &'a [&'a str]);
    const NORM: &str = "spatial_blocks.0.attn.q_norm.weight";
    const EMBEDDING: &str = "shared.weight";
    let weights = t5.join("model.safetensors");
    let damages: [Damage; 6] = [
        (&model, &|t| t.retain(|t| t.0 != NORM), &[NORM, "missing"]),
        (&model, &|t| t.iter_mut().filter(|t| t.0 == NORM).for_each(|t| t.2 = vec![4, 8]), &[NORM, "[4, 8]"]),
        (&model, &|t| t.iter_mut().filter(|t| t.0 == NORM).for_each(|t| t.1 = Dtype::I16), &[NORM, "I16"]),
        (
            &weights,
            &|t| t.retain(|t| t.0 != "encoder.final_layer_norm.weight"),
            &["model.safetensors", "final_layer_norm"],
        ),
        (
            &weights,
            &|t| t.iter_mut().filter(|t| t.0 == EMBEDDING).for_each(|t| t.2.reverse()),
            &["model.safetensors", "shape"],
        ),
        (&weights, &|t| t.iter_mut().filter(|t| t.0 == EMBEDDING).for_each(|t| t.1 = Dtype::I16), &[EMBEDDING, "I16"]),
    ];
    for (path, damage, parts) in damages {
        let whole = fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&whole).unwrap();
        let mut tensors: Vec<_> =
            file.tensors().into_iter().map(|(n, v)| (n, v.dtype(), v.shape().to_vec(), v.data().to_vec())).collect();
        damage(&mut tensors);
        let views = tensors.iter().map(|(n, d, s, data)| (n.as_str(), TensorView::new(*d, s.clone(), data).unwrap()));
        fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
        fails(folder, &generate, parts);
        fs::write(path, &whole).unwrap();
    }
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 1]).unwrap();
    fails(folder, &generate, &["text/model.safetensors", "not a complete safetensors file", command]);
    assert!(succeeds(folder, &["models"]).contains("DAMAGED"));
    fs::write(&weights, &bytes).unwrap();
    let config = fs::read_to_string(t5.join("config.json")).unwrap();
    fs::write(t5.join("config.json"), config.replace("\"d_model\": 32", "\"d_model\": 64")).unwrap();
    fails(folder, &generate, &["text encoder"]);
    fs::write(t5.join("config.json"), config).unwrap();

    for (more, parts) in [
        (&["--frames", "5"][..], &["5 frames", "at least 17"][..]),
        (&["--frames", "409"], &["409 frames"]),
        (&["--embeddings", "none.safetensors"], &["none.safetensors"]),
        (&["--embeddings", "files/OpenSora-STDiT-v3/model.safetensors"], &["`embedding` is missing", "32"]),
        (&["--aesthetic", "1000"], &["aesthetic score"]),
        (&["--size", "30x32"], &["multiples of 8"]),
        (&["--resolution", "4k"], &["240p, 360p, 480p, 720p"]),
    ] {
        let args = ["generate", "--model", "opensora-v1.2", PROMPT, "--steps", "1", "--out", "x.safetensors"];
        fails(folder, &[&args[..], more].concat(), parts);
    }
    fails(folder, &["generate", "--model", "opensora-v1.2", " ! ", "--out", "x.safetensors"], &["prompt is empty"]);
    assert!(!folder.join("x.safetensors").exists());
}

/// What the hub answers with: files by repository and name.
type Files = HashMap<(String, String), Vec<u8>>;

/// A hub of our own. It breaks off in the middle of the first answer of every file called `model.safetensors`.
struct Hub {
    files: Files,
    /// Announced in place of the true SHA-256.
    wrong_checksum: bool,
    /// Where answers began: (path, first byte).
    log: Mutex<Vec<(String, usize)>>,
}

impl Hub {
    fn serve(files: Files, wrong_checksum: bool) -> (Arc<Hub>, String) {
        let hub = Arc::new(Hub { files, wrong_checksum, log: Mutex::default() });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let served = hub.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that hangs up is part of the test.
                let _ = served.answer(stream);
            }
        });
        (hub, endpoint)
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines().map_while(Result::ok);
        let path = lines.next().and_then(|line| Some(line.split(' ').nth(1)?.to_owned())).unwrap_or_default();
        let mut range = None;
        for line in lines.take_while(|line| !line.is_empty()) {
            if let Some((_, value)) = line.split_once(": bytes=").filter(|(name, _)| name.eq_ignore_ascii_case("range"))
            {
                let (first, last) = value.split_once('-').unwrap();
                range = Some((first.parse::<usize>().unwrap(), last.parse::<usize>().ok()));
            }
        }
        if let Some(repo) = path.strip_prefix("/api/models/").and_then(|path| path.strip_suffix("/revision/main")) {
            let siblings: Vec<Value> =
                self.files.keys().filter(|(r, _)| r == repo).map(|(_, name)| json!({ "rfilename": name })).collect();
            let body = json!({ "sha": "c0ffee", "siblings": siblings }).to_string();
            return write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
        }
        let found = path.trim_start_matches('/').split_once("/resolve/main/");
        let Some(bytes) = found.and_then(|(repo, name)| self.files.get(&(repo.to_owned(), name.to_owned()))) else {
            return write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        };
        let (first, last) = range.unwrap_or((0, None));
        let last = last.unwrap_or(bytes.len() - 1);
        let etag: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        let etag = if self.wrong_checksum { "0".repeat(64) } else { etag };
        let length = last + 1 - first;
        write!(
            stream,
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {length}\r\nContent-Range: bytes {first}-{last}/{}\r\nETag: \"{etag}\"\r\nX-Repo-Commit: c0ffee\r\nConnection: close\r\n\r\n",
            bytes.len()
        )?;
        let whole = length == bytes.len();
        let sent = if whole && path.ends_with("model.safetensors") { length / 2 } else { length };
        if length > 1 {
            self.log.lock().unwrap().push((path, first));
        }
        stream.write_all(&bytes[first..first + sent])
    }
}

#[test]
fn downloads_resume_and_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let source = repositories(folder);
    let mut files = Files::new();
    for part in PUBLISHED.parts {
        let short = part.repo.rsplit('/').next().unwrap();
        for name in names(&source.join(short))
            .into_iter()
            .filter(|name| !name.starts_with("reference") && name != "tokenizer.json")
        {
            let bytes = fs::read(source.join(short).join(&name)).unwrap();
            files.insert((part.repo.to_owned(), name), bytes);
        }
    }
    let tokenizer = fs::read(source.join("t5-v1_1-xxl/tokenizer.json")).unwrap();
    files.insert(("lmz/mt5-tokenizers".into(), "t5-v1_1-xxl.tokenizer.json".into()), tokenizer);
    let pull = |endpoint: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_adacache"));
        command.current_dir(folder).env("HF_ENDPOINT", endpoint).env("HF_HOME", folder.join("hf"));
        for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(proxy);
        }
        command.args(["pull", "opensora-v1.2", "--dir", "cache"]).args(more).output().unwrap()
    };

    let (_hub, endpoint) = Hub::serve(files.clone(), true);
    let output = pull(&endpoint, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("SHA-256"), "{}", text(&output.stderr));
    let left = Pull { cache: Some(folder.join("cache")), offline: true, ..Pull::new(&PUBLISHED) }.run();
    assert!(left.is_err(), "nothing unchecked is kept");

    let (hub, endpoint) = Hub::serve(files.clone(), false);
    let output = pull(&endpoint, &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let log = hub.log.lock().unwrap();
    for part in PUBLISHED.parts {
        let path = format!("/{}/resolve/main/model.safetensors", part.repo);
        let size = files[&(part.repo.to_owned(), "model.safetensors".to_owned())].len();
        let starts: Vec<usize> = log.iter().filter(|(p, _)| *p == path).map(|(_, first)| *first).collect();
        assert_eq!(starts, [0, size / 2], "{path} was resumed where it broke off");
        assert!(fs::read(folder.join(MODEL).join(part.part.name()).join("model.safetensors")).unwrap().len() == size);
    }
    // Downloaded once, it is there without the hub.
    fs::remove_dir_all(folder.join(MODEL)).unwrap();
    assert!(pull("http://127.0.0.1:9", &["--offline"]).status.success());
}
