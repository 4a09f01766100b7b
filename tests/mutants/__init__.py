"""Mutation testing: the program changed in one place, and whether a test fails.

python -m tests.mutants                            all modules and rule tables (hours)
python -m tests.mutants --module axes --count 50   fifty mutants of one module, drawn by a seed
"""
