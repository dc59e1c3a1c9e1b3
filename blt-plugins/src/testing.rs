//! For the tests of a node of your own: runs it alone on given bytes, and checks what every node
//! promises.

use crate::facilities;
use crate::ports::{Bytes, Entropies, Logits, Patches};
use blt_core::backend::fused::Fused;
use blt_core::bytes::{Batch, VOCAB};
use blt_core::model::Session;
use blt_core::patch::stream::stream_patches;
use blt_graph::registry::{self, NodeEntry};
use blt_graph::testing::self_test;
use blt_graph::{
    AnyValue, Diagnostic, Diagnostics, Live, Node, Outputs, PipelineSpec, Plan, Port, StepError,
    World,
};
use serde_json::{Value, json};
use std::path::Path;
use std::rc::Rc;

/// What an input of each port type reads in a check: nodes of small sizes and random parameters.
const INPUTS: [(&str, &str); 7] = [
    ("Bytes", "docs"),
    ("Entropies", "lm.entropies"),
    ("Logits", "lm.logits"),
    ("Loss", "lm.loss"),
    ("Patches", "strides"),
    ("ByteStates", "embed"),
    ("PatchStates", "encoder.patches"),
];

const GRAPH: &str = "
  docs: {node: TextFiles, path: none.txt}
  lm: {node: ByteLm, in: docs, dim: 16, layers: 1, heads: 2, window: 8}
  strides: {node: StridePatch, in: docs, stride: 4}
  embed: {node: ByteEmbed, in: docs, dim: 16, ngrams: [3], table: 64}
  encoder: {node: LocalEncoder, in: {bytes: embed, patches: strides}, heads: 2, window: 8}
";

/// What a node that was [checked](check) computed.
pub struct Checked {
    outputs: Outputs,
}

impl Checked {
    /// The value of the output `port`, which is of type `P`.
    ///
    /// # Panics
    /// If the node has no such output.
    pub fn get<P: Port>(&self, port: &str) -> P::Value {
        self.outputs.get::<P>(&format!("node.{port}")).unwrap_or_else(|e| panic!("{e}"))
    }
}

/// Runs `node` on the one document `bytes`, and returns what it computed. Its inputs are made by
/// small built-in nodes.
///
/// It checks that the node is registered, that its help is complete and its example is accepted,
/// and that it gives every output. A node must also see no future: where byte j is changed, or the
/// document cut off before it, what the node computed from the bytes before j stays the same (patch
/// starts, unless the patcher looks ahead; entropies; logits). An incremental patcher must make the
/// same patches byte by byte as it makes of a whole batch.
///
/// # Panics
/// If a check fails, with what is wrong.
///
/// ```
/// # extern crate blt_plugins as blt;
/// use blt_plugins::{nodes::SpacePatch, ports, testing};
///
/// let checked = testing::check(SpacePatch { max_patch_length: Some(3) }, b"two words");
/// assert_eq!(checked.get::<ports::Patches>("patches").starts, [0, 1, 4, 5, 8]);
/// ```
pub fn check<N: Node>(node: N, bytes: &[u8]) -> Checked {
    let wrong = self_test();
    let wrong: Vec<String> =
        wrong.into_iter().filter(|what| what.starts_with(&format!("node {} (", N::NAME))).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let entry = registry::find(N::NAME).unwrap_or_else(|| {
        panic!("{} is not registered: its `impl` wants the attribute #[node]", N::NAME)
    });
    let params = serde_json::to_value(&node).expect("parameters serialise");
    let alone = Alone::new(entry, params, Path::new(".")).unwrap_or_else(|e| panic!("{e}"));
    let outputs = alone.run(&[bytes]).unwrap_or_else(|e| panic!("{}: {e}", N::NAME));
    alone.sees_no_future(bytes).unwrap_or_else(|e| panic!("{}: {e}", N::NAME));
    alone.streams(&[bytes, b"", b"a", bytes]).unwrap_or_else(|e| panic!("{}: {e}", N::NAME));
    Checked { outputs }
}

/// A node in a graph of small nodes that feed it.
pub struct Alone {
    live: Live,
    /// The node's outputs, as `node.port`.
    goals: Vec<String>,
    /// The output with patches, if it has one, and whether their borders look ahead.
    patches: Option<(String, bool)>,
    /// The entropies that its patcher reads, if any: its own, or those that it is fed.
    entropies: String,
}

impl Alone {
    /// The registered node `entry` with the parameters `params`. Relative paths among them start
    /// from `base_dir`. A node that must learn from data first, a threshold for one, learns from
    /// the source of this module.
    ///
    /// # Errors
    /// What checking, building or running the node answers, and an input of a port type that no
    /// built-in node gives.
    pub fn new(
        entry: &'static NodeEntry,
        params: Value,
        base_dir: &Path,
    ) -> Result<Self, Diagnostics> {
        let mut wires = serde_json::Map::new();
        for (name, slot) in entry.inputs.iter().zip(entry.in_slots()) {
            let found = INPUTS.iter().find(|(port, _)| *port == slot.name);
            match found {
                Some((_, wire)) if !slot.optional => {
                    wires.insert(name.to_string(), json!(wire));
                }
                None if !slot.optional => {
                    let what = format!("nothing here gives {} for input `{name}`", slot.name);
                    return Err(Diagnostic::error(what).into());
                }
                _ => {}
            }
        }
        let mut node = serde_json::Map::from_iter([("node".to_owned(), json!(entry.name))]);
        if !wires.is_empty() {
            node.insert("in".into(), Value::Object(wires));
        }
        node.extend(params.as_object().cloned().unwrap_or_default());
        let text = format!("name: alone\ngraph:{GRAPH}  node: {}\n", Value::Object(node));
        let plan = Plan::check(&PipelineSpec::parse(&text, "alone.yaml")?, "base", 7, base_dir)?;
        let planned = plan.node("node").expect("it was just written");
        let mut goals = Vec::new();
        let mut patches = None;
        let mut entropies = "lm.entropies".to_owned();
        for (port, info) in entry.outputs.iter().zip(&planned.infos) {
            let Some(info) = info else { continue };
            let goal = format!("node.{port}");
            if let Some(info) = info.get::<Patches>() {
                patches = Some((goal.clone(), info.boundary_lookahead));
            }
            if info.get::<Entropies>().is_some() {
                entropies.clone_from(&goal);
            }
            goals.push(goal);
        }
        let mut world = World::new();
        world.insert(Session::new(Rc::new(Fused::new())));
        let built: Vec<&str> =
            goals.iter().map(String::as_str).chain([entropies.as_str()]).collect();
        let live = Live::build(&plan, &built, world)?;
        let alone = Alone { live, goals, patches, entropies };
        for facilities in facilities::of_node(&alone.live, "node") {
            let Some(learns) = facilities.prepare().filter(|learns| learns.wants().is_some())
            else {
                continue;
            };
            learns.begin();
            alone.run(&[include_bytes!("testing.rs")])?;
            learns.finish().map_err(|e| Diagnostic::error(e.to_string()))?;
        }
        Ok(alone)
    }

    /// A registered node with the parameters of its example.
    ///
    /// # Errors
    /// As [`new`](Alone::new).
    pub fn of_example(entry: &'static NodeEntry, base_dir: &Path) -> Result<Self, Diagnostics> {
        let text = format!("name: example\ngraph:\n  node: {}\n", entry.example);
        let spec = PipelineSpec::parse(&text, "example.yaml")?;
        let node = spec.graph.node("node").expect("it was just written");
        Alone::new(entry, Value::Object(node.params.clone()), base_dir)
    }

    /// Its outputs for a batch of `documents`.
    ///
    /// # Errors
    /// What a node answers.
    pub fn run(&self, documents: &[&[u8]]) -> Result<Outputs, Diagnostics> {
        self.of_batch(&Rc::new(Batch::from_documents(documents.iter().copied())), &self.goals)
    }

    fn of_batch(&self, batch: &Rc<Batch>, goals: &[String]) -> Result<Outputs, Diagnostics> {
        let given = [("docs", AnyValue::new::<Bytes>(batch.clone()))];
        self.live.run(&given, goals).map_err(|failed| failed.diagnostics)
    }

    /// Whether what the node computes from the bytes before each byte j is the same whatever comes
    /// from j on.
    ///
    /// # Errors
    /// Which change showed, and where.
    pub fn sees_no_future(&self, bytes: &[u8]) -> Result<(), String> {
        let before = |text: &[u8], j: usize| self.before(text, j).map_err(|e| e.to_string());
        let mut changed = bytes.to_vec();
        for j in 0..bytes.len() {
            let whole = before(bytes, j)?;
            for byte in [b' ', b'\n', b'x', bytes[j] ^ 0x81] {
                changed[j] = byte;
                if let Some(what) = whole.differs(&before(&changed, j)?) {
                    return Err(format!("changing byte {j} to {byte} changed {what} before it"));
                }
            }
            changed[j] = bytes[j];
            if let Some(what) = whole.differs(&before(&bytes[..j], j)?) {
                return Err(format!("cutting the text off before byte {j} changed {what}"));
            }
        }
        Ok(())
    }

    /// What the node computes of `text` at BOS and at each of the first `j` bytes.
    fn before(&self, text: &[u8], j: usize) -> Result<Before, StepError> {
        let outputs = self.run(&[text])?;
        let mut before = Before::default();
        if let Some((goal, false)) = &self.patches {
            let patches = outputs.get::<Patches>(goal)?;
            // Ids 0..=j are BOS and the bytes before j, and whether id j + 1 starts a patch is
            // decided there too.
            let mut starts = patches.starts.clone();
            if patches.next_starts[0] {
                starts.push(patches.n_ids);
            }
            starts.retain(|&start| start <= j + 1);
            before.starts = starts;
        }
        for goal in &self.goals {
            if let Ok(entropies) = outputs.get::<Entropies>(goal) {
                before.entropies.extend(entropies[..=j].iter().map(|x| x.to_bits()));
            } else if let Ok(logits) = outputs.get::<Logits>(goal) {
                let session = self.live.world().get::<Session>().expect("put there by `new`");
                let logits = logits.head.logits(&session)?;
                before.logits.extend(logits[..(j + 1) * VOCAB].iter().map(|x| x.to_bits()));
            }
        }
        Ok(before)
    }

    /// Whether an incremental patcher makes the same patches byte by byte as of a whole batch. Of
    /// any other node, there is nothing to check.
    ///
    /// # Errors
    /// The patches of both, or that the node claims to be incremental and provides no stream
    /// ([`Facilities::patch_stream`](crate::Facilities::patch_stream)).
    pub fn streams(&self, documents: &[&[u8]]) -> Result<(), String> {
        let Some((goal, false)) = &self.patches else { return Ok(()) };
        let get = |e: Diagnostics| e.to_string();
        let batch = Rc::new(Batch::from_documents(documents.iter().copied()));
        let goals = [goal.clone(), self.entropies.clone()];
        let outputs = self.of_batch(&batch, &goals).map_err(get)?;
        let packed = outputs.get::<Patches>(goal).map_err(get)?;
        let entropies = outputs.get::<Entropies>(&self.entropies).map_err(get)?;
        let stream = |bos_entropy| {
            let mut provided = facilities::of_node(&self.live, "node");
            provided.find_map(|provided| provided.patch_stream(bos_entropy).transpose())
        };
        if stream(Some(1.0)).is_none() {
            return Err("it claims to be incremental, and cannot stream".into());
        }
        let begin = |bos_entropy| stream(bos_entropy).expect("just seen").expect("it ran");
        let streamed = stream_patches(&batch, Some(&entropies), begin);
        match streamed == *packed {
            true => Ok(()),
            false => Err(format!(
                "the patches of {documents:?} are {packed:?} packed, and {streamed:?} streamed"
            )),
        }
    }

    /// Whether the node gives patches without looking ahead.
    pub fn is_incremental_patcher(&self) -> bool {
        matches!(self.patches, Some((_, false)))
    }
}

/// What a node computed from BOS and the first bytes.
#[derive(Default)]
struct Before {
    starts: Vec<usize>,
    entropies: Vec<u32>,
    logits: Vec<u32>,
}

impl Before {
    /// What is not the same as in `other`.
    fn differs(&self, other: &Before) -> Option<&'static str> {
        if self.starts != other.starts {
            return Some("where patches start");
        }
        if self.entropies != other.entropies {
            return Some("an entropy");
        }
        (self.logits != other.logits).then_some("a logit")
    }
}
