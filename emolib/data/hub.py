"""What is asked of the Hugging Face Hub: at a revision, tried again where it stumbles, with its refusals in plain words."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import pandas as pd

from emolib.data.dataset import MissingData

WAITS = (2, 8)  # seconds before the second and the third attempt


def tables(source: str, data_files: dict[str, str] | None = None) -> dict[str, pd.DataFrame]:
    """The splits of a set, ID@REVISION or ID:CONFIG@REVISION: pictures left encoded, class numbers as names.

    data_files: {split: pattern of its files}, where the Hub would guess them wrongly. Raises MissingData.
    """
    from datasets import Image, load_dataset

    name, _, revision = source.partition("@")
    name, _, config = name.partition(":")
    if not revision:
        raise MissingData(f"{source} is no file or folder; a set of the Hub is named with its revision, ID@REVISION")
    options = {"revision": revision} | ({"data_files": data_files} if data_files else {})
    try:
        parts = patiently(lambda: load_dataset(name, config or None, **options), name)
    except Exception as error:
        raise MissingData(f"{name} cannot be had from the Hub ({reasons(error)}). {mend(error)}") from error
    found = {}
    for split, rows in parts.items():
        for key, kind in rows.features.items():
            rows = rows.cast_column(key, Image(decode=False)) if isinstance(kind, Image) else rows
        table = found[split] = rows.to_pandas()
        for key, kind in rows.features.items():
            if names := getattr(kind, "names", None):
                table[key] = [names[int(i)] if i is not None and i >= 0 else None for i in table[key]]  # -1, NaN: not labelled
    return found


def patiently(ask: Callable[[], Any], name: str) -> Any:
    """The answer of `ask`, up to three times where the network or the Hub stumbles; a refusal is final."""
    for wait in (*WAITS, None):
        try:
            return ask()
        except Exception as error:
            if wait is None or not stumbled(error):
                raise
            print(f"{name}: {reasons(error)}; once more in {wait} s", file=sys.stderr)
            time.sleep(wait)


def chain(error: BaseException) -> list[BaseException]:
    """An error and those that led to it, the first cause last."""
    found = [error]
    while (earlier := found[-1].__cause__ or found[-1].__context__) and earlier not in found:
        found.append(earlier)
    return found


def status(error: BaseException) -> int | None:
    """The HTTP status with which the Hub refused, if it did."""
    codes = [getattr(getattr(one, "response", None), "status_code", getattr(one, "code", None)) for one in chain(error)]
    return next((code for code in codes if isinstance(code, int)), None)


def stumbled(error: BaseException) -> bool:
    """Whether another attempt may succeed: the connection failed, or the Hub was busy."""
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        return False
    if code := status(error):
        return code == 429 or code >= 500
    words = ("Connect", "Timeout", "Protocol", "IncompleteRead", "ReadError", "LocalEntryNotFound", "Consistency", "gaierror")
    if "Couldn't find cache" in str(error):  # what `datasets` says where the Hub was busy and it looked at home
        return True
    return any(word in kind.__name__ for one in chain(error) for kind in type(one).__mro__ for word in words)


def reasons(error: BaseException) -> str:
    """What went wrong, from what was noticed last to what came first, a line each, without repeats."""
    lines = [f"{type(one).__name__}: {(str(one).strip().splitlines() or [''])[0]:.160}" for one in chain(error)]
    return "; after ".join(list(dict.fromkeys([lines[0], *lines[-2:]])))


def mend(error: BaseException) -> str:
    """What to do about it."""
    code, names = status(error), {type(one).__name__ for one in chain(error)}
    if (code in (401, 403) and "RepositoryNotFoundError" not in names) or "GatedRepoError" in names:
        return "It asks for an account: accept its terms on its page of the Hub, then set HF_TOKEN"
    if "RevisionNotFoundError" in names:
        return "There is no such revision: look for another one among the commits on its page of the Hub"
    if code in (401, 404) or "DatasetNotFoundError" in names:
        return "There is no such repository or file, or it asks for an account (then set HF_TOKEN): look for it on the Hub"
    return "With a network, try again; without one, give the folder of a copy"
