use crate::checkpoint::{CHECKPOINT_DIR, StoredModel};
use crate::lint::warn_untrained;
use crate::plan_queries::{nodes_behind_borders, patches_wire};
use crate::ports::{Logits, Loss, Patches};
use crate::recognise::{self, Found, NotBlt};
use crate::sources::fingerprints;
use crate::trained_graph::TrainedGraph;
use blt_core::backend::ParamId;
use blt_core::blt::Blt;
use blt_core::hf::{HfConfig, Unsupported, Weights, write_directory};
use blt_core::model::next_byte_targets;
use blt_core::params::ParamMaker;
use blt_core::sizes::MAX_COUNT;
use blt_data::{Portion, Request};
use blt_derive::{params, step};
use blt_graph::{NodeError, Plan, Step, StepCx, StepError};
use blt_report::results::{ExportResult, ReadBack, StepResult};
use std::collections::BTreeMap;
use std::f64::consts::LN_2;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

/// Writes the model as a Hugging Face `BltForCausalLM` directory (config.json and
/// model.safetensors) under `outputs/`.
///
/// `transformers` and the node `Blt` load such a directory. It includes the entropy model if the
/// patcher is a global `EntropyPatch` over a `ByteLm`, with the threshold that was given or found.
/// With any other patcher it has no entropy model (`patch_in_forward: false`), and whoever loads it
/// must provide patches. Models that the layout cannot describe (pooling other than `max`, `cross:
/// all`, windows that differ, a relative rule, resets at newlines, an entropy model of counts) are
/// refused before any step starts. With `verify`, the directory is read back and compared with the
/// pipeline's own model. Writes `result.json`.
#[params]
pub struct Export {
    /// The wire of the model's loss, or of its logits.
    pub goal: String,
    /// Name of the directory under `outputs/`.
    #[default("hf".into())]
    pub dir: PathBuf,
    /// Number of documents to verify the directory on: it is read back as a `Blt` node reads it,
    /// and both models score the documents. A byte whose scores differ by more than 1e-4 nats is an
    /// error.
    #[range(0..=MAX_COUNT)]
    pub verify: Option<u64>,
}

/// Largest allowed difference between the scores of a byte by the exported model and by the model
/// read back, in nats.
const LARGEST_DIFFERENCE: f64 = 1e-4;
/// Most ids in a batch while the directory is verified.
const VERIFY_BATCH: usize = 32 * 1024;

/// Scores of the model that was read back.
#[derive(Default)]
struct Verified {
    nats: f64,
    bytes: u64,
    patches: u64,
    largest_difference: f64,
}

impl Export {
    fn not_a_model(&self, error: NotBlt) -> NodeError {
        NodeError::param("goal", format!("`{}` is not the loss of a BLT model: {error}", self.goal))
    }

    /// Reads `dir` back, and compares its scores of documents with those of the pipeline's own
    /// model.
    fn verify(
        &self,
        cx: &StepCx,
        graph: &TrainedGraph,
        dir: &Path,
        documents: u64,
    ) -> Result<Verified, StepError> {
        let session = graph.session();
        let config = HfConfig::read(dir)?;
        let shape = config.to_model();
        let weights = Weights::open(dir)?;
        let (model, _) = ParamMaker::read(
            &*session.backend,
            |name, shape| weights.view(name, shape),
            |maker| Blt::new(maker, &shape, None),
        )?;
        let patches_wire = patches_wire(cx.plan(), &[&self.goal])?;
        let goals: Vec<&str> =
            std::iter::once(self.goal.as_str()).chain(patches_wire.as_deref()).collect();
        let request = Request { limit: Some(documents), ..Request::portion(Portion::All) };
        let mut batches = graph.batches(request, VERIFY_BATCH)?;
        let mut verified = Verified::default();
        while let Some(batch) = batches.next()? {
            if cx.interrupted() {
                return Err(StepError::Interrupted);
            }
            let mut values = graph.run(&batch, &goals)?;
            let own = values.take::<Loss>(&self.goal)?;
            let patches = match model.patch(session, &batch, false)? {
                Some(made) => Rc::new(made?.patches),
                None => {
                    let wire = patches_wire.as_deref();
                    let wire = wire.ok_or_else(|| {
                        StepError::other(format!("`{}` has no patches", self.goal))
                    })?;
                    values.take::<Patches>(wire)?
                }
            };
            // EOS, which some goals score, is not compared.
            let targets = next_byte_targets(&batch, false);
            let read_back = model.forward(session, &batch, &patches)?.loss(session, &targets)?;
            verified.patches +=
                (0..batch.n_spans()).map(|s| patches.n_counted(&batch, s) as u64).sum::<u64>();
            for ((target, &a), &b) in targets.iter().zip(&read_back.nats).zip(own.nats.iter()) {
                if target.is_some() {
                    verified.bytes += 1;
                    verified.nats += a as f64;
                    let difference = (a as f64 - b as f64).abs();
                    // NaN fails every comparison, and must count as large.
                    if difference.is_nan() || difference > verified.largest_difference {
                        verified.largest_difference = difference;
                    }
                }
            }
        }
        if verified.bytes == 0 {
            let msg =
                format!("the first {documents} documents hold no bytes to verify the export on");
            return Err(StepError::other(msg).help("give `verify` more documents, or leave it out"));
        }
        if verified.largest_difference <= LARGEST_DIFFERENCE {
            return Ok(verified);
        }
        Err(StepError::other(format!(
            "what was exported scores a byte {} nats away from `{}`, and at most {LARGEST_DIFFERENCE} are allowed",
            verified.largest_difference, self.goal
        ))
        .help("the directory is not the model; please report this with the pipeline"))
    }

    /// One error for everything that the layout cannot describe.
    fn refused(&self, refused: &[Unsupported]) -> NodeError {
        let list: Vec<String> = refused.iter().map(Unsupported::to_string).collect();
        let msg = format!(
            "the Hugging Face layout cannot say what `{}` is: {}",
            self.goal,
            list.join("; ")
        );
        NodeError::param("goal", msg)
    }

    /// The model of `graph`, and its `config.json`.
    fn model(
        &self,
        cx: &StepCx,
        graph: &TrainedGraph,
    ) -> Result<(StoredModel, HfConfig), StepError> {
        let not_a_model = |error| cx.refuse(&self.not_a_model(error));
        let model = graph.model().map_err(not_a_model)?;
        let config = HfConfig::from_model(&model.shape)
            .map_err(|refused| cx.refuse(&self.refused(&refused)))?;
        // The directory would lack the parameters of other nodes. It may lack those of nodes that
        // only find where patches start.
        let behind = nodes_behind_borders(cx.plan(), &[&self.goal])?;
        let foreign = |node: &String| !model.nodes.contains(node) && !behind.contains(node);
        if let Some(node) = graph.params().iter().map(|p| &p.node).find(|node| foreign(node)) {
            let kind = cx.plan().node(node).map_or("", |n| n.entry.name);
            return Err(not_a_model(NotBlt::ForeignParams { node: node.clone(), kind }));
        }
        Ok((model, config))
    }

    /// The parameters of the model, by name.
    fn params<'a>(
        &self,
        graph: &'a TrainedGraph,
        model: &StoredModel,
        config: &HfConfig,
    ) -> Result<BTreeMap<&'a str, ParamId>, StepError> {
        let of_model = graph.params().iter().filter(|p| model.nodes.contains(&p.node));
        let ids: BTreeMap<&str, ParamId> =
            of_model.map(|p| (p.canonical.name.as_str(), p.canonical.id)).collect();
        // The layout lists the hash table of a model without hash functions; it has no rows.
        let missing = config
            .parameters()
            .into_iter()
            .find(|s| !ids.contains_key(s.name.as_str()) && !s.shape.contains(&0));
        match missing {
            None => Ok(ids),
            Some(missing) => Err(StepError::other(format!(
                "no node of `{}` has the parameter `{}`",
                self.goal, missing.name
            ))),
        }
    }

    /// Writes the results.
    fn finish(
        &self,
        cx: &StepCx,
        config: &HfConfig,
        verified: Option<Verified>,
    ) -> Result<(), StepError> {
        let specs = config.parameters();
        let parameters: usize = specs.iter().map(|s| s.shape.iter().product::<usize>()).sum();
        let read_back = verified.as_ref().map(|verified| ReadBack {
            bpb: verified.nats / LN_2 / verified.bytes as f64,
            bytes: verified.bytes,
            patches: verified.patches,
            largest_difference: verified.largest_difference,
        });
        let result = ExportResult {
            goal: self.goal.clone(),
            directory: Path::new("outputs").join(&self.dir),
            tensors: specs.len() as u64,
            parameters: parameters as u64,
            patch_in_forward: config.patching.is_some(),
            threshold: config.patching.as_ref().map(|p| p.threshold),
            read_back,
        };
        StepResult::Export(result).write(cx.dir())?;
        let patcher = if config.patching.is_some() {
            "with its entropy model"
        } else {
            "patches come from outside"
        };
        let verified =
            verified.map_or(String::new(), |v| format!(", verified on {} bytes", v.bytes));
        cx.progress().finish(&format!(
            "{parameters} parameters in {} tensors, {patcher}{verified}",
            specs.len()
        ));
        Ok(())
    }
}

#[step(example = "goal: loss")]
impl Step for Export {
    fn goals(&self) -> Vec<String> {
        vec![self.goal.clone()]
    }

    fn feeds_later_steps(&self) -> bool {
        false
    }

    fn check(&self, plan: &Plan) -> Result<(), NodeError> {
        let goal = plan.goal(&self.goal)?;
        if !goal.is::<Loss>() && !goal.is::<Logits>() {
            let msg = format!(
                "`{}` is {}, and a model is exported by its Loss or Logits",
                self.goal, goal.port_type
            );
            return Err(NodeError::param("goal", msg));
        }
        if self.verify.is_some() && !goal.is::<Loss>() {
            let msg = format!(
                "`{}` is {}, and only a Loss can be verified: it has the scores",
                self.goal, goal.port_type
            );
            return Err(NodeError::param("verify", msg));
        }
        if self.verify == Some(0) {
            return Err(NodeError::param("verify", "no document verifies nothing")
                .help("leave `verify` out"));
        }
        let plain = |c: Component| matches!(c, Component::Normal(_));
        if self.dir.as_os_str().is_empty() || !self.dir.components().all(plain) {
            let msg = format!("`{}` is not a folder under `outputs/`", self.dir.display());
            return Err(NodeError::param("dir", msg)
                .help("a name such as `hf`; absolute paths and `..` lead elsewhere"));
        }
        match recognise::find(plan, &plan.needs(&[&self.goal])?).map_err(|e| self.not_a_model(e))? {
            // The shape is known once the files are opened, in `depends`.
            Found::Whole(_) => Ok(()),
            Found::Parts(parts) => match HfConfig::from_model(&parts.shape) {
                Ok(_) => Ok(()),
                Err(refused) => Err(self.refused(&refused)),
            },
        }
    }

    fn depends(&self, cx: &StepCx) -> Result<Vec<String>, StepError> {
        let plan = cx.plan();
        let at_goal = |error: NodeError| cx.refuse(&error);
        if let Found::Whole(_) = recognise::find(plan, &plan.needs(&[&self.goal])?)
            .map_err(|e| at_goal(self.not_a_model(e)))?
        {
            let model = TrainedGraph::build(cx, &[&self.goal])?
                .model()
                .map_err(|e| at_goal(self.not_a_model(e)))?;
            HfConfig::from_model(&model.shape)
                .map_err(|refused| at_goal(self.refused(&refused)))?;
        }
        warn_untrained(cx)?;
        // A threshold that no earlier step found is found on the data.
        fingerprints(cx, &[&self.goal])
    }

    fn run(&self, cx: &mut StepCx) -> Result<(), StepError> {
        let mut graph = TrainedGraph::build(cx, &[&self.goal])?;
        graph.prepare(cx)?;
        let (model, config) = self.model(cx, &graph)?;
        let trained = cx.earlier().iter().any(|step| step.dir.join(CHECKPOINT_DIR).is_dir());
        let from_files = graph.facilities().any(|(_, f)| f.whole_model().is_some());
        if !trained && !from_files {
            cx.progress().message(&format!(
                "`{}` is exported untrained: no step before has trained it",
                self.goal
            ));
        }
        let ids = self.params(&graph, &model, &config)?;
        cx.progress().start(&format!("export {}", self.goal), None);
        let dir = cx.dir().join("outputs").join(&self.dir);
        write_directory(&dir, &config, |name| graph.backend().read_param(ids[name]))?;
        let verified =
            self.verify.map(|documents| self.verify(cx, &graph, &dir, documents)).transpose()?;
        self.finish(cx, &config, verified)
    }
}
