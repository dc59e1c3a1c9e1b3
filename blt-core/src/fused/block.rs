use super::*;
pub(super) fn block(_: &Fused, _: &Tensor, _: &[usize], _: &BlockParams, _: &BlockConfig) -> Tensor { unimplemented!() }
