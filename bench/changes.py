"""The changes of the table, each made over a generated tree and undone by `Tree.restore`."""

from __future__ import annotations

import random

from bench.trees import SEED, Item, Tree


def _files(tree: Tree) -> list[Item]:
    return [item for item in tree.items if not item.target and item.size]


def one_file(tree: Tree, number: int) -> None:
    """The whole content of one file, from the middle of the tree."""
    files = _files(tree)
    tree.change([(files[len(files) // 2], 0)], number)


def thousand_files(tree: Tree, number: int) -> None:
    """A thousand files (a hundredth of a smaller tree) spread all over it: the worst for any locality."""
    files = _files(tree)
    count = min(1000, len(files) // 100)
    tree.change([(item, 0) for item in random.Random(SEED).sample(files, count)], number)


def one_directory(tree: Tree, number: int) -> None:
    """The name of a folder with a thousand files in it."""
    folders = sorted({item.path.partition("/")[0] for item in tree.items})
    tree.rename(folders[len(folders) // 2], number)


def one_mebibyte(tree: Tree, number: int) -> None:
    """One MiB in the middle of a very large file, in place."""
    largest = max(_files(tree), key=lambda item: (item.data_at is None, item.size, item.path))
    chunks = len(list(largest.chunks()))
    tree.change([(largest, chunks // 2)], number)
