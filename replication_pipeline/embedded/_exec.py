"""What a new child runs just before the server itself: `_exec.py PARENT SIGNAL USER CMD…`.

`Popen(preexec_fn=…)` would run Python code between fork and exec, where a lock held by another
thread of the parent stays locked for ever. Here the work is done after an exec, in a fresh
single-threaded interpreter that then replaces itself with the server.

Order matters: the kernel forgets the parent-death signal when the user changes, so root is
dropped first; the parent may be gone before the request is made, so it is looked at afterwards.

Run by path with `python -I -S`: standard library only, nothing of the package is imported, so
this costs about 20 ms, and it needs no Python that the unprivileged user could read.
"""

import ctypes
import os
import pwd
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(parent: int, death_signal: int, user: str, command: list[str]) -> None:
    # A shell's `cmd &` ignores SIGINT, a blocked signal stays blocked across exec; servers would
    # inherit both and could then be stopped by SIGKILL only.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    if user:
        account = pwd.getpwnam(user)
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
        os.environ["HOME"] = account.pw_dir
    if sys.platform == "linux":
        if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal) != 0:
            sys.exit("prctl(PR_SET_PDEATHSIG) failed")
        if os.getppid() != parent:
            sys.exit("the process that started this server is gone")
    try:
        os.execv(command[0], command)
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
