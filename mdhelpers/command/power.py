"""`mdhelpers power`: a study's power, from its parameters file to a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from mdhelpers.base.places import machine
from mdhelpers.base.records import write_json
from mdhelpers.command.files import complete, merge
from mdhelpers.data.sources import expected_sizes
from mdhelpers.stages.power import measure_power, summary
from mdhelpers.stages.study import Study


def measure(
    study: str,
    overlays: list[str],
    parameters: dict[str, Any],
    *,
    folder: Path,
    out: Path | None = None,
    **about: Any,
) -> tuple[pd.DataFrame, Path]:
    """The table of `mdhelpers.stages.power.summary`, and the file that has every row.

    The file is written after each study, so that a stopped call leaves what it has.

    Parameters
    ----------
    study, overlays, parameters
        As of ``mdhelpers run``.
    folder
        Where the runs go.
    out
        The file; one in ``folder`` by default.
    **about
        Of `mdhelpers.stages.power.measure_power`.
    """
    found, _ = complete(merge(study, overlays, parameters), Study)
    path, rows = out or folder / f"{found.study}.json", []
    names = [found.algorithm_1.name, found.algorithm_2.name]
    header = {"study": found.study, "names": names, "machine": machine()}
    header |= dict(zip(("n_train", "n_test"), expected_sizes(found.dataset), strict=False))
    header["spike_in"] = [spike.model_dump() for spike in found.dataset.spike_in]
    for row in measure_power(found, folder=folder, **about):
        rows.append(row)
        table = summary(rows)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, header | {"rows": table.to_dict("records"), "each": rows})
    return table, path
