//! mount(8), umount(8), fstab and findmnt(8), through `mount.kmsfs`: this binary by another name,
//! put beside mount(8) in a mount namespace of the test's own.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Output, Stdio};

use crate::support::{Store, apart, kmsfs, skipped};

/// A store that mount(8) can mount, and the namespace in which it can.
struct Namespace {
    store: Store,
}

/// `/usr/sbin` as it is, with the helper in it.
const SETUP: &str = r#"
mkdir -p "$T/real" "$T/sbin"
mount --bind /usr/sbin "$T/real"
for f in "$T"/real/*; do ln -sf "$f" "$T/sbin/"; done
ln -sf "$KMSFS" "$T/sbin/mount.kmsfs"
ln -sf "$KMSFS" "$T/sbin/mount.fuse.kmsfs"
mount --bind "$T/sbin" /usr/sbin
says() { echo "$*" >&2; exit 99; }
mounted() { grep -q " $MNT fuse.kmsfs " /proc/self/mounts; }
"#;

impl Namespace {
    fn new() -> Self {
        let store = Store::new(&[]);
        fs::create_dir(store.outside("t")).expect("made");
        // mount(8) compares paths as the kernel lists them.
        symlink(store.path(), store.outside("link")).expect("made");
        Self { store }
    }

    fn sh(&self, script: &str) -> Output {
        let program = kmsfs();
        let mut shell = apart::shell(&format!("set -eu{SETUP}{script}"));
        shell.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell.env_remove("KMSFS_KEYSTORE").env("LC_ALL", "C");
        shell.env("KMSFS", program.get_program()).env("T", self.store.outside("t"));
        shell.env("STORE", self.store.path()).env("MNT", self.store.mountpoint());
        shell.env("FSTAB", self.store.outside("fstab")).env("LINK", self.store.outside("link"));
        shell.output().expect("sh can be started")
    }

    fn runs(&self, script: &str) -> String {
        let output = self.sh(script);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let told = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "{:?}: {told}", output.status);
        told
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Where the script failed, its daemon holds the namespace.
        let mut unmount = kmsfs();
        let _ = unmount.arg("unmount").arg(self.store.mountpoint()).stderr(Stdio::null()).status();
    }
}

#[test]
fn mount_and_umount_take_it_for_a_filesystem() {
    if skipped("fuse") {
        return;
    }
    let namespace = Namespace::new();
    namespace.runs(
        r#"
mount -t kmsfs "$STORE" "$MNT" -o heartbeat=5s,key_ttl=1m
mounted || says "not mounted"
grep " $MNT " /proc/self/mounts | grep -q nosuid,nodev || says "not nosuid,nodev"
"$KMSFS" status "$MNT" | grep -q 'every 5s' || says "the heartbeat is another"
echo content > "$MNT/file"
umount "$MNT"
mounted && says "still mounted"
mount -t fuse.kmsfs -r -o noexec,noatime "$STORE" "$MNT"
grep " $MNT " /proc/self/mounts | grep ' ro,' | grep noexec | grep -q noatime || says "no flags"
[ "$(cat "$MNT/file")" = content ] || says "other content"
[ "$(findmnt -n -o SOURCE "$MNT")" = "$STORE" ] || says "another source"
umount "$MNT"
mount -v -t kmsfs -o allow_suid,allow_dev "$LINK" "$MNT" 2>&1 | grep -q 'kmsfs mount' || says "silent"
grep " $MNT " /proc/self/mounts | grep -q nosuid && says "nosuid all the same"
umount "$MNT"
"#,
    );
}

#[test]
fn a_line_in_fstab_mounts_it_once() {
    if skipped("fuse") {
        return;
    }
    let namespace = Namespace::new();
    namespace.runs(
        r#"
options=defaults,nofail,_netdev,relatime,x-systemd.automount,x-test=1,heartbeat=5s
echo "$STORE $MNT kmsfs $options 0 0" > "$FSTAB"
findmnt --verify --tab-file "$FSTAB" || says "findmnt finds errors"
mount -a -T "$FSTAB"
mounted || says "mount -a did not"
echo content > "$MNT/file"
mount -a -T "$FSTAB"
[ "$(grep -c " $MNT " /proc/self/mounts)" = 1 ] || says "mounted twice"
mount -T "$FSTAB" -o remount,ro "$MNT"
grep " $MNT " /proc/self/mounts | grep -q ' ro,' || says "not remounted"
touch "$MNT/other" 2>/dev/null && says "written while read-only"
mount -T "$FSTAB" -o remount,rw "$MNT"
touch "$MNT/other"
umount "$MNT"
mount -T "$FSTAB" "$MNT"
mount -o remount,ro "$MNT"
grep " $MNT " /proc/self/mounts | grep -q ' ro,' || says "not remounted without a line in fstab"
mount -o remount,rw "$MNT"
touch "$MNT/other"
[ "$(cat "$MNT/file")" = content ] || says "other content"
umount "$MNT"
echo "$STORE $MNT fuse.kmsfs noauto,user 0 0" > "$FSTAB"
mount -a -T "$FSTAB"
mounted && says "noauto was mounted"
mount -T "$FSTAB" "$MNT"
grep " $MNT " /proc/self/mounts | grep nosuid | grep nodev | grep -q noexec || says "user has more"
umount "$MNT"
"#,
    );
}

/// A remount took `suid` and `dev` away from a mount that had them, and none was possible without
/// a line in fstab: mount(8) then says what the kernel lists, `user_id=0` among it.
#[test]
fn a_remount_changes_what_it_says_and_nothing_else() {
    if skipped("fuse") {
        return;
    }
    let namespace = Namespace::new();
    let told = namespace.runs(
        r#"
has() { findmnt -n -o OPTIONS "$1" | tr , '\n' | grep -qx "$2"; }
mount -t kmsfs -o allow_suid,allow_dev,noexec "$STORE" "$MNT"
echo content > "$MNT/file"
mkdir "$T/bound"
mount --bind "$MNT" "$T/bound"
mount -o remount,ro "$MNT"
has "$MNT" ro || says "not remounted"
has "$MNT" nosuid && says "suid was taken away"
has "$MNT" nodev && says "dev was taken away"
has "$MNT" noexec || says "noexec was taken away"
touch "$MNT/file" 2>/dev/null && says "written while read-only"
touch "$T/bound/file" 2>/dev/null && says "written through another name of it"
[ "$(cat "$MNT/file")" = content ] || says "not readable"
mount -o remount,rw,noatime "$MNT"
touch "$MNT/file"
touch "$T/bound/file"
has "$MNT" noatime || says "not noatime"
mount -o remount,atime,exec "$MNT"
has "$MNT" noatime && says "noatime stayed"
has "$MNT" noexec && says "noexec stayed"
mount -o remount,bind,ro "$T/bound"
touch "$T/bound/file" 2>/dev/null && says "written through a read-only bind mount"
touch "$MNT/file"
umount "$T/bound"
umount "$MNT"
mount -t kmsfs -o ro "$STORE" "$MNT"
has "$MNT" ro || says "not read-only"
mount -o remount,noexec "$MNT"
has "$MNT" noexec || says "no other flag can be given"
mount -o remount,rw "$MNT" && says "it has no keys to write with"
has "$MNT" ro || says "it says that it can be written"
[ "$(cat "$MNT/file")" = content ] || says "not readable"
umount "$MNT"
"#,
    );
    assert!(told.contains("it was mounted read-only"), "{told}");
}

/// As with the kernel's own filesystems; it was "another kmsfs has it mounted".
#[test]
fn a_store_is_mounted_at_two_places() {
    if skipped("fuse") {
        return;
    }
    let namespace = Namespace::new();
    namespace.runs(
        r#"
two="$T/two"
mkdir "$two"
mount -t kmsfs "$STORE" "$MNT"
mount -t kmsfs -o noexec,ro "$STORE" "$two"
echo content > "$MNT/file"
[ "$(cat "$two/file")" = content ] || says "another filesystem"
touch "$two/file" 2>/dev/null && says "not read-only"
findmnt -n -o OPTIONS "$two" | grep noexec | grep nosuid | grep -q nodev || says "no flags"
findmnt -n -o OPTIONS "$MNT" | grep -q noexec && says "flags of the other"
mount -o remount,bind,rw "$two"
mkdir "$two/a"; mv "$two/file" "$two/a/file"; mkdir "$MNT/b"; mv "$MNT/a/file" "$two/b/file"
[ "$(cat "$MNT/b/file")" = content ] || says "not renamed"
"$KMSFS" status "$two" | grep -q ': open' || says "no status"
before=$(date +%s)
"$KMSFS" unmount "$MNT"
[ $(($(date +%s) - before)) -lt 30 ] || says "it waits for a daemon that goes on"
[ "$(cat "$two/b/file")" = content ] || says "gone with the first"
umount "$two"
mount -t kmsfs "$STORE" "$MNT"
mount -t kmsfs "$STORE" "$two"
pid=$("$KMSFS" status "$two" --output json | sed 's/.*"pid":\([0-9]*\).*/\1/')
kill -TERM "$pid"
for i in $(seq 200); do mounted || break; sleep 0.05; done
grep -q "$T/two\|$MNT" /proc/self/mounts && says "still seen at one place"
mount -t kmsfs "$STORE" "$MNT"
umount "$MNT"
"#,
    );
}

#[test]
fn what_fails_has_the_exit_codes_of_mount() {
    if skipped("fuse") {
        return;
    }
    let namespace = Namespace::new();
    let told = namespace.runs(
        r#"
code() { wanted=$1; shift; got=0; "$@" || got=$?; [ "$got" = "$wanted" ] || says "$got: $*"; }
code 1 mount -t kmsfs "$STORE" "$MNT" -o hartbeat=5s
code 1 mount -t kmsfs "$STORE" "$MNT" -o heartbeat=0
code 0 mount -s -t kmsfs "$STORE" "$MNT" -o hartbeat=5s
umount "$MNT"
code 32 mount -t kmsfs "$STORE/absent" "$MNT"
code 32 mount -t kmsfs "$STORE" "$MNT" -o remount,ro
code 0 mount -f -t kmsfs "$STORE" "$MNT"
mounted && says "mounted by -f"
code 32 mount -f -t kmsfs "$T" "$MNT"
code 1 mount.kmsfs "$STORE"
mount.kmsfs --help
"#,
    );
    for word in ["hartbeat: no such option", "only-current-key", "kmsfs init", "usage: mount.kmsfs"]
    {
        assert!(told.contains(word), "{word}: {told}");
    }
}
