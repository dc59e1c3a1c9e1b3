//! The built-in nodes and steps of `blt`: sources, patchers, model, heads, and training, evaluation
//! and scoring over them.
//!
//! This is the only crate that knows both the graph and the model. A node of your own does what a
//! file in [`nodes`] does, in your own crate, on the port types of [`ports`].

mod checkpoint;
mod device;
mod facilities;
mod fingerprint;
mod lint;
mod memory;
mod model;
mod model_part;
pub mod nodes;
mod plan_queries;
pub mod ports;
mod profile;
mod recognise;
pub mod scoring;
mod sources;
pub mod steps;
mod trained_graph;

pub use checkpoint::{CHECKPOINT_DIR, CheckpointState, ResumeFolder, STATE_FILE, StoredModel};
pub use device::{backend, device_failure};
pub use facilities::{Facilities, ParamSet, Prepare, SourceHandle, provide};
pub use fingerprint::fingerprint;
pub use lint::untrained;
pub use model::{session, with_params};
pub use model_part::ModelPart;
pub use profile::{NodeCost, NodeProfile};
pub use recognise::NotBlt;
pub use sources::{DocumentSource, check_source, check_sources, fingerprints};
pub use trained_graph::{Batches, NodeParam, TrainedGraph};
