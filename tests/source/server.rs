//! A web server for tests: what it answers is a function, what it was asked is kept.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Longer than any test waits.
const FOR_EVER: Duration = Duration::from_secs(600);

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The first byte that a range request asks for.
    pub fn start(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.split('-').next()?.parse().ok()
    }
}

/// What happens to a body.
#[derive(Clone, Copy, Default, PartialEq)]
pub enum Then {
    /// All of it is sent.
    #[default]
    Whole,
    /// So many bytes, then the connection is closed.
    Cut(usize),
    /// So many bytes, then nothing.
    Stall(usize),
    /// The request is read and never answered.
    Silence,
}

#[derive(Clone, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    pub then: Then,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// Runs until the process ends.
#[derive(Clone)]
pub struct Server {
    pub address: String,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<Request>>>::default();
        let server = Self { address, asked: asked.clone() };
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, asked) = (answer.clone(), asked.clone());
                std::thread::spawn(move || converse(stream, &*answer, &asked));
            }
        });
        server
    }

    /// What was asked since the last call.
    pub fn take(&self) -> Vec<Request> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn read_request(stream: &mut TcpStream) -> Option<Request> {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return None;
        }
        text.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut lines = text.lines();
    let mut first = lines.next()?.split(' ').map(str::to_string);
    let headers = lines.filter_map(|line| line.split_once(": "));
    Some(Request {
        method: first.next()?,
        path: first.next()?,
        headers: headers.map(|(name, value)| (name.to_lowercase(), value.to_string())).collect(),
    })
}

fn converse(
    mut stream: TcpStream,
    answer: &(dyn Fn(&Request) -> Reply + Send + Sync),
    asked: &Mutex<Vec<Request>>,
) {
    while let Some(request) = read_request(&mut stream) {
        let reply = answer(&request);
        let is_head = request.method == "HEAD";
        asked.lock().unwrap().push(request);
        if reply.then == Then::Silence {
            return std::thread::sleep(FOR_EVER);
        }
        let mut head =
            format!("HTTP/1.1 {} x\r\nContent-Length: {}\r\n", reply.status, reply.body.len());
        reply.headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        let _ = stream.write_all(format!("{head}\r\n").as_bytes());
        if is_head {
            continue;
        }
        match reply.then {
            Then::Cut(len) => return drop(stream.write_all(&reply.body[..len])),
            Then::Stall(len) => {
                let _ = stream.write_all(&reply.body[..len]);
                return std::thread::sleep(FOR_EVER);
            }
            _ => drop(stream.write_all(&reply.body)),
        }
    }
}
