"""One verification from a configuration: opens the clients, reads the dead letters, runs the account, says what was proved."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.config.schema import Config
from pipeline.kafka import Cluster
from pipeline.selection import Selection
from pipeline.source import open_source
from pipeline.types import Partition, Source
from pipeline.verify import letters as dead_letters
from pipeline.verify.account import Accountant, Heart
from pipeline.verify.letters import Letters
from pipeline.verify.opening import WAIT_S, opened
from pipeline.verify.oracle import Oracle
from pipeline.verify.reach import Reach, batches_in_flight, reaches
from pipeline.verify.report import Report, Stretch

EVERYTHING = Selection()


def verify(
    config: Config,
    *,
    oracle: Oracle | None = None,
    selection: Selection = EVERYTHING,
    rate: float = 0.0,
    examples_max: int = 20,
    wait_s: float = WAIT_S,
    begin: Callable[[int], None] = lambda _: None,
    progress: Callable[[int], None] = lambda _: None,
) -> Report:
    """Accounts for the selected records below the committed offsets. With an oracle also for those no longer in Kafka.

    Reads at the most `rate` records a second where that is above 0. `begin` is told how many offsets there are, `progress`
    how many were done since its last call. Raises DependencyDown when Kafka or ClickHouse is away, ConfigurationError when
    topics, tables and contracts do not fit together, SelectionError when the selection names what there is not.
    """
    with opened(config, wait_s) as (cluster, tables, contracts):

        def source() -> Source:
            return open_source(config.kafka)

        limits: list[str] = []
        found = reaches(config, cluster, tables, selection, limits)
        begin(sum(reach.end - reach.low for reach in found))
        letters = _letters(config, cluster, source, limits)
        accountant = Accountant(
            config,
            cluster,
            tables,
            letters,
            contracts,
            source,
            rate=rate,
            examples_max=examples_max,
            progress=progress,
        )
        report = accountant.run(found)
        report.stretch = [Stretch(*reach.partition, reach.first, reach.end, reach.low) for reach in found]
        open_ended = [reach.partition for reach in found if reach.open_end]
        report.in_flight = batches_in_flight(config, cluster, open_ended) if open_ended else 0
        if oracle is not None:
            oracle.check(found, tables, letters, report)
        _conclude(report, found, limits, oracle)
        return report


def _letters(config: Config, cluster: Cluster, source: Callable[[], Source], limits: list[str]) -> Letters:
    topic = config.dead_letters.topic
    if not topic:
        return dead_letters.of(())
    if not cluster.topic_exists(topic):
        limits.append(f"the dead-letter topic {topic} does not exist: rejects count as missing")
        return dead_letters.of(())
    letters = dead_letters.read(cluster, topic, config.name, source, Heart(config.kafka.brokers))
    if letters.gone:
        limits.append(f"{letters.gone:,} records of {topic} are no longer there: their rejects count as missing")
    return letters


def _conclude(report: Report, found: list[Reach], limits: list[str], oracle: Oracle | None) -> None:
    if report.ok and report.records:
        report.proved.append(
            f"each of {report.records:,} consumed records that Kafka still has is a row, a dead letter, or a counted drop"
        )
    if report.ok and oracle is not None:
        report.proved.append(
            f"each of {oracle.offsets:,} offsets became what the workload's generator says, Kafka aside"
        )
    gone = [(reach.partition, reach.low - reach.first) for reach in found if reach.low > reach.first]
    if gone and oracle is None:
        partition, count = max(gone, key=_count)
        limits.append(
            f"{sum(map(_count, gone)):,} consumed offsets are no longer in Kafka (most of {partition}: {count:,}); "
            f"{report.unreadable_rows:,} of them have a row"
        )
    if report.removed:
        limits.append(f"{report.removed:,} offsets were removed from Kafka while they were read")
    if report.rows_beyond or report.in_flight:
        limits.append(
            f"{report.in_flight} batches are in flight, {report.rows_beyond:,} rows lie beyond the committed offsets: "
            "verify again when the workers have drained"
        )
    report.not_proved = limits + report.not_proved


def _count(one: tuple[Partition, int]) -> int:
    return one[1]
