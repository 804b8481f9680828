//! A Hub that refuses, breaks off, stands still or lies.

use std::time::{Duration, Instant};

use dayrun::model::source::{Hub, HubError};
use dayrun::progress::quiet;

use super::repository::{Repository, address, sha256, tiny};
use super::server::{Reply, Server, Then};

const WEIGHTS: &str = "model.safetensors";

fn weights(repository: &Repository) -> Vec<u8> {
    std::fs::read(repository.fetch().unwrap().join(WEIGHTS)).unwrap()
}

/// The first bytes of the ranges that the storage was asked for.
fn starts(repository: &Repository) -> Vec<Option<usize>> {
    repository.storage.take().iter().map(|request| request.start()).collect()
}

#[test]
fn a_connection_cut_in_the_middle_is_resumed() {
    let repository = Repository::tiny();
    repository.edit(|state| state.then = vec![Then::Cut(1000), Then::Cut(70_000)]);
    assert!(weights(&repository) == tiny()[WEIGHTS]);
    assert_eq!(starts(&repository), [None, Some(1000), Some(71_000)]);
}

#[test]
fn the_next_start_goes_on_where_the_last_one_ended() {
    let repository = Repository::tiny();
    repository.edit(|state| state.then = vec![Then::Cut(1000)]);
    let once = Hub { tries: 1, ..repository.client() };
    let error = once.fetch(&address(""), &quiet).unwrap_err();
    assert!(matches!(error, HubError::Cut { .. }), "{error}");
    assert!(error.hint().unwrap().contains("goes on from there"));
    let part = format!("{}.part", sha256(&tiny()[WEIGHTS]));
    assert!(repository.blobs().contains(&part));
    assert!(weights(&repository) == tiny()[WEIGHTS]);
    assert_eq!(starts(&repository), [None, Some(1000)]);
    assert!(!repository.blobs().contains(&part));
}

#[test]
fn a_storage_without_ranges_begins_again() {
    let repository = Repository::tiny();
    repository.edit(|state| {
        state.then = vec![Then::Cut(1000)];
        state.no_ranges = true;
    });
    assert!(weights(&repository) == tiny()[WEIGHTS]);
}

#[test]
fn another_range_than_asked_for_is_refused() {
    let repository = Repository::tiny();
    repository.edit(|state| {
        state.then = vec![Then::Cut(1000)];
    });
    let once = Hub { tries: 1, ..repository.client() };
    once.fetch(&address(""), &quiet).unwrap_err();
    let reply = Reply::new(206, "xyz").with("Content-Range", "bytes 5-7/8");
    repository.edit(|state| state.storage = vec![reply]);
    let error = repository.fetch().unwrap_err().to_string();
    assert!(error.contains("another range than the one from byte 1000"), "{error}");
    assert!(weights(&repository) == tiny()[WEIGHTS]);
}

#[test]
fn wrong_bytes_are_not_kept() {
    let repository = Repository::tiny();
    let good = tiny()[WEIGHTS].clone();
    let mut wrong = good.clone();
    wrong[good.len() / 2] ^= 1;
    for (bytes, part) in [(wrong, "SHA-256"), ([&good[..], b"more"].concat(), "bytes, expected")] {
        repository.edit(|state| state.storage = vec![Reply::new(200, bytes)]);
        let error = repository.fetch().unwrap_err().to_string();
        assert!(error.contains(WEIGHTS) && error.contains(part), "{error}");
        assert!(!repository.blobs().contains(&sha256(&good)));
    }
    assert!(weights(&repository) == good);
}

#[test]
fn a_connection_that_stands_still_is_given_up() {
    for then in [Then::Stall(1000), Then::Silence] {
        let repository = Repository::tiny();
        // Whoever gets further is given as many tries again.
        let mut all = vec![then];
        all.resize(9, if then == Then::Silence { then } else { Then::Stall(0) });
        repository.edit(|state| state.then = all);
        let start = Instant::now();
        let error = repository.fetch().unwrap_err();
        assert!(matches!(error, HubError::Stalled { .. }), "{error}");
        assert!(error.to_string().contains("no progress for 0.4 s"), "{error}");
        assert!(error.hint().unwrap().contains("HF_HUB_DOWNLOAD_TIMEOUT"));
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
        // What has arrived counts.
        repository.edit(|state| state.then.clear());
        repository.storage.take();
        assert!(weights(&repository) == tiny()[WEIGHTS]);
        let from = starts(&repository)[0];
        assert_eq!(from.is_some(), then != Then::Silence, "{from:?}");
    }
}

#[test]
fn a_gated_model_says_what_to_do() {
    let repository = Repository::tiny();
    let gated = |status| {
        Reply::new(status, "{\"error\": \"Access to model org/tiny is restricted.\"}")
            .with("X-Error-Code", "GatedRepo")
    };
    repository.edit(|state| state.hub = vec![gated(401)]);
    let anonymous = Hub { token: None, ..repository.client() };
    let error = anonymous.fetch(&address(""), &quiet).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the Hub refuses org/tiny (401: Access to model org/tiny is restricted.)"
    );
    let hint = error.hint().unwrap();
    let page = format!("accept its licence at {}/org/tiny", repository.hub.address);
    assert!(hint.contains(&page) && hint.contains("set HF_TOKEN"), "{hint}");
    // The description is public, the files are not.
    let about = Server::start(|_| Reply::new(200, ""));
    drop(about);
    repository.edit(|state| state.hub = vec![gated(403)]);
    let error = repository.fetch().unwrap_err();
    assert!(error.to_string().contains("(403: "), "{error}");
    assert!(error.hint().unwrap().contains("the token was not accepted"));
}

#[test]
fn wrong_names_and_revisions_are_told_apart() {
    let repository = Repository::tiny();
    let other = dayrun::model::source::Address::parse("hf://org/tinny").unwrap();
    let error = repository.client().fetch(&other, &quiet).unwrap_err();
    assert_eq!(error.to_string(), "the Hub has no model org/tinny, or not for everybody");
    assert_eq!(error.hint().unwrap(), "check the name");
    let anonymous = Hub { token: None, ..repository.client() };
    let error = anonymous.fetch(&other, &quiet).unwrap_err();
    assert!(error.hint().unwrap().contains("HF_TOKEN"));
    let error = repository.client().fetch(&address("@v9"), &quiet).unwrap_err();
    assert_eq!(error.to_string(), "org/tiny has no revision `v9`");
    // A mirror that does not say which of the two it is.
    let plain = Server::start(|_| Reply::new(404, ""));
    let mirror = Hub { endpoint: plain.address.clone(), ..repository.client() };
    let error = mirror.fetch(&address(""), &quiet).unwrap_err();
    assert!(matches!(error, HubError::NoModel { .. }), "{error}");
}

#[test]
fn a_busy_hub_is_asked_again() {
    let repository = Repository::tiny();
    repository.edit(|state| {
        state.hub = vec![Reply::new(503, ""), Reply::new(429, "")];
        state.storage = vec![Reply::new(500, "")];
    });
    assert!(weights(&repository) == tiny()[WEIGHTS]);
    let repository = Repository::tiny();
    repository.edit(|state| state.hub = vec![Reply::new(503, "{\"error\": \"full\"}"); 3]);
    let error = repository.fetch().unwrap_err().to_string();
    assert!(error.ends_with("HTTP status 503: full"), "{error}");
}

/// Nothing listens there.
const NOWHERE: &str = "http://127.0.0.1:1";

#[test]
fn without_a_connection_a_cached_model_will_do() {
    let repository = Repository::tiny();
    let hub = Hub { endpoint: NOWHERE.into(), ..repository.client() };
    let error = hub.fetch(&address(""), &quiet).unwrap_err();
    assert!(error.to_string().contains(NOWHERE), "{error}");
    assert!(error.hint().unwrap().contains("is this machine connected?"));
    let path = repository.fetch().unwrap();
    assert_eq!(hub.fetch(&address(""), &quiet).unwrap(), path);
    std::fs::remove_file(path.join("tokenizer.json")).unwrap();
    assert!(hub.fetch(&address(""), &quiet).is_err());
}

#[test]
fn redirects_are_followed_but_not_for_ever() {
    let repository = Repository::tiny();
    // A model that has another name now: the Hub's own redirect, with the token.
    let new = format!("/api/models/{}/revision/main", super::repository::REPO);
    repository.edit(|state| state.hub = vec![Reply::new(307, "").with("Location", new)]);
    repository.fetch().unwrap();
    let asked = repository.hub.take();
    assert!(asked[..2].iter().all(|r| r.header("authorization") == Some("Bearer secret")));
    let round = Server::start(|request| Reply::new(302, "").with("Location", request.path.clone()));
    let hub = Hub { endpoint: round.address.clone(), ..repository.client() };
    let error = hub.fetch(&address(""), &quiet).unwrap_err();
    assert!(error.to_string().contains("redirects without end"), "{error}");
}

#[test]
fn answers_without_sense_are_refused() {
    let about = |sha: &str| {
        format!("{{\"sha\": \"{sha}\", \"siblings\": [{{\"rfilename\": \"model.safetensors\"}}]}}")
    };
    let etag = |etag: &'static str| Reply::new(200, "x").with("ETag", etag);
    for (replies, part) in [
        (vec![Reply::new(200, "<html>")], "no description"),
        (vec![Reply::new(200, about("../../x"))], "is no commit"),
        (vec![Reply::new(302, "")], "a redirect to nowhere"),
        (vec![Reply::new(302, "").with("Location", "ftp://x/")], "a redirect to nowhere"),
    ] {
        let repository = Repository::tiny();
        repository.edit(|state| state.hub = replies);
        let error = repository.fetch().unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    for (reply, part) in [
        (Reply::new(200, "x"), "lacks an ETag"),
        (etag("\"../x\""), "is none that the Hub gives"),
        (etag("\"\""), "is none that the Hub gives"),
    ] {
        let repository = Repository::tiny();
        // The first answer is the description, the second the first file's headers.
        let first = Server::start({
            let (hub, reply) = (repository.hub.address.clone(), reply.clone());
            move |request| match request.method.as_str() {
                "HEAD" => reply.clone(),
                _ => Reply::new(307, "").with("Location", format!("{hub}{}", request.path)),
            }
        });
        let hub = Hub { endpoint: first.address.clone(), ..repository.client() };
        let error = hub.fetch(&address(""), &quiet).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_disk_without_room_is_told_before_the_first_byte() {
    let repository = Repository::tiny();
    let first = Server::start({
        let hub = repository.hub.address.clone();
        move |request| match request.method.as_str() {
            "HEAD" => Reply::new(302, "")
                .with("X-Linked-Etag", "abc")
                .with("X-Linked-Size", (1u64 << 60).to_string()),
            _ => Reply::new(307, "").with("Location", format!("{hub}{}", request.path)),
        }
    });
    let hub = Hub { endpoint: first.address.clone(), ..repository.client() };
    let error = hub.fetch(&address(""), &quiet).unwrap_err();
    assert!(matches!(error, HubError::NoRoom { .. }), "{error}");
    assert!(error.to_string().contains("org/tiny needs ") && error.hint().is_some(), "{error}");
    assert!(repository.blobs().is_empty());
}
