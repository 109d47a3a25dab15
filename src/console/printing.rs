//! Lines for the user. `println!` and `eprintln!` panic when nobody reads on (`kmsfs info | head`)
//! or the disk of a log is full. What a line says may come from a store, a KMS or another process:
//! each is escaped here, so that nothing of it steers a terminal or looks like a line of its own.

use std::fmt::Arguments;
use std::io::{self, Write};
use std::process;

use super::failure::Exit;
use crate::escape::escape;

/// A line on stdout: results.
macro_rules! say {
    ($($text:tt)*) => { $crate::console::printing::line(format_args!($($text)*)) };
}

/// A line on stderr: everything else.
macro_rules! tell {
    ($($text:tt)*) => { $crate::console::printing::remark(format_args!($($text)*)) };
}

/// A question on stderr, without a newline.
macro_rules! question {
    ($($text:tt)*) => { $crate::console::printing::ask(format_args!($($text)*)) };
}

pub(crate) use {question, say, tell};

/// A line with its newline, to be written at once: lines of several threads stay apart.
fn one_line(text: Arguments<'_>) -> Vec<u8> {
    let mut line = escape(&text.to_string()).into_owned().into_bytes();
    line.push(b'\n');
    line
}

/// Writes a result.
pub(crate) fn line(text: Arguments<'_>) {
    result(&one_line(text));
}

/// Where a result cannot be written the process ends: quietly when the reader has gone, as
/// programs do.
fn result(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    if let Err(e) = out.write_all(bytes).and_then(|()| out.flush()) {
        if e.kind() != io::ErrorKind::BrokenPipe {
            remark(format_args!("kmsfs: the result cannot be written: {e}"));
        }
        process::exit(i32::from(Exit::Failed as u8));
    }
}

/// Writes a text of this program's own, of many lines, as it is.
pub(crate) fn verbatim(text: &str) {
    result(text.as_bytes());
}

/// Writes a question.
pub(crate) fn ask(text: Arguments<'_>) {
    let mut err = io::stderr().lock();
    let _ = err.write_all(escape(&text.to_string()).as_bytes()).and_then(|()| err.flush());
}

/// Writes a remark. Where nobody takes it there is nobody to tell.
pub(crate) fn remark(text: Arguments<'_>) {
    let _ = io::stderr().lock().write_all(&one_line(text));
}
