//! Servers on loopback: moto's of the S3 protocol, a proxy in front of it whose cable can be
//! pulled, and a web server.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A server that understands S3's protocol. It ends with this, and with the test if that is killed.
pub struct Moto {
    pub port: u16,
    log: PathBuf,
    _dir: tempfile::TempDir,
    child: Child,
}

impl Moto {
    pub fn start(variables: &[(&str, &str)]) -> Moto {
        let program = std::env::var("MOTO_SERVER").unwrap_or_else(|_| "moto_server".into());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        // A shell between, which ends the server when the pipe to it is closed, whatever closes it.
        let script =
            r#"command -v "$0" >/dev/null || exit 127; "$0" "$@" </dev/null & read _; kill $!"#;
        let mut command = Command::new("sh");
        command
            .args(["-c", script, &program, "-H", "127.0.0.1", "-p", &port.to_string()])
            .envs(variables.iter().copied());
        let log_file = File::create(&log).unwrap();
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log_file);
        let child = command.spawn().unwrap();
        let mut moto = Moto { port, log, _dir: dir, child };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = moto.child.try_wait().unwrap().is_some();
            assert!(
                !ended && begun.elapsed() < Duration::from_secs(60),
                "`{program}` does not serve; install it (pip install 'moto[server]'), and have it in PATH or its path in \
                 MOTO_SERVER. It said: {}",
                moto.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        moto
    }

    /// What it was asked, a line each.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn create_bucket(&self, bucket: &str) {
        self.asked("PUT", &format!("/{bucket}"), b"");
    }

    pub fn put(&self, bucket: &str, key: &str, bytes: &[u8]) {
        self.asked("PUT", &format!("/{bucket}/{key}"), bytes);
    }

    pub fn delete(&self, bucket: &str, key: &str) {
        self.asked("DELETE", &format!("/{bucket}/{key}"), b"");
    }

    fn asked(&self, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
        let (status, body) = http(self.port, method, path, body);
        assert!(
            (200..300).contains(&status),
            "{method} {path}: {status} {}",
            String::from_utf8_lossy(&body)
        );
        body
    }

    /// Objects by their keys, sorted.
    pub fn objects(&self, bucket: &str) -> Vec<(String, Vec<u8>)> {
        let keys = self.keys(bucket);
        keys.into_iter()
            .map(|key| (key.clone(), self.asked("GET", &format!("/{bucket}/{key}"), b"")))
            .collect()
    }

    pub fn keys(&self, bucket: &str) -> Vec<String> {
        let listed =
            String::from_utf8(self.asked("GET", &format!("/{bucket}?list-type=2"), b"")).unwrap();
        elements(&listed, "Key")
    }

    /// Keys of uploads that are not complete.
    pub fn uploads(&self, bucket: &str) -> Vec<String> {
        let listed =
            String::from_utf8(self.asked("GET", &format!("/{bucket}?uploads"), b"")).unwrap();
        elements(&listed, "Key")
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn elements(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(&open).skip(1).map(|rest| rest.split(&close).next().unwrap().to_owned()).collect()
}

/// Who asks: moto looks at the name and not at the signature, unless it was told to.
const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 Credential=anyone/20261124/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";

/// A request: status and body of the answer.
pub fn http(port: u16, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\nAuthorization: {AUTHORIZATION}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("an answer has a head");
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(!head.to_ascii_lowercase().contains("transfer-encoding: chunked"), "{head}");
    (status, answer.split_off(end + 4))
}

/// What stands before a server, until it is cut.
pub struct Proxy {
    pub port: u16,
    is_cut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    pub fn start(to: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = Proxy { port, is_cut: Arc::default(), open: Arc::default() };
        let (is_cut, open) = (proxy.is_cut.clone(), proxy.open.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                if is_cut.load(Ordering::SeqCst) {
                    continue;
                }
                open.lock()
                    .unwrap()
                    .extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                for (mut from, mut to) in
                    [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
                {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
            }
        });
        proxy
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn mend(&self) {
        self.is_cut.store(false, Ordering::SeqCst);
    }
}

/// A web server of some files.
pub struct Web {
    pub port: u16,
    /// Of each request for bytes: the path, and the range if it was answered with one.
    pub asked: Arc<Asked>,
    /// Ranges that begin before this place are answered by an error of the server's own.
    pub broken_before: Arc<Mutex<u64>>,
}

impl Web {
    pub fn start(files: HashMap<String, Vec<u8>>, ranges: bool) -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let web = Web { port, asked: Arc::default(), broken_before: Arc::default() };
        let (asked, broken, files) =
            (web.asked.clone(), web.broken_before.clone(), Arc::new(files));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (asked, broken, files) = (asked.clone(), broken.clone(), files.clone());
                std::thread::spawn(move || answer(stream, &files, ranges, &asked, &broken));
            }
        });
        web
    }

    pub fn url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}", self.port)
    }

    /// Bytes that were asked for in ranges.
    pub fn bytes(&self) -> u64 {
        self.asked
            .lock()
            .unwrap()
            .iter()
            .filter_map(|(_, range)| range.map(|(from, to)| to - from))
            .sum()
    }
}

pub type Asked = Mutex<Vec<(String, Option<(u64, u64)>)>>;

/// Answers a request, and closes the connection.
fn answer(
    stream: TcpStream,
    files: &HashMap<String, Vec<u8>>,
    ranges: bool,
    asked: &Asked,
    broken: &Mutex<u64>,
) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(request) = lines.next() else { return };
    let headers: HashMap<String, String> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            line.split_once(':').map(|(k, v)| (k.to_ascii_lowercase(), v.trim().to_owned()))
        })
        .collect();
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or("").to_owned());
    let common = "Connection: close\r\nETag: \"one\"\r\nLast-Modified: Tue, 24 Nov 2026 10:00:00 GMT\r\nAccept-Ranges: bytes\r\n";
    let send = |status: &str, more: &str, length: usize, body: &[u8]| {
        let head = format!("HTTP/1.1 {status}\r\n{common}{more}Content-Length: {length}\r\n\r\n");
        let mut stream = &stream;
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    };
    let Some(file) = files.get(path.trim_start_matches('/')) else {
        return send("404 Not Found", "", 0, b"");
    };
    if method == "HEAD" {
        return send("200 OK", "", file.len(), b"");
    }
    let range =
        headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let range = range
        .map(|(from, to)| (from.parse::<u64>().unwrap(), to.parse::<u64>().unwrap() + 1))
        .filter(|_| ranges);
    asked.lock().unwrap().push((path, range));
    match range {
        Some((from, _)) if from < *broken.lock().unwrap() => {
            send("503 Service Unavailable", "", 0, b"")
        }
        Some((from, to)) => {
            let body = &file[from as usize..to as usize];
            let more = format!("Content-Range: bytes {from}-{}/{}\r\n", to - 1, file.len());
            send("206 Partial Content", &more, body.len(), body);
        }
        None => send("200 OK", "", file.len(), file),
    }
}
