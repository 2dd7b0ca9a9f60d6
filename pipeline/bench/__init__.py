"""What a record costs, measured side by side in one run: bare librdkafka, a whole worker, and ClickHouse for our blocks.

Broker, worker and engine are processes of their own, so that CPU time has an owner. It measures and reports; nothing here
is used by a worker.
"""
