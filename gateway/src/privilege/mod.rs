//! What the worker gives up before it reads its first byte from a client, and the proof that it is gone.
//!
//! Called in a process with one thread: credentials and capabilities belong to threads, and every thread
//! started afterwards inherits the reduced ones.

mod account;
mod status;

pub use account::Account;
pub use status::Rights;

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Pid, Uid, getppid, setgroups, setresgid, setresuid};

/// Why the worker may not start.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    #[error("no user named `{0}`")]
    NoSuchUser(String),
    #[error("user `{0}` is root: the worker must run as somebody without rights")]
    UserIsRoot(String),
    #[error("cannot look up user `{0}`: {1}")]
    Lookup(String, nix::Error),
    #[error("{step}: {error}")]
    System {
        step: &'static str,
        error: nix::Error,
    },
    #[error("capabilities: {0}")]
    Capabilities(#[from] caps::errors::CapsError),
    #[error("cannot read back what was dropped: {0}")]
    ReadBack(std::io::Error),
    #[error("rights remain after the drop: {0}")]
    Remains(String),
    #[error("the warden is gone")]
    Orphaned,
}

/// What is left, for the log and the status page.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Dropped {
    pub uid: u32,
    pub gid: u32,
    /// False when the process did not start as root and so kept its user.
    pub changed_user: bool,
}

/// Raises the soft limit of open files to the hard one: each connection is a descriptor, or two.
pub fn raise_open_files() -> Result<u64, PrivilegeError> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(step("getrlimit nofile"))?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(step("setrlimit nofile"))?;
    Ok(hard)
}

/// Gives up everything that can be given up: user and groups (as root only), all capability sets, the way
/// back by set-uid programs, core dumps and tracing. `warden` is the parent whose end is also ours.
///
/// After `Ok`, [`Rights::verify`] has confirmed it from `/proc`.
pub fn drop_to(account: &Account, warden: Pid) -> Result<Dropped, PrivilegeError> {
    let root = Uid::effective().is_root();
    // Keys and tokens live in this memory: no core file, and (below) no ptrace by processes of the same user.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(step("setrlimit core"))?;
    caps::clear(None, caps::CapSet::Ambient)?;
    if caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SETPCAP)? {
        caps::clear(None, caps::CapSet::Bounding)?;
    }
    if root {
        change_user(account)?;
    }
    caps::clear(None, caps::CapSet::Inheritable)?;
    caps::clear(None, caps::CapSet::Effective)?;
    caps::clear(None, caps::CapSet::Permitted)?;
    prctl::set_no_new_privs().map_err(step("no_new_privs"))?;
    prctl::set_dumpable(false).map_err(step("dumpable"))?;
    // After the change of user, which clears it.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(step("pdeathsig"))?;
    if getppid() != warden {
        return Err(PrivilegeError::Orphaned);
    }
    let rights = Rights::of_self().map_err(PrivilegeError::ReadBack)?;
    rights.verify(root.then_some(account))?;
    Ok(Dropped {
        uid: rights.uids[1],
        gid: rights.gids[1],
        changed_user: root,
    })
}

/// Groups first: without root they could no longer be changed.
fn change_user(account: &Account) -> Result<(), PrivilegeError> {
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    setgroups(&[]).map_err(step("setgroups"))?;
    setresgid(gid, gid, gid).map_err(step("setresgid"))?;
    setresuid(uid, uid, uid).map_err(step("setresuid"))
}

fn step(step: &'static str) -> impl Fn(nix::Error) -> PrivilegeError {
    move |error| PrivilegeError::System { step, error }
}

#[cfg(test)]
#[allow(
    unsafe_code,
    reason = "the drop is for good, so the test needs a process of its own"
)]
mod tests {
    use super::*;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork, getpid};

    /// Runs `f` in a forked child; its return value is the exit code.
    fn in_child(f: impl FnOnce() -> i32) -> i32 {
        // SAFETY: the child only calls `f` and leaves by `_exit`; `f` takes no lock that another thread of the
        // test process could hold, the allocator's aside, which glibc makes usable after a fork.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let code = f();
                // SAFETY: `_exit` has no precondition.
                unsafe { libc::_exit(code) }
            }
            ForkResult::Parent { child } => match waitpid(child, None).unwrap() {
                WaitStatus::Exited(_, code) => code,
                other => panic!("child ended by {other:?}"),
            },
        }
    }

    #[test]
    fn nothing_remains_after_the_drop() {
        let account = Account {
            name: "nobody".into(),
            uid: 65534,
            gid: 65534,
        };
        let was_root = Uid::effective().is_root();
        let warden = getpid();
        let code = in_child(|| {
            let Ok(dropped) = drop_to(&account, warden) else {
                return 10;
            };
            let Ok(rights) = Rights::of_self() else {
                return 11;
            };
            if dropped.changed_user != was_root {
                return 12;
            }
            if was_root && (rights.uids != [65534; 4] || rights.gids != [65534; 4]) {
                return 13;
            }
            if rights.effective | rights.permitted | rights.inheritable | rights.ambient != 0 {
                return 14;
            }
            if was_root && (rights.bounding != 0 || !rights.groups.is_empty()) {
                return 15;
            }
            if !rights.no_new_privs {
                return 16;
            }
            // And there is no way back.
            if setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok() {
                return 17;
            }
            0
        });
        assert_eq!(code, 0);
    }

    #[test]
    fn an_orphan_does_not_start() {
        let account = Account {
            name: "nobody".into(),
            uid: 65534,
            gid: 65534,
        };
        let code = in_child(|| match drop_to(&account, Pid::from_raw(1 << 29)) {
            Err(PrivilegeError::Orphaned) => 0,
            _ => 1,
        });
        assert_eq!(code, 0);
    }
}
