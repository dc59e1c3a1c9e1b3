use blt::prelude::*;

/// A patch starts after each newline: a line is a patch.
#[params]
pub struct NewlinePatch {
    #[shared]
    max_patch_length: Option<usize>,
}

#[node(example = "max_patch_length: 16")]
impl Patcher for NewlinePatch {
    const LOOK_BACK: usize = 1;

    fn starts_next(&self, so_far: &[u8]) -> bool {
        so_far.ends_with(b"\n")
    }

    fn max_patch_length(&self) -> Option<usize> {
        self.max_patch_length
    }
}

#[test]
fn a_line_is_a_patch() {
    let checked = |max_patch_length| {
        blt::testing::check(NewlinePatch { max_patch_length }, b"one\ntwo three\n")
    };
    assert_eq!(checked(None).get::<port::Patches>("patches").starts, [0, 1, 5]);
    assert_eq!(checked(Some(4)).get::<port::Patches>("patches").starts, [0, 1, 5, 9, 13]);
    assert_eq!(checked(None).get::<port::Patches>("patches").next_starts, [true]);
}
