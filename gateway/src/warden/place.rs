//! Makes the places the worker writes to, and gives them to the worker's user. What lies in a folder of the
//! worker's is the worker's to arrange, so nothing here trusts a name: folders are walked by descriptor, links that
//! the worker could have made are refused, and rights are changed on what is open.

use crate::privilege::Account;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{Uid, fchown};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};

const FOLDER: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_CLOEXEC);
