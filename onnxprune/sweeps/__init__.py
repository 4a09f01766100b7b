"""Many ways to prune one model, tried and compared: cost against accuracy.

grid       which trials: budgets x criteria x options, from a file or from flags
setting    what all trials share: the model, its data
trial      one trial, and one measurement of time, wherever they run
cargo      the files of a setting, to be sent to other machines
backends   where trials run: the cores of this machine, a dask or a ray cluster
driver     all trials of a sweep, each noted in the journal when it is finished
pareto     the front, its knee, the best under a constraint
results    what came out: JSON, CSV
"""
