"""A patient's next laboratory values by the exported latent ODE: NumPy and onnxruntime, no PyTorch.

    odedeploy export patients --tol 1e-2 -o patients.onnx
    python read_patient.py patients.onnx patient.csv 2023-11-16 [DATE ...]

patient.csv holds a visit a row: its date, what was measured (empty where it was not), and the
patient's age at the first visit, sex (f or m) and treatment (1 for D-penicillamine). A figure of
what the model makes of a record, and no medical advice.
"""

import csv
import sys
from datetime import date

import numpy as np

import odedeploy

UNITS = {"bili": "mg/dl", "chol": "mg/dl", "alk.phos": "U/l", "ast": "U/ml",
         "platelet": "1000/ml", "protime": "s", "albumin": "g/dl"}  # fmt: skip
"""In the order in which the model takes them, before the signs."""

VALUES = (*UNITS, "stage", "ascites", "hepato", "spiders", "edema")


def read(file):
    """The first day, and the model's inputs for one patient but the date that is asked for."""
    with open(file, newline="") as lines:
        visits = sorted(csv.DictReader(lines), key=lambda visit: visit["date"])
    first = date.fromisoformat(visits[0]["date"])
    given = [[visit[name] for name in VALUES] for visit in visits]
    days = [(date.fromisoformat(visit["date"]) - first).days for visit in visits]
    patient = [float(visits[0]["age"]), visits[0]["sex"] == "f", float(visits[0]["trt"])]
    inputs = {
        "values": [[float(value or 0) for value in row] for row in given],
        "observed": [[float(value != "") for value in row] for row in given],
        "day": days,
        "patient": patient,
    }
    return first, {name: np.array([each], np.float32) for name, each in inputs.items()}


def main(file, record, *dates):
    model = odedeploy.load(file, threads=1)
    first, inputs = read(record)
    since = first.toordinal() + int(inputs["day"][0, -1])
    for asked in dates:
        day = np.array([(date.fromisoformat(asked) - first).days], np.float32)
        found = model.run({**inputs, "date": day})
        print(f"{asked}, {date.fromisoformat(asked).toordinal() - since} days after the last visit")
        for name, unit in UNITS.items():
            print(f"  {name:9} {found[name.replace('.', '_')][0]:8.2f} {unit}")
    print(model.manifest.promise)


if __name__ == "__main__":
    main(*sys.argv[1:])
