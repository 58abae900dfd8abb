"""The Celery settings of a mailtasks worker: copy this file and change what you like.

`celery -A mailtasks worker -P threads` reads it if it can be imported (from the working directory, for
one). Everything here is what mailtasks sets by itself; a line that you delete changes nothing. The broker
can't stand here: it is the setting `broker_url` of mailtasks (MAILTASKS_BROKER_URL).

A process that has Celery and not mailtasks can use it, too: `app.config_from_object("celeryconfig")`, then
`app.send_task("mailtasks.send_mail", kwargs={"to": ..., "subject": ..., "text": ...})`.
"""

from kombu import Exchange, Queue

# Queues, not Celery's priorities: on Redis 0 is taken first and is the default, so mail without a priority
# would jump the queue. The names sort in the order of urgency.
_mail = Exchange("mailtasks", type="direct")
task_queues = [
    Queue("mailtasks-1-urgent", _mail, routing_key="mailtasks-1-urgent"),
    Queue("mailtasks-2-normal", _mail, routing_key="mailtasks-2-normal"),
    Queue("mailtasks-3-bulk", _mail, routing_key="mailtasks-3-bulk"),
]
task_default_queue = "mailtasks-2-normal"
task_default_exchange = "mailtasks"
task_default_routing_key = "mailtasks-2-normal"

# A typo in a queue's name is an error, not a new queue that nobody reads.
task_create_missing_queues = False

# Only mail that comes by name, with its body in the task, is routed here; hints know their queue.
task_routes = {"mailtasks.send_mail": {"queue": "mailtasks-2-normal"}}

broker_transport_options = {
    # For mail that came by name and was in the hands of a worker that died: it goes back to its queue after
    # so many seconds. Hints that were lost are published again by the ledger's pump, not by Celery.
    "visibility_timeout": 60,
    "unacked_restore_interval": 10,
    "unacked_restore_throttle": 1,
    # Without these, a Redis that hangs would hold up whoever sends, for ever.
    "socket_timeout": 5.0,
    "socket_connect_timeout": 2.0,
    "socket_keepalive": True,
    # And this is how a worker that waits for tasks notices one.
    "health_check_interval": 5.0,
    # Urgent before normal before bulk, also after a queue was paused and resumed.
    "queue_order_strategy": "sorted",
}
broker_connection_timeout = 2.0
broker_connection_max_retries = None  # a worker waits for its Redis as long as it takes
broker_connection_retry_on_startup = True

# JSON only: pickle would let whoever can write to Redis run code in the workers.
task_serializer = "json"
accept_content = ["json"]
result_accept_content = ["json"]

# What became of a mail is in the ledger (`mailtasks status ID`), so results would be kept twice.
task_ignore_result = True

# A hint waits behind as few others as possible; one process of `mailtasks worker` is for urgent mail.
worker_prefetch_multiplier = 1

# What a worker has been given is still its own after its connection to Redis was lost.
worker_cancel_long_running_tasks_on_connection_loss = False
worker_enable_prefetch_count_reduction = False  # does nothing on Redis, but would say so each time

# What Flower shows. Producers send no event: it would cost as much again as the hint.
worker_send_task_events = True
task_send_sent_event = False

# Retries and rate, with Celery's names and meanings, for each recipient; waiting is done in the ledger,
# and nothing is held in a worker's memory.
task_annotations = {
    "mailtasks.deliver": {
        # Messages a worker process may send: "10/s", "100/m", "500/h"; None: as many as it can.
        "rate_limit": None,
        # A minute, doubling to an hour, anything from nothing to all of it: Celery's own three tries
        # within ten minutes would lose every mail that is greylisted for longer.
        "retry_backoff": 60,
        "retry_backoff_max": 3600,
        "retry_jitter": True,
        # None: until the message's maximum age (the setting max_age, five days).
        "max_retries": None,
    }
}
