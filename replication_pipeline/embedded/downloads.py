"""What is fetched from Maven Central once, and then kept in a per-user cache.

Downloads go through `requests`, so proxies and certificate authorities come from the usual
environment variables.

Invariants: a directory of the cache is whole or absent: everything is fetched into a draft beside it,
and the draft is renamed. One process fetches at a time; the others wait for it. A copied cache works
on a machine without network.
"""

import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from replication_pipeline.embedded.process import EmbeddedServerError
from replication_pipeline.embedded.state import exclusive


def fetched_once(
    name: str, *, is_whole: Callable[[Path], bool], fetch: Callable[[Path], None], what: str
) -> Path:
    """The directory `name` of the cache, filled by `fetch` unless it `is_whole`."""
    home = cache_directory() / name
    if is_whole(home):
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(home.with_name(f"{home.name}.lock")):
        if is_whole(home):  # another process may have filled it meanwhile
            return home
        for abandoned in home.parent.glob(f"{home.name}-*"):  # by a process that was killed
            shutil.rmtree(abandoned, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix=f"{home.name}-", dir=home.parent))
        try:
            fetch(draft)
            shutil.rmtree(home, ignore_errors=True)  # a former cache that lost some of its files
            draft.rename(home)
        except Exception as error:
            raise EmbeddedServerError(
                f"Could not get {what} from Maven Central: {error}\n"
                "Check the network (HTTPS_PROXY and REQUESTS_CA_BUNDLE are honoured), or copy "
                f"the directory {home} from a machine where the embedded servers have run."
            ) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return home


def cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "replication_pipeline"


def check_archive(path: Path) -> None:
    """Refuse a jar that did not arrive whole."""
    with zipfile.ZipFile(path) as archive:  # refuses a truncated file: the index is at the end
        broken = archive.testzip()
    if broken is not None:
        raise EmbeddedServerError(f"{path.name} arrived damaged (at {broken}); try again.")
