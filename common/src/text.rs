//! Texts from outside, made fit for an error: those end in logs and on terminals.

/// What is kept of a text that an error repeats.
const CHARS_MAX: usize = 400;

/// The start of a text on one line, without what moves the cursor or turns the writing around.
/// Quotes stay as they are: unlike in a literal, nothing here depends on them.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(CHARS_MAX));
    let mut chars = text.chars();
    for c in chars.by_ref().take(CHARS_MAX) {
        match c {
            '"' | '\'' | '\\' => line.push(c),
            _ => line.extend(c.escape_debug()),
        }
    }
    if chars.next().is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_the_cursor_is_escaped_and_what_is_long_is_cut() {
        assert_eq!(
            one_line("plain `x` \"y\" \\ grün 😀"),
            "plain `x` \"y\" \\ grün 😀"
        );
        assert_eq!(one_line("a\r\n\0\u{1b}[2J"), r"a\r\n\0\u{1b}[2J");
        assert_eq!(one_line("\u{202e}\u{200b}"), r"\u{202e}\u{200b}");
        let long = one_line(&"x".repeat(CHARS_MAX + 1));
        assert_eq!(long, "x".repeat(CHARS_MAX) + "…");
    }
}
