"""ModelDiff: compare two learning algorithms by how they use their training data.

In reading order; a room imports from its own folder or from rooms below it (tests/test_layers.py):

    data/         images, labels, scenes with known truth, and what can be drawn into images
    training/     a learning algorithm as data, and the masks and margins of thousands of its models
      workers/    who runs the tasks of training: processes of this machine, or hosts of a cluster
    method/       the paper: arrays in, arrays out. It knows no run, no file and no notebook
      engines/    fast solvers under the method; each has a slow twin in the tests
    analyses/     what else datamodels tell: Appendix F, removal, selection, predictions …
    clip/         encoders of images and texts, the small CLIP that is trained here, and its words
    formats/      files: masks, margins and scores that others made, and our own
    runs/         a run's folder: what each stage made, from what, and whether it still is
    stages/       one file per notebook: opens what it reads, calls the science, keeps the results
    show/         one file per notebook: the figures and tables of that page; and what pages share
    base/         under everything: places, records, validated mappings, arrays in files, threads
    book/         from executed pages to the HTML book
    command/      the command line: what it is given, what it runs, and what it says
"""

__version__ = "0.2.0"
