//! What is said of a finding: the variable by its name in the source, how often, what to do.

use super::common::Device;

#[test]
fn a_race_in_words() {
    let device = Device::with(include_str!("races.ptx"), super::options(None, 1));
    let data = device.buffer(&(1..=64).collect::<Vec<i32>>());
    let out = device.unwritten::<i32>(64);
    let args = [data.into(), out.into()];
    let outcome = device.try_launch("within_a_warp_planted", 3, 32, 0, &args);
    let [finding] = outcome.findings.as_slice() else { panic!("{:?}", outcome.findings) };
    assert_eq!(finding.count, 3 * 32);
    let text = finding.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[1],
        "  what   read of 4 bytes at `tile` + 4 (shared 0x4), which the other wrote"
    );
    assert!(lines[2].starts_with(
        "  where  kernel within_a_warp_planted, block (0,0,0) thread (0,0,0), PTX line "
    ));
    assert!(lines[2].contains("races.cu:82)"), "{text}");
    assert!(lines[3].starts_with("  other  block (0,0,0) thread (1,0,0), PTX line "), "{text}");
    assert_eq!(lines[4], "  count  96, this is the first block's first");
}
