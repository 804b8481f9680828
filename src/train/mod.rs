//! The step, optimizer, schedule, checkpoint, memory plan, metrics.
