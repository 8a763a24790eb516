"""What every Python peer writes down: 16 bytes a job, its number and the second, as two doubles."""

import os
import struct
import time

PAD = "x" * 80  # with its number, about 100 bytes of payload
_files = {}


def started(seq):
    """Called by a handler: all that it does."""
    pid = os.getpid()
    fd = _files.get(pid)
    if fd is None:
        # Two threads may both open it: every write is one append, so nothing is lost.
        path = f"{os.environ['RECORDS']}/started-{pid}"
        fd = _files[pid] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(fd, struct.pack("<dd", seq, time.time()))


def backlog(count, put):
    """Enqueues as fast as it goes, one by one."""
    began = time.time()
    for seq in range(count):
        put(seq)
    print("seconds", time.time() - began)


def paced(count, first, gap_ms, put):
    """Enqueues at an even pace, and writes down when."""
    with open(f"{os.environ['RECORDS']}/sent", "wb") as sent:
        for seq in range(first, first + count):
            sent.write(struct.pack("<dd", seq, time.time()))
            put(seq)
            time.sleep(gap_ms / 1000)


def enqueue(arguments, prepare, put):
    """`prepare` | `backlog COUNT` | `paced COUNT FIRST GAP_MS`"""
    what, *numbers = arguments
    numbers = [int(number) for number in numbers]
    if what == "prepare":
        prepare()
    elif what == "backlog":
        backlog(*numbers, put)
    else:
        paced(*numbers, put)
