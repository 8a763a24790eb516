"""Late acks, so that a worker that dies loses nothing; no results; a prefetch that suits no-ops."""

import os

from celery import Celery
from kombu import Queue
from record import started

app = Celery("bench", broker=os.environ["AMQP_URL"])
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    task_default_queue="bench",
    task_queues=[Queue("bench", durable=True)],
    worker_prefetch_multiplier=100,
    broker_connection_retry_on_startup=True,
)


@app.task(name="noop")
def noop(seq, _pad):
    started(seq)
