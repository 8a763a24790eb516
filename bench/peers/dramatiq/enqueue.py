import sys

import record
from app import broker, noop

record.enqueue(
    sys.argv[1:],
    prepare=lambda: broker.declare_queue("bench", ensure=True),
    put=lambda seq: noop.send(seq, record.PAD),
)
# Without this, jobs that it has said to be enqueued never arrive.
broker.close()
