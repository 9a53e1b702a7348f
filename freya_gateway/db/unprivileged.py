"""The account and the folders of a server that refuses to run as root; for everyone else, nothing changes.

An existing account is used (the folder's owner, or `nobody`), none is made, and folders above are opened for passing
through, not for reading.
"""

import os
import pwd
import stat
from pathlib import Path
from typing import Any

from loguru import logger

from freya_gateway.errors import ConfigurationError


def account(folder: Path) -> dict[str, Any]:
    """Who the server's programs run as, as arguments of `subprocess.run`; empty for the present user."""
    if os.geteuid() != 0:
        return {}
    if folder.exists() and (found := folder.stat()).st_uid != 0:
        return {"user": found.st_uid, "group": found.st_gid, "extra_groups": ()}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": ()}


def private_folder(folder: Path, account: dict[str, Any]) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    if account:
        os.chown(folder, account["user"], account["group"], follow_symlinks=False)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != account.get("user", os.geteuid()):
        raise ConfigurationError(f"{folder} belongs to another user; the embedded PostgreSQL needs its own.")
    folder.chmod(0o700)


def make_reachable(folder: Path) -> None:
    """Lets the server's account pass through (not list) the folders above its own."""
    for step in (folder, *folder.parents):
        if not step.stat().st_mode & stat.S_IXOTH:
            logger.warning("{} can now be passed through by every user: PostgreSQL does not run as root", step)
            step.chmod(step.stat().st_mode | stat.S_IXOTH)


def make_readable(package: Path) -> None:
    """Lets the server's account run an installed package, which a strict umask may have closed to it."""
    make_reachable(package.parent)
    for folder in (package, package.with_name(f"{package.name}.libs")):
        if folder.exists() and not folder.stat().st_mode & stat.S_IROTH:
            for path in (folder, *folder.rglob("*")):
                mode = path.stat().st_mode
                path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))
