"""Families beside image classifiers: trained from scratch, pruned, fine-tuned.

family     what they have in common: a network as an ONNX file, data, training, accuracy
citations  graph attention on Cora
passages   an LSTM on the standard library's sources
shapes     a dynamic graph network on point clouds, which are synthetic
pruning    each of them with a quarter of its MACs
"""
