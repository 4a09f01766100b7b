"""Random graphs, made by a grammar, and what pruning has to keep of them."""
