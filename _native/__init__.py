"""The compiled core: claim table, block builder, Kafka reader. A leaf: it imports nothing of `pipeline`."""
