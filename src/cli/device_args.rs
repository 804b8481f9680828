//! What to run on: the same two flags everywhere.

use super::output::Failure;
use crate::config::{ByteSize, ComputeDtype, DeviceChoice, Train};

/// The device, and how much of its memory.
#[derive(clap::Args)]
pub struct DeviceArgs {
    /// What to run on: cpu, cuda (the first GPU), cuda:1 (the second), or auto: the first GPU if it
    /// can be used, else the CPU. Without it, the run file's, or auto.
    #[arg(long, value_name = "DEVICE")]
    device: Option<DeviceChoice>,
    /// Use at most so much of the GPU's memory, as on a smaller card: 39.3GB, 24GiB, 800MB.
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,
}

impl DeviceArgs {
    /// As `--set` arguments over a run file.
    pub(super) fn sets(&self) -> Vec<String> {
        let device = self.device.map(|device| format!("train.device={device}"));
        let memory = self.memory.map(|memory| format!("train.memory={memory}"));
        device.into_iter().chain(memory).collect()
    }

    /// Over the settings of a run that is used again, which may have been made on another machine.
    pub(super) fn lay_over(&self, train: &mut Train) -> Result<(), Failure> {
        if let Some(device) = self.device {
            // The run's own limit was for the run's own device.
            (train.device, train.memory) = (device, None);
        }
        train.memory = self.memory.or(train.memory);
        train.cpu_until = None;
        match (train.device, train.memory, train.compute_dtype) {
            (DeviceChoice::Cpu, Some(memory), _) => Err(Failure::new(
                format!(
                    "--memory {memory}: it limits what is used of a GPU's memory, not the CPU's"
                ),
                "leave --memory out, or give --device cuda",
            )),
            (device @ DeviceChoice::Cuda(_), _, ComputeDtype::F32) => Err(Failure::new(
                format!("{device} computes in bf16 (sums, statistics and loss in f32), not in f32"),
                "--device cpu takes f32; --compute-dtype bf16 goes on the GPU",
            )),
            _ => Ok(()),
        }
    }
}
