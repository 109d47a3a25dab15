//! Text that steers no terminal and fakes no line. Names, ARNs, errors of servers and answers of
//! other processes may hold any character; what is printed or logged goes through here.

use std::borrow::Cow;
use std::fmt::Write;

/// Writes each character that would not print as itself as `\uXXXX`: controls (line breaks too),
/// separators of lines, and what turns the direction of text or is not seen at all. Within JSON
/// text this is the same text.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_steering) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_steering(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// Whether a character does something else than show itself.
pub fn is_steering(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{61c}' | '\u{180e}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
        || matches!(c, '\u{e0000}'..='\u{e007f}')
}

/// Text with nothing in it that HTML, XML or an attribute would take for its own.
pub fn markup(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // XML has no form for these.
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_written_out() {
        assert_eq!(escape("\x1b[2J"), "\\u001b[2J");
        assert_eq!(escape("a\r\nkmsfs: all is well\t"), "a\\u000d\\u000akmsfs: all is well\\u0009");
        assert_eq!(escape("\u{9b}2J\u{7f}"), "\\u009b2J\\u007f");
        assert_eq!(escape("x\u{202e}txt.exe\u{2066}"), "x\\u202etxt.exe\\u2066");
        assert_eq!(escape("\u{e0041}"), "\\udb40\\udc41");
        let plain = "größe 大 € \\ \"quoted\" é";
        assert!(matches!(escape(plain), Cow::Borrowed(same) if same == plain));
    }

    #[test]
    fn what_would_be_markup_is_text() {
        assert_eq!(
            markup("<a href=\"x\">'&\u{1}"),
            "&lt;a href=&quot;x&quot;&gt;&#39;&amp;\u{fffd}"
        );
    }

    #[test]
    fn json_means_the_same_afterwards() {
        let value = serde_json::json!({"a\u{9b}": "x\u{202e}\u{e0041}\u{7f}\x1b\n"});
        let text = value.to_string();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escape(&text)).ok(), Some(value));
        assert!(!escape(&text).contains(is_steering));
    }
}
