//! `dayrun` on a GPU, end to end: the binary as it is shipped, on the virtual GPU as its CUDA driver.
//!
//! The model is tests/golden/wide/bnb: 2 layers, 4 heads of 64 over 2 of keys, a vocabulary of 279, in
//! bitsandbytes' NF4. Bounds are from tests/common/tol.rs.
#![cfg(all(feature = "cli", feature = "cuda"))]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::golden::{self, Tensors};
use common::tol::{logits_in_bf16, same_loss_in_bf16};
use dayrun::adapter::peft;
use dayrun::config::{self, DeviceChoice};
use dayrun::model::config::LlamaConfig;
use serde_json::Value;
use virtual_gpu::Options;

const LAYERS: usize = 2;
/// Whether the machine's own GPU is asked, not the virtual one.
const REAL: bool = cfg!(feature = "gpu-tests");

/// Says that a test needs a GPU that can be told what to be.
fn needs_the_virtual_gpu(test: &str) -> bool {
    if REAL {
        eprintln!("SKIPPED: {test} sets what the virtual GPU claims to be");
    }
    REAL
}

/// A directory with a run file and rows of many lengths, whose prompts bear no loss.
struct Project {
    dir: tempfile::TempDir,
    options: Options,
}

/// One line of metrics.jsonl.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Step {
    loss: f64,
    lr: f64,
    grad_norm: f64,
    loss_tokens: usize,
}

impl Project {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let rows: String = (0..24)
            .map(|i| {
                let (prompt, answer) = ("on ".repeat(i % 7), "so ".repeat(1 + i % 4));
                format!("{{\"prompt\": \"{prompt}{i} is\", \"completion\": \" {answer}{i}\"}}\n")
            })
            .collect();
        std::fs::write(dir.path().join("rows.jsonl"), &rows).unwrap();
        let few: String = rows.lines().take(3).map(|line| format!("{line}\n")).collect();
        std::fs::write(dir.path().join("test.jsonl"), few).unwrap();
        let text = format!(
            "[model]\npath = {:?}\n[data]\ntrain = \"rows.jsonl\"\nmax_length = 48\n\
             [train]\nmicro_batch_tokens = 80\nlearning_rate = 5e-3\nmax_steps = 10\n\
             epochs = 10\nsave_every = 2\n[eval]\nmax_new_tokens = 4\nbatch_rows = 2\n",
            golden::path("wide/bnb")
        );
        std::fs::write(dir.path().join("run.toml"), text).unwrap();
        Self { dir, options: Options::default() }
    }

    fn on(options: Options) -> Self {
        Self { options, ..Self::new() }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The binary, with the virtual GPU as its driver.
    fn command(&self, args: &[&str]) -> Command {
        let binary = env!("CARGO_BIN_EXE_dayrun");
        let mut command = match REAL {
            true => Command::new(binary),
            false => virtual_gpu::command(binary, &self.options).expect("the library"),
        };
        command.current_dir(self.path()).env("DAYRUN_CACHE", self.path().join("cache"));
        command.env("COLUMNS", "100").env_remove("RUST_LOG");
        command.args(args).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the binary starts")
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> (String, String) {
        let output = self.run(args);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{args:?}: {err}");
        assert!(!err.contains("virtual GPU: "), "the watchman has something to say: {err}");
        (out, err)
    }

    /// Exit code and standard error from its `error:` on, with the directory's name cut out.
    #[track_caller]
    fn refusal(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {text}");
        assert!(!text.contains("panicked"), "{args:?}: {text}");
        let at = text.find("error: ").unwrap_or_else(|| panic!("{args:?}: {text}"));
        text[at..].replace(&self.path().display().to_string(), "DIR")
    }

    /// Trains into `out` with `--set` arguments; gives what metrics.jsonl says.
    #[track_caller]
    fn train(&self, out: &str, sets: &[&str]) -> Vec<Step> {
        let sets = sets.iter().flat_map(|set| ["--set", set]);
        let args: Vec<&str> = ["train", "run.toml", "--out", out].into_iter().chain(sets).collect();
        self.ok(&args);
        self.steps(out)
    }

    fn steps(&self, out: &str) -> Vec<Step> {
        let text = std::fs::read_to_string(self.path().join(out).join("metrics.jsonl")).unwrap();
        let read = |line: &str| {
            let line: Value = serde_json::from_str(line).expect("JSON");
            let number = |key: &str| line[key].as_f64().unwrap();
            let loss_tokens = line["loss_tokens"].as_u64().unwrap() as usize;
            let (loss, lr, grad_norm) = (number("loss"), number("lr"), number("grad_norm"));
            Step { loss, lr, grad_norm, loss_tokens }
        };
        text.lines().map(read).collect()
    }

    fn summary(&self, out: &str) -> Value {
        let text = std::fs::read_to_string(self.path().join(out).join("summary.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn tensors(&self, out: &str) -> Vec<u8> {
        let path = self.path().join(out).join("adapter/adapter_model.safetensors");
        std::fs::read(path).unwrap()
    }
}

fn model() -> LlamaConfig {
    let load = dayrun::model::LoadOptions::default();
    let path = golden::path("wide/bnb");
    dayrun::model::load(&path, &load, &dayrun::progress::quiet).unwrap().config.clone()
}

/// The largest logit of the golden prompts, with the adapter.
fn largest_logit(adapter: &str) -> f64 {
    let tensors = Tensors::open(&format!("wide/{adapter}.safetensors"));
    let all = (0..4).flat_map(|i| tensors.floats(&format!("logits.{i}")));
    all.map(|x| f64::from(x.abs())).fold(0.0, f64::max)
}

/// Fails where the losses are further apart than bf16's roundings take them.
#[track_caller]
fn assert_same_losses(what: &str, got: &[Step], want: &[Step], largest_logit: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    let mut moved = 0.0;
    let mut worst: f64 = 0.0;
    for (k, (got, want)) in got.iter().zip(want).enumerate() {
        assert_eq!(
            (got.lr, got.loss_tokens),
            (want.lr, want.loss_tokens),
            "{what}, step {}",
            k + 1
        );
        let bound = same_loss_in_bf16(LAYERS, largest_logit, want.loss_tokens, moved);
        let apart = (got.loss - want.loss).abs();
        worst = worst.max(apart / bound);
        assert!(apart <= bound, "{what}, step {}: {got:?}, {want:?}, {bound:.4} allowed", k + 1);
        // Clipped to a norm of 1.
        moved += want.lr * want.grad_norm.min(1.0);
    }
    eprintln!("{what}: losses apart by {:.1} % of what is allowed", 100.0 * worst);
}

/// Ten steps on the GPU, both ways through the quantised linears, give the CPU's losses; a mistake does not.
fn ten_steps(adapter: &str, r: usize) {
    let project = Project::new();
    let init = format!("lora.init_adapter={}", golden::path("wide").join(adapter).display());
    let on = |out: &str, sets: &[&str]| project.train(out, &[&[init.as_str()], sets].concat());
    let cpu = on("cpu", &["train.device=cpu"]);
    assert_eq!(cpu.len(), 10);
    assert!(cpu[9].loss < cpu[0].loss, "nothing was learned: {cpu:?}");
    let largest = largest_logit(adapter);
    for way in ["fused", "scratch"] {
        let set = format!("dispatch.nf4_linear={way}");
        let gpu = on(way, &["train.device=cuda", &set]);
        assert_same_losses(&format!("{adapter}, {way}"), &gpu, &cpu, largest);
        let left = peft::load(&project.path().join(way).join("adapter"), &model(), "tiny").unwrap();
        assert_eq!(left.config.r, r);
        assert!(left.params.iter().all(|x| x.is_finite()));
        // A run on the GPU is named as what it was.
        let summary = project.summary(way);
        let device = summary["device"].as_str().expect("named");
        assert!(device == "cuda:0 virtual GPU (sm_80) (sm_80)" || REAL, "{device}");
    }
    // Seen to fail: a base alone and another rate are told apart.
    let base = project.train("base", &["train.device=cpu", "train.max_steps=1"]);
    let bound = same_loss_in_bf16(LAYERS, largest, cpu[0].loss_tokens, 0.0);
    let apart = (base[0].loss - cpu[0].loss).abs();
    assert!(apart > bound, "no adapter passes: {apart} of {bound}");
    let slow = on("slow", &["train.device=cpu", "train.learning_rate=1e-3"]);
    let apart = |steps: &[Step]| (steps[9].loss - cpu[9].loss).abs();
    let moved: f64 = cpu[..9].iter().map(|step| step.lr * step.grad_norm.min(1.0)).sum();
    let bound = same_loss_in_bf16(LAYERS, largest, cpu[9].loss_tokens, moved);
    assert!(apart(&slow) > bound, "a rate that is wrong passes: {} of {bound}", apart(&slow));
}

/// The losses may well be the same both ways, to the bit; decoded weights take memory, which shows where a
/// micro-batch is so small that its activations need less.
#[test]
fn the_way_that_is_asked_for_is_taken() {
    let project = Project::new();
    let peak = |way: &str| {
        let set = format!("dispatch.nf4_linear={way}");
        let small = ["train.micro_batch_tokens=16", "data.max_length=16", "data.on_bad_row=skip"];
        let sets = [&["train.device=cuda", "train.max_steps=1", &set][..], &small].concat();
        project.train(way, &sets);
        project.summary(way)["gpu_memory_peak_bytes"].as_u64().expect("counted")
    };
    let (fused, scratch) = (peak("fused"), peak("scratch"));
    assert!(fused < scratch, "one way was taken twice: {fused} and {scratch} bytes");
}

#[test]
fn ten_steps_at_rank_8() {
    ten_steps("adapter-r8", 8);
}

#[test]
fn ten_steps_at_rank_5() {
    ten_steps("adapter-r5-rslora", 5);
}

/// A fresh adapter, evaluated and asked; the run again from its resolved file gives the same bits.
#[test]
fn a_whole_run_twice_and_what_it_leaves() {
    let mut project = Project::new();
    let sets = ["--set", "data.eval=test.jsonl", "--set", "train.max_steps=3", "--set", "lora.r=8"];
    let (_, told) = project.ok(&[&["train", "run.toml", "--out", "a"][..], &sets].concat());
    // Chosen, and told.
    let line = "on cuda:0 virtual GPU (sm_80) (sm_80), driver for CUDA 12.9";
    assert!(told.contains(line) || REAL, "{told}");
    let (resolved, _) = config::load(&project.path().join("a/run.toml"), &[]).expect("valid");
    assert_eq!(resolved.train.device, DeviceChoice::Cuda(0));
    let rows = resolved.dispatch.nf4_linear_rows.expect("the table that was used");
    // q; k and v; o; gate and up; down.
    assert_eq!(rows.len(), 5, "{rows:?}");
    let summary = project.summary("a");
    for key in ["gpu_memory_limit_bytes", "gpu_memory_peak_bytes", "gpu_memory_bytes"] {
        assert!(summary[key].as_u64().expect(key) > 0, "{key} in {summary}");
    }
    assert!(summary["gpu_driver"] == "CUDA 12.9" || REAL, "{summary}");
    project.ok(&["train", "a/run.toml", "--out", "b"]);
    assert!(project.tensors("a") == project.tensors("b"), "two runs differ");
    assert_eq!(project.steps("a"), project.steps("b"));

    // The evaluation alone is the run's own, and near the CPU's.
    let perplexity = summary["perplexity_after"].as_f64().unwrap();
    let (table, _) = project.ok(&["eval", "--run", "a"]);
    assert!(table.contains(&format!("perplexity {perplexity:.4}")), "{table}");
    let rows = |out: &str, device: &[&str]| -> Vec<(f64, usize)> {
        let args = ["eval", "--run", "a", "--no-exact-match", "--rows", out, "--device"];
        project.ok(&[&args[..], device].concat());
        let text = std::fs::read_to_string(project.path().join(out)).unwrap();
        let read = |line: &str| {
            let row: Value = serde_json::from_str(line).unwrap();
            let tokens = row["loss_tokens"].as_u64().unwrap() as usize;
            (row["loss"].as_f64().unwrap(), tokens)
        };
        text.lines().map(read).collect()
    };
    let (gpu, cpu) = (rows("gpu.jsonl", &["cuda"]), rows("cpu.jsonl", &["cpu"]));
    // tests/golden_model.rs shows that these are PEFT's.
    let fine = rows("fine.jsonl", &["cpu", "--compute-dtype", "f32"]);
    let largest = largest_logit("adapter-r8");
    assert_eq!((gpu.len(), cpu.len(), fine.len()), (3, 3, 3));
    for ((gpu, cpu), fine) in gpu.iter().zip(&cpu).zip(&fine) {
        let bound = same_loss_in_bf16(LAYERS, largest, cpu.1, 0.0);
        assert!((gpu.0 - cpu.0).abs() <= bound, "{gpu:?} on the GPU, {cpu:?} on the CPU: {bound}");
        let bound = logits_in_bf16(LAYERS, largest) / (fine.1 as f64).sqrt();
        assert!((gpu.0 - fine.0).abs() <= bound, "{gpu:?} on the GPU, {fine:?} in f32: {bound}");
    }

    // An answer, the same again, and the same whatever the schedule.
    let ask = ["generate", "--run", "a", "--max-new-tokens", "4", "on on 2 is"];
    let (answer, told) = project.ok(&ask);
    assert!(told.contains("on cuda:0 "), "{told}");
    assert!(!answer.trim().is_empty());
    assert_eq!(project.ok(&[&ask[..], &["--device", "cpu"]].concat()).0, answer, "on the CPU");
    for seed in [7, 8] {
        project.options.seed = Some(seed);
        assert_eq!(project.ok(&ask).0, answer, "seed {seed}");
    }
}

/// The virtual GPU's seed shuffles blocks and warps.
#[test]
fn schedules_do_not_matter() {
    if needs_the_virtual_gpu("schedules_do_not_matter") {
        return;
    }
    let sets = ["train.max_steps=2", "lora.r=5", "eval.before=false"];
    let adapter = |seed| {
        let project = Project::on(Options { seed, ..Options::default() });
        project.train("out", &sets);
        project.tensors("out")
    };
    assert!(adapter(Some(7)) == adapter(Some(8)), "the order of blocks or warps shows");
}

#[test]
fn a_device_that_will_not_do_is_refused_by_name() {
    if needs_the_virtual_gpu("a_device_that_will_not_do_is_refused_by_name") {
        return;
    }
    let mut seen = String::new();
    let mut refuse = |title: &str, options: Options, args: &[&str]| {
        let project = Project::on(options);
        let text = project.refusal(args);
        assert!(!project.path().join("runs").exists(), "{title}: a refused run leaves nothing");
        seen.push_str(&format!("# {title}\n$ dayrun {}\n{text}\n", args.join(" ")));
    };
    let train = ["train", "run.toml", "--device", "cuda"];
    let old = Options { compute_capability: (7, 5), ..Options::default() };
    refuse("a card without bf16", old, &train);
    refuse("an old driver", Options { driver: 11_080, ..Options::default() }, &train);
    refuse("a second GPU", Options::default(), &["train", "run.toml", "--device", "cuda:1"]);
    let tiny = golden::path("tiny/hub");
    let tiny = format!("model.path={}", tiny.display());
    let text = [&train[..], &["--set", &tiny]].concat();
    let project = Project::new();
    assert!(project.refusal(&text).contains("head_dim is 16"));
    let table = "dispatch.nf4_linear_rows=[{ out_features = 1, in_features = 2, \
                 forward_fused_rows = 3, backward_fused_rows = 4 }]";
    refuse(
        "a table of another model",
        Options::default(),
        &[&train[..], &["--set", table]].concat(),
    );
    let until = [&train[..], &["--set", "train.cpu_until=layers.9.attention"]].concat();
    refuse("an op that there is not", Options::default(), &until);
    let told = Project::new().run(&[&["-vv"][..], &until].concat()).stderr;
    let text = String::from_utf8_lossy(&told);
    for listed in ["op 0 of ", ": embedding\n", ": layers.1.attention.backward\n"] {
        assert!(text.contains(listed), "all ops are listed: {text}");
    }
    check_snapshot("gpu-refusals.txt", &seen);
}

/// Automatic goes round a card that is too old and a model that the kernels do not take, and says so.
#[test]
fn auto_says_why_it_is_the_cpu() {
    if needs_the_virtual_gpu("auto_says_why_it_is_the_cpu") {
        return;
    }
    let old = Options { compute_capability: (7, 5), ..Options::default() };
    let project = Project::on(old);
    let sets = ["--set", "train.max_steps=1", "--set", "eval.before=false"];
    let (_, told) = project.ok(&[&["train", "run.toml"][..], &sets].concat());
    assert!(told.contains("on cpu (") && told.contains("is too old"), "{told}");
    let project = Project::new();
    let tiny = format!("model.path={}", golden::path("tiny/hub").display());
    let (_, told) = project.ok(&[&["train", "run.toml", "--set", &tiny][..], &sets].concat());
    assert!(told.contains("on cpu (") && told.contains("head_dim is 16"), "{told}");
    let f32 = ["train", "run.toml", "--out", "f32", "--set", "train.compute_dtype=f32"];
    let (_, told) = project.ok(&[&f32[..], &sets].concat());
    assert!(told.contains("on cpu (") && told.contains("compute_dtype is \"f32\""), "{told}");
}

/// Memory that does not hold the plan: refused before the first update, with what would fit.
#[test]
fn too_little_memory_is_refused_with_what_would_fit() {
    let project = Project::new();
    let sets = ["--set", "train.micro_batch_tokens=8192", "--memory", "3MB"];
    let text = project.refusal(&[&["train", "run.toml", "--device", "cuda"][..], &sets].concat());
    let (_, hint) = text.split_once("train.micro_batch_tokens = ").expect("what would fit");
    let digits = hint.split(|c: char| !c.is_ascii_digit()).next().unwrap();
    let fits: usize = digits.parse().expect("a number");
    // What it says is so: that many fit, and not one more.
    let with = |tokens: usize| -> Vec<String> {
        let max_length = format!("data.max_length={}", tokens.min(48));
        let tokens = format!("train.micro_batch_tokens={tokens}");
        let sets = [&max_length, &tokens, "train.max_steps=1"].map(|set| ["--set", set]);
        let start = ["train", "run.toml", "--out", "fits", "--device", "cuda", "--memory", "3MB"];
        start.into_iter().chain(sets.into_iter().flatten()).map(String::from).collect()
    };
    let more = with(fits + 1);
    let more = project.refusal(&more.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(more.contains("too little GPU memory"), "{more}");
    let fits = with(fits);
    project.ok(&fits.iter().map(String::as_str).collect::<Vec<_>>());
    let summary = project.summary("fits");
    assert_eq!(summary["steps"], 1);
    assert!(summary["gpu_memory_peak_bytes"].as_u64() <= Some(3_000_000), "{summary}");
    // Held to a limit that is enough, it runs and stays below.
    project.ok(&[
        "train",
        "run.toml",
        "--out",
        "held",
        "--memory",
        "64MB",
        "--set",
        "train.max_steps=1",
    ]);
    let summary = project.summary("held");
    // What a card with so much free memory plans with: a sixteenth is left to kernels' code and the driver.
    assert_eq!(summary["gpu_memory_limit_bytes"], 60_000_000);
    assert!(summary["gpu_memory_peak_bytes"].as_u64() <= Some(64_000_000), "{summary}");
}

/// A kernel that faults while the run trains: the adapter of the last save is whole, and the error says at
/// which step and op.
#[test]
fn a_fault_in_a_kernel_loses_nothing_that_was_saved() {
    if needs_the_virtual_gpu("a_fault_in_a_kernel_loses_nothing_that_was_saved") {
        return;
    }
    let project = Project::on(Options { fault_at: Some(1500), ..Options::default() });
    let sets =
        ["train.device=cuda", "train.schedule=constant", "train.warmup=0", "train.epochs=99"];
    let args = sets.iter().chain(&["train.max_steps=99"]).flat_map(|set| ["--set", set]);
    let text = project.refusal(&["train", "run.toml"].into_iter().chain(args).collect::<Vec<_>>());
    let steps = project.steps("runs/run").len() as u64;
    assert!(steps >= 3, "the fault came before training went on: {text}");
    let saved = steps - steps % 2;
    assert!(text.contains(&format!("step {}", steps + 1)), "{text}");
    assert!(text.contains("CUDA_ERROR_LAUNCH_FAILED"), "{text}");
    let (_, stopped) = text.split_once("the GPU stopped at ").expect("where it stopped");
    let op = stopped.split(": ").next().unwrap();
    // An op of that name there is: bisection takes it and would refuse another.
    let until = format!("train.cpu_until={op}");
    Project::new().train("runs/op", &["train.device=cuda", "train.max_steps=1", &until]);
    assert!(text.contains(&format!("the adapter of step {saved} is in ")), "{text}");
    let adapter = project.path().join("runs/run/adapter");
    peft::load(&adapter, &model(), "tiny").expect("what was saved is whole");
    let summary = project.summary("runs/run");
    assert_eq!(summary["steps"], steps);
    assert!(summary["error"].as_str().expect("named").contains("CUDA_ERROR_LAUNCH_FAILED"));
    // It is the adapter that a run without the fault has after as many steps.
    let twin = Project::new();
    twin.train("runs/twin", &[&sets[..], &[&format!("train.max_steps={saved}")]].concat());
    assert!(project.tensors("runs/run") == twin.tensors("runs/twin"), "another adapter was saved");
}

/// The CPU up to an op and the GPU from there: near the whole GPU run.
#[test]
fn bisecting_between_cpu_and_gpu() {
    let project = Project::new();
    let sets = ["train.device=cuda", "train.max_steps=2", "lora.r=8"];
    let whole = project.train("whole", &sets);
    let until = "train.cpu_until=layers.1.attention";
    let half = project.train("half", &[&sets[..], &[until]].concat());
    assert_same_losses("half on the CPU", &half, &whole, largest_logit("forward"));
    // Neither device did the other's half: its roundings would be those of one of them throughout.
    project.train("cpu", &["train.device=cpu", "train.max_steps=2", "lora.r=8"]);
    for one in ["whole", "cpu"] {
        assert!(project.tensors("half") != project.tensors(one), "all of it ran as {one} did");
    }
}

fn check_snapshot(name: &str, got: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(name);
    if std::env::var_os("DAYRUN_BLESS").is_some() {
        std::fs::write(&path, got).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(got, want, "{} (DAYRUN_BLESS=1 writes it anew)", path.display());
}
