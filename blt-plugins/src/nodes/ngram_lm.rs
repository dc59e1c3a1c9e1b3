use crate::checkpoint::counts_file;
use crate::facilities::{DecodeCx, Facilities, Prepare, provide};
use crate::model::{byte_model_outputs, session};
use crate::model_part::ModelPart;
use crate::ports::{Bytes, BytesInfo, Entropies, Logits, LogitsValue, Loss, LossValue};
use crate::stop::Stop;
use blt_core::bytes::Batch;
use blt_core::counts::{Counts, CountsConfig, Fit, MAX_ORDER};
use blt_core::decoding::counts_streaming;
use blt_core::model::Head;
use blt_core::sizes::MAX_COUNT;
use blt_core::strict;
use blt_data::Portion;
use blt_derive::{node, params};
use blt_graph::{BuildCx, CheckCx, Node, NodeError, RunCx, StepError};
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::rc::Rc;

/// A byte model made of counts: an entropy model, or a baseline, that takes seconds to fit.
///
/// It counts which bytes follow each context of up to `order` bytes, in one pass over the training
/// documents, and interpolates all orders (modified Kneser-Ney, Chen and Goodman 1998). The first
/// step that needs the node fits it, before thresholds are found, and records it in the checkpoint;
/// it needs no train step, and has no parameters to train. A bare wire means its entropies (of the
/// next byte, in nats, one for each id).
///
/// A document that it was fitted on is read without its own counts. Counts remember in which of 16
/// folds of the documents they were seen; the first bytes of a span (8, later 64) tell its fold,
/// and whether it was fitted. So entropies on training documents are as on unseen documents of the
/// same kind.
///
/// If the counts need more than `memory_mb`, the rarest are pruned: what was seen once loses a byte
/// of its context, from the longest contexts on, then what was seen at most twice, four times, and
/// so on. A model with an NgramLm can't be exported.
#[params]
pub struct NgramLm {
    /// Bytes of the longest context.
    #[default(6)]
    #[range(1..=MAX_ORDER)]
    pub order: usize,
    /// Most memory that the counts take, in MiB.
    #[default(512)]
    #[range(1..=1 << 20)]
    pub memory_mb: usize,
    /// Bytes of training documents to count, at most; all of them by default.
    #[range(1..=MAX_COUNT)]
    pub fit_bytes: Option<u64>,
}

impl NgramLm {
    /// The node whose counts have this configuration.
    pub fn of(config: CountsConfig) -> Self {
        NgramLm { order: config.order, memory_mb: config.memory >> 20, ..Self::default() }
    }

    fn config(&self) -> Result<CountsConfig, NodeError> {
        let config = CountsConfig { order: self.order, memory: self.memory_mb << 20 };
        config.check().map_err(NodeError::other)?;
        Ok(config)
    }
}

/// Reads a file of counts. The error names the file.
pub(super) fn read(path: &Path, config: CountsConfig) -> io::Result<Counts> {
    let counts = strict::read(path)
        .and_then(|bytes| Counts::from_bytes(bytes, config).map_err(io::Error::other));
    counts.map_err(|e| {
        io::Error::new(e.kind(), format!("cannot read counts {}: {e}", path.display()))
    })
}

/// What a checkpoint's state records of counts.
#[derive(Serialize, Deserialize)]
struct Fitted {
    order: usize,
    memory_mb: usize,
    fit_bytes: Option<u64>,
    contexts: u64,
    memory: u64,
    /// Of the file.
    digest: String,
}

/// The counts, or those gathered so far.
pub struct State {
    node: String,
    params: NgramLm,
    config: CountsConfig,
    counts: RefCell<Option<Rc<Counts>>>,
    fit: RefCell<Option<Fit>>,
    stop: Stop,
}

impl State {
    fn error(&self, e: impl std::fmt::Display) -> StepError {
        StepError::other(format!("node `{}`: {e}", self.node))
    }

    fn counts(&self) -> Result<Rc<Counts>, NodeError> {
        let counts = self.counts.borrow().clone();
        counts.ok_or_else(|| NodeError::other("the counts have not been fitted yet"))
    }
}

impl Facilities for State {
    fn prepare(&self) -> Option<&dyn Prepare> {
        Some(self)
    }

    fn decode(&self, cx: &mut DecodeCx) -> Result<Option<usize>, NodeError> {
        Ok(Some(cx.add(counts_streaming(self.counts()?))))
    }

    fn save(&self, dir: &Path) -> Result<(), StepError> {
        match &*self.counts.borrow() {
            Some(counts) => {
                Ok(std::fs::write(dir.join(counts_file(&self.node)), counts.to_bytes())?)
            }
            None => Ok(()),
        }
    }
}

impl Prepare for State {
    fn wants(&self) -> Option<Portion> {
        self.counts.borrow().is_none().then_some(Portion::Train)
    }

    fn max_bytes(&self) -> u64 {
        self.params.fit_bytes.unwrap_or(u64::MAX)
    }

    fn begin(&self) {
        *self.fit.borrow_mut() = Fit::new(self.config).ok();
    }

    fn finish(&self) -> Result<serde_json::Value, StepError> {
        let fit = self.fit.borrow_mut().take();
        let fit = fit.ok_or_else(|| self.error("fitting has not begun"))?;
        let counts = self.stop.or_end_of(move || fit.finish())?.map_err(|e| self.error(e))?;
        let NgramLm { order, memory_mb, fit_bytes } = self.params;
        let fitted = Fitted {
            order,
            memory_mb,
            fit_bytes,
            contexts: counts.n_contexts() as u64,
            memory: counts.memory() as u64,
            digest: blake3::hash(counts.to_bytes()).to_string(),
        };
        *self.counts.borrow_mut() = Some(Rc::new(counts));
        Ok(serde_json::to_value(fitted)?)
    }

    fn restore(&self, learned: &serde_json::Value, dir: &Path) -> Result<(), StepError> {
        let fitted: Fitted = serde_json::from_value(learned.clone())?;
        let NgramLm { order, memory_mb, fit_bytes } = self.params;
        if (fitted.order, fitted.memory_mb, fitted.fit_bytes) != (order, memory_mb, fit_bytes) {
            let bytes = fitted.fit_bytes.map_or("null".into(), |bytes| bytes.to_string());
            return Err(self
                .error(format!(
                    "the checkpoint's counts were fitted with order {}, memory_mb {} and fit_bytes {bytes}, which is not what the \
                     pipeline says",
                    fitted.order, fitted.memory_mb
                ))
                .help("write the same in the pipeline, or train without the checkpoint"));
        }
        let counts = read(&dir.join(counts_file(&self.node)), self.config)?;
        if blake3::hash(counts.to_bytes()).to_string() != fitted.digest {
            return Err(
                self.error("the checkpoint's file of counts is not the one it was saved with")
            );
        }
        *self.counts.borrow_mut() = Some(Rc::new(counts));
        Ok(())
    }

    fn summary(&self, learned: &serde_json::Value) -> serde_json::Value {
        serde_json::json!({ "contexts": learned["contexts"], "memory": learned["memory"] })
    }
}

#[node(example = "in: docs, order: 6")]
impl Node for NgramLm {
    type In = Bytes;
    type Out = (Option<Entropies>, Option<Loss>, Option<Logits>);
    type State = Rc<State>;

    fn check(
        &self,
        _: BytesInfo,
        _: &CheckCx,
    ) -> Result<(Option<()>, Option<()>, Option<()>), NodeError> {
        self.config()?;
        Ok((Some(()), Some(()), Some(())))
    }

    fn role(&self, _: BytesInfo) -> Result<Option<Box<dyn Any>>, NodeError> {
        ModelPart::EntropyCounts(self.config()?).role()
    }

    fn build(&self, _: BytesInfo, cx: &mut BuildCx) -> Result<Rc<State>, NodeError> {
        let state = State {
            node: cx.node.to_owned(),
            params: self.clone(),
            config: self.config()?,
            counts: RefCell::new(None),
            fit: RefCell::new(None),
            stop: Stop::of_node(cx),
        };
        Ok(provide(cx, state))
    }

    fn run(
        &self,
        state: &Rc<State>,
        batch: Rc<Batch>,
        cx: &RunCx,
    ) -> Result<(Option<Rc<Vec<f32>>>, Option<LossValue>, Option<LogitsValue>), NodeError> {
        if let Some(fit) = state.fit.borrow_mut().as_mut() {
            fit.push(&batch);
            return Ok((Some(Rc::new(vec![0.0; batch.len()])), None, None));
        }
        let counts = state.counts()?;
        let session = session(cx);
        let head = Head::Counts { counts, batch: (*batch).clone() };
        byte_model_outputs(head, &session, &batch, cx)
    }
}
