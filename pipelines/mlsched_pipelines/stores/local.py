"""Folders as a store: this machine's disks, or a file system that the workers share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from mlsched.errors import ConfigError, PipelineError
from mlsched_pipelines.stores import ADDRESS_HINT, Entry, is_address, shown
from mlsched_pipelines.stores.files import (
    TEMPORARY_PREFIX,
    make_folder,
    move_durably,
    publish_new,
    sync_folder,
    temporary_path,
)


class LocalStore:
    """Files under a folder, made by the first write.

    Commits rest on hard links, which exist on ext4, XFS, NFS, CephFS and GlusterFS.
    """

    def __init__(self, root: str | Path) -> None:
        if is_address(str(root)):
            raise ConfigError(f"No store has the address {shown(str(root))!r}.", ADDRESS_HINT)
        self.root = Path(root).absolute()

    @property
    def url(self) -> str:
        """See `Store.url`."""
        return str(self.root)

    def __repr__(self) -> str:
        return f"LocalStore({self.url!r})"

    def check(self) -> None:
        """See `Store.check`: a name can be created once."""
        make_folder(self.root)
        probe = temporary_path(self.root)
        try:
            won = [publish_new(probe, b"") for _ in range(2)]
        finally:
            probe.unlink(missing_ok=True)
        if won != [True, False]:
            raise PipelineError(
                f"The file system of {self.root} lets two writers create one name.",
                "Keep datasets on ext4, XFS, NFS, CephFS or GlusterFS.",
            )

    def read(self, path: str) -> bytes:
        """See `Store.read`."""
        return (self.root / path).read_bytes()

    def open(self, path: str) -> pa.NativeFile:
        """See `Store.open`: mapped, so that nothing is read before it is touched."""
        return pa.memory_map(str(self.root / path))

    def size(self, path: str) -> int:
        """See `Store.size`."""
        return (self.root / path).stat().st_size

    def list_files(self, folder: str) -> list[Entry]:
        """See `Store.list_files`; a file that goes meanwhile is left out."""
        found: list[Entry] = []
        for path in self._children(folder):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            if not path.is_dir() and not path.name.startswith(TEMPORARY_PREFIX):
                name = path.relative_to(self.root).as_posix()
                found.append(Entry(name, stat.st_size, stat.st_mtime))
        return found

    def list_folders(self, folder: str) -> list[str]:
        """See `Store.list_folders`."""
        folders = [path for path in self._children(folder) if path.is_dir()]
        return [path.relative_to(self.root).as_posix() for path in folders]

    def put_new(self, path: str, data: bytes) -> bool:
        """See `Store.put_new`: flushed under another name, then linked to its own."""
        full = self.root / path
        make_folder(full.parent)
        return publish_new(full, data)

    def scratch(self, folder: str) -> Path:
        """See `Store.scratch`: in the folder itself, so that it only has to be renamed."""
        make_folder(self.root / folder)
        return temporary_path(self.root / folder)

    def put_file(self, source: Path, path: str) -> None:
        """See `Store.put_file`."""
        move_durably(source, self.root / path)

    def delete(self, paths: Iterable[str]) -> None:
        """See `Store.delete`; folders of the data that become empty go too."""
        folders: set[Path] = set()
        for path in paths:
            full = self.root / path
            full.unlink(missing_ok=True)
            folders.add(full.parent)
        for folder in folders:
            if folder != self.root and _remove_empty(folder):
                sync_folder(folder.parent)
            elif folder.is_dir():
                sync_folder(folder)

    def abandoned(self, folder: str) -> list[Entry]:
        """Files that a writer began and did not finish; those that are being written among them."""
        found: list[Entry] = []
        for path in self._children(folder):
            if path.name.startswith(TEMPORARY_PREFIX):
                try:
                    stat = path.stat()
                except FileNotFoundError:
                    continue
                name = path.relative_to(self.root).as_posix()
                found.append(Entry(name, stat.st_size, stat.st_mtime))
        return found

    def _children(self, folder: str) -> list[Path]:
        try:
            return sorted((self.root / folder).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []


def _remove_empty(folder: Path) -> bool:
    """Whether the folder was empty and is gone; others may write to it, or remove it, meanwhile."""
    try:
        folder.rmdir()
    except OSError:
        return False
    return True
