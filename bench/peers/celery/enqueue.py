import sys

import record
from app import app, noop

# Closed before the end: a program that only ends leaves jobs behind that never arrive.
with app.connection_for_write() as connection:
    producer = app.amqp.Producer(connection, auto_declare=False)
    record.enqueue(
        sys.argv[1:],
        prepare=lambda: app.amqp.queues["bench"](producer.channel).declare(),
        put=lambda seq: noop.apply_async((seq, record.PAD), producer=producer),
    )
