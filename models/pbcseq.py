"""pbcseq: patients of the Mayo Clinic trial of primary biliary cirrhosis at irregular visits.

312 patients and 1,945 visits, 1 to 16 each. Split by patient: 188 to train on, 46 to choose the
recipe by, 78 held out.

Source: the R package survival, data set pbcseq (LGPL, version 2 or later); Fleming and Harrington,
*Counting Processes and Survival Analysis*, 1991, appendix D; Murtaugh et al., Hepatology 20, 1994.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from odedeploy import files
from odedeploy.errors import BadInput, UnknownName, Unusable
from odedeploy.models import WEIGHTS

LOGARITHMIC = ("bili", "chol", "alk.phos", "ast", "platelet", "protime")
"""Values that are positive and skewed."""

LABS = (*LOGARITHMIC, "albumin")
"""What is predicted: mg/dl, mg/dl, U/l, U/ml, 1000/ml, s and g/dl."""

VALUES = (*LABS, "stage", "ascites", "hepato", "spiders", "edema")
"""What a visit gives, some of it missing."""

VISITS = 16
FURTHEST = 4 * 365.25
"""Days from the last visit to the date, at most, of a calibration input; one prefix has more."""

PARTS = {"training": (0, 188), "validation": (188, 234), "held-out": (234, 312)}
"""Places in a seeded order of the patients."""

FILE = "pbcseq.csv"
SHIPPED = "pbcseq-prefixes.npz"
MIRROR = "https://vincentarelbundock.github.io/Rdatasets/csv/survival/pbcseq.csv"
CHECKSUM = "6ef989235f34af8666e06d701a0abe3384d833f7943a4ecf4da11c9aaef6fd32"
"""sha256 of the columns that are read, see ``_digest``."""

FACTS = {
    "name": "pbcseq",
    "source": "R package survival; Fleming and Harrington, Counting Processes and Survival "
    "Analysis, 1991, appendix D",
    "url": MIRROR,
    "licence": "LGPL, version 2 or later",
    "training": "188 of 312 patients, split by patient",
    "held_out": "46 other patients, by which the recipe was chosen",
    "test": "78 other patients: RMSE of the next visit's laboratory values, in standard deviations",
    "calibration": "632 prefixes of the visits of the 124 patients not trained on, and dates up to "
    "four years later",
}


class Patients(NamedTuple):
    """Patients (n, …), visits padded to 16 and missing values 0, in the data's own units.

    ``values`` and ``observed`` (1 where there is a value) are (n, 16, 12), ``day`` since enrolment
    (n, 16), ``patient`` (n, 3) age in years at enrolment, 1 for a woman, 1 for D-penicillamine;
    ``visits`` (n,) counts them and ``number`` (n,) is the data's own.
    """

    values: np.ndarray
    observed: np.ndarray
    day: np.ndarray
    patient: np.ndarray
    visits: np.ndarray
    number: np.ndarray

    def part(self, name: str) -> Patients:
        """The patients of one of ``PARTS``; raises UnknownName for another."""
        if name not in PARTS:
            raise UnknownName("part", name, PARTS)
        order = np.random.default_rng(0).permutation(len(self.number))
        rows = np.sort(order[slice(*PARTS[name])])
        return Patients(*(array[rows] for array in self))


class Prefixes(NamedTuple):
    """Some visits of a patient and a later one (n, …): what a model reads and what it predicts.

    The first five are ``forward``'s arguments, ``date`` (n,) being the day of the later visit;
    ``target`` and ``known`` (n, 7) are the laboratory values then, and which were measured.
    ``owner`` (n,) is the place of the patient.
    """

    values: np.ndarray
    observed: np.ndarray
    day: np.ndarray
    patient: np.ndarray
    date: np.ndarray
    target: np.ndarray
    known: np.ndarray
    owner: np.ndarray

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """Forward's arguments by their names."""
        return {name: getattr(self, name) for name in self._fields[:5]}


def load(folder: Path | None = None) -> Patients:
    """All patients, from ``pbcseq.csv`` or ``pbcseq.csv.gz`` in ``folder``, or fetched once.

    Raises BadInput for a file that is missing, damaged, or not pbcseq.
    """
    path = _fetched() if folder is None else _found(folder)
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()
        rows = list(csv.DictReader(io.StringIO(text)))
        patients = _patients(rows)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, KeyError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as pbcseq ({error}); fetch it again.") from error
    if _digest(patients) != CHECKSUM:
        raise BadInput(f"{path} is not survival's pbcseq: its checksum differs; fetch it again.")
    return patients


def following(patients: Patients, ahead: int = 1) -> Prefixes:
    """Every prefix of every patient's visits with each of the next ``ahead`` visits after it."""
    chosen = [
        (owner, last, later)
        for owner, count in enumerate(patients.visits)
        for last in range(count - 1)
        for later in range(last + 1, min(last + 1 + ahead, count))
    ]
    owner, last, later = np.array(chosen).T
    kept = np.arange(VISITS) <= last[:, None]
    labs = slice(len(LABS))
    return Prefixes(
        patients.values[owner] * kept[..., None],
        patients.observed[owner] * kept[..., None],
        patients.day[owner] * kept,
        patients.patient[owner],
        patients.day[owner, later],
        patients.values[owner, later, labs],
        patients.observed[owner, later, labs],
        owner,
    )


def shipped() -> dict[str, np.ndarray]:
    """The packaged calibration inputs by the names of forward's arguments."""
    with np.load(WEIGHTS / SHIPPED, allow_pickle=False) as content:
        return {name: content[name] for name in Prefixes._fields[:5]}


def ship(patients: Patients, path: Path) -> None:
    """Write the prefixes of the patients not trained on as the .npz that ``shipped`` reads.

    Those whose date is more than ``FURTHEST`` after their last visit are left out.
    """
    parts = [following(patients.part(name)).inputs for name in ("validation", "held-out")]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    near = joined["date"] - joined["day"].max(axis=1) <= FURTHEST
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: array[near] for name, array in joined.items()})
    files.replace(path, buffer.getvalue())


def _patients(rows: list[dict[str, str]]) -> Patients:
    numbers = sorted({int(row["id"]) for row in rows})
    n = len(numbers)
    values, observed = np.zeros((2, n, VISITS, len(VALUES)), np.float32)
    day, patient = np.zeros((n, VISITS), np.float32), np.zeros((n, 3), np.float32)
    visits = np.zeros(n, np.int64)
    for row in sorted(rows, key=lambda row: (int(row["id"]), float(row["day"]))):
        place = numbers.index(int(row["id"]))
        visit = visits[place]
        for i, name in enumerate(VALUES):
            if row[name] != "NA":
                values[place, visit, i], observed[place, visit, i] = float(row[name]), 1
        day[place, visit] = float(row["day"])
        patient[place] = float(row["age"]), row["sex"] == "f", float(row["trt"])
        visits[place] += 1
    return Patients(values, observed, day, patient, visits, np.array(numbers))


def _digest(patients: Patients) -> str:
    content = b"".join(np.ascontiguousarray(array).tobytes() for array in patients)
    return hashlib.sha256(content).hexdigest()


def _found(folder: Path) -> Path:
    candidates = (folder / f"{FILE}.gz", folder / FILE)
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise BadInput(f"{folder} holds no {FILE}.gz; give the folder of pbcseq as CSV.")
    return found


def _fetched() -> Path:
    try:
        import pooch
    except ImportError as error:
        raise Unusable(
            "Fetching pbcseq needs the package pooch; install odedeploy[export] or give --data DIR."
        ) from error
    try:
        place = pooch.os_cache("odedeploy")
        return Path(pooch.retrieve(MIRROR, known_hash=None, fname=FILE, path=place))
    except (OSError, ValueError) as error:
        raise BadInput(
            f"pbcseq could not be fetched ({type(error).__name__}); write it from R with "
            "write.csv(survival::pbcseq, 'pbcseq.csv') and give its folder with --data DIR."
        ) from error
