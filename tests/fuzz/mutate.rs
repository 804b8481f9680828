//! Damage, as disks, editors and half-done downloads do it.

use super::common::Rng;

/// Texts that find mistakes: empty, long, marks of byte order and direction, ends of the planes, controls.
pub fn odd_text(rng: &mut Rng) -> String {
    const TEXTS: [&str; 24] = [
        "",
        " ",
        "a",
        "Hello, world!",
        "the end.\n",
        "\r\n",
        "\0",
        "\u{1b}[31mred",
        "\u{7f}",
        "é",
        "e\u{301}",
        "日本語",
        "😀",
        "👩‍👩‍👧",
        "\u{feff}",
        "\u{2028}",
        "\u{202e}abc",
        "\u{fffd}",
        "\u{ffff}",
        "\u{10ffff}",
        "\"",
        "\\",
        "\\u0000",
        "{}",
    ];
    match rng.below(16) {
        0 => TEXTS[rng.below(TEXTS.len())].repeat(1 + rng.below(400)),
        1 => (0..rng.below(12)).map(|_| TEXTS[rng.below(TEXTS.len())]).collect(),
        2 => (0..rng.below(8)).map(|_| any_char(rng)).collect(),
        _ => TEXTS[rng.below(TEXTS.len())].to_string(),
    }
}

fn any_char(rng: &mut Rng) -> char {
    let bits = [7, 11, 16, 21][rng.below(4)];
    char::from_u32(rng.below(1 << bits) as u32).unwrap_or('\u{fffd}')
}

/// Lengths, counts and offsets that lie.
pub fn odd_u64(rng: &mut Rng, near: u64) -> u64 {
    match rng.below(10) {
        0 => u64::MAX - rng.below(3) as u64,
        1 => i64::MAX as u64 - 1 + rng.below(4) as u64,
        2 => (1 << 32) - 2 + rng.below(4) as u64,
        3 => 1 << rng.below(64),
        4 => (1u64 << rng.below(64)).wrapping_sub(1),
        5 => rng.next_u64() >> rng.below(64),
        6 => 0,
        _ => near.wrapping_add(rng.below(5) as u64).wrapping_sub(2),
    }
}

/// One to four injuries.
pub fn bytes(rng: &mut Rng, data: &mut Vec<u8>) {
    for _ in 0..1 + rng.below(4) {
        injury(rng, data);
    }
}

fn injury(rng: &mut Rng, data: &mut Vec<u8>) {
    if data.is_empty() {
        data.extend((0..rng.below(4)).map(|_| rng.below(256) as u8));
        return;
    }
    let at = rng.below(data.len());
    let run = at..(at + 1 + rng.below(20)).min(data.len());
    match rng.below(14) {
        0 | 1 => data[at] ^= 1 << rng.below(8),
        2 => data[at] = rng.below(256) as u8,
        3 => data.truncate(at),
        4 => drop(data.drain(run)),
        5 => {
            let again = data[run].to_vec();
            data.splice(at..at, again);
        }
        6 => {
            let elsewhere = rng.below(data.len());
            let moved: Vec<u8> = data.drain(run).collect();
            let to = elsewhere.min(data.len());
            data.splice(to..to, moved);
        }
        7 => drop(data.splice(at..at, odd_text(rng).into_bytes())),
        // Not UTF-8: a lone continuation, a surrogate, an overlong slash, a start without an end.
        8 => {
            let wrong: [&[u8]; 4] = [b"\x80", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf0\x9f"];
            drop(data.splice(at..at, wrong[rng.below(4)].iter().copied()));
        }
        9 => little_endian(rng, data, at),
        10 => decimal(rng, data, at),
        11 => {
            let open = [b"[", b"{", b"(", b"\""][rng.below(4)];
            drop(data.splice(at..at, open.repeat(1 + rng.below(300))));
        }
        12 => {
            let mark = [&b","[..], b":", b"\"", b"}", b"]", b"\n", b"=", b"null", b"-", b"."];
            drop(data.splice(at..at, mark[rng.below(10)].iter().copied()));
        }
        _ => swap(rng, data),
    }
}

/// Another number where four or eight bytes of one lie.
fn little_endian(rng: &mut Rng, data: &mut [u8], at: usize) {
    let width = [4, 8][rng.below(2)];
    let Some(place) = data.get_mut(at..at + width) else { return };
    let mut old = [0; 8];
    old[..width].copy_from_slice(place);
    let new = odd_u64(rng, u64::from_le_bytes(old));
    place.copy_from_slice(&new.to_le_bytes()[..width]);
}

/// Another number where digits stand, the first after `at`.
fn decimal(rng: &mut Rng, data: &mut Vec<u8>, at: usize) {
    let Some(start) = data[at..].iter().position(u8::is_ascii_digit) else { return };
    let start = at + start;
    let len = data[start..].iter().take_while(|b| b.is_ascii_digit()).count();
    let old = std::str::from_utf8(&data[start..start + len]).ok().and_then(|t| t.parse().ok());
    let new = odd_u64(rng, old.unwrap_or(0)).to_string();
    data.splice(start..start + len, new.into_bytes());
}

/// Two bytes change places.
fn swap(rng: &mut Rng, data: &mut [u8]) {
    let (a, b) = (rng.below(data.len()), rng.below(data.len()));
    data.swap(a, b);
}
