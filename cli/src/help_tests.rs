//! Every `--help` has examples, and they can be typed as they stand; `docs/CLI.md` names every command.

use clap::{Command, CommandFactory};

use super::Args;

const DOC: &str = include_str!("../../docs/CLI.md");

/// Every command, with the words that call it.
fn walk(command: &Command, words: &str, seen: &mut Vec<(String, Command)>) {
    seen.push((words.to_owned(), command.clone()));
    for one in command.get_subcommands() {
        walk(one, &format!("{words} {}", one.get_name()), seen);
    }
}

fn all() -> Vec<(String, Command)> {
    let mut seen = Vec::new();
    walk(&Args::command(), "postroad", &mut seen);
    seen
}

/// The lines between "Examples:" and the next empty one.
fn examples(command: &Command) -> Vec<String> {
    let help = command
        .get_after_long_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    let Some((_, examples)) = help.split_once("Examples:\n") else {
        return Vec::new();
    };
    let is_example = |line: &&str| line.starts_with("  ");
    examples
        .lines()
        .take_while(is_example)
        .map(str::to_owned)
        .collect()
}

/// The words of `postroad` in a line of a shell: without what stands before it, after it, or is a
/// remark behind three spaces.
fn words(line: &str) -> Vec<String> {
    let line = line.trim();
    let line = line.split("   ").next().unwrap_or(line);
    let (mut words, mut word, mut quote) = (vec![], None::<String>, None);
    for c in line.chars() {
        match (c, quote) {
            (c, Some(end)) if c == end => quote = None,
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (' ', None) => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    assert_eq!(quote, None, "a quote is open in {line}");
    words.extend(word);
    let start = words.iter().position(|word| word == "postroad");
    let words = &words[start.unwrap_or_else(|| panic!("no postroad in {line}"))..];
    let ends = |word: &String| ["|", ">", ">>", "&&"].contains(&word.as_str());
    let end = words.iter().position(ends).unwrap_or(words.len());
    words[..end].to_vec()
}

#[test]
fn the_commands_are_well_formed() {
    Args::command().debug_assert();
}

#[test]
fn every_help_has_examples_that_parse() {
    for (name, command) in all() {
        let examples = examples(&command);
        assert!(!examples.is_empty(), "`{name} --help` has no examples");
        for line in examples {
            let words = words(&line);
            let parsed = Args::command().try_get_matches_from(&words);
            assert!(
                parsed.is_ok(),
                "`{name}`: {words:?}: {}",
                parsed.unwrap_err()
            );
        }
    }
}

#[test]
fn every_example_of_a_command_is_one_of_that_command() {
    for (name, command) in all() {
        // A group shows what is in it.
        for line in examples(&command) {
            let line = words(&line).join(" ");
            assert!(line.starts_with(&name), "`{name}` shows `{line}`");
        }
    }
}

#[test]
fn the_document_names_every_command_and_no_other() {
    let documented: Vec<_> = DOC
        .lines()
        .filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'))
        .map(|call| {
            let is_name = |word: &&str| {
                word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-')
            };
            call.split(' ')
                .take_while(is_name)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    let is_leaf = |command: &Command| command.get_subcommands().next().is_none();
    let mut commands: Vec<_> = all()
        .into_iter()
        .filter(|(_, command)| is_leaf(command))
        .map(|(name, _)| name)
        .collect();
    let mut documented = documented;
    commands.sort_unstable();
    documented.sort_unstable();
    assert_eq!(documented, commands);
}

#[test]
fn every_exit_code_is_documented() {
    let help = Args::command()
        .get_after_long_help()
        .map(ToString::to_string)
        .unwrap();
    for code in ["0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "78 "] {
        assert!(help.contains(code), "{code} in {help}");
        assert!(DOC.contains(&format!("| {code}|")), "{code} in docs/CLI.md");
    }
}
