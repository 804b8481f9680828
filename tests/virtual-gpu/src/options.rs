//! What the virtual GPU pretends to be and how closely it watches, from environment variables.

use std::path::PathBuf;
use std::str::FromStr;

use crate::driver::device::VERSION;

/// The compute capabilities that can be claimed: RTX 20 (to see what a program says to a card that is
/// too old for it), A100, RTX 30, RTX 40, H100, RTX 50.
pub const COMPUTE_CAPABILITIES: [(u32, u32); 6] = [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (12, 0)];

const COMPUTE_CAPABILITY: &str = "VIRTUAL_GPU_COMPUTE_CAPABILITY";
const MEMORY: &str = "VIRTUAL_GPU_MEMORY";
const MULTIPROCESSORS: &str = "VIRTUAL_GPU_MULTIPROCESSORS";
const WATCH: &str = "VIRTUAL_GPU_WATCH";
const SEED: &str = "VIRTUAL_GPU_SEED";
const THREADS: &str = "VIRTUAL_GPU_THREADS";
const REPORT: &str = "VIRTUAL_GPU_REPORT";
const FAULT_AT: &str = "VIRTUAL_GPU_FAULT_AT";
const DRIVER: &str = "VIRTUAL_GPU_DRIVER";

/// How closely the watchman looks, and what follows from a finding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Watch {
    /// Nothing is watched. What would be a fault on a real GPU is still one.
    Off,
    /// Findings are printed on stderr, the launch goes on.
    Report,
    /// Findings are printed on stderr and fail the launch's context, as a fault of the GPU would.
    #[default]
    Fail,
}

/// The device, as the program sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Claimed compute capability, one of [`COMPUTE_CAPABILITIES`].
    pub compute_capability: (u32, u32),
    /// Device memory in bytes. It is taken from the host only as far as it is written.
    pub memory_bytes: u64,
    /// Claimed number of multiprocessors.
    pub multiprocessors: u32,
    /// What the watchman does.
    pub watch: Watch,
    /// Shuffles the order of blocks and of warps; without one they run in order.
    pub seed: Option<u64>,
    /// Host threads that run blocks.
    pub threads: usize,
    /// A file that findings are appended to, a line of JSON each.
    pub report: Option<PathBuf>,
    /// This launch of the process, counted from 1, fails as a faulty kernel would, without running.
    pub fault_at: Option<u64>,
    /// The CUDA version that the driver says it is of: 12090 is 12.9.
    pub driver: i32,
}

impl Default for Options {
    /// An sm_80 with 24 GiB and 108 multiprocessors, watched, on all of the host's cores.
    fn default() -> Options {
        Options {
            compute_capability: (8, 0),
            memory_bytes: 24 << 30,
            multiprocessors: 108,
            watch: Watch::Fail,
            seed: None,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            report: None,
            fault_at: None,
            driver: VERSION,
        }
    }
}

/// A variable whose value cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("reading {variable}: `{value}` is not {expected}")]
pub struct OptionsError {
    /// The environment variable.
    pub variable: &'static str,
    /// Its value.
    pub value: String,
    /// What would be right.
    pub expected: &'static str,
}

impl Options {
    /// The options in the environment; what is not there is as in [`Options::default`].
    ///
    /// # Errors
    /// A value that is not of its variable's form.
    pub fn from_env() -> Result<Options, OptionsError> {
        Options::from_variables(|name| {
            std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
        })
    }

    fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Options, OptionsError> {
        let mut options = Options::default();
        take(&get, COMPUTE_CAPABILITY, "one of 7.5, 8.0, 8.6, 8.9, 9.0, 12.0", |value| {
            let (major, minor) = value.split_once('.')?;
            let claimed = (major.parse().ok()?, minor.parse().ok()?);
            options.compute_capability = *COMPUTE_CAPABILITIES.iter().find(|&&c| c == claimed)?;
            Some(())
        })?;
        take(&get, MEMORY, "a size such as 24GiB, 512MiB or a number of bytes above 0", |value| {
            options.memory_bytes = bytes(value).filter(|&bytes| bytes > 0)?;
            Some(())
        })?;
        take(&get, MULTIPROCESSORS, "a whole number from 1 to 1024", |value| {
            options.multiprocessors = number(value, 1..=1024)?;
            Some(())
        })?;
        take(&get, WATCH, "one of off, report, fail", |value| {
            options.watch = match value {
                "off" => Watch::Off,
                "report" => Watch::Report,
                "fail" => Watch::Fail,
                _ => return None,
            };
            Some(())
        })?;
        take(&get, SEED, "a whole number below 2^64, or empty for none", |value| {
            options.seed = if value.is_empty() { None } else { Some(value.parse().ok()?) };
            Some(())
        })?;
        take(&get, THREADS, "a whole number from 1 to 1024", |value| {
            options.threads = number(value, 1..=1024)?;
            Some(())
        })?;
        take(&get, REPORT, "the path of a file, or empty for none", |value| {
            options.report = (!value.is_empty()).then(|| value.into());
            Some(())
        })?;
        take(&get, FAULT_AT, "a whole number from 1, or empty for none", |value| {
            let launch = || number(value, 1..=u64::MAX);
            options.fault_at = if value.is_empty() { None } else { Some(launch()?) };
            Some(())
        })?;
        take(&get, DRIVER, "a version of CUDA such as 12.1", |value| {
            let (major, minor) = value.split_once('.')?;
            options.driver = 1000 * number(major, 1..=99)? + 10 * number(minor, 0..=9)?;
            Some(())
        })?;
        Ok(options)
    }

    /// Those of these names of variables that look like settings and are none: typing mistakes.
    pub fn misspelt(names: impl Iterator<Item = String>) -> Vec<String> {
        let known = Options::default().to_env().map(|(name, _)| name);
        names
            .filter(|name| name.starts_with("VIRTUAL_GPU_") && !known.contains(&name.as_str()))
            .collect()
    }

    /// The variables that give a process these options.
    pub fn to_env(&self) -> [(&'static str, String); 9] {
        let (major, minor) = self.compute_capability;
        let watch = match self.watch {
            Watch::Off => "off",
            Watch::Report => "report",
            Watch::Fail => "fail",
        };
        [
            (COMPUTE_CAPABILITY, format!("{major}.{minor}")),
            (MEMORY, self.memory_bytes.to_string()),
            (MULTIPROCESSORS, self.multiprocessors.to_string()),
            (WATCH, watch.to_string()),
            // Empty, not absent: a seed that the parent has must not reach the child.
            (SEED, self.seed.map_or(String::new(), |seed| seed.to_string())),
            (THREADS, self.threads.to_string()),
            (REPORT, self.report.as_ref().map_or(String::new(), |file| file.display().to_string())),
            (FAULT_AT, self.fault_at.map_or(String::new(), |launch| launch.to_string())),
            (DRIVER, format!("{}.{}", self.driver / 1000, self.driver % 1000 / 10)),
        ]
    }
}

/// Reads one variable if it is set; `read` answers `None` to a value that is not of its form.
fn take(
    get: impl Fn(&str) -> Option<String>,
    variable: &'static str,
    expected: &'static str,
    mut read: impl FnMut(&str) -> Option<()>,
) -> Result<(), OptionsError> {
    match get(variable) {
        None => Ok(()),
        Some(value) => read(&value).ok_or(OptionsError { variable, value, expected }),
    }
}

fn number<T: FromStr + PartialOrd>(value: &str, range: std::ops::RangeInclusive<T>) -> Option<T> {
    value.parse().ok().filter(|number| range.contains(number))
}

/// `24GiB`, `512MiB`, `4KiB` or plain bytes.
fn bytes(value: &str) -> Option<u64> {
    let digits = value.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit: u64 = match value[digits.len()..].trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Result<Options, OptionsError> {
        Options::from_variables(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string())
        })
    }

    #[test]
    fn an_empty_environment_is_the_default() {
        assert_eq!(from(&[]), Ok(Options::default()));
    }

    #[test]
    fn what_is_written_is_read_back() {
        for compute_capability in COMPUTE_CAPABILITIES {
            for watch in [Watch::Off, Watch::Report, Watch::Fail] {
                for seed in [None, Some(0), Some(u64::MAX)] {
                    let options = Options {
                        compute_capability,
                        memory_bytes: 3 << 20,
                        multiprocessors: 7,
                        watch,
                        seed,
                        threads: 3,
                        report: seed.map(|seed| format!("found {seed}.jsonl").into()),
                        fault_at: seed.filter(|&seed| seed > 0),
                        driver: 11_080,
                    };
                    let written = options.to_env();
                    let written: Vec<_> =
                        written.iter().map(|(name, value)| (*name, value.as_str())).collect();
                    assert_eq!(from(&written), Ok(options));
                }
            }
        }
    }

    #[test]
    fn sizes_have_units() {
        let memory = |value| from(&[(MEMORY, value)]).map(|options| options.memory_bytes);
        assert_eq!(memory("24GiB"), Ok(24 << 30));
        assert_eq!(memory("512 MiB"), Ok(512 << 20));
        assert_eq!(memory("4096"), Ok(4096));
        for wrong in ["", "GiB", "24GB", "-1", "0", "99999999999GiB", "1.5GiB"] {
            assert!(memory(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_refusal_names_variable_value_and_what_is_right() {
        for (variable, value) in [
            (COMPUTE_CAPABILITY, "7.0"),
            (COMPUTE_CAPABILITY, "8"),
            (MULTIPROCESSORS, "0"),
            (WATCH, "loud"),
            (SEED, "dice"),
            (THREADS, "0"),
            (FAULT_AT, "0"),
            (FAULT_AT, "last"),
            (DRIVER, "12"),
            (DRIVER, "12.10"),
        ] {
            let refusal = from(&[(variable, value)]).unwrap_err();
            assert_eq!((refusal.variable, refusal.value.as_str()), (variable, value));
        }
        assert_eq!(
            from(&[(COMPUTE_CAPABILITY, "7.0")]).unwrap_err().to_string(),
            "reading VIRTUAL_GPU_COMPUTE_CAPABILITY: `7.0` is not one of 7.5, 8.0, 8.6, 8.9, 9.0, 12.0"
        );
    }

    #[test]
    fn misspelt_variables_are_noticed() {
        let names = ["VIRTUAL_GPU_MEMROY", "VIRTUAL_GPU_MEMORY", "PATH", "VIRTUAL_GPU_SEED"];
        let found = Options::misspelt(names.into_iter().map(str::to_owned));
        assert_eq!(found, ["VIRTUAL_GPU_MEMROY"]);
    }
}
