"""What the log and its projections take from the settings, in a worker and in the writer process."""

from msgspec.structs import asdict

from chatbot.config.settings import Settings
from events.options import LogOptions
from projections.runner import RunnerOptions

METRICS_REQUEST = "metrics"  # to the writer, which answers with metric_families.encode


def log_options(settings: Settings) -> LogOptions:
    values = asdict(settings.database)
    return LogOptions(**{name: values[name] for name in LogOptions.__struct_fields__})


def runner_options(settings: Settings) -> RunnerOptions:
    database = settings.database
    return RunnerOptions(
        batch_max=database.projection_batch_max, delay_s=database.projection_delay_s, log_location=database.place
    )
