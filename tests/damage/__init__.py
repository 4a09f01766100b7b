"""Fuzzing: damaged files through the whole way of the data, in processes that may die of them.

python -m tests.damage --inputs 100000            loading, planning and applying
python -m tests.damage --inputs 1000 --command    the whole command, checks included
"""
