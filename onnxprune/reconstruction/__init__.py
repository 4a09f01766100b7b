"""Reconstruction: the accuracy that pruning lost, won back without training.

Forward passes and least squares only. A pruned model is walked in graph order; each layer that
reads what was cut is refitted so that, fed by its own pruned and refitted predecessors, it gives
what the original gives at the channels that are left.

| file | idea |
| --- | --- |
| `operators` | an operator as a matrix product |
| `sites` | which nodes are refitted, and where their results count |
| `reached` | which tensors a choice changes at all |
| `store`, `segments` | activations; running a model piece by piece, each node once |
| `problem`, `gram`, `solve`, `relu` | one site's least-squares problem and its solution |
| `parts`, `writing` | weights in and out of a ModelProto |
| `walk` | one pass in graph order |
| `consumers`, `eliminate` | what reads a group; in which order its channels can go |
| `probes`, `sensitivity`, `rounds` | what that costs the outputs; widths for a budget; in rounds |
| `records`, `noted` | what was done, on disk, for a job that is stopped |
| `outcome` | the whole job |
"""

from .outcome import Outcome, choose_and_reconstruct, reconstruct
from .records import Kept, keeping
from .rounds import Rounds

__all__ = ["Kept", "Outcome", "Rounds", "choose_and_reconstruct", "keeping", "reconstruct"]
