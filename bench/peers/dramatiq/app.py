"""As it is installed. What a worker has in advance of its threads is set by the environment."""

import os

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from record import started

broker = RabbitmqBroker(url=os.environ["AMQP_URL"])
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name="bench")
def noop(seq, _pad):
    started(seq)
