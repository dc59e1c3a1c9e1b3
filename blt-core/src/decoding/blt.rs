//! A whole model byte by byte.

use super::entropy::counts_streaming;
use super::network::Decoder;
use super::patching::patcher_streaming;
use super::stream::{Streaming, Wire};
use crate::backend::{Backend, BackendError};
use crate::blt::{Blt, EntropyModel};
use crate::patch::LimitStream;
use crate::patch::stream::EntropyStream;

impl Blt {
    /// Adds the model to a decoder, with the parameters as they are now: `name` and a part's name
    /// are the names of its operations. `patcher`: the number of a patcher outside the model; a
    /// model with a patcher of its own needs none, and without either there is no model to decode
    /// with (None). Returns the number of the operation that gives logits.
    ///
    /// # Errors
    /// A device that failed.
    pub fn add_to(
        &self,
        decoder: &mut Decoder,
        name: &str,
        patcher: Option<usize>,
        backend: &dyn Backend,
    ) -> Result<Option<usize>, BackendError> {
        let part = |part: &str| format!("{name}: {part}");
        let patches = match (patcher, &self.patcher) {
            (Some(outside), _) => outside,
            (None, None) => return Ok(None),
            (None, Some(own)) => {
                let model: Streaming = match &own.model {
                    EntropyModel::Lm { model, reset_at_newline } => {
                        model.streaming(backend, *reset_at_newline)?
                    }
                    EntropyModel::Counts(counts) => counts_streaming(counts.clone()),
                };
                let entropies = decoder.add(part("entropies"), model, &[]);
                let (rule, max) = (own.rule, own.max_patch_length);
                let patching = patcher_streaming(true, move |bos| {
                    let stream = EntropyStream::new(rule, bos.unwrap_or_default());
                    Ok(Box::new(LimitStream::new(stream, max)))
                });
                decoder.add(part("patches"), patching, &[(entropies, Wire::Entropies)])
            }
        };
        let embed = decoder.add(part("embed"), self.embed.streaming(backend)?, &[]);
        let inputs = [(embed, Wire::ByteStates), (patches, Wire::Patches)];
        let encoder = decoder.add(part("encoder"), self.encoder.streaming(backend)?, &inputs);
        let latent = self.latent.streaming(backend)?;
        let latent = decoder.add(part("latent"), latent, &[(encoder, Wire::PatchStates)]);
        let inputs = [(encoder, Wire::ByteStates), (latent, Wire::PatchStates)];
        Ok(Some(decoder.add(part("decoder"), self.decoder.streaming(backend)?, &inputs)))
    }
}
