//! A step of one's own trains, and reads two sources, on what the built-in ones stand on.

use blt::graph::run::{RunOptions, Runner};
use blt::prelude::*;
use blt_data::Packer;
use serde_json::Value;

#[path = "../../examples/step.rs"]
mod example;

/// Runs a pipeline on two small corpora; the result of its last step.
fn result(pipeline: &str) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| std::fs::write(dir.path().join(name), text).unwrap();
    write("a.txt", "the same words again and again\n".repeat(20));
    write("b.txt", "other words, the same number of lines\n".repeat(20));
    let spec = PipelineSpec::parse(pipeline, "p.yaml").unwrap_or_else(|e| panic!("{e}"));
    let options = RunOptions { runs_dir: dir.path().join("runs"), ..RunOptions::new("test build") };
    let run = Runner::new(&spec, dir.path(), options).run();
    let run = run.unwrap_or_else(|e| panic!("{}", e.render(false)));
    let step = run.plans[0].steps.last().unwrap().dir.join("result.json");
    serde_json::from_slice(&std::fs::read(step).unwrap()).unwrap()
}

#[test]
fn a_step_of_ones_own_trains() {
    let result = result(
        "name: overfit
graph:
  docs: {node: TextFiles, path: a.txt, lines: true, split: {valid: 0.1, by: content}}
  lm: {node: ByteLm, in: docs, dim: 16, layers: 1, heads: 2, window: 16}
run:
  - overfit: {goal: lm.loss, steps: 40, lr: 1e-2}
",
    );
    let (before, after) = (result["before"].as_f64().unwrap(), result["after"].as_f64().unwrap());
    assert!(before > 6.0 && after < 4.0, "{result}");
}

/// How many bytes two batches have in common, place by place.
#[params]
struct InCommon {}

#[node(example = "in: {left: a, right: b}")]
impl Node for InCommon {
    const INPUTS: &'static [&'static str] = &["left", "right"];
    type In = (port::Bytes, port::Bytes);
    type Out = port::Metric;

    fn run(
        &self,
        _: &(),
        (left, right): (Rc<Batch>, Rc<Batch>),
        _: &RunCx,
    ) -> Result<MetricValue, NodeError> {
        let common = left.ids.iter().zip(&right.ids).filter(|(l, r)| l == r).count();
        Ok(MetricValue::of("in_common", common as f64, left.ids.len().min(right.ids.len()) as f64))
    }
}

/// Reads the first batch of each of two sources, and compares them.
#[params]
struct Compare {
    /// A metric of two sources, a wire.
    goal: String,
}

#[step(example = "goal: metric")]
impl Step for Compare {
    fn goals(&self) -> Vec<String> {
        vec![self.goal.clone()]
    }

    fn check(&self, plan: &Plan) -> Result<(), NodeError> {
        plan.goal(&self.goal).map(drop)
    }

    fn depends(&self, cx: &StepCx) -> Result<Vec<String>, StepError> {
        fingerprints(cx, &[&self.goal])
    }

    fn run(&self, cx: &mut StepCx) -> Result<(), StepError> {
        let graph = TrainedGraph::build(cx, &[&self.goal])?;
        let mut batches = Vec::new();
        for source in graph.sources() {
            let packer = Packer::new(source.handle.span_bytes, 1024)?;
            let mut of_source = graph.batches_of(source, Request::all(), packer)?;
            batches.push((source.node.as_str(), of_source.next_or_end()?));
        }
        let metric = graph.run_given(&batches, &[&self.goal])?.take::<port::Metric>(&self.goal)?;
        // A batch for one source does not do for two.
        assert!(graph.source().is_err() && graph.run(&batches[0].1, &[&self.goal]).is_err());
        let (common, of) = metric.sums["in_common"];
        let result = json!({"sources": batches.len(), "in_common": common, "of": of});
        Ok(write_atomic(cx.dir().join("result.json"), result.to_string())?)
    }
}

#[test]
fn a_step_reads_two_sources() {
    let result = result(
        "name: compare
graph:
  left: {node: TextFiles, path: a.txt, lines: true}
  right: {node: TextFiles, path: b.txt, lines: true}
  metric: {node: InCommon, in: {left: left, right: right}}
run:
  - compare: {goal: metric}
",
    );
    assert_eq!(result["sources"], 2);
    assert!(result["in_common"].as_f64() >= Some(1.0), "BOS at least: {result}");
    assert!(result["in_common"].as_f64() < result["of"].as_f64(), "{result}");
}
