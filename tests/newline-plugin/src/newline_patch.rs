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
