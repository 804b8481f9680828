//! PTX out of fat binaries that NVIDIA's own `fatbinary` 13.5 wrote, and out of broken ones.
//!
//! `fatbin/twice.nvcc-13.5.ptx` is what went in (nvcc 13.5 of twice.cu); `--compress=false` made stored.fatbin,
//! `--compress-mode=speed` with `--ident` and `--cmdline` lz4.fatbin, `--compress-all` the two with
//! cubins, `--concat` concatenated.fatbin.

use proptest::prelude::*;
use virtual_gpu::fatbin::{FatbinError, ptx_of, size_of};

const STORED: &[u8] = include_bytes!("fatbin/stored.fatbin");
const LZ4: &[u8] = include_bytes!("fatbin/lz4.fatbin");
const ZSTD_AND_CUBINS: &[u8] = include_bytes!("fatbin/zstd_and_cubins.fatbin");
const CUBIN_ONLY: &[u8] = include_bytes!("fatbin/cubin_only.fatbin");
const CONCATENATED: &[u8] = include_bytes!("fatbin/concatenated.fatbin");

/// What went in, without comments and tabs: `fatbinary` takes them out.
fn twice() -> String {
    let lines = include_str!("fatbin/twice.nvcc-13.5.ptx").lines();
    lines
        .map(|line| line.split("//").next().unwrap_or(""))
        .collect::<Vec<_>>()
        .join("\n")
        .replace('\t', "")
}

/// A container of its own making: entries as (kind, flags, payload, decompressed bytes).
fn container(entries: &[(u16, u64, &[u8], u64)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (kind, flags, payload, decompressed) in entries {
        let mut header = [0u8; 64];
        let padded = payload.len().next_multiple_of(8);
        header[0..2].copy_from_slice(&kind.to_le_bytes());
        header[4..8].copy_from_slice(&64u32.to_le_bytes());
        header[8..16].copy_from_slice(&(padded as u64).to_le_bytes());
        let compressed = if *flags & 0xA000 != 0 { payload.len() as u32 } else { 0 };
        header[16..20].copy_from_slice(&compressed.to_le_bytes());
        header[40..48].copy_from_slice(&flags.to_le_bytes());
        header[56..64].copy_from_slice(&decompressed.to_le_bytes());
        body.extend(header);
        body.extend(*payload);
        body.resize(body.len() + padded - payload.len(), 0);
    }
    let mut bytes = 0xBA55_ED50u32.to_le_bytes().to_vec();
    bytes.extend([1, 0, 16, 0]);
    bytes.extend((body.len() as u64).to_le_bytes());
    bytes.extend(body);
    bytes
}

#[test]
fn ptx_is_found_stored_and_compressed() {
    for (name, bytes) in [("stored", STORED), ("LZ4", LZ4), ("zstd", ZSTD_AND_CUBINS)] {
        let texts = ptx_of(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(texts.len(), 1, "{name}");
        assert_eq!(texts[0].trim_end(), twice().trim_end(), "{name}");
        assert_eq!(size_of(&bytes[..16]), Some(bytes.len() as u64));
        // A loader has a pointer and no length: what stands behind a container is not its own.
        assert_eq!(ptx_of(&[bytes, &[0xFF; 100]].concat()).unwrap(), texts, "{name}");
    }
    let several = container(&[(1, 0, b"first", 0), (2, 0, b"cubin", 0), (1, 0x11, b"second..", 0)]);
    assert_eq!(ptx_of(&several).unwrap(), ["first", "second.."]);
}

#[test]
fn what_holds_no_ptx_says_so() {
    assert_eq!(ptx_of(CUBIN_ONLY), Err(FatbinError::NoPtx { entries: 1 }));
    assert!(ptx_of(CUBIN_ONLY).unwrap_err().to_string().contains("no PTX in it"));
    assert_eq!(ptx_of(&container(&[])), Err(FatbinError::NoPtx { entries: 0 }));
    let found = u32::from_le_bytes(*b".ver");
    assert_eq!(ptx_of(b".version 8.1"), Err(FatbinError::Magic { found }));
    assert_eq!(size_of(b".version 8.1 .target"), None);
    let error = ptx_of(CONCATENATED).unwrap_err();
    assert!(error.to_string().contains("without --concat"), "{error}");
}

#[test]
fn a_container_that_is_cut_off_says_so() {
    for length in 0..LZ4.len() {
        let error = ptx_of(&LZ4[..length]).unwrap_err();
        assert!(matches!(error, FatbinError::Truncated { at: 0, .. }), "{length}: {error}");
    }
    // Entries that reach beyond the container, and headers that are too short for one.
    for (at, value) in [(24, 0xFF), (31, 0xFF), (20, 8), (20, 0), (23, 0xFF)] {
        let mut bytes = STORED.to_vec();
        bytes[at] = value;
        let error = ptx_of(&bytes).unwrap_err();
        assert!(matches!(error, FatbinError::Truncated { at: 16, .. }), "{at}: {error}");
    }
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let lz4 = lz4_flex::block::compress(&[b'a'; 1000]);
    let with = |flags, bytes| ptx_of(&container(&[(1, flags, &lz4, bytes)]));
    assert_eq!(with(0x2000, 1000).unwrap(), ["a".repeat(1000)]);
    let most = lz4.len() as u64 * 255;
    let too_long = |bytes, most| Err(FatbinError::TooLong { at: 16, bytes, most });
    assert_eq!(with(0x2000, 1 << 40), too_long(1 << 40, most));
    assert_eq!(with(0x8000, u64::MAX), too_long(u64::MAX, 1 << 30));
    let error = with(0x2000, 1001).unwrap_err();
    assert!(matches!(error, FatbinError::Decompress { method: "LZ4", .. }), "{error}");
    let mut zstd = ZSTD_AND_CUBINS.to_vec();
    let entry = zstd.windows(8).position(|w| w == [1, 0, 1, 1, 80, 0, 0, 0]).unwrap();
    let right = zstd[entry + 56];
    for wrong in [right - 1, right + 1] {
        zstd[entry + 56] = wrong;
        let error = ptx_of(&zstd).unwrap_err();
        assert!(matches!(error, FatbinError::Decompress { method: "zstd", .. }), "{error}");
    }
    // Fewer bytes than come out, and no frame of zstd's at all.
    for (flags, bytes, method) in [(0x2000, 999, "LZ4"), (0x8000, 1000, "zstd")] {
        let error = with(flags, bytes).unwrap_err();
        assert!(matches!(&error, FatbinError::Decompress { method: m, .. } if *m == method));
    }
    let not_text = ptx_of(&container(&[(1, 0, b"ab\xFFcdefg", 0)]));
    assert_eq!(not_text, Err(FatbinError::NotText { at: 16, byte: 2 }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_bytes_never_panic(
        which in 0..4usize,
        changes in prop::collection::vec((0..3000usize, any::<u8>()), 1..6),
    ) {
        let mut bytes = [STORED, LZ4, ZSTD_AND_CUBINS, CONCATENATED][which].to_vec();
        let length = bytes.len();
        for (at, value) in changes {
            // Headers are small: half of the changes go there.
            bytes[if at % 2 == 0 { at % 96 } else { at % length }] = value;
        }
        if let Ok(texts) = ptx_of(&bytes) {
            prop_assert!(!texts.is_empty());
        }
    }
}
