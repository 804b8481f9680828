//! Ctrl-C: the first finishes the update and saves, the second quits.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{INTERRUPTED, Terminal};

static STOP: AtomicBool = AtomicBool::new(false);

/// Set by the first Ctrl-C (or SIGTERM). Call once, before work that can be stopped.
pub(super) fn stop_flag(terminal: &Terminal) -> &'static AtomicBool {
    let terminal = terminal.clone();
    let handler = move || {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(INTERRUPTED));
        }
        // What has arrived is kept, and the next start goes on from there.
        if terminal.stage().starts_with("fetching") {
            std::process::exit(i32::from(INTERRUPTED));
        }
        let what = match terminal.stage() {
            "training" => "the update in progress is finished and the adapter saved",
            "measuring the loss" | "answering" => "the evaluation is given up, the adapter kept",
            _ => "no update will be made once everything is loaded",
        };
        terminal.note(&format!("stopping: {what}; Ctrl-C again quits at once"));
    };
    if let Err(e) = ctrlc::set_handler(handler) {
        tracing::warn!("Ctrl-C will not save the adapter: {e}");
    }
    &STOP
}
