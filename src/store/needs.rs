//! What a store asks of the filesystem that it lies on, tried out before one is made there.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;

use super::Names;
use super::layout::lock_folder;
use crate::disk::{Dir, Open, Range, Replace, XattrHow};
use crate::names;
use crate::secret::random_bytes;

/// Something that a filesystem does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Permissions: others could enter the store.
    Modes,
    /// Names that differ in the case of letters alone.
    Case,
    /// Symbolic links, which directory ids and long names are kept in.
    Symlinks,
    /// Inode numbers that stay.
    Numbers,
    /// A rename that replaces another file.
    Replacing,
    /// flock(2) of a folder.
    Locks,
    /// fsync(2) of a folder, or syncfs(2).
    Syncing,
    /// Files that are open and have no name any more.
    Unlinked,
    /// Files that are made longer than what is written to them.
    Growing,
    /// Entries long enough for names of 255 bytes.
    Names {
        /// The longest name that works.
        longest: usize,
    },
    /// Hard links.
    HardLinks,
    /// Attributes (xattr(7)) of a user's.
    Attributes,
    /// Named pipes and sockets.
    Pipes,
    /// fallocate(2).
    Allocating,
    /// A rename that replaces nothing (RENAME_NOREPLACE).
    NotReplacing,
}

impl Lack {
    /// Whether there can be no store without it.
    pub fn is_needed(self, names: Names) -> bool {
        match self {
            Self::Modes
            | Self::Numbers
            | Self::Replacing
            | Self::Locks
            | Self::Syncing
            | Self::Unlinked
            | Self::Growing => true,
            Self::Case | Self::Symlinks => names == Names::Encrypted,
            Self::Names { longest } => longest == 0,
            Self::HardLinks
            | Self::Attributes
            | Self::Pipes
            | Self::Allocating
            | Self::NotReplacing => false,
        }
    }
}

/// What is missing, for a sentence.
impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Modes => "permissions (mode 0700 does not keep others out)",
            Self::Case => "names that differ in upper and lower case alone",
            Self::Symlinks => "symbolic links",
            Self::Numbers => "inode numbers that stay",
            Self::Replacing => "renames that replace a file",
            Self::Locks => "locks of folders (flock)",
            Self::Syncing => "fsync of folders and syncfs",
            Self::Unlinked => "files that are open and have no name any more",
            Self::Growing => "files longer than what is written to them",
            Self::Names { longest } => return write!(f, "names of more than {longest} bytes"),
            Self::HardLinks => "hard links",
            Self::Attributes => "extended attributes",
            Self::Pipes => "named pipes",
            Self::Allocating => "fallocate",
            Self::NotReplacing => "renames that must not replace (RENAME_NOREPLACE)",
        })
    }
}

/// Tries out in this folder what a store there would need, and leaves nothing behind.
///
/// # Errors
/// Of the filesystem, where that does not say what it lacks: a full disk, say.
pub fn lacks(top: &Dir, names: Names) -> io::Result<Vec<Lack>> {
    let name =
        OsString::from(format!("trial-{}", data_encoding::HEXLOWER.encode(&random_bytes::<6>())));
    top.mkdir(&name, 0o700)?;
    let tried = top.open_dir(&name).and_then(|within| {
        let tried = Trial(&within).all(names);
        let cleared = clear(&within);
        tried.and_then(|lacks| cleared.map(|()| lacks))
    });
    let removed = top.rmdir(&name);
    tried.and_then(|lacks| removed.map(|()| lacks))
}

fn clear(folder: &Dir) -> io::Result<()> {
    crate::disk::names(&**folder)?.iter().try_for_each(|name| folder.unlink(name))
}

/// Whether a filesystem says that it cannot do something at all.
fn is_refusal(e: &io::Error) -> bool {
    let refusals = [
        libc::EPERM,
        libc::EOPNOTSUPP,
        libc::ENOSYS,
        libc::ENOTTY,
        libc::EINVAL,
        libc::EBADF,
        libc::ENAMETOOLONG,
        libc::ENOLCK,
        libc::EMLINK,
    ];
    e.raw_os_error().is_some_and(|code| refusals.contains(&code))
}

/// Where it is tried.
struct Trial<'a>(&'a Dir);

impl Trial<'_> {
    fn all(&self, names: Names) -> io::Result<Vec<Lack>> {
        let tries: [(Lack, io::Result<bool>); 14] = [
            (Lack::Modes, self.has_modes()),
            (Lack::Case, self.has_case()),
            (Lack::Symlinks, self.has_symlinks()),
            (Lack::Numbers, self.has_numbers()),
            (Lack::Replacing, self.replaces()),
            (Lack::Locks, lock_folder(self.0).map(|_| true)),
            (Lack::Syncing, self.0.sync().and_then(|()| self.0.sync_filesystem()).map(|()| true)),
            (Lack::Unlinked, self.keeps_unlinked()),
            (Lack::Growing, self.grows()),
            (Lack::HardLinks, self.has_hard_links()),
            (Lack::Attributes, self.has_attributes()),
            (
                Lack::Pipes,
                self.0.mknod(OsStr::new("pipe"), libc::S_IFIFO | 0o600, 0).map(|()| true),
            ),
            (Lack::Allocating, self.allocates()),
            (Lack::NotReplacing, self.keeps_from_replacing()),
        ];
        let mut lacks = Vec::new();
        for (lack, tried) in tries {
            match tried {
                Ok(true) => {}
                Ok(false) => lacks.push(lack),
                Err(e) if is_refusal(&e) => lacks.push(lack),
                Err(e) => return Err(e),
            }
        }
        lacks.extend(self.names(names)?);
        Ok(lacks)
    }

    fn file(&self, name: &str) -> io::Result<crate::disk::File> {
        self.0.open(OsStr::new(name), Open::Create(0o600))
    }

    fn has_modes(&self) -> io::Result<bool> {
        Ok(self.0.stat_self()?.mode & 0o777 == 0o700 && self.file("mode")?.mode()? & 0o777 == 0o600)
    }

    fn has_case(&self) -> io::Result<bool> {
        self.file("Case")?;
        match self.0.stat(OsStr::new("cASE")) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(true),
            found => found.map(|_| false),
        }
    }

    fn has_symlinks(&self) -> io::Result<bool> {
        let (name, target) = (OsStr::new(".link"), "0123456789abcdef".repeat(2));
        self.0.symlink(name, OsStr::new(&target))?;
        Ok(*self.0.readlink(name)? == *target)
    }

    fn has_numbers(&self) -> io::Result<bool> {
        let opened = self.file("number")?.stat()?.ino;
        Ok(opened == self.0.stat(OsStr::new("number"))?.ino)
    }

    fn replaces(&self) -> io::Result<bool> {
        self.file("old")?.write_at(b"old", 0)?;
        self.file("new")?.write_at(b"new", 0)?;
        self.0.rename(OsStr::new("new"), &**self.0, OsStr::new("old"), Replace::Over)?;
        Ok(crate::disk::read_all(&**self.0, OsStr::new("old"), 9)? == b"new")
    }

    fn keeps_from_replacing(&self) -> io::Result<bool> {
        self.file("first")?;
        self.file("second")?;
        let (first, second) = (OsStr::new("first"), OsStr::new("second"));
        match self.0.rename(first, &**self.0, second, Replace::Never) {
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(true),
            done => done.map(|()| false),
        }
    }

    fn keeps_unlinked(&self) -> io::Result<bool> {
        let file = self.file("unlinked")?;
        file.write_at(b"there", 0)?;
        self.0.unlink(OsStr::new("unlinked"))?;
        let mut bytes = [0; 5];
        Ok(file.read_at(&mut bytes, 0)? == 5 && bytes == *b"there" && file.stat()?.nlink == 0)
    }

    fn grows(&self) -> io::Result<bool> {
        let file = self.file("grown")?;
        file.set_size(1 << 20)?;
        let mut byte = [1; 1];
        Ok(file.size()? == 1 << 20 && file.read_at(&mut byte, 99_999)? == 1 && byte == [0])
    }

    fn has_hard_links(&self) -> io::Result<bool> {
        self.file("linked")?;
        self.0.link(OsStr::new("linked"), &**self.0, OsStr::new("link"))?;
        Ok(self.0.stat(OsStr::new("link"))?.nlink == 2)
    }

    fn has_attributes(&self) -> io::Result<bool> {
        let (file, name) = (self.file("attribute")?, OsStr::new("user.kmsfs.trial"));
        file.set_xattr(name, b"value", XattrHow::Any)?;
        Ok(file.xattr(name)? == b"value")
    }

    fn allocates(&self) -> io::Result<bool> {
        let file = self.file("allocated")?;
        file.write_at(&[1; 8192], 0)?;
        file.range(Range::Reserve, 0, 8192)?;
        file.range(Range::Punch, 0, 4096)?;
        let mut byte = [1; 1];
        Ok(file.read_at(&mut byte, 0)? == 1 && byte == [0])
    }

    /// The filesystem is not believed of what it says of its names.
    fn names(&self, names: Names) -> io::Result<Option<Lack>> {
        let (mut fits, mut too_long) = (0, 256);
        while too_long - fits > 1 {
            let len = (fits + too_long) / 2;
            match self.file(&"n".repeat(len)) {
                Ok(_) => fits = len,
                Err(e) if is_refusal(&e) => too_long = len,
                Err(e) => return Err(e),
            }
        }
        let longest = match names {
            Names::Encrypted => names::longest_within(fits),
            Names::Plain => fits,
        };
        Ok((longest < 255).then_some(Lack::Names { longest }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk;
    use crate::disk::sim::Sim;

    #[test]
    fn a_filesystem_with_everything_lacks_nothing_and_is_left_as_it_was() {
        let folder = tempfile::tempdir().expect("a folder");
        for top in [disk::open_dir(folder.path()).expect("opened"), Sim::new().root()] {
            for names in [Names::Encrypted, Names::Plain] {
                assert_eq!(lacks(&top, names).expect("tried"), []);
            }
            assert_eq!(disk::names(&*top).expect("listed"), [""; 0]);
        }
    }

    #[test]
    fn a_disk_that_fails_is_not_taken_for_one_that_lacks_something() {
        let whole = Sim::new();
        lacks(&whole.root(), Names::Encrypted).expect("tried");
        let mut failed = 0;
        for n in 1..whole.operations() {
            let sim = Sim::new();
            sim.fail_at(n, libc::EIO);
            match lacks(&sim.root(), Names::Encrypted) {
                Ok(lacks) => assert_eq!(lacks, [], "operation {n}"),
                Err(e) => {
                    assert_eq!(e.raw_os_error(), Some(libc::EIO));
                    failed += 1;
                }
            }
        }
        assert!(failed > 40, "{failed}");
    }

    #[test]
    fn what_is_needed_differs_with_names() {
        assert!(Lack::Symlinks.is_needed(Names::Encrypted));
        assert!(!Lack::Symlinks.is_needed(Names::Plain));
        assert!(!Lack::Names { longest: 80 }.is_needed(Names::Encrypted));
        assert!(Lack::Names { longest: 0 }.is_needed(Names::Encrypted));
        assert_eq!(Lack::Names { longest: 80 }.to_string(), "names of more than 80 bytes");
    }
}
