//! The graph as it runs id by id.

use super::TrainedGraph;
use crate::facilities::{self, DecodeCx, Facilities};
use crate::plan_queries::{input_of, outputs_of};
use crate::ports::{ByteStates, Entropies, Logits, PatchStates, Patches};
use blt_core::decoding::{
    Decoder, DecodingError, DecodingFailed, GenerateError, Wire, patcher_streaming,
};
use blt_graph::{NodeError, Plan, PlannedNode, StepError};
use std::collections::BTreeMap;
use std::rc::Rc;

impl TrainedGraph {
    /// The sub-graph of `logits`, a wire of logits, as it runs id by id, with the parameters as
    /// they are now.
    ///
    /// # Errors
    /// If a node cannot run id by id; the error names it.
    pub fn decoder(&self, logits: &str) -> Result<Decoder, StepError> {
        let plan = self.live.plan();
        let mut decoder = Decoder::new();
        let mut numbers = BTreeMap::new();
        for node in plan.needs(&[logits])? {
            if self.sources.iter().any(|source| source.node == node.name) {
                continue;
            }
            let number = self
                .add_node(&mut decoder, &numbers, node)
                .map_err(|e| StepError::Document(plan.diagnose(&node.name, &e).into()))?;
            numbers.insert(node.name.clone(), number);
        }
        Ok(decoder)
    }

    /// Adds a node whose inputs have the numbers `numbers`, by node.
    fn add_node(
        &self,
        decoder: &mut Decoder,
        numbers: &BTreeMap<String, usize>,
        node: &PlannedNode,
    ) -> Result<usize, NodeError> {
        let plan = self.live.plan();
        let inputs = inputs(plan, numbers, node);
        let provided: Vec<Rc<dyn Facilities>> =
            facilities::of_node(&self.live, &node.name).collect();
        for facilities in &provided {
            let backend = self.backend();
            let mut cx = DecodeCx { decoder, node: &node.name, inputs: &inputs, backend };
            if let Some(number) = facilities.decode(&mut cx)? {
                return Ok(number);
            }
        }
        let reads_entropies = inputs.iter().any(|(_, wire)| *wire == Wire::Entropies);
        for facilities in provided {
            if facilities.patch_stream(Some(0.0))?.is_none() {
                continue;
            }
            let streaming = patcher_streaming(reads_entropies, move |bos| {
                let stream = facilities.patch_stream(bos);
                let stream = stream.map_err(|e| DecodingError::Other(e.to_string().into()))?;
                stream.ok_or(DecodingError::Missing("a patch stream"))
            });
            return Ok(decoder.add(&*node.name, streaming, &inputs));
        }
        Err(refusal(node))
    }

    /// An error of decoding or generation, pointing at its node.
    pub fn decoding_error(&self, error: impl Into<GenerateError>) -> StepError {
        match error.into() {
            GenerateError::Decoding(DecodingFailed { node, error }) => {
                let node = node.split(':').next().unwrap_or_default();
                let error = NodeError::other(error);
                StepError::Document(self.live.plan().diagnose(node, &error).into())
            }
            error @ GenerateError::NotFinite(_) => StepError::other(error)
                .help("the checkpoint's parameters are damaged, or were trained to no end"),
        }
    }
}

fn inputs(
    plan: &Plan,
    numbers: &BTreeMap<String, usize>,
    node: &PlannedNode,
) -> Vec<(usize, Wire)> {
    let read = [
        (input_of::<Entropies>(plan, node), Wire::Entropies),
        (input_of::<Patches>(plan, node), Wire::Patches),
        (input_of::<ByteStates>(plan, node), Wire::ByteStates),
        (input_of::<PatchStates>(plan, node), Wire::PatchStates),
        (input_of::<Logits>(plan, node), Wire::Logits),
    ];
    let number = |(wire, kind): (Option<(_, String)>, Wire)| {
        let from = plan.goal(&wire?.1).ok()?.node;
        Some((*numbers.get(&from.name)?, kind))
    };
    read.into_iter().filter_map(number).collect()
}

fn refusal(node: &PlannedNode) -> NodeError {
    if outputs_of::<Patches>(node).any(|(_, info)| info.boundary_lookahead) {
        return NodeError::other(
            "it decides where patches start by bytes after the border, which are not written yet",
        )
        .help("a patcher that does not look ahead generates: EntropyPatch, SpacePatch, StridePatch, BytePatch");
    }
    NodeError::other("it does not run id by id, which generation needs")
        .help("a node of your own provides `Facilities::decode`; see docs/generation.md")
}
