use crate::loaded::{CHECKPOINT_DIR, Loaded, fingerprints, nodes_behind_borders};
use crate::model::ParamSet;
use crate::ports::{Logits, Loss};
use crate::shape::{self, Found, NotBlt, WholeModel};
use blt_core::backend::ParamId;
use blt_core::hf::{HfConfig, Unsupported, write_directory};
use blt_graph::{NodeError, Plan, Step, StepCx, StepError, write_atomic};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// Writes the model as a Hugging Face `BltForCausalLM` directory, config.json and model.safetensors, under `outputs/`.
///
/// It loads in `transformers` and, with a `Blt` node, here. A global `EntropyPatch` over a `ByteLm` goes with it, at the threshold that was
/// given or found; with any other patcher the directory has no entropy model (`patch_in_forward: false`) and wants patches from outside.
/// What the layout cannot say (pooling other than `max`, `cross: all`, windows that differ, a relative rule, resets at newlines) is
/// refused before any step starts. Leaves `result.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// The model's loss (or its logits), a wire.
    pub goal: String,
    /// The directory's name under `outputs/`.
    #[serde(default = "hf")]
    pub dir: PathBuf,
}

fn hf() -> PathBuf {
    "hf".into()
}

impl Export {
    /// All else at its default.
    pub fn new(goal: impl Into<String>) -> Self {
        Export { goal: goal.into(), dir: hf() }
    }

    fn not_a_model(&self, error: NotBlt) -> NodeError {
        NodeError::param("goal", format!("`{}` is not the loss of a BLT model: {error}", self.goal))
    }

    /// All that the layout cannot say, in one error.
    fn refused(&self, refused: &[Unsupported]) -> NodeError {
        let list: Vec<String> = refused.iter().map(Unsupported::to_string).collect();
        let msg = format!("the Hugging Face layout cannot say what `{}` is: {}", self.goal, list.join("; "));
        NodeError::param("goal", msg)
    }
}

impl Step for Export {
    const NAME: &'static str = "export";
    const EXAMPLE: &'static str = "export: {goal: loss}";

    fn goals(&self) -> Vec<String> {
        vec![self.goal.clone()]
    }

    fn feeds_later_steps(&self) -> bool {
        false
    }

    fn check(&self, plan: &Plan) -> Result<(), NodeError> {
        let goal = plan.goal(&self.goal)?;
        if !goal.is::<Loss>() && !goal.is::<Logits>() {
            let msg = format!("`{}` is {}, and a model is exported by its Loss or Logits", self.goal, goal.port_type);
            return Err(NodeError::param("goal", msg));
        }
        let plain = |c: Component| matches!(c, Component::Normal(_));
        if self.dir.as_os_str().is_empty() || !self.dir.components().all(plain) {
            let msg = format!("`{}` is not a folder under `outputs/`", self.dir.display());
            return Err(
                NodeError::param("dir", msg).help("a name such as `hf`; absolute paths and `..` lead elsewhere")
            );
        }
        match shape::find(plan, &plan.needs(&[&self.goal])?).map_err(|e| self.not_a_model(e))? {
            // Its shape is known when its files are opened; what came from the layout can be said in it.
            Found::Whole(_) => Ok(()),
            Found::Parts(parts) => match HfConfig::from_model(&parts.shape) {
                Ok(_) => Ok(()),
                Err(refused) => Err(self.refused(&refused)),
            },
        }
    }

    fn depends(&self, cx: &StepCx) -> Result<Vec<String>, StepError> {
        // A threshold that no step before has found is found on the data.
        fingerprints(cx, &[&self.goal])
    }

    fn run(&self, cx: &mut StepCx) -> Result<(), StepError> {
        let at_goal = |error: NodeError| StepError::Document(cx.plan().diagnose_step(cx.index(), &error).into());
        let mut loaded = Loaded::build(cx, &[&self.goal])?;
        loaded.prepare(cx)?;
        let model = loaded.model().map_err(|e| at_goal(self.not_a_model(e)))?;
        let config = HfConfig::from_model(&model.shape).map_err(|refused| at_goal(self.refused(&refused)))?;
        let behind = nodes_behind_borders(cx.plan(), &[&self.goal])?;
        for (node, set) in loaded.live.facilities::<ParamSet>() {
            // They would be left behind. What makes the patches may be.
            if !set.0.is_empty() && !model.nodes.contains(&node) && !behind.contains(&node) {
                let kind = cx.plan().node(&node).map_or("", |n| n.entry.name);
                return Err(at_goal(self.not_a_model(NotBlt::ForeignParams { node, kind })));
            }
        }
        let trained = cx.earlier().iter().any(|step| step.dir.join(CHECKPOINT_DIR).is_dir());
        if !trained && !model.nodes.iter().any(|node| loaded.live.facility::<WholeModel>(node).is_some()) {
            cx.progress().message(&format!("`{}` is exported untrained: no step before has trained it", self.goal));
        }
        let of_model = loaded.params.iter().filter(|p| model.nodes.contains(&p.node));
        let ids: BTreeMap<&str, ParamId> = of_model.map(|p| (p.canonical.name.as_str(), p.canonical.id)).collect();
        let specs = config.parameters();
        // The layout lists the hash table of a model without hash functions; it has no rows.
        let missing = specs.iter().find(|s| !ids.contains_key(s.name.as_str()) && !s.shape.contains(&0));
        if let Some(missing) = missing {
            return Err(StepError::other(format!("no node of `{}` has the parameter `{}`", self.goal, missing.name)));
        }
        cx.progress().start(&format!("export {}", self.goal), None);
        let dir = cx.dir().join("outputs").join(&self.dir);
        write_directory(&dir, &config, |name| loaded.session.backend.read_param(ids[name]))?;
        let parameters: usize = specs.iter().map(|s| s.shape.iter().product::<usize>()).sum();
        let result = json!({
            "kind": "export",
            "goal": self.goal,
            "directory": Path::new("outputs").join(&self.dir),
            "tensors": specs.len(),
            "parameters": parameters,
            "patch_in_forward": config.patching.is_some(),
            "threshold": config.patching.as_ref().map(|p| p.threshold),
        });
        write_atomic(cx.dir().join("result.json"), serde_json::to_string_pretty(&result)?)?;
        let patcher = if config.patching.is_some() { "with its entropy model" } else { "patches come from outside" };
        cx.progress().finish(&format!("{parameters} parameters in {} tensors, {patcher}", specs.len()));
        Ok(())
    }
}

blt_graph::step!(Export);
