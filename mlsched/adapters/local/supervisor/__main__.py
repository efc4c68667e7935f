"""Entry: make the package importable by its own name, then supervise the attempt directory.

Run as a file, not as a directory: the latter imports ``runpy``, which costs 5 ms.
"""

import sys

if __name__ == "__main__":
    parent, package, _ = __file__.rsplit("/", 2)
    sys.path.insert(0, parent)
    __import__(f"{package}.limits", fromlist=["prepare"]).prepare()
    sys.exit(__import__(f"{package}.runs", fromlist=["main"]).main(sys.argv[1]))
