"""Penstock: exactly-once ingestion from Kafka into ClickHouse."""

from pipeline.version import VERSION as __version__

__all__ = ["__version__"]
