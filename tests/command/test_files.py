import nbformat
import papermill
import papermill.cli
import pytest
from small_project import TinyStudy, make_project, write_notebook

from mdhelpers.command import files
from mdhelpers.runs import notebooks
from mdhelpers.runs.run import StudyError


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path))
    return tmp_path


def test_later_files_and_single_values_replace_top_level_keys(project):
    (project / "lr.yaml").write_text("algorithm: {lr: 0.3}\n")
    merged = files.merge(
        "parameters/tiny.yaml", ["parameters/smoke.yaml", "lr.yaml"], {"n_train": 7}
    )
    assert merged == {
        "study": "tiny",
        "profile": "smoke",
        "n_models": 2,
        "n_train": 7,
        "algorithm": {"lr": 0.3},
    }


def test_a_file_may_build_on_another(project):
    (project / "mine").mkdir()
    (project / "parameters" / "whole.yaml").write_text("study: whole\nn_models: 3\nn_train: 9\n")
    (project / "mine" / "less.yaml").write_text("base: whole\nn_models: 4\n")
    (project / "mine" / "least.yaml").write_text("base: less\nn_train: 5\n")
    assert files.merge("mine/less.yaml") == {"study": "less", "n_models": 4, "n_train": 9}
    assert files.merge("mine/least.yaml") == {"study": "least", "n_models": 4, "n_train": 5}
    assert files.merge("mine/least.yaml", ["smoke"])["n_models"] == 2
    assert files.merge("whole")["study"] == "whole"


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("turn", r"turn\.yaml builds on itself"),
        ("tinny", r"no parameters file tinny\. Did you mean"),
        ("[tiny]", r"base is \['tiny'\]\. Give the name"),
        ('""', "base is ''. Give the name"),
    ],
)
def test_a_base_that_cannot_be_is_named(project, base, message):
    (project / "parameters" / "turn.yaml").write_text(f"base: {base}\nn_models: 3\n")
    with pytest.raises(StudyError, match=message):
        files.read_parameters("turn")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: the key 'a' is given twice"),
        ("b:\n  lr: 1\n  lr: 2\n", "line 3: the key 'lr' is given twice"),
        ("- 1\n- 2\n", "holds list, not parameters"),
        ("1: x\n", "not parameters"),
        ("a: [1, 2\n", "is not YAML"),
    ],
)
def test_files_that_are_no_parameters_are_named(project, text, message):
    (project / "parameters" / "bad.yaml").write_text(text)
    with pytest.raises(StudyError, match=message) as error:
        files.read_parameters("parameters/bad.yaml")
    assert "parameters/bad.yaml" in str(error.value)


def test_an_empty_file_changes_nothing_and_dates_are_texts(project):
    (project / "parameters" / "empty.yaml").write_text("# nothing\n")
    (project / "parameters" / "date.yaml").write_text("day: 2026-11-21\n")
    assert files.read_parameters("empty") == {}
    assert files.read_parameters("date") == {"day": "2026-11-21"}


def test_a_missing_file_is_answered_with_those_there_are(project):
    assert files.find_parameters("tiny") == project / "parameters" / "tiny.yaml"
    with pytest.raises(StudyError, match=r"Did you mean parameters/tiny\.yaml\? Those of this"):
        files.find_parameters("parameters/tinny.yaml")


@pytest.mark.parametrize("text", ["3", "1e-3", "True", "None", "word", "0.5", "two words"])
def test_values_are_read_as_papermill_reads_them(text):
    assert files.scalar(text) == papermill.cli._resolve_type(text)


def test_values_may_be_yaml_too():
    assert files.scalar("[1, 2]") == [1, 2]
    assert files.scalar("{lr: 0.1}") == {"lr": 0.1}
    assert files.scalar("true") is True
    with pytest.raises(StudyError, match="not a value in YAML"):
        files.scalar("[1, 2")


@pytest.mark.usefixtures("project")
def test_known_studies_carry_their_first_comment():
    assert files.known_studies() == {"smoke": "A quick look", "tiny": "A tiny study"}


@pytest.mark.usefixtures("project")
def test_notebooks_are_found_in_order_with_what_they_declare():
    found = notebooks.find_notebooks()
    assert [notebook.name for notebook in found] == ["01_data", "02_train", "03_fit"]
    common = ("study", "profile", "runs_dir")
    assert [notebook.declares for notebook in found] == [
        (*common, "n_train"),
        (*common, "n_models"),  # papermill.inspect_notebook overlooks this one
        (*common, "algorithm"),
    ]


def test_papermill_inspection_agrees_where_it_can_read_the_line(project):
    notebook = notebooks.read_notebook(project / "notebooks" / "01_data.ipynb")
    inspected = papermill.inspect_notebook(_with_kernel(notebook.path))
    assert set(inspected) == set(notebook.declares)


def _with_kernel(path):
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python"}
    nbformat.write(notebook, path)
    return path


def test_source_digest_sees_cells_and_not_outputs(project):
    path = project / "notebooks" / "01_data.ipynb"
    before = notebooks.read_notebook(path).source
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", text="tiny\n")]
    notebook.cells[-1].execution_count = 3
    nbformat.write(notebook, path)
    assert notebooks.read_notebook(path).source == before
    notebook.cells[-1].source += "\nprint(2)"
    nbformat.write(notebook, path)
    assert notebooks.read_notebook(path).source != before


def test_unreadable_notebooks_are_named(project):
    write_notebook(project / "notebooks" / "04_bad.ipynb", "n: int = = 3")
    with pytest.raises(StudyError, match="line 1 of the parameters cell is not Python"):
        notebooks.find_notebooks()
    (project / "notebooks" / "04_bad.ipynb").write_text("{")
    with pytest.raises(StudyError, match=r"04_bad\.ipynb cannot be read as a notebook"):
        notebooks.find_notebooks()
    with pytest.raises(StudyError, match="holds no notebook"):
        notebooks.find_notebooks(project / "parameters")


def test_unknown_keys_are_refused_with_the_nearest_name():
    with pytest.raises(StudyError) as error:
        files.refuse_unknown(["n_model", "zzz", "seed"], ["n_models", "seed"])
    assert "'n_model': no notebook declares it. Did you mean 'n_models'?" in str(error.value)
    assert "'zzz'" in str(error.value)
    files.refuse_unknown(["seed"], ["n_models", "seed"])


def test_validation_names_the_value_in_words():
    with pytest.raises(StudyError) as error:
        files.complete({"study": "t", "algorithm": {"lr": -1}, "n_models": "many"}, TinyStudy)
    assert "algorithm.lr: Input should be greater than 0, got -1" in str(error.value)
    assert "n_models: Input should be a valid integer" in str(error.value)


def test_defaults_are_filled_in_as_plain_values():
    study, values = files.complete({"study": "t", "shown": 3}, TinyStudy)
    assert values["algorithm"] == {"lr": 0.1}
    assert values["shown"] == 3  # declared by a notebook only: passed on as it is
    assert study.n_models == 4


def test_a_key_within_a_mapping_is_told_to_be_given_with_it():
    with pytest.raises(StudyError, match=r"dataset is given as a whole.*-p dataset '{size: …}'"):
        files.refuse_unknown(["dataset.size"], ["dataset"])


@pytest.mark.parametrize(
    ("key", "place"), [("n_train", "dataset"), ("batch_size", "algorithm_1 and algorithm_2")]
)
def test_a_key_that_stands_within_mappings_is_told_where(key, place):
    with pytest.raises(StudyError, match=f"It is a key within {place}"):
        files.refuse_unknown([key], ["dataset", "algorithm_1", "algorithm_2"])
