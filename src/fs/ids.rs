//! The ids of files and directories, from the first look at the store until they are given up.

use std::hash::Hash;

use super::Fs;
use super::errno::{Outcome, errno};
use super::node::{Content, Node};
use super::records::{self, Tail};
use crate::disk::OpenFile;
use crate::ids::{DirId, FileId};
use crate::keys::Carriers;

impl Fs {
    /// The id of a file's content, from the node or the header; `None` while it has no key.
    ///
    /// # Errors
    /// EBADMSG where the header is damaged, or another inode has the same id; of reading it.
    pub(super) fn file_id(&self, node: &Node, file: &dyn OpenFile) -> Outcome<Option<FileId>> {
        let known = node.content.read().id;
        let found = match known {
            // Under the lock: a file that is cut to nothing meanwhile has lost its id.
            None => self.look_up_id(node, &mut node.content.write(), file)?,
            known => known,
        };
        let Some(id) = found else { return Ok(None) };
        if self.keyring.carriers().is_shared(id) {
            return Err(errno(libc::EBADMSG));
        }
        Ok(Some(id))
    }

    /// The id, read from the header where it is not known yet.
    pub(super) fn look_up_id(
        &self,
        node: &Node,
        content: &mut Content,
        file: &dyn OpenFile,
    ) -> Outcome<Option<FileId>> {
        if content.id.is_none() && !content.keyless {
            match records::file_id(file)? {
                None => content.keyless = true,
                Some(id) => {
                    self.learn_id(node, content, id);
                    content.tail = Tail::Unknown;
                }
            }
        }
        Ok(content.id)
    }

    /// A file's content has this id from now on, or was seen to have it.
    pub(super) fn learn_id(&self, node: &Node, content: &mut Content, id: FileId) {
        (content.id, content.keyless) = (Some(id), false);
        if self.keyring.carriers().add(id, node.ino) {
            log::error!("file {id}: another file in the store has the same id; neither is served");
        }
        if content.writers > 0 {
            self.keyring.hold(id);
        }
    }

    /// A file that was cut to nothing loses its id: what comes next is under another key. The key
    /// goes too, when the cut is durable.
    pub(super) fn give_up_id(&self, node: &Node, content: &mut Content) {
        (content.headerless, content.keyless) = (false, true);
        (content.tail, content.blank) = (Tail::Unknown, 0);
        let Some(id) = content.id.take() else { return };
        if content.writers > 0 {
            self.keyring.release(id);
        }
        self.let_go(node, id);
    }

    /// The kernel has forgotten an inode that carried this id.
    pub(super) fn forget_id(&self, node: &Node, id: FileId) {
        self.forget_carrier(self.keyring.carriers(), node, id, |again| again.content.read().id);
    }

    /// As [`Fs::forget_id`], of a directory.
    pub(super) fn forget_dir_id(&self, node: &Node) {
        if let Some(id) = node.dir_id.get() {
            self.forget_carrier(&self.dir_carriers, node, *id, |again| again.dir_id.get().copied());
        }
    }

    fn forget_carrier<Id: Copy + Eq + Hash>(
        &self,
        carriers: &Carriers<Id>,
        node: &Node,
        id: Id,
        carried: impl Fn(&Node) -> Option<Id>,
    ) {
        carriers.remove(id, node.ino);
        // It may have been looked up again meanwhile, as another node.
        let again = self.table.get(node.ino).filter(|again| !std::ptr::eq(&**again, node));
        if again.is_some_and(|again| carried(&again) == Some(id)) {
            // Where another carries it too, that was said when it was first seen.
            let _ = carriers.add(id, node.ino);
        }
    }

    /// Nothing on the disk refers to a file's key any more. It stays where another inode carries
    /// its id.
    pub(super) fn let_go(&self, node: &Node, id: FileId) {
        self.forget_id(node, id);
        if self.keyring.carriers().may_be_wanted(id) {
            log::warn!("file {id}: its key stays, for another file in the store has the same id");
        } else {
            self.keyring.schedule_key_removal(id);
        }
    }

    /// A directory's id, which was read from the store.
    ///
    /// # Errors
    /// EBADMSG for the root's, which no other directory has.
    pub(super) fn learn_dir_id(&self, node: &Node, id: DirId) -> Outcome<DirId> {
        if id == DirId::ROOT {
            return Err(errno(libc::EBADMSG));
        }
        let id = *node.dir_id.get_or_init(|| id);
        if self.dir_carriers.add(id, node.ino) {
            log::error!("directory id {id} is that of two directories; neither is served");
        }
        Ok(id)
    }

    /// A directory's id, if no other directory has it.
    ///
    /// # Errors
    /// EBADMSG.
    pub(super) fn own_dir_id(&self, node: &Node, id: DirId) -> Outcome<DirId> {
        if self.dir_carriers.is_shared(id) {
            return Err(errno(libc::EBADMSG));
        }
        debug_assert!(node.dir_id.get() == Some(&id), "an id is told of whom it is of");
        Ok(id)
    }
}
