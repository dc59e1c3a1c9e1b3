use blt::prelude::*;

/// How often the next byte is among the k most probable.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TopKAccuracy {
    /// How many guesses count.
    k: usize,
}

impl Node for TopKAccuracy {
    const NAME: &'static str = "TopKAccuracy";
    const INPUTS: &'static [&'static str] = &["logits", "bytes"];
    const OUTPUTS: &'static [&'static str] = &["metric"];
    const EXAMPLE: &'static str = "{node: TopKAccuracy, in: {logits: decoder, bytes: docs}, k: 5}";
    type In = (Logits, Bytes);
    type Out = Metric;
    type State = ();

    fn check(&self, _: ((), BytesInfo), _: &CheckCx) -> Result<(), NodeError> {
        match self.k {
            0 => Err(NodeError::param("k", "at least one guess counts, k: 1")),
            _ => Ok(()),
        }
    }

    fn build(&self, _: ((), BytesInfo), _: &mut BuildCx) -> Result<(), NodeError> {
        Ok(())
    }

    fn run(
        &self,
        _: &(),
        (logits, batch): (LogitsValue, Rc<Batch>),
        cx: &RunCx,
    ) -> Result<MetricValue, NodeError> {
        let rows = logits.head.logits(&session(cx))?;
        let (mut hits, mut count) = (0.0, 0.0);
        for (row, target) in rows.chunks_exact(VOCAB).zip(next_byte_targets(&batch, false)) {
            let Some(target) = target else { continue };
            let better = row.iter().filter(|&&logit| logit > row[target as usize]).count();
            hits += (better < self.k) as u8 as f64;
            count += 1.0;
        }
        Ok(MetricValue::of(&format!("top_{}_accuracy", self.k), hits, count))
    }
}

blt::node!(TopKAccuracy);
