//! A disk that is kept as it was at one moment, while it is written.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use build::{PageSink, Pages};
use disk::{BLOCK_SIZE, BlockDevice, Overlay, RawImage};
use proptest::prelude::*;

const BLOCK: usize = 4096;
const BLOCKS: usize = 24;
const SIZE: usize = BLOCKS * BLOCK;

#[derive(Debug, Clone)]
enum Step {
    Write {
        offset: usize,
        length: usize,
        byte: u8,
    },
    Zero {
        offset: usize,
        length: usize,
    },
    /// Keep it, and say that an image has it if so.
    Freeze {
        stored: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let range = (0..SIZE, 1..3 * BLOCK).prop_map(|(offset, length)| (offset, length.min(SIZE - offset)));
    prop_oneof![
        5 => (range.clone(), 1..u8::MAX).prop_map(|((offset, length), byte)| Step::Write { offset, length, byte }),
        2 => range.prop_map(|(offset, length)| Step::Zero { offset, length }),
        3 => any::<bool>().prop_map(|stored| Step::Freeze { stored }),
    ]
}

fn image(content: &[u8]) -> Arc<dyn Pages> {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(content, 0).unwrap();
    Arc::new(RawImage::from_file(file).unwrap())
}

fn cow() -> File {
    tempfile::tempfile().unwrap()
}

/// Lays what it gets over what a parent has.
struct Over(Vec<u8>);

impl PageSink for Over {
    fn data(&mut self, first: u64, bytes: &[u8]) -> io::Result<()> {
        self.0[usize::try_from(first).unwrap() * BLOCK..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn zero(&mut self, first: u64, pages: u64) -> io::Result<()> {
        let bytes = usize::try_from(pages).unwrap() * BLOCK;
        self.0[usize::try_from(first).unwrap() * BLOCK..][..bytes].fill(0);
        Ok(())
    }
}

fn read(disk: &Overlay) -> Vec<u8> {
    let mut all = vec![0; SIZE];
    disk.read_at(&mut all, 0).unwrap();
    all
}

proptest! {
    #[test]
    fn it_is_what_it_was_whatever_is_written_later(steps in prop::collection::vec(step(), 1..40)) {
        let mut model = vec![0; SIZE];
        model[..5 * BLOCK].fill(7);
        // What exports are differences from.
        let mut parent = model.clone();
        let disk = Overlay::from_file(image(&model), cow(), SIZE as u64).unwrap();
        let mut base = image(&model);
        let mut kept = Vec::new();
        for step in steps {
            match step {
                Step::Write { offset, length, byte } => {
                    disk.write_at(&vec![byte; length], offset as u64).unwrap();
                    model[offset..offset + length].fill(byte);
                }
                Step::Zero { offset, length } => {
                    disk.write_zeroes(offset as u64, length as u64).unwrap();
                    model[offset..offset + length].fill(0);
                }
                Step::Freeze { stored } => {
                    let frozen = disk.freeze(cow()).unwrap();
                    kept.push((frozen, Arc::clone(&base), parent.clone(), model.clone()));
                    if stored {
                        base = image(&model);
                        parent.clone_from(&model);
                        disk.rebase(&kept.last().unwrap().0, Arc::clone(&base)).unwrap();
                    }
                }
            }
            prop_assert!(read(&disk) == model);
        }
        for (frozen, base, parent, was) in &kept {
            let mut sink = Over(parent.clone());
            frozen.export(Some(&**base), &mut sink).unwrap();
            prop_assert!(sink.0 == *was);
            let mut whole = Over(vec![0; SIZE]);
            frozen.export(None, &mut whole).unwrap();
            prop_assert!(whole.0 == *was);
        }
        let mut sink = Over(parent);
        disk.export(Some(&*base), &mut sink).unwrap();
        prop_assert!(sink.0 == model);
    }
}

#[test]
fn only_what_it_was_can_be_taken_for_an_image() {
    let content = vec![1; SIZE];
    let disk = Overlay::from_file(image(&content), cow(), SIZE as u64).unwrap();
    let other = Overlay::from_file(image(&content), cow(), SIZE as u64).unwrap();
    let frozen = disk.freeze(cow()).unwrap();
    assert!(other.rebase(&frozen, image(&content)).is_err(), "another disk's");
    let larger = vec![1; SIZE + BLOCK];
    assert!(disk.rebase(&frozen, image(&larger)).is_err(), "an image that is larger");
    disk.write_at(&[2; 10], BLOCK_SIZE).unwrap();
    disk.rebase(&frozen, image(&content)).unwrap();
    assert_eq!(disk.dirty_count(), 1);
    assert!(disk.rebase(&frozen, image(&content)).is_err(), "twice");

    let used = cow();
    used.write_all_at(b"x", 0).unwrap();
    assert!(disk.freeze(used).is_err());
    assert_eq!(disk.dirty_count(), 1, "nothing has changed");
}
