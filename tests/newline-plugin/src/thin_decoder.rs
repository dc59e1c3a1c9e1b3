use blt::core::backend::{CrossConfig, CrossParams, ParamId};
use blt::core::model::Head;
use blt::prelude::*;

/// A decoder without transformer layers: each byte attends to its patch's latent once, and predicts
/// the next byte.
#[params]
pub struct ThinDecoder {
    #[shared]
    heads: usize,
    #[shared]
    eps: f64,
}

/// The parameters, as the backend knows them.
pub struct Weights {
    /// Latents to the k rows of each patch, `[k * dim, latent_dim]`.
    rows: ParamId,
    cross: CrossParams,
    config: CrossConfig,
    /// `[dim]`
    norm: ParamId,
    /// `[260, dim]`
    head: ParamId,
    k: usize,
}

#[node(example = "in: {bytes: encoder.bytes, patches: latent}, heads: 4")]
impl Node for ThinDecoder {
    type In = (port::ByteStates, port::PatchStates);
    type Out = port::Logits;
    type State = Weights;

    fn check(
        &self,
        (bytes, _): (ByteStatesInfo, PatchStatesInfo),
        _: &CheckCx,
    ) -> Result<(), NodeError> {
        match self.heads > 0 && bytes.dim.is_multiple_of(self.heads) {
            true => Ok(()),
            false => {
                let (dim, heads) = (bytes.dim, self.heads);
                Err(NodeError::param("heads", format!("{heads} heads do not divide {dim}")))
            }
        }
    }

    fn build(
        &self,
        (bytes, patches): (ByteStatesInfo, PatchStatesInfo),
        cx: &mut BuildCx,
    ) -> Result<Weights, NodeError> {
        let (dim, k, heads, eps) = (bytes.dim, patches.k, self.heads, self.eps);
        with_params(cx, |maker| Weights {
            rows: maker.linear("rows.weight", k * dim, patches.dim),
            cross: CrossParams {
                q_norm: maker.norm("q_norm.weight", dim),
                k_norm: maker.norm("k_norm.weight", dim),
                q: maker.linear("q.weight", dim, dim),
                k: maker.linear("k.weight", dim, dim),
                v: maker.linear("v.weight", dim, dim),
                o: maker.linear("o.weight", dim, dim),
            },
            config: CrossConfig { dim, heads, kv_heads: heads, head_dim: dim / heads, eps },
            norm: maker.norm("norm.weight", dim),
            head: maker.linear("head.weight", VOCAB, dim),
            k,
        })
    }

    fn run(
        &self,
        w: &Weights,
        (bytes, latents): (ByteStatesValue, PatchStatesValue),
        cx: &RunCx,
    ) -> Result<LogitsValue, NodeError> {
        let session = session(cx);
        let patches = &latents.patches;
        let kv = session.linear(&latents.states, w.rows)?;
        let kv = session.reshape(&kv, patches.n_patches() * w.k, w.config.dim)?;
        // The last patch that ended before the next byte's: a later one would show the future.
        let reads = patches.decoder_reads(&bytes.batch.offsets);
        let states = session.decoder_cross(&bytes.states, &kv, &reads, w.k, &w.cross, &w.config)?;
        let head = Head::States { states, norm: w.norm, head: w.head, eps: self.eps };
        Ok(LogitsValue { head, batch: bytes.batch })
    }
}

#[test]
fn it_sees_no_future() {
    blt::testing::check(ThinDecoder::new(4), b"two words");
}
