//! A value that is used on one thread alone, for Python objects that any thread may use.

use rayon::{ThreadPool, ThreadPoolBuilder};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Sender, channel};

type Job<T> = Box<dyn FnOnce(&mut T) + Send>;
type Panic = Box<dyn Any + Send>;

/// Holds a `T`, which need not be `Send`, on a thread of a pool of its own: what it computes in
/// parallel, it computes on that pool.
pub struct Owner<T> {
    jobs: Sender<Job<T>>,
    process: u32,
    _pool: ThreadPool,
}

/// Why a job was not done: the process is a fork of the one that has the thread.
#[derive(Debug)]
pub struct Forked;

impl<T: 'static> Owner<T> {
    /// Builds the value on its thread. A panic there goes on here.
    ///
    /// # Errors
    /// What `build` answers; threads that cannot be started as `no_threads` says it.
    pub fn start<E: Send + 'static>(
        threads: usize,
        build: impl FnOnce() -> Result<T, E> + Send + 'static,
        no_threads: impl FnOnce(rayon::ThreadPoolBuildError) -> E,
    ) -> Result<Self, E> {
        let name = |i| format!("blt-{i}");
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(name)
            .build()
            .map_err(no_threads)?;
        let (jobs, to_do) = channel::<Job<T>>();
        let (answer, built) = channel::<Result<Result<(), E>, Panic>>();
        pool.spawn(move || {
            let mut value = match catch_unwind(AssertUnwindSafe(build)) {
                Ok(Ok(value)) => value,
                Ok(Err(error)) => {
                    // Whoever asked waits for this.
                    let _ = answer.send(Ok(Err(error)));
                    return;
                }
                Err(panic) => {
                    let _ = answer.send(Err(panic));
                    return;
                }
            };
            let _ = answer.send(Ok(Ok(())));
            while let Ok(job) = to_do.recv() {
                job(&mut value);
            }
        });
        match built.recv() {
            Ok(Ok(Ok(()))) => Ok(Owner { jobs, process: std::process::id(), _pool: pool }),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => panic!("the thread ended before it answered"),
        }
    }

    /// Has `job` done on the thread, after those that were asked for before. Its panic goes on
    /// here.
    ///
    /// # Errors
    /// [`Forked`].
    pub fn call<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Result<R, Forked> {
        if std::process::id() != self.process {
            return Err(Forked);
        }
        let (answer, done) = channel();
        let job = Box::new(move |value: &mut T| {
            // The receiver waits below.
            let _ = answer.send(catch_unwind(AssertUnwindSafe(|| job(value))));
        });
        if self.jobs.send(job).is_err() {
            panic!("the thread ended early");
        }
        match done.recv() {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => panic!("the thread ended early"),
        }
    }
}
