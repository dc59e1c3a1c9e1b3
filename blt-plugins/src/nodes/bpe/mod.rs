mod patcher;

use self::patcher::BpePatcher;
use crate::facilities::{Facilities, Prepare, provide};
use crate::patcher::check_max_patch_length;
use crate::ports::{Bytes, BytesInfo, Patches, PatchesInfo};
use crate::stop::Stop;
use blt_core::bytes::Batch;
use blt_core::patch;
use blt_core::sizes::MAX_COUNT;
use blt_data::Portion;
use blt_derive::{node, params};
use blt_graph::{BuildCx, CheckCx, Node, NodeError, RunCx, StepError};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// A patch for each token of a byte-pair encoding.
///
/// The tokenizer is read from `tokenizer` (a tokenizer.json; one that normalises is refused), or
/// trained with `vocab` entries on the training documents before training starts, and recorded. A
/// byte that is not valid UTF-8 is a patch of its own. Where a token ends depends on later bytes,
/// so such runs carry the mark `boundary_lookahead`.
#[params]
pub struct BpePatch {
    /// A tokenizer.json; relative to the pipeline's file.
    pub tokenizer: Option<PathBuf>,
    /// Entries of a tokenizer that is trained here: the 256 bytes, and a merge for each one more.
    #[range(257..=1 << 24)]
    pub vocab: Option<usize>,
    /// Bytes of training documents to train the tokenizer on, at most.
    #[default(8 << 20)]
    #[range(1..=MAX_COUNT)]
    pub train_bytes: u64,
    #[shared]
    pub max_patch_length: Option<usize>,
}

/// The tokenizer, or the documents collected so far to train it.
pub struct Tokenizer {
    params: BpePatch,
    node: String,
    patcher: RefCell<Option<BpePatcher>>,
    collecting: RefCell<Option<Vec<Vec<u8>>>>,
    stop: Stop,
}

impl Facilities for Tokenizer {
    fn prepare(&self) -> Option<&dyn Prepare> {
        Some(self)
    }
}

impl Prepare for Tokenizer {
    fn wants(&self) -> Option<Portion> {
        self.patcher.borrow().is_none().then_some(Portion::Train)
    }

    fn max_bytes(&self) -> u64 {
        self.params.train_bytes
    }

    fn begin(&self) {
        *self.collecting.borrow_mut() = Some(Vec::new());
    }

    fn finish(&self) -> Result<serde_json::Value, StepError> {
        let documents = self.collecting.borrow_mut().take().unwrap_or_default();
        let vocab = self.params.vocab.unwrap_or_default();
        let trained = self
            .stop
            .or_end_of(move || BpePatcher::train(documents, vocab))?
            .map_err(|e| StepError::other(format!("node `{}`: {e}", self.node)))?;
        let json = trained
            .to_json()
            .map_err(|e| StepError::other(format!("node `{}`: {e}", self.node)))?;
        *self.patcher.borrow_mut() = Some(trained);
        Ok(serde_json::from_str(&json)?)
    }

    fn restore(&self, learned: &serde_json::Value, _: &Path) -> Result<(), StepError> {
        if self.params.tokenizer.is_none() {
            let patcher = BpePatcher::from_json(&learned.to_string())
                .map_err(|e| StepError::other(format!("node `{}`: {e}", self.node)))?;
            *self.patcher.borrow_mut() = Some(patcher);
        }
        Ok(())
    }

    fn summary(&self, _: &serde_json::Value) -> serde_json::Value {
        serde_json::json!({ "vocab": self.patcher.borrow().as_ref().map(BpePatcher::vocab_size) })
    }
}

#[node(example = "in: docs, vocab: 2048")]
impl Node for BpePatch {
    type In = Bytes;
    type Out = Patches;
    type State = Rc<Tokenizer>;

    fn check(&self, _: BytesInfo, _: &CheckCx) -> Result<PatchesInfo, NodeError> {
        check_max_patch_length(self.max_patch_length)?;
        match (&self.tokenizer, self.vocab) {
            (Some(_), Some(_)) => Err(NodeError::param(
                "vocab",
                "`vocab` trains a tokenizer, and `tokenizer` reads one: give one of them",
            )),
            (None, None) => Err(NodeError::param(
                "vocab",
                "give `vocab` to train a tokenizer, or `tokenizer` to read one",
            )),
            _ => Ok(PatchesInfo::looks_ahead()),
        }
    }

    fn depends(&self, base_dir: &Path) -> Result<Vec<String>, NodeError> {
        let Some(path) = self.tokenizer.as_ref().map(|path| base_dir.join(path)) else {
            return Ok(Vec::new());
        };
        let patcher = BpePatcher::load(&path).map_err(|e| NodeError::param("tokenizer", e))?;
        let json = patcher.to_json().map_err(|e| NodeError::param("tokenizer", e))?;
        Ok(vec![blake3::hash(json.as_bytes()).to_string()])
    }

    fn build(&self, _: BytesInfo, cx: &mut BuildCx) -> Result<Rc<Tokenizer>, NodeError> {
        let patcher = match &self.tokenizer {
            Some(path) => Some(
                BpePatcher::load(&cx.base_dir.join(path))
                    .map_err(|e| NodeError::param("tokenizer", e))?,
            ),
            None => None,
        };
        let tokenizer = Tokenizer {
            params: self.clone(),
            node: cx.node.to_owned(),
            patcher: RefCell::new(patcher),
            collecting: RefCell::new(None),
            stop: Stop::of_node(cx),
        };
        Ok(provide(cx, tokenizer))
    }

    fn run(
        &self,
        state: &Rc<Tokenizer>,
        batch: Rc<Batch>,
        _: &RunCx,
    ) -> Result<Rc<blt_core::patch::Patches>, NodeError> {
        if let Some(collecting) = state.collecting.borrow_mut().as_mut() {
            collecting.extend((0..batch.n_spans()).map(|s| batch.bytes(s)));
            return Ok(Rc::new(patch::byte_patches(&batch)));
        }
        let patcher = state.patcher.borrow();
        let patcher = patcher
            .as_ref()
            .ok_or_else(|| NodeError::other("the tokenizer has not been trained yet"))?;
        Ok(Rc::new(patcher.patches(&batch)?.split_if(self.max_patch_length)?))
    }
}
