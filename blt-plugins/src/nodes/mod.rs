//! The built-in nodes, a file each. A node registers itself; nothing lists them but the module
//! tree.

mod blt;
mod bpe;
mod byte_embed;
mod byte_lm;
mod byte_patch;
mod column_entropies;
mod column_patch;
mod entropy_patch;
mod graph_of_model;
mod latent;
mod local_decoder;
mod local_encoder;
mod next_byte_loss;
mod ngram_lm;
mod shuffled_patch;
mod sources;
mod space_patch;
mod stride_patch;

pub use self::blt::Blt;
pub use bpe::BpePatch;
pub use byte_embed::ByteEmbed;
pub use byte_lm::{ByteLm, ContextReset};
pub use byte_patch::BytePatch;
pub use column_entropies::ColumnEntropies;
pub use column_patch::ColumnPatch;
pub use entropy_patch::{Align, EntropyPatch, Rule};
pub use latent::Latent;
pub use local_decoder::{DecoderCross, LocalDecoder};
pub use local_encoder::LocalEncoder;
pub use next_byte_loss::NextByteLoss;
pub use ngram_lm::NgramLm;
pub use shuffled_patch::ShuffledPatch;
pub use sources::{ArrowBytes, ParquetBytes, Paths, TextFiles};
pub use space_patch::SpacePatch;
pub use stride_patch::{StrideAlign, StridePatch};
