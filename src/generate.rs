//! `blt-run generate`: text from a model, shown as it is written.

use crate::model::Model;
use crate::output::{Failure, show};
use blt_core::decoding::{
    Characters, Drafter, Generation, Limits, MAX_REWIND, Sampling, Stopped, Text,
};
use blt_plugins::Generator;
use blt_report::progress;
use clap::{Args, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Instant;

#[derive(Args)]
pub struct Generate {
    #[command(flatten)]
    model: Model,
    /// The text to go on from. Without one, the model begins a document.
    #[arg(long, value_name = "TEXT")]
    prompt: Option<OsString>,
    /// A file of any bytes to go on from.
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompt_file: Option<PathBuf>,
    /// Write so many bytes at most.
    #[arg(long, value_name = "N", default_value_t = 256)]
    bytes: usize,
    /// Logits are divided by this; 0 takes the most likely byte each time.
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f64,
    /// Draw from the K most likely bytes alone.
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Draw from the most likely bytes alone that together have the probability P.
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f64,
    /// The seed of the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Stop after this text; may be given again.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Print ids in place of text, and draw ids that are neither a byte nor the end too.
    #[arg(long)]
    ids: bool,
    /// Guess K - 1 bytes ahead and verify K at once; changes no greedy byte, and no distribution.
    #[arg(long, value_name = "K", default_value_t = 0)]
    speculate: usize,
    /// What guesses.
    #[arg(long, value_enum, default_value_t = Draft::Decoder)]
    draft: Draft,
}

#[derive(Clone, Copy, ValueEnum)]
enum Draft {
    /// The model's decoder, on the last latent.
    Decoder,
    /// What followed the last bytes when they came before.
    Ngram,
}

fn ended_by(stopped: Option<Stopped>) -> &'static str {
    match stopped {
        Some(Stopped::Eos) => "the end of the document",
        Some(Stopped::Stop) => "--stop",
        Some(Stopped::Bytes) => "--bytes",
        Some(Stopped::NoByte) => "an id that is neither a byte nor the end",
        None => "the reader of standard output",
    }
}

impl Generate {
    fn options(&self) -> Result<blt_core::decoding::Generate, Failure> {
        let (temperature, top_k, top_p) = (self.temperature, self.top_k, self.top_p);
        let sampling = Sampling { temperature, top_k, top_p, all_ids: self.ids };
        sampling.check()?;
        if self.stop.iter().any(String::is_empty) {
            return Err(Failure::other("a --stop without a text would stop at once"));
        }
        if self.speculate > MAX_REWIND {
            let (k, most) = (self.speculate, MAX_REWIND);
            return Err(Failure::other(format!(
                "--speculate {k}; at most {most} are verified at once"
            )));
        }
        let drafter = match self.draft {
            Draft::Decoder => Drafter::Decoder,
            Draft::Ngram => Drafter::Ngram,
        };
        let speculate = (self.speculate > 1).then_some((self.speculate, drafter));
        Ok(blt_core::decoding::Generate { sampling, seed: self.seed, speculate })
    }

    fn prompt(&self) -> Result<Vec<u8>, Failure> {
        match (&self.prompt, &self.prompt_file) {
            (Some(text), _) => Ok(text.as_encoded_bytes().to_vec()),
            (None, Some(path)) => std::fs::read(path)
                .map_err(|e| Failure::other(format!("cannot read {}: {e}", path.display()))),
            (None, None) => Ok(Vec::new()),
        }
    }
}

pub fn generate(args: &Generate) -> Result<(), Failure> {
    let (options, prompt) = (args.options()?, args.prompt()?);
    let generator = args.model.open()?;
    let read = Instant::now();
    let mut generation = generator.start(options, &prompt, 0)?;
    let read = read.elapsed().as_secs_f64();
    let patches = generation.document().n_patches();
    let begun = Instant::now();
    let text = write(args, &generator, &mut generation)?;
    let written = text.bytes.len();
    let seconds = begun.elapsed().as_secs_f64();
    let latent_calls = generation.document().n_patches().saturating_sub(patches);
    let mut about = format!(
        "{written} bytes in {seconds:.2} s, {:.1} bytes/s, {:.2} bytes a latent call",
        written as f64 / seconds.max(1e-9),
        written as f64 / latent_calls.max(1) as f64,
    );
    about += &format!("; a prompt of {} bytes in {read:.2} s", prompt.len());
    let stats = generation.stats;
    if args.speculate > 1 {
        let share = 100.0 * stats.accepted as f64 / stats.drafted.max(1) as f64;
        about += &format!(
            "; {} of {} drafts accepted ({share:.1} %), {} passes",
            stats.accepted, stats.drafted, stats.passes
        );
    }
    if !args.ids {
        let lost = 100.0 * stats.lost_mass / (stats.passes + 1) as f64;
        about += &format!("; {lost:.4} % of the probability was on ids that are not drawn");
    }
    progress::line(&format!("{about}; stopped by {}", ended_by(text.stopped)));
    Ok(())
}

/// Shows the text as it is written. It has not stopped if nobody reads on.
fn write(
    args: &Generate,
    generator: &Generator,
    generation: &mut Generation,
) -> Result<Text, Failure> {
    let stop = args.stop.iter().map(|stop| stop.as_bytes().to_vec()).collect();
    let limits = Limits { bytes: args.bytes, stop };
    let (mut text, mut characters) = (Text::new(&limits), Characters::default());
    while text.stopped.is_none() {
        let ids = generation.advance().map_err(|e| generator.error(e))?;
        let mut shown = String::new();
        for id in ids.unwrap_or_default() {
            let before = text.bytes.len();
            text.push(id, &limits);
            match args.ids {
                true => shown += &format!("{id} "),
                false => shown += &characters.push(&text.bytes[before..]),
            }
            if text.stopped.is_some() {
                break;
            }
        }
        if !show(&shown)? {
            text.stopped = None;
            return Ok(text);
        }
    }
    show("\n")?;
    Ok(text)
}
