use blt::prelude::*;

/// A patch starts after each newline: a line is a patch.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewlinePatch {
    /// Longest patch in bytes; longer lines are split greedily from the left.
    #[serde(default)]
    max_patch_length: Option<usize>,
}

impl Node for NewlinePatch {
    const NAME: &'static str = "NewlinePatch";
    const INPUTS: &'static [&'static str] = &["bytes"];
    const OUTPUTS: &'static [&'static str] = &["patches"];
    const EXAMPLE: &'static str = "{node: NewlinePatch, in: docs, max_patch_length: 16}";
    type In = Bytes;
    type Out = Patches;
    type State = ();

    fn check(&self, _: BytesInfo, _: &CheckCx) -> Result<PatchesInfo, NodeError> {
        Ok(PatchesInfo { boundary_lookahead: false })
    }

    fn build(&self, _: BytesInfo, _: &mut BuildCx) -> Result<(), NodeError> {
        Ok(())
    }

    fn run(&self, _: &(), batch: Rc<Batch>, _: &RunCx) -> Result<Rc<PackedPatches>, NodeError> {
        let newline = |id: u16| id == b'\n' as u16 + OFFSET;
        // An id starts a patch where the one before it, in the same span, is a newline.
        let starts: Vec<bool> =
            (0..batch.len()).map(|i| i > 0 && newline(batch.ids[i - 1])).collect();
        let next_starts = (0..batch.n_spans())
            .map(|s| batch.span_ids(s).last().is_some_and(|&id| newline(id)))
            .collect();
        Ok(Rc::new(
            PackedPatches::from_flags(&batch, &starts, next_starts)
                .split_if(self.max_patch_length)?,
        ))
    }
}

blt::node!(NewlinePatch);
