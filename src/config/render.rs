//! Writes run files: the commented one to start from, and the resolved one of a run.

use std::fmt::Write;

use super::{Data, Dispatch, Eval, Lora, Model, RunFile, Train, all_keys};

impl RunFile {
    /// The commented run file of `dayrun init`: every key with meaning and default.
    pub fn commented() -> String {
        let docs = [Model::DOC, Data::DOC, Lora::DOC, Train::DOC, Eval::DOC, Dispatch::DOC];
        let mut out = String::from(
            "# A dayrun run file. `dayrun train FILE` runs it; every key here can also be given on\n\
             # the command line: --set train.learning_rate=1e-4. Lines that start with # are off;\n\
             # a key that is left out has the default shown.\n",
        );
        let keys = all_keys();
        for (section, doc) in super::sections().iter().zip(docs) {
            out.push('\n');
            for line in doc {
                let _ = writeln!(out, "#{line}");
            }
            let _ = writeln!(out, "[{section}]");
            for key in keys.iter().filter(|key| key.section == *section) {
                for line in key.doc {
                    let _ = writeln!(out, "#{line}");
                }
                let _ = match &key.default {
                    // A path and the training files have no default that could work.
                    _ if !key.example.is_empty() && key.is_required() => {
                        writeln!(out, "{} = {}", key.name, key.example)
                    }
                    Some(default) => writeln!(out, "{} = {default}", key.name),
                    None => writeln!(out, "# {} = {}", key.name, key.example),
                };
            }
        }
        out
    }

    /// The resolved run file: every key with the value that the run has used. Reads back equal.
    pub fn resolved(&self) -> String {
        let body = toml::to_string(self).unwrap_or_default();
        format!("# The run file as it was run, defaults filled in.\n\n{body}")
    }
}

impl super::Key {
    /// Keys that every run file must give.
    pub fn is_required(&self) -> bool {
        matches!((self.section, self.name), ("model", "path") | ("data", "train"))
    }
}
