"""What this machine has, and what that allows. Nothing here asks the network."""

import importlib
import os
import platform
import shutil
import warnings
from pathlib import Path
from typing import Any

from mdhelpers.base.places import (
    cores,
    cpu_name,
    duration,
    free_bytes,
    in_words,
    memory_bytes,
    package_version,
    project_root,
    resolve,
    shown,
)

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WEIGHTS = ("*.safetensors", "*.bin", "*.pt")
DEFAULT = "augmentation"
COMFORTABLE = 4e9  # bytes of memory: the default study stays below


def examine() -> dict[str, Any]:
    """Return the facts: versions, cores, bytes of memory and disk, and where things were found."""
    runs = resolve("runs")
    return {
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "cores": cores(),
        "memory_bytes": memory_bytes(),
        "free_disk_bytes": free_bytes(runs),
        "runs_dir": str(runs),
        "torch": package_version("torch"),
        "gpu": find_gpu(),
        "ffcv": find_ffcv(),
        "clip_weights": find_clip_weights(),
        "data": find_data(),
        "chromium": find_browser(),
        "jupyter_book": package_version("jupyter-book"),
        "studies": estimates(),
    }


def find_gpu() -> dict[str, Any]:
    """Return the first CUDA device and its bytes of memory, or why there is none."""
    try:
        import torch
    except Exception as error:  # a broken installation raises many kinds
        return {"name": None, "why": f"torch does not import: {_first_line(error)}"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns where a driver is too old; said below
        available = torch.cuda.is_available()
    if not available:
        return {"name": None, "why": "torch sees no CUDA device"}
    properties = torch.cuda.get_device_properties(0)
    count = torch.cuda.device_count()
    return {"name": properties.name, "memory_bytes": properties.total_memory, "count": count}


def find_ffcv() -> dict[str, Any]:
    """Return ffcv's version, or why it does not import."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("ffcv")
    except ModuleNotFoundError as error:
        if error.name == "ffcv":
            return {"version": None, "why": "not installed: pip install 'mdhelpers[ffcv]'"}
        return {"version": None, "why": f"does not import: {_first_line(error)}"}
    except Exception as error:  # a missing system library raises OSError or ImportError
        return {"version": None, "why": f"does not import: {_first_line(error)}"}
    return {"version": package_version("ffcv")}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def hub_cache() -> Path:
    """Return where Hugging Face's libraries keep what they downloaded."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()


def find_clip_weights() -> list[str]:
    """Return the CLIP models whose weights lie in the cache; none is downloaded."""
    models = sorted(hub_cache().glob("models--*"))
    clips = [model for model in models if "clip" in model.name.lower()]
    return [
        model.name.removeprefix("models--").replace("--", "/")
        for model in clips
        if any(file.exists() for glob in WEIGHTS for file in model.glob(f"snapshots/*/{glob}"))
    ]


def find_data() -> dict[str, str | None]:
    """Return where data sets lie: CIFAR-10 as torchvision unpacks it, and folders of images."""
    root = project_root() / "data"
    cifar = root / "cifar-10-batches-py"
    folders = [
        folder
        for folder in ([root, *root.iterdir()] if root.is_dir() else [])
        if (folder / "train").is_dir() and (folder / "test").is_dir()
    ]
    return {
        "cifar10": shown(cifar) if cifar.is_dir() else None,
        "image_folders": ", ".join(map(shown, sorted(folders))) or None,
    }


def find_browser() -> str | None:
    """Return a Chromium for the tests that open the book: the system's, or playwright's."""
    on_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if on_path:
        return on_path
    place = os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or "~/.cache/ms-playwright"
    own = sorted(Path(place).expanduser().glob("chromium*/*/*chrom*"))
    return next((str(file) for file in own if os.access(file, os.X_OK) and file.is_file()), None)


def estimates() -> dict[str, Any]:
    """Return the estimated models, seconds and bytes of the default study, by a short trial."""
    try:
        from mdhelpers.command.estimates import estimate
        from mdhelpers.stages.study import Study
    except ImportError:
        return {}
    from mdhelpers.command.files import complete, known_studies, merge

    if DEFAULT not in known_studies():
        return {}
    return {DEFAULT: estimate(complete(merge(DEFAULT), Study)[0])}


def report(found: dict[str, Any]) -> str:
    """Return the facts as a table, then what they allow, in plain words."""
    rows = _rows(found)
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    return "\n".join([*lines, "", "What that allows", *(f"- {line}" for line in allows(found))])


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    gpu, ffcv, data = found["gpu"], found["ffcv"], found["data"]
    memory = in_words(found["memory_bytes"]) if found["memory_bytes"] else "unknown"
    torch = found["torch"] or "not installed"
    return [
        ("Python", f"{found['python']}, torch {torch}"),
        ("Processor", f"{found['cpu']}, {found['cores']} cores"),
        ("Memory", memory),
        ("GPU", _gpu(gpu) if gpu["name"] else f"none: {gpu['why']}"),
        ("Disk", f"{in_words(found['free_disk_bytes'])} free at {found['runs_dir']}"),
        ("ffcv", ffcv["version"] or ffcv["why"]),
        ("CLIP weights", ", ".join(found["clip_weights"]) or f"none in {hub_cache()}"),
        ("CIFAR-10", data["cifar10"] or "not in data/"),
        ("Image folders", data["image_folders"] or "none in data/"),
        ("Chromium", found["chromium"] or "none"),
        ("Jupyter Book", found["jupyter_book"] or "not installed: pip install 'mdhelpers[book]'"),
    ]


def _gpu(gpu: dict[str, Any]) -> str:
    several = f"{gpu['count']} × " if gpu["count"] > 1 else ""
    return f"{several}{gpu['name']}, {in_words(gpu['memory_bytes'])}"


def allows(found: dict[str, Any]) -> list[str]:
    """Return what can be done on such a machine, one sentence each."""
    training = (
        f"Training runs on the GPU ({found['gpu']['name']}): `device: auto` takes it."
        if found["gpu"]["name"]
        else f"Training runs on the processor, {found['cores']} models at a time."
    )
    low = found["memory_bytes"] and found["memory_bytes"] < COMFORTABLE
    return [
        training,
        *(
            f"Study {n}: {e['models']} models, about {duration(e['seconds'])}, "
            f"{in_words(e['bytes'])} of disk."
            for n, e in found["studies"].items()
        ),
        *(["Memory is under 4 GB: set `workers: 1`, or use the smoke profile."] if low else []),
        "Large images are read through ffcv."
        if found["ffcv"]["version"]
        else "Images are held in memory; without ffcv, large ones are slow. Tests of ffcv skip.",
        "Captions: the small CLIP that the book trains works offline"
        + (
            f"; also {', '.join(found['clip_weights'])}."
            if found["clip_weights"]
            else ". Real photographs need weights: a model's name with a network, or a local file."
        ),
        "CIFAR-10 is here."
        if found["data"]["cifar10"]
        else "CIFAR-10 is downloaded by the first study that names it, given a network.",
        "Tests that open the book in a browser run."
        if found["chromium"]
        else "Tests that open the book in a browser skip: no Chromium was found.",
    ]
