"""A project of three small notebooks for the tests of the runner and the command line."""

import nbformat
from pydantic import BaseModel, ConfigDict, Field

COMMON = 'study: str = "tiny"\nprofile: str = "full"\nruns_dir: str = "runs"\n'
CELLS = {
    "01_data": "n_train: int = 10\n",
    "02_train": "n_models: int | None = 4  # a union, and a second = in the line\n",
    "03_fit": 'algorithm: dict = {\n    "lr": 0.1,\n}\n',
}


class Algorithm(BaseModel):
    model_config = ConfigDict(extra="forbid")
    lr: float = Field(default=0.1, gt=0)


class TinyStudy(BaseModel):
    """Validates what the notebooks declare; `unused` is declared by none."""

    model_config = ConfigDict(extra="forbid")
    study: str
    profile: str = "full"
    runs_dir: str = "runs"
    n_train: int = 10
    n_models: int = 4
    algorithm: Algorithm = Algorithm()
    unused: int = 0


def write_notebook(path, parameters, *code):
    cells = [nbformat.v4.new_markdown_cell(f"# {path.stem}")]
    tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    cells += [tagged, *map(nbformat.v4.new_code_cell, code)]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


def make_project(folder):
    for name in ("notebooks", "parameters"):
        (folder / name).mkdir()
    (folder / "pyproject.toml").write_text('[project]\nname = "mdhelpers"\n')
    (folder / "parameters" / "tiny.yaml").write_text("# A tiny study\nn_models: 8\n")
    (folder / "parameters" / "smoke.yaml").write_text(
        "# A quick look\nprofile: smoke\nn_models: 2\nn_train: 5\n"
    )
    for name, cell in CELLS.items():
        write_notebook(folder / "notebooks" / f"{name}.ipynb", COMMON + cell, "print(study)")
    return folder
