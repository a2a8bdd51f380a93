"""The steps of `tools/gpu_check.py`, one a file.

A step is a function that is given a `Setting` and yields rows, `{"what": ..., figures ...}`; `"passed": false` in one
of them fails the step. It runs in a process group of its own, which is killed at the step's limit; rows count as soon
as they are yielded, and `setting.done` names those of an earlier, cut off call, which need not be made again.
"""
