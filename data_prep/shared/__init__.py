"""What the commands of all packages share: command lines, class paths, locks, statistics.

Invariant: no module here imports torch, Lightning, or another package of this project.
"""
