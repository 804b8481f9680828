//! Devices and amounts of memory, as a person writes them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What to run on: `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// The first GPU if it can be used, else the CPU.
    #[default]
    Auto,
    Cpu,
    /// The GPU of this number, as the driver counts.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let gpu = |number: &str| {
            let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
            number.parse::<u16>().ok().filter(|_| digits).map(|n| Self::Cuda(n.into()))
        };
        match text {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            _ => text.strip_prefix("cuda:").and_then(gpu),
        }
        .ok_or_else(|| "expected auto, cpu, cuda or cuda:N".into())
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> Self {
        choice.to_string()
    }
}

/// How many CPU threads: `auto`, or a number from 1 to 1024.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "TextOrNumber", into = "NumberOrText")]
pub enum Threads {
    /// As many as may run at once: the cores, less what an affinity mask or a control group's quota
    /// (a container's limit) leaves out.
    #[default]
    Auto,
    Exactly(u16),
}

impl Threads {
    /// The number; 0 for `auto`.
    pub fn count(self) -> usize {
        match self {
            Self::Auto => 0,
            Self::Exactly(count) => count.into(),
        }
    }
}

impl FromStr for Threads {
    type Err = String;

    /// 0 is `auto`, too.
    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("auto", _) | (_, Ok(0)) => Ok(Self::Auto),
            (_, Ok(count @ 1..=1024)) => Ok(Self::Exactly(count)),
            _ => Err("expected auto, or an integer from 1 to 1024".into()),
        }
    }
}

impl fmt::Display for Threads {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Exactly(count) => write!(f, "{count}"),
        }
    }
}

impl TryFrom<TextOrNumber> for Threads {
    type Error = String;

    fn try_from(value: TextOrNumber) -> Result<Self, String> {
        match value {
            TextOrNumber::Number(count) => count.to_string().parse(),
            TextOrNumber::Text(text) => text.parse(),
        }
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u16),
    Text(&'static str),
}

impl From<Threads> for NumberOrText {
    fn from(threads: Threads) -> Self {
        match threads {
            Threads::Auto => Self::Text("auto"),
            Threads::Exactly(count) => Self::Number(count),
        }
    }
}

/// An amount of memory: `39.3GB`, `24GiB`, `800MB`, or plain bytes. Written exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "TextOrNumber", into = "String")]
pub struct ByteSize(pub u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum TextOrNumber {
    Number(u64),
    Text(String),
}

/// The units, the largest of each kind first.
const UNITS: [(&str, u64); 8] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl FromStr for ByteSize {
    type Err = String;

    /// Decimal digits and at most one point, before a unit in any case. Of a unit, a part of a byte is dropped.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected a size such as 39.3GB, 24GiB, 800MB or bytes".to_string();
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = (&text[..end], text[end..].trim());
        let scale = match unit {
            // A part of a byte means a unit that was forgotten.
            "" if !number.contains('.') => 1,
            _ => {
                let known = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
                known.ok_or_else(wrong)?.1
            }
        };
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        // More digits than a unit has bytes say nothing.
        if whole.is_empty() || part.len() > 15 || (number.contains('.') && part.is_empty()) {
            return Err(wrong());
        }
        let whole: u64 = whole.parse().map_err(|_| wrong())?;
        let part = match part {
            "" => 0,
            digits => {
                let value: u128 = digits.parse().map_err(|_| wrong())?;
                value * u128::from(scale) / 10u128.pow(digits.len() as u32)
            }
        };
        let bytes = u128::from(whole) * u128::from(scale) + part;
        // A run file holds no larger integer.
        u64::try_from(bytes).ok().filter(|&b| b <= i64::MAX as u64).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for ByteSize {
    /// In binary units where that is whole, else in GB with as many digits as it takes.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let bytes = self.0;
        let whole = |&&(_, unit): &&(&str, u64)| bytes > 0 && bytes.is_multiple_of(unit);
        if let Some((name, unit)) = UNITS[..2].iter().find(whole) {
            return write!(f, "{}{name}", bytes / unit);
        }
        let (unit, name, digits) = match bytes {
            1_000_000_000.. => (1_000_000_000, "GB", 9),
            1_000_000.. => (1_000_000, "MB", 6),
            _ => return write!(f, "{bytes}B"),
        };
        let part = format!("{:0digits$}", bytes % unit);
        match part.trim_end_matches('0') {
            "" => write!(f, "{}{name}", bytes / unit),
            part => write!(f, "{}.{part}{name}", bytes / unit),
        }
    }
}

impl TryFrom<TextOrNumber> for ByteSize {
    type Error = String;

    fn try_from(value: TextOrNumber) -> Result<Self, String> {
        match value {
            TextOrNumber::Number(bytes) => Ok(Self(bytes)),
            TextOrNumber::Text(text) => text.parse(),
        }
    }
}

impl From<ByteSize> for String {
    fn from(size: ByteSize) -> Self {
        size.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_and_written() {
        for (text, choice) in [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Cpu),
            ("cuda:0", DeviceChoice::Cuda(0)),
            ("cuda:7", DeviceChoice::Cuda(7)),
        ] {
            assert_eq!(text.parse(), Ok(choice));
            assert_eq!(choice.to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        for wrong in ["", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda:+1", "cuda:99999"] {
            assert!(wrong.parse::<DeviceChoice>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_of_threads_are_read_and_written() {
        for (text, threads) in
            [("auto", Threads::Auto), ("1", Threads::Exactly(1)), ("1024", Threads::Exactly(1024))]
        {
            assert_eq!(text.parse(), Ok(threads));
            assert_eq!(threads.to_string(), text);
        }
        assert_eq!("0".parse(), Ok(Threads::Auto));
        for wrong in ["", "-1", "1025", "2.0", "all", "Auto"] {
            assert!(wrong.parse::<Threads>().is_err(), "{wrong}");
        }
        for toml in ["t = 'auto'", "t = 3", "t = 0"] {
            let read: std::collections::BTreeMap<String, Threads> = toml::from_str(toml).unwrap();
            let again = toml::from_str(&toml::to_string(&read).unwrap());
            assert_eq!(again, Ok(read), "{toml}");
        }
    }

    #[test]
    fn sizes_are_read_exactly() {
        for (text, bytes) in [
            ("39.3GB", 39_300_000_000),
            ("39.35 GB", 39_350_000_000),
            ("24GiB", 24 << 30),
            ("1.5GiB", 3 << 29),
            ("800MB", 800_000_000),
            ("512mib", 512 << 20),
            ("4096", 4096),
            ("4096B", 4096),
            ("0.1KiB", 102),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        let wrong =
            ["", "GB", "-1GB", "1.GB", ".5GB", "1.2.3GB", "40 gigs", "39.3", "1e9", "99999999TB"];
        for wrong in wrong {
            assert!(wrong.parse::<ByteSize>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut size = 1u64;
        for step in 0..60 {
            for bytes in [size, size + 1, size * 2, size ^ 0x5555] {
                let text = ByteSize(bytes).to_string();
                assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text} at {step}");
            }
            size = size * 2 + step % 3;
            if size > i64::MAX as u64 / 4 {
                break;
            }
        }
        assert_eq!(ByteSize(39_300_000_000).to_string(), "39.3GB");
        assert_eq!(ByteSize(40 << 30).to_string(), "40GiB");
        assert_eq!(ByteSize(512 << 20).to_string(), "512MiB");
        assert_eq!(ByteSize(0).to_string(), "0B");
    }
}
