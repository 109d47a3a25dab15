//! What the programs do, one kind of access a row. Pure.

/// One kind of access that a program tries on and on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    /// Appends a numbered line and fsyncs it.
    Writer,
    /// pread(2) on a descriptor that was open all along.
    Descriptor,
    /// Reads a memory map.
    Map,
    /// Opens a file anew and reads it.
    Open,
    /// Lists the mount.
    ReadDir,
    /// Looks a name up that was never looked up before.
    Stat,
    /// Transactions of pgbench.
    Pgbench,
    /// Opens a file whose key the mount does not have.
    Cold,
}

impl Row {
    /// Every row, in the order of display.
    pub const ALL: [Self; 8] = [
        Self::Writer,
        Self::Descriptor,
        Self::Map,
        Self::Open,
        Self::ReadDir,
        Self::Stat,
        Self::Pgbench,
        Self::Cold,
    ];

    /// Those of the programs that are at work from the beginning.
    pub const PROGRAMS: [Self; 6] =
        [Self::Writer, Self::Descriptor, Self::Map, Self::Open, Self::ReadDir, Self::Stat];

    /// One word, as printed and as the programs say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Writer => "writer",
            Self::Descriptor => "descriptor",
            Self::Map => "map",
            Self::Open => "open",
            Self::ReadDir => "readdir",
            Self::Stat => "stat",
            Self::Pgbench => "pgbench",
            Self::Cold => "cold",
        }
    }

    /// What it does, for the report.
    pub fn title(self) -> &'static str {
        match self {
            Self::Writer => "appends a numbered line, fsync",
            Self::Descriptor => "pread, descriptor open all along",
            Self::Map => "reads a shared memory map",
            Self::Open => "opens the file anew and reads it",
            Self::ReadDir => "lists the folder",
            Self::Stat => "stat of a name not yet looked up",
            Self::Pgbench => "PostgreSQL transactions",
            Self::Cold => "opens a file whose key is not cached",
        }
    }
}
