//! The PTX of a fat binary that suits the device.

use super::abi::tell;
use super::error::{Error, Result};
use super::state::Driver;
use crate::fatbin;

/// Of the texts whose target the device can run, the one with the highest.
///
/// # Errors
/// `NoBinaryForGpu` if there is none; a line on stderr says why.
pub fn ptx(driver: &Driver, bytes: &[u8]) -> Result<String> {
    let refuse = |why: String| {
        tell("module", &why);
        Err(Error::NoBinaryForGpu)
    };
    let texts = match fatbin::ptx_of(bytes) {
        Ok(texts) => texts,
        Err(wrong) => return refuse(wrong.to_string()),
    };
    let (major, minor) = driver.options.compute_capability;
    let device = 10 * major + minor;
    let mut seen = Vec::new();
    let mut best: Option<(u32, &String)> = None;
    for text in &texts {
        let Some((target, exact)) = target(text) else { continue };
        seen.push(format!("sm_{target}"));
        if suits(target, exact, device) && best.is_none_or(|(other, _)| target > other) {
            best = Some((target, text));
        }
    }
    match best {
        Some((_, text)) => Ok(text.clone()),
        None => refuse(format!("PTX for {}, none of which runs on sm_{device}", seen.join(", "))),
    }
}

/// Whether a text's target is the device's (`89` for 8.9) or one before it. A text without one is for
/// the parser to refuse.
pub fn runs_on(text: &str, device: u32) -> bool {
    target(text).is_none_or(|(target, exact)| suits(target, exact, device))
}

/// Features of one architecture alone (sm_90a) go nowhere else.
fn suits(target: u32, exact: bool, device: u32) -> bool {
    if exact { target == device } else { target <= device }
}

/// `.target sm_80` is (80, false), `.target sm_90a` is (90, true).
fn target(text: &str) -> Option<(u32, bool)> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(".target"))?;
    let name = line.trim_start().strip_prefix("sm_")?;
    let digits = name.find(|c: char| !c.is_ascii_digit()).unwrap_or(name.len());
    let exact = name[digits..].starts_with(['a', 'f']);
    Some((name[..digits].parse().ok()?, exact))
}

#[cfg(test)]
mod tests {
    use super::target;

    #[test]
    fn targets() {
        assert_eq!(target(".version 8.1\n.target sm_80\n"), Some((80, false)));
        assert_eq!(target(".version 8.1\n .target sm_90a, debug\n"), Some((90, true)));
        assert_eq!(target(".version 8.1\n.target sm_120"), Some((120, false)));
        assert_eq!(target(".version 8.1\n"), None);
    }
}
