//! Asynchronous writes past the page cache (io_submit(2) with O_DIRECT), as databases make them.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// A block of memory that lies where O_DIRECT takes it.
#[repr(C, align(4096))]
#[derive(Clone)]
pub struct Block(pub [u64; 512]);

impl Block {
    /// Its bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the array's own memory, whose every state is valid as bytes and as numbers.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), size_of::<Self>()) }
    }
}

/// `struct iocb` of linux/aio_abi.h.
#[repr(C)]
struct Request {
    data: u64,
    key: u32,
    flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    more_flags: u32,
    event_fd: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    data: u64,
    request: u64,
    result: i64,
    result2: i64,
}

/// A context (io_setup(2)), and the blocks that it writes from.
pub struct Aio<'a> {
    context: libc::c_ulong,
    file: &'a File,
    blocks: Vec<Box<Block>>,
    under_way: usize,
}

fn check(r: libc::c_long) -> io::Result<usize> {
    usize::try_from(r).map_err(|_| io::Error::last_os_error())
}

impl<'a> Aio<'a> {
    /// For as many writes at once as there are blocks, to a file that is open with O_DIRECT.
    pub fn new(file: &'a File, blocks: usize) -> Self {
        let mut context: libc::c_ulong = 0;
        // SAFETY: the kernel writes the context's number there.
        let made = unsafe { libc::syscall(libc::SYS_io_setup, blocks, &raw mut context) };
        check(made).expect("a context");
        let blocks = vec![Box::new(Block([0; 512])); blocks];
        Self { context, file, blocks, under_way: 0 }
    }

    /// Begins to write a block full of a number at an offset. The slot's last write has ended.
    pub fn submit(&mut self, slot: usize, number: u64, offset: u64) {
        self.blocks[slot].0.fill(number);
        let request = Request {
            data: slot as u64,
            key: 0,
            flags: 0,
            opcode: 1, // IOCB_CMD_PWRITE
            priority: 0,
            fd: self.file.as_raw_fd().cast_unsigned(),
            buffer: self.blocks[slot].0.as_ptr() as u64,
            bytes: 4096,
            offset: offset.cast_signed(),
            reserved: 0,
            more_flags: 0,
            event_fd: 0,
        };
        let list = [&raw const request];
        // SAFETY: the kernel copies the request before it returns; the block lives in a box of
        // ours until the write has ended, which `drop` waits for, and nobody touches it meanwhile.
        let sent = unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1, list.as_ptr()) };
        assert_eq!(check(sent).expect("submitted"), 1);
        self.under_way += 1;
    }

    /// Waits until a write has ended; answers its slot.
    pub fn wait(&mut self) -> usize {
        let mut event = Event::default();
        let none = std::ptr::null::<libc::timespec>();
        // SAFETY: the kernel writes one event there.
        let got = unsafe {
            libc::syscall(libc::SYS_io_getevents, self.context, 1, 1, &raw mut event, none)
        };
        assert_eq!(check(got).expect("waited"), 1);
        assert_eq!(event.result, 4096, "a block is written whole");
        self.under_way -= 1;
        usize::try_from(event.data).expect("a slot")
    }
}

impl Drop for Aio<'_> {
    fn drop(&mut self) {
        // SAFETY: the context is ours; the call waits for what is under way.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}
