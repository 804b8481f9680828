//! Device memory against a model: random allocations, copies, fills and frees.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Alloc(u64),
    Free(usize),
    Write { at: usize, offset: u64, bytes: Vec<u8> },
    Fill { at: usize, offset: u64, pattern: u32, width: u32, count: u64 },
    Copy { to: (usize, u64), from: (usize, u64), bytes: u64 },
    Read { at: usize, offset: u64, bytes: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Most steps fit: few allocations, and accesses that are small beside them.
    let place = (0..4_usize, 0..150_u64);
    let step = prop_oneof![
        (100..400_u64).prop_map(Step::Alloc),
        (0..30_usize).prop_map(Step::Free),
        (place.clone(), prop::collection::vec(any::<u8>(), 0..60))
            .prop_map(|((at, offset), bytes)| Step::Write { at, offset, bytes }),
        (place.clone(), any::<u32>(), prop::sample::select(vec![1_u32, 2, 4]), 0..20_u64).prop_map(
            |((at, offset), pattern, width, count)| Step::Fill {
                at,
                offset,
                pattern,
                width,
                count
            }
        ),
        (place.clone(), place.clone(), 0..300_u64).prop_map(|(to, from, bytes)| Step::Copy {
            to,
            from,
            bytes
        }),
        (place, 0..300_usize).prop_map(|((at, offset), bytes)| Step::Read { at, offset, bytes }),
    ];
    prop::collection::vec(step, 1..60)
}

/// What an allocation holds: `None` where nothing was written.
struct Model {
    address: u64,
    bytes: Vec<Option<u8>>,
    freed: bool,
}

impl Model {
    fn fits(&self, offset: u64, bytes: u64) -> bool {
        !self.freed && offset < self.bytes.len() as u64 && bytes <= self.bytes.len() as u64 - offset
    }

    /// The outcome that the real thing must have; no bytes are no access.
    fn allows<T>(&self, offset: u64, bytes: u64, got: &Result<T, MemoryError>) -> bool {
        match got {
            Ok(_) => bytes == 0 || self.fits(offset, bytes),
            Err(MemoryError::UseAfterFree { .. }) => {
                self.freed && offset < self.bytes.len() as u64 && bytes > 0
            }
            Err(MemoryError::OutOfBounds { .. }) => !self.fits(offset, bytes) && bytes > 0,
            Err(_) => false,
        }
    }
}

proptest! {
    #[test]
    fn behaves_as_the_model(steps in steps()) {
        let memory = Memory::new(1 << 20);
        let mut models: Vec<Model> = Vec::new();
        for step in steps {
            let count = models.len().max(1);
            match step {
                Step::Alloc(bytes) => {
                    let address = memory.alloc(bytes).unwrap();
                    prop_assert_eq!(address % 512, 0);
                    for other in &models {
                        prop_assert!(address >= other.address + other.bytes.len() as u64 + 4096);
                    }
                    models.push(Model { address, bytes: vec![None; bytes as usize], freed: false });
                }
                Step::Free(at) => {
                    let Some(model) = models.get_mut(at) else { continue };
                    prop_assert_eq!(memory.free(model.address).is_ok(), !model.freed);
                    model.freed = true;
                }
                Step::Write { at, offset, bytes } => {
                    let Some(model) = models.get_mut(at % count) else { continue };
                    let got = memory.write(model.address + offset, &bytes);
                    prop_assert!(model.allows(offset, bytes.len() as u64, &got), "{:?}", got);
                    if got.is_ok() {
                        for (i, byte) in bytes.iter().enumerate() {
                            model.bytes[offset as usize + i] = Some(*byte);
                        }
                    }
                }
                Step::Fill { at, offset, pattern, width, count: units } => {
                    let Some(model) = models.get_mut(at % count) else { continue };
                    let got = memory.fill(model.address + offset, pattern, width, units);
                    prop_assert!(model.allows(offset, units * u64::from(width), &got), "{:?}", got);
                    if got.is_ok() {
                        for i in 0..(units * u64::from(width)) as usize {
                            let byte = (pattern >> (8 * (i as u32 % width))) as u8;
                            model.bytes[offset as usize + i] = Some(byte);
                        }
                    }
                }
                Step::Copy { to: (to, to_offset), from: (from, from_offset), bytes } => {
                    if models.is_empty() { continue }
                    let (to, from) = (to % count, from % count);
                    let (target, source) = (models[to].address, models[from].address);
                    let got = memory.copy(target + to_offset, source + from_offset, bytes);
                    if got.is_ok() && bytes > 0 {
                        prop_assert!(models[to].fits(to_offset, bytes));
                        prop_assert!(models[from].fits(from_offset, bytes));
                        let start = from_offset as usize;
                        let copied = models[from].bytes[start..start + bytes as usize].to_vec();
                        let start = to_offset as usize;
                        models[to].bytes[start..start + bytes as usize].clone_from_slice(&copied);
                    } else {
                        let fit = models[to].fits(to_offset, bytes) && models[from].fits(from_offset, bytes);
                        prop_assert!(bytes == 0 || !fit);
                    }
                }
                Step::Read { at, offset, bytes } => {
                    let Some(model) = models.get(at % count) else { continue };
                    let mut data = vec![0xEE; bytes];
                    let got = memory.read(model.address + offset, &mut data);
                    prop_assert!(model.allows(offset, bytes as u64, &got), "{:?}", got);
                    if got.is_ok() {
                        for (i, byte) in data.iter().enumerate() {
                            let want = model.bytes[offset as usize + i];
                            prop_assert!(want.is_none_or(|want| want == *byte));
                            let known = memory.is_written(model.address + offset + i as u64, 1);
                            prop_assert_eq!(known, Ok(want.is_some()));
                        }
                        if bytes > 0 {
                            let range = &model.bytes[offset as usize..offset as usize + bytes];
                            let all = range.iter().all(Option::is_some);
                            let known = memory.is_written(model.address + offset, bytes as u64);
                            prop_assert_eq!(known, Ok(all));
                        }
                    }
                }
            }
            let used: u64 = models
                .iter()
                .filter(|model| !model.freed)
                .map(|model| (model.bytes.len() as u64).next_multiple_of(512))
                .sum();
            prop_assert_eq!(memory.info(), ((1 << 20) - used, 1 << 20));
        }
    }
}

#[test]
fn more_than_the_host_has_costs_nothing_until_it_is_touched() {
    let memory = Memory::new(1 << 40);
    let address = memory.alloc(1 << 39).unwrap();
    memory.fill(address, 0, 1, 1 << 33).unwrap();
    memory.write(address + (1 << 38), &[1, 2, 3]).unwrap();
    let mut data = [9; 5];
    memory.read(address + (1 << 38) - 1, &mut data).unwrap();
    assert_eq!(data, [0, 1, 2, 3, 0]);
    let out = memory.alloc(1 << 39).and_then(|_| memory.alloc(1));
    assert_eq!(out, Err(MemoryError::OutOfMemory { asked: 1, free: 0, total: 1 << 40 }));
    assert_eq!(memory.alloc(0), Err(MemoryError::NoBytes));
}

#[test]
fn host_memory_is_at_its_own_address() {
    let memory = Memory::new(1 << 20);
    let mut mine = vec![7_u8; 100];
    let at = mine.as_mut_ptr();
    // SAFETY: unregistered below, before `mine` goes.
    let address = unsafe { memory.register_host(at, 100) }.unwrap();
    assert_eq!(address, at as u64);
    assert_eq!(memory.is_written(address, 100), Ok(true));
    // SAFETY: refused.
    let again = unsafe { memory.register_host(at.wrapping_add(99), 10) };
    assert!(matches!(again, Err(MemoryError::AlreadyRegistered { .. })));
    memory.fill(address + 4, 0x0201, 2, 3).unwrap();
    assert!(matches!(memory.free(address), Err(MemoryError::NotAnAllocation { .. })));
    memory.unregister_host(address).unwrap();
    assert_eq!(mine[..12], [7, 7, 7, 7, 1, 2, 1, 2, 1, 2, 7, 7]);
    assert!(memory.write(address, &[1]).is_err());
    let pinned = memory.alloc_host(64).unwrap();
    assert_eq!(
        (memory.range_of(pinned + 63), memory.range_of(pinned + 64)),
        (Some((pinned, 64)), None)
    );
    let device = memory.alloc(64).unwrap();
    memory.copy(device, pinned, 64).unwrap();
    assert_eq!(memory.is_written(device, 64), Ok(true));
    memory.free(pinned).unwrap();
    assert!(memory.free(pinned).is_err());
}

#[test]
fn copies_take_over_what_was_written_byte_by_byte() {
    let written = |i: u64| i % 7 < 3 || i % 64 == 40;
    for (to, from, bytes, alone) in [
        (101u64, 13u64, 300u64, false),
        (13, 101, 300, false),
        (0, 61, 1, false),
        (64, 0, 128, true),
        (3, 65, 200, true),
    ] {
        let memory = Memory::new(1 << 20);
        let source = memory.alloc(1000).unwrap();
        (0..1000).filter(|i| written(*i)).for_each(|i| memory.write(source + i, &[1]).unwrap());
        let target = if alone { memory.alloc(1000).unwrap() } else { source };
        memory.copy(target + to, source + from, bytes).unwrap();
        for i in 0..1000u64 {
            let want = match i.checked_sub(to) {
                Some(k) if k < bytes => written(from + k),
                _ => !alone && written(i),
            };
            assert_eq!(
                memory.is_written(target + i, 1),
                Ok(want),
                "{bytes} bytes {from} to {to}: {i}"
            );
        }
    }
}
