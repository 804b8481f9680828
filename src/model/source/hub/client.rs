//! Requests to the Hub: redirects, the token, what an answer means.

use std::io::Read;

use serde::Deserialize;
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

use super::{Hub, HubError};

const REDIRECTS: usize = 10;
/// More of an error page is not read.
const SAID: u64 = 4096;
/// More of a description is not read: one of ten thousand files is smaller.
const DESCRIPTION: u64 = 16 << 20;

/// A connection to the Hub.
pub struct Client<'a> {
    pub hub: &'a Hub,
    agent: Agent,
}

/// A repository at a commit.
#[derive(Deserialize)]
pub struct Description {
    #[serde(rename = "sha")]
    pub commit: String,
    pub siblings: Vec<Sibling>,
}

/// A file of it.
#[derive(Deserialize)]
pub struct Sibling {
    #[serde(rename = "rfilename")]
    pub name: String,
}

/// A file's version and length.
pub struct Metadata {
    pub etag: String,
    pub size: u64,
}

/// One file of a repository at a commit (or any other revision).
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub repo: &'a str,
    pub commit: &'a str,
    pub file: &'a str,
}

impl<'a> Client<'a> {
    pub fn new(hub: &'a Hub) -> Self {
        let patience = Some(hub.stall);
        // Redirects are followed here, because the token must not go along to another host.
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("dayrun/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_resolve(patience)
            .timeout_connect(patience)
            .timeout_recv_response(patience)
            .timeout_per_read(patience)
            .timeout_per_write(patience);
        Self { hub, agent: config.build().into() }
    }

    /// What a repository holds at a revision.
    pub fn describe(&self, repo: &str, revision: &str) -> Result<Description, HubError> {
        let revision_part = revision.replace('/', "%2F");
        let url = format!("{}/api/models/{repo}/revision/{revision_part}", self.hub.endpoint);
        let about = Source { repo, commit: revision, file: "" };
        let (response, url) = self.request(Method::Get, url, None, |_| false)?;
        let mut body = checked(self, about, &url, response)?;
        let mut text = Vec::new();
        let read = body.as_reader().take(DESCRIPTION).read_to_end(&mut text);
        read.map_err(|source| broken(self.hub, &url, source))?;
        serde_json::from_slice(&text).map_err(|error| HubError::Answer {
            url,
            problem: format!("no description of a repository: {error}"),
        })
    }

    /// The version and length of a file, from headers alone.
    pub fn metadata(&self, source: Source) -> Result<Metadata, HubError> {
        // Where the Hub redirects to its storage, its own answer has the file's version and length.
        let (response, url) = self.request(Method::Head, self.url(source), None, |headers| {
            text(headers, "x-linked-etag").is_some() && text(headers, "x-linked-size").is_some()
        })?;
        let headers = response.headers();
        let header = |names: [&str; 2]| names.iter().find_map(|name| text(headers, name));
        let etag = header(["x-linked-etag", "etag"]).map(str::to_string);
        let size = header(["x-linked-size", "content-length"]).and_then(|size| size.parse().ok());
        if !response.status().is_redirection() {
            checked(self, source, &url, response)?;
        }
        let lacks = |what| HubError::Answer { url: url.clone(), problem: format!("lacks {what}") };
        let etag = etag.ok_or_else(|| lacks("an ETag"))?;
        let etag = etag.trim_start_matches("W/").trim_matches('"').to_string();
        if etag.is_empty() || !etag.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            let problem = format!("the ETag {etag:?} is none that the Hub gives");
            return Err(HubError::Answer { url, problem });
        }
        Ok(Metadata { etag, size: size.ok_or_else(|| lacks("the file's length"))? })
    }

    /// A file's bytes from `start` on, or from its beginning if the server does not know ranges: the
    /// position that they begin at is returned with them.
    pub fn open(&self, source: Source, start: u64) -> Result<(u64, Body, String), HubError> {
        let (response, url) =
            self.request(Method::Get, self.url(source), Some(start), |_| false)?;
        let from = match response.status().as_u16() {
            206 => text(response.headers(), "content-range").and_then(range_start),
            _ => Some(0),
        };
        let body = checked(self, source, &url, response)?;
        match from {
            Some(from) if from == start || from == 0 => Ok((from, body, url)),
            _ => {
                let problem = format!("another range than the one from byte {start}");
                Err(HubError::Answer { url, problem })
            }
        }
    }

    fn url(&self, source: Source) -> String {
        let Source { repo, commit, file } = source;
        format!("{}/{repo}/resolve/{commit}/{file}", self.hub.endpoint)
    }

    /// Makes a request and follows redirects until there are none, or `until` likes the headers;
    /// also returns the address that answered.
    fn request(
        &self,
        method: Method,
        mut url: String,
        start: Option<u64>,
        until: impl Fn(&HeaderMap) -> bool,
    ) -> Result<(Response<Body>, String), HubError> {
        for _ in 0..REDIRECTS {
            let mut request = match method {
                Method::Get => self.agent.get(&url),
                Method::Head => self.agent.head(&url),
            };
            if let Some(token) = &self.hub.token
                && origin(&url) == origin(&self.hub.endpoint)
            {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            if let Some(start) = start.filter(|start| *start > 0) {
                request = request.header("Range", format!("bytes={start}-"));
            }
            let response = request.call().map_err(|source| failed(self.hub, &url, source))?;
            if !response.status().is_redirection() || until(response.headers()) {
                return Ok((response, url));
            }
            let to = text(response.headers(), "location").map(|to| resolve(&url, to));
            let Some(to) = to.filter(|to| origin(to).starts_with("http")) else {
                return Err(HubError::Answer { url, problem: "a redirect to nowhere".into() });
            };
            if url.starts_with("https:") && !to.starts_with("https:") {
                let problem = format!("a redirect to {to}, which is not encrypted");
                return Err(HubError::Answer { url, problem });
            }
            url = to;
        }
        Err(HubError::Answer { url, problem: "redirects without end".into() })
    }
}

#[derive(Clone, Copy)]
enum Method {
    Get,
    Head,
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Scheme, host and port of an address.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find(['/', '?', '#']).map_or(url.len(), |at| host + at);
    &url[..end]
}

/// The address that a redirect from `url` leads to.
fn resolve(url: &str, to: &str) -> String {
    match to {
        to if to.starts_with("//") => format!("{}{to}", &url[..url.find("//").unwrap_or(0)]),
        to if to.starts_with('/') => format!("{}{to}", origin(url)),
        to => to.into(),
    }
}

/// `bytes 5-9/10` begins at 5.
fn range_start(range: &str) -> Option<u64> {
    range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

fn failed(hub: &Hub, url: &str, source: ureq::Error) -> HubError {
    match source {
        ureq::Error::Timeout(_) => HubError::Stalled { url: url.into(), after: hub.stall },
        source => HubError::Request { url: url.into(), source: Box::new(source) },
    }
}

/// What an error while a body is read means.
pub fn broken(hub: &Hub, url: &str, source: std::io::Error) -> HubError {
    let url = url.to_string();
    let is_timeout = |e: &ureq::Error| matches!(e, ureq::Error::Timeout(_));
    let inner = source.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
    if source.kind() == std::io::ErrorKind::TimedOut || inner.is_some_and(is_timeout) {
        return HubError::Stalled { url, after: hub.stall };
    }
    HubError::Cut { url, source }
}

/// The body of an answer that is a success; what the others mean.
fn checked(
    client: &Client,
    about: Source,
    url: &str,
    response: Response<Body>,
) -> Result<Body, HubError> {
    let status = response.status().as_u16();
    let with_token = client.hub.token.is_some();
    if response.status().is_success() {
        return Ok(response.into_body());
    }
    let code = text(response.headers(), "x-error-code").unwrap_or_default().to_string();
    let said = text(response.headers(), "x-error-message").map(str::to_string);
    let said = said.or_else(|| message(response.into_body())).unwrap_or_default();
    let repo = about.repo.to_string();
    Err(match (status, code.as_str()) {
        (_, "RepoNotFound") => HubError::NoModel { repo, with_token },
        (404, "RevisionNotFound") => {
            HubError::NoRevision { repo, revision: about.commit.to_string() }
        }
        (401 | 403, _) => {
            let page = format!("{}/{repo}", client.hub.endpoint);
            HubError::Denied { repo, page, status, said, with_token }
        }
        (404, _) if !about.file.is_empty() => {
            HubError::NoFile { repo, file: about.file.to_string() }
        }
        (404, _) if about.commit == "main" => HubError::NoModel { repo, with_token },
        (404, _) => HubError::NoRevision { repo, revision: about.commit.to_string() },
        _ => HubError::Status { url: url.into(), status, said },
    })
}

/// The `error` of a JSON body.
fn message(mut body: Body) -> Option<String> {
    let mut text = Vec::new();
    body.as_reader().take(SAID).read_to_end(&mut text).ok()?;
    let json: serde_json::Value = serde_json::from_slice(&text).ok()?;
    json["error"].as_str().map(|said| said.chars().take(300).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_they_say() {
        let url = "https://hub.example:8/a/b?c=d";
        assert_eq!(origin(url), "https://hub.example:8");
        assert_eq!(origin("https://hub.example?x=/"), "https://hub.example");
        assert_eq!(resolve(url, "/x/y?z"), "https://hub.example:8/x/y?z");
        assert_eq!(resolve(url, "//cdn.example/x"), "https://cdn.example/x");
        assert_eq!(resolve(url, "http://other/x"), "http://other/x");
        // A host that only looks like the endpoint has another origin.
        assert_ne!(origin("https://hub.example:8@evil.example/"), origin(url));
        assert_ne!(origin("https://hub.example:80/"), origin(url));
    }
}
