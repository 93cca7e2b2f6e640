"""Many studies: found, analysed one by one or in parallel, each finished one kept, each failed one named, all tabulated.

One bad study never stops the rest. What is done stays done: a study is analysed into a hidden folder that is renamed when it
is complete, and the ledger remembers under which input, settings and version it was done, so that a second run skips it.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import shutil
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil

from pipeline import __version__
from pipeline.errors import InputRefused, Refusal
from pipeline.ingest import Inventory, Study, describe, study_key
from pipeline.strength.agreement import agreement_in_cohort
from pipeline.study import Settings, analyse_study
from reports.classes import grade_needs_reader
from reports.cohort import AgreementRow, NotDone, write_cohort
from reports.cohort_columns import study_end
from reports.record import Femur, RecordUnreadable, StudyRecord, Vertebra, load_record

LEDGER = "ledger.jsonl"
SERIES_TABLE = "series.csv"
RECORD = "record.json"
_KEPT = " The earlier result of this study, made with other settings, was kept."


@dataclass(frozen=True)
class Outcome:
    """How one study ended.

    Attributes
    ----------
    study : str
        Pseudonymous key, also the name of its folder.
    status : str
        ``done``, ``refused`` (the input does not allow an analysis) or ``failed`` (a fault of this program).
    reason : str
        Reason code, empty when done.
    text : str
        One sentence for the user: the leading numbers when done, the reason otherwise.
    seconds, peak_mib : float
        Wall time, and the largest memory of the process while it worked.
    job : str
        Hash of input, settings and version; a later run with the same hash skips the study.
    resumed : bool
        True when the result of an earlier run was kept.
    """

    study: str
    status: str
    reason: str
    text: str
    seconds: float
    peak_mib: float
    job: str
    resumed: bool = False


def run(
    inventory: Inventory,
    out: Path,
    settings: Settings,
    *,
    workers: int = 1,
    overwrite: bool = False,
    scheduler: str | None = None,
    on_stage: Callable[[str, str], None] | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Analyse every study of an inventory into `out` and write the table over all.

    Parameters
    ----------
    inventory : Inventory
    out : Path
        Made if absent.
    settings : Settings
    workers : int
        Processes; the cores are shared out among them. One worker works in this process.
    overwrite : bool
        Analyse again what is already done.
    scheduler : str, optional
        Address of a Dask scheduler; the studies then run on its workers, which must see the same files.
    on_stage, on_outcome : callable, optional
        Told (study, stage) while one worker works, and each outcome as it is known.

    Returns
    -------
    list of Outcome
        In the order of the inventory. A ``KeyboardInterrupt`` passes through after finished studies were tabulated.

    Raises
    ------
    InputRefused
        If `out` cannot be written, or the scheduler cannot be used.
    """
    require_writable(out)
    _write_series_table(inventory, out)
    before = {} if overwrite else _last_outcomes(out)
    outcomes: dict[str, Outcome] = {}
    waiting: list[tuple[Study, str]] = []
    for study in inventory.studies:
        key, job = study_key(study), job_key(study, settings)
        earlier = before.get(key)
        if earlier is not None and earlier.job == job and (out / key / RECORD).is_file():
            outcomes[key] = replace(earlier, resumed=True)
            if on_outcome is not None:
                on_outcome(outcomes[key])
        else:
            waiting.append((study, job))
    try:
        for outcome in _work(waiting, out, settings, workers, scheduler, on_stage):
            outcomes[outcome.study] = outcome
            _append_to_ledger(out, outcome)
            if on_outcome is not None:
                on_outcome(outcome)
    finally:
        collect(out)
    return [outcomes[study_key(s)] for s in inventory.studies if study_key(s) in outcomes]


def collect(out: Path) -> tuple[list[StudyRecord], list[str]]:
    """Write ``cohort.csv``, ``cohort.parquet``, ``agreement.json`` and ``index.html`` over all records below `out`.

    Returns
    -------
    records : list of StudyRecord
    problems : list of str
        One sentence for each record that could not be read.
    """
    records, problems = [], []
    for file in sorted(out.glob(f"*/{RECORD}")):
        if file.parent.name.startswith("."):
            continue
        try:
            records.append(load_record(file))
        except (RecordUnreadable, OSError) as error:
            problems.append(f"{file.parent.name}: {error}")
    ledger = _last_outcomes(out, with_failed=True)
    known = {record.study.key for record in records}
    not_done = [NotDone(o.study, o.status, o.reason, o.text) for o in ledger.values() if o.study not in known]
    if records or not_done:
        write_cohort(records, out, not_done=not_done, agreement=agreement_rows(records))
    return records, problems


def agreement_rows(records: Sequence[StudyRecord]) -> list[AgreementRow]:
    """Agreement of left and right hip and of neighbouring levels over the records, as the overview shows it."""
    rows = []
    for pair in agreement_in_cohort(records):
        found = pair.agreement
        numbers: dict[str, Any] = {}
        if found is not None:
            # without any variation in one of the two there is no correlation
            numbers = {key: None if value != value else value for key, value in asdict(found).items()}
        rows.append(AgreementRow(pair.first, pair.second, pair.test, pair.profile, pair.studies, **numbers))
    return rows


def job_key(study: Study, settings: Settings) -> str:
    """Hash of what decides a result: the images, the settings and the version of the program."""
    images = sorted(
        f"{frame.identity.series_uid} {frame.sop_instance_uid} {frame.index}"
        for s in study.stacks
        for frame in s.frames
    )
    content = json.dumps([__version__, study.key, images, settings.as_json()], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _work(
    waiting: list[tuple[Study, str]],
    out: Path,
    settings: Settings,
    workers: int,
    scheduler: str | None,
    on_stage: Callable[[str, str], None] | None,
) -> Iterator[Outcome]:
    if scheduler is not None:
        yield from _work_on_dask(waiting, out, settings, scheduler)
    elif workers <= 1 or len(waiting) <= 1:
        for study, job in waiting:
            yield analyse_one(study, out, settings, job, on_stage)
    else:
        share = max(1, (psutil.cpu_count() or 1) // workers)
        shared = replace(settings, threads=settings.threads or share)
        # "spawn" everywhere: a forked child would inherit the thread pools of numerical libraries in a broken state.
        with ProcessPoolExecutor(min(workers, len(waiting)), mp_context=get_context("spawn")) as pool:
            futures = {pool.submit(analyse_one, s, out, shared, job): (s, job) for s, job in waiting}
            try:
                for future in as_completed(futures):
                    study, job = futures[future]
                    error = future.exception()
                    yield future.result() if error is None else _crashed(study, job, error)
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _work_on_dask(waiting: list[tuple[Study, str]], out: Path, settings: Settings, address: str) -> Iterator[Outcome]:
    try:
        from distributed import Client
        from distributed import as_completed as completed
    except ImportError as error:
        raise InputRefused(
            "dask_not_installed",
            "is asked for, but Dask is not installed.",
            subject="--scheduler",
            remedy='Install it with: pip install "openbct[cluster]"',
        ) from error
    try:
        client = Client(address, timeout=20)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputRefused(
            "scheduler_unreachable", f"no Dask scheduler answers at {address}.", subject="--scheduler"
        ) from error
    with client:
        futures = {
            client.submit(analyse_one, s, out.resolve(), settings, job, pure=False): (s, job) for s, job in waiting
        }
        for future in completed(futures):
            study, job = futures[future]
            fault = future.exception()
            yield future.result() if fault is None else _crashed(study, job, fault)


def analyse_one(
    study: Study,
    out: Path,
    settings: Settings,
    job: str,
    on_stage: Callable[[str, str], None] | None = None,
) -> Outcome:
    """Analyse one study into ``out/<key>``; never raises for a fault of the input or of the analysis."""
    key = study_key(study)
    partial = out / f".{key}.partial"
    started = time.perf_counter()
    with _without_library_talk(), _peak_memory_mib() as peak:
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            record = analyse_study(
                study,
                partial,
                settings,
                on_stage=(lambda stage: on_stage(key, stage)) if on_stage is not None else None,
            )
            status, reason, text = _summary(record)
            if status == "done" or not _is_done(out / key):
                _replace_folder(partial, out / key)
            else:
                text += _KEPT
                shutil.rmtree(partial, ignore_errors=True)
        except Refusal as refusal:
            status, reason, text = "refused", refusal.reason, _sentence(refusal)
            shutil.rmtree(partial, ignore_errors=True)
        except KeyboardInterrupt:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        except Exception as error:
            # The evidence stays: a trace with places in the code, without values that could name a patient.
            status, reason = "failed", "internal_error"
            text = f"{type(error).__name__} in {_place(error)}; please report it. The trace is in failure.txt."
            _keep_failure(partial, out / key, error)
    return Outcome(key, status, reason, text, round(time.perf_counter() - started, 2), round(peak[0], 1), job)


def _summary(record: StudyRecord) -> tuple[str, str, str]:
    """Status, reason and one line for the table; a study in which nothing could be measured counts as refused."""
    end = study_end(record)
    if end.status != "done":
        return end.status, end.reason, end.text
    measured = [v for v in record.vertebrae if v.trabecular_hu is not None or v.strength_n is not None]
    parts = []
    spine = record.assessment.spine_vbmd_mg_cm3
    if spine is not None:
        levels = record.assessment.spine_vbmd_levels
        span = levels[0] if len(levels) == 1 else f"{levels[0]}-{levels[-1]}"
        parts.append(f"{span} {spine.value:.0f} ± {spine.uncertainty or 0:.0f} {spine.unit}")
    elif measured:
        hu = [v.trabecular_hu.value for v in measured if v.trabecular_hu is not None]
        parts.append(f"{len(measured)} vertebrae" + (f", {min(hu):.0f}-{max(hu):.0f} HU" if hu else ""))
    grades = [v for v in record.vertebrae if v.fracture is not None and v.fracture.genant_grade >= 2]
    grades = [v for v in grades if not grade_needs_reader(v)]
    parts += [f"{v.level or v.name} fracture grade {v.fracture.genant_grade}" for v in grades if v.fracture is not None]
    scores = [f.t_score for f in record.femora if f.t_score is not None]
    if scores:
        lowest = min(scores, key=lambda s: s.value)
        parts.append(f"hip T {lowest.value:.1f} ± {lowest.uncertainty or 0:.1f}")
    groups: tuple[tuple[Vertebra, ...] | tuple[Femur, ...], ...] = (record.vertebrae, record.femora)
    for group in groups:
        tested = [(s.strength_n.value, s.name) for s in group if s.strength_n is not None]
        if tested:
            newton, name = min(tested)
            parts.append(f"{'weakest ' if len(tested) > 1 else ''}{name.replace('_', ' ')} {newton:.0f} N")
    return "done", "", "; ".join(parts)


def _sentence(refusal: Refusal) -> str:
    """A refusal without its subject, which may be a file name: the ledger and the table are shared."""
    return refusal.detail[:1].upper() + refusal.detail[1:] + (f" {refusal.remedy}" if refusal.remedy else "")


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "unknown place"


def _keep_failure(partial: Path, final: Path, error: BaseException) -> None:
    try:
        if _is_done(final):
            shutil.rmtree(partial, ignore_errors=True)
            partial = final
        partial.mkdir(parents=True, exist_ok=True)
        places = "".join(traceback.format_list(traceback.extract_tb(error.__traceback__)))
        (partial / "failure.txt").write_text(f"{type(error).__name__}\n{places}", encoding="utf-8")
        if partial != final:
            _replace_folder(partial, final)
    except OSError:
        return  # the disk itself may be the fault; the ledger still names the study


def _crashed(study: Study, job: str, error: BaseException) -> Outcome:
    text = f"the worker process ended ({type(error).__name__}), probably for lack of memory. Try again with fewer --workers."
    return Outcome(study_key(study), "failed", "worker_died", text, 0.0, 0.0, job)


def _is_done(folder: Path) -> bool:
    """Whether a folder holds the result of a study in which something was measured."""
    try:
        return _summary(load_record(folder / RECORD))[0] == "done"
    except (RecordUnreadable, OSError):
        return False


def _replace_folder(source: Path, target: Path) -> None:
    """Put `source` in the place of `target`; an old `target` disappears only when the new one is complete."""
    if target.exists():
        old = target.with_name(f".{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        source.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        source.rename(target)


def require_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".openbct-write-test"
        probe.write_text("", encoding="utf-8")
        probe.unlink()
    except OSError as error:
        raise InputRefused(
            "output_not_writable",
            f"cannot be written ({type(error).__name__}).",
            subject=f"output folder '{out.name}'",
            remedy="Choose another folder with -o, or change its permissions.",
        ) from error


def _write_series_table(inventory: Inventory, out: Path) -> None:
    rows: Sequence[dict[str, Any]] = [
        # The description of a NIfTI volume is its file name, which may be that of the patient.
        row | ({"description": ""} if row["modality"] == "NIfTI" else {})
        for row in describe(inventory)
    ]
    if rows:
        with (out / SERIES_TABLE).open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def _last_outcomes(out: Path, *, with_failed: bool = False) -> dict[str, Outcome]:
    """The newest ledger entry of each study; lines that cannot be read (a cut write) are passed over."""
    found: dict[str, Outcome] = {}
    file = out / LEDGER
    if not file.is_file():
        return found
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            entry.pop("finished", None)
            outcome = Outcome(**entry)
        except (json.JSONDecodeError, TypeError):
            continue
        found[outcome.study] = outcome
    # A failure is a fault of this program or of the machine: a second run tries it again.
    return {key: outcome for key, outcome in found.items() if with_failed or outcome.status != "failed"}


def _append_to_ledger(out: Path, outcome: Outcome) -> None:
    line = json.dumps(
        {**asdict(outcome), "finished": datetime.now(UTC).isoformat(timespec="seconds")}, ensure_ascii=False
    )
    with (out / LEDGER).open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")


@contextmanager
def _without_library_talk() -> Iterator[None]:
    """pydicom and highdicom quote malformed values in warnings and logs, and such a value may be the name of a patient."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextmanager
def _peak_memory_mib() -> Iterator[list[float]]:
    """Sample the resident memory of this process; the list holds the largest value seen."""
    process, peak, stop = psutil.Process(), [0.0], threading.Event()

    def watch() -> None:
        while True:
            peak[0] = max(peak[0], process.memory_info().rss / 2**20)
            if stop.wait(0.05):
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
