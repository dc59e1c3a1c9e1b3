//! What every operation asks of its operands. All backends check the same, here.

use super::{BackendError, BlockConfig, CrossConfig, HASH_PRIMES, HashConfig, Tensor};
use crate::patch::Patches;

type Checked = Result<(), BackendError>;

/// `operands` are looked at where `holds` is false.
fn require<const N: usize>(
    holds: bool,
    operation: &'static str,
    expected: &'static str,
    operands: [(&'static str, &[usize]); N],
) -> Checked {
    if holds {
        return Ok(());
    }
    let operands = operands.map(|(name, shape)| (name, shape.to_vec())).to_vec();
    Err(BackendError::Operands { operation, expected, operands })
}

fn config(holds: bool, operation: &'static str, problem: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(BackendError::Config { operation, problem: problem() }) }
}

fn heads(operation: &'static str, heads: usize, kv_heads: usize) -> Checked {
    config(kv_heads > 0 && heads.is_multiple_of(kv_heads), operation, || {
        format!("{heads} heads are not a multiple of {kv_heads} key/value heads")
    })
}

/// Numbers that are to fill a parameter.
pub fn fills(operation: &'static str, shape: [usize; 2], len: usize) -> Checked {
    let expected = "the data fills the parameter's shape";
    let operands = [("the parameter", &shape[..]), ("the data", &[len])];
    require(len == shape[0] * shape[1], operation, expected, operands)
}

pub fn constant(shape: [usize; 2], len: usize) -> Checked {
    let operands = [("the constant", &shape[..]), ("the data", &[len])];
    require(len == shape[0] * shape[1], "constant", "the data fills the shape", operands)
}

pub fn reshape(x: &Tensor, shape: [usize; 2]) -> Checked {
    let operands = [("x", &x.shape()[..]), ("the new shape", &shape)];
    let expected = "both shapes have as many elements";
    require(x.rows * x.cols == shape[0] * shape[1], "reshape", expected, operands)
}

pub fn add(a: &Tensor, b: &Tensor) -> Checked {
    let operands = [("a", &a.shape()[..]), ("b", &b.shape())];
    require(a.shape() == b.shape(), "add", "both operands have one shape", operands)
}

/// `tokens` and `tables` are the parameters' shapes.
pub fn embed(tokens: [usize; 2], tables: Option<[usize; 2]>, hash: Option<&HashConfig>) -> Checked {
    if let Some(tables) = tables {
        let operands = [("the byte embedding", &tokens[..]), ("the hash tables", &tables)];
        let expected = "the hash tables are as wide as the byte embedding";
        require(tokens[1] == tables[1], "embed", expected, operands)?;
    }
    let Some(HashConfig { sizes, functions, vocab }) = hash else { return Ok(()) };
    config(*functions <= HASH_PRIMES.len(), "embed", || {
        format!("{functions} hash functions, and there are {}", HASH_PRIMES.len())
    })?;
    let rows = functions.saturating_mul(sizes.len()).saturating_mul(*vocab);
    config(*vocab > 0 && rows <= u32::MAX as usize, "embed", || {
        format!("hash tables have 1 to 2^32 rows in all, not {rows}")
    })
}

pub fn block(x: &Tensor, offsets: &[usize], c: &BlockConfig) -> Checked {
    let shape = x.shape();
    require(x.cols == c.dim, "block", "x is [n, dim]", [("x", &shape), ("dim", &[c.dim])])?;
    let end = offsets.last().copied().unwrap_or(0);
    let operands = [("x", &shape[..]), ("the last offset", &[end])];
    require(end == x.rows, "block", "the offsets end at the rows of x", operands)?;
    config(c.head_dim.is_multiple_of(2), "block", || {
        format!("RoPE rotates pairs, and `head_dim` is {}", c.head_dim)
    })?;
    heads("block", c.heads, c.kv_heads)
}

/// `weight` is the parameter's shape.
pub fn linear(x: &Tensor, weight: [usize; 2]) -> Checked {
    let operands = [("x", &x.shape()[..]), ("the weight", &weight)];
    require(x.cols == weight[1], "linear", "x has as many columns as the weight", operands)
}

pub fn pool(h: &Tensor, patches: &Patches) -> Checked {
    let operands = [("h", &h.shape()[..]), ("the ids of the patches", &[patches.n_ids])];
    require(h.rows == patches.n_ids, "pool", "h has a row for each id", operands)
}

pub fn encoder_cross(
    q: &Tensor,
    h: &Tensor,
    patches: &Patches,
    k: usize,
    c: &CrossConfig,
) -> Checked {
    let operation = "encoder_cross";
    let (p, n) = (patches.n_patches(), patches.n_ids);
    let operands = [("q", &q.shape()[..]), ("the patches", &[p]), ("k", &[k])];
    require(q.rows == p * k, operation, "q has k rows for each patch", operands)?;
    let operands = [("h", &h.shape()[..]), ("the ids of the patches", &[n])];
    require(h.rows == n, operation, "h has a row for each id", operands)?;
    cross(operation, [("q", q), ("h", h)], c)
}

pub fn decoder_cross(x: &Tensor, kv: &Tensor, reads: &[u32], k: usize, c: &CrossConfig) -> Checked {
    let operation = "decoder_cross";
    let operands = [("x", &x.shape()[..]), ("reads", &[reads.len()])];
    require(x.rows == reads.len(), operation, "one patch to read for each row of x", operands)?;
    let operands = [("kv", &kv.shape()[..]), ("k", &[k])];
    let whole = k > 0 && kv.rows.is_multiple_of(k);
    require(whole, operation, "kv has k rows for each patch", operands)?;
    let last = reads.iter().max().map_or(0, |&p| p as usize + 1);
    let operands = [("kv", &kv.shape()[..]), ("k", &[k]), ("the patches read", &[last])];
    require(last * k <= kv.rows, operation, "kv has every patch that is read", operands)?;
    cross(operation, [("x", x), ("kv", kv)], c)
}

fn cross(
    operation: &'static str,
    operands: [(&'static str, &Tensor); 2],
    c: &CrossConfig,
) -> Checked {
    for (name, x) in operands {
        let operands = [(name, &x.shape()[..]), ("dim", &[c.dim])];
        require(x.cols == c.dim, operation, "both sides are as wide as `dim`", operands)?;
    }
    heads(operation, c.heads, c.kv_heads)
}

/// `head` is the parameter's shape, `[vocab, dim]`.
pub fn head(operation: &'static str, x: &Tensor, head: [usize; 2]) -> Checked {
    let operands = [("x", &x.shape()[..]), ("the head", &head)];
    require(x.cols == head[1], operation, "x has as many columns as the head", operands)
}

pub fn targets(x: &Tensor, head: [usize; 2], targets: &[Option<u16>]) -> Checked {
    let operation = "head_loss";
    let operands = [("x", &x.shape()[..]), ("targets", &[targets.len()])];
    require(x.rows == targets.len(), operation, "one target for each row of x", operands)?;
    let last = targets.iter().flatten().max().map_or(0, |&id| id as usize);
    let operands = [("the head", &head[..]), ("the largest target", &[last])];
    let holds = targets.iter().flatten().next().is_none() || last < head[0];
    require(holds, operation, "every target is a row of the head", operands)
}

/// Of what a gradient starts from.
pub fn loss(loss: &Tensor) -> Checked {
    let operands = [("the loss", &loss.shape()[..])];
    require(loss.shape() == [1, 1], "backward", "the loss is [1, 1]", operands)
}

#[cfg(test)]
mod tests {
    use super::super::dfdx::Dfdx;
    use super::super::fused::Fused;
    use super::super::{Backend, ParamId, Pooling};
    use super::*;
    use std::rc::Rc;

    /// Both backends refuse, in the same words.
    #[track_caller]
    fn refused<T>(words: &str, run: impl Fn(&dyn Backend) -> Result<T, BackendError>) {
        let backends: [Rc<dyn Backend>; 2] =
            [Rc::new(Fused::new()), Rc::new(Dfdx::<f32, _>::cpu())];
        for backend in backends {
            let error = run(&*backend).err().expect("an error");
            assert!(error.to_string().contains(words), "{}: {error}", backend.path());
        }
    }

    fn zeros(backend: &dyn Backend, rows: usize, cols: usize) -> Result<Tensor, BackendError> {
        backend.constant(rows, cols, vec![0.0; rows * cols])
    }

    #[test]
    fn operands_that_do_not_fit_are_errors_of_both_backends() {
        refused("the constant is [2, 3], the data is [5]", |b| b.constant(2, 3, vec![0.0; 5]));
        refused("the parameter is [2, 3], the data is [5]", |b| {
            b.add_param([2, 3], vec![0.0; 5], false)
        });
        refused("the parameter is [2, 3], the data is [1]", |b| {
            let id = b.add_param([2, 3], vec![0.0; 6], true)?;
            b.write_param(id, &[0.0])
        });
        refused("a is [2, 3], b is [3, 2]", |b| b.add(&zeros(b, 2, 3)?, &zeros(b, 3, 2)?));
        refused("x is [2, 3], the new shape is [4, 2]", |b| b.reshape(&zeros(b, 2, 3)?, 4, 2));
        refused("x is [2, 3], the weight is [5, 4]", |b| {
            let weight = b.add_param([5, 4], vec![0.0; 20], false)?;
            b.linear(&zeros(b, 2, 3)?, weight)
        });
        refused("h is [2, 3], the ids of the patches is [4]", |b| {
            let patches = Patches {
                starts: vec![0, 2],
                n_ids: 4,
                span_offsets: vec![0, 2],
                next_starts: vec![true],
            };
            b.pool(&zeros(b, 2, 3)?, &patches, Pooling::Max)
        });
        let head = |b: &dyn Backend, targets: &[Option<u16>]| {
            let norm = b.add_param([1, 3], vec![1.0; 3], false)?;
            let head = b.add_param([4, 3], vec![0.0; 12], false)?;
            b.head_loss(&zeros(b, 2, 3)?, norm, head, 1e-5, targets, 1.0)
        };
        refused("x is [2, 3], targets is [1]", |b| head(b, &[None]));
        refused("the head is [4, 3], the largest target is [4]", |b| head(b, &[None, Some(4)]));
    }

    #[test]
    fn a_tensor_of_another_backend_is_an_error() {
        let other = Dfdx::<f64, _>::cpu();
        let foreign = zeros(&other, 2, 3).unwrap();
        refused("a tensor [2, 3] was made by another backend", |b| b.to_host(&foreign));
        refused("a tensor [2, 3] was made by another backend", |b| {
            let weight = b.add_param([1, 3], vec![0.0; 3], false)?;
            b.linear(&foreign, weight)
        });
    }

    #[test]
    fn sizes_that_cannot_be_computed_are_errors() {
        let config = BlockConfig {
            dim: 6,
            heads: 2,
            kv_heads: 2,
            head_dim: 3,
            ffn: 4,
            window: None,
            rope_theta: 1e4,
            eps: 1e-5,
        };
        let block = |b: &dyn Backend, config: &BlockConfig| {
            let id = ParamId(0);
            let params = super::super::BlockParams {
                input_layernorm: id,
                q: id,
                k: id,
                v: id,
                o: id,
                post_attention_layernorm: id,
                gate: id,
                up: id,
                down: id,
            };
            b.block(&zeros(b, 2, 6)?, &[0, 2], &params, config)
        };
        refused("`head_dim` is 3", |b| block(b, &config));
        let heads = BlockConfig { heads: 3, head_dim: 2, ..config };
        refused("3 heads are not a multiple of 2", |b| block(b, &heads));
    }
}
