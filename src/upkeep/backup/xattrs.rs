//! Extended attributes of an inode that is in use.

use std::ffi::{OsStr, OsString};
use std::io;

use crate::disk::{OpenFile, XattrHow};
use crate::names::XATTR_BLOCK;

/// So often they are read again that moved meanwhile.
const PASSES: u32 = 64;

type Xattrs = Vec<(OsString, Vec<u8>)>;

/// Gives a copy those of the original, and no others.
pub(super) fn copy(from: &dyn OpenFile, to: &dyn OpenFile) -> io::Result<()> {
    let wanted = read(from)?;
    for name in list(to)?.iter().filter(|name| !wanted.iter().any(|(n, _)| n == *name)) {
        to.remove_xattr(name)?;
    }
    for (name, value) in &wanted {
        if to.xattr(name).ok().as_ref() != Some(value) {
            to.set_xattr(name, value, XattrHow::Any)?;
        }
    }
    Ok(())
}

fn read(from: &dyn OpenFile) -> io::Result<Xattrs> {
    let block = || if_there(from.xattr(OsStr::new(XATTR_BLOCK)));
    settled(block, || values(from, list(from)?))
}

/// Reads all of them as they were at one moment. An attribute that moves from the attribute block
/// to a place apart, or back, is in one of the two at each moment, but whoever reads one after the
/// other can miss it in both. Each move changes the block: where that is the same before and after,
/// nothing was missed.
fn settled(
    block: impl Fn() -> io::Result<Option<Vec<u8>>>,
    mut all: impl FnMut() -> io::Result<Option<Xattrs>>,
) -> io::Result<Xattrs> {
    for _ in 0..PASSES {
        let before = block()?;
        let Some(values) = all()? else { continue };
        let now = values.iter().find(|(name, _)| name == XATTR_BLOCK).map(|(_, value)| value);
        if now == before.as_ref() {
            return Ok(values);
        }
    }
    Err(io::Error::from_raw_os_error(libc::EBUSY))
}

/// Their values; `None` where one is gone since they were listed.
fn values(from: &dyn OpenFile, names: Vec<OsString>) -> io::Result<Option<Xattrs>> {
    let value = |name: OsString| from.xattr(&name).map(|value| (name, value));
    if_there(names.into_iter().map(value).collect())
}

fn list(file: &dyn OpenFile) -> io::Result<Vec<OsString>> {
    match file.xattrs() {
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
        listed => listed,
    }
}

/// `None` for what is not there, or no longer.
fn if_there<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Ok(what) => Ok(Some(what)),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Open;
    use crate::disk::sim::Sim;

    const APART: &str = "user.kmsfs.apart";

    /// Whether the attribute that moves is there.
    fn has_it(all: &Xattrs) -> bool {
        all.iter().any(|(name, value)| name == APART || value.starts_with(b"within"))
    }

    /// It moves after the attributes were listed, and before their values are read.
    #[test]
    fn what_moves_meanwhile_is_in_the_copy() {
        let (block, apart) = (OsStr::new(XATTR_BLOCK), OsStr::new(APART));
        let sim = Sim::new();
        let file = sim.root().open(OsStr::new("f"), Open::Create(0o600)).expect("made");
        let set = |name, value: &[u8]| file.set_xattr(name, value, XattrHow::Any).expect("set");
        for is_within in [true, false] {
            // As `fs` moves it.
            let go_apart = |n: u8| {
                set(apart, b"value");
                set(block, &[b"without", &[n][..]].concat());
            };
            let go_within = |n: u8| {
                set(block, &[b"within", &[n][..]].concat());
                file.remove_xattr(apart).expect("there");
            };
            go_apart(1);
            if is_within {
                go_within(2);
            }
            let mut passes = Vec::new();
            let read = settled(
                || if_there(file.xattr(block)),
                || {
                    let names = list(&*file)?;
                    match (passes.len(), is_within) {
                        (0, true) => go_apart(3),
                        (0, false) => go_within(3),
                        _ => {}
                    }
                    let all = values(&*file, names)?;
                    passes.push(all.as_ref().is_some_and(has_it));
                    Ok(all)
                },
            );
            assert!(has_it(&read.expect("it comes to rest")));
            assert_eq!(passes, [false, true], "the first pass missed it");
        }
    }

    #[test]
    fn a_copy_has_those_of_the_original_and_no_others() {
        let sim = Sim::new();
        let open = |name| sim.root().open(OsStr::new(name), Open::Create(0o600)).expect("made");
        let (from, to) = (open("from"), open("to"));
        let set = |file: &dyn OpenFile, name: &str, value: &[u8]| {
            file.set_xattr(OsStr::new(name), value, XattrHow::Any).expect("set");
        };
        for (name, value) in [(XATTR_BLOCK, &b"a"[..]), (APART, b"b"), ("trusted.x", b"c")] {
            set(&*from, name, value);
        }
        for (name, value) in [(XATTR_BLOCK, &b"old"[..]), ("user.other", b"d")] {
            set(&*to, name, value);
        }
        copy(&*from, &*to).expect("copied");
        assert_eq!(read(&*from).expect("read"), read(&*to).expect("read"));
    }
}
