"""Fetches a file of a folder in a store, as one of several processes: `python -m helpers.fetching URL NAME`."""

from __future__ import annotations

import sys

from ciao_peft.remote import RepoFile, fetch, parse_url

if __name__ == "__main__":
    url, name = sys.argv[1:]
    print(fetch(parse_url(url), [RepoFile(name, 2**30)]))
