//! Decoding: a model that runs id by id, from what it remembers of a document.
//!
//! A [`Decoder`] is the operations of a model as [`Stream`]s. A [`Decoding`] is one document in it:
//! for each operation the state that it needs to go on. Encoder, decoder and entropy model keep the
//! keys and values of one window, the latent transformer those of all patches; it runs only when a
//! patch ends. [`Decoder::extend`] takes any number of new ids of any number of documents; the
//! logits of a document have the same bits however its ids are divided and whatever it is batched
//! with. They agree with those of the whole model's forward pass within rounding (1e-5); where an
//! entropy is that near to a patcher's threshold, the two may cut patches differently.
//!
//! [`Decoding::rewind`] takes ids back, for drafts that a model did not confirm. [`Generation`] draws
//! ids, with or without drafts.
//!
//! The parts of [`model`](crate::model) have a function `streaming`, which reads their parameters
//! from a backend: decoding computes on the host, on any backend's parameters.
//! [`patcher_streaming`] makes a stream of any [`PatchStream`](crate::patch::stream::PatchStream),
//! and [`counts_streaming`] of counts. [`Blt::add_to`](crate::blt::Blt::add_to) adds a whole model.

mod blt;
mod decoder;
mod embed;
mod encoder;
mod entropy;
mod generate;
mod latent;
mod layers;
mod memory;
mod network;
mod patching;
mod sampling;
mod stream;
mod texts;

pub use entropy::counts_streaming;
pub use generate::{Characters, Drafter, Generate, GenerateError, Generation, GenerationStats};
pub use network::{Decoder, Decoding, DecodingFailed};
pub use patching::patcher_streaming;
pub use sampling::{Draws, Sampling, SamplingError, accept};
pub use stream::{Chunk, DecodingError, MAX_REWIND, New, Rewind, Rows, Stream, Streaming, Wire};
pub use texts::{Limits, Stopped, Text, write_texts};
