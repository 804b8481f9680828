//! A team of threads that share one job after another, and stay awake for the next.
//!
//! A training step is some two thousand short ops, a generated token three hundred. A pool that sleeps
//! between them pays a wake-up of tens of microseconds for each; here a member spins for [`AWAKE`]
//! before it goes to sleep, so that within a step the next job reaches it in a microsecond.
//!
//! A job is a number of tasks, claimed in order from one counter: whoever is free takes the next.
//! The caller works too, and waits only for members who have joined: one that wakes up late finds the
//! job done and delays nobody. Nothing is allocated.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::simd::KeptTiles;

/// How long a member without work looks for some before it sleeps: longer than what lies between two
/// ops of a step, short enough that an idle program uses no processor.
const AWAKE: Duration = Duration::from_micros(200);
/// Looks between two looks at the clock, and before a waiting caller offers its processor to others.
const LOOKS: usize = 256;

thread_local! {
    /// This thread is inside a task: what it starts it does alone.
    static AT_WORK: Cell<bool> = const { Cell::new(false) };
}

/// A fixed number of threads, the caller's among them.
pub struct Team {
    shared: Arc<Shared>,
    members: Vec<JoinHandle<()>>,
    /// One job at a time: held by the thread that has called.
    turn: Mutex<()>,
}

struct Shared {
    /// Counts jobs; a change is what members look for.
    epoch: AtomicUsize,
    /// The job may be read and joined.
    open: AtomicBool,
    /// Members that have joined, or are about to find out that they are too late.
    active: AtomicUsize,
    /// Written only while `open` is false and `active` is 0.
    job: UnsafeCell<Job>,
    /// The next task.
    next: AtomicUsize,
    /// What a member's task panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Members asleep, or going to.
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    bell: Condvar,
    dismissed: AtomicBool,
}

/// A closure with its type forgotten.
#[derive(Clone, Copy)]
struct Job {
    tasks: usize,
    closure: *const (),
    call: unsafe fn(*const (), usize),
}

// SAFETY: `job` is written by the caller alone, while no member can read it (see `Team::each`); its
// closure is `Sync`, and lives until every member has left the job.
unsafe impl Sync for Shared {}
// SAFETY: as above; everything else in it is `Send`.
unsafe impl Send for Shared {}

impl Team {
    /// A team of `threads` threads, at least one: the caller's, and `threads - 1` of its own.
    ///
    /// Panics where the system refuses a thread.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            open: AtomicBool::new(false),
            active: AtomicUsize::new(0),
            job: UnsafeCell::new(Job { tasks: 0, closure: std::ptr::null(), call: nothing }),
            next: AtomicUsize::new(0),
            panic: Mutex::new(None),
            sleepers: AtomicUsize::new(0),
            bed: Mutex::new(()),
            bell: Condvar::new(),
            dismissed: AtomicBool::new(false),
        });
        // The team is there before its members: where one cannot be had, those who came are dismissed.
        let mut team = Self { shared, members: Vec::new(), turn: Mutex::new(()) };
        for i in 1..threads {
            let shared = team.shared.clone();
            let member = std::thread::Builder::new().name(format!("dayrun-{i}"));
            team.members.push(member.spawn(move || shared.serve()).expect("starting a thread"));
        }
        team
    }

    /// Number of threads, the caller's among them.
    pub fn threads(&self) -> usize {
        self.members.len() + 1
    }

    /// Runs `f(task)` once for each of `0..tasks`, and returns when all are done. Inside a task it
    /// runs them one after another on the thread of that task.
    ///
    /// A panic of a task is handed on when the others have ended.
    pub fn each<F: Fn(usize) + Sync>(&self, tasks: usize, f: F) {
        if tasks <= 1 || self.members.is_empty() || AT_WORK.get() {
            let _kept = KeptTiles::keep();
            (0..tasks).for_each(f);
            return;
        }
        let turn = lock(&self.turn);
        let shared = &*self.shared;
        let job = Job { tasks, closure: (&raw const f).cast(), call: call::<F> };
        shared.next.store(0, SeqCst);
        // Where this thread's task panicked, nobody has taken what a member's panicked with.
        drop(lock(&shared.panic).take());
        // SAFETY: `open` is false and `active` was 0 after that, so no member reads the job before
        // `open` is set again: one that has counted itself in since then looks at `open` first.
        unsafe { *shared.job.get() = job };
        shared.open.store(true, SeqCst);
        shared.epoch.fetch_add(1, SeqCst);
        shared.wake();
        // Dropped also when a task panics here: `f` must outlive every member's use of it.
        let closing = Closing(shared);
        AT_WORK.set(true);
        // SAFETY: `f` is alive.
        unsafe { shared.work(job) };
        drop(closing);
        let panic = lock(&shared.panic).take();
        drop(turn);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Runs `f` once on every thread: for what each thread keeps of its own.
    ///
    /// Panics inside a task, where the others could not be had.
    pub fn everyone(&self, f: impl Fn() + Sync) {
        assert!(!AT_WORK.get(), "everyone was called inside a task");
        let threads = self.threads();
        let arrived = AtomicUsize::new(0);
        // Nobody takes a second task, because nobody leaves the first before all have come.
        self.each(threads, |_| {
            let result = catch_unwind(AssertUnwindSafe(&f));
            arrived.fetch_add(1, SeqCst);
            while arrived.load(SeqCst) < threads {
                std::thread::yield_now();
            }
            result.unwrap_or_else(|panic| resume_unwind(panic));
        });
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.dismissed.store(true, SeqCst);
        self.shared.epoch.fetch_add(1, SeqCst);
        self.shared.wake();
        for member in self.members.drain(..) {
            // A member's panics were handed to the callers.
            let _ = member.join();
        }
    }
}

impl Shared {
    /// A member's life.
    fn serve(&self) {
        AT_WORK.set(true);
        let mut seen = 0;
        loop {
            seen = self.next_epoch(seen);
            if self.dismissed.load(SeqCst) {
                return;
            }
            self.active.fetch_add(1, SeqCst);
            if self.open.load(SeqCst) {
                // SAFETY: `open` was seen while this member was counted in `active`: the caller wrote
                // the job before, and waits for the count before it goes on.
                let result =
                    catch_unwind(AssertUnwindSafe(|| unsafe { self.work(*self.job.get()) }));
                if let Err(panic) = result {
                    lock(&self.panic).get_or_insert(panic);
                }
            }
            self.active.fetch_sub(1, SeqCst);
        }
    }

    /// Claims tasks until none is left.
    ///
    /// # Safety
    /// The job's closure is alive.
    unsafe fn work(&self, job: Job) {
        let _kept = KeptTiles::keep();
        loop {
            let task = self.next.fetch_add(1, SeqCst);
            if task >= job.tasks {
                return;
            }
            // SAFETY: the caller's promise; `call` was made for this closure's type.
            unsafe { (job.call)(job.closure, task) };
        }
    }

    /// Waits for an epoch other than `seen`, awake for a while and then asleep.
    fn next_epoch(&self, seen: usize) -> usize {
        let start = Instant::now();
        loop {
            for _ in 0..LOOKS {
                let epoch = self.epoch.load(SeqCst);
                if epoch != seen {
                    return epoch;
                }
                std::hint::spin_loop();
            }
            if start.elapsed() > AWAKE {
                break;
            }
        }
        let mut bed = lock(&self.bed);
        // A caller changes the epoch first and counts sleepers second, so one of the two is seen.
        self.sleepers.fetch_add(1, SeqCst);
        while self.epoch.load(SeqCst) == seen {
            bed = self.bell.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, SeqCst);
        self.epoch.load(SeqCst)
    }

    fn wake(&self) {
        if self.sleepers.load(SeqCst) > 0 {
            drop(lock(&self.bed));
            self.bell.notify_all();
        }
    }
}

/// Ends a job: no member joins any more, and those who have are waited for.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        // Where a task has panicked here, the rest is left undone.
        self.0.next.fetch_add(usize::MAX / 2, SeqCst);
        self.0.open.store(false, SeqCst);
        let mut looks = 0;
        while self.0.active.load(SeqCst) > 0 {
            looks += 1;
            if looks % LOOKS == 0 { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        AT_WORK.set(false);
    }
}

/// # Safety
/// `closure` points to a living `F`.
unsafe fn call<F: Fn(usize)>(closure: *const (), task: usize) {
    // SAFETY: the caller's promise.
    unsafe { (*closure.cast::<F>())(task) }
}

/// # Safety
/// None is needed.
unsafe fn nothing(_: *const (), _: usize) {}

/// The lock, whoever has panicked with it: what it guards is whole at every moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    /// Every task once, whatever their number, over many jobs in a row.
    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 3, 5] {
            let team = Team::new(threads);
            assert_eq!(team.threads(), threads);
            for job in 0..2000 {
                let runs: [AtomicUsize; 19] = Default::default();
                let tasks = job % 20;
                team.each(tasks, |task| {
                    runs[task].fetch_add(1, Relaxed);
                });
                for (task, runs) in runs.iter().enumerate() {
                    let want = usize::from(task < tasks);
                    assert_eq!(runs.load(Relaxed), want, "task {task} of {tasks}, job {job}");
                }
            }
        }
    }

    #[test]
    fn members_that_sleep_are_woken() {
        let team = Team::new(2);
        for _ in 0..20 {
            std::thread::sleep(3 * AWAKE);
            let helped = AtomicBool::new(false);
            let caller = std::thread::current().id();
            // The first task to come keeps its thread until another thread has the second.
            team.each(2, |_| {
                if std::thread::current().id() != caller {
                    helped.store(true, SeqCst);
                }
                while !helped.load(SeqCst) {
                    std::thread::yield_now();
                }
            });
        }
    }

    #[test]
    fn everyone_comes_once() {
        let team = Team::new(4);
        for _ in 0..100 {
            let threads = Mutex::new(Vec::new());
            team.everyone(|| lock(&threads).push(std::thread::current().id()));
            let mut ids = threads.into_inner().unwrap();
            assert_eq!(ids.len(), 4);
            ids.sort_by_key(|id| format!("{id:?}"));
            ids.dedup();
            assert_eq!(ids.len(), 4, "a thread came twice");
        }
    }

    #[test]
    fn a_task_inside_a_task_runs_at_once() {
        let team = Team::new(3);
        let count = AtomicUsize::new(0);
        team.each(7, |_| {
            team.each(5, |_| {
                let _ = count.fetch_add(1, Relaxed);
            })
        });
        assert_eq!(count.into_inner(), 35);
    }

    #[test]
    fn callers_take_turns() {
        let team = Team::new(2);
        let sums: [AtomicUsize; 4] = Default::default();
        std::thread::scope(|scope| {
            for sum in &sums {
                let team = &team;
                scope.spawn(move || {
                    for _ in 0..200 {
                        team.each(10, |task| {
                            let _ = sum.fetch_add(task, Relaxed);
                        });
                    }
                });
            }
        });
        for sum in sums {
            assert_eq!(sum.into_inner(), 200 * 45);
        }
    }

    /// Whoever's task panics, the caller hears of it, and the team works on.
    #[test]
    fn a_panic_reaches_the_caller() {
        let team = Team::new(3);
        for bad in 0..30 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                team.each(30, |task| assert_ne!(task, bad, "planted"));
            }));
            let panic = result.expect_err("must panic");
            assert!(panic.downcast_ref::<String>().unwrap().contains("planted"));
            let count = AtomicUsize::new(0);
            team.each(8, |_| {
                let _ = count.fetch_add(1, Relaxed);
            });
            assert_eq!(count.into_inner(), 8);
        }
    }
    /// Where every thread's task panics, the caller raises its own: the next job hears nothing of the rest.
    #[test]
    fn no_panic_is_left_for_the_next_job() {
        let team = Team::new(3);
        for _ in 0..20 {
            let all = catch_unwind(AssertUnwindSafe(|| team.everyone(|| panic!("planted"))));
            assert!(all.is_err());
            team.each(8, |_| ());
        }
    }
}
