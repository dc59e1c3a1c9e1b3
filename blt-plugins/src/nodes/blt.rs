use super::graph_of_model::graph_of;
use super::ngram_lm;
use crate::checkpoint::{CheckpointState, STATE_FILE};
use crate::facilities::{DecodeCx, Facilities, provide};
use crate::model::{session, with_stored_params};
use crate::model_part::ModelPart;
use crate::patcher::entropy_stream;
use crate::ports::{
    Bytes, BytesInfo, Entropies, Logits, LogitsValue, Loss, LossValue, Patches, PatchesInfo,
};
use blt_core::backend::BackendError;
use blt_core::blt;
use blt_core::bytes::Batch;
use blt_core::counts::Counts;
use blt_core::decoding::Wire;
use blt_core::hf::{CONFIG_FILE, HfConfig, HfError, ModelShape, PatchingShape, Weights};
use blt_core::model::{Head, next_byte_targets};
use blt_core::patch::stream::{EntropyStream, PatchStream};
use blt_core::strict;
use blt_derive::{node, params};
use blt_graph::{BuildCx, CheckCx, GraphSpec, Node, NodeError, RunCx, StepError};
use std::any::Any;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// A whole model from a checkpoint: byte embeddings, encoder, latent transformer, decoder, loss,
/// and its entropy patcher.
///
/// The checkpoint is a Hugging Face `BltForCausalLM` directory (config.json with model.safetensors,
/// or with shards and their index), or a checkpoint directory of a run that trained a pipeline of
/// BLT's shape. Every setting in its configuration is honoured, or refused by name. `blt-run graph`
/// shows the nodes that the checkpoint becomes. A bare wire means the loss.
///
/// Patches come from the checkpoint's entropy model, or from outside (`in: {bytes: docs, patches:
/// p}`). A checkpoint without an entropy model needs them from outside. With patches from outside
/// the node has no `entropies` and no `entropy_loss`, the entropy model's own loss. A train step
/// with this node's `loss` as its goal fine-tunes all but the entropy model; one with
/// `entropy_loss` fine-tunes the entropy model alone. Otherwise parameters stay as they are.
#[params]
pub struct Blt {
    /// The checkpoint directory.
    pub checkpoint: PathBuf,
}

/// A checkpoint, opened.
struct Stored {
    shape: ModelShape,
    weights: Weights,
    /// Canonical names of parameters to those in the file, where they differ.
    names: BTreeMap<String, String>,
    /// The file that says the shape.
    description: PathBuf,
}

/// The model, and what its entropy model cost.
pub struct State(Rc<About>);

/// The model, and what steps ask of the node.
struct About {
    model: blt::Blt,
    shape: ModelShape,
    files: Vec<PathBuf>,
    /// The entropy model, if it is counts.
    counts: Option<Rc<Counts>>,
    patcher_flops: Cell<u64>,
}

impl Facilities for About {
    fn param_files(&self) -> Option<&[PathBuf]> {
        Some(&self.files)
    }

    fn save(&self, dir: &Path) -> Result<(), StepError> {
        match (&self.shape.patching, &self.counts) {
            (PatchingShape::Counts { model, .. }, Some(counts)) => {
                Ok(std::fs::write(dir.join(&model.file), counts.to_bytes())?)
            }
            _ => Ok(()),
        }
    }

    fn whole_model(&self) -> Option<&ModelShape> {
        Some(&self.shape)
    }

    fn patcher_flops(&self) -> u64 {
        self.patcher_flops.get()
    }

    fn decode(&self, cx: &mut DecodeCx) -> Result<Option<usize>, NodeError> {
        let patcher = cx.inputs.iter().find(|(_, wire)| *wire == Wire::Patches);
        let patcher = patcher.map(|(number, _)| *number);
        Ok(self.model.add_to(cx.decoder, cx.node, patcher, cx.backend)?)
    }

    fn patch_stream(
        &self,
        bos_entropy: Option<f32>,
    ) -> Result<Option<Box<dyn PatchStream>>, NodeError> {
        match self.shape.patching {
            PatchingShape::Entropy { rule, max_patch_length, .. }
            | PatchingShape::Counts { rule, max_patch_length, .. } => {
                entropy_stream(rule, max_patch_length, bos_entropy)
            }
            PatchingShape::Outside => Ok(None),
        }
    }
}

/// In the order of the ports.
type Outputs = (
    Option<LossValue>,
    Option<LogitsValue>,
    Option<Rc<blt_core::patch::Patches>>,
    Option<Rc<Vec<f32>>>,
    Option<LossValue>,
);

impl Blt {
    /// Opens the checkpoint and holds the tensors' names, shapes and types against what it says of
    /// the model; reads no numbers.
    fn open(&self, base_dir: &Path) -> Result<Stored, NodeError> {
        let dir = base_dir.join(&self.checkpoint);
        let at = |e: HfError| NodeError::param("checkpoint", e);
        if dir.join(STATE_FILE).is_file() {
            return self.open_run(&dir);
        }
        let description = dir.join(CONFIG_FILE);
        let config = HfConfig::read(&dir).map_err(|e| match &e {
            HfError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => at(e)
                .help(format!(
                    "a checkpoint is a directory with config.json, or one that a train step left: RUN/checkpoints/1-train/final, or with \
                     variants RUN/checkpoints/VARIANT/1-train/final; relative paths start from the pipeline's folder, {}",
                    base_dir.display()
                )),
            _ => at(e),
        })?;
        let weights = Weights::open(&dir).map_err(at)?;
        weights.check(&config.parameters()).map_err(at)?;
        Ok(Stored { shape: config.to_model(), weights, names: BTreeMap::new(), description })
    }

    /// Opens a checkpoint that a train step left.
    fn open_run(&self, dir: &Path) -> Result<Stored, NodeError> {
        let description = dir.join(STATE_FILE);
        let state = CheckpointState::read(dir).map_err(|e| e.at_param("checkpoint"))?;
        let model = state.model.ok_or_else(|| {
            let msg = format!("{} holds the parameters of a graph that is no BLT model", dir.display());
            NodeError::param("checkpoint", msg)
                .help("a BLT model has one ByteEmbed, LocalEncoder, Latent and LocalDecoder; train one with its loss as the goal")
        })?;
        let weights = Weights::open(dir).map_err(|e| NodeError::param("checkpoint", e))?;
        let names = model.nodes.iter().filter_map(|node| state.nodes.get(node)).flatten();
        let names = names.map(|(canonical, stored)| (canonical.clone(), stored.clone())).collect();
        Ok(Stored { shape: model.shape, weights, names, description })
    }
}

#[node(example = "in: docs, checkpoint: path/to/dir")]
impl Node for Blt {
    const OUTPUTS: &'static [&'static str] =
        &["loss", "logits", "patches", "entropies", "entropy_loss"];
    type In = (Bytes, Option<Patches>);
    type Out = (Option<Loss>, Option<Logits>, Option<Patches>, Option<Entropies>, Option<Loss>);
    type State = State;

    fn check(
        &self,
        (_, patches): (BytesInfo, Option<PatchesInfo>),
        _: &CheckCx,
    ) -> Result<(Option<()>, Option<()>, Option<PatchesInfo>, Option<()>, Option<()>), NodeError>
    {
        if self.checkpoint.as_os_str().is_empty() {
            return Err(NodeError::param(
                "checkpoint",
                "the path of the checkpoint directory is empty",
            ));
        }
        let entropies = patches.is_none().then_some(());
        let patches = patches.unwrap_or_else(PatchesInfo::streamed::<EntropyStream>);
        Ok((Some(()), Some(()), Some(patches), entropies, entropies))
    }

    fn depends(&self, base_dir: &Path) -> Result<Vec<String>, NodeError> {
        let stored = self.open(base_dir)?;
        let of_file = |path: &Path| -> std::io::Result<String> {
            let metadata = path.metadata()?;
            let modified =
                metadata.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            Ok(format!(
                "{name} {} bytes of {}.{:09}",
                metadata.len(),
                modified.as_secs(),
                modified.subsec_nanos()
            ))
        };
        let read = |e: std::io::Error| {
            NodeError::param(
                "checkpoint",
                format!("cannot read {}: {e}", stored.description.display()),
            )
        };
        let description =
            blake3::hash(&strict::read(&stored.description).map_err(read)?).to_string();
        let files =
            stored.weights.files().map(of_file).collect::<Result<Vec<_>, _>>().map_err(read)?;
        Ok(std::iter::once(description).chain(files).collect())
    }

    fn stands_for(&self, base_dir: &Path) -> Result<Option<GraphSpec>, NodeError> {
        Ok(Some(graph_of(&self.open(base_dir)?.shape)))
    }

    fn role(&self, _: (BytesInfo, Option<PatchesInfo>)) -> Result<Option<Box<dyn Any>>, NodeError> {
        ModelPart::Whole.role()
    }

    fn build(
        &self,
        (_, patches): (BytesInfo, Option<PatchesInfo>),
        cx: &mut BuildCx,
    ) -> Result<State, NodeError> {
        let Stored { mut shape, weights, names, description } = self.open(cx.base_dir)?;
        if patches.is_some() {
            shape.patching = PatchingShape::Outside;
        } else if shape.patching == PatchingShape::Outside {
            let msg = format!(
                "{} has no entropy model, so patches must come from outside",
                description.display()
            );
            return Err(NodeError::input("patches", msg)
                .help("wire a patcher: `in: {bytes: docs, patches: p}`"));
        }
        let mut files: Vec<PathBuf> =
            std::iter::once(description).chain(weights.files().map(Path::to_path_buf)).collect();
        let counts = match &shape.patching {
            PatchingShape::Counts { model, .. } => {
                let path = cx.base_dir.join(&self.checkpoint).join(&model.file);
                let counts = ngram_lm::read(&path, model.config);
                files.push(path);
                Some(Rc::new(counts.map_err(|e| NodeError::param("checkpoint", e))?))
            }
            _ => None,
        };
        let model = with_stored_params(cx, &weights, &names, |maker| {
            blt::Blt::new(maker, &shape, counts.clone())
        });
        let model = model.map_err(|e| NodeError::param("checkpoint", e))?;
        let about = About { model, shape, files, counts, patcher_flops: Cell::new(0) };
        Ok(State(provide(cx, about)))
    }

    fn run(
        &self,
        State(about): &State,
        (batch, given): (Rc<Batch>, Option<Rc<blt_core::patch::Patches>>),
        cx: &RunCx,
    ) -> Result<Outputs, NodeError> {
        let session = session(cx);
        let loss_of = |head: &Head| -> Result<LossValue, BackendError> {
            let loss = head.loss(&session, &next_byte_targets(&batch, false))?;
            Ok(LossValue { loss: loss.loss, nats: Rc::new(loss.nats), batch: batch.clone() })
        };
        let (patches, entropies, entropy_loss) = match given {
            Some(patches) => (patches, None, None),
            None => {
                let (before, wanted) = (session.flops(), cx.wanted("entropy_loss"));
                let made = about.model.patch(&session, &batch, wanted)?;
                let made = made.ok_or_else(|| NodeError::other("the model has no patcher"))??;
                let flops = &about.patcher_flops;
                flops.set(flops.get() + session.flops() - before);
                (
                    Rc::new(made.patches),
                    Some(Rc::new(made.entropies)),
                    wanted.then(|| loss_of(&made.head)).transpose()?,
                )
            }
        };
        let wanted = cx.wanted("loss") || cx.wanted("logits");
        let head = wanted.then(|| about.model.forward(&session, &batch, &patches)).transpose()?;
        let loss = head.as_ref().filter(|_| cx.wanted("loss")).map(loss_of).transpose()?;
        let logits = head
            .filter(|_| cx.wanted("logits"))
            .map(|head| LogitsValue { head, batch: batch.clone() });
        Ok((loss, logits, Some(patches), entropies, entropy_loss))
    }
}
