"""What long jobs of many trials have in common: a journal, and how long they will take.

identity   what the results of trials depend on, as a hash
journal    every finished trial on disk: a job that was stopped goes on where it was
forecast   the time that is left, from what the finished trials took
"""
