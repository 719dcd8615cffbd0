"""The embedded Hub: a small server for the real huggingface_hub client; for development, tests, machines without internet.

It binds to loopback only, and has no web pages, no git access, no organisations and no Xet storage. A request goes through
`app.py` (route, authentication) to one of the route files, which change and read the folder of `store.py` (repos) and
`objects.py` (content-addressed files, trees, commits):

- `repos.py`, `listing.py`, `cards.py`: create, describe, list; what is derived from a repo's files
- `files.py`, `lfs.py`, `commits.py`, `refs.py`: download, upload, commit, branches, tags, history
- `discussions.py`, `pulls.py`, `access.py`, `evals.py`: discussions and pull requests, gating, leaderboards
- `bodies.py`, `connections.py`, `root.py`: bounds for what clients send, for their connections, and for who reads the folder
- `faults.py`: failures on purpose, for tests of clients
- `seed/`: real models and data sets from a Python package index
"""
