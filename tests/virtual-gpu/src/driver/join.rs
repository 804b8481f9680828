//! Several PTX texts made one text: what the linker does.

use std::collections::{BTreeMap, BTreeSet};

use super::link::Input;

/// Why texts do not go together.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    #[error("linking: nothing was added")]
    Nothing,
    #[error("linking: `{name}` is defined in {first} and in {second}; one of them must go")]
    Twice { name: String, first: String, second: String },
    #[error(
        "linking: `{name}` is declared in {input} and defined nowhere; add the text that has it"
    )]
    Missing { name: String, input: String },
}

/// A piece of a text at its outer level: a directive, a variable or a function.
#[derive(Debug)]
struct Item<'a> {
    text: &'a str,
    kind: ItemKind,
    name: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ItemKind {
    /// `.version`, `.target`, `.address_size`: once for the whole.
    Header,
    /// `.extern`, or a function without a body.
    Declaration,
    Weak,
    Visible,
    Internal,
    /// `.file`, `.section` and what else there is.
    Other,
}

/// The text that all texts make together.
///
/// # Errors
/// See [`JoinError`].
pub fn join(inputs: &[Input]) -> Result<String, JoinError> {
    let (first, rest) = inputs.split_first().ok_or(JoinError::Nothing)?;
    if rest.is_empty() {
        return Ok(first.text.clone());
    }
    let texts: Vec<Vec<Item>> = inputs.iter().map(|input| items(&input.text)).collect();

    // Definitions that other texts see, with the text they are in.
    let mut defined: BTreeMap<&str, (usize, ItemKind)> = BTreeMap::new();
    for (which, items) in texts.iter().enumerate() {
        for item in items {
            if !matches!(item.kind, ItemKind::Weak | ItemKind::Visible) {
                continue;
            }
            match defined.get(item.name) {
                Some((other, ItemKind::Visible)) if item.kind == ItemKind::Visible => {
                    return Err(JoinError::Twice {
                        name: item.name.to_string(),
                        first: inputs[*other].name.clone(),
                        second: inputs[which].name.clone(),
                    });
                }
                // A definition that is not weak wins.
                Some((_, ItemKind::Visible)) => {}
                Some(_) if item.kind == ItemKind::Weak => {}
                _ => {
                    defined.insert(item.name, (which, item.kind));
                }
            }
        }
    }

    let mut taken: BTreeSet<&str> = defined.keys().copied().collect();
    let mut headers = String::new();
    let mut declarations = String::new();
    let mut bodies = String::new();
    let mut declared = BTreeSet::new();
    for (which, items) in texts.iter().enumerate() {
        let mut renamed = BTreeMap::new();
        for item in items.iter().filter(|item| item.kind == ItemKind::Internal) {
            if !taken.insert(item.name) {
                renamed.insert(item.name, format!("{}$link{which}", item.name));
            }
        }
        bodies.push_str(&format!("\n// linked: {}\n", inputs[which].name.replace('\n', " ")));
        for item in items {
            match item.kind {
                ItemKind::Header if which == 0 => headers.push_str(item.text),
                ItemKind::Header => {}
                ItemKind::Declaration if defined.contains_key(item.name) => {
                    // Functions may be called before their definition comes: it is declared once, first.
                    let function = item.text.contains(".func");
                    if function && declared.insert(item.name) {
                        declarations.push_str(&item.text.replace(".extern", ""));
                    }
                }
                // Dynamic shared memory has no definition.
                ItemKind::Declaration if item.text.contains(".shared") => {
                    if declared.insert(item.name) {
                        declarations.push_str(item.text);
                    }
                }
                // Functions of the system, which the machine itself has.
                ItemKind::Declaration if SYSTEM.contains(&item.name) => {
                    if declared.insert(item.name) {
                        declarations.push_str(item.text);
                    }
                }
                // Declared before its definition in the same text, for that text alone.
                ItemKind::Declaration if !item.text.contains(".extern") => {
                    bodies.push_str(&rename(item.text, &renamed));
                }
                ItemKind::Declaration => {
                    return Err(JoinError::Missing {
                        name: item.name.to_string(),
                        input: inputs[which].name.clone(),
                    });
                }
                ItemKind::Weak | ItemKind::Visible
                    if defined.get(item.name) != Some(&(which, item.kind)) => {}
                _ => bodies.push_str(&rename(item.text, &renamed)),
            }
        }
    }
    Ok(format!("{headers}\n{declarations}\n{bodies}"))
}

/// What kernels call and no text defines.
const SYSTEM: [&str; 4] = ["vprintf", "__assertfail", "malloc", "free"];

/// The pieces of a text.
fn items(text: &str) -> Vec<Item<'_>> {
    let bytes = text.as_bytes();
    let mut items = Vec::new();
    let (mut start, mut at, mut depth) = (0, 0, 0);
    while at < bytes.len() {
        let rest = &text[at..];
        if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
            continue;
        }
        if rest.starts_with("/*") {
            at += rest.find("*/").map_or(rest.len(), |end| end + 2);
            continue;
        }
        let head = text[start..at].trim_start();
        match bytes[at] {
            b'"' => {
                at += 1 + rest[1..].find('"').unwrap_or(rest.len() - 1);
            }
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                // An initialiser's brace is followed by its semicolon.
                if depth == 0 && is_code(head) {
                    items.push(item(&text[start..=at]));
                    start = at + 1;
                }
            }
            b';' if depth == 0 => {
                items.push(item(&text[start..=at]));
                start = at + 1;
            }
            b'\n' if depth == 0 && is_line(&without_comments(head)) => {
                items.push(item(&text[start..=at]));
                start = at + 1;
            }
            _ => {}
        }
        at += text[at..].chars().next().map_or(1, char::len_utf8);
    }
    items
}

/// Directives that end with their line.
fn is_line(head: &str) -> bool {
    let head = head.trim();
    [".version", ".target", ".address_size", ".file"].iter().any(|name| head.starts_with(name))
}

/// Whether braces that end here are those of a function or a section.
fn is_code(head: &str) -> bool {
    let head = without_comments(head);
    let head = head.split('{').next().unwrap_or_default();
    [".func", ".entry", ".section"].iter().any(|word| head.split_whitespace().any(|w| w == *word))
}

fn without_comments(text: &str) -> String {
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

fn item(text: &str) -> Item<'_> {
    let clean = without_comments(text);
    let head = clean.trim_start();
    let has_body = clean.contains('{');
    let words: Vec<&str> = head.split_whitespace().take(4).collect();
    let word = |name: &str| words.contains(&name);
    let function = is_code(&clean) && !head.starts_with(".section");
    let variable =
        [".global", ".const", ".shared"].iter().any(|space| words.iter().any(|w| w == space));
    let kind = if is_line(head) && !head.starts_with(".file") {
        ItemKind::Header
    } else if !function && !variable {
        ItemKind::Other
    } else if word(".extern") || (function && !has_body) {
        ItemKind::Declaration
    } else if word(".weak") || word(".common") {
        ItemKind::Weak
    } else if word(".visible") || word(".entry") {
        ItemKind::Visible
    } else {
        ItemKind::Internal
    };
    let name = if function { function_name(text) } else { variable_name(text) };
    Item { text, kind, name }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%')
}

/// The name after `.func` or `.entry`, and after the list of what it returns.
fn function_name(text: &str) -> &str {
    let after = [".func", ".entry"]
        .iter()
        .filter_map(|word| text.find(word).map(|at| &text[at + word.len()..]))
        .next()
        .unwrap_or_default()
        .trim_start();
    let after = match after.strip_prefix('(') {
        Some(returns) => returns.split_once(')').map_or("", |(_, after)| after),
        None => after,
    };
    let after = after.trim_start();
    &after[..after.find(|c| !is_name(c)).unwrap_or(after.len())]
}

/// The last name before a variable's brackets, its value or its end.
fn variable_name(text: &str) -> &str {
    let head = text.split(['[', '=', ';']).next().unwrap_or_default().trim_end();
    &head[head.rfind(|c| !is_name(c)).map_or(0, |at| at + 1)..]
}

/// The text with names replaced where they stand as words.
fn rename(text: &str, names: &BTreeMap<&str, String>) -> String {
    if names.is_empty() {
        return text.to_string();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_name) {
        out.push_str(&rest[..start]);
        let word = &rest[start..];
        let word = &word[..word.find(|c| !is_name(c)).unwrap_or(word.len())];
        out.push_str(names.get(word).map_or(word, String::as_str));
        rest = &rest[start + word.len()..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(name: &str, text: &str) -> Input {
        Input { name: name.to_string(), text: text.to_string() }
    }

    const CALLER: &str = "\
.version 8.1
.target sm_80
.address_size 64
.extern .func (.param .b32 out) twice (.param .b32 x);
.global .align 4 .b8 table[4] = {1, 2, 3, 4};
.func (.param .b32 out) helper (.param .b32 x) { /* } */ ret; }
.visible .entry caller(.param .u64 p)
{
    call (out), twice, (x); // }
    call (out), helper, (x);
    mov.u64 %rd1, table;
}
";
    const CALLED: &str = "\
.version 8.1
.target sm_80
.address_size 64
.global .align 4 .b8 table[4];
.visible .func (.param .b32 out) twice (.param .b32 x)
{
    mov.u64 %rd1, table;
    call (out), helper, (x);
    ret;
}
.func (.param .b32 out) helper (.param .b32 x)
{
    ret;
}
";

    #[test]
    fn a_single_text_is_itself() {
        assert_eq!(join(&[input("a", CALLER)]).unwrap(), CALLER);
        assert_eq!(join(&[]), Err(JoinError::Nothing));
    }

    #[test]
    fn pieces_and_their_names() {
        let found: Vec<(&str, ItemKind)> =
            items(CALLER).iter().map(|item| (item.name, item.kind)).collect();
        assert_eq!(
            found[3..],
            [
                ("twice", ItemKind::Declaration),
                ("table", ItemKind::Internal),
                ("helper", ItemKind::Internal),
                ("caller", ItemKind::Visible),
            ]
        );
        assert!(found[..3].iter().all(|(_, kind)| *kind == ItemKind::Header));
    }

    #[test]
    fn names_that_meet_are_told_apart() {
        let text = join(&[input("caller.ptx", CALLER), input("called.ptx", CALLED)]).unwrap();
        assert_eq!(text.matches(".version").count(), 1);
        assert_eq!(text.matches(".extern").count(), 0);
        assert!(text.contains("table$link1[4]"), "{text}");
        assert!(text.contains("mov.u64 %rd1, table$link1;"), "{text}");
        assert!(text.contains("mov.u64 %rd1, table;"), "{text}");
        assert!(text.contains("call (out), helper$link1, (x);"), "{text}");
        assert!(text.contains("call (out), twice, (x);"), "{text}");
    }

    #[test]
    fn what_is_missing_or_there_twice_is_named() {
        let caller = || input("caller.ptx", CALLER);
        assert_eq!(
            join(&[caller(), input("other.ptx", ".version 8.1\n")]),
            Err(JoinError::Missing { name: "twice".into(), input: "caller.ptx".into() })
        );
        let called = || input("called.ptx", CALLED);
        assert_eq!(
            join(&[caller(), called(), input("again.ptx", CALLED)]),
            Err(JoinError::Twice {
                name: "twice".into(),
                first: "called.ptx".into(),
                second: "again.ptx".into()
            })
        );
    }

    #[test]
    fn of_weak_ones_the_first_stays_and_gives_way_to_another() {
        let weak = |n: u32| format!(".version 8.1\n.weak .func w() {{ mov.u32 %r1, {n}; }}\n");
        let text = join(&[input("1", &weak(1)), input("2", &weak(2))]).unwrap();
        assert!(text.contains("%r1, 1;") && !text.contains("%r1, 2;"), "{text}");
        let strong = ".version 8.1\n.visible .func w() { mov.u32 %r1, 3; }\n";
        let text = join(&[input("1", &weak(1)), input("3", strong)]).unwrap();
        assert!(text.contains("%r1, 3;") && !text.contains("%r1, 1;"), "{text}");
    }
}
