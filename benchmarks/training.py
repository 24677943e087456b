"""Models a minute on a CPU: mdhelpers, the usual script and a tight loop, taking turns in one run.

All train the same network with the same recipe on the same subsets of the same generated scenes,
and are judged on the same test images (`training_ways` holds the other two). Other programs of
the machine disturb such a measurement. So the ways take turns, each after a measurement of the
cores' fp32 matrix products, medians are compared, and single-threaded ways by the seconds of a
core that a model costs, which on a machine with nothing else to do are those of the clock. The
start of a way's processes is told apart.

    python benchmarks/training.py --quick --out training.json
"""

if __name__ == "__main__":
    # not at the top: the other ways' processes import this file, and need none of it
    from training_ways.run import main

    main()
