//! What is not the same in two images.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::sync::Arc;

use artifacts::{Difference, Differing, How, difference};
use build::{ObjectName, PageSink, Pages};
use proptest::prelude::*;

use support::{Scene, page, read, two};

#[test]
fn only_what_differs_is_named() {
    let scene = two();
    let parent = Arc::new(scene.image(1).unwrap());
    scene.publish(2, Some(parent), 25, |writer| {
        // What was there, something else twice, zero, and something where nothing was.
        writer.data(0, &page(1)).unwrap();
        writer.data(1, &[page(41), page(42)].concat()).unwrap();
        writer.zero(4, 2).unwrap();
        writer.data(22, &page(43)).unwrap();
    });
    let (was, is) = (scene.image(1).unwrap(), scene.image(2).unwrap());
    let found = difference(&was, &is).unwrap();
    let expected = [(1, 2, How::Changed), (4, 2, How::Vanished), (22, 1, How::Appeared)];
    let expected = expected.map(|(first, pages, how)| Differing { first, pages, how });
    assert_eq!(found, Difference { ranges: expected.into(), stored_twice: 1 });
    assert_eq!((found.pages(How::Changed), found.pages(How::Vanished)), (2, 2));
    assert_eq!(difference(&is, &is).unwrap(), Difference::default());
    // The other way round what appeared vanishes.
    let back = difference(&is, &was).unwrap();
    assert_eq!((back.pages(How::Appeared), back.pages(How::Vanished)), (2, 1));
}

#[test]
fn damage_is_an_error_where_it_is_read() {
    let scene = two();
    let parent = Arc::new(scene.image(1).unwrap());
    scene.publish(2, Some(parent), 20, |writer| writer.data(0, &page(50)).unwrap());
    scene.edit(0, ObjectName::DiskData, |bytes| bytes[3] ^= 1);
    let (was, is) = (scene.image(1).unwrap(), scene.image(2).unwrap());
    let error = difference(&was, &is).unwrap_err().to_string();
    assert!(error.contains("disk.data of build b0: the page at byte 0 is damaged"), "{error}");
}

/// For each page: 0 for zero, otherwise which content.
type Content = Vec<usize>;

fn write(scene: &Scene, number: usize, parent: Option<usize>, content: &Content) {
    let parent = parent.map(|parent| Arc::new(scene.image(parent).unwrap()));
    scene.publish(number, parent, content.len() as u64, |writer| {
        for (at, content) in content.iter().enumerate() {
            match content {
                0 => writer.zero(at as u64, 1).unwrap(),
                // As the parent has it.
                9.. => {}
                content => writer.data(at as u64, &page(*content)).unwrap(),
            }
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn it_is_what_reading_everything_finds(
        base in prop::collection::vec(0_usize..5, 1..300),
        one in prop::collection::vec(0_usize..20, 300..600),
        other in prop::collection::vec(0_usize..20, 300..600),
    ) {
        let scene = Scene::in_memory();
        write(&scene, 0, None, &base);
        write(&scene, 1, Some(0), &one);
        write(&scene, 2, Some(0), &other);
        let images = [scene.image(1).unwrap(), scene.image(2).unwrap()];
        let found = difference(&images[0], &images[1]).unwrap();
        let longest = images.iter().map(|image| usize::try_from(image.pages()).unwrap()).max().unwrap();
        let all = images.map(|image| {
            let mut bytes = read(&image, 0, usize::try_from(image.pages()).unwrap());
            bytes.resize(longest * 4096, 0);
            bytes
        });
        let mut expected = vec![None; longest];
        let zero = vec![0; 4096];
        for (at, (was, is)) in all[0].chunks(4096).zip(all[1].chunks(4096)).enumerate() {
            expected[at] = match (was, is) {
                (was, is) if was == is => None,
                (was, _) if was == zero => Some(How::Appeared),
                (_, is) if is == zero => Some(How::Vanished),
                _ => Some(How::Changed),
            };
        }
        let mut told = vec![None; longest];
        for range in &found.ranges {
            for page in range.first..range.first + range.pages {
                told[usize::try_from(page).unwrap()] = Some(range.how);
            }
        }
        prop_assert_eq!(told, expected);
    }
}
