"""The parts that make a demo, a test or a plan possible on one machine: a mock Kafka, an embedded ClickHouse, a real Kafka.

Never imported by the flow.
"""
