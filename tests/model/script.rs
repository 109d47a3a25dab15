//! Scripts: random operations on a small tree.

use std::fmt;

use proptest::prelude::*;
use proptest::sample::select;

/// The names of every folder; the last is longer than a name may be.
pub const NAMES: usize = 5;

/// The name of a number.
pub fn name(n: usize) -> String {
    match n {
        0 => "a".to_owned(),
        1 => "b".to_owned(),
        2 => "long-".repeat(50),
        3 => "ø".repeat(127) + "1",
        _ => "x".repeat(256),
    }
}

/// A path from the top of the tree: the numbers of its names, one at least.
#[derive(Clone, PartialEq, Eq)]
pub struct Path(pub Vec<usize>);

impl Path {
    /// The folder's path, and the name in it.
    pub fn split(&self) -> (&[usize], usize) {
        let (last, folder) = self.0.split_last().expect("a path has a name");
        (folder, *last)
    }

    /// Whether the other path leads into this one.
    pub fn is_above(&self, other: &Self) -> bool {
        other.0.len() > self.0.len() && other.0.starts_with(&self.0)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(|n| name(*n)).collect();
        f.write_str(&names.join("/"))
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = ["a", "b", "LONG", "LONG2", "TOO-LONG"];
        let names: Vec<&str> = self.0.iter().map(|n| names[*n]).collect();
        f.write_str(&names.join("/"))
    }
}

/// A descriptor that stays open from one operation to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Handle {
    /// Of a regular file, for reading and writing.
    File(usize),
    /// Of a folder.
    Dir,
}

/// How many files may be open at once.
pub const FILES: usize = 2;

/// What an operation works on.
#[derive(Clone, Debug)]
pub enum Place {
    At(Path),
    Open(Handle),
}

/// What rename(2) does about an entry that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    Over,
    Never,
    Exchange,
}

/// What setxattr(2) does about an attribute that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    Any,
    Create,
    Replace,
}

/// One operation. Symbolic links lead nowhere: what follows one ends with ENOENT.
#[derive(Clone, Debug)]
pub enum Op {
    Mkdir(Path, u32),
    /// open(2) with O_CREAT | O_EXCL, and close(2).
    Create(Path, u32),
    /// To a target of this length.
    Symlink(Path, usize),
    Readlink(Path),
    Link(Path, Path),
    Unlink(Path),
    Rmdir(Path),
    Rename(Path, Path, Replace),
    /// What was open there is closed where this succeeds.
    Open(Handle, Path),
    Close(Handle),
    /// pwrite(2) of so many bytes of one value.
    Write(Place, u64, usize, u8),
    Read(Place, u64, usize),
    Truncate(Place, u64),
    /// fallocate(2) with PUNCH_HOLE.
    Punch(Place, u64, u64),
    Sync(Place),
    /// fsync(2) of a folder.
    SyncDir(Path),
    Chmod(Place, u32),
    /// An attribute by its number, with a value of this length.
    SetXattr(Place, usize, usize, Set),
    GetXattr(Place, usize),
    ListXattr(Place),
    RemoveXattr(Place, usize),
    Stat(Place),
    /// The kernel forgets every inode that nothing holds.
    Forget,
}

/// How many extended attributes there are.
const ATTRIBUTES: usize = 5;

/// The extended attribute of a number.
pub fn attribute(n: usize) -> &'static str {
    ["user.a", "user.b", "user.c", "user.d", "user.e"][n]
}

/// The target of this length of a symbolic link. There is nothing there.
pub fn target(len: usize) -> String {
    let mut target = "nowhere/".repeat(len / 8 + 2);
    target.truncate(len);
    target
}

/// The few names of folders have many operations meet.
fn folder() -> impl Strategy<Value = usize> {
    prop_oneof![4 => Just(0), 2 => Just(1), 2 => Just(2)]
}

fn path() -> impl Strategy<Value = Path> {
    let name = || prop_oneof![38 => 0usize..3, 8 => Just(3), 1 => Just(NAMES - 1)];
    prop_oneof![
        6 => name().prop_map(|a| Path(vec![a])),
        4 => (folder(), name()).prop_map(|(a, b)| Path(vec![a, b])),
        1 => (folder(), folder(), name()).prop_map(|(a, b, c)| Path(vec![a, b, c])),
    ]
}

fn handle() -> impl Strategy<Value = Handle> {
    prop_oneof![3 => (0..FILES).prop_map(Handle::File), 1 => Just(Handle::Dir)]
}

/// Where content is.
fn content() -> impl Strategy<Value = Place> {
    let open = (0..FILES).prop_map(|n| Place::Open(Handle::File(n)));
    prop_oneof![2 => path().prop_map(Place::At), 1 => open]
}

/// What has attributes.
fn anything() -> impl Strategy<Value = Place> {
    prop_oneof![2 => path().prop_map(Place::At), 1 => handle().prop_map(Place::Open)]
}

/// Offsets and lengths crowd around the edges of records.
fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..20_000,
        select(vec![0, 1, 4043, 4044, 4045, 4096, 8111, 8112, 8113, 12180, 100_000]),
    ]
}

fn mode() -> impl Strategy<Value = u32> {
    select(vec![0o644, 0o755, 0o777, 0o700, 0o500, 0o000])
}

fn on_entries() -> impl Strategy<Value = Op> {
    let replace = || prop_oneof![4 => Just(Replace::Over), 1 => Just(Replace::Never), 1 => Just(Replace::Exchange)];
    // The text of a link lies on disk up to a length that the filesystem beneath sets.
    let length = || prop_oneof![1usize..200, select(vec![1000, 2500, 4000, 4095])];
    prop_oneof![
        4 => (path(), mode()).prop_map(|(p, m)| Op::Mkdir(p, m)),
        6 => (path(), mode()).prop_map(|(p, m)| Op::Create(p, m)),
        3 => (path(), length()).prop_map(|(p, l)| Op::Symlink(p, l)),
        1 => path().prop_map(Op::Readlink),
        3 => (path(), path()).prop_map(|(a, b)| Op::Link(a, b)),
        3 => path().prop_map(Op::Unlink),
        3 => path().prop_map(Op::Rmdir),
        12 => (path(), path(), replace()).prop_map(|(a, b, how)| Op::Rename(a, b, how)),
        6 => (handle(), path()).prop_map(|(h, p)| Op::Open(h, p)),
        1 => handle().prop_map(Op::Close),
        1 => path().prop_map(Op::SyncDir),
        1 => Just(Op::Forget),
    ]
}

fn on_content() -> impl Strategy<Value = Op> {
    let len = || prop_oneof![1usize..100, Just(4044), Just(4068), 1usize..12_000];
    prop_oneof![
        5 => (content(), offset(), len(), 1u8..).prop_map(|(p, o, l, v)| Op::Write(p, o, l, v)),
        3 => (content(), offset(), len()).prop_map(|(p, o, l)| Op::Read(p, o, l)),
        2 => (content(), offset()).prop_map(|(p, o)| Op::Truncate(p, o)),
        2 => (content(), offset(), offset()).prop_map(|(p, o, l)| Op::Punch(p, o, l + 1)),
        1 => content().prop_map(Op::Sync),
    ]
}

/// The most that a script sets.
#[derive(Clone, Copy, Debug)]
pub enum Values {
    /// What ext4 has room for.
    Small,
    /// More than lies together in one attribute on disk.
    Large,
}

/// Lengths of values.
fn lengths(values: Values) -> BoxedStrategy<usize> {
    let small = 0usize..300;
    match values {
        Values::Small => prop_oneof![4 => small, 1 => 300usize..700].boxed(),
        Values::Large => prop_oneof![
            4 => small,
            3 => 300usize..2000,
            2 => select(vec![2600, 3500, 3985, 3990, 3992, 4000, 9000]),
        ]
        .boxed(),
    }
}

fn on_attributes(values: Values) -> impl Strategy<Value = Op> {
    let number = || 0..ATTRIBUTES;
    let set = || select(vec![Set::Any, Set::Create, Set::Replace]);
    prop_oneof![
        3 => (anything(), mode()).prop_map(|(p, m)| Op::Chmod(p, m)),
        5 => (anything(), number(), lengths(values), set())
            .prop_map(|(p, n, len, how)| Op::SetXattr(p, n, len, how)),
        3 => (anything(), number()).prop_map(|(p, n)| Op::GetXattr(p, n)),
        1 => anything().prop_map(Op::ListXattr),
        2 => (anything(), number()).prop_map(|(p, n)| Op::RemoveXattr(p, n)),
        1 => anything().prop_map(Op::Stat),
    ]
}

/// A script: some folders and files to begin with, then anything.
pub fn scripts(values: Values) -> impl Strategy<Value = Vec<Op>> {
    let folder = prop_oneof![
        3 => folder().prop_map(|a| Path(vec![a])),
        1 => (folder(), folder()).prop_map(|(a, b)| Path(vec![a, b])),
    ];
    let file = (path(), 0..FILES)
        .prop_map(|(p, n)| vec![Op::Create(p.clone(), 0o644), Op::Open(Handle::File(n), p)]);
    let any = prop_oneof![6 => on_entries(), 3 => on_content(), 2 => on_attributes(values)];
    let folders = prop::collection::vec(folder.prop_map(|p| Op::Mkdir(p, 0o755)), 0..5);
    let files = prop::collection::vec(file, 0..3);
    let rest = prop::collection::vec(any, 1..120);
    (folders, files, rest)
        .prop_map(|(folders, files, rest)| [folders, files.concat(), rest].concat())
}
