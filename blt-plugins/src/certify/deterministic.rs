//! `deterministic`: the same bits with any number of threads, alone and in a batch.

use super::subject::{Said, Subject};
use super::verdict::Verdict;
use blt_graph::{PipelineSpec, Plan, StepCx, StepError};

const NAME: &str = "deterministic";
/// The model is built anew on a pool of each of these sizes.
const THREADS: [usize; 2] = [1, 3];

/// Computes the texts in several ways. `build` makes the subject anew.
///
/// # Errors
/// If the graph does not run.
pub fn try_out(
    cx: &StepCx,
    build: impl Fn(&StepCx) -> Result<Subject, StepError> + Sync,
    subject: &Subject,
    texts: &[Vec<u8>],
) -> Result<Verdict, StepError> {
    let tried = format!(
        "{} held-out texts alone, in one batch, and by the model built anew on {} and {} threads",
        texts.len(),
        THREADS[0],
        THREADS[1]
    );
    let together = in_one_batch(subject, texts)?;
    for (at, text) in texts.iter().enumerate() {
        if bits(&subject.of_text(text)?) != together[at] {
            let found = format!("text {at} has other bits in a batch than alone");
            return Ok(Verdict::failed(NAME, tried, found));
        }
    }
    for threads in THREADS {
        if on_threads(cx, &build, texts, threads)? != together {
            let found = format!("on {threads} threads the bits are others");
            return Ok(Verdict::failed(NAME, tried, found));
        }
    }
    Ok(Verdict::passed(NAME, tried, "the same bits"))
}

fn bits(said: &Said) -> Vec<u32> {
    said.nats.iter().chain(&said.logits).map(|x| x.to_bits()).collect()
}

fn in_one_batch(subject: &Subject, texts: &[Vec<u8>]) -> Result<Vec<Vec<u32>>, StepError> {
    let refs: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
    Ok(subject.of_texts(&refs)?.iter().map(bits).collect())
}

/// The bits of the model, which is built on a pool of so many threads: what a graph holds stays on
/// its thread.
fn on_threads(
    cx: &StepCx,
    build: &(impl Fn(&StepCx) -> Result<Subject, StepError> + Sync),
    texts: &[Vec<u8>],
    threads: usize,
) -> Result<Vec<Vec<u32>>, StepError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(StepError::other)?;
    let pipeline = cx.plan().resolved().to_yaml();
    let (variant, seed, base_dir) = (cx.variant(), cx.seed(), cx.base_dir());
    let (index, earlier, program) = (cx.index(), cx.earlier().to_vec(), cx.program().to_owned());
    pool.install(move || {
        let spec = PipelineSpec::parse(&pipeline, "the resolved pipeline");
        let plan = Plan::check(&spec?, variant, seed, base_dir)?;
        let cx = StepCx::outside(&plan, index, earlier, threads, program);
        in_one_batch(&build(&cx)?, texts)
    })
}
