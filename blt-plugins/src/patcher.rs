//! The short forms of a patcher. Whether a patcher looks ahead is its type:
//!
//! | form | what decides whether a byte starts a patch | incremental |
//! |---|---|---|
//! | [`Patcher`] | a function of the last few bytes before it | yes |
//! | [`StreamPatcher`] | a state that reads byte by byte, with entropies if it asks for them | yes |
//! | [`SpanPatcher`] | a function of the whole span | no: `boundary_lookahead` |
//!
//! Under `#[node]`, an `impl` of one of them is a node with input `bytes` and output `patches`. The
//! framework does the rest: BOS is a patch of its own, a span's first byte starts one, patches
//! longer than `max_patch_length` are split, and the end of a span records whether the byte after
//! it would start a patch.
//!
//! A patcher that keeps more, a threshold to be found or a tokenizer to be trained, is an `impl
//! Node` by hand. It declares what it is by [`PatchesInfo::streamed`] or
//! [`PatchesInfo::looks_ahead`], and provides its stream in the former case
//! ([`Facilities::patch_stream`]).

use crate::facilities::{Facilities, provide};
use crate::ports::{self, Bytes, Entropies, PatchesInfo};
use crate::short_form::ShortForm;
use blt_core::bytes::Batch;
use blt_core::patch::stream::{EntropyStream, PatchStream, stream_patches};
use blt_core::patch::{EntropyRule, LimitStream, Limits, Patches};
use blt_graph::{BuildCx, NodeError, Ports, RunCx};
use std::rc::Rc;

/// An incremental patcher as a function of the bytes so far.
///
/// ```
/// # extern crate blt_plugins as blt;
/// use blt_plugins::Patcher;
/// use blt_derive::{node, params};
///
/// /// A patch starts after each newline: a line is a patch.
/// #[params]
/// pub struct LinePatch {}
///
/// #[node]
/// impl Patcher for LinePatch {
///     const LOOK_BACK: usize = 1;
///     fn starts_next(&self, so_far: &[u8]) -> bool {
///         so_far.ends_with(b"\n")
///     }
/// }
/// # fn main() {}
/// ```
pub trait Patcher: Clone + 'static {
    /// How many bytes the rule looks back at most: `so_far` has no more. `usize::MAX` is the whole
    /// span so far.
    const LOOK_BACK: usize;

    /// Whether the byte after `so_far` starts a patch. `so_far` is the last bytes of the span so
    /// far, at least one and at most [`LOOK_BACK`](Patcher::LOOK_BACK), the newest last.
    fn starts_next(&self, so_far: &[u8]) -> bool;

    /// The longest patch in bytes; longer ones are split greedily from the left. `None`: any
    /// length. Usually a parameter, `#[shared] max_patch_length: Option<usize>`.
    fn max_patch_length(&self) -> Option<usize> {
        None
    }

    /// Checks the parameters.
    ///
    /// # Errors
    /// [`NodeError::param`] names the parameter at fault.
    fn check(&self) -> Result<(), NodeError> {
        Ok(())
    }
}

/// An incremental patcher as a state that reads the bytes of a span one at a time.
pub trait StreamPatcher: Clone + 'static {
    /// What it reads: [`Bytes`], or `(Bytes, Entropies)`.
    type In: PatcherInputs;
    /// Its state in a span.
    type Stream: PatchStream + 'static;

    /// The state at the start of a span, before its first byte. `bos_entropy`, in nats, is that of
    /// the first byte; `None` where the patcher reads no entropies.
    fn begin(&self, bos_entropy: Option<f32>) -> Self::Stream;

    /// As [`Patcher::max_patch_length`].
    fn max_patch_length(&self) -> Option<usize> {
        None
    }

    /// What patches are held to after the rule:
    /// [`max_patch_length`](StreamPatcher::max_patch_length), and more where a patcher says so.
    fn limits(&self) -> Limits {
        self.max_patch_length().into()
    }

    /// As [`Patcher::check`].
    ///
    /// # Errors
    /// [`NodeError::param`] names the parameter at fault.
    fn check(&self) -> Result<(), NodeError> {
        Ok(())
    }

    /// The patches of a batch, before its limits. By default, every byte is pushed; a patcher that
    /// has a faster way must make the same patches, which
    /// [`testing::check`](crate::testing::check) tests.
    ///
    /// # Errors
    /// What the batch or its entropies do not allow.
    fn patches(&self, batch: &Batch, entropies: Option<&[f32]>) -> Result<Patches, NodeError> {
        Ok(stream_patches(batch, entropies, |bos_entropy| self.begin(bos_entropy)))
    }
}

/// A patcher that sees the whole span before it decides. Its runs carry the mark
/// `boundary_lookahead`: they are listed apart from incremental ones, and cannot generate text.
pub trait SpanPatcher: Clone + 'static {
    /// Where patches start in the span `bytes`, as ascending offsets; 0 may be listed or left out.
    /// The byte after the span is taken to start a patch.
    ///
    /// # Errors
    /// What the bytes do not allow.
    fn starts(&self, bytes: &[u8]) -> Result<Vec<usize>, NodeError>;

    /// As [`Patcher::max_patch_length`].
    fn max_patch_length(&self) -> Option<usize> {
        None
    }

    /// As [`Patcher::check`].
    ///
    /// # Errors
    /// [`NodeError::param`] names the parameter at fault.
    fn check(&self) -> Result<(), NodeError> {
        Ok(())
    }
}

/// The inputs of a [`StreamPatcher`].
pub trait PatcherInputs: Ports {
    #[doc(hidden)]
    fn read(values: Self::Values) -> (Rc<Batch>, Option<Rc<Vec<f32>>>);
}

impl PatcherInputs for Bytes {
    fn read(batch: Rc<Batch>) -> (Rc<Batch>, Option<Rc<Vec<f32>>>) {
        (batch, None)
    }
}

impl PatcherInputs for (Bytes, Entropies) {
    fn read((batch, entropies): Self::Values) -> (Rc<Batch>, Option<Rc<Vec<f32>>>) {
        (batch, Some(entropies))
    }
}

impl<P: Patcher> StreamPatcher for P {
    type In = Bytes;
    type Stream = Recent<P>;

    fn begin(&self, _: Option<f32>) -> Recent<P> {
        Recent { patcher: self.clone(), bytes: Vec::new() }
    }

    fn max_patch_length(&self) -> Option<usize> {
        Patcher::max_patch_length(self)
    }

    fn check(&self) -> Result<(), NodeError> {
        Patcher::check(self)
    }

    fn patches(&self, batch: &Batch, _: Option<&[f32]>) -> Result<Patches, NodeError> {
        let (mut flags, mut next_starts) = (Vec::with_capacity(batch.len()), Vec::new());
        for s in 0..batch.n_spans() {
            let bytes = batch.bytes(s);
            let starts =
                |read: usize| self.starts_next(&bytes[read.saturating_sub(P::LOOK_BACK)..read]);
            // BOS and the first byte start patches.
            flags.extend(std::iter::repeat_n(true, 2.min(bytes.len() + 1)));
            flags.extend((1..bytes.len()).map(starts));
            next_starts.push(bytes.is_empty() || starts(bytes.len()));
        }
        Ok(Patches::from_flags(batch, &flags, next_starts))
    }
}

/// The state of a [`Patcher`]: the last bytes of the span so far.
pub struct Recent<P> {
    patcher: P,
    bytes: Vec<u8>,
}

impl<P: Patcher> PatchStream for Recent<P> {
    fn push(&mut self, byte: u8, _: Option<f32>) -> bool {
        // Twice the look-back, so that moving the bytes takes constant time a byte.
        if self.bytes.len() >= P::LOOK_BACK.saturating_mul(2).max(2) {
            self.bytes.drain(..self.bytes.len() - P::LOOK_BACK);
        }
        self.bytes.push(byte);
        self.patcher.starts_next(&self.bytes[self.bytes.len().saturating_sub(P::LOOK_BACK)..])
    }
}

/// A patcher's stream for [`Facilities`].
struct Streaming<P>(P);

impl<P: StreamPatcher> Facilities for Streaming<P> {
    fn patch_stream(
        &self,
        bos_entropy: Option<f32>,
    ) -> Result<Option<Box<dyn PatchStream>>, NodeError> {
        let stream = self.0.begin(bos_entropy);
        Ok(Some(Box::new(LimitStream::new(stream, self.0.limits()))))
    }
}

/// The stream of a patcher with an entropy rule, for [`Facilities::patch_stream`].
pub(crate) fn entropy_stream(
    rule: EntropyRule,
    limits: impl Into<Limits>,
    bos_entropy: Option<f32>,
) -> Result<Option<Box<dyn PatchStream>>, NodeError> {
    let none = || NodeError::other("an entropy patcher reads an entropy of BOS, and none is given");
    let stream = EntropyStream::new(rule, bos_entropy.ok_or_else(none)?);
    Ok(Some(Box::new(LimitStream::new(stream, limits))))
}

/// `max_patch_length: 0` is refused wherever it can be given.
pub(crate) fn check_max_patch_length(max: Option<usize>) -> Result<(), NodeError> {
    match max {
        Some(0) => Err(NodeError::param(
            "max_patch_length",
            "a patch has at least one byte, max_patch_length: 1",
        )),
        _ => Ok(()),
    }
}

/// A [`Patcher`] or a [`StreamPatcher`] as a node.
pub enum Streamed {}

impl<P: StreamPatcher> ShortForm<P> for Streamed {
    type In = P::In;
    type Out = ports::Patches;

    fn check(patcher: &P) -> Result<PatchesInfo, NodeError> {
        check_max_patch_length(patcher.max_patch_length())?;
        patcher.check()?;
        Ok(PatchesInfo::streamed::<P::Stream>())
    }

    fn build(patcher: &P, cx: &mut BuildCx) {
        provide(cx, Streaming(patcher.clone()));
    }

    fn run(
        patcher: &P,
        inputs: <P::In as Ports>::Values,
        _: &RunCx,
    ) -> Result<Rc<Patches>, NodeError> {
        let (batch, entropies) = P::In::read(inputs);
        let (entropies, limits) = (entropies.as_ref().map(|e| e.as_slice()), patcher.limits());
        Ok(Rc::new(match limits.only_split() {
            true => patcher.patches(&batch, entropies)?.split_if(limits.max_patch_length)?,
            false => stream_patches(&batch, entropies, |bos| {
                LimitStream::new(patcher.begin(bos), limits)
            }),
        }))
    }
}

/// A [`SpanPatcher`] as a node.
pub enum WholeSpan {}

impl<P: SpanPatcher> ShortForm<P> for WholeSpan {
    type In = Bytes;
    type Out = ports::Patches;

    fn check(patcher: &P) -> Result<PatchesInfo, NodeError> {
        check_max_patch_length(patcher.max_patch_length())?;
        patcher.check()?;
        Ok(PatchesInfo::looks_ahead())
    }

    fn run(patcher: &P, batch: Rc<Batch>, _: &RunCx) -> Result<Rc<Patches>, NodeError> {
        let starts = (0..batch.n_spans()).map(|s| patcher.starts(&batch.bytes(s)));
        let starts = starts.collect::<Result<Vec<_>, _>>()?;
        let patches = Patches::from_byte_starts(&batch, &starts, true)?;
        Ok(Rc::new(patches.split_if(patcher.max_patch_length())?))
    }
}
